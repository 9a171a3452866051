"""Which layers a shallower model is made of."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from flax import linen as nn

from cascade_jax.models import families, shallow
from cascade_jax.models.config import DecoderConfig, T5Config

DEEP_T5 = T5Config(
    vocab_size=12, embed_dim=4, num_heads=1, head_dim=4, mlp_dim=4, num_encoder_layers=5,
    num_decoder_layers=4,
)  # fmt: skip
DEEP_DECODER = DecoderConfig(
    vocab_size=12, embed_dim=4, num_layers=5, num_heads=1, num_kv_heads=1, head_dim=4, mlp_dim=4
)


@functools.cache
def _params(config):
    """Every leaf differs from every other, also between layers."""
    shapes = nn.unbox(families.parameter_shapes(config))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def _layers(tree):
    """The parameters of each layer, whatever the layout."""
    if "layers" in tree:
        count = len(jax.tree.leaves(tree["layers"])[0])
        return [jax.tree.map(lambda leaf, i=i: leaf[i], tree["layers"]) for i in range(count)]
    return [tree[f"layers_{i}"] for i in range(sum(name.startswith("layers_") for name in tree))]


def _same(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_evenly_spaced_layers_have_both_ends():
    assert shallow.evenly_spaced(6, 12) == (0, 2, 4, 7, 9, 11)  # DistilBERT's
    assert shallow.evenly_spaced(1, 9) == (0,)
    assert shallow.evenly_spaced(7, 7) == tuple(range(7))
    for of in range(2, 20):
        for count in range(2, of + 1):
            chosen = shallow.evenly_spaced(count, of)
            assert len(chosen) == count and chosen[0] == 0 and chosen[-1] == of - 1
            assert all(a < b for a, b in zip(chosen, chosen[1:], strict=False))
    with pytest.raises(ValueError, match="cannot choose 3 layers out of 2"):
        shallow.evenly_spaced(3, 2)


@pytest.mark.parametrize("deep_scan", [False, True])
@pytest.mark.parametrize("scan", [False, True])
def test_a_decoder_gets_the_layers_named_and_all_the_rest(scan, deep_scan):
    deep = dataclasses.replace(DEEP_DECODER, scan_layers=deep_scan)
    small = dataclasses.replace(DEEP_DECODER, num_layers=2, scan_layers=scan)
    params = _params(deep)
    result = shallow.choose_layers(params, small, deep, layers=[3, 1])
    expected = nn.unbox(families.parameter_shapes(small))
    assert jax.tree.map(np.shape, result) == jax.tree.map(lambda leaf: leaf.shape, expected)
    for layer, source in zip(_layers(result), [3, 1], strict=True):
        _same(layer, _layers(params)[source])
    _same(result["token_embedder"], params["token_embedder"])


def test_a_t5_gets_layers_for_each_of_its_stacks():
    small = dataclasses.replace(
        DEEP_T5, num_encoder_layers=3, num_decoder_layers=1, dtype="bfloat16"
    )
    result = shallow.choose_layers(_params(DEEP_T5), small, DEEP_T5, encoder_layers=[4, 0, 2])
    expected = nn.unbox(families.parameter_shapes(small))
    assert jax.tree.map(np.shape, result) == jax.tree.map(lambda leaf: leaf.shape, expected)
    encoder, decoder = (_layers(_params(DEEP_T5)[part]) for part in ("encoder", "decoder"))
    for layer, source in zip(_layers(result["encoder"]), [4, 0, 2], strict=True):
        _same(layer, encoder[source])
    _same(_layers(result["decoder"])[0], decoder[0])
    _same(result["decoder"]["decoder_norm"], _params(DEEP_T5)["decoder"]["decoder_norm"])


@pytest.mark.parametrize(
    ("small", "choice", "message"),
    [
        ({"num_layers": 6}, {}, "cannot choose 6 layers out of 5"),
        (
            {"num_layers": 2},
            {"layers": [0, 5]},
            r"layers is \[0, 5\]; must be 2 numbers from 0 to 4",
        ),
        ({"num_layers": 2}, {"layers": [0]}, "must be 2 numbers"),
        ({"num_layers": 2}, {"encoder_layers": [0]}, "has no encoder"),
        ({"embed_dim": 8, "rope_theta": 5.0}, {}, "embed_dim is 8 and not 4; rope_theta is 5.0"),
    ],
)
def test_what_does_not_fit_is_refused(small, choice, message):
    config = dataclasses.replace(DEEP_DECODER, **small)
    with pytest.raises(ValueError, match=message):
        shallow.choose_layers(_params(DEEP_DECODER), config, DEEP_DECODER, **choice)


def test_a_layer_keeps_its_kind_of_attention():
    kinds = {"attention_kinds": ("sliding", "full"), "sliding_window": 2}
    deep = dataclasses.replace(DEEP_DECODER, **kinds)
    small = dataclasses.replace(deep, num_layers=3)
    params = _params(deep)
    message = r"layers \[0, 2, 4\] are of the kinds \('sliding', 'sliding', 'sliding'\), their new"
    with pytest.raises(ValueError, match=message):
        shallow.choose_layers(params, small, deep)
    result = shallow.choose_layers(params, small, deep, layers=[2, 3, 4])
    _same(_layers(result)[1], _layers(params)[3])
    all_sliding = dataclasses.replace(small, attention_kinds=("sliding",))
    result = shallow.choose_layers(params, all_sliding, deep)
    _same(_layers(result)[1], _layers(params)[2])


def test_layers_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="not T5Config and DecoderConfig"):
        shallow.choose_layers(_params(DEEP_DECODER), DEEP_T5, DEEP_DECODER)


@pytest.mark.parametrize("layers", [3, [0, 2, 4]])
def test_a_config_with_layers_is_filled_by_them(layers):
    deep = dataclasses.replace(
        DEEP_DECODER, sliding_window=2, attention_kinds=("sliding", "full", "full")
    )
    small = shallow.with_layers(deep, layers)
    # Layers 0, 2 and 4: a window, none, none.
    kinds = ("sliding", "full", "full")
    assert small == dataclasses.replace(deep, num_layers=3, attention_kinds=kinds)
    result = shallow.choose_layers(_params(deep), small, deep, layers)
    for layer, source in zip(_layers(result), [0, 2, 4], strict=True):
        _same(layer, _layers(_params(deep))[source])


def test_the_kinds_of_layers_are_in_their_shortest_form():
    deep = dataclasses.replace(DEEP_DECODER, sliding_window=2, attention_kinds=("sliding", "full"))
    assert shallow.with_layers(deep, 3).attention_kinds == ("sliding",)
    assert shallow.with_layers(DEEP_DECODER, 3) == dataclasses.replace(DEEP_DECODER, num_layers=3)
    assert shallow.with_layers(deep, 5) == deep


def test_a_t5_with_layers():
    assert shallow.with_layers(DEEP_T5, 2) == dataclasses.replace(
        DEEP_T5, num_encoder_layers=2, num_decoder_layers=2
    )
    small = shallow.with_layers(DEEP_T5, [3], encoder_layers=4)
    assert (small.num_encoder_layers, small.num_decoder_layers) == (4, 1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((DEEP_DECODER, 6), "layers is 6; must be an integer of at least 1 and at most 5"),
        ((DEEP_DECODER, 0), "layers is 0; must be"),
        ((DEEP_DECODER, [1, 5]), r"layers is \[1, 5\]; must be 2 numbers from 0 to 4"),
        ((DEEP_DECODER, "ten"), "layers is 'ten'; must be"),
        ((DEEP_DECODER, 2, 2), "has no encoder"),
        ((DEEP_T5, 5), "layers is 5; must be"),
        ((DEEP_T5, 2, 6), "encoder_layers is 6; must be"),
    ],
)
def test_layers_that_are_not_there_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        shallow.with_layers(*arguments)
