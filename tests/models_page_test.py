"""docs/models.md: its commands parse, its table is what is supported, its gin file builds."""

import re
import shlex
from pathlib import Path

import gin
import pytest

from cascade_jax.cli import export_checkpoint, gin_main, import_checkpoint, model_gin, train
from cascade_jax.interop import hf_families
from cascade_jax.losses import variants
from cascade_jax.models.config import DecoderConfig
from cascade_jax.training import start

PAGE = (Path(__file__).parents[1] / "docs/models.md").read_text()
CONFIG = DecoderConfig(vocab_size=64, embed_dim=8, num_layers=2, num_heads=2, num_kv_heads=1,
                       head_dim=4, mlp_dim=8)  # fmt: skip


def commands(verb: str) -> list[list[str]]:
    """The arguments of each `cascade-jax <verb>` in the page's blocks of bash."""
    text = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, re.S)).replace("\\\n", " ")
    lines = (line for line in text.splitlines() if line.startswith(f"cascade-jax {verb} "))
    return [shlex.split(line)[2:] for line in lines]


def test_every_pair_has_its_commands():
    downloads = re.findall(r"^hf download (\S+) --local-dir (\S+)$", PAGE, re.M)
    imported = [import_checkpoint.parse(arguments) for arguments in commands("import")]
    assert [config.path for config in imported] == [folder for _, folder in downloads]
    assert len({config.out for config in imported}) == len(imported)
    rows = PAGE.split("## Public pairs")[1].split("\n## ")[0]
    named = set(re.findall(r"[\w-]+/[\w.-]+", " ".join(re.findall(r"^\|.*\|$", rows, re.M))))
    assert named and named <= {name for name, _ in downloads}


def test_the_families_are_those_supported():
    table = PAGE.split("## What loads")[1].split("\n## ")[0]
    cells = [row.split(" | ")[1] for row in re.findall(r"^\|.*\|$", table, re.M)[2:]]
    named = {name for cell in cells for name in cell.split(", ")}
    assert named == {*hf_families.FAMILIES, hf_families.GEMMA3_WITH_IMAGES}


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    gin.clear_config(clear_constants=True)


def test_the_pair_of_the_page_builds_and_is_exported(in_folder):
    (text,) = re.findall(r"```\n# my_gemma\.gin\n(.*?)```", PAGE, re.S)
    (in_folder / "my_gemma.gin").write_text(text)
    for folder, macro in (("runs/gemma_1b", "LARGE"), ("runs/gemma_270m", "SMALL")):
        (in_folder / folder).mkdir(parents=True)
        (in_folder / folder / "model.gin").write_text(model_gin.text(CONFIG, macro, "a model"))
    (arguments,) = commands("train")
    config = gin_main.parse(train.CONFIG, arguments)
    (run,) = config.runs
    assert run.model == run.teacher == CONFIG and run.teacher_run == "runs/gemma_1b"
    assert run.start == start.FromRun("runs/gemma_270m")
    assert run.loss == variants.CATDist() and run.steps == 10000
    assert run.data.vocabulary.startswith("runs/gemma_270m/")
    (arguments,) = commands("export")
    exported = export_checkpoint.parse(arguments)
    assert exported.run == f"{config.output_dir}/{run.name}"
    assert run.data.vocabulary == f"{exported.tokenizer}/tokenizer.json"
