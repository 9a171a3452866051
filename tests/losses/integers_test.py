"""Labels and top-k ids of narrow and wide integer types, in both loss heads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cascade_jax.losses import checks, teachers
from cascade_jax.unembedding import Unembedding
from tests.support import cases
from tests.support.loss_heads import fused_head, plain_head

pytestmark = pytest.mark.medium

HEADS = {"plain": plain_head, "fused": fused_head}
CASES = ("cat_xent", "dist", "gatekeeper_teacher")
TOKENS = 6


def arrays(vocab):
    """(student's hidden states and map, teacher's of another kernel)."""
    a, b, c = jax.random.split(jax.random.key(0), 3)
    ours, theirs = (Unembedding(jax.random.normal(key, (2, vocab))) for key in (a, b))
    hidden = jax.random.normal(c, (TOKENS, 2))
    return hidden, ours, teachers.TeacherHidden(hidden, theirs)


def labels(vocab, dtype):
    """The ends of the vocabulary, as far as the type reaches, and ids between them."""
    last = min(vocab - 1, np.iinfo(dtype).max)
    return np.array([0, last, last // 2, 1, last - 1, last], dtype)


# Of two programs, which XLA may fuse and so round in different ways.
assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)


def with_each_head(*cases):
    """Cases for each head, of which each case but for (uint8, 300) is fast with one head."""
    fast = {("plain", 256), ("plain", 128), ("fused", 300), ("fused", 32768)}
    return [
        pytest.param(head, *case, marks=() if (head, case[1]) in fast else pytest.mark.slow)
        for head in HEADS
        for case in cases
    ]


@pytest.mark.parametrize(
    "head, dtype, vocab",
    with_each_head(("int8", 128), ("uint8", 256), ("uint8", 300), ("int16", 32768)),
)
def test_narrow_labels_are_those_of_int32(head, dtype, vocab):
    hidden, ours, facts = arrays(vocab)

    @jax.jit
    def run_all(targets):
        return [HEADS[head](case, hidden, ours, facts, targets, jnp.ones(TOKENS)) for case in CASES]

    narrow = labels(vocab, dtype)
    actual, expected = run_all(narrow), run_all(narrow.astype(np.int32))
    jax.tree.map(assert_close, actual, expected)
    assert all(np.isfinite(sums.loss_sum) for sums in actual)
    checks.check_targets(narrow, np.ones(TOKENS), vocab)  # outside of jax.jit


@pytest.mark.parametrize(
    "head, dtype, vocab", with_each_head(("int8", 128), ("uint8", 300), ("int16", 32768))
)
def test_narrow_top_k_ids_are_those_of_int32(head, dtype, vocab):
    hidden, ours, _ = arrays(vocab)
    last = min(vocab - 1, np.iinfo(dtype).max)
    ids = np.tile(np.array([last, 0, last // 2], dtype), (TOKENS, 1))
    log_probs = np.log(np.tile(np.float32([0.5, 0.2, 0.1]), (TOKENS, 1)))
    targets = labels(vocab, dtype)

    @jax.jit
    def run_all(ids):
        facts = teachers.TeacherTopK(jnp.asarray(log_probs), ids)
        return [HEADS[head](case, hidden, ours, facts, targets, jnp.ones(TOKENS)) for case in CASES]

    actual, expected = run_all(ids), run_all(ids.astype(np.int32))
    jax.tree.map(assert_close, actual, expected)
    assert all(np.isfinite(sums.loss_sum) for sums in actual)
    assert actual[0].metrics["teacher_token_accuracy"].numerator == (targets == last).sum() > 0
    facts = teachers.TeacherTopK(jnp.asarray(log_probs), jnp.asarray(ids))
    checks.check_teacher(cases.build("dist"), facts, (TOKENS, vocab), np.ones(TOKENS))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("label", [2**32 + 1, -(2**32) + 1])
def test_a_wide_label_is_refused_before_it_is_cut_to_int32(head, label):
    hidden, ours, _ = arrays(5)
    targets = np.ones(TOKENS, np.int64)
    targets[4] = label
    message = rf"1 counted targets are outside the vocabulary of 5 tokens; .* {label} at .*4"
    with pytest.raises(ValueError, match=message):
        HEADS[head]("xent", hidden, ours, None, targets, np.ones(TOKENS, np.float32))
