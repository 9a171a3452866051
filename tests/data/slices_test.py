"""Slices of local files: TFDS's notation, Python's meaning, nothing held out in training."""

import json

import hypothesis
import hypothesis.strategies as st
import pytest
import tensorflow_datasets as tfds

from cascade_jax.data import slices, sources

FLAN = {"train": "train[:30000]", "validation": "train[-200:]", "test": "validation"}


def _parsed(splits):
    return {name: slices.parse_slice(text) for name, text in splits.items()}


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("train", range(10)),
        ("train[:3]", [0, 1, 2]),
        ("train[-3:]", [7, 8, 9]),
        ("train[-6:-5]", [4]),
        ("train[2:4]", [2, 3]),
        ("train[:-8]", [0, 1]),
        ("train_xl[:99]", range(10)),  # TFDS would refuse it
        ("train[-99:-7]", [0, 1, 2]),
        ("train[:]", range(10)),
        ("v1.1[20:]", []),
    ],
)
def test_a_slice_of_ten_rows(text, rows):
    assert list(slices.parse_slice(text).rows(10)) == list(rows)


@pytest.mark.parametrize("text", ["train", "train[:3]", "train[-3:]", "a_b-c.d[-6:-5]"])
def test_a_slice_reads_back_as_it_was_written(text):
    assert str(slices.parse_slice(text)) == text


@pytest.mark.parametrize("text", ["train[:10%]", "train+test", "train[0]", "[:3]", "train[:3", ""])
def test_other_forms_are_refused(text):
    with pytest.raises(ValueError, match="must be a split, or part of one such as") as caught:
        slices.parse_slice(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("slice_text", ["train[:300]", "train[-200:]", "train[-600:-500]", "train"])
def test_slices_of_a_split_that_is_large_enough_are_those_of_tfds(slice_text):
    split = tfds.core.SplitInfo(
        name="train",
        shard_lengths=[1000],
        num_bytes=0,
        filename_template=tfds.core.ShardedFileTemplate(
            data_dir="/nowhere", dataset_name="x", split="train", filetype_suffix="tfrecord"
        ),
    )
    expected = tfds.core.SplitDict([split])[slice_text].file_instructions[0]
    rows = slices.parse_slice(slice_text).rows(1000)
    skip, take = expected.skip, expected.take
    assert (rows.start, len(rows)) == (skip, 1000 - skip if take == -1 else take)


ends = st.none() | st.integers(-12, 12)
any_slice = st.builds(slices.SplitSlice, st.just("train"), ends, ends)


@hypothesis.given(any_slice, any_slice, any_slice, st.integers(1, 10))
def test_training_never_has_a_row_that_is_held_out(train, validation, test, size):
    splits = {"train": train, "validation": validation, "test": test}
    held_out = {*validation.rows(size), *test.rows(size)}
    expected = [row for row in train.rows(size) if row not in held_out]
    if not expected:
        with pytest.raises(ValueError, match=f"has {size} rows, of which none is in"):
            slices.rows_of("train", splits, size)
    else:
        assert list(slices.rows_of("train", splits, size)) == expected


@hypothesis.given(st.sets(st.integers(0, 12), min_size=1))
def test_ranges_name_exactly_the_rows(rows):
    text = slices.as_ranges(sorted(rows))
    read = [range(*map(int, part.split(":"))) for part in text.split(",")]
    assert [row for part in read for row in part] == sorted(rows)
    assert len(read) == sum(row - 1 not in rows for row in rows)


def test_another_file_holds_nothing_out():
    splits = _parsed({"train": "train", "validation": "validation[:200]", "test": "test"})
    assert list(slices.rows_of("train", splits, 5)) == [0, 1, 2, 3, 4]


# ---- in a source


@pytest.fixture(autouse=True)
def _restore_data_dir():
    before = sources.get_data_dir()
    sources.set_data_dir(None)
    yield
    sources.set_data_dir(before)


def _source(folder, size, splits=FLAN, **kwargs):
    path = folder / "t" / "train.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"x": i}) + "\n" for i in range(size)), "utf-8")
    sources.set_data_dir(folder)
    return sources.TfdsOrJsonlSource("t:1.0.0", {"x": int}, splits, **kwargs)


def _served(source, split):
    rows = source.get_dataset(split, shuffle=False).as_numpy_iterator()
    return [int(row["x"]) for row in rows]


def test_a_source_serves_and_counts_the_rows_of_its_slices(tmp_path):
    source = _source(tmp_path, 250)
    assert _served(source, "train") == list(range(50))
    assert _served(source, "validation") == list(range(50, 250))
    assert {s: source.num_input_examples(s) for s in ("train", "validation")} == {
        "train": 50,
        "validation": 200,
    }


def test_a_file_with_nothing_left_to_train_on_says_so(tmp_path):
    source = _source(tmp_path, 150)
    with pytest.raises(ValueError) as caught:
        source.get_dataset("train")
    assert "t/train.jsonl: has 150 rows, of which none is in train[:30000] without train" in str(
        caught.value
    )
    assert len(_served(source, "validation")) == 150


def test_a_fingerprint_tells_the_rows_and_the_file(tmp_path):
    whole = {"train": "train", "validation": "validation"}
    marks = [
        _source(tmp_path, size, splits).fingerprint(split)
        for size, splits, split in [
            (250, FLAN, "train"),
            (250, FLAN, "validation"),
            (250, whole, "train"),
            (251, whole, "train"),
            (250, {"train": "train[:50]"}, "train"),
        ]
    ]
    assert marks[0].endswith("[0:50]") and marks[1].endswith("[50:250]")
    assert marks[0] == marks[4] and len(set(marks[:4])) == 4
    assert "[" not in marks[2]


def test_rows_say_whether_they_are_for_training(tmp_path):
    source = _source(tmp_path, 250, training_flag=True)
    for split in ("train", "validation"):
        row = next(source.get_dataset(split, shuffle=False).as_numpy_iterator())
        assert row["is_training"] == (split == "train")


def test_rows_of_tfds_say_so_too():
    fields = {"title": str, "label": range(4)}
    source = sources.TfdsOrJsonlSource("ag_news_subset:1.0.0", fields, FLAN, training_flag=True)
    with tfds.testing.mock_data(num_examples=1, policy=tfds.testing.MockPolicy.USE_CODE):
        for split in ("train", "test"):
            (row,) = source.get_dataset(split, shuffle=False).as_numpy_iterator()
            assert set(row) == {"title", "label", "is_training"}
            assert row["is_training"] == (split == "train")
