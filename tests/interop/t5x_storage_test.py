"""Paths of folders and buckets, and the cutting of arrays into chunks."""

import math

import pytest
import tensorstore
from flax import serialization
from hypothesis import given
from hypothesis import strategies as st

from cascade_jax.interop import t5x_storage


@pytest.mark.parametrize(
    "path", ["gs://models-b/models/t5/checkpoint_9", "gs://models-b/models/t5/checkpoint_9/"]
)
def test_a_bucket(path):
    spec = {"driver": "gcs", "bucket": "models-b", "path": "models/t5/checkpoint_9/"}
    assert t5x_storage.key_value_store(path) == spec
    assert tensorstore.KvStore.Spec(spec).path == spec["path"]  # it is one that tensorstore knows


def test_a_local_folder_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = {"driver": "file", "path": f"{tmp_path}/a/b/"}
    assert t5x_storage.key_value_store("a/b/") == spec
    assert t5x_storage.key_value_store(tmp_path / "a" / "b") == spec


@pytest.mark.parametrize("path", ["s3://bucket/folder", "gs://bucket", "file:///tmp/x"])
def test_other_places_are_refused(path):
    with pytest.raises(ValueError, match="neither a local folder nor gs://BUCKET/FOLDER"):
        t5x_storage.key_value_store(path)


@given(st.lists(st.integers(1, 40000), min_size=0, max_size=3), st.sampled_from([2, 4]))
def test_chunks_divide_the_array_evenly_and_are_small(shape, item_bytes):
    chunks = t5x_storage.chunk_shape(tuple(shape), item_bytes)
    assert len(chunks) == len(shape)
    assert all(length % chunk == 0 for length, chunk in zip(shape, chunks, strict=True))
    assert math.prod(chunks) * item_bytes <= 64 * 2**20


def test_an_array_that_is_small_enough_is_one_chunk():
    assert t5x_storage.chunk_shape((32128, 512), 4) == (32128, 512)
    assert t5x_storage.chunk_shape((32128, 4096), 4) == (4016, 4096)


@pytest.mark.parametrize("leaf", ["text", {"kvstore": {}, "driver": "zarr"}])
def test_an_entry_of_an_index_that_is_no_array_is_named(tmp_path, leaf):
    tree = {"version": 3, "optimizer": {"target": {"a": leaf}, "state": {"step": 1}}}
    (tmp_path / "checkpoint").write_bytes(serialization.msgpack_serialize(tree))
    with pytest.raises(
        ValueError, match=f"^{tmp_path}/checkpoint: target/a is .*; must be an array"
    ):
        t5x_storage.open_checkpoint(tmp_path)
