"""Parameters against a count by hand, FLOPs against the matmuls in the traced program."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cascade_jax.batch import Batch
from cascade_jax.inference import rank, rank_packing
from cascade_jax.models import families, flops, layer_flops
from cascade_jax.models.config import DecoderConfig, T5Config
from cascade_jax.models.families import parameter_shapes
from cascade_jax.models.flops import flops_per_token, parameter_count
from cascade_jax.models.ragged import Ragged

CONFIG = T5Config(
    vocab_size=31,
    embed_dim=10,
    num_heads=3,
    head_dim=4,
    mlp_dim=17,
    num_encoder_layers=2,
    num_decoder_layers=3,
    relative_buckets=8,
)


def _count_by_hand(config: T5Config) -> int:
    embed, joined = config.embed_dim, config.num_heads * config.head_dim
    attention = 4 * embed * joined
    mlp = (len(config.mlp_activations) + 1) * embed * config.mlp_dim
    encoder = config.num_encoder_layers * (attention + mlp + 2 * embed) + embed
    decoder = config.num_decoder_layers * (2 * attention + mlp + 3 * embed) + embed
    tables = config.vocab_size * embed * (1 if config.tied_logits else 2)
    layers = config.num_encoder_layers + config.num_decoder_layers
    biases = layers if config.relative_bias_per_layer else 2
    return encoder + decoder + tables + biases * config.num_heads * config.relative_buckets


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tied_logits": True},
        {"mlp_activations": ("relu",)},
        {"scan_layers": True},
        {"relative_bias_per_layer": True},
        {"relative_bias_per_layer": True, "scan_layers": True},
    ],
    ids=str,
)
def test_count_by_hand(changes):
    config = dataclasses.replace(CONFIG, **changes)
    expected = _count_by_hand(config)
    shapes = parameter_shapes(config)
    assert parameter_count(shapes) == expected
    assert flops_per_token(config) == flops_per_token(shapes) == 2 * expected


def test_arrays_count_as_their_shapes_do():
    params = {"a": {"kernel": np.zeros((3, 4))}, "b": np.zeros(()), "c": np.zeros((5,))}
    assert parameter_count(params) == 12 + 1 + 5
    assert flops_per_token(params) == 36


# ------------------------------------------------------------------ FLOPs

DECODER = DecoderConfig(
    vocab_size=29, embed_dim=10, num_layers=3, num_heads=6, num_kv_heads=2, head_dim=4, mlp_dim=17
)
MODELS = {
    "t5": CONFIG,
    "t5 tied, plain": dataclasses.replace(CONFIG, tied_logits=True, mlp_activations=("relu",)),
    "decoder": DECODER,
    "decoder untied": dataclasses.replace(DECODER, tied_logits=False, qk_norm=True),
}
BATCH, INPUTS, TARGETS = 2, 7, 5


def _dots(jaxpr) -> int:
    """2 M N K of every matmul of a traced program."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            size = np.prod([shape[axis] for axis in contracted])
            total += 2 * int(size) * int(np.prod(equation.outvars[0].aval.shape))
        for inner in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr"),
        ):
            if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                total += _dots(getattr(inner, "jaxpr", inner))
    return total


def _position_bias(config, queries, keys) -> int:
    """T5's position bias is a matmul with a table of its own, which the closed forms leave out."""
    return 2 * config.num_heads * config.relative_buckets * queries * keys


def _left_out(config, places, keys) -> int:
    """What a decoder's last layer leaves out at places of which no state is wanted."""
    layer = layer_flops.self_attention(config, places, keys) + places * layer_flops.mlp(config)
    return layer - places * 4 * config.embed_dim * config.num_kv_heads * config.head_dim


def _traced(fn, *arguments) -> int:
    return _dots(jax.make_jaxpr(fn)(*arguments).jaxpr)


def _params(config):
    shapes = jax.eval_shape(
        lambda key: families.initialize(families.build(config), key), jax.random.key(0)
    )
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


@pytest.mark.parametrize("name", MODELS)
def test_forward_flops_are_the_matmuls_of_the_program(name):
    config = MODELS[name]
    inputs, targets = (jnp.ones((BATCH, size), jnp.int32) for size in (INPUTS, TARGETS))
    batch = Batch(inputs, targets, targets, jnp.ones(targets.shape))
    model = families.build(config)
    actual = _traced(lambda p: families.logits(model, p, batch), _params(config))
    if isinstance(config, T5Config):
        actual -= _position_bias(config, INPUTS, INPUTS) + _position_bias(config, TARGETS, TARGETS)
    else:
        actual += BATCH * _left_out(config, INPUTS, INPUTS + TARGETS)
    expected = flops.forward_flops(config, INPUTS, TARGETS)
    assert actual == BATCH * expected
    assert flops.training_flops(config, INPUTS, TARGETS) == 3 * expected


@pytest.mark.medium
@pytest.mark.parametrize("name", MODELS)
def test_flops_of_decoding_are_the_matmuls_of_its_steps(name):
    config, places = MODELS[name], 4
    model, params = families.build(config), _params(MODELS[name])
    inputs = jnp.ones((BATCH, INPUTS), jnp.int32)
    start = functools.partial(families.start_decoding, model, max_length=places)
    first, cache = jax.eval_shape(start, params, inputs)

    def step(params, cache, tokens):
        return model.apply(
            {"params": params, "cache": cache},
            tokens[:, None],
            inputs,
            method="decode_step",
            mutable=["cache"],
        )

    actual = _traced(step, params, cache, first)
    if isinstance(config, T5Config):
        actual -= _position_bias(config, 1, places)
        seen = places - 1  # a step looks at all places of the cache, filled or not
    else:
        seen = places  # and at that of the start token
    assert actual == BATCH * flops.decode_flops(config, INPUTS, seen)


