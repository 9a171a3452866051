"""p-values of "the mean risk is at least the limit", over independent sequences.

A small p says that the risk is below the limit: if it is not, then P(p ≤ u) ≤ u for every u. The
unit is the sequence. Its loss may be a mean over its tokens, which may depend on each other in any
way; what is assumed is that the sequences are independent draws of one distribution, and that
nobody chose their order, or left some out, by their losses.

Losses in [lower, upper] are moved to [0, 1] first, the limit with them; so paired differences
(the large model's quality minus the cascade's, say) have lower = -1 and upper = 1.

Example: 0 for each of 22 sequences at the limit 0.1 gives (1 - 0.1)^22 = 0.098 by "binomial".
"""

import bisect
import math
import numbers
import warnings

import numpy as np
from jaxtyping import Float, Real

from cascade_jax import checks, names

WSR, HOEFFDING_BENTKUS, BINOMIAL, PAPER = "wsr", "hoeffding_bentkus", "binomial", "paper"
BOUNDS = (WSR, HOEFFDING_BENTKUS, BINOMIAL, PAPER)
# A bet is at most this share of the one that a loss of 1 would ruin.
_LARGEST_BET = 0.95
# The smallest limit, as a share of a loss's range, and the smallest delta: for less than these a
# calibration needs more examples than there can be.
_LEAST_LIMIT, _LEAST_LEVEL = 1e-8, 1e-12
# `smallest_n` searches no further: its tests would take minutes.
_MOST_SEARCHED = 20_000
# What rounding can add to a sum of losses, as a count.
_ROUNDING = 1e-9


class IndependentTokensWarning(UserWarning):
    """The paper's bound is valid for independent tokens only."""


def p_values(
    losses: Real[np.ndarray, "C n"],
    limit: float,
    bound: str = WSR,
    lower: float = 0.0,
    upper: float = 1.0,
    delta: float = 0.1,
    tokens_per_sequence: int | None = None,
) -> Float[np.ndarray, " C"]:
    """p-values of "the mean loss is at least `limit`", one for each of C configurations.

    Args:
      losses: one row per configuration, one column per sequence, columns in an order that does not
        depend on the losses (only "wsr" reads the order).
      limit: strictly between `lower` and `upper`.
      bound: "wsr" (Waudby-Smith and Ramdas), "hoeffding_bentkus", "binomial" (losses are `lower` or
        `upper`), or "paper" (Lemma 3.1; needs independent tokens, and warns).
      lower, upper: the range of a loss.
      delta: the level at which the p-value will be used: "wsr" chooses its bets for it. The p-value
        is valid at every level.
      tokens_per_sequence: for "paper", of which a loss is the mean.

    Raises:
      ValueError: a loss outside its range or NaN (the first is named), no sequence, a limit, delta
        or bound that is none.
    """
    scaled, scaled_limit = _checked(losses, limit, bound, lower, upper, delta)
    if bound == WSR:
        return wsr(scaled, scaled_limit, delta)
    if bound == HOEFFDING_BENTKUS:
        return hoeffding_bentkus(scaled, scaled_limit)
    if bound == BINOMIAL:
        return binomial(scaled, scaled_limit)
    return paper(scaled, scaled_limit, checked_tokens(tokens_per_sequence))


def wsr(
    losses: Float[np.ndarray, "C n"], limit: float, delta: float = 0.1
) -> Float[np.ndarray, " C"]:
    """Betting: ``p = 1 / max_t W_t``, ``W_t = Π_{i≤t} (1 + λ_i (m - x_i))``; 1 if the mean is ≥ m.

    Whoever stakes λ_i ≥ 0 on losses below the limit m, before seeing x_i, gains nothing on average
    if the mean is at least m: W is a nonnegative supermartingale that starts at 1, and by Ville's
    inequality P(max_t W_t ≥ 1/u) ≤ u.

    The stakes are plug-in: ``λ_i = min(sqrt(2 a / ((n - i + 1) v)), 0.95 / (1 - m))``. Here v is
    the variance of the losses before i, counted with one more of m(1 - m) around m, and a is what
    log W still lacks to log(1/δ); once W has reached 1/δ, a = log(1/δ) again, so that p goes on
    falling. To aim at what is lacking is our own choice; any stakes made before x_i are valid.

    The largest wealth may be early luck that later losses take back. That is valid, but nobody
    should be promised a limit that the sample's own mean breaks: p is 1 there, which only makes it
    larger.

    Losses are in [0, 1], the limit m in (0, 1).

    Reference: Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by
      betting", section 4; Bates et al. 2021, "Distribution-free, risk-controlling prediction sets".
    """
    configurations, n = losses.shape
    goal, largest = math.log(1 / delta), _LARGEST_BET / (1 - limit)
    wealth, best = np.zeros(configurations), np.zeros(configurations)  # logarithms
    total = np.full(configurations, limit)
    squares = np.full(configurations, limit * (1 - limit))
    for i, loss in enumerate(np.ascontiguousarray(losses.T), start=1):
        lacking = np.where(best >= goal, goal, goal - wealth)
        variance = squares / i
        # Where losses hardly vary the largest stake is the smaller one, also of a quotient by 0.
        enough = 2 * lacking >= largest**2 * (n - i + 1) * variance
        stake = np.full(configurations, largest)
        np.sqrt(2 * lacking / np.where(enough, 1, (n - i + 1) * variance), out=stake, where=~enough)
        wealth += np.log1p(stake * (limit - loss))
        np.maximum(best, wealth, out=best)
        total += loss
        squares += (loss - total / (i + 1)) ** 2
    return np.where(losses.mean(axis=1) < limit, np.exp(-best), 1.0)


