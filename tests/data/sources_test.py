"""Rows from files: what is read, and what each kind of bad file says."""

import json

import numpy as np
import pytest
import seqio
import tensorflow_datasets as tfds

from cascade_jax.data import sources

FIELDS = {"text": str, "label": range(2)}
SPLITS = {"train": "train", "validation": "test"}


@pytest.fixture(autouse=True)
def _restore_data_dir():
    before = sources.get_data_dir()
    sources.set_data_dir(None)  # whatever a test of another file has left
    yield
    sources.set_data_dir(before)


def _write(folder, name, split, rows):
    path = folder / name.replace("/", "__") / f"{split}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def _all(dataset):
    return list(dataset.as_numpy_iterator())


def test_serves_typed_and_nested_fields_in_file_order(tmp_path):
    rows = [
        {"text": "é", "label": 1, "score": 2, "ok": True, "c": {"text": ["x", "y"]}, "more": None},
        {"text": "b", "label": 0, "score": 0.5, "ok": False, "c": {"text": []}},
    ]
    _write(tmp_path, "a/b", "train", rows)
    sources.set_data_dir(tmp_path)
    fields = {**FIELDS, "score": float, "ok": bool, "c/text": list[str]}
    source = sources.TfdsOrJsonlSource("a/b:1.0.0", fields, SPLITS)
    first, second = _all(source.get_dataset("train", shuffle=False))
    assert first["text"] == "é".encode() and second["text"] == b"b"
    assert [first["label"], second["label"]] == [1, 0] and first["label"].dtype == np.int64
    assert [first["score"], second["score"]] == [2.0, 0.5] and first["score"].dtype == np.float32
    assert [first["ok"], second["ok"]] == [True, False]
    assert first["c"]["text"].tolist() == [b"x", b"y"] and second["c"]["text"].tolist() == []
    assert set(first) == {"text", "label", "score", "ok", "c"}
    assert source.num_input_examples("train") == 2


def test_a_split_may_come_from_a_file_of_another_name(tmp_path):
    _write(tmp_path, "t", "test", [{"text": "from test", "label": 0}])
    sources.set_data_dir(tmp_path)
    source = sources.TfdsOrJsonlSource("t:1.0.0", FIELDS, SPLITS)
    assert _all(source.get_dataset("validation", shuffle=False))[0]["text"] == b"from test"


def test_the_folder_may_be_given_after_the_source_is_built(tmp_path):
    source = sources.TfdsOrJsonlSource("t:1.0.0", FIELDS, SPLITS)
    for place, text in (("one", "1"), ("two", "2")):
        _write(tmp_path / place, "t", "train", [{"text": text, "label": 0}])
        sources.set_data_dir(tmp_path / place)
        assert _all(source.get_dataset("train"))[0]["text"] == text.encode()


def test_shuffling_keeps_the_rows_and_shards_divide_them(tmp_path):
    _write(tmp_path, "t", "train", [{"text": str(i), "label": 0} for i in range(25)])
    sources.set_data_dir(tmp_path)
    source = sources.TfdsOrJsonlSource("t:1.0.0", FIELDS, SPLITS)

    def texts(**kwargs):
        return [row["text"] for row in _all(source.get_dataset("train", **kwargs))]

    whole = texts(seed=3)
    assert whole == texts(seed=3) != texts(seed=4)
    assert sorted(whole) == sorted(str(i).encode() for i in range(25))
    shards = [texts(seed=3, shard_info=seqio.ShardInfo(i, 2)) for i in range(2)]
    assert [len(shard) for shard in shards] == [13, 12]
    assert sorted(shards[0] + shards[1]) == sorted(whole)


