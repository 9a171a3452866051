"""Numbers of a report in words."""

import math

import numpy as np
import pytest

from cascade_jax.deferral import policy
from cascade_jax.report.numbers import threshold_text


def test_who_types_a_threshold_gets_the_same():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=2000) * 10.0 ** rng.integers(-12, 12, 2000)
    for score in scores.tolist():
        typed = float(threshold_text(score))
        assert np.float32(typed) == np.float32(score)
        np.testing.assert_array_equal(policy.defers(scores, typed), policy.defers(scores, score))


@pytest.mark.parametrize(
    ("thresholds", "text"),
    [
        ((0.8455815315246582,), "0.84558153"),
        ((0.5, 2.0), "0.5, 2"),
        ((math.inf, -math.inf, math.nan), "∞, −∞, –"),
        ((1e-7,), "1e-07"),
        ((), "–"),
    ],
)
def test_thresholds_are_short(thresholds, text):
    assert threshold_text(*thresholds) == text
