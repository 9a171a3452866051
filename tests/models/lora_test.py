"""LoRA: the base at first, W + s·A·B afterwards, gradients for the adapters alone."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict
from jax.sharding import PartitionSpec

from cascade_jax.models import families
from cascade_jax.models.config import DecoderConfig
from cascade_jax.models.lora import Lora
from cascade_jax.parallel import rules
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.runs.state import Frozen
from cascade_jax.training import programs
from tests.support import fakes, layers

pytestmark = pytest.mark.medium

T5 = fakes.t5_config(num_encoder_layers=2, num_decoder_layers=2)
DECODER = DecoderConfig(
    vocab_size=fakes.VOCAB_SIZE, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2,
    head_dim=4, mlp_dim=24, tied_logits=False,
)  # fmt: skip
MODELS = {"t5": T5, "decoder": DECODER}
ALL = ("query", "key", "value", "out", "wi_0", "wi_1", "wo", "logits_dense")
BATCH = fakes.ragged_batch(4)


@functools.cache
def _base(model):
    return fakes.initialize(families.build(model))


def _fresh(lora, model, seed=1):
    shapes = families.parameter_shapes(model)
    return jax.jit(lambda key: lora.initialize(shapes, key))(jax.random.key(seed))


def _trained(lora, model):
    """Adapters of which no factor is 0."""
    fresh, rng = _fresh(lora, model), np.random.default_rng(2)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32) / 4, fresh)


def _stacked(tree):
    """`layers_0`, `layers_1`, … as `layers`, on a new axis 0, whatever else there is."""
    layers = [tree[f"layers_{i}"] for i in range(2) if f"layers_{i}" in tree]
    rest = {
        name: _stacked(value) if isinstance(value, dict) else value
        for name, value in tree.items()
        if not name.startswith("layers_")
    }
    return rest | ({"layers": jax.tree.map(lambda *x: jnp.stack(x), *layers)} if layers else {})


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_fresh_adapters_leave_every_parameter_bitwise_as_it_is(name, scan_layers):
    model = dataclasses.replace(MODELS[name], scan_layers=scan_layers)
    lora = Lora(rank=2, targets=ALL)
    merged = jax.jit(lora.merge)(_base(model), _fresh(lora, model))
    assert jax.tree.structure(merged) == jax.tree.structure(_base(model))
    jax.tree.map(np.testing.assert_array_equal, merged, _base(model))


@pytest.mark.parametrize("name", MODELS)
def test_targets_get_the_product_and_nothing_else_changes(name):
    model, lora = MODELS[name], Lora(rank=3, targets=("query", "wo"), alpha=5.0)
    base, adapters = flatten_dict(_base(model)), _trained(lora, model)
    merged, flat = flatten_dict(lora.merge(_base(model), adapters)), flatten_dict(adapters)
    assert merged.keys() == base.keys()
    changed = 0
    for path, kernel in base.items():
        if path[-2] in ("query", "wo"):
            changed += 1
            a, b = (np.asarray(flat[(*path[:-1], f"lora_{x}")], np.float64) for x in "ab")
            assert a.shape == (kernel.shape[0], 3) and b.shape == (3, kernel.shape[1])
            expected = np.asarray(kernel, np.float64) + 5.0 / 3.0 * (a @ b)
            np.testing.assert_allclose(merged[path], expected, rtol=1e-5, atol=1e-6)
            assert np.abs(merged[path] - kernel).max() > 0.1
        else:
            np.testing.assert_array_equal(merged[path], kernel)
    # Two layers of a T5 have three blocks of attention and two of MLP; of a decoder one of each.
    assert changed == len(flat) // 2 == (10 if name == "t5" else 4)


def _loss(model, params, weights, batch):
    logits = families.logits(families.build(model), params, batch)
    return jnp.sum(jnp.tanh(logits) * weights)


@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_is_the_chain_rules_and_of_adapters_only(name):
    model, lora = MODELS[name], Lora(rank=2, targets=ALL, alpha=3.0)
    adapters, rng = _trained(lora, model), np.random.default_rng(3)
    weights = rng.normal(size=(4, 8, fakes.VOCAB_SIZE)).astype(np.float32)
    loss = functools.partial(_loss, model)
    adapted, frozen = programs.reading_frozen(loss, lora), Frozen(_base(model), weights)
    actual = jax.jit(jax.grad(adapted))(adapters, frozen, BATCH)
    assert jax.tree.structure(actual) == jax.tree.structure(adapters)
    merged = lora.merge(_base(model), adapters)
    np.testing.assert_allclose(
        jax.jit(adapted)(adapters, frozen, BATCH),
        jax.jit(loss)(merged, weights, BATCH),
        rtol=1e-5,
    )
    of_kernels = flatten_dict(jax.jit(jax.grad(loss))(merged, weights, BATCH))
    flat = flatten_dict(adapters)
    for path, ours in flatten_dict(actual).items():
        kernel = np.asarray(of_kernels[(*path[:-1], "kernel")], np.float64)
        a, b = (np.asarray(flat[(*path[:-1], f"lora_{x}")], np.float64) for x in "ab")
        expected = 1.5 * (kernel @ b.T if path[-1] == "lora_a" else a.T @ kernel)
        scale = np.abs(expected).max()
        assert scale > 0
        np.testing.assert_allclose(ours, expected, atol=1e-4 * scale, err_msg="/".join(path))


@pytest.mark.parametrize("name", MODELS)
def test_stacked_layers_get_what_unstacked_ones_get(name):
    model, lora = MODELS[name], Lora(rank=2, targets=ALL)
    adapters = _trained(lora, model)
    shapes = lora.shapes(families.parameter_shapes(dataclasses.replace(model, scan_layers=True)))
    assert jax.tree.map(jnp.shape, _stacked(adapters)) == jax.tree.map(
        lambda leaf: leaf.shape, nn.unbox(shapes)
    )
    actual = lora.merge(_stacked(_base(model)), _stacked(adapters))
    expected = _stacked(lora.merge(_base(model), adapters))
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6),
        actual,
        expected,
    )


@pytest.mark.parametrize("scan_layers", [False, True])
def test_fresh_factors_are_uniform_and_all_different(scan_layers):
    model = fakes.t5_config(
        num_encoder_layers=2, num_decoder_layers=2, embed_dim=64, scan_layers=scan_layers
    )
    flat = flatten_dict(_fresh(Lora(rank=16), model))
    firsts = {path: np.asarray(leaf) for path, leaf in flat.items() if path[-1] == "lora_a"}
    for path, leaf in firsts.items():
        assert path[-2] in ("query", "value")
        # Uniform within ±1/8: at most that, and of its standard deviation.
        assert 0.12 < np.abs(leaf).max() <= 1 / math.sqrt(64)
        assert leaf.std() == pytest.approx(1 / math.sqrt(3 * 64), rel=0.05)
    layers = [layer for leaf in firsts.values() for layer in leaf.reshape(-1, 64, 16)]
    assert len(layers) == 2 * 6 and len({layer.tobytes() for layer in layers}) == len(layers)
    assert not any(leaf.any() for path, leaf in flat.items() if path[-1] == "lora_b")


def test_adapters_are_split_as_their_kernels_are():
    lora, model = Lora(rank=2, targets=("query", "out")), dataclasses.replace(T5, scan_layers=True)
    shardings = rules.parameter_shardings(
        lora.shapes(families.parameter_shapes(model)), MeshConfig(4, 1, 2).build()
    )
    attention = shardings["encoder"]["layers"]["attention"]
    specs = jax.tree.map(lambda sharding: sharding.spec, attention)
    assert specs == {
        "query": {
            "lora_a": PartitionSpec(None, "fsdp", None),
            "lora_b": PartitionSpec(None, None, "tensor"),
        },
        "out": {
            "lora_a": PartitionSpec(None, "tensor", None),
            "lora_b": PartitionSpec(None, None, "fsdp"),
        },
    }


def test_a_layer_is_that_of_peft():
    peft = pytest.importorskip("peft", reason="compared with peft, which is not installed")
    torch = pytest.importorskip("torch", reason="compared with torch, which is not installed")
    module = torch.nn.Sequential()
    module.add_module("query", torch.nn.Linear(8, 12, bias=False))
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["query"], init_lora_weights=False)
    layer = peft.get_peft_model(module, config).base_model.model.query
    a, b = (layer.get_parameter(f"lora_{x}.default.weight").detach().numpy().T for x in "AB")
    base = {"query": {"kernel": layer.base_layer.weight.detach().numpy().T}}
    merged = Lora(3, ("query",), 5).merge(base, {"query": {"lora_a": a, "lora_b": b}})
    x = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    expected = layer(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(x @ merged["query"]["kernel"], expected, rtol=1e-5, atol=1e-5)
    # Fresh ones are drawn alike, too.
    fresh = peft.tuners.lora.Linear(torch.nn.Linear(400, 20), "default", config, r=16)
    fresh.reset_lora_parameters("default", True)
    drawn = fresh.get_parameter("lora_A.default.weight").detach().numpy()
    assert drawn.max() == pytest.approx(1 / math.sqrt(400), rel=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank is 0; must be an integer of at least 1"),
        ({"rank": 2.0}, "rank is 2.0; must be an integer"),
        ({"rank": True}, "rank is True; must be an integer"),
        ({"alpha": 0}, "alpha is 0; must be a number above 0"),
        ({"alpha": math.nan}, "alpha is nan; must be a number above 0"),
        ({"alpha": "1"}, "alpha is '1'; must be a number above 0"),
        ({"targets": "query"}, "list of targets is 'query'; must be one or more different names"),
        ({"targets": ()}, "list of targets is (); must be one or more different names"),
        ({"targets": ("query", 3)}, "is ('query', 3); must be one or more different names"),
        ({"targets": ("query", "query")}, "must be one or more different names"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Lora(**settings)


def test_a_model_that_does_not_fit_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'querry' .*did you mean 'query'\?; it has \['key', "):
        Lora(rank=2, targets=("value", "querry")).check(T5)
    with pytest.raises(ValueError, match="target 'logits_dense' is not in the model"):
        Lora(rank=2, targets=("logits_dense",)).check(dataclasses.replace(T5, tied_logits=True))
    message = r"rank 9 is larger than the smaller side of layers_0/attention/value/kernel \[16, 8\]"
    with pytest.raises(ValueError, match=message):
        Lora(rank=9).check(DECODER)
    Lora(rank=8).check(DECODER)


def test_a_list_of_targets_is_the_same_as_a_tuple():
    assert Lora(targets=["query"]) == Lora(targets=("query",))
    hash(Lora(targets=["query"]))


def test_stacking_in_this_file_is_that_of_the_model():
    jax.tree.map(np.testing.assert_array_equal, _stacked(_base(T5)), layers.stack_layers(_base(T5)))
