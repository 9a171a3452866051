"""XSum on mock rows and real ones, the short summaries, and what to do without its download."""

import jax
import numpy as np
import pytest
import seqio
import tensorflow_datasets as tfds

import tasks.summarization as summarization
from cascade_jax.data import catalog, features, pipeline, sources
from cascade_jax.data.vocabulary import load as vocabulary
from cascade_jax.data.vocabulary import training
from cascade_jax.task_metrics import quality
from tests.support.rows import write

ONE_DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])
XSUM, SHORT = "cascade_xsum_xsum_v1", "cascade_xsum_short_v1"


def _config(name, vocabulary=None):
    return pipeline.DataConfig(name, 64, 32, 2, shuffle_buffer=4, vocabulary=vocabulary)


def _write(folder, rows, split="validation"):
    write(folder, "xsum", rows, split)


def test_a_training_batch_of_tfds_rows(monkeypatch):
    sources.set_data_dir(None)
    assert [catalog.card_of(name).kind for name in (XSUM, SHORT)] == ["summarization"] * 2
    # Mock data has rows but no files.
    monkeypatch.setattr(seqio.TfdsDataSource, "list_shards", lambda self, split: [split])
    with tfds.testing.mock_data(num_examples=4, policy=tfds.testing.MockPolicy.USE_CODE):
        batch = next(pipeline.train_batches(_config(XSUM), ONE_DEVICE))
    assert np.asarray(batch.inputs).shape == (2, 64)
    prefix = [byte + 3 for byte in b"summarize: "]
    assert (np.asarray(batch.inputs)[:, : len(prefix)] == prefix).all()


def test_a_real_row_and_the_target_as_answer(data_folder):
    sources.set_data_dir(data_folder)
    example = next(pipeline.decode_examples(_config(XSUM), XSUM, "train"))
    start = "summarize: The owners said their planned £80m development at the site in Bewdley, "
    assert example.inputs_text.startswith(start)
    assert example.inputs_text.endswith('it will bring a great deal of employment."')
    assert example.target == (
        "Proposals for an indoor water park and a hotel at West Midland Safari Park have been "
        "approved by councillors."
    )
    metrics = seqio.TaskRegistry.get(XSUM).metric_fns
    assert set(metrics[0](["a b"], ["a b"])) == {"rouge1", "rouge2", "rougeL"}
    name, values = quality.per_example_quality(metrics, [example.target], [example.target])
    assert (name, values.tolist()) == ("rouge1", [1.0])


def test_short_summaries_are_counted_in_words_or_in_tokens(tmp_path):
    summaries = [" ".join([word] * n) for word, n in [("dog", 20), ("dog", 21), ("gzwf", 10)]]
    pangram = "the quick brown fox jumps over the lazy dog and the quick dog jumps over the fox"
    _write(tmp_path, [{"document": pangram, "summary": text} for text in summaries])
    result = pipeline.decode_examples(_config(SHORT), SHORT, "validation")
    assert [example.target_text for example in result] == [summaries[0], summaries[2]]
    # Trained on the pangram and "dog": no piece is much of the other word.
    _write(tmp_path, [{"document": pangram, "summary": summaries[0]}] * 5, "train")
    trained = training.train_sentencepiece(XSUM, str(tmp_path / "v"), 290)
    loaded = vocabulary.load_vocabulary(trained.model_path)
    assert [len(loaded.encode(text)) <= 20 for text in summaries] == [True, False, False]
    result = pipeline.decode_examples(_config(SHORT, trained.model_path), SHORT, "validation")
    assert [example.target_text for example in result] == summaries[:1]
    with pytest.raises(ValueError, match="no split 'train'"):
        next(pipeline.decode_examples(_config(SHORT), SHORT, "train"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"document": "d"}, "lacks field 'summary'"),
        ({"document": "d", "summary": ""}, "'summary' is '', must have text"),
        ({"document": ["d"], "summary": "s"}, "'document' is .*, must be a string"),
    ],
)
def test_a_bad_row_is_named_with_folder_split_and_line(tmp_path, row, message):
    _write(tmp_path, [{"document": "d", "summary": "s"}, row], "train")
    with pytest.raises(ValueError, match=f"xsum/train.jsonl:2: .*{message}"):
        seqio.TaskRegistry.get(XSUM).get_dataset(None, "train")


def test_without_the_download_it_says_what_to_put_where(monkeypatch):
    def missing(*_args, **_kwargs):
        raise AssertionError("Manual directory does not exist")

    sources.set_data_dir(None)
    monkeypatch.setattr(seqio.TfdsDataSource, "get_dataset", missing)
    message = "by hand: .*xsum-extracts-from-downloads.tar.gz.*manual folder.*or set a data folder"
    with pytest.raises(FileNotFoundError, match=message):
        seqio.TaskRegistry.get(XSUM).get_dataset({features.INPUTS: 8, features.TARGETS: 8}, "test")
    assert summarization.XSUM == XSUM
