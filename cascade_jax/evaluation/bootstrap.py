"""Bootstrap intervals of what is read off a deferral curve: percentile, over inputs, seeded.

Inputs are drawn with all their examples (the cluster bootstrap): two examples of one input are not
independent, and intervals that draw them one by one are too narrow. Where all inputs differ, that
is to draw examples. Figures of a resample are ratios of its sums to its number of examples.

A resample is a weight per example (how often it was drawn), so one sort serves all resamples: along
the sorted order the cumulated weights are deferral rates, the cumulated weighted gains qualities.
Copies of one example are tied, and so linear, exactly as `curves.deferral_curve` treats ties. The
draws are made once for all cascades and scores of a panel, so that differences are paired.

Reference: Davison and Hinkley 1997, Bootstrap Methods and their Application, section 3.8 (data in
  groups, of which whole groups are drawn).

Up to 1,000 groups of tied scores every one of them is a node of each resample's curve, and the
figures are exact. Of more, 1,000 are nodes, evenly spread over the examples: the curves are exact
there and straight between.
"""

import dataclasses
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int, Real, UInt8

from cascade_jax import checks
from cascade_jax.evaluation import curves, equal_cost
from cascade_jax.evaluation.cascades import Cascade, gain_of
from cascade_jax.names import check_choice

CONFIDENCE = 0.95
# Draws held at a time, one byte each; bounds memory, not the result.
_CHUNK_VALUES = 256_000_000
_NODES = 1000
# Points at which a corpus metric is scored in each resample, and its random line is.
_CORPUS_NODES = 200
_RANDOM_RATES = np.linspace(0, 1, 21)
# Resamples of up to this many draws are cumulated at once, others in blocks between nodes.
_SMALL = 2_000_000
_ROWS = 1024  # of a block at most
# What rounding can put between two equal differences.
_ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True, eq=False)
class Resamples:
    """Statistics of one cascade in B resamples of its inputs.

    Resamples of two cascades with the same number of inputs and the same seed draw the same
    inputs, so that differences of their statistics are paired.

    Attributes:
      student_quality, teacher_quality: means.
      area: under the deferral curve.
      random_area, ideal_area, oracle_area: under the lines that it is judged by; NaN for none.
      quality_at_rate: for each of the rates asked for.
      quality_at_cost: for each of the costs asked for; NaN below the small model's.
      rate_at_quality: smallest rate reaching each of the qualities asked for; inf where none does.
      cost_at_quality: the cost of that rate; inf where none does.
      equal_cost_area: `equal_cost.area`; NaN where it was not asked for.
    """

    student_quality: Float[np.ndarray, " B"]
    teacher_quality: Float[np.ndarray, " B"]
    area: Float[np.ndarray, " B"]
    random_area: Float[np.ndarray, " B"]
    ideal_area: Float[np.ndarray, " B"]
    oracle_area: Float[np.ndarray, " B"]
    quality_at_rate: Float[np.ndarray, "B rates"]
    quality_at_cost: Float[np.ndarray, "B costs"]
    rate_at_quality: Float[np.ndarray, "B qualities"]
    cost_at_quality: Float[np.ndarray, "B qualities"]
    equal_cost_area: Float[np.ndarray, " B"]

    def deferral_performance(self, best: str) -> Float[np.ndarray, " B"]:
        """s_d of each resample, under the "ideal" line or the "oracle"; NaN where undefined."""
        check_choice("best", best, ("ideal", "oracle"))
        triples = zip(self.area, self.random_area, getattr(self, f"{best}_area"), strict=True)
        return np.array([curves.deferral_performance(*triple) for triple in triples])


