"""What the documents say is so: the tour runs, the tree is the disk's, links lead somewhere."""

import contextlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import gin
import pytest

from cascade_jax import metrics
from cascade_jax.cli import gin_config, train
from cascade_jax.losses import schedules, variants
from tests.support import fakes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LOSSES = (ROOT / "docs/losses.md").read_text()


def tracked() -> set[str]:
    """Files of the project: what git tracks, or all but hidden and made ones without git."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0:
        return {name for name in done.stdout.split("\n") if name and (ROOT / name).exists()}
    return {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*")
        if path.is_file() and not path.relative_to(ROOT).parts[0].startswith((".", "runs"))
    }


def tree() -> dict[str, str]:
    """Path -> line of the README's tree; a folder that stands for its files ends in /."""
    block = README.split("## What is where")[1].split("```")[1]
    found, folders = {}, []
    for line in block.strip("\n").splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, text = line.strip().partition(" ")
        folders[depth:] = [name]
        found["".join(folders)] = text.strip()
    return found


def test_the_tree_is_what_is_on_the_disk():
    listed = tree()
    files = {name for name in tracked() if not name.startswith(".")}
    names = {name for name in listed if not name.endswith("/")}
    assert not names - files, "in the README but not on the disk"
    # A folder whose files are not listed one by one covers them.
    covering = [
        n for n in listed if n.endswith("/") and not any(o != n and o.startswith(n) for o in listed)
    ]
    uncovered = {f for f in files - names if not f.startswith(tuple(covering))}
    uncovered = {f for f in uncovered if not f.endswith("__init__.py")}
    assert not uncovered, "on the disk but not in the README"
    for folder in covering:
        assert any(name.startswith(folder) for name in files), folder


def test_every_line_of_the_tree_says_something():
    listed = tree()
    bare = {name for name, text in listed.items() if len(text) < 8}
    headings = {name for name in bare if any(o != name and o.startswith(name) for o in listed)}
    assert bare == headings


@pytest.mark.parametrize(
    "page, heading", [("README.md", "Five minutes in Python"), ("docs/losses.md", "From Python")]
)
def test_the_tour_runs_and_prints_what_it_says(page, heading):
    section = (ROOT / page).read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.S)
    assert len(blocks) == 3
    namespace = {}
    for block in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, page, "exec"), namespace)
        lines = printed.getvalue().splitlines()
        promised = re.findall(r"^print\(.*\)\s+# ([\d.]+)", block, re.M)
        promised += re.findall(r"^# (.* -> .*)$", block, re.M)
        assert promised and lines == promised


@pytest.fixture
def user_files(tmp_path, monkeypatch):
    """A user's folder, the current one, with the README's snippets under the names they have."""
    import seqio

    from cascade_jax.data import sources

    for name, text in re.findall(r"```(?:python)?\n# (my\w*\.\w+)\n(.*?)```", README, re.S):
        (tmp_path / name).write_text(text.replace("/path/to/data", str(tmp_path / "data")))
    assert {path.name for path in tmp_path.iterdir()} == {"my_tasks.py", "my.gin", "my_pair.gin"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = sources.get_data_dir()
    yield tmp_path
    sources.set_data_dir(before)
    gin.clear_config(clear_constants=True)
    if sys.modules.pop("my_tasks", None):
        seqio.TaskRegistry.remove("my_reviews_v1")


def stated_command(name: str) -> list[str]:
    """The arguments of the README's `cascade-jax train` with a snippet's file."""
    (command,) = re.findall(rf"`cascade-jax train ([^`]*\b{name})`", README)
    return shlex.split(command)


def test_the_task_snippet_builds_and_reads_rows(user_files):
    from cascade_jax.data import pipeline

    config = gin_config.parse(train.CONFIG, stated_command("my.gin"))
    assert {run.data.mixture for run in config.runs} == {"my_reviews_v1"}
    assert config.output_dir == "runs/my_reviews"
    rows = [{"text": "dull", "label": 0}, {"text": "a joy", "label": 1}]
    for split in ("train", "validation"):
        fakes.write_jsonl(user_files / "data", "reviews", split, rows)
    found = pipeline.decode_examples(config.runs[0].data, "my_reviews_v1", "validation")
    texts = [(example.inputs_text, example.target_text) for example in found]
    assert texts == [("review: dull", "bad"), ("review: a joy", "good")]


def test_the_pair_snippet_builds_the_models_that_it_states(user_files):
    config = gin_config.parse(train.CONFIG, stated_command("my_pair.gin"))
    demo = gin_config.parse(train.CONFIG, ["--gin_file=gin/experiments/demo.gin"])
    assert config.output_dir != demo.output_dir  # which `make demo` has filled
    teacher, *students = config.runs
    stated = re.findall(
        r"^(\w+)/config\.T5Config\.(\w+) = (\d+)$", (user_files / "my_pair.gin").read_text(), re.M
    )
    assert len(stated) == 14 and ("small", "head_dim", "32") in stated
    for model, name, value in stated:
        for run in students if model == "small" else [teacher]:
            assert getattr(run.model, name) == int(value), (model, name)
    assert all(run.teacher == teacher.model for run in students)


def table(heading: str) -> list[list[str]]:
    """Cells of the rows of the table in a section of docs/losses.md."""
    section = LOSSES.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[2:]]


