"""docs/models.md as a user follows it: a pair out of one folder, with and without chat template."""

import json
import re
import shlex
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers
from flax import linen as nn
from tokenizers import decoders, models, pre_tokenizers, trainers

from cascade_jax import records
from cascade_jax.cli import import_checkpoint, main
from cascade_jax.interop import hf
from cascade_jax.models import families
from cascade_jax.models.config import DecoderConfig
from cascade_jax.runs import checkpoints

pytestmark = pytest.mark.medium

PAGE = (Path(__file__).parents[1] / "docs/models.md").read_text()
MODEL = DecoderConfig(300, 16, 4, 2, 1, 8, 16, bos_id=1)
SPECIAL = ["<pad>", "<s>", "</s>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# As the page has it, but for the time that it takes.
SHORTER = {
    "TEACHER_STEPS": 2, "STUDENT_STEPS": 2, "WARMUP_STEPS": 1, "BATCH_SIZE": 8, "EVAL_BATCHES": 1,
    "MIXTURE": "'demo_last_v1'", "CACHE_ROWS": 0, "ONLY": "['teacher', 'cat_dist']",
    "NAMES": "['cat_dist']", "LORA_RANK": 2,
}  # fmt: skip


def write_folder(folder):
    """A small random model, as transformers saves one, and the tokenizer of a chat model."""
    shapes, rng = nn.unbox(families.parameter_shapes(MODEL)), np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    hf.save(folder, MODEL, params)
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(["<user> last <assistant>"], trainer)
    made.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    named["chat_template"] = TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(named))


def commands(is_chat):
    """The arguments of the page's three commands, train and collect with a chat template or not."""
    section = PAGE.split("## One model as a pair")[1].split("\n## ")[0]
    first, second = re.findall(r"```bash\n(.*?)```", section, re.S)[1:]
    lines = first.strip().splitlines()
    if is_chat:
        lines[1:] = second.strip().replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines]


# Without a template the commands are those of tests/cli/import_test.py and the other experiments.
@pytest.mark.parametrize("is_chat", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_pair_of_one_folder(is_chat, tmp_path, monkeypatch, capsys):
    if is_chat:
        pytest.importorskip("jinja2")  # pip install 'cascade-jax[chat]'
    monkeypatch.chdir(tmp_path)
    # Saves the seconds of a process that imports TensorFlow.
    monkeypatch.setattr(import_checkpoint, "facts_apart", import_checkpoint.facts)
    write_folder(Path("models/mine"))
    (text,) = re.findall(r"```\n(# mine\.gin\n.*?)```", PAGE, re.S)
    Path("mine.gin").write_text(text)
    shorter = [f"--gin.{name}={value}" for name, value in SHORTER.items()]
    imported, train, collect = commands(is_chat)
    assert [imported[0], train[0], collect[0]] == ["import", "train", "collect"]
    assert main.main(imported) == 0, capsys.readouterr().err
    assert main.main([*train, *shorter]) == 0, capsys.readouterr().err
    assert main.main([*collect, *shorter, "--limit=3"]) == 0, capsys.readouterr().err
    folder = Path("runs/mine_chat" if is_chat else "runs/mine_layers")
    table = records.read(folder / "records/validation/cat_dist.parquet")
    assert len(table) == 3
    student, teacher = (checkpoints.config_of(folder / run) for run in ("cat_dist", "teacher"))
    assert student["model"]["num_layers"] == 2 and student["lora"] is None
    assert teacher["model"]["num_layers"] == 4 and teacher["lora"]["rank"] == 2
    assert ("-chat-" in student["vocabulary_fingerprint"]) == is_chat
    # What was trained one way is not read another way.
    others = commands(not is_chat)[2][1:]
    spec = "runs/mine/tokenizer/tokenizer.json" + "?chat_template=default" * (not is_chat)
    others = [*others, f"--gin.OUTPUT_DIR='{folder}'", f"--gin.VOCABULARY='{spec}'"]
    capsys.readouterr()
    assert main.main(["collect", *others, *shorter, "--limit=3"]) == 2
    assert "not the same chat template" in capsys.readouterr().err
