"""C4's tasks on mock rows, their stand-ins on real text, and resuming among chunks."""

import dataclasses

import jax
import numpy as np
import pytest
import seqio
import tensorflow_datasets as tfds

import tasks.c4 as c4
from cascade_jax.data import catalog, pipeline, sources
from cascade_jax.data.vocabulary import training
from cascade_jax.task_metrics import quality
from tests.support.rows import write

ONE_DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])
SPANS, PREFIX = "cascade_wikitext2_span_corruption_v1", "cascade_wikitext2_prefix_lm_v1"


def _config(name, **changes):
    config = pipeline.DataConfig(name, 512, 114, batch_size=2, shuffle_buffer=4)
    return dataclasses.replace(config, **changes)


def test_the_tasks_have_names_and_cards():
    names = [
        f"cascade_{suite}_{objective}_v1"
        for suite in ("c4", "wikitext2")
        for objective in ("span_corruption", "prefix_lm")
    ]
    assert list(c4.TASKS) == names
    assert {catalog.card_of(name).kind for name in names} == {"language_modeling"}


@pytest.mark.medium
def test_c4_makes_a_training_batch_of_tfds_rows(monkeypatch):
    sources.set_data_dir(None)
    # Mock data has rows but no files.
    monkeypatch.setattr(seqio.TfdsDataSource, "list_shards", lambda self, split: [split])
    with tfds.testing.mock_data(num_examples=40, policy=tfds.testing.MockPolicy.USE_CODE):
        for name in c4.TASKS[:2]:
            batch = next(pipeline.train_batches(_config(name), ONE_DEVICE))
            inputs, targets = np.asarray(batch.inputs), np.asarray(batch.targets)
            assert inputs.shape == (2, 512) and targets.shape == (2, 114)
            assert ((inputs == 1).sum(1) == 1).all() and ((targets == 1).sum(1) == 1).all()
            assert (inputs.max() > 258) == ("span" in name)  # sentinels
            assert next(pipeline.eval_batches(_config(name), ONE_DEVICE)).inputs.shape == (2, 512)


# ---- real text


def _ids(name, input_length, target_length):
    """Input and target of the first chunk: printable bytes, a sentinel as its place, EOS as $."""
    lengths = {"inputs": input_length, "targets": target_length}
    rows = seqio.TaskRegistry.get(name).get_dataset(lengths, "validation", shuffle=False)
    row = next(rows.as_numpy_iterator())
    shown = {1: "$"} | {358 - place: f"<{place}>" for place in range(100)}
    return tuple(
        "".join(shown[i] if i in shown else chr(i - 3) for i in row[feature].tolist())
        for feature in ("inputs", "targets")
    )


def _texts(name, split, **changes):
    result = next(pipeline.decode_examples(_config(name, **changes), name, split))
    return result.inputs_text, result.target_text


def test_real_chunks_read_as_they_should(real_data):
    assert _ids(PREFIX, 40, 48) == ("= Robert Bou$", "lter = \n \n Robert Boulter is$")
    assert _ids(SPANS, 48, 16) == (
        "= Robert Boulter = \n \n Robert Bou<0>ter is<1> Engl<2>$",
        "<0>l<1> an<2>ish $",
    )


def test_a_train_chunk_is_corrupted_anew_each_time_around(tmp_path):
    text = "".join(chr(97 + i % 26) for i in range(568))
    _write(tmp_path, [{"text": text}])
    batches = pipeline.train_batches(_config(SPANS, batch_size=1), ONE_DEVICE)
    assert len({np.asarray(next(batches).inputs).tobytes() for _ in range(6)}) == 6


@pytest.mark.medium
def test_the_share_of_noise_is_that_of_the_paper(real_data):
    rows = seqio.get_mixture_or_task(SPANS).get_dataset(
        {"inputs": 512, "targets": 114}, "validation", shuffle=False, try_in_mem_cache=False
    )
    taken = spans = tokens = 0
    for row in rows.as_numpy_iterator():
        count = int((row["targets"] > 258).sum())
        taken += len(row["targets"]) - 1 - count
        tokens += len(row["inputs"]) - 1 - count + (len(row["targets"]) - 1 - count)
        spans += count
    size = sum(len(row["text"].encode()) for row in _source(SPANS).rows("validation"))
    assert tokens == size > 500_000
    assert taken / tokens == pytest.approx(0.15, abs=1e-3)
    assert taken / spans == pytest.approx(3.0, abs=0.05)


def _source(name):
    return seqio.TaskRegistry.get(name).source


@pytest.mark.medium
@pytest.mark.parametrize("name", [SPANS, PREFIX])
def test_training_resumes_in_the_midst_of_a_text(real_data, name):
    config = _config(name, batch_size=8)
    iterator = pipeline.train_batches(config, ONE_DEVICE)
    for _ in range(3):
        next(iterator)
    state = iterator.get_state()
    fresh = pipeline.train_batches(config, ONE_DEVICE)
    fresh.set_state(state)
    for _ in range(5):
        expected, actual = next(iterator), next(fresh)
        np.testing.assert_array_equal(actual.inputs, expected.inputs)
        np.testing.assert_array_equal(actual.targets, expected.targets)


@pytest.mark.parametrize("name", [SPANS, PREFIX])
def test_the_target_as_answer_is_worth_1(real_data, name):
    examples = list(pipeline.decode_examples(_config(name), name, "validation", limit=3))
    opened = pipeline.open_mixture(_config(name))
    metrics = opened.tasks[name].metric_fns
    targets = [example.target for example in examples]
    answers = [pipeline.answer_for_metric(opened, e, e.target_text) for e in examples]
    metric, values = quality.per_example_quality(metrics, targets, answers)
    assert metric == "accuracy" and values.tolist() == [1.0] * 3


@pytest.mark.medium
def test_a_sentencepiece_vocabulary_takes_sentinels_too(real_data, tmp_path):
    prefix = str(tmp_path / "text")
    trained = training.train_sentencepiece(PREFIX, prefix, 400, split="validation")
    with pytest.raises(ValueError, match="takes 28 sentinel ids, the vocabulary has 0"):
        _texts(SPANS, "validation", vocabulary=trained.model_path)
    inputs, target = _texts(SPANS, "validation", vocabulary=f"{trained.model_path}+100")
    assert inputs.count("<extra_id_") == target.count("<extra_id_") == 28
    assert target.strip().startswith("<extra_id_0>") and "<extra_id_27>" in inputs


# ---- bad files


def _write(folder, rows):
    write(folder, "wikitext__wikitext-2-raw-v1", rows, "train")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"texts": "a"}, "lacks field 'text'"),
        ({"text": 5}, "'text' is 5, must be a string"),
        ({"text": " "}, "'text' is ' ', must have text"),
    ],
)
def test_a_bad_row_is_named_with_folder_split_and_line(tmp_path, row, message):
    _write(tmp_path, [{"text": "fine"}, row])
    place = "wikitext__wikitext-2-raw-v1/train.jsonl:2: "
    with pytest.raises(ValueError, match=f"{place}.*{message}"):
        next(pipeline.train_batches(_config(SPANS), ONE_DEVICE))


def test_wikitext_without_a_folder_says_what_is_missing():
    sources.set_data_dir(None)
    with pytest.raises(ValueError, match="not in TFDS.*wikitext__wikitext-2-raw-v1"):
        next(pipeline.train_batches(_config(SPANS), ONE_DEVICE))
