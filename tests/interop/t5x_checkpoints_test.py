"""T5X checkpoints: one that T5X wrote, whose logits T5X computed, and ones made here."""

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
from jax.sharding import NamedSharding, PartitionSpec

from cascade_jax.interop import t5x_checkpoints
from cascade_jax.models import families, t5
from cascade_jax.models.config import T5Config
from tests.support import layers, t5x_files

pytestmark = pytest.mark.medium

_DEFAULT_DATA = pathlib.Path(__file__).parents[2].parent / "shared" / "data"
_DATA = pathlib.Path(os.environ.get("CASCADE_JAX_TEST_DATA", _DEFAULT_DATA))
FIXTURE = _DATA.parent / "fixtures" / "t5x_tiny"
WRITTEN_BY_T5X = FIXTURE / "checkpoint_0"
needs_fixture = pytest.mark.skipif(not FIXTURE.is_dir(), reason=f"no folder {FIXTURE}")
CONFIG = T5Config(7, 4, 2, 3, 6, 2, 3, mlp_activations=("relu",), tied_logits=True)
STACKED = dataclasses.replace(CONFIG, scan_layers=True)
PER_LAYER = dataclasses.replace(CONFIG, relative_bias_per_layer=True)
STEPS = 41


# ---------------------------------------------------------------- the one T5X wrote


def fixture_config(**changes):
    sizes = json.loads((FIXTURE / "config.json").read_text())
    del sizes["module"]
    sizes["embed_dim"] = sizes.pop("emb_dim")
    sizes["tied_logits"] = sizes.pop("logits_via_embedding")
    return T5Config(**sizes, **changes)


@needs_fixture
@pytest.mark.parametrize("scan_layers", [False, True])
def test_logits_of_a_t5x_checkpoint(scan_layers):
    config = fixture_config(scan_layers=scan_layers)
    expected = np.load(FIXTURE / "expected.npz")
    params = t5x_checkpoints.load(WRITTEN_BY_T5X, config).params
    logits = jax.jit(t5.T5(config).apply)(
        {"params": params}, expected["encoder_input_tokens"], expected["decoder_input_tokens"]
    )
    counted = expected["decoder_loss_weights"] > 0
    np.testing.assert_allclose(logits[counted], expected["logits"][counted], atol=1e-5, rtol=0)


@needs_fixture
def test_the_optimizers_statistics_are_read():
    actual = t5x_checkpoints.load(WRITTEN_BY_T5X, optimizer=True)
    params, statistics = t5x_files.flat(actual.params), t5x_files.flat(actual.statistics)
    kinds = {"m": (1,), "v_row": (1,), "v_col": (1,)}  # too small to be factored
    expected = {f"{name}/{kind}": shape for name in params for kind, shape in kinds.items()}
    expected |= {f"{name}/v": array.shape for name, array in params.items()}
    assert {name: array.shape for name, array in statistics.items()} == expected
    assert (actual.step, actual.layout) == (0, "unrolled")


