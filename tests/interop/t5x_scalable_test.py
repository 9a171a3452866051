"""T5X's scalable network, which has a relative position bias in every layer: in and out.

The parameters and logits in the folder t5x_scalable were made by T5X alone.
"""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from cascade_jax.interop import t5x_checkpoints, t5x_storage
from cascade_jax.models import t5
from cascade_jax.models.config import T5Config
from tests.support import t5x_files

pytestmark = pytest.mark.medium

MADE = pathlib.Path(__file__).parent / "t5x_scalable"
CONFIG = T5Config(7, 4, 2, 3, 6, 2, 3)
PER_LAYER = dataclasses.replace(CONFIG, relative_bias_per_layer=True)


def made_by_t5x(layout, folder):
    """The arrays of a file, and a checkpoint of its parameters."""
    arrays = dict(np.load(MADE / f"{layout}.npz"))
    names = {tuple(name.split("/")[1:]): name for name in arrays if name.startswith("target/")}
    target = unflatten_dict({name: arrays[whole] for name, whole in names.items()})
    t5x_files.write_orbax(folder / "checkpoint_3", 3, target, {})
    return arrays, folder / "checkpoint_3"


def logits(config, params, arrays):
    tokens = (arrays[name].astype(np.int32) for name in ("inputs", "decoder_inputs"))
    result = jax.jit(t5.T5(config).apply)({"params": params}, *tokens)
    return result[:, arrays["positions"]]


@pytest.mark.parametrize(
    ("layout", "scan_layers"), [("scanned", False), ("scanned", True), ("unscanned", False)]
)
def test_logits_are_t5xs_and_an_export_has_t5xs_parameters(tmp_path, layout, scan_layers):
    arrays, path = made_by_t5x(layout, tmp_path)
    is_scanned = layout == "scanned"
    expected = T5Config(
        384, 8, 3, 4, 12, 2, 3, tied_logits=not is_scanned, relative_bias_per_layer=True
    )
    assert t5x_checkpoints.config_of(path) == expected
    config = dataclasses.replace(expected, scan_layers=scan_layers)
    checkpoint = t5x_checkpoints.load(path, config)
    names = {"scanned": "scanned", "unscanned": "unrolled"}
    assert (checkpoint.step, checkpoint.layout) == (3, names[layout])
    actual = logits(config, checkpoint.params, arrays)
    np.testing.assert_allclose(actual, arrays["logits"], atol=1e-5, rtol=0)
    out = t5x_checkpoints.save(
        tmp_path / "out", config, checkpoint.params, 3, layout=checkpoint.layout
    )
    stored = t5x_storage.open_checkpoint(out)
    exported = {"/".join(name): value for name, value in t5x_storage.read_all(out, stored)}
    assert exported.pop("state/step") == 3
    t5x_files.assert_same(exported, {n: a for n, a in arrays.items() if n.startswith("target/")})


def test_each_bias_counts():
    """Another bias of any layer gives other logits, and so would one for all."""
    arrays = dict(np.load(MADE / "scanned.npz"))
    for stack, count in (("encoder", 2), ("decoder", 3)):
        biases = arrays[f"target/{stack}/{stack}/relpos_bias/rel_embedding"]
        assert biases.shape == (3, count, 32)
        for layer in range(1, count):
            assert np.abs(biases[:, layer] - biases[:, 0]).max() > 0.1


def change_bias(path, stack="encoder", by=0.5):
    """Changes one number in the bias of a stack's second layer."""
    name = ("target", stack, stack, "relpos_bias", "rel_embedding")
    array = t5x_storage.open_checkpoint(path)[name].source
    array[0, 1, 3] = array[0, 1, 3].read().result() + by


