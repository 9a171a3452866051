"""A decoding rule of one's own decides who writes a token, and is an argument of one program."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cascade_jax.inference.cascade.decode import make_cascade_decode_fn
from tests.support.scripted import Scripted

pytestmark = pytest.mark.medium

ROWS, LENGTH = 3, 6


@flax.struct.dataclass
class EveryNth:
    """Defers every n-th token, whatever the models say; measures the gap of the two likeliest."""

    n: jax.Array

    def start(self, inputs):
        return self

    def measure(self, proposal):
        first, second = jax.lax.top_k(proposal.log_probs, 2)[0].T
        return first - second

    def defers(self, uncertainty, position):
        return position % self.n == self.n - 1


def test_a_rule_of_ones_own_decides():
    student = jnp.broadcast_to(jnp.array([2.0, 0.5, -9.0]), (ROWS, LENGTH, 3))
    teacher = jnp.broadcast_to(jnp.array([0.0, 1.0, -9.0]), (ROWS, LENGTH, 3))
    inputs = jnp.ones((ROWS, 2), jnp.int32)
    decode = make_cascade_decode_fn(Scripted(), Scripted(), LENGTH, eos_id=2)
    for n in (1, 2, 4):
        answers = decode(student, teacher, inputs, EveryNth(jnp.array(n)))
        expected = np.broadcast_to(np.arange(LENGTH) % n == n - 1, (ROWS, LENGTH))
        np.testing.assert_array_equal(answers.is_deferred, expected)
        np.testing.assert_array_equal(answers.tokens, expected)
        np.testing.assert_allclose(answers.uncertainties, 1.5, rtol=1e-5)
