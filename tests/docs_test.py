"""What the documents say is so: examples run, maps are those of the disk, links lead somewhere."""

import contextlib
import io
import re
import shlex
import sys
from pathlib import Path

import gin
import pytest

from cascade_jax import metrics
from cascade_jax.cli import gin_config, train
from cascade_jax.losses import schedules, variants
from docs import write_map
from tests.support import fakes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LOSSES = (ROOT / "docs/losses.md").read_text()


def section(page: str, heading: str) -> str:
    """The text below a heading of second order."""
    return (ROOT / page).read_text().split(f"## {heading}\n")[1].split("\n## ")[0]


def rooms() -> dict[str, str]:
    """Folder -> line of the README's map of rooms."""
    block = README.split("## Where is what")[1].split("```")[1]
    listed, parent = {}, ""
    for line in block.strip("\n").splitlines():
        name, _, text = line.strip().partition(" ")
        parent = "" if not line.startswith(" ") else parent
        listed[parent + name] = text.strip()
        parent = name if not text else parent
    return listed


def test_the_map_of_rooms_is_what_is_on_the_disk():
    folders = {path.parent.name for path in (ROOT / "cascade_jax").glob("*/__init__.py")}
    listed = {name for name in rooms() if name.startswith("cascade_jax/")} - {"cascade_jax/"}
    assert listed == {f"cascade_jax/{name}/" for name in folders}
    assert all((ROOT / name).is_dir() for name in rooms())
    assert [name for name, text in rooms().items() if len(text) < 8] == ["cascade_jax/"]


def test_the_map_of_files_is_up_to_date():
    assert (ROOT / "docs/map.md").read_text() == write_map.text(), "run `make map`"


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 200


@pytest.mark.medium
@pytest.mark.parametrize(
    "page, heading", [("README.md", "Five minutes in Python"), ("docs/losses.md", "From Python")]
)
def test_the_tour_runs_and_prints_what_it_says(page, heading):
    blocks = re.findall(r"```python\n(.*?)```", section(page, heading), re.S)
    assert blocks
    namespace = {}
    for block in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, page, "exec"), namespace)
        lines = printed.getvalue().splitlines()
        promised = re.findall(r"^print\(.*\)\s+# ([\d.]+)", block, re.M)
        promised += re.findall(r"^# (.* -> .*)$", block, re.M)
        assert promised and lines == promised


@pytest.mark.parametrize("page", ["docs/guarantees.md", "docs/evaluate.md"])
def test_the_examples_of_a_page_run_and_print_what_they_say(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
    blocks = [block for block in blocks if "\nprint(" in block]  # others read files
    namespace = {}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)
        promised = re.findall(r"^print\(.*\)  # (.+)$", block, re.M)
        assert promised and capsys.readouterr().out.splitlines() == promised
    assert blocks


@pytest.fixture
def user_files(tmp_path, monkeypatch):
    """A user's folder, the current one, with the pages' snippets under the names they have."""
    import seqio

    from cascade_jax.data import sources

    for name, text in re.findall(r"```(?:python)?\n# (my\w*\.\w+)\n(.*?)```", SNIPPETS, re.S):
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


SNIPPETS = section("docs/tasks.md", "Any seqio task")
SNIPPETS += section("docs/models.md", "Your own model pair")


def stated_command(name: str) -> list[str]:
    """The arguments of the pages' `cascade-jax train` with a snippet's file."""
    (command,) = re.findall(rf"`cascade-jax train ([^`]*\b{name})`", SNIPPETS)
    return shlex.split(command)


def test_the_task_snippet_builds_and_reads_rows(user_files):
    from cascade_jax.data import pipeline

    config = gin_config.parse(train.CONFIG, stated_command("my.gin"))
    assert {run.data.mixture for run in config.runs} == {"my_reviews_v1"}
    assert config.output_dir == "runs/my_reviews"
    rows = [{"text": "dull", "label": 0}, {"text": "a joy", "label": 1}]
    for split in ("train", "validation"):
        fakes.write_jsonl(user_files / "data", "reviews", split, rows)
    result = pipeline.decode_examples(config.runs[0].data, "my_reviews_v1", "validation")
    texts = [(example.inputs_text, example.target_text) for example in result]
    assert texts == [("review: dull", "bad"), ("review: a joy", "good")]


def test_the_pair_snippet_builds_the_models_that_it_states(user_files):
    config = gin_config.parse(train.CONFIG, stated_command("my_pair.gin"))
    demo = gin_config.parse(train.CONFIG, ["--gin_file=gin/experiments/demo.gin"])
    assert config.output_dir != demo.output_dir  # which `make demo` has filled
    teacher, *students = config.runs
    stated = re.findall(
        r"^(\w+)/config\.T5Config\.(\w+) = (\d+)$", (user_files / "my_pair.gin").read_text(), re.M
    )
    assert {model for model, _, _ in stated} == {"small", "large"}
    assert ("small", "head_dim", "32") in stated
    for model, name, value in stated:
        for run in students if model == "small" else [teacher]:
            assert getattr(run.model, name) == int(value), (model, name)
    assert all(run.teacher == teacher.model for run in students)


def table(heading: str) -> list[list[str]]:
    """Cells of the rows of the table in a section of docs/losses.md."""
    rows = [x for x in section("docs/losses.md", heading).splitlines() if x.startswith("|")]
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
    in_train = section("docs/train.md", "Figures")
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
    actual = 0
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
            text = (page.parent / target if target else page).read_text()
            headings = re.findall(r"^#+ (.+)$", text, re.M)
            anchors = {re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings}
            assert anchor in anchors, f"{page.name} links to {target}#{anchor}"
            actual += 1
    assert actual


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
