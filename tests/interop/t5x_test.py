"""T5X checkpoints: a real one whose logits T5X computed, and broken ones."""

import dataclasses
import json
import os
import pathlib
import shutil

import jax
import ml_dtypes
import msgpack
import numpy as np
import pytest
import tensorstore
from flax import linen as nn
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict

from cascade_jax.interop.t5x import load_parameters
from cascade_jax.models.config import T5Config
from cascade_jax.models.t5 import T5, parameter_shapes

_DEFAULT_DATA = pathlib.Path(__file__).parents[2].parent / "shared" / "data"
_DATA = pathlib.Path(os.environ.get("CASCADE_JAX_TEST_DATA", _DEFAULT_DATA))
FIXTURE = _DATA.parent / "fixtures" / "t5x_tiny"
CONFIG = T5Config(7, 4, 1, 4, 6, 1, 1, mlp_activations=("relu",), tied_logits=True)


@pytest.mark.skipif(not FIXTURE.is_dir(), reason=f"no folder {FIXTURE}")
def test_logits_of_a_t5x_checkpoint():
    sizes = json.loads((FIXTURE / "config.json").read_text())
    del sizes["module"]
    sizes["embed_dim"] = sizes.pop("emb_dim")
    sizes["tied_logits"] = sizes.pop("logits_via_embedding")
    config = T5Config(**sizes)
    expected = np.load(FIXTURE / "expected.npz")
    params = load_parameters(FIXTURE / "checkpoint_0", config)
    logits = jax.jit(T5(config).apply)(
        {"params": params}, expected["encoder_input_tokens"], expected["decoder_input_tokens"]
    )
    counted = expected["decoder_loss_weights"] > 0
    np.testing.assert_allclose(logits[counted], expected["logits"][counted], atol=1e-4, rtol=0)


# ---------------------------------------------------------------- checkpoints made here


def _random_parameters():
    """{name: array} of the whole model, names joined with a slash."""
    rng = np.random.default_rng(0)
    shapes = flatten_dict(nn.meta.unbox(parameter_shapes(CONFIG)), sep="/")
    return {name: rng.normal(size=leaf.shape).astype(np.float32) for name, leaf in shapes.items()}


def _write(folder, parameters, *, prefix=""):
    """Writes each parameter as a Zarr array, norms into the index itself, and the index."""
    leaves = {}
    for name, array in parameters.items():
        if name.endswith("scale"):
            leaves[name] = array
            continue
        array_folder = "target." + name.replace("/", ".")
        spec = {
            "driver": "zarr",
            "kvstore": {"driver": "file", "path": f"{folder / array_folder}/"},
        }
        tensorstore.open(
            spec, create=True, delete_existing=True, dtype=array.dtype.name, shape=array.shape
        ).result().write(array).result()
        leaves[name] = {
            "driver": "zarr",
            "kvstore": {"driver": "file", "path": f"{prefix}{array_folder}/"},
            "metadata": {"shape": list(array.shape)},
        }
    target = unflatten_dict(leaves, sep="/")
    index = {"version": 3, "optimizer": {"target": target, "state": {"step": np.int32(5)}}}
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(index))


@pytest.mark.parametrize("prefix", ["", "models/t5/checkpoint_9/"], ids=["beside", "bucket path"])
def test_arrays_come_back_by_name(tmp_path, prefix):
    parameters = _random_parameters()
    _write(tmp_path, parameters, prefix=prefix)
    loaded = flatten_dict(load_parameters(str(tmp_path), CONFIG), sep="/")
    assert loaded.keys() == parameters.keys()
    for name, array in parameters.items():
        np.testing.assert_array_equal(loaded[name], array)


def test_bfloat16_becomes_float32(tmp_path):
    array = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16)
    _write(tmp_path, {"a/kernel": array})
    loaded = load_parameters(tmp_path)["a"]["kernel"]
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, array.astype(np.float32))


def test_folder_without_an_index(tmp_path):
    with pytest.raises(ValueError, match="is not a T5X checkpoint: no file 'checkpoint' in it$"):
        load_parameters(tmp_path)
    (tmp_path / "checkpoint_500").mkdir()
    with pytest.raises(ValueError, match="it holds checkpoint_500: name one of them"):
        load_parameters(tmp_path)
    with pytest.raises(ValueError, match="nowhere is not a T5X checkpoint"):
        load_parameters(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc1 not msgpack",
        b"plain text",
        msgpack.packb([1, 2]),
        msgpack.packb({"params": {}}),
        msgpack.packb({"optimizer": {"target": {}}}),
        msgpack.packb({"optimizer": {"target": {"a": {"b": 1}}}})[:-3],
    ],
)
def test_file_that_is_no_index(tmp_path, content):
    (tmp_path / "checkpoint").write_bytes(content)
    with pytest.raises(ValueError, match="is not the index of a T5X checkpoint: "):
        load_parameters(tmp_path)


def test_other_shape_is_refused_with_name_and_both_shapes(tmp_path):
    _write(tmp_path, _random_parameters())
    with pytest.raises(
        ValueError,
        match=r"coder/layers_0/mlp/wi/kernel: .* has shape \(4, 6\), the model \(4, 9\)",
    ):
        load_parameters(tmp_path, dataclasses.replace(CONFIG, mlp_dim=9))


def test_missing_and_unknown_parameters_are_refused(tmp_path):
    _write(tmp_path, _random_parameters())
    with pytest.raises(ValueError, match="lacks the parameter decoder/logits_dense/kernel"):
        load_parameters(tmp_path, dataclasses.replace(CONFIG, tied_logits=False))
    with pytest.raises(ValueError, match="lacks the parameter .*/wi_0/kernel; nearest is .*/wi/k"):
        load_parameters(tmp_path, dataclasses.replace(CONFIG, mlp_activations=("relu", "linear")))
    parameters = _random_parameters()
    _write(tmp_path, {**parameters, "decoder/layers_1/mlp/wi/kernel": np.zeros((4, 6))})
    with pytest.raises(ValueError, match="has the parameter decoder/layers_1/mlp/wi/kernel, which"):
        load_parameters(tmp_path, CONFIG)


def test_array_folder_that_is_gone(tmp_path):
    _write(tmp_path, _random_parameters())
    shutil.rmtree(tmp_path / "target.encoder.layers_0.mlp.wo.kernel")
    with pytest.raises(ValueError, match="encoder/layers_0/mlp/wo/kernel: no readable array at"):
        load_parameters(tmp_path, CONFIG)