def _message(tmp_path, error, fields=FIELDS, split="train", folder=None):
    sources.set_data_dir(folder or tmp_path)
    source = sources.TfdsOrJsonlSource("glue/sst2:2.0.0", fields, SPLITS)
    with pytest.raises(error) as raised:
        source.get_dataset(split)
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_missing_folders_and_splits_say_what_is_there(tmp_path):
    message = _message(tmp_path, FileNotFoundError, folder=tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in message and "does not exist" in message
    _write(tmp_path, "glue/sst", "train", [])
    message = _message(tmp_path, FileNotFoundError)
    assert "no task folder 'glue__sst2'" in message and "nearest: glue__sst" in message
    _write(tmp_path, "glue/sst2", "train", [{"text": "a", "label": 0}])
    message = _message(tmp_path, FileNotFoundError, split="validation")
    assert "no split 'test'; it has ['train']" in message
    message = _message(tmp_path, ValueError, split="dev")
    assert message == "glue/sst2 has no split 'dev'; it has ['train', 'validation']"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "a", ', "train.jsonl:2: not JSON ("),
        ("[1]", "train.jsonl:2: is [1]; must be an object"),
        ('{"text": "a"}', "train.jsonl:2: lacks field 'label'; the line has ['text']"),
        (
            '{"text": 7, "label": 1}',
            "train.jsonl:2: field 'text' is 7, must be a string",
        ),
        (
            '{"text": "a", "label": 2}',
            "train.jsonl:2: field 'label' is 2, must be an integer from 0 to 1",
        ),
        (
            '{"text": "a", "label": true}',
            "train.jsonl:2: field 'label' is true, must be an integer from 0 to 1",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, said):
    path = _write(tmp_path, "glue/sst2", "train", [{"text": "a", "label": 0}])
    path.write_text(path.read_text() + line + "\n")
    assert said in _message(tmp_path, ValueError)


def test_other_bad_types_and_files(tmp_path):
    path = _write(tmp_path, "glue/sst2", "train", [{"text": "a", "label": 0.5, "c": ["x", 1]}])
    said = _message(tmp_path, ValueError, {"c": list[str]})
    assert "field 'c' is [\"x\", 1], must be a list of strings" in said
    assert "is 0.5, must be an integer" in _message(tmp_path, ValueError, {"label": int})
    assert 'is "a", must be a number' in _message(tmp_path, ValueError, {"text": float})
    assert 'is "a", must be true or false' in _message(tmp_path, ValueError, {"text": bool})
    assert "lacks field 'text/x'" in _message(tmp_path, ValueError, {"text/x": str})
    for value, kind, said in (
        (2**63, int, f"is {2**63}, must be an integer of 64 bits"),
        ([-(2**63) - 1], list[int], "must be a list of integers of 64 bits"),
        (1e39, float, "is 1e+39, must be a number in the range of float32"),
        (10**300, float, "must be a number in the range of float32"),
    ):
        _write(tmp_path, "glue/sst2", "train", [{"x": value}])
        assert said in _message(tmp_path, ValueError, {"x": kind})
    path.write_text('{"x": NaN}')
    assert "train.jsonl:1: holds NaN" in _message(tmp_path, ValueError, {"x": float})
    path.write_bytes(b'{"text": "\xff", "label": 0}\n')
    assert "train.jsonl:1: not UTF-8" in _message(tmp_path, ValueError)
    path.write_text("\n \n")
    assert "train.jsonl: is empty" in _message(tmp_path, ValueError)


def test_data_that_tfds_lacks_asks_for_a_folder():
    sources.set_data_dir(None)
    source = sources.TfdsOrJsonlSource("tatoeba_pairs/zh-en", {}, SPLITS, is_in_tfds=False)
    with pytest.raises(ValueError, match="tatoeba_pairs/zh-en is not in TFDS: set a data folder"):
        source.get_dataset("train")


def test_without_a_folder_rows_come_from_tfds_with_the_same_fields():
    sources.set_data_dir(None)
    source = sources.TfdsOrJsonlSource(
        "ag_news_subset:1.0.0", {"title": str, "label": range(4)}, SPLITS
    )
    policy = tfds.testing.MockPolicy.USE_CODE
    with tfds.testing.mock_data(num_examples=3, policy=policy):
        rows = _all(source.get_dataset("validation", shuffle=False))
    assert len(rows) == 3
    for row in rows:
        assert set(row) == {"title", "label"}
        assert isinstance(row["title"], bytes) and row["label"].dtype == np.int64


def test_generated_rows_are_made_once():
    calls = []

    def make(split):
        calls.append(split)
        return [{"x": 1}, {"x": 2}]

    source = sources.GeneratedSource(make, ["train"], {"x": int})
    for _ in range(2):
        assert [row["x"] for row in _all(source.get_dataset("train", shuffle=False))] == [1, 2]
    assert calls == ["train"]


def test_a_name_that_tfds_does_not_know_is_answered_with_the_data_folder():
    source = sources.TfdsOrJsonlSource("no_such_reviews", {"text": str}, {"train": "train"})
    message = r"^no_such_reviews is not in TFDS: set a data folder \(DATA_DIR\) that holds "
    with pytest.raises(ValueError, match=message):
        source.get_dataset("train")


def test_a_list_of_integers_is_served(tmp_path):
    _write(tmp_path, "t", "train", [{"n": [3, 1]}, {"n": []}])
    sources.set_data_dir(tmp_path)
    source = sources.TfdsOrJsonlSource("t:1.0.0", {"n": list[int]}, {"train": "train"})
    rows = [row["n"] for row in _all(source.get_dataset("train", shuffle=False))]
    assert [row.tolist() for row in rows] == [[3, 1], []] and rows[0].dtype == np.int64


def test_blank_texts_are_refused_but_in_the_fields_named(tmp_path):
    _write(tmp_path, "t", "train", [{"a": "", "b": "x"}])
    sources.set_data_dir(tmp_path)

    def read(**kwargs):
        fields = {"a": str, "b": str}
        source = sources.TfdsOrJsonlSource("t:1.0.0", fields, {"train": "train"}, **kwargs)
        return source.rows("train")

    assert read() == read(blank_texts=["a"]) == [{"a": "", "b": "x"}]
    for refusing in (False, ["b"]):
        with pytest.raises(ValueError, match="train.jsonl:1: field 'a' is '', must have text"):
            read(blank_texts=refusing)


def test_a_split_is_available_if_its_file_is_there(tmp_path):
    source = sources.TfdsOrJsonlSource("glue/sst2:2.0.0", FIELDS, SPLITS | {"test": "test[:5]"})
    sources.set_data_dir(tmp_path)
    assert not source.is_available("train")
    _write(tmp_path, "glue/sst2", "test", [{"text": "a", "label": 0}])
    actual = {split: source.is_available(split) for split in source.splits}
    assert actual == {"train": False, "validation": True, "test": True}
    with pytest.raises(ValueError, match="has no split 'dev'"):
        source.is_available("dev")


@pytest.mark.parametrize("name", ["glue/sst2:2.0.0", "squad:1.0.0"])
def test_a_split_of_tfds_is_available_once_prepared(monkeypatch, tmp_path, name):
    slices = {"train": "train[:30000]", "validation": "train[-200:]", "test": "test"}
    source = sources.TfdsOrJsonlSource(name, FIELDS, slices)
    monkeypatch.setattr(source._tfds.tfds_dataset, "_data_dir", str(tmp_path))
    assert not source.is_available("train")
    # A name without a config is that of the builder's first one.
    builder, version = name.split(":")
    folder = tmp_path / builder / ("" if "/" in builder else "plain") / version
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(json.dumps({"splits": [{"name": "train"}]}))
    actual = {split: source.is_available(split) for split in source.splits}
    assert actual == {"train": True, "validation": True, "test": False}
    unknown = sources.TfdsOrJsonlSource("x", FIELDS, SPLITS, is_in_tfds=False)
    assert not unknown.is_available("train")


def test_a_manual_download_says_what_to_put_where(monkeypatch, tmp_path):
    def source(manual):
        splits = {"train": "validation[:-200]"}
        made = sources.TfdsOrJsonlSource("story_cloze/2016:1.0.0", {}, splits, manual=manual)
        monkeypatch.setattr(made._tfds.tfds_dataset, "_data_dir", str(tmp_path))
        return made

    with pytest.raises(AssertionError):  # what TFDS itself says
        source(None).get_dataset("train")
    with pytest.raises(FileNotFoundError) as caught:
        source("put b.csv into c").get_dataset("train")
    assert str(caught.value) == (
        "story_cloze/2016 must be downloaded by hand: put b.csv into c; or set a data folder "
        "(DATA_DIR) that holds story_cloze__2016/<split>.jsonl"
    )
