"""Multiple testing: rejects null hypotheses so that with confidence 1 - δ none of them is true.

The chance of one or more wrong rejections (the family-wise error) is at most δ, however the
p-values depend on each other. A hypothesis here is "this configuration breaks a limit": what is
rejected is certified.

Reference: Holm 1979; Bauer 1991 and Wiens 2003 for the fixed sequence; Angelopoulos et al. 2021,
  "Learn then test".
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

_P = Float[np.ndarray, " C"]
_Rejected = Bool[np.ndarray, " C"]


def bonferroni(p: _P, delta: float) -> _Rejected:
    """Rejects where ``p ≤ δ / C``."""
    _check(p)
    return p <= delta / len(p)


def holm(p: _P, delta: float) -> _Rejected:
    """Rejects the i-th smallest p (from 0) if it and all smaller ones are ``≤ δ / (C - i)``.

    Rejects all that Bonferroni does.

    Example: p = 0.01, 0.02, 0.2 at δ = 0.06 rejects two: 0.01 ≤ 0.02, 0.02 ≤ 0.03, 0.2 > 0.06.
    """
    _check(p)
    order = np.argsort(p, kind="stable")
    passes = p[order] <= delta / (len(p) - np.arange(len(p)))
    rejected = np.zeros(len(p), bool)
    rejected[order[: _leading(passes)]] = True
    return rejected


def fixed_sequence(p: _P, delta: float, order: Sequence[int]) -> _Rejected:
    """Tests one after the other, each at the whole δ, and stops at the first that is not rejected.

    A wrong rejection needs that the first true null in the order is rejected, a single test.

    Args:
      p: of all configurations.
      delta: δ.
      order: indices of those to test. It must not depend on the data that p is computed from.
    """
    _check(p)
    order = np.asarray(order, np.int64)
    rejected = np.zeros(len(p), bool)
    rejected[order[: _leading(p[order] <= delta)]] = True
    return rejected


def _leading(passes: Bool[np.ndarray, " n"]) -> int:
    """Number of true values before the first false one."""
    return len(passes) if np.all(passes) else int(np.argmin(passes))


def _check(p: _P) -> None:
    bad = np.flatnonzero(~((p >= 0) & (p <= 1)))
    if len(bad):
        row = bad[0]
        raise ValueError(f"the p-value of configuration {row} is {p[row]}, must be in [0, 1]")