@needs_fixture
def test_export_gives_back_t5xs_own_files(tmp_path):
    """Byte for byte: arrays, their Zarr metadata, and the index."""
    config = fixture_config()
    result = t5x_checkpoints.load(WRITTEN_BY_T5X, config, optimizer=True)
    out = t5x_checkpoints.save(tmp_path, config, result.params, 0, statistics=result.statistics)
    ours, theirs = (
        {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        for folder in (pathlib.Path(out), WRITTEN_BY_T5X)
    )
    assert ours.keys() == theirs.keys()
    ours_index, their_index = (
        flatten_dict(serialization.msgpack_restore(files.pop("checkpoint")), sep="/")
        for files in (ours, theirs)
    )
    assert ours == theirs
    assert ours_index.keys() == their_index.keys()
    for name, value in their_index.items():
        np.testing.assert_array_equal(ours_index[name], value)
        assert type(ours_index[name]) is type(value)


@needs_fixture
def test_the_model_is_recognised_from_a_checkpoint():
    assert t5x_checkpoints.config_of(WRITTEN_BY_T5X) == fixture_config()


# ---------------------------------------------------------------- round trips


def adafactor_statistics(params):
    """As T5X keeps them, matrices factored."""
    rng = np.random.default_rng(1)
    result = {}
    for name, array in flatten_dict(params).items():
        shapes = {"v_row": (1,), "v_col": (1,), "v": (1,), "m": (1,)}
        if array.ndim == 2:
            shapes |= {"v_row": array.shape[:1], "v_col": array.shape[1:]}
        else:
            shapes["v"] = array.shape
        for kind, shape in shapes.items():
            result[(*name, kind)] = rng.random(shape).astype(np.float32)
    return unflatten_dict(result)


@pytest.mark.parametrize(
    "config, layout",
    [
        (CONFIG, "unrolled"),
        (STACKED, "scanned"),
        (PER_LAYER, "scanned"),
        (dataclasses.replace(STACKED, relative_bias_per_layer=True), "unrolled"),
    ],
    ids=["apart", "stacked", "biases per layer", "biases per layer, stacked"],
)
def test_parameters_come_back_bitwise(tmp_path, layout, config):
    params = t5x_files.random_parameters(config)
    out = t5x_checkpoints.save(tmp_path, config, params, STEPS, layout=layout)
    assert out == f"{tmp_path}/checkpoint_{STEPS}"
    assert [path.name for path in tmp_path.iterdir()] == [f"checkpoint_{STEPS}"]
    actual = t5x_checkpoints.load(out, config)
    assert (actual.step, actual.layout, actual.statistics) == (STEPS, layout, None)
    t5x_files.assert_same(actual.params, params)


def test_statistics_come_back_bitwise(tmp_path):
    params = t5x_files.random_parameters(CONFIG)
    statistics = adafactor_statistics(params)
    out = t5x_checkpoints.save(tmp_path, CONFIG, params, STEPS, statistics=statistics)
    actual = t5x_checkpoints.load(out, CONFIG, optimizer=True)
    t5x_files.assert_same(actual.params, params)
    t5x_files.assert_same(actual.statistics, statistics)


def test_the_scanned_layout_stacks_layers_on_axis_1_with_a_bias_each(tmp_path):
    params = t5x_files.random_parameters(CONFIG)
    out = t5x_checkpoints.save(tmp_path, CONFIG, params, layout="scanned")

    def stored(name):
        path = f"{out}/target.{name}/"
        spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": path}}
        return tensorstore.open(spec, open=True).result().read().result()

    kernel = stored("decoder.decoder.mlp.wi.kernel")
    scale = stored("encoder.encoder.pre_mlp_layer_norm.scale")
    bias = stored("decoder.decoder.relpos_bias.rel_embedding")
    out_kernel = stored("decoder.decoder.self_attention.out.kernel")  # [heads, layers, size, embed]
    query = stored("decoder.decoder.self_attention.query.kernel")
    assert (kernel.shape, scale.shape, bias.shape) == ((4, 3, 6), (4, 2), (2, 3, 32))
    assert (query.shape, out_kernel.shape) == ((4, 3, 2, 3), (2, 3, 3, 4))
    for i in range(3):
        attention = params["decoder"][f"layers_{i}"]["self_attention"]
        for head in range(2):
            columns = slice(3 * head, 3 * head + 3)
            ours = attention["query"]["kernel"][:, columns], attention["out"]["kernel"][columns]
            np.testing.assert_array_equal(query[:, i, head], ours[0])
            np.testing.assert_array_equal(out_kernel[head, i], ours[1])
        layer = params["decoder"][f"layers_{i}"]
        np.testing.assert_array_equal(kernel[:, i], layer["mlp"]["wi"]["kernel"])
        shared = params["decoder"]["relpos_bias"]["rel_embedding"]
        np.testing.assert_array_equal(bias[:, i], shared)
    assert not list(pathlib.Path(out).glob("*layers_*"))


def test_orbaxs_format_is_read(tmp_path):
    params = t5x_files.random_parameters(CONFIG)
    statistics = adafactor_statistics(params)
    t5x_files.write_orbax(tmp_path / "checkpoint_41", STEPS, params, statistics)
    for path in (tmp_path / "checkpoint_41", tmp_path / "checkpoint_41" / "state"):
        actual = t5x_checkpoints.load(path, CONFIG, optimizer=True)
        assert actual.step == STEPS
        t5x_files.assert_same(actual.params, params)
        t5x_files.assert_same(actual.statistics, statistics)


def test_parameters_are_put_on_the_devices_as_asked(tmp_path):
    config = T5Config(16, 8, 2, 4, 8, 2, 2, scan_layers=True)
    params = t5x_files.random_parameters(config)
    out = t5x_checkpoints.save(tmp_path, config, params)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec(None, "x"))
    whole = NamedSharding(mesh, PartitionSpec())
    shardings = jax.tree.map(lambda a: split if a.shape[1:2] == (8,) else whole, params)
    result = t5x_checkpoints.load(out, config, shardings=shardings).params
    assert jax.tree.map(lambda a: a.sharding, result) == shardings
    assert split in jax.tree.leaves(shardings)
    t5x_files.assert_same(jax.device_get(result), params)
    # Under the checkpoint's own names, each shard read by itself.
    apart = dataclasses.replace(config, scan_layers=False)
    shapes = nn.meta.unbox(families.parameter_shapes(apart))
    shardings = jax.tree.map(lambda a: split if a.shape[1:2] == (8,) else whole, shapes)
    result = t5x_checkpoints.load_named(out, shapes, shardings, "bfloat16")
    assert jax.tree.map(lambda a: a.sharding, result) == shardings
    rounded = jax.tree.map(lambda a: a.astype(ml_dtypes.bfloat16), layers.unstack_layers(params))
    t5x_files.assert_same(jax.device_get(result), jax.device_get(rounded))


