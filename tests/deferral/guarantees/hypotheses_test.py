"""Procedures against their definitions, one test at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_jax.deferral.guarantees import hypotheses

P = st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.02, 0.03, 0.05, 0.1, 0.5, 1.0]), min_size=1)
DELTA = st.sampled_from([0.02, 0.1, 0.3])


@given(p=P, delta=DELTA)
def test_bonferroni_and_holm(p, delta):
    actual = hypotheses.bonferroni(np.array(p), delta)
    assert actual.tolist() == [value * len(p) <= delta for value in p]
    left, rejected = sorted(range(len(p)), key=lambda i: p[i]), set()
    while left and p[left[0]] <= delta / len(left):
        rejected.add(left.pop(0))
    holm = hypotheses.holm(np.array(p), delta)
    assert set(np.flatnonzero(holm)) == rejected
    assert np.all(holm[actual])  # Holm rejects all that Bonferroni does


@given(p=P, delta=DELTA, data=st.data())
def test_the_fixed_sequence_stops_at_the_first_failure(p, delta, data):
    order = data.draw(st.permutations(range(len(p))))[: data.draw(st.integers(0, len(p)))]
    rejected = set()
    for index in order:
        if p[index] > delta:
            break
        rejected.add(index)
    result = hypotheses.fixed_sequence(np.array(p), delta, order)
    assert set(np.flatnonzero(result)) == rejected


def test_p_values_that_are_none_are_refused():
    with pytest.raises(ValueError, match="configuration 1 is nan"):
        hypotheses.holm(np.array([0.5, np.nan]), 0.1)