@pytest.mark.parametrize("name", MODELS)
def test_flops_of_live_decoding_are_the_matmuls_of_its_steps(name):
    config, places, width = MODELS[name], 4, 3
    model, params = families.build(config), _params(MODELS[name])
    inputs = jnp.ones((BATCH, INPUTS), jnp.int32)
    start = functools.partial(families.start_decoding, model, max_length=places)
    _, cache = jax.eval_shape(start, params, inputs)
    ones = jnp.ones((BATCH,), jnp.int32)
    where = Ragged.padded(ones, ones * width, width=width, length=places)

    def step(params, cache, tokens):
        return model.apply(
            {"params": params, "cache": cache},
            tokens,
            inputs,
            where,
            jnp.arange(BATCH) * width + width - 1,
            method="decode_ragged",
            mutable=["cache"],
        )

    actual = _traced(step, params, cache, jnp.ones((BATCH, width), jnp.int32))
    if isinstance(config, T5Config):
        actual -= BATCH * _position_bias(config, width, places)
        seen = places - 1  # a token looks at all places of the cache, filled or not
    else:
        seen = places  # and at that of the start token
    logits = 2 * config.embed_dim * config.vocab_size
    token = flops.decode_flops(config, INPUTS, seen) - logits
    assert actual == BATCH * (width * token + logits)


@pytest.mark.parametrize("name", MODELS)
def test_live_decoding_makes_logits_for_some_of_its_tokens(name):
    config = MODELS[name]
    logits = 2 * config.embed_dim * config.vocab_size
    tokens = [flops.decode_flops(config, INPUTS, place) - logits for place in range(5)]
    expected = flops.prefill_flops(config, INPUTS) + sum(tokens) + 2 * logits
    assert flops.live_flops(config, INPUTS, 5, 2) == expected


@pytest.mark.parametrize("name", MODELS)
def test_the_state_that_predicts_the_first_token_is_the_beginning_of_an_answer(name):
    """After the last layer the answer's first token lacks its logits alone; layers are alike."""
    config = MODELS[name]
    count = families.answer_layers(config)
    spent = [flops.state_flops(config, INPUTS, layer) for layer in range(count)]
    logits = 2 * config.embed_dim * config.vocab_size
    assert spent[-1] == flops.answer_flops(config, INPUTS, 1) - logits
    assert len(set(np.diff(spent).tolist())) <= 1 and sorted(spent) == spent
    encoder = 0
    if isinstance(config, T5Config):
        layer = layer_flops.self_attention(config, INPUTS, INPUTS)
        encoder = config.num_encoder_layers * (layer + INPUTS * layer_flops.mlp(config))
    assert (spent[-1] - encoder) == count * (spent[0] - encoder)
    with pytest.raises(ValueError, match=f"layer is {count}; must be in "):
        flops.state_flops(config, INPUTS, count)


@pytest.mark.parametrize("name", MODELS)
def test_an_answer_costs_its_input_and_each_of_its_tokens(name):
    config = MODELS[name]
    for length in range(4):
        steps = [flops.decode_flops(config, INPUTS, place) for place in range(length)]
        whole = flops.prefill_flops(config, INPUTS) + sum(steps)
        assert flops.answer_flops(config, INPUTS, length) == whole


@pytest.mark.parametrize("name", MODELS)
def test_options_cost_what_the_program_that_ranks_them_computes(name):
    config, count = MODELS[name], 3
    model, starts = families.build(config), families.build(config).start_places
    options = [[[2 + k] * TARGETS for k in range(count)]]
    rows = rank_packing.Pass([[0]], 1, INPUTS + starts, count * TARGETS)
    packed = rank.pack([[1] * INPUTS], options, rows, starts)
    rank_fn = rank.make_rank_fn(model)
    actual = _traced(lambda params: rank_fn(params, *packed), _params(config))
    tokens, expected = count * TARGETS, flops.ranking_flops(config, INPUTS, [TARGETS] * count)
    # What the program masks: the other options, ...
    score = 4 * config.num_heads * config.head_dim
    masked = tokens * (tokens - TARGETS)
    if isinstance(config, T5Config):
        masked *= config.num_decoder_layers
        actual -= _position_bias(config, INPUTS, INPUTS) + _position_bias(config, tokens, tokens)
    else:  # ... options for the input, and the start
        masked = config.num_layers * (masked + tokens + INPUTS * tokens + 2 * INPUTS + 1 + tokens)
        expected += config.num_layers * layer_flops.self_attention(config, 1, 0)
        expected += config.num_layers * layer_flops.mlp(config)
        expected -= _left_out(config, INPUTS + 1, INPUTS + 1 + tokens)
    assert actual == expected + score * masked


def test_parameters_are_split_at_embedding_and_logits():
    for config in MODELS.values():
        split = flops.parameters(config)
        assert split.total == parameter_count(families.parameter_shapes(config))
        assert split.embedding == config.vocab_size * 10
        assert split.output == (0 if config.tied_logits else split.embedding)


def test_two_flops_a_parameter_is_the_limit_of_long_models_and_short_contexts():
    wide = dataclasses.replace(DECODER, embed_dim=256, mlp_dim=1024, head_dim=64)
    per_token = flops.decode_flops(wide, 1, 0)
    split = flops.parameters(wide)
    matmuls = 2 * (split.layers + split.embedding)  # the tied table makes the logits
    assert per_token == pytest.approx(matmuls, rel=0.01)
