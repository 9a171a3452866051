"""Data configs are checked when built, and the rates of a mixture before anything is read."""

import dataclasses

import pytest
import seqio

from cascade_jax.data import features, mixtures, pipeline, sources

CONFIG = mixtures.DataConfig("toy_two", input_length=8, target_length=4, batch_size=4)


@pytest.fixture(scope="module", autouse=True)
def _toy_tasks():
    fields = {"inputs": str, "targets": str}
    for name, splits in (("toy_both", ["train", "validation"]), ("toy_train", ["train"])):
        rows = [{"inputs": "a", "targets": "b"}] * 3
        seqio.TaskRegistry.add(
            name,
            source=sources.GeneratedSource(lambda split, rows=rows: rows, splits, fields),
            preprocessors=features.tokenizing(),
            output_features=features.output_features(),
        )
    yield
    for name in ("toy_both", "toy_train"):
        seqio.TaskRegistry.remove(name)


@pytest.fixture
def add_mixture():
    """Registers a mixture for one test."""
    added = []

    def add(name, tasks):
        seqio.MixtureRegistry.add(name, tasks)
        added.append(name)

    yield add
    for name in added:
        seqio.MixtureRegistry.remove(name)


@pytest.mark.parametrize("rate", [0, 0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_draws_nothing_is_refused_when_the_mixture_is_opened(add_mixture, rate):
    add_mixture("toy_two", [("toy_both", 1.0), ("toy_train", rate)])
    said = f"mixture 'toy_two' has task 'toy_train' at rate {rate!r}; a rate must be a finite"
    with pytest.raises(ValueError, match=said):
        mixtures.open_mixture(CONFIG)


@pytest.mark.parametrize("vocabulary", [None, "byte"])
def test_a_rate_that_a_function_gives_is_refused_when_training_starts(add_mixture, vocabulary):
    add_mixture("toy_two", [("toy_both", 1.0), ("toy_train", lambda task: -2.0)])
    config = dataclasses.replace(CONFIG, vocabulary=vocabulary)
    opened = mixtures.open_mixture(config)
    with pytest.raises(ValueError, match="'toy_two' has task 'toy_train' at rate -2.0"):
        pipeline.HostBatches(config, "train", seqio.ShardInfo(0, 1))
    assert opened.rates("validation") == {"toy_both": 1.0}


@pytest.mark.parametrize("vocabulary", [None, "byte"])
def test_rates_are_by_registered_name_and_split(add_mixture, vocabulary):
    add_mixture("toy_two", [("toy_both", 3.0), ("toy_train", lambda task: 0.5)])
    config = dataclasses.replace(CONFIG, vocabulary=vocabulary)
    opened = mixtures.open_mixture(config)
    assert opened.rates("train") == {"toy_both": 3.0, "toy_train": 0.5}
    assert opened.rates("validation") == {"toy_both": 3.0}
    lone = mixtures.open_mixture(dataclasses.replace(config, mixture="toy_train"))
    assert lone.rates("train") == {"toy_train": 1.0}
    with pytest.raises(ValueError, match="no task of 'toy_two' has a split 'test'"):
        opened.rates("test")


def test_rates_of_mixtures_in_a_mixture_add_up(add_mixture):
    add_mixture("toy_two", [("toy_both", 1.0), ("toy_train", 3.0)])
    add_mixture("toy_nested", [("toy_two", 8.0), ("toy_both", 2.0)])
    opened = mixtures.open_mixture(dataclasses.replace(CONFIG, mixture="toy_nested"))
    assert opened.rates("train") == {"toy_both": 4.0, "toy_train": 6.0}  # 8/4 + 2 and 8 * 3/4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mixture": ""}, "mixture is ''"),
        ({"input_length": 1}, "input_length is 1; must be an integer of at least 2"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"shuffle_buffer": 0}, "shuffle_buffer is 0"),
        ({"cache_rows": -1}, "cache_rows is -1; must be an integer of at least 0"),
        ({"cache_rows": None}, "cache_rows is None"),
        ({"cache_dir": ""}, "cache_dir is ''; must be None or the path of a folder"),
        ({"architecture": "prefixlm"}, r"must be one of enc.*; did you mean 'prefix_lm'\?"),
        ({"hosts_read": "all"}, r"hosts_read is 'all'; must be one of all_rows, own_rows"),
    ],
)
def test_a_config_is_checked_when_it_is_built(change, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(CONFIG, **change)


def test_files_that_tasks_lack_are_listed_all_at_once(tmp_path):
    names = [f"toy_file_{letter}" for letter in "abc"]
    for name in names:
        seqio.TaskRegistry.add(
            name,
            source=sources.TfdsOrJsonlSource(name, {"inputs": str}, {"train": "train"}),
            preprocessors=features.tokenizing(),
            output_features=features.output_features(),
        )
    seqio.MixtureRegistry.add("toy_files", names, default_rate=1.0)
    before = sources.get_data_dir()
    try:
        for folder in ("toy_file_a", "toy_file_bb"):
            (tmp_path / folder).mkdir()
        config = mixtures.DataConfig("toy_files", 8, 4, batch_size=4, data_dir=str(tmp_path))
        (tmp_path / "toy_file_a" / "train.jsonl").write_text("{}\n")
        with pytest.raises(FileNotFoundError) as error:
            pipeline.HostBatches(config, "train", seqio.ShardInfo(0, 1))
        message = str(error.value)
        assert message.startswith("split 'train' of 'toy_files': 2 of 3 tasks have no file: ")
        assert "no task folder 'toy_file_b'; it has 2; nearest: toy_file_bb" in message
        assert "no task folder 'toy_file_c'" in message and "toy_file_a:" not in message
    finally:
        sources.set_data_dir(before)
        seqio.MixtureRegistry.remove("toy_files")
        for name in names:
            seqio.TaskRegistry.remove(name)