def test_bfloat16_is_written_and_becomes_float32(tmp_path):
    params = t5x_files.random_parameters(CONFIG)
    out = t5x_checkpoints.save(tmp_path, CONFIG, params, dtype="bfloat16")
    actual = t5x_checkpoints.load(out, CONFIG).params
    t5x_files.assert_same(
        actual, jax.tree.map(lambda a: a.astype(ml_dtypes.bfloat16).astype(np.float32), params)
    )


@pytest.mark.parametrize("path", ["{}", "models/t5/{}"], ids=["beside", "bucket path"])
@pytest.mark.parametrize("is_old", [False, True], ids=["path in kvstore", "path beside it"])
def test_an_index_from_elsewhere_names_the_folders_beside_it(tmp_path, path, is_old):
    params = t5x_files.random_parameters(CONFIG)
    out = pathlib.Path(t5x_checkpoints.save(tmp_path, CONFIG, params))
    index = serialization.msgpack_restore((out / "checkpoint").read_bytes())
    for leaf in flatten_dict(
        index["optimizer"]["target"], is_leaf=lambda _, n: "driver" in n
    ).values():
        leaf["kvstore"] = {
            "driver": "gcs",
            "bucket": "b",
            "path": path.format(leaf["kvstore"]["path"]),
        }
        if is_old:
            leaf["path"] = leaf["kvstore"].pop("path")
    (out / "checkpoint").write_bytes(serialization.msgpack_serialize(index))
    t5x_files.assert_same(t5x_checkpoints.load(out, CONFIG).params, params)


def test_arrays_may_stand_in_the_index_itself(tmp_path):
    params = t5x_files.random_parameters(CONFIG)
    index = {"version": 3, "optimizer": {"target": params, "state": {"step": np.int32(7)}}}
    (tmp_path / "checkpoint").write_bytes(serialization.msgpack_serialize(index))
    actual = t5x_checkpoints.load(tmp_path, CONFIG)
    assert actual.step == 7
    t5x_files.assert_same(actual.params, params)


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
@pytest.mark.parametrize(
    "config",
    [CONFIG, T5Config(9, 6, 3, 2, 10, 1, 2, relative_buckets=16), PER_LAYER],
    ids=["T5 1.0", "T5 1.1", "biases per layer"],
)
def test_sizes_are_recognised(tmp_path, layout, config):
    out = t5x_checkpoints.save(tmp_path, config, t5x_files.random_parameters(config), layout=layout)
    assert t5x_checkpoints.config_of(out) == config


# ---------------------------------------------------------------- what does not fit


def saved(tmp_path, **settings):
    return pathlib.Path(
        t5x_checkpoints.save(tmp_path, CONFIG, t5x_files.random_parameters(CONFIG), **settings)
    )


def error(path, config=CONFIG, **settings):
    with pytest.raises(ValueError) as caught:
        t5x_checkpoints.load(path, config, **settings)
    return str(caught.value)


def test_all_parameters_that_do_not_fit_are_named(tmp_path):
    out = saved(tmp_path)
    gated = dataclasses.replace(
        CONFIG, mlp_activations=("relu", "linear"), embed_dim=5, tied_logits=False
    )
    message = error(out, gated)
    shapes = t5x_files.flat(nn.meta.unbox(families.parameter_shapes(gated)))
    has = t5x_files.flat(t5x_files.random_parameters(CONFIG))
    assert len(shapes.keys() - has.keys()) == 11 and len(has.keys() - shapes.keys()) == 5
    assert "11 missing: " in message and "5 that the model lacks: " in message
    for name in shapes.keys() ^ has.keys():
        assert name in message
    misshapen = [n for n in shapes.keys() & has.keys() if shapes[n].shape != has[n].shape]
    assert f"{len(misshapen)} of another shape: " in message and len(misshapen) > 30
    for name in misshapen:
        assert f"{name} {has[name].shape} (the model's is {shapes[name].shape})" in message
    assert "decoder/layers_0/mlp/wi_0/kernel (nearest is decoder/layers_0/mlp/wi/kernel)" in message


def test_another_number_of_layers_in_a_stack(tmp_path):
    message = error(
        saved(tmp_path, layout="scanned"), dataclasses.replace(CONFIG, num_encoder_layers=3)
    )
    # 4 kernels of attention, 2 of the MLP, 2 norms.
    assert "8 missing: encoder/layers_2/" in message and "of another shape" not in message
    assert "decoder" not in message