def hoeffding_bentkus(losses: Float[np.ndarray, "C n"], limit: float) -> Float[np.ndarray, " C"]:
    """``p = min(exp(-n h(min(r, m), m)), e · P(Binom(n, m) ≤ ⌈n r⌉))``, r the mean loss.

    ``h(a, b) = a log(a/b) + (1 - a) log((1 - a) / (1 - b))``. Losses in [0, 1], the limit m inside.

    Reference: Angelopoulos et al. 2021, "Learn then test"; Hoeffding 1963, Theorem 1; Bentkus 2004,
      Theorem 1.2.
    """
    from scipy import special, stats

    n = losses.shape[1]
    total = losses.sum(axis=1)
    mean = np.minimum(total / n, limit)
    divergence = special.rel_entr(mean, limit) + special.rel_entr(1 - mean, 1 - limit)
    bentkus = math.e * stats.binom.cdf(np.ceil(total - _ROUNDING), n, limit)
    return np.minimum(np.minimum(np.exp(-n * divergence), bentkus), 1.0)


def binomial(losses: Float[np.ndarray, "C n"], limit: float) -> Float[np.ndarray, " C"]:
    """``p = P(Binom(n, m) ≤ number of ones)``, m the limit; exact for losses of 0 or 1.

    Raises:
      ValueError: another loss; the first is named.
    """
    from scipy import stats

    others = np.argwhere((losses != 0) & (losses != 1))
    if len(others):
        row, column = others[0]
        raise ValueError(
            f"the bound {BINOMIAL!r} is for losses that are the lowest or the highest possible, "
            f"and configuration {row} has another for example {column}; give {WSR!r} or "
            f"{HOEFFDING_BENTKUS!r}"
        )
    return stats.binom.cdf(losses.sum(axis=1), losses.shape[1], limit)


def paper(
    losses: Float[np.ndarray, "C n"], limit: float, tokens_per_sequence: int
) -> Float[np.ndarray, " C"]:
    """``p = P(Binom(n L, m) ≤ n L r)``, r the mean loss; **not valid if tokens depend**.

    The paper's proof counts all n L tokens as independent. Tokens of one sequence are not: then p
    is too small, and more than δ of the certificates are wrong (docs/results/calibration.md).

    Losses are in [0, 1], each the mean of L = tokens_per_sequence tokens of 0 or 1.

    Reference: Budget-Constrained Learning to Defer for Autoregressive Models, Lemma 3.1.
    """
    from scipy import stats

    warnings.warn(
        f"the bound {PAPER!r} holds only if all tokens are independent, those of a sequence too; "
        f"where they are not it certifies too often. {WSR!r} needs independent sequences only",
        IndependentTokensWarning,
        stacklevel=3,
    )
    deferred = np.floor(tokens_per_sequence * losses.sum(axis=1) + _ROUNDING)
    return stats.binom.cdf(deferred, losses.shape[1] * tokens_per_sequence, limit)