def test_layers_that_differ_need_a_model_with_a_bias_each(tmp_path):
    params = t5x_files.random_parameters(CONFIG)
    out = t5x_checkpoints.save(tmp_path, CONFIG, params, layout="scanned")
    assert t5x_checkpoints.config_of(out) == CONFIG
    change_bias(out)
    change_bias(out, "decoder", by=0.25)
    message = (
        "the 2 layers of the encoder have different relative position biases .by up to 0.5. and "
        "the 3 layers of the decoder .* and the model has one for all layers; a model with "
        "relative_bias_per_layer = True holds them"
    )
    with pytest.raises(ValueError, match=message):
        t5x_checkpoints.load(out, CONFIG)
    assert t5x_checkpoints.config_of(out) == PER_LAYER
    for config in (PER_LAYER, None):
        loaded = t5x_checkpoints.load(out, config).params
        biases = [
            loaded["encoder"][f"layers_{i}"]["relpos_bias"]["rel_embedding"] for i in range(2)
        ]
        difference = np.zeros((2, 32), np.float32)
        difference[0, 3] = 0.5
        np.testing.assert_allclose(biases[1] - biases[0], difference, atol=1e-6)
        assert "relpos_bias" not in loaded["encoder"]


def test_numbers_that_are_not_finite_are_refused_by_name(tmp_path):
    params = t5x_files.random_parameters(PER_LAYER)
    out = t5x_checkpoints.save(tmp_path, PER_LAYER, params, layout="scanned")
    change_bias(out, by=float("nan"))
    name = "encoder/layers_1/relpos_bias/rel_embedding"
    for config in (CONFIG, PER_LAYER, None):
        with pytest.raises(ValueError, match="by up to nan" if config == CONFIG else name):
            t5x_checkpoints.load(out, config)
    params["decoder"]["layers_2"]["mlp"]["wo"]["kernel"][1, 2] = np.inf
    with pytest.raises(ValueError, match="infinite numbers in decoder/layers_2/mlp/wo/kernel"):
        t5x_checkpoints.save(tmp_path / "other", PER_LAYER, params)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("layout", "scan_layers"), [("unrolled", True), ("scanned", False)])
def test_one_bias_is_repeated_for_a_model_with_a_bias_per_layer(tmp_path, layout, scan_layers):
    params = t5x_files.random_parameters(CONFIG)
    out = t5x_checkpoints.save(tmp_path, CONFIG, params, layout=layout)
    config = dataclasses.replace(PER_LAYER, scan_layers=scan_layers)
    loaded = t5x_checkpoints.load(out, config).params
    shared = params["decoder"]["relpos_bias"]["rel_embedding"]
    if scan_layers:
        biases = loaded["decoder"]["layers"]["relpos_bias"]["rel_embedding"]
    else:
        biases = [
            loaded["decoder"][f"layers_{i}"]["relpos_bias"]["rel_embedding"] for i in range(3)
        ]
    np.testing.assert_array_equal(biases, np.stack([shared] * 3))
    again = t5x_checkpoints.save(tmp_path / "again", config, loaded, layout=layout)
    t5x_files.assert_same(t5x_checkpoints.load(again, CONFIG).params, params)


def test_biases_that_are_incomplete_or_twice_there_are_named(tmp_path):
    params = t5x_files.random_parameters(PER_LAYER)

    def error(config):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        t5x_files.write_orbax(folder, 0, params, {})
        with pytest.raises(ValueError) as caught:
            t5x_checkpoints.load(folder, config)
        return str(caught.value)

    bias = params["encoder"]["layers_1"].pop("relpos_bias")
    missing = "1 missing: encoder/layers_1/relpos_bias/rel_embedding"
    assert missing in error(PER_LAYER)
    params["encoder"]["layers_1"]["relpos_bias"] = bias
    params["encoder"]["relpos_bias"] = bias
    assert "1 that the model lacks: encoder/relpos_bias/rel_embedding" in error(PER_LAYER)


def test_layers_stacked_on_another_axis(tmp_path):
    """T5X's param_scan_axis = 0."""
    params = t5x_files.random_parameters(dataclasses.replace(PER_LAYER, scan_layers=True))
    for stack in ("encoder", "decoder"):
        params[stack][stack] = params[stack].pop("layers")
    t5x_files.write_orbax(tmp_path / "c", 0, params, {})
    message = f"{tmp_path}/c: the layers of the .* not stacked on axis 1.*param_scan_axis.*has 4"
    for read in (t5x_checkpoints.load, t5x_checkpoints.config_of):
        with pytest.raises(ValueError, match=message):
            read(tmp_path / "c")