def test_folder_without_a_checkpoint(tmp_path):
    nothing = "is not a T5X checkpoint: no file 'checkpoint' and no 'state/_METADATA' in it"
    assert error(tmp_path).endswith(nothing)
    assert error(tmp_path / "nowhere").endswith(nothing)
    saved(tmp_path, step=500)
    saved(tmp_path, step=1000)
    assert "it holds checkpoint_500, checkpoint_1000: name one of them" in error(tmp_path)


def test_half_written_checkpoints(tmp_path):
    out = saved(tmp_path)
    for name in ("checkpoint_0.orbax-checkpoint-tmp-17", "checkpoint_0.tmp-1700000000"):
        unfinished = out.with_name(name)
        shutil.move(out, unfinished)
        assert "is a half-written checkpoint: its name is that of a temporary" in error(unfinished)
        assert f"beside it is only the half-written {name}" in error(out)
        shutil.move(unfinished, out)
    (out / "checkpoint").unlink()
    assert "it holds arrays, so writing it was interrupted" in error(out)


def test_arrays_that_are_gone_are_all_named(tmp_path):
    out = saved(tmp_path)
    shutil.rmtree(out / "target.encoder.layers_0.mlp.wo.kernel")
    (out / "target.decoder.decoder_norm.scale" / ".zarray").unlink()
    message = error(out)
    assert "is incomplete or damaged; no readable array for 2: " in message
    assert "target/encoder/layers_0/mlp/wo/kernel" in message
    assert "target/decoder/decoder_norm/scale" in message


@pytest.mark.parametrize("damage", ["truncated", "gone"])
def test_damaged_chunks_are_all_named(tmp_path, damage):
    """A chunk that is gone would be zeros to Zarr."""
    out = saved(tmp_path)
    names = ["encoder.layers_0.mlp.wo.kernel", "token_embedder.embedding"]
    for name in names:
        chunk = out / f"target.{name}" / "0.0"
        content = chunk.read_bytes()
        chunk.unlink()
        if damage == "truncated":
            chunk.write_bytes(content[:-12])
    message = error(out)
    assert "is incomplete or damaged; no readable array for 2: " in message
    assert all(name.replace(".", "/") in message for name in names)


def test_orbax_checkpoint_without_its_database(tmp_path):
    t5x_files.write_orbax(tmp_path / "c", STEPS, {"a": np.ones(3)}, {})
    (tmp_path / "c/state/manifest.ocdbt").unlink()
    message = error(tmp_path / "c", None)
    assert "no readable array for 2: " in message
    assert "target/a" in message and "state/step" in message
    (tmp_path / "c/state/_METADATA").write_text('{"tree_metadata": 3}')
    assert "its _METADATA is not that of an Orbax checkpoint" in error(tmp_path / "c", None)


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
    assert "is not the index of a T5X checkpoint: " in error(tmp_path)


def test_statistics_that_are_not_there_and_parameters_that_are_no_numbers(tmp_path):
    assert "holds parameters only: nothing under state/param_states" in error(
        saved(tmp_path), optimizer=True
    )
    index = {"optimizer": {"target": {"a": np.zeros(2, np.uint16), "b": np.zeros(2, np.float32)}}}
    (tmp_path / "checkpoint").write_bytes(serialization.msgpack_serialize(index))
    assert "parameters of a dtype that is not floating: a (uint16)" in error(tmp_path, None)
    with pytest.raises(ValueError, match=f"{tmp_path}: not the parameters of a T5: no sizes from "):
        t5x_checkpoints.config_of(tmp_path)


def test_what_save_refuses(tmp_path):
    params = t5x_files.random_parameters(CONFIG)
    saved(tmp_path, step=3)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    distant = dataclasses.replace(CONFIG, relative_max_distance=64)
    for settings, match in [
        (dict(step=3), "checkpoint_3 is there already"),
        (dict(layout="stacked"), "layout is 'stacked'; must be one of unrolled, scanned"),
        (dict(dtype="float16"), "dtype is 'float16'; must be one of"),
        (dict(statistics={"a": {"v": np.ones(1)}}), "statistics of a, which is no parameter"),
        (dict(config=distant), "relative_max_distance is 64; must be 128, which is fixed in T5X"),
    ]:
        with pytest.raises(ValueError, match=match):
            t5x_checkpoints.save(tmp_path, **{"config": CONFIG, "params": params} | settings)
    del params["decoder"]["layers_2"]
    with pytest.raises(ValueError, match="13 missing: decoder/layers_2/"):
        t5x_checkpoints.save(tmp_path, CONFIG, params, 4)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
