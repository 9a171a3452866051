"""The engine's answers against decoding every input alone."""

import functools

import jax
import numpy as np
import pytest
from flax import linen as nn

from cascade_jax.inference import engine
from cascade_jax.inference.generate import make_generate_fn
from cascade_jax.models import families
from cascade_jax.models.config import DecoderConfig
from cascade_jax.models.families import parameter_shapes
from cascade_jax.parallel.mesh import MeshConfig
from tests.support import fakes

pytestmark = pytest.mark.medium

MAX_LENGTH, TOP_K = 10, 3
CONFIGS = {
    "t5": fakes.t5_config(vocab_size=23),
    "decoder": DecoderConfig(
        vocab_size=23,
        embed_dim=16,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        mlp_dim=32,
        bidirectional_prefix=True,
    ),
}


@functools.cache
def case(kind):
    """A model with sharp distributions, its parameters, and an end that comes at many lengths."""
    config = CONFIGS[kind]
    rng = np.random.default_rng(3)

    def draw(leaf):
        if len(leaf.shape) == 1:
            return np.ones(leaf.shape, np.float32)
        return (rng.normal(size=leaf.shape) * 3 / np.sqrt(leaf.shape[0])).astype(np.float32)

    return families.build(config), jax.tree.map(draw, nn.meta.unbox(parameter_shapes(config)))


def inputs(count, longest, seed=0):
    rng = np.random.default_rng(seed)
    rows = [rng.integers(2, 23, size=rng.integers(0, longest + 1)) for _ in range(count)]
    return [row.astype(np.int32) for row in rows]


@functools.cache
def alone(kind, eos_id, longest):
    model, params = case(kind)
    fn = make_generate_fn(model, MAX_LENGTH, eos_id, TOP_K)

    @functools.cache
    def answer(ids):
        row = np.zeros((1, longest), np.int32)
        row[0, : len(ids)] = ids
        return jax.tree.map(lambda leaf: np.asarray(leaf)[0], fn(params, row))

    return answer


def check(kind, rows, slots, eos_id=1, mesh=None):
    model, params = case(kind)
    mesh = (mesh or MeshConfig(data=1)).build(jax.devices()[: (mesh.size if mesh else 1)])
    settings = engine.Settings(model, MAX_LENGTH, eos_id, TOP_K, mesh)
    counts = engine.TokenCounts()
    answers = {}
    for index, answer, seconds in engine.answers(settings, params, rows, slots, counts):
        assert index not in answers and seconds > 0
        answers[index] = answer
    assert sorted(answers) == list(range(len(rows)))
    for index, row in enumerate(rows):
        expected = alone(kind, eos_id, 40)(tuple(row.tolist()))
        actual = answers[index]
        np.testing.assert_array_equal(actual.tokens, expected.tokens)
        np.testing.assert_array_equal(actual.top_ids, expected.top_ids)
        assert actual.lengths == expected.lengths
        for name in ("log_probs", "entropies", "top_log_probs"):
            ours, theirs = getattr(actual, name), getattr(expected, name)
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)
    print(counts, counts.ratio, [int(a.lengths) for a in answers.values()])
    return counts


@pytest.mark.parametrize("kind", CONFIGS)
def test_answers_are_those_of_each_input_alone(kind):
    rows = inputs(50, 40)
    check(kind, rows, 8)
