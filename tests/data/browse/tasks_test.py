"""What is listed of tasks and mixtures, and whether their data is here."""

import functools
import math

import pytest
import seqio

import tasks.demo  # noqa: F401
from cascade_jax.data import catalog, features, sources
from cascade_jax.data.browse import tasks as browse
from cascade_jax.task_metrics import classes, quality
from tests.support import fakes

ROW = {"text": "a", "label": 0}
FIELDS = {"text": str, "label": range(2)}
SPLITS = {"train": "train", "validation": "dev"}


@pytest.fixture(autouse=True)
def no_data_folder():
    before = sources.get_data_dir()
    sources.set_data_dir(None)
    yield
    sources.set_data_dir(before)


@pytest.fixture
def register():
    """Registers a task or a mixture of a name for one test."""
    tasks, mixtures = [], []

    def task(name, source, metric_fns=(quality.accuracy,)):
        tasks.append(name)
        return seqio.TaskRegistry.add(
            name,
            source=source,
            preprocessors=features.tokenizing(),
            output_features=features.output_features(),
            metric_fns=list(metric_fns),
        )

    def mixture(name, rates):
        mixtures.append(name)
        return seqio.MixtureRegistry.add(name, rates)

    task.mixture = mixture
    yield task
    for name in mixtures:
        seqio.MixtureRegistry.remove(name)
    for name in tasks:
        seqio.TaskRegistry.remove(name)


def jsonl_source(name="browse_rows", **options):
    return sources.TfdsOrJsonlSource(f"{name}:1.2.3", FIELDS, SPLITS, **options)


def test_a_task_with_a_card_and_one_without(register):
    facts = browse.facts_of(seqio.TaskRegistry.get("demo_add_v1"))
    assert facts == browse.TaskFacts(
        name="demo_add_v1",
        suite="demo",
        kind="short_answer",
        metrics=("accuracy",),
        source="made by a program",
        splits=("train", "validation", "test"),
        data=browse.YES,
    )

    def read(split, shuffle_files):
        raise AssertionError("a list reads no rows")

    foreign = register("browse_foreign_v1", seqio.FunctionDataSource(read, ["x"]))
    facts = browse.facts_of(foreign)
    assert (facts.suite, facts.kind, facts.data) == ("-", "-", "-")
    assert facts.source == "FunctionDataSource" and facts.splits == ("x",)


def test_metrics_are_named_whatever_they_are_made_of(register):
    def own_metric(targets, predictions):
        return {}

    partial = functools.partial(functools.partial(own_metric))
    metrics = [quality.accuracy, partial, classes.MeanClassF1(["a", "b"])]
    facts = browse.facts_of(register("browse_metrics_v1", jsonl_source(), metrics))
    assert facts.metrics == ("accuracy", "own_metric", "mean_class_f1")


def test_here_without_a_data_folder(register):
    cases = {
        "prepared": (jsonl_source(), browse.NOT_PREPARED),
        "folder": (jsonl_source(is_in_tfds=False), browse.NEEDS_FOLDER),
        "manual": (jsonl_source(manual="ask for it"), browse.MANUAL),
    }
    for name, (source, here) in cases.items():
        facts = browse.facts_of(register(f"browse_{name}_v1", source))
        assert facts.data == here and not browse.is_available(facts)
    assert facts.manual == "ask for it" and facts.source == "browse_rows:1.2.3"


def test_here_once_tfds_has_prepared_it(register, monkeypatch):
    source = jsonl_source(manual="ask for it")
    monkeypatch.setattr(source, "is_available", lambda split: split == "train")
    facts = browse.facts_of(register("browse_tfds_v1", source))
    assert facts.data == browse.YES and browse.is_available(facts)


def test_here_with_a_data_folder(register, tmp_path):
    task = register("browse_jsonl_v1", jsonl_source("browse/rows"))
    sources.set_data_dir(tmp_path)
    assert browse.facts_of(task).data == browse.NOT_IN_FOLDER
    fakes.write_jsonl(tmp_path, "browse__rows", "dev", [ROW])
    facts = browse.facts_of(task)
    assert facts.data == "folder: validation" and browse.is_available(facts)
    fakes.write_jsonl(tmp_path, "browse__rows", "train", [ROW])
    assert browse.facts_of(task).data == browse.FOLDER
    assert browse.facts_of(seqio.TaskRegistry.get("demo_add_v1")).data == browse.YES


def test_the_list_goes_by_suite_and_name(register, monkeypatch):
    monkeypatch.setattr(catalog, "_cards", dict(catalog._cards))
    catalog.add_card("browse_z_v1", catalog.TaskCard("browse_suite", "generation"))
    register("browse_z_v1", jsonl_source())
    listed = browse.list_tasks()
    assert {facts.name for facts in listed} == set(seqio.TaskRegistry.names())
    assert listed == sorted(listed, key=lambda facts: (facts.suite, facts.name))
    assert [facts.name for facts in browse.list_tasks("browse_suite")] == ["browse_z_v1"]
    with pytest.raises(ValueError, match=r"suite 'browse_suit'; did you mean 'browse_suite'\?"):
        browse.list_tasks("browse_suit")


def test_a_mixture_has_rates_and_shares(register, tmp_path):
    def rows(task):
        return task.num_input_examples("train")

    register("browse_one_v1", jsonl_source())
    rates = [("browse_one_v1", rows), ("demo_add_v1", 3.0), ("demo_last_v1", 2.0)]
    mixture = register.mixture("browse_mixture_v1", rates)
    facts = browse.mixture_facts(mixture)
    assert list(facts.rates) == ["browse_one_v1", "demo_add_v1", "demo_last_v1"]
    assert list(facts.rates.values())[1:] == [3.0, 2.0] and math.isnan(facts.rates["browse_one_v1"])
    assert math.isnan(facts.total) and all(map(math.isnan, facts.shares().values()))
    sources.set_data_dir(tmp_path)
    fakes.write_jsonl(tmp_path, "browse_rows", "train", [ROW] * 5)
    facts = browse.mixture_facts(mixture)
    assert facts.total == 10.0
    assert facts.shares() == {"browse_one_v1": 0.5, "demo_add_v1": 0.3, "demo_last_v1": 0.2}
    assert facts in browse.list_mixtures()
