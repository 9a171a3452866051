"""The rules of the design that a machine can check, from the syntax trees alone."""

import ast
import functools
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cascade_jax"

LEVELS = {
    "short_text": -1,
    "axes": 0, "chips": 0, "files": 0, "json_text": 0, "names": 0, "numerics": 0, "text_table": 0,
    "progress": 0, "text_file": 0, "checks": 0, "array_file": 1, "json_file": 1, "jsonl": 1,
    "metrics": 1, "batch": 1, "unembedding": 1,
    "models": 2, "losses": 2, "parallel": 2, "data": 2, "task_metrics": 2, "deferral": 2,
    "records": 3, "runs": 3, "inference": 3, "interop": 3,
    "collection": 4, "evaluation": 4, "teacher_cache": 4,
    "training": 5, "calibration": 5, "report": 5,
    "planning": 6, "study": 6,
    "cli": 8, "__main__": 9,
}  # fmt: skip
PRODUCT_FILES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "tasks").rglob("*.py")])


def part_of(module: str) -> str | None:
    """`cascade_jax.models.t5` -> `models`."""
    names = module.split(".")
    return names[1] if names[0] == "cascade_jax" and len(names) > 1 else None


@functools.cache
def nodes(file: Path) -> tuple[ast.AST, ...]:
    """All of a file's syntax tree."""
    return tuple(ast.walk(ast.parse(file.read_text())))


@functools.cache
def imports(file: Path) -> list[tuple[int, str]]:
    """(line, full module or object name) of every import, also those inside functions."""
    result = []
    for node in nodes(file):
        if isinstance(node, ast.Import):
            result += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}:{node.lineno}: relative import"
            result += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return result


def test_every_part_of_the_package_has_a_level():
    parts = {path.stem for path in PACKAGE.iterdir() if path.name != "__pycache__"} - {"__init__"}
    assert parts == set(LEVELS)


