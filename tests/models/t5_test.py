"""Properties of the whole model; T5X's numbers are in tests/interop/t5x_checkpoints_test.py."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict
from jax.sharding import PartitionSpec

from cascade_jax import axes
from cascade_jax.models.config import T5Config
from cascade_jax.models.families import build, parameter_shapes
from cascade_jax.models.t5 import T5
from tests.support.layers import stack_layers, unstack_layers
from tests.support.tiny_t5 import CONFIG, DECODER_INPUTS, INPUTS, logits_of, params_of

pytestmark = pytest.mark.medium

PER_LAYER = dataclasses.replace(CONFIG, relative_bias_per_layer=True)
SHALLOW = dataclasses.replace(CONFIG, num_encoder_layers=1, num_decoder_layers=1)
# ---------------------------------------------------------------- parameter tree


def _expected_names(config: T5Config) -> set[str]:
    """T5X's names, written out from its checkpoints' folder names."""
    wi = ["wi"] if len(config.mlp_activations) == 1 else ["wi_0", "wi_1"]
    mlp = [f"mlp/{name}/kernel" for name in (*wi, "wo")] + ["pre_mlp_layer_norm/scale"]
    names = {"token_embedder/embedding"}
    blocks = {
        "encoder": [("attention", "pre_attention_layer_norm")],
        "decoder": [
            ("self_attention", "pre_self_attention_layer_norm"),
            ("encoder_decoder_attention", "pre_cross_attention_layer_norm"),
        ],
    }
    for side, attentions in blocks.items():
        names |= {f"{side}/relpos_bias/rel_embedding", f"{side}/{side}_norm/scale"}
        layer = list(mlp)
        for attention, norm in attentions:
            layer.append(f"{norm}/scale")
            layer += [f"{attention}/{part}/kernel" for part in ("query", "key", "value", "out")]
        for i in range(getattr(config, f"num_{side}_layers")):
            names |= {f"{side}/layers_{i}/{name}" for name in layer}
    return names if config.tied_logits else names | {"decoder/logits_dense/kernel"}


@pytest.mark.parametrize("tied_logits", [False, True])
@pytest.mark.parametrize("mlp_activations", [("relu",), ("gelu", "linear")])
def test_names_are_those_of_t5x(tied_logits, mlp_activations):
    config = dataclasses.replace(CONFIG, tied_logits=tied_logits, mlp_activations=mlp_activations)
    shapes = flatten_dict(nn.meta.unbox(parameter_shapes(config)), sep="/")
    assert set(shapes) == _expected_names(config)
    assert shapes["encoder/relpos_bias/rel_embedding"].shape == (2, 4)  # heads, buckets
    assert shapes["decoder/layers_1/self_attention/out/kernel"].shape == (6, 8)


@pytest.mark.parametrize("config", [CONFIG, PER_LAYER], ids=["one bias", "bias per layer"])
@pytest.mark.parametrize("scan_layers", [False, True])
def test_every_axis_of_every_parameter_has_a_logical_name(config, scan_layers):
    boxed = parameter_shapes(dataclasses.replace(config, scan_layers=scan_layers))
    specs = flatten_dict(nn.get_partition_spec(boxed), sep="/")
    shapes = flatten_dict(nn.meta.unbox(boxed), sep="/")
    assert specs.keys() == shapes.keys()
    sizes = {axes.EMBED: 8, axes.VOCAB: 19, axes.HEADS: 2, axes.JOINED_HEADS: 6, axes.MLP: 10}
    sizes |= {axes.RELATIVE_BUCKETS: 4, axes.LAYERS: 2}
    for name, shape in shapes.items():
        assert shape.dtype == jnp.float32
        assert shape.shape == tuple(sizes[axis] for axis in specs[name]), name
        assert set(specs[name]) <= set(axes.ALL)
        assert (specs[name][0] == axes.LAYERS) == ("/layers/" in name)
    layer = "layers" if scan_layers else "layers_0"
    mlp = specs[f"encoder/{layer}/mlp/wo/kernel"]
    assert mlp == PartitionSpec(*(["layers"] if scan_layers else []), axes.MLP, axes.EMBED)


def test_stacking_goes_there_and_back():
    params = params_of(CONFIG)
    stacked = stack_layers(params)
    shapes = nn.meta.unbox(parameter_shapes(dataclasses.replace(CONFIG, scan_layers=True)))
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, shapes)
    jax.tree.map(np.testing.assert_array_equal, unstack_layers(stacked), params)


# ---------------------------------------------------------------- forms of one computation


@functools.cache
def _loss_and_gradients(config):
    """Of one pseudo-random direction of the logits, with parameters of unrolled layers."""
    params = params_of(dataclasses.replace(config, scan_layers=False, remat="none"))
    direction = np.random.default_rng(0).normal(size=(2, 5, 19)).astype(np.float32)

    def loss(params):
        params = stack_layers(params) if config.scan_layers else params
        return jnp.sum(T5(config).apply({"params": params}, INPUTS, DECODER_INPUTS) * direction)

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize(
    ("remat", "scan_layers"), [("none", True), ("dots", False), ("full", True)]
)
def test_scan_and_remat_change_neither_loss_nor_gradients(remat, scan_layers):
    loss, gradients = _loss_and_gradients(CONFIG)
    changed = dataclasses.replace(CONFIG, remat=remat, scan_layers=scan_layers)
    new_loss, new_gradients = _loss_and_gradients(changed)
    np.testing.assert_allclose(new_loss, loss, rtol=1e-5)
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(compare, new_gradients, gradients)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize(("chunk", "scan_layers"), [(1, False), (3, True)])
def test_blocks_of_queries_change_neither_loss_nor_gradients(chunk, scan_layers):
    loss, gradients = _loss_and_gradients(CONFIG)
    changed = dataclasses.replace(CONFIG, query_chunk=chunk, scan_layers=scan_layers)
    new_loss, new_gradients = _loss_and_gradients(changed)
    np.testing.assert_allclose(new_loss, loss, rtol=1e-5)
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(compare, new_gradients, gradients)


def test_dropout_is_the_same_in_blocks_of_queries():
    def run(chunk):
        config = dataclasses.replace(CONFIG, dropout_rate=0.5, query_chunk=chunk)
        rngs = {"dropout": jax.random.key(3)}
        texts = INPUTS, DECODER_INPUTS
        return logits_of(config, params_of(CONFIG), *texts, deterministic=False, rngs=rngs)

    np.testing.assert_allclose(run(2), run(512), rtol=1e-4, atol=1e-5)


def test_attention_of_long_rows_never_holds_a_square_array():
    config = dataclasses.replace(SHALLOW, query_chunk=64)
    inputs = jax.ShapeDtypeStruct((32, 1024), jnp.int32)
    targets = jax.ShapeDtypeStruct((32, 8), jnp.int32)

    def loss(params, inputs, targets):
        return jnp.sum(T5(config).apply({"params": params}, inputs, targets))

    compiled = jax.jit(jax.grad(loss)).lower(params_of(SHALLOW), inputs, targets).compile()
    square = 4 * 32 * config.num_heads * 1024 * 1024  # one layer's weights in float32
    # Square are the bias, one for all rows, and the mask, a byte each and one for all heads.
    assert compiled.memory_analysis().temp_size_in_bytes < 0.75 * square


def test_decoder_has_all_buckets_for_the_past_and_the_encoder_half():
    _, gradients = _loss_and_gradients(CONFIG)
    used = {
        side: np.flatnonzero(np.abs(gradients[side]["relpos_bias"]["rel_embedding"]).max(axis=0))
        for side in ("encoder", "decoder")
    }
    # Of 4 buckets up to distance 6. Decoder: distances 0, 1, 2 to 3, from 4 on. Encoder: itself,
    # before, (nothing: distance 0 after), after.
    np.testing.assert_array_equal(used["decoder"], [0, 1, 2, 3])
    np.testing.assert_array_equal(used["encoder"], [0, 1, 3])


def test_remat_recomputes_what_it_says():
    def matmuls(remat):
        config = dataclasses.replace(SHALLOW, remat=remat)
        loss = lambda params: T5(config).apply({"params": params}, INPUTS, DECODER_INPUTS).sum()  # noqa: E731
        # Compiled code would show no difference on a CPU; the traced program does.
        return str(jax.make_jaxpr(jax.grad(loss))(params_of(SHALLOW))).count("dot_general")

    # "dots" recomputes no weight matmul, only those of the three attentions (logits, weighted sum).
    assert matmuls("none") < matmuls("dots") <= matmuls("none") + 6 < matmuls("full")


def test_logits_are_the_unembedded_hidden_states():
    params = params_of(SHALLOW)
    model, variables = T5(SHALLOW), {"params": params}
    hidden = logits_of(SHALLOW, params, INPUTS, DECODER_INPUTS, method="hidden")
    logits = model.apply(variables, hidden, method="unembed")
    np.testing.assert_allclose(
        logits_of(SHALLOW, params, INPUTS, DECODER_INPUTS), logits, rtol=1e-4, atol=1e-5
    )
    kernel = np.asarray(params["decoder"]["logits_dense"]["kernel"], np.float64)
    np.testing.assert_allclose(logits, hidden @ kernel, rtol=1e-4, atol=1e-5)
    # The same hidden states under a tied head, which reads the embedding alone.
    tied = T5(dataclasses.replace(SHALLOW, tied_logits=True))
    embedding = np.asarray(params["token_embedder"]["embedding"], np.float64)
    tied_logits = tied.apply(variables, hidden, method="unembed")
    expected = hidden @ embedding.T / math.sqrt(8)
    np.testing.assert_allclose(tied_logits, expected, rtol=1e-4, atol=1e-5)
    # The map that a head takes to make logits in parts.
    for one, expected in ((SHALLOW, logits), (tied.config, tied_logits)):
        actual = build(one).unembedding(params).logits(hidden)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_bfloat16_computes_roughly_the_same_from_float32_parameters():
    config = dataclasses.replace(SHALLOW, dtype="bfloat16")
    shapes = nn.meta.unbox(parameter_shapes(config))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype("float32")}
    hidden = jax.eval_shape(
        functools.partial(T5(config).apply, method="hidden"),
        {"params": params_of(SHALLOW)},
        INPUTS,
        DECODER_INPUTS,
    )
    assert hidden.dtype == jnp.bfloat16
    logits = logits_of(config, params_of(SHALLOW), INPUTS, DECODER_INPUTS)
    exact = logits_of(SHALLOW, params_of(SHALLOW), INPUTS, DECODER_INPUTS)
    assert logits.dtype == jnp.float32
    error = np.abs(logits - exact).max()
    # bfloat16 keeps 8 bits. Exact agreement would mean that it was not used.
    assert 0 < error < 0.1 * np.abs(exact).max()


# ---------------------------------------------------------------- what may see what


def test_padding_of_the_inputs_changes_nothing():
    params = params_of(SHALLOW)
    logits = logits_of(SHALLOW, params, INPUTS, DECODER_INPUTS)
    padded = np.pad(INPUTS, ((0, 0), (0, 5)))
    np.testing.assert_allclose(
        logits_of(SHALLOW, params, padded, DECODER_INPUTS), logits, rtol=1e-4, atol=1e-5
    )
    alone = logits_of(SHALLOW, params, INPUTS[1:, :3], DECODER_INPUTS[1:])
    np.testing.assert_allclose(alone, logits[1:], rtol=1e-4, atol=1e-5)


def test_row_of_padding_alone_is_finite():
    logits = logits_of(SHALLOW, params_of(SHALLOW), np.zeros_like(INPUTS), DECODER_INPUTS)
    assert np.isfinite(logits).all()


def test_later_decoder_inputs_are_not_seen():
    params = params_of(SHALLOW)
    changed = DECODER_INPUTS.copy()
    changed[:, 3] = 17
    before = logits_of(SHALLOW, params, INPUTS, DECODER_INPUTS)
    after = logits_of(SHALLOW, params, INPUTS, changed)
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert np.abs(after[:, 3:] - before[:, 3:]).max(axis=-1).min() > 1e-3


def test_packed_row_gives_what_its_examples_give_alone():
    params = params_of(SHALLOW)
    examples = [([3, 4, 5, 1], [0, 11, 12]), ([6, 7, 1], [0, 13, 14, 15]), ([8, 1], [0, 16])]

    def pack(rows, length):
        tokens, segments = np.zeros((2, 1, length), int)
        start = 0
        for number, row in enumerate(rows, start=1):
            here = slice(start, start + len(row))
            tokens[0, here], segments[0, here] = row, number
            start += len(row)
        return tokens, segments

    inputs, input_segments = pack([example[0] for example in examples], 12)
    targets, target_segments = pack([example[1] for example in examples], 11)
    packed = logits_of(
        SHALLOW,
        params,
        inputs,
        targets,
        input_segment_ids=input_segments,
        target_segment_ids=target_segments,
    )
    assert np.isfinite(packed).all()
    pad = lambda rows: np.array([row + [0] * (4 - len(row)) for row in rows])  # noqa: E731
    alone_inputs, alone_targets = (pad(rows) for rows in zip(*examples, strict=True))
    alone = logits_of(SHALLOW, params, alone_inputs, alone_targets)
    for number, (_, row) in enumerate(examples, start=1):
        mine = packed[0, target_segments[0] == number]
        np.testing.assert_allclose(mine, alone[number - 1, : len(row)], rtol=1e-4, atol=1e-5)


def test_segment_ids_come_in_twos():
    with pytest.raises(ValueError, match="input_segment_ids and target_segment_ids together"):
        jax.eval_shape(
            functools.partial(T5(SHALLOW).apply, input_segment_ids=INPUTS),
            {"params": params_of(SHALLOW)},
            INPUTS,
            DECODER_INPUTS,
        )


# ---------------------------------------------------------------- dropout and sharding


def test_dropout_only_when_asked_for():
    @functools.partial(jax.jit, static_argnames="deterministic")
    def run(seed, deterministic):
        rngs = {"dropout": jax.random.key(seed)}
        return T5(SHALLOW).apply(
            {"params": params_of(SHALLOW)},
            INPUTS,
            DECODER_INPUTS,
            deterministic=deterministic,
            rngs=rngs,
        )

    np.testing.assert_array_equal(run(0, True), run(1, True))
    np.testing.assert_array_equal(run(0, False), run(0, False))
    assert np.abs(run(0, False) - run(1, False)).max() > 1e-2


def test_every_layer_of_a_scan_draws_its_own_dropout():
    config = dataclasses.replace(CONFIG, scan_layers=True, embed_dim=32)
    params = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape), nn.meta.unbox(parameter_shapes(config))
    )
    # The decoder's MLPs alone do something: they read feature 0 and add one number (each layer
    # another) to features 1 to 31. So a position holds one positive number if both layers drop the
    # same features, and up to three (first layer's, second's, both) if each draws its own.
    params["token_embedder"]["embedding"][:, 0] = 1
    params["decoder"]["decoder_norm"]["scale"] += 1
    layers = params["decoder"]["layers"]
    layers["pre_mlp_layer_norm"]["scale"] += 1
    layers["mlp"]["wi_0"]["kernel"][:, 0] = layers["mlp"]["wi_1"]["kernel"][:, 0] = 1
    layers["mlp"]["wo"]["kernel"][:, :, 1:] = 1
    run = jax.jit(functools.partial(T5(config).apply, deterministic=False, method="hidden"))
    rngs = {"dropout": jax.random.key(0)}
    hidden = np.asarray(run({"params": params}, INPUTS, DECODER_INPUTS, rngs=rngs))
    values = [np.unique(row[row > 0].round(3)) for row in hidden[:, 0, 1:]]
    assert max(row.size for row in values) > 1


def test_activations_are_constrained_under_a_mesh_with_rules():
    mesh = jax.sharding.Mesh(np.reshape(jax.devices()[:4], (2, 2)), ("data", "model"))
    rules = [(axes.BATCH, "data"), (axes.HEADS, "model"), (axes.MLP, "model")]
    params = params_of(SHALLOW)
    plain = logits_of(SHALLOW, params, INPUTS, DECODER_INPUTS)
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        logits = logits_of(SHALLOW, params, INPUTS, DECODER_INPUTS)
    # Nothing but the constraints asks for a split: parameters and tokens came whole.
    assert logits.sharding.spec[0] == "data"
    np.testing.assert_allclose(logits, plain, rtol=1e-4, atol=1e-5)
