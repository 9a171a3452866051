"""docs/models.md: its commands parse, its table is what is supported, its gin file builds."""

import ast
import dataclasses
import re
import shlex
from pathlib import Path

import gin
import pytest

from cascade_jax.cli import (
    export_checkpoint,
    flags,
    gin_config,
    import_checkpoint,
    model_gin,
    train,
)
from cascade_jax.interop import hf_families
from cascade_jax.losses import variants
from cascade_jax.models import lora, shallow
from cascade_jax.models.config import DecoderConfig
from cascade_jax.runs import start

PAGE = (Path(__file__).parents[1] / "docs/models.md").read_text()
CONFIG = DecoderConfig(vocab_size=64, embed_dim=16, num_layers=2, num_heads=2, num_kv_heads=1,
                       head_dim=16, mlp_dim=8)  # fmt: skip


def commands(verb: str) -> list[list[str]]:
    """The arguments of each `cascade-jax <verb>` in the page's blocks of bash."""
    text = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, re.S)).replace("\\\n", " ")
    lines = (line for line in text.splitlines() if line.startswith(f"cascade-jax {verb} "))
    return [shlex.split(line)[2:] for line in lines]


def test_every_pair_has_its_commands():
    imported = [flags.parse(import_checkpoint.FLAGS, arguments) for arguments in commands("import")]
    own = [config for config in imported if config.layers is not None or "mine" in config.path]
    assert [(config.layers, config.macro) for config in own] == [(10, "SMALL"), (None, "LARGE")]
    downloads = re.findall(r"^hf download (\S+) --local-dir (\S+)$", PAGE, re.M)
    assert len({config.out for config in imported}) == len(imported)
    paths = [config.path for config in imported if config not in own]
    assert paths == [folder for _, folder in downloads]
    rows = PAGE.split("## Public pairs")[1].split("\n## ")[0]
    named = set(re.findall(r"[\w-]+/[\w.-]+", " ".join(re.findall(r"^\|.*\|$", rows, re.M))))
    assert named and named <= {name for name, _ in downloads}


def test_the_families_are_those_supported():
    table = PAGE.split("## Supported families")[1].split("\n## ")[0]
    cells = [row.split(" | ")[1] for row in re.findall(r"^\|.*\|$", table, re.M)[2:]]
    named = {name for cell in cells for name in cell.split(", ")}
    assert named == {*hf_families.FAMILIES, hf_families.GEMMA3_WITH_IMAGES}


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    gin.clear_config(clear_constants=True)


def lay_out_pair(folder):
    (text,) = re.findall(r"```\n# my_gemma\.gin\n(.*?)```", PAGE, re.S)
    (folder / "my_gemma.gin").write_text(text)
    for name, macro in (("runs/gemma_1b", "LARGE"), ("runs/gemma_270m", "SMALL")):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.gin").write_text(model_gin.text(CONFIG, macro, "a model"))


def test_the_pair_of_the_page_builds_and_is_exported(in_folder):
    lay_out_pair(in_folder)
    arguments, *_ = commands("train")
    config = gin_config.parse(train.CONFIG, arguments)
    (run,) = config.runs
    assert run.model == run.teacher == CONFIG and run.teacher_run == "runs/gemma_1b"
    assert run.start == start.FromRun("runs/gemma_270m")
    assert run.loss == variants.CATDist() and run.steps == 10000
    assert run.data.vocabulary.startswith("runs/gemma_270m/")
    (arguments,) = commands("export")
    exported = flags.parse(export_checkpoint.FLAGS, arguments)
    assert exported.run == f"{config.output_dir}/{run.name}"
    assert run.data.vocabulary == f"{exported.tokenizer}/tokenizer.json"


def test_the_pair_of_the_page_builds_with_lora(in_folder):
    lay_out_pair(in_folder)
    *_, arguments = commands("train")
    (run,) = gin_config.parse(train.CONFIG, arguments).runs
    assert run.start == start.FromRun("runs/gemma_270m") and run.teacher_run == "runs/gemma_1b"
    stated = dict(re.findall(r"^\| (LORA_\w+) \| `?([^;`|]+?)`?(?:;| \|)", PAGE, re.M))
    assert {name: ast.literal_eval(value) for name, value in stated.items()} == {
        "LORA_RANK": lora.Lora().rank,
        "LORA_TARGETS": list(lora.Lora().targets),
        "LORA_ALPHA": lora.Lora().alpha,
    }
    assert run.lora == lora.Lora(rank=16)
    assert not run.optimizer.multiply_by_parameter_scale


def layers_experiment(folder, *arguments):
    """The page's experiment of one model, built with more bindings behind it."""
    blocks = re.findall(r"```\n(# mine\.gin\n.*?|small/.*?)```", PAGE, re.S)
    (folder / "mine.gin").write_text(blocks[0])
    (folder / "small.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        "from cascade_jax.models import shallow\nfrom cascade_jax.runs import start\n"
        "from cascade_jax.training import experiment\n" + blocks[1].replace("small/", "xent/")
    )
    (folder / "runs/mine").mkdir(parents=True)
    deep = dataclasses.replace(CONFIG, num_layers=12, sliding_window=4,
                               attention_kinds=("sliding", "sliding", "full"))  # fmt: skip
    (folder / "runs/mine/model.gin").write_text(model_gin.text(deep, "LARGE", "a model"))
    return deep, gin_config.parse(train.CONFIG, ["--gin_file=mine.gin", *arguments]).runs


def test_the_experiment_of_one_model_builds(in_folder):
    deep, (teacher, *students) = layers_experiment(in_folder, "--gin_file=small.gin")
    assert teacher.model == deep and teacher.start == start.FromRun("runs/mine")
    assert teacher.lora == lora.Lora() and not teacher.optimizer.multiply_by_parameter_scale
    assert [run.model.num_layers for run in students] == [6, 2, 2, 2]
    for run in students:
        assert run.lora is None and run.optimizer.multiply_by_parameter_scale
        assert run.teacher == deep and run.teacher_run == "teacher"
        depth = run.model.num_layers
        assert run.start == start.FromLayers("teacher", deep, layers=depth)
        chosen = shallow.evenly_spaced(depth, 12)
        kinds = [deep.attention_kind(layer) for layer in chosen]
        assert [run.model.attention_kind(place) for place in range(depth)] == kinds


def test_students_are_layers_of_the_model_from_before_it_was_tuned(in_folder):
    macro = "--gin.LAYERS_RUN=%PRETRAINED_TEACHER"
    _, (teacher, *students) = layers_experiment(in_folder, macro, "--gin.STUDENT_LAYERS=[1, 4]")
    assert {run.start.run for run in students} == {"runs/mine"}
    assert {tuple(run.start.layers) for run in students} == {(1, 4)}
    assert {run.model.num_layers for run in students} == {2} and teacher.lora is not None
