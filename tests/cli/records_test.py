"""cascade-jax records: its help, its flags, one line for a mistake."""

import json
import re
import shlex

import pytest

from cascade_jax import records
from cascade_jax.cli import main
from cascade_jax.cli import records as command
from cascade_jax.records.external import from_jsonl

LINE = {
    "id": "q1",
    "target": "Paris",
    "student": {"answer": "Paris", "log_probs": [-0.1]},
    "teacher": {"answer": "Paris"},
}


def write(folder, *changes):
    """A table, a line for each change to a good one."""
    file = folder / "table.jsonl"
    rows = [LINE | {"id": f"q{i}"} | change for i, change in enumerate(changes or ({},))]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def from_table(folder, *changes, more=()):
    argv = ["records", "from-jsonl", "--student", write(folder, *changes), "--metric", "accuracy"]
    argv += ["--name=small", "--mixture=m", "--split=test", "--student_parameters=1.5B"]
    argv += ["--teacher_parameters=7e10", "--output", str(folder / "out.parquet"), *more]
    return main.main(argv)


def test_the_help_names_every_flag_with_an_example():
    text = command.flags().format_help()
    flags = re.findall(r"^  --(\w+)", text, re.M)
    own = {*command.WithoutTextConfig.__dataclass_fields__, "records"}
    assert set(flags) == {*from_jsonl.FromJsonlConfig.__dataclass_fields__, *own}
    for described in re.split(r"^  --", text, flags=re.M)[1:]:
        assert re.search(r"e\.g\.\s+--", described), described
    for name in from_jsonl.METRICS:
        assert re.search(rf"\b{name}\b", text)


def test_the_examples_of_the_help_parse():
    lines = command.HELP.replace("\\\n", " ").splitlines()
    examples = [shlex.split(line) for line in lines if line.startswith("  cascade-jax")]
    configs = [command.parse(argv[2:]) for argv in examples]
    assert [type(config).__name__ for config in configs] == [
        "FromJsonlConfig",
        "ToJsonlConfig",
        "FromJsonlConfig",
        "WithoutTextConfig",
    ]
    assert configs[0].student_parameters == 1e9 and configs[0].teacher_parameters == 70e9


def test_it_says_what_it_made(tmp_path, capsys):
    status = from_table(
        tmp_path, {}, {"student": {"answer": "", "log_probs": []}}, more=["--empty=drop"]
    )
    assert status == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{tmp_path}/out.parquet: 1 examples, student from table, teacher from table",
        "dropped 1 examples with an empty answer: q1",
    ]
    read = records.read(tmp_path / "out.parquet")
    assert read.student_flops_per_token[0] == 3e9 and read.metadata["teacher_parameters"] == 7e10
    out = tmp_path / "again.jsonl"
    assert main.main(["records", "to-jsonl", "--records", read.source, "--output", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 1 rows\n"
    assert json.loads(out.read_text().splitlines()[1])["student"]["log_probs"] == [-0.1]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "'' is not one of from-jsonl, to-jsonl"),
        (["from-json"], "'from-json' is not one of .*did you mean 'from-jsonl'"),
        (["from-jsonl", "--output=x"], "give --student; see --help"),
        (["from-jsonl", "--student=x", "--output=y", "--format=vlm"], "openai.*vllm"),
        (
            ["from-jsonl", "--student=x", "--output=y", "--student_parameters=8X"],
            "'8X' must be a nu",
        ),
        (["from-jsonl", "--student=gone", "--output=y"], "gone: no such file"),
        (["to-jsonl", "--records=gone", "--output=y"], "gone: no such records file"),
    ],
)
def test_a_mistake_is_one_line(argv, message, capsys):
    assert main.main(["records", *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cascade-jax records: ") and error.count("\n") == 1
    assert re.search(message, error)


def test_a_bad_line_is_named(tmp_path, capsys):
    bad = {"student": {"answer": "x", "log_probs": [float("nan")]}}
    assert from_table(tmp_path, {}, bad) == 2
    error = capsys.readouterr().err
    assert "table.jsonl:2, student (id 'q1'): log_probs[0] is nan; must be finite" in error
    assert not (tmp_path / "out.parquet").exists()