def test_the_losses_page_names_each_variant_with_its_gin_file():
    rows = {cells[0].strip("`"): cells[-1].strip("`") for cells in table("Variants")}
    assert {name for name in rows} == {
        name
        for name, value in vars(variants).items()
        if isinstance(value, type) and issubclass(value, variants.Loss) and name != "Loss"
    }
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "gin/losses").iterdir()}
    assert set(rows.values()) == files
    for name, file in rows.items():
        assert f"@variants.{name}()" in (ROOT / file).read_text()


def test_the_pages_explain_every_metric():
    in_train = (ROOT / "docs/train.md").read_text().split("## Figures")[1].split("\n## ")[0]
    explained = {name for cells in table("Metrics") for name in cells[0].split(", ")}
    explained |= set(re.findall(r"^\| (\w+) \|", in_train, re.M)) - {"name"}
    assert explained == {value for name, value in vars(metrics).items() if name.isupper()}


@pytest.fixture
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    yield
    gin.clear_config(clear_constants=True)


def test_the_command_of_the_losses_page_builds_the_loss_it_names(in_root):
    (text,) = re.findall(r"```bash\n(cascade-jax train .*?)```", LOSSES, re.S)
    (run,) = gin_config.parse(train.CONFIG, shlex.split(text.replace("\\\n", " "))[2:]).runs
    assert run.loss == variants.CATDistL(temperature=2.0) and run.name == "cat_dist_l"


def test_the_schedules_of_the_losses_page_build(in_root, tmp_path):
    (text,) = re.findall(r"```\n# my_annealing\.gin\n(.*?)```", LOSSES, re.S)
    (tmp_path / "my_annealing.gin").write_text(text)
    config = gin_config.parse(train.CONFIG, [f"--gin_file={tmp_path}/my_annealing.gin"])
    loss = {run.name: run.loss for run in config.runs}["cat_dist"]
    assert loss == variants.CATDist(
        label_weight=schedules.PiecewiseLinear((0, 500), (1.0, 0.5)),
        temperature=schedules.PiecewiseLinear((0, 1000), (4.0, 1.0)),
    )


def test_no_page_is_empty():
    pages = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "docs").rglob("*.md")}
    assert pages
    assert not [name for name, path in pages.items() if not path.read_text().strip()]


def test_links_lead_to_headings():
    """GitHub's anchor of a heading: small letters, hyphens for spaces, no punctuation."""
    found = 0
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
            text = (page.parent / target if target else page).read_text()
            headings = re.findall(r"^#+ (.+)$", text, re.M)
            anchors = {re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings}
            assert anchor in anchors, f"{page.name} links to {target}#{anchor}"
            found += 1
    assert found


def test_links_lead_to_files():
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_paper_map_names_things_that_are_there():
    for line in (ROOT / "docs/paper_map.md").read_text().splitlines():
        for file, names in re.findall(r"`([\w/]+\.py)` ([\w., ]+?)(?:;|\||$)", line):
            text = (ROOT / "cascade_jax" / file).read_text()
            for name in re.findall(r"[A-Za-z_]\w+", names):
                if name not in ("and", "rules"):
                    assert re.search(rf"\b{name}\b", text), f"{file}: {name}"
