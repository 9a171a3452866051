"""docs/records.md: its files convert by its commands, its tables are the schema."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from cascade_jax import records
from cascade_jax.cli import main
from cascade_jax.records import schema
from cascade_jax.records.external import answers, from_jsonl
from cascade_jax.records.external.formats import FORMATS

PAGE = (Path(__file__).parents[1] / "docs/records.md").read_text()


def commands() -> list[list[str]]:
    text = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, re.S)).replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in text.splitlines() if line]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with the page's files."""
    for name, text in re.findall(r"^`(\w+\.jsonl)`:\n\n```json\n(.*?)```", PAGE, re.S | re.M):
        (tmp_path / name).write_text(text)
    names = {path.stem for path in tmp_path.iterdir()}
    assert names == {"small", "large", "targets", "table"}
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_run_on_the_files_of_the_page(folder):
    assert len(commands()) == 5
    for argv in commands():
        argv = [*argv, "--bootstrap", "5"] if argv[0] == "compare" else argv
        assert main.main(argv) == 0, argv
    small, table, again = (records.read(f"{name}.parquet") for name in ("small", "table", "again"))
    for read in (small, table, again):
        assert read.student_answer.tolist() == ["Paris", "Cusco"]
        assert read.student_quality.tolist() == [1, 0] and read.teacher_quality.tolist() == [1, 1]
        assert set(read.student_flops_per_token) == {2e9}
    assert small.metadata["top_k"] == 2 and small.teacher_input_tokens.tolist() == [3, 3]
    assert small.pieces("teacher", 1) == ["Lima", "</s>"] and small.inputs[1] == "Capital of Peru?"
    assert again.metadata == table.metadata and len(table.teacher_log_probs) == 0
    assert (folder / "report" / "report.html").exists()


def cells(heading: str, number: int) -> list[list[str]]:
    """Rows of a section's table."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0].split("\n### ")[0]
    table = re.findall(r"(?:^\|.*\|\n)+", section, re.M)[number]
    return [[c.strip() for c in row.strip("|").split(" | ")] for row in table.splitlines()[2:]]


PARTS = {
    "required": lambda column: column.is_required,
    "optional": lambda column: not column.is_required and column.owner != schema.LIVE,
    "live": lambda column: column.owner == schema.LIVE,
}
PREFIXES = {schema.EXAMPLE: "", schema.LIVE: "cascade_"}


def columns_table(part: str) -> str:
    """The page's table of a part of COLUMNS."""
    lines = [
        "| column | type | what | values | `collect` | used by |",
        "|---|---|---|---|---|---|",
    ]
    for column in filter(PARTS[part], schema.COLUMNS):
        name = PREFIXES.get(column.owner, "<model>_") + column.name
        kind = re.sub(r"(element|item): ", "", str(column.type)).replace("float>", "float32>")
        values = column.shape + (f": {column.check.allowed}" if column.check else "")
        cells = [f"`{name}`", kind, column.doc, values, column.collected, column.used_by]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


@pytest.mark.parametrize("part", PARTS)
def test_the_tables_of_columns_are_the_schema(part):
    (actual,) = re.findall(rf"<!-- columns: {part} -->\n(.*?)\n<!-- end -->", PAGE, re.S)
    assert actual == columns_table(part), f"must be\n{columns_table(part)}"


def test_the_metrics_formats_and_fields_are_those_there_are():
    named = {name for cell, _ in cells("Quality", 0)[:-2] for name in re.findall(r"`(\w+)`", cell)}
    assert named == set(from_jsonl.METRICS)
    assert tuple(re.findall(r"^### .* \((\w+)\)$", PAGE, re.M)) == FORMATS
    stated = set(re.findall(r"`(\w+)`", PAGE.split("A model's fields:")[1].split("\n\n")[0]))
    assert stated >= set(answers.model_columns())
    live = set(re.findall(r"`(\w+)`", PAGE.split("may have a `cascade`:")[1].split("\n\n")[0]))
    assert live >= set(answers.columns_about(schema.LIVE))


def test_the_table_made_in_python_is_what_it_says(folder):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block, "docs/records.md", "exec"), {})
    (promised,) = re.findall(r"^print\(.*\)  # (.*)$", block, re.M)
    assert printed.getvalue() == promised + "\n"
