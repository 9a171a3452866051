"""Lengths that would leave no target of a task whole are refused."""

import dataclasses

import pytest
import seqio

from cascade_jax.data import catalog, features, pipeline, sources

TARGETS = {"toy_short": ["ab", "abcdefgh"], "toy_long": ["abcdef"] * 3 + ["abcdefghi"]}


@pytest.fixture(scope="module", autouse=True)
def _toy_tasks():
    fields = {"inputs": str, "targets": str}
    for name, targets in TARGETS.items():
        rows = [{"inputs": "question", "targets": target} for target in targets]
        seqio.TaskRegistry.add(
            name,
            source=sources.GeneratedSource(lambda split, rows=rows: rows, ["train"], fields),
            preprocessors=features.tokenizing(),
            output_features=features.output_features(),
        )
    seqio.MixtureRegistry.add("toy_lengths", list(TARGETS), default_rate=1.0)
    yield
    seqio.MixtureRegistry.remove("toy_lengths")
    for name in TARGETS:
        seqio.TaskRegistry.remove(name)


CONFIG = pipeline.DataConfig("toy_lengths", input_length=4, target_length=7, batch_size=2)


def _check(config):
    pipeline.check_lengths(pipeline.open_mixture(config), config, "train")


@pytest.mark.parametrize(("cache_rows", "seen"), [(100, "every one"), (0, "each of the first 4")])
def test_a_task_whose_every_target_is_cut_off_is_named(cache_rows, seen):
    config = dataclasses.replace(CONFIG, cache_rows=cache_rows)
    _check(config)  # "abcdef" and EOS just fit; that some are cut is nothing unusual
    short = dataclasses.replace(config, target_length=6)
    said = (
        rf"target_length 6 \(input_length 4\) cuts off targets of task 'toy_long', split 'train': "
        rf"{seen}. With EOS they have 7 to 10 tokens: give at least 7, for all of them 10"
    )
    with pytest.raises(ValueError, match=said):
        _check(short)
    with pytest.raises(ValueError, match=said):
        pipeline.HostBatches(short, "train", seqio.ShardInfo(0, 1))


@pytest.mark.parametrize("cache_rows", [0, 100])
def test_texts_for_language_modeling_may_be_cut(monkeypatch, cache_rows):
    card = catalog.TaskCard("toys", "language_modeling")
    monkeypatch.setitem(catalog._cards, "toy_long", card)
    _check(dataclasses.replace(CONFIG, target_length=6, cache_rows=cache_rows))


def test_a_task_that_fits_its_texts_to_the_lengths_is_let_pass():
    def first_letters(rows, sequence_length):
        size = sequence_length["targets"] - 1
        return rows.map(
            lambda row: {"inputs": row["inputs"], "targets": row["targets"][:size]}
        )  # ids, not letters

    task = seqio.get_mixture_or_task("toy_long")
    tokenize, end = features.tokenizing()
    seqio.TaskRegistry.add(
        "toy_fitted",
        source=task.source,
        preprocessors=[tokenize, first_letters, end],
        output_features=task.output_features,
    )
    try:
        _check(dataclasses.replace(CONFIG, mixture="toy_fitted", target_length=3))
    finally:
        seqio.TaskRegistry.remove("toy_fitted")