def smallest_n(
    limit: float,
    delta: float,
    bound: str = WSR,
    lower: float = 0.0,
    upper: float = 1.0,
    tokens_per_sequence: int | None = None,
) -> int:
    """The fewest sequences to certify anything: with fewer, losses of `lower` give p > delta.

    Beyond 20,000 it is what every bound needs, and some need more.

    The arguments are those of `p_values`; delta is the level of one test, so that of Bonferroni is
    divided by the number of configurations.
    """
    _, scaled_limit = _checked(np.full((1, 1), lower), limit, bound, lower, upper, delta)
    if bound == PAPER:
        tokens = checked_tokens(tokens_per_sequence)
        return math.ceil(_flips(scaled_limit, delta) / tokens)

    def is_enough(n: int) -> bool:
        return bool(p_values(np.zeros((1, n)), scaled_limit, bound, delta=delta)[0] <= delta)

    least = most = _flips(scaled_limit, delta)  # which no bound can do without
    if least > _MOST_SEARCHED:
        return least
    while not is_enough(most):
        most *= 2
    return least + bisect.bisect_left(range(least, most), True, key=is_enough)


def least_p_value(
    n: int,
    limit: float,
    bound: str = WSR,
    lower: float = 0.0,
    upper: float = 1.0,
    tokens_per_sequence: int | None = None,
) -> float:
    """What no p-value of n sequences is below, whatever their losses."""
    scaled = (limit - lower) / (upper - lower)
    if bound == WSR:  # the largest bet, won n times
        return math.exp(-n * math.log1p(_LARGEST_BET / (1 - scaled) * scaled))
    flips = n * checked_tokens(tokens_per_sequence) if bound == PAPER else n
    return math.exp(flips * math.log1p(-scaled))


def _flips(limit: float, delta: float) -> int:
    """The smallest n with (1 - limit)^n ≤ delta."""
    n = max(1, math.floor(math.log(delta) / math.log1p(-limit)))
    return n if (1 - limit) ** n <= delta else n + 1


def checked_tokens(tokens_per_sequence: int | None) -> int:
    """The number of tokens for `paper`; raises ValueError without one."""
    name = f"the bound {PAPER!r} counts tokens: tokens_per_sequence"
    checks.whole_number(name, tokens_per_sequence, 1)
    return tokens_per_sequence


def check_level(delta: float) -> None:
    """Raises ValueError unless delta is a chance of error strictly between 0 and 1."""
    why = "it is the chance that the promise does not hold, 0.1 say"
    if not (checks.is_number(delta) and 0 < delta < 1):
        raise ValueError(f"delta must be above 0 and below 1, got {checks.shown(delta)}: {why}")
    if delta < _LEAST_LEVEL:
        raise ValueError(f"delta must be at least {_LEAST_LEVEL:g}, got {delta}: {why}")


def check_limit(limit: float, lower: float, upper: float) -> None:
    """Raises ValueError unless the limit is inside the range of a loss."""
    if not (checks.is_number(lower) and checks.is_number(upper) and lower < upper):
        raise ValueError(f"a loss must have a finite range, lower < upper, got {lower} to {upper}")
    if isinstance(limit, bool) or not isinstance(limit, numbers.Real):
        raise ValueError(f"the limit must be a number, got {checks.shown(limit)}")
    if not lower < limit < upper:
        when = "always" if limit >= upper else "never"
        why = f": a mean of losses in this range is {when} below it" * (limit == limit)
        text = f"the limit must be strictly between {lower} and {upper}"
        raise ValueError(f"{text}, got {checks.shown(limit)}{why}")
    if limit - lower < _LEAST_LIMIT * (upper - lower):
        raise ValueError(
            f"the limit must be above {lower} by at least {_LEAST_LIMIT:g} of the range, got "
            f"{limit}: to certify it would take more than 100 million examples"
        )


def check_losses(losses: Real[np.ndarray, "C n"], lower: float, upper: float, name: str) -> None:
    """Raises ValueError for no sequence, NaN, or a loss outside its range; the first is named."""
    if losses.shape[1] == 0:
        raise ValueError(f"{name} has no example: nothing can be said of a risk without one")
    outside = np.argwhere(~((losses >= lower) & (losses <= upper)))
    if len(outside):
        row, column = outside[0]
        raise ValueError(
            f"{name} of configuration {row} for example {column} is {losses[row, column]}, must be "
            f"in [{lower}, {upper}] ({len(outside)} such)"
        )


def _checked(
    losses: Real[np.ndarray, "C n"],
    limit: float,
    bound: str,
    lower: float,
    upper: float,
    delta: float,
) -> tuple[Float[np.ndarray, "C n"], float]:
    """Losses and limit moved to [0, 1]."""
    names.check_choice("bound", bound, BOUNDS)
    check_level(delta)
    check_limit(limit, lower, upper)
    check_losses(losses, lower, upper, "the loss")
    width = upper - lower
    scaled = np.clip((np.asarray(losses, np.float64) - lower) / width, 0.0, 1.0)
    return scaled, (limit - lower) / width
