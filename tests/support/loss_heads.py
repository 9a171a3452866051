"""Both loss heads with the same arguments, and the comparison of what they give."""

import functools

import jax
import numpy as np

from cascade_jax.losses import fused, teachers
from tests.support import cases


def fused_head(case, hidden, ours, facts, targets, weights, **options):
    return fused.loss_sums(cases.build(case), hidden, ours, facts, targets, weights, **options)


def plain_head(case, hidden, ours, facts, targets, weights):
    if isinstance(facts, teachers.TeacherHidden):
        facts = facts.unembedding.logits(facts.hidden)
    return cases.build(case)(ours.logits(hidden), facts, targets, weights)


def value_and_gradients(head, case, trained, facts, targets, weights, **options):
    """(LossSums, gradients of loss_sum for the hidden states and the map)."""

    def value(trained):
        sums = head(case, *trained, facts, targets, weights, **options)
        return sums.loss_sum, sums

    (_, sums), gradients = jax.value_and_grad(value, has_aux=True)(trained)
    return sums, gradients


def compare(actual, expected, what="", loss=1e-6, gradient=1e-5, may_vanish=False):
    """`gradient` is relative to the largest entry of each array, which is not 0 by default."""
    (sums, d), (other, d_other) = actual, expected
    np.testing.assert_allclose(sums.loss_sum, other.loss_sum, rtol=loss, err_msg=what)
    np.testing.assert_allclose(sums.count, other.count, rtol=1e-6, err_msg=what)
    assert sums.metrics.keys() == other.metrics.keys()
    for name, ratio in sums.metrics.items():
        close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
        close(ratio.numerator, other.metrics[name].numerator, err_msg=f"{what} {name}")
        close(ratio.denominator, other.metrics[name].denominator, err_msg=f"{what} {name}")
    assert jax.tree.structure(d) == jax.tree.structure(d_other)
    for a, b in zip(jax.tree.leaves(d), jax.tree.leaves(d_other), strict=True):
        assert may_vanish or np.abs(b).max() > 0
        np.testing.assert_allclose(a, b, rtol=0, atol=gradient * np.abs(b).max(), err_msg=what)