def interval(
    values: Float[np.ndarray, " B"], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Percentile interval of a resampled statistic.

    The percentiles are values that occurred, so an inf ("never reached") in enough resamples makes
    that end inf rather than a made-up number. Any NaN makes both NaN.
    """
    if len(values) == 0 or np.any(np.isnan(values)):
        return float("nan"), float("nan")
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)


def p_value(value: float, values: Float[np.ndarray, " B"]) -> float:
    """Two-sided p-value of a difference being 0, from its paired resamples shifted to 0.

    ``p = (1 + #{b: |d_b - d| >= |d|}) / (B + 1)``: how often a difference as large as the observed
    one, d, comes about where there is none. Never 0: with B resamples at least 1 / (B + 1). NaN
    without resamples, or where the difference is undefined in the sample or in a resample.

    Reference: Davison and Hinkley 1997, Bootstrap Methods and their Application, section 4.4.
    """
    if len(values) == 0 or not np.isfinite(value) or not np.all(np.isfinite(values)):
        return float("nan")
    as_large = np.sum(np.abs(values - value) >= abs(value) - _ROUNDING)
    return float((1 + as_large) / (len(values) + 1))


def draws(
    n: int, samples: int, seed: int, chunk_values: int | None = None
) -> Iterator[UInt8[np.ndarray, "n B"]]:
    """How often each of n inputs is drawn, in each resample of n; some resamples at a time.

    One resample is drawn after the other, so how many come at a time does not change the draws.
    """
    rng, start = np.random.default_rng(seed), 0
    most = max(1, (chunk_values or _CHUNK_VALUES) // n)
    while start < samples:
        # No input is drawn 256 times: the chance is below 1e-500.
        counts = np.empty((n, min(most, samples - start)), np.uint8)
        for at in range(0, counts.shape[1], 32):  # by rows of a block: its columns lie far apart
            block = np.empty((min(32, counts.shape[1] - at), n), np.uint8)
            for row in block:
                row[:] = np.bincount(rng.integers(n, size=n, dtype=np.int32), minlength=n)
            counts[:, at : at + len(block)] = block.T
        start += counts.shape[1]
        yield counts


def resample_all(
    cascades: Sequence[tuple[Cascade, Sequence[Real[np.ndarray, " n"]]]],
    *,
    score_costs: Sequence[Sequence[tuple[curves.Cost, curves.Cost]]] | None = None,
    equal_costs: bool = False,
    rates: tuple[float, ...] = (),
    costs: tuple[float, ...] = (),
    qualities: Collection[float] = (),
    samples: int = 1000,
    seed: int = 0,
) -> list[tuple[Resamples, ...]]:
    """Draws inputs with replacement and reads the statistics off each resample's curves.

    Args:
      cascades: each with the deferral scores whose curves are resampled; of the same n examples,
        whose inputs are those that the first cascade says.
      score_costs: what each of these scores spends, and saves of a deferred example; None where it
        is the cascade's `score_cost` and `saving`.
      equal_costs: whether areas at equal cost are asked for.
      rates: deferral rates to give the quality at.
      costs: costs to give the quality at.
      qualities: qualities to give the smallest deferral rate and cost for.
      samples: number B of resamples.
      seed: of the draws.

    Returns:
      For each cascade, resamples for each of its scores.
    """
    checks.whole_number("samples", samples, 1)
    if score_costs is None:
        score_costs = [[(c.score_cost, c.saving)] * len(scores) for c, scores in cascades]
    readers = [
        _Reader(*pair, own, equal_costs, rates, costs, qualities)
        for pair, own in zip(cascades, score_costs, strict=True)
    ]
    pieces = [
        [reader.read(counts) for reader in readers]
        for counts in draws_of_examples(cascades[0][0], samples, seed)
    ]
    return [
        tuple(map(_joined, zip(*of_cascade, strict=True)))
        for of_cascade in zip(*pieces, strict=True)
    ]


def draws_of_examples(
    cascade: Cascade, samples: int, seed: int
) -> Iterator[UInt8[np.ndarray, "n B"]]:
    """How often each example is drawn: as often as its input."""
    n, num_inputs = len(cascade.score), cascade.num_inputs
    if num_inputs == n:
        yield from draws(n, samples, seed)
        return
    for counts in draws(num_inputs, samples, seed, _CHUNK_VALUES * num_inputs // n):
        yield counts[cascade.inputs]


def _joined(pieces: Sequence[Resamples]) -> Resamples:
    names = [field.name for field in dataclasses.fields(Resamples)]
    return Resamples(**{name: np.concatenate([getattr(p, name) for p in pieces]) for name in names})


class _Reader:
    """Orders of one cascade, its scores' and the oracle's, and what is read off along them."""

    def __init__(self, cascade: Cascade, scores, own, equal_costs, rates, costs, qualities):
        self.own_costs, self.equal_costs = own, equal_costs
        self.rates, self.at_costs, self.qualities = rates, costs, qualities
        student, teacher, self.scores_fn = cascade.additive()
        self.difference = teacher - student
        self.costs = cascade.student_cost, cascade.teacher_cost
        self.num_statistics = student.shape[1]
        nodes = _NODES if self.scores_fn is None else _CORPUS_NODES
        orders = map(curves.deferral_order, (gain_of(cascade), *scores))
        self.orders = [(order, thinned(ends, nodes)) for order, ends in orders]
        # What is summed along an order: draws, gains, and the teacher's costs if they differ.
        columns, totals = [np.ones((len(student), 1)), self.difference], [student]
        for column, cost in zip((totals, columns), self.costs, strict=True):
            if not curves.is_one_cost(cost):
                column.append(np.asarray(cost, np.float64)[:, None])
        self.columns, self.totals = np.hstack(columns), np.hstack(totals)

    def read(self, counts: UInt8[np.ndarray, "n B"]) -> list[Resamples]:
        """Resamples of each score, by some of the draws."""
        total = _total(counts, self.totals)
        # Inputs that are drawn bring one example each, or more.
        size = np.sum(counts, axis=0, dtype=np.int64)
        oracle_rate, oracle_quality, _ = self._curves(counts, size, total, *self.orders[0])
        oracle_area = np.trapezoid(oracle_quality, oracle_rate, axis=1)
        ends = oracle_quality[:, 0], oracle_quality[:, -1]
        resamples = []
        for (order, nodes), costs in zip(self.orders[1:], self.own_costs, strict=True):
            rate, quality, cost = self._curves(counts, size, total, order, nodes)
            small, large = cost[:, 0], cost[:, -1] - cost[:, 0]
            own, saved = costs
            if np.any(saved):
                each = np.broadcast_to(np.reshape(saved, (-1, 1)), (len(counts), 1))
                cost = cost - (_summed(counts, each, order, nodes)[..., 0] / size).T
            if not curves.is_one_cost(own):
                cost = cost + (_total(counts, np.reshape(own, (-1, 1)))[:, 0] / size)[:, None]
            elif curves.mean_cost(own):
                cost = cost + curves.mean_cost(own)
            equal = np.full(len(size), np.nan)
            if self.equal_costs:
                equal = equal_cost.area(quality, cost, small, large)
            at_quality = first_reaching(rate, quality, cost, self.qualities)
            resamples.append(
                Resamples(
                    student_quality=ends[0],
                    teacher_quality=ends[1],
                    area=np.trapezoid(quality, rate, axis=1),
                    oracle_area=oracle_area,
                    quality_at_rate=read_off(self.rates, rate, quality),
                    quality_at_cost=read_off(self.at_costs, cost, quality, left=np.nan),
                    rate_at_quality=at_quality[0],
                    cost_at_quality=at_quality[1],
                    equal_cost_area=equal,
                    **self._line_areas(ends, counts, total),
                )
            )
        return resamples

    def _curves(self, counts, size, total, order, nodes) -> tuple[np.ndarray, ...]:
        """Rates, qualities and costs [B, nodes] between which each resample's curve is straight."""
        k = self.num_statistics
        sums = _summed(counts, self.columns, order, nodes)
        rate = sums[..., 0] / size
        if self.scores_fn is None:
            quality = (total[:, 0] + sums[..., 1]) / size
        else:
            quality = self.scores_fn(total[:, :k] + sums[..., 1 : k + 1])
        student, teacher = self.costs
        student = total[:, k] / size if total.shape[1] > k else curves.mean_cost(student)
        is_one = sums.shape[2] == k + 1
        teacher = curves.mean_cost(teacher) * rate if is_one else sums[..., k + 1] / size
        return rate.T, quality.T, (student + teacher).T

    def _line_areas(self, ends, counts, total) -> dict[str, np.ndarray]:
        """Areas under the random and the ideal line of each resample."""
        if self.scores_fn is None:
            return {
                "random_area": curves.random_area(*ends),
                "ideal_area": curves.ideal_area(*ends),
            }
        gained, base = _total(counts, self.difference), total[:, : self.num_statistics]
        random = curves.corpus_random(_RANDOM_RATES, base, base + gained, self.scores_fn)
        return {
            "random_area": np.trapezoid(random, _RANDOM_RATES, axis=1),
            "ideal_area": np.full(len(base), np.nan),
        }


def _total(
    counts: UInt8[np.ndarray, "n B"], columns: Float[np.ndarray, "n C"]
) -> Float[np.ndarray, "B C"]:
    """Sums over all that were drawn, in float64."""
    sums = np.zeros((counts.shape[1], columns.shape[1]))
    for at in range(0, len(counts), _ROWS):
        sums += counts[at : at + _ROWS].T.astype(np.float64) @ columns[at : at + _ROWS]
    return sums


def _summed(
    counts: UInt8[np.ndarray, "n B"],
    columns: Float[np.ndarray, "n C"],
    order: Int[np.ndarray, " n"],
    nodes: Int[np.ndarray, " nodes"],
) -> Float[np.ndarray, "nodes_plus_1 B C"]:
    """Sums over the drawn among the first of an order, up to each node; 0 at the first.

    In float64, or, of more draws than 2 million, in float32 between two nodes.
    """
    sums = np.zeros((len(nodes) + 1, counts.shape[1], columns.shape[1]))
    if counts.size <= _SMALL:
        drawn = counts[order].astype(np.float64)
        for column, values in enumerate(columns.T):
            along = np.cumsum(drawn * values[order][:, None], axis=0)
            sums[1:, :, column] = along[nodes - 1]
        return sums
    weights = columns.astype(np.float32)[order].T
    taken = np.empty((_ROWS, counts.shape[1]), np.uint8)
    drawn = np.empty(taken.shape, np.float32)
    for number, (start, end) in enumerate(zip(np.append(0, nodes[:-1]), nodes, strict=True)):
        for at in range(start, end, _ROWS):
            rows = order[at : min(at + _ROWS, end)]
            # The rows are there; without a mode that can not raise, `take` makes a copy first.
            np.take(counts, rows, axis=0, out=taken[: len(rows)], mode="clip")
            np.copyto(drawn[: len(rows)], taken[: len(rows)])
            sums[number + 1] += (weights[:, at : at + len(rows)] @ drawn[: len(rows)]).T
    return np.cumsum(sums, axis=0)


def thinned(ends: Int[np.ndarray, " groups"], nodes: int) -> Int[np.ndarray, " nodes"]:
    """About so many of the ends of tied groups, evenly spread over the examples, with the last."""
    if len(ends) <= nodes:
        return ends
    even = np.linspace(0, ends[-1], nodes + 1)[1:]
    return ends[np.unique(np.searchsorted(ends, np.floor(even)))]


def read_off(
    at: tuple[float, ...], x: Float[np.ndarray, "B nodes"], y: Float[np.ndarray, "B nodes"], **ends
) -> Float[np.ndarray, "B at"]:
    """Values of y at points of x, resample by resample, linear between nodes."""
    return np.stack([np.interp(at, *pair, **ends) for pair in zip(x, y, strict=True)])


def first_reaching(
    rate: Float[np.ndarray, "B nodes"],
    quality: Float[np.ndarray, "B nodes"],
    cost: Float[np.ndarray, "B nodes"],
    targets: Collection[float | Float[np.ndarray, " B"]],
) -> tuple[Float[np.ndarray, "B targets"], Float[np.ndarray, "B targets"]]:
    """Smallest rate with at least each target quality, and its cost, linear between nodes.

    A target is the same for all resamples, or one for each. Both are inf where no rate has it.
    """
    rows = np.arange(len(rate))
    rates, costs = np.empty((2, len(rate), len(targets)))
    for column, target in enumerate(targets):
        reached = quality >= np.asarray(target)[..., None] - 1e-12
        at = np.argmax(reached, axis=1)
        before = np.maximum(at - 1, 0)
        rise = quality[rows, at] - quality[rows, before]
        missing = target - quality[rows, before]
        share = np.clip(np.where(rise > 0, missing / np.where(rise > 0, rise, 1.0), 0.0), 0, 1)
        for result, values in ((rates, rate), (costs, cost)):
            read = values[rows, before] + share * (values[rows, at] - values[rows, before])
            result[:, column] = np.where(reached.any(axis=1), read, np.inf)
    return rates, costs
