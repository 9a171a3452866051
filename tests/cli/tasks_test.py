"""`cascade-jax tasks`: its lists and pages, with and without colour, and its one-line refusals."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import seqio

from cascade_jax.cli import flags, main, run_command, task_pages, tasks
from cascade_jax.data import sources
from cascade_jax.data.browse import rows as row_view
from cascade_jax.data.browse import tasks as browse
from tests.support import fakes

ROOT = Path(__file__).parents[2]
DEMO = ("--import", "tasks.demo")
ROWS = [
    {"sentence": "a great film with a \x1b[31m trick", "label": 1},
    {"sentence": "dull", "label": 0},
]


@pytest.fixture(autouse=True)
def data_folder_as_before(monkeypatch):
    before = sources.get_data_dir()
    monkeypatch.delenv("NO_COLOR", raising=False)
    yield
    sources.set_data_dir(before)


@pytest.fixture
def run(capsys):
    """Runs the command; gives what it printed."""

    def run(*argv, status=0):
        assert main.main(["tasks", *argv]) == status
        printed = capsys.readouterr()
        if not status:
            return printed.out
        (line,) = printed.err.splitlines()
        return line

    return run


@pytest.fixture
def sst2(tmp_path):
    """Flags for a data folder with two rows of SST-2."""
    fakes.write_jsonl(tmp_path, "glue__sst2", "train", ROWS)
    fakes.write_jsonl(tmp_path, "glue__sst2", "validation", ROWS)
    return ("--import", "tasks.local_multitask", "--data_dir", str(tmp_path))


# ---- help


def test_the_examples_of_the_help_parse_and_name_what_there_is():
    importlib.import_module("tasks.all")
    known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names(), "my_task_v1"}
    lines = re.findall(r"^  cascade-jax tasks(.*)$", tasks.HELP, re.M)
    assert len(lines) > 3
    for line in lines:
        config = flags.parse(tasks.FLAGS, line.split())
        assert config.name is None or config.name in known


def test_every_flag_is_in_the_help():
    described = re.findall(r"^  --(\w+)\b.*\s\w+", run_command.flags_of(tasks).format_help(), re.M)
    fields = tasks.TasksConfig.__dataclass_fields__.keys() - {"names", "modules"}
    assert set(described) == fields | {"import"}


# ---- lists


def test_the_tasks_of_this_package_are_at_least_90(run):
    text = run()
    listed = set(re.findall(r"^  (\w+_v\d+) ", text, re.M))
    assert listed >= {n for n in seqio.TaskRegistry.names() if n.startswith("cascade_")}
    (count,) = re.findall(r"^(\d+) tasks in \d+ suites", text, re.M)
    assert len(listed) == int(count) >= 90


def test_a_line_of_the_list_says_what_the_task_is(run, sst2):
    (line,) = [line for line in run(*sst2).splitlines() if "local_sst2_v1" in line]
    assert re.split(r"\s{2,}", line.strip()) == [
        "local_sst2_v1",
        "classification",
        "accuracy",
        "glue/sst2:2.0.0",
        "folder",
    ]


def test_here_goes_by_the_data_folder(run, sst2):
    (line,) = [n for n in run(*sst2).splitlines() if "local_cola_v1" in n]
    assert line.endswith("  not in the folder")
    (line,) = [n for n in run(*sst2[:2]).splitlines() if "local_tatoeba_zh_en_v1" in n]
    assert line.endswith("  needs a data folder")


def test_one_suite_alone(run):
    text = run(*DEMO, "--suite", "demo")
    assert "demo (7)" in text and "7 tasks in 1 suite; 7 with data on this machine" in text
    assert "superglue" not in text
    line = run(*DEMO, "--suite", "dmo", status=2)
    assert "no task is of suite 'dmo'; did you mean 'demo'?" in line


def test_mixtures_with_their_tasks_and_rates(run):
    assert re.search(r"^demo_mixture_v1 +7 +7$", run(*DEMO, "--mixtures"), re.M)
    text = run(*DEMO, "demo_mixture_v1")
    assert text.startswith("demo_mixture_v1: 7 tasks, sum of rates 7\n")
    assert len(re.findall(r"^  demo_\w+_v1 +1  14\.29%$", text, re.M)) == 7


# ---- one task


def test_a_page_shows_texts_tokens_and_lengths(run):
    text = run(*DEMO, "demo_lookup_v1", "--examples", "2")
    (opened,) = row_view.open_tasks("demo_lookup_v1")
    for example in row_view.seen_examples(opened, 2):
        for seen in (example.inputs, example.targets):
            assert f"  {seen.text}\n" in text and f"{len(seen.ids)} tokens\n" in text
            assert re.search(r"\s+".join(map(str, seen.ids)), text)
            pieces = [re.escape(piece.replace(" ", "▁")) for piece in seen.pieces]
            assert re.search(r"\s+".join(pieces), text)
    assert "validation/1\n" in text and "validation/2\n" not in text


def test_options_are_shown_and_data_cannot_steer_the_terminal(run, sst2):
    text = run(*sst2, "local_sst2_v1")
    assert "  options     negative | positive\n" in text
    assert "\x1b" not in text and r"with a \x1b[31m trick" in text


def test_what_is_cut_off_is_marked(run):
    text = run(*DEMO, "demo_reverse_v1", "--examples", "1", "--input_length", "8")
    (opened,) = row_view.open_tasks("demo_reverse_v1", input_length=8)
    (example,) = row_view.seen_examples(opened, 1)
    inputs = example.inputs
    assert f"{inputs.kept_text}[cut: {inputs.cut_text}]\n" in text
    assert f"8 tokens, cut from {inputs.length}\n" in text
    assert text.count("[cut: ") == 1  # the target is whole


def test_long_rows_show_so_many_tokens(run):
    text = run(*DEMO, "demo_reverse_v1", "--examples", "1", "--tokens", "4")
    (example,) = row_view.seen_examples(*row_view.open_tasks("demo_reverse_v1"), 1)
    rest = len(example.inputs.ids) - 4
    assert re.search(rf"t +u +r +n +…\n +119 +120 +117 +113 +\({rest} more\)", text)


@pytest.mark.parametrize(
    "color, terminal, environment, coloured",
    [
        ("auto", False, {}, False),
        ("auto", True, {}, True),
        ("auto", True, {"NO_COLOR": "1"}, False),
        ("auto", True, {"TERM": "dumb"}, False),
        ("always", False, {"NO_COLOR": "1"}, True),
        ("never", True, {}, False),
    ],
)
def test_colour(color, terminal, environment, coloured, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    paint = task_pages.Paint(color)
    assert paint("bold", "x") == ("\x1b[1mx\x1b[0m" if coloured else "x")


def test_colour_changes_nothing_but_colour(run):
    argv = (*DEMO, "demo_reverse_v1", "--input_length", "8")
    plain, coloured = run(*argv), run(*argv, "--color", "always")
    assert "\x1b[" not in plain and "\x1b[" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain


@pytest.mark.medium
def test_a_pipe_that_closes_early_is_no_error():
    command = f"{sys.executable} -m cascade_jax tasks | head -n 1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("  task ") and not done.stderr


# ---- lengths


def test_lengths_of_a_mixture_task_by_task(run):
    text = run(*DEMO, "demo_mixture_v1", "--lengths", "--rows", "20", "--target_length", "8")
    assert text.count(", validation: first 20 rows, ByteVocabulary\n") == 7
    (line,) = re.findall(r"demo_toss_v1.*\n.*\n.*\n  targets(.*)", text)
    assert line.split() == ["3", "3", "3", "3", "3", "8", "0.0%", "0.0%", "0"]


def test_a_length_that_cuts_off_every_target_is_refused_after_the_figures(run, capsys):
    argv = ["tasks", *DEMO, "demo_reverse_v1", "--lengths", "--target_length", "4"]
    assert main.main(argv) == 2
    printed = capsys.readouterr()
    assert "100.0%" in printed.out
    (line,) = printed.err.splitlines()
    assert "target_length 4 cuts off every target of demo_reverse_v1" in line
    assert "the shortest has 6 tokens" in line


def test_tasks_of_a_mixture_that_are_not_here_are_left_out(run, sst2):
    text = run(*sst2, "local_multitask_v1", "--lengths")
    assert "local_sst2_v1, validation: 2 rows" in text
    assert "local_cola_v1: left out, data folder" in text


# ---- refusals


@pytest.mark.parametrize(
    "argv, message",
    [
        (["demo_ad_v1"], "unknown mixture or task 'demo_ad_v1'"),
        (["demo_ad_v1"], "nearest are demo_add_v1"),
        (["--sute", "demo"], "there is no flag --sute; did you mean '--suite'?"),
        (["--color", "blue"], "--color: 'blue' is not one of auto, always, never"),
        (["--lengths"], "--lengths needs the name of a task or mixture"),
        (["demo_add_v1", "--suite", "demo"], "--suite lists; leave it out to see 'demo_add_v1'"),
        (["demo_add_v1", "--mixtures"], "--mixtures lists"),
        (["--suite", "demo", "--mixtures"], "give one of them"),
        (["demo_add_v1", "demo_toss_v1"], "2 names (demo_add_v1 demo_toss_v1)"),
        (
            ["demo_add_v1", "--target_length", "1"],
            "length: '1' is not an integer of at least 2",
        ),
        (
            ["demo_add_v1", "--examples", "9" * 5000],
            "9999' is not an integer of at most 2147483647",
        ),
        (["demo_add_v1", "--examples", "0"], "--examples: '0' is not an integer of at least 1"),
        (["demo_add_v1", "--examples", "many"], "--examples: 'many' is not"),
        (["demo_add_v1", "--split", "dev"], "has a split 'dev'; there are ['test', 'train',"),
        (["demo_add_v1", "--vocabulary", "no.model"], "vocabulary 'no.model' does not exist"),
        (["--import", "no_such_tasks"], "--import no_such_tasks: No module named 'no_such_tasks'"),
    ],
)
def test_a_mistake_gets_one_line_and_status_2(argv, message, run):
    line = run(*([] if "--import" in argv else DEMO), *argv, status=2)
    assert line.startswith("cascade-jax tasks: ") and message in line


def test_bad_rows_are_named(run, sst2, tmp_path):
    fakes.write_jsonl(tmp_path, "glue__sst2", "validation", [ROWS[0], {"sentence": 3, "label": 0}])
    line = run(*sst2, "local_sst2_v1", status=2)
    assert "validation.jsonl:2: field 'sentence' is 3, must be a string" in line


@pytest.mark.parametrize("flags", [[], ["--lengths"]])
def test_a_split_without_rows_is_said(run, sst2, tmp_path, flags):
    unlabelled = [row | {"label": -1} for row in ROWS]
    fakes.write_jsonl(tmp_path, "glue__sst2", "validation", unlabelled)
    line = run(*sst2, "local_sst2_v1", *flags, status=2)
    assert line.endswith("local_sst2_v1 has no row in split 'validation'")


def test_data_that_is_not_here_is_not_downloaded(run, sst2, monkeypatch):
    task = seqio.TaskRegistry.get("local_sst2_v1")
    monkeypatch.setattr(task.source, "is_available", lambda split: False, raising=False)
    line = run(*sst2[:2], "local_sst2_v1", status=2)
    assert "not on this machine: prepare it with `tfds build glue/sst2:2.0.0`" in line


def test_a_module_of_the_current_folder(run, tmp_path, monkeypatch):
    rows = json.dumps([{"inputs": "a", "targets": "b"}])
    (tmp_path / "tasks_test_own.py").write_text(
        "from cascade_jax.data import sources\n"
        "from tasks.registration import add_task\n"
        "from cascade_jax.task_metrics import quality\n"
        "source = sources.GeneratedSource(\n"
        f"    lambda split: {rows}, ['train'], {{'inputs': str, 'targets': str}})\n"
        "add_task('tasks_test_own_v1', source, [], [quality.accuracy], suite='own',\n"
        "         kind='short_answer')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        text = run("tasks_test_own_v1", "--import", "tasks_test_own")
        assert "  suite       own\n" in text and "train/0\n  inputs      a\n" in text
        assert browse.list_tasks("own")[0].data == browse.YES
    finally:
        sys.modules.pop("tasks_test_own", None)
        seqio.TaskRegistry.remove("tasks_test_own_v1")


# ---- metrics that are blind to the language of the targets


def test_a_metric_of_words_on_texts_without_spaces_is_said(run, tmp_path):
    fakes.write_jsonl(
        tmp_path, "xsum", "test", [{"document": "Eine Katze.", "summary": "猫坐在垫子上。"}]
    )
    page = run("cascade_xsum_xsum_v1", "--data_dir", str(tmp_path), "--split", "test")
    assert "! Rouge can't tell apart the words of 1 of 1 targets" in page
    assert "a tokenizer such as 'zh' would" in page
