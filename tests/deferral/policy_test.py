"""The rule that defers: against its definition, in NumPy and JAX alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cascade_jax.deferral import policy

TINY = float(np.finfo(np.float32).tiny)
# Ties, signed zeros, subnormal numbers, numbers that are equal as float32, infinities.
SPECIAL = [0.0, -0.0, 1e-40, -1e-40, TINY, 0.3, 0.3 + 1e-12, 1.0, 1.0 + 1e-9, -2.5, np.inf, -np.inf]


def test_a_score_above_the_threshold_defers():
    assert policy.defers(np.array([0.1, 0.3, np.nan]), 0.3).tolist() == [False, False, True]
    assert bool(policy.defers(0.4, 0.3)) and not bool(policy.defers(0.3, 0.3))


def test_numpy_jax_and_compiled_jax_decide_alike():
    score, threshold = np.meshgrid(np.array([*SPECIAL, np.nan]), np.array(SPECIAL))
    expected = policy.defers(score, threshold)
    arrays = jnp.asarray(score, jnp.float32), jnp.asarray(threshold, jnp.float32)
    np.testing.assert_array_equal(policy.defers(*arrays), expected)
    np.testing.assert_array_equal(jax.jit(policy.defers)(*arrays), expected)
    # The definition, one pair at a time.
    for is_deferred, s, t in zip(expected.flat, score.flat, threshold.flat, strict=True):
        s, t = (0.0 if 0 < abs(x) < TINY else float(np.float32(x)) for x in (s, t))
        assert is_deferred == (s > t or s != s)


def test_each_block_of_positions_has_its_threshold():
    assert policy.by_position(np.array([1.0, 2.0]), 5).tolist() == [1, 1, 1, 2, 2]
    rows = policy.by_position(np.array([[1.0, 2.0], [3.0, 4.0]]), 3)
    assert rows.tolist() == [[1, 1, 2], [3, 3, 4]]
    two_blocks = policy.Policy(policy.TOKEN, "log_prob", ((0.5, 0.1),))
    assert two_blocks.defers(np.full((1, 4), 0.3)).tolist() == [[False, False, True, True]]


def test_a_cascade_of_three_models_has_two_stages():
    three = policy.Policy(policy.ANSWER, "average", ((0.5,), (0.2,)), ("small", "middle", "large"))
    score = np.array([0.3, 0.7])
    assert three.defers(score).tolist() == [False, True]
    assert three.defers(score, stage=1).tolist() == [True, True]


@pytest.mark.parametrize(
    "fields, message",
    [
        (("tokens", "x", ((1.0,),)), "level is 'tokens'; must be one of answer, token; did you"),
        (("token", "x", ((1.0,), (2.0,))), "one stage less than models, here 1; got"),
        (("token", "x", ((float("nan"),),)), "and not NaN"),
        (("token", "x", ((),)), "one number or more"),
        (("answer", "x", ((1.0, 2.0),)), "one threshold a stage, got"),
    ],
)
def test_what_is_no_policy_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        policy.Policy(*fields)