def test_imports_go_down_only():
    wrong = []
    for file in PACKAGE.rglob("*.py"):
        if file == PACKAGE / "__init__.py":
            continue
        ours = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for line, name in imports(file):
            theirs = part_of(name)
            if theirs is not None and theirs != ours and LEVELS[theirs] >= LEVELS[ours]:
                wrong.append(f"{file.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong


def test_the_guarantees_could_be_published_alone():
    wrong = []
    for file in (PACKAGE / "deferral" / "guarantees").glob("*.py"):
        for line, name in imports(file):
            own = name.startswith(
                ("cascade_jax.deferral.guarantees", "cascade_jax.deferral.policy")
            )
            allowed = (None, "checks", "names", "json_file", "json_text", "short_text")
            if part_of(name) not in allowed and not own:
                wrong.append(f"{file.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong


OWN_JSON = {  # what the same program wrote a moment before
    "json_file.py", "parallel/hosts.py", "parallel/rendezvous.py", "teacher_cache/identity.py",
    "cli/import_checkpoint.py",
}  # fmt: skip


def test_json_of_files_is_read_by_one_parser():
    """json.loads takes keys twice and NaN, and ends in exceptions of many kinds."""
    readers = {
        str(file.relative_to(PACKAGE if PACKAGE in file.parents else ROOT))
        for file in PRODUCT_FILES
        for node in nodes(file)
        if isinstance(node, ast.Attribute)
        and node.attr in ("load", "loads", "decode")
        and ast.unparse(node.value) in ("json", "msgspec.json")
    }
    assert readers == OWN_JSON


def module_files() -> dict[str, Path]:
    """The product's files by module name; a package is its `__init__`."""
    names = {}
    for file in PRODUCT_FILES:
        parts = file.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return names


def test_no_files_import_each_other_in_a_circle():
    """Imports inside functions and for type checkers alone count."""
    files = module_files()
    graph = {}
    for module, file in files.items():
        graph[module] = set()
        for _, name in imports(file):
            # `a.b.C` is of the module `a.b` where there is no module of the whole name.
            imported = name if name in files else name.rpartition(".")[0]
            if imported in files and imported != module:
                graph[module].add(imported)
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the files


def test_no_room_holds_more_than_12_percent_of_the_lines():
    """Of the lines of the package, the tasks and the launch scripts together."""
    lines = {}
    for file in [*PRODUCT_FILES, *(ROOT / "launch").rglob("*.py")]:
        room = ".".join(file.relative_to(ROOT).with_suffix("").parts[:2])
        lines[room] = lines.get(room, 0) + len(file.read_text().splitlines())
    total = sum(lines.values())
    large = {room: count for room, count in lines.items() if count > 0.12 * total}
    assert not large, f"of {total} lines"


def test_the_package_never_imports_the_tasks():
    wrong = [
        f"{file}:{line}"
        for file in PACKAGE.rglob("*.py")
        for line, name in imports(file)
        if name.split(".")[0] == "tasks"
    ]
    assert not wrong


@pytest.mark.parametrize(
    "library, home",
    [("gin", "cascade_jax/cli/"), ("absl.flags", "-"),
     ("argparse", ("cascade_jax/cli/", "tasks/wmt22_folder.py")),
     ("matplotlib", "cascade_jax/report/plots/"), ("t5x", "cascade_jax/interop/t5x.py"),
     ("torch", "cascade_jax/deferral/scores/samples/cross_encoder.py"),
     ("transformers", "cascade_jax/deferral/scores/samples/cross_encoder.py")],
)  # fmt: skip
def test_libraries_that_have_one_home(library, home):
    wrong = []
    for file in PRODUCT_FILES:
        where = file.relative_to(ROOT).as_posix()
        for line, name in imports(file):
            if (name + ".").startswith(library + ".") and not where.startswith(home):
                wrong.append(f"{where}:{line} imports {name}")
    assert not wrong


def test_files_and_functions_stay_short():
    wrong = []
    for file in PRODUCT_FILES:
        text = file.read_text()
        lines = len(text.splitlines())
        if lines > 400:
            wrong.append(f"{file.relative_to(ROOT)}: {lines} lines, at most 400")
        for node in nodes(file):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno + 1
                if length > 60:
                    wrong.append(f"{file.relative_to(ROOT)}:{node.lineno} {node.name}: {length}")
    assert not wrong


def test_public_things_have_docstrings():
    wrong = []
    for file in PRODUCT_FILES:
        tree = ast.parse(file.read_text())
        if tree.body and ast.get_docstring(tree) is None:
            wrong.append(f"{file.relative_to(ROOT)}: module")
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                if ast.get_docstring(node) is None:
                    wrong.append(f"{file.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not wrong


def test_there_is_one_stop_gradient():
    actual = [
        file.relative_to(ROOT).as_posix()
        for file in PRODUCT_FILES
        for match in re.finditer(r"\bstop_gradient\(", file.read_text())
    ]
    assert actual == ["cascade_jax/training/step.py"]


def test_only_the_batch_module_spells_seqios_feature_names():
    wrong = []
    for file in PRODUCT_FILES:
        for node in nodes(file):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if re.fullmatch(r"(encoder|decoder)_\w*(tokens|weights|ids|positions)", node.value):
                    wrong.append((file.relative_to(ROOT).as_posix(), node.lineno))
    assert {name for name, _ in wrong} == {"cascade_jax/batch.py"}


_SCORE = re.compile(r"score|unsure|uncertain|entrop|holds_")
_THRESHOLD = re.compile(r"threshold|tau|limit")


def score_comparisons(source: str) -> list[int]:
    """Lines that compare something named as a score with something named as a threshold."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Compare):
            continue
        operands = [
            " ".join(getattr(n, "id", getattr(n, "attr", "")) for n in ast.walk(operand))
            for operand in (node.left, *node.comparators)
        ]
        for operator, *pair in zip(node.ops, operands, operands[1:], strict=False):
            is_ordering = isinstance(operator, ast.Lt | ast.LtE | ast.Gt | ast.GtE)
            for one, other in (pair, reversed(pair)):
                if is_ordering and _SCORE.search(one) and _THRESHOLD.search(other):
                    lines.append(node.lineno)
    return lines


def script_score_comparisons(source: str) -> list[int]:
    """The same lines of a script; any ordering of a score there, as thresholds are data."""
    scores = r"\w*(score|uncertain)\w*(\.\w+|\[\w+\])*"
    pattern = re.compile(rf"{scores}\s*[<>]=?|(?<![=])[<>]=?\s*(\w+\.)*{scores}", re.IGNORECASE)
    return [i for i, line in enumerate(source.splitlines(), 1) if pattern.search(line)]


def test_a_score_is_compared_with_a_threshold_in_one_file_only():
    for line in (
        "keep = self._score[rows] <= thresholds[..., 0]",
        "a = limit < unsure",
        "s.tau < score",
    ):
        assert score_comparisons(line) == [1]
    for line in ("(answer) => answer.score >= tauNow()", "if (tau < a.score) x", "scores[i] > t"):
        assert script_score_comparisons(line) == [1]
    wrong = [
        f"{file.relative_to(ROOT)}:{line}"
        for files, check in (
            (PRODUCT_FILES, score_comparisons),
            (sorted(PACKAGE.rglob("*.js")), script_score_comparisons),
        )
        for file in files
        for line in check(file.read_text())
    ]
    assert len(wrong) == 1 and wrong[0].startswith("cascade_jax/deferral/policy.py:")


def test_no_file_is_named_for_nothing():
    names = {"utils.py", "common.py", "helpers.py", "misc.py"}
    assert not [
        file for file in ROOT.glob("*/**/*.py") if file.name in names and ".venv" not in file.parts
    ]


def test_functions_are_named_by_what_they_do_and_not_of_something():
    named = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in PRODUCT_FILES
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef) and node.name.lstrip("_").startswith("of_")
    ]
    assert not named
