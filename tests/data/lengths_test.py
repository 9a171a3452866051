"""Tasks without an example, or of which a length would leave no target whole, are refused."""

import dataclasses

import pytest
import seqio

from cascade_jax.data import catalog, features, pipeline, sources, stream

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
    stream.cached_tasks(pipeline.open_mixture(config), config, "train")


@pytest.mark.parametrize(
    ("cache_rows", "seen"), [(100, "every target"), (0, "each of the first 4 targets")]
)
def test_a_task_whose_every_target_is_cut_off_is_named(cache_rows, seen):
    config = dataclasses.replace(CONFIG, cache_rows=cache_rows)
    _check(config)  # "abcdef" and EOS just fit; that some are cut is nothing unusual
    short = dataclasses.replace(config, target_length=6)
    said = (
        rf"target_length 6 cuts off {seen} of toy_long \(train\): no answer stays whole; the "
        "shortest has 7 tokens, EOS included, and 10 hold 99 % of them"
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


def _nothing(rows):
    return rows.filter(lambda row: row["inputs"] == "another")


@pytest.mark.parametrize(
    ("cache_rows", "steps"),
    [
        (100, [_nothing, *features.tokenizing()]),
        (0, [_nothing, *features.tokenizing()]),
        (0, [_nothing, seqio.preprocessors.tokenize]),  # of which lengths say nothing
    ],
)
def test_a_task_whose_filters_keep_no_row_is_refused_and_not_waited_for(cache_rows, steps):
    task = seqio.get_mixture_or_task("toy_long")
    seqio.TaskRegistry.add(
        "toy_nothing",
        source=task.source,
        preprocessors=steps,
        output_features=task.output_features,
    )
    seqio.MixtureRegistry.add("toy_with_nothing", ["toy_short", "toy_nothing"], default_rate=1.0)
    config = dataclasses.replace(CONFIG, mixture="toy_with_nothing", cache_rows=cache_rows)
    said = "task 'toy_nothing' has no example in split 'train': its filters keep no row"
    try:
        with pytest.raises(ValueError, match=said):
            pipeline.HostBatches(config, "train", seqio.ShardInfo(0, 1))
    finally:
        seqio.MixtureRegistry.remove("toy_with_nothing")
        seqio.TaskRegistry.remove("toy_nothing")
