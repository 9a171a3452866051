"""T5Config refuses what it cannot build, and says what it would take."""

import dataclasses

import pytest

from cascade_jax.models.config import T5Config

SIZES = dict(
    vocab_size=32,
    embed_dim=8,
    num_heads=2,
    head_dim=4,
    mlp_dim=16,
    num_encoder_layers=1,
    num_decoder_layers=1,
)


def test_defaults_are_t5_1_1():
    config = T5Config(**SIZES)
    assert config.mlp_activations == ("gelu", "linear")
    assert not config.tied_logits
    assert (config.relative_buckets, config.relative_max_distance) == (32, 128)


def test_configs_of_equal_values_are_one_key():
    from_list = T5Config(**SIZES, mlp_activations=["relu"])
    assert {from_list: "found"}[T5Config(**SIZES, mlp_activations=("relu",))] == "found"


@pytest.mark.parametrize("name", [*SIZES, "relative_buckets", "relative_max_distance"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "8"])
def test_sizes_must_be_positive_whole_numbers(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}; must be an integer of at least 1"):
        T5Config(**{**SIZES, name: value})


@pytest.mark.parametrize(
    ("field", "value", "nearest"),
    [
        ("mlp_activations", ("gelu", "liner"), "linear"),
        ("dtype", "float-32", "float32"),
        ("dtype", "bfloat_16", "bfloat16"),
        ("remat", "ful", "full"),
        ("remat", "dot", "dots"),
    ],
)
def test_unknown_name_gets_the_nearest(field, value, nearest):
    message = f"{field} is .*; must be one of .*did you mean '{nearest}'"
    with pytest.raises(ValueError, match=message):
        T5Config(**SIZES, **{field: value})


@pytest.mark.parametrize("value", ["gelu", ()])
def test_activations_must_be_a_tuple_of_names(value):
    with pytest.raises(ValueError, match="mlp_activations is .*one or more names out of gelu"):
        T5Config(**SIZES, mlp_activations=value)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_dropout_rate_must_be_a_rate(rate):
    message = f"dropout_rate is {rate!r}; must be at least 0 and below 1"
    with pytest.raises(ValueError, match=message):
        T5Config(**SIZES, dropout_rate=rate)


@pytest.mark.parametrize("buckets", [2, 7])
def test_buckets_must_halve_for_two_directions(buckets):
    with pytest.raises(ValueError, match=f"relative_buckets is {buckets}; must be an even number"):
        T5Config(**SIZES, relative_buckets=buckets)


def test_max_distance_must_lie_beyond_the_exact_buckets():
    with pytest.raises(ValueError, match="relative_max_distance is 16; must be more than .* 16"):
        T5Config(**SIZES, relative_max_distance=16)


@pytest.mark.parametrize("value", [1, "True", None])
def test_a_bias_per_layer_is_wanted_or_not(value):
    message = f"relative_bias_per_layer is {value!r}; must be True or False"
    with pytest.raises(ValueError, match=message):
        T5Config(**SIZES, relative_bias_per_layer=value)


def test_config_cannot_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        T5Config(**SIZES).mlp_dim = 3
