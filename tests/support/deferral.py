"""The rule that defers, spelled out for two numbers, and numbers that are hard to compare."""

import numpy as np

TINY = float(np.finfo(np.float32).tiny)
THIRD = float(np.float32(1 / 3))
# Signed zeros, subnormal numbers (as float32, and also as float64), the smallest normal one and
# what rounds to it, numbers that are equal only as float32, and neighbours in float32.
VALUES = [
    0.0, -0.0, 1e-40, -1e-40, 1e-310, TINY, TINY * (1 - 1e-9), -TINY, THIRD, 1 / 3, THIRD + 1e-9,
    float(np.nextafter(np.float32(THIRD), np.float32(1))), 1.0, 1.0 + 1e-8, -2.5, 3e38,
]  # fmt: skip


def is_above(score, threshold):
    """Whether a score defers, in arithmetic of Python."""
    pair = []
    for number in (score, threshold):
        with np.errstate(over="ignore", under="ignore"):
            rounded = float(np.float32(number))
        pair.append(0.0 if abs(rounded) < TINY else rounded)
    return pair[0] > pair[1]


def above(scores, threshold):
    """Which scores defer."""
    return np.array([is_above(score, threshold) for score in scores])
