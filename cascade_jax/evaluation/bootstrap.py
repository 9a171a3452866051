"""Bootstrap intervals of what is read off a deferral curve: percentile, over examples, seeded.

A resample is a weight per example (how often it was drawn), so one sort serves all resamples: along
the sorted order the cumulated weights are deferral rates, the cumulated weighted gains qualities.
Copies of one example are tied, and so linear, exactly as `curves.deferral_curve` treats ties.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Real

from cascade_jax.evaluation import curves

CONFIDENCE = 0.95
# Numbers held at a time, in float64; bounds memory, not the result.
_CHUNK_VALUES = 4_000_000
# Points at which a corpus metric is scored in each resample, and its random line is.
_CORPUS_NODES = 200
_RANDOM_RATES = np.linspace(0, 1, 21)


@dataclasses.dataclass(frozen=True, eq=False)
class Resamples:
    """Statistics of one cascade in B resamples of its examples.

    Resamples of two cascades with the same number of examples and the same seed draw the same
    examples, so that differences of their statistics are paired.

    Attributes:
      student_quality, teacher_quality: means.
      area: under the deferral curve.
      random_area, ideal_area, oracle_area: under the lines that it is judged by; NaN for none.
      quality_at_rate: for each of the given rates.
      rate_at_quality: smallest rate reaching each of the given qualities; inf where none does.
    """

    student_quality: Float[np.ndarray, " B"]
    teacher_quality: Float[np.ndarray, " B"]
    area: Float[np.ndarray, " B"]
    random_area: Float[np.ndarray, " B"]
    ideal_area: Float[np.ndarray, " B"]
    oracle_area: Float[np.ndarray, " B"]
    quality_at_rate: Float[np.ndarray, "B rates"]
    rate_at_quality: Float[np.ndarray, "B qualities"]

    def deferral_performance(self, best: str) -> Float[np.ndarray, " B"]:
        """s_d of each resample, under the "ideal" line or the "oracle"; NaN where undefined."""
        if best not in ("ideal", "oracle"):
            raise ValueError(f"best must be 'ideal' or 'oracle', got {best!r}")
        best_areas = self.ideal_area if best == "ideal" else self.oracle_area
        triples = zip(self.area, self.random_area, best_areas, strict=True)
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


def resample(
    score: Real[np.ndarray, " n"],
    student_quality: Real[np.ndarray, " n"],
    teacher_quality: Real[np.ndarray, " n"],
    *,
    rates: tuple[float, ...] = (),
    qualities: tuple[float, ...] = (),
    samples: int = 1000,
    seed: int = 0,
) -> Resamples:
    """Draws examples with replacement and reads the statistics off each resample's curve.

    Args:
      score, student_quality, teacher_quality: as for `curves.deferral_curve`.
      rates: deferral rates to give the quality at.
      qualities: qualities to give the smallest deferral rate for.
      samples: number B of resamples.
      seed: of the draws.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    student = np.asarray(student_quality, dtype=np.float64)
    gain = np.asarray(teacher_quality, dtype=np.float64) - student
    order, ends = curves.deferral_order(score)
    oracle_order, oracle_ends = curves.deferral_order(gain)
    n, rng = len(order), np.random.default_rng(seed)
    pieces = []
    chunk = max(1, _CHUNK_VALUES // n)
    for start in range(0, samples, chunk):
        counts = _draw(rng, min(chunk, samples - start), n)
        base = counts @ student / n
        rate, quality = _nodes(counts, base, gain, order, ends)
        oracle_rate, oracle_quality = _nodes(counts, base, gain, oracle_order, oracle_ends)
        ends_of = list(zip(base, quality[:, -1], strict=True))
        pieces.append(
            Resamples(
                student_quality=base,
                teacher_quality=quality[:, -1],
                area=np.trapezoid(quality, rate, axis=1),
                random_area=np.array([curves.random_area(*pair) for pair in ends_of]),
                ideal_area=np.array([curves.ideal_area(*pair) for pair in ends_of]),
                oracle_area=np.trapezoid(oracle_quality, oracle_rate, axis=1),
                quality_at_rate=np.stack(
                    [np.interp(rates, x, y) for x, y in zip(rate, quality, strict=True)]
                ),
                rate_at_quality=_first_reaching(rate, quality, qualities),
            )
        )
    return _joined(pieces)


def _joined(pieces: Sequence[Resamples]) -> Resamples:
    names = [field.name for field in dataclasses.fields(Resamples)]
    return Resamples(**{name: np.concatenate([getattr(p, name) for p in pieces]) for name in names})


def resample_corpus(
    score: Real[np.ndarray, " n"],
    gain: Real[np.ndarray, " n"],
    student_statistics: Int[np.ndarray, "n K"],
    teacher_statistics: Int[np.ndarray, "n K"],
    scores_fn: curves.ScoresFn,
    *,
    rates: tuple[float, ...] = (),
    qualities: tuple[float, ...] = (),
    samples: int = 1000,
    seed: int = 0,
) -> Resamples:
    """The same of a corpus metric: examples are drawn, and their statistics added and scored.

    Scoring every point of every resample would take a minute and more for 10,000 examples, so each
    resample's curve is scored at 200 points spread over the order (at all, if there are no more)
    and is straight between them.

    Args:
      score, student_statistics, teacher_statistics, scores_fn: as for `curves.corpus_curve`.
      gain: of deferring each example, in the whole sample: the oracle's order.
      rates, qualities, samples, seed: as for `resample`, with the same draws.

    Returns:
      Resamples without an ideal line.
    """
    student = np.asarray(student_statistics, np.float64)
    difference = np.asarray(teacher_statistics, np.float64) - student
    n, rng = len(score), np.random.default_rng(seed)
    orders = [(order, _thinned(ends)) for order, ends in map(curves.deferral_order, (score, gain))]
    pieces = []
    chunk = max(1, _CHUNK_VALUES // max(n, _CORPUS_NODES * student.shape[1]))
    for start in range(0, samples, chunk):
        counts = _draw(rng, min(chunk, samples - start), n)
        base = counts @ student
        (rate, quality), (oracle_rate, oracle_quality) = (
            _corpus_nodes(counts, base, difference, order, ends, scores_fn)
            for order, ends in orders
        )
        random = curves.corpus_random(_RANDOM_RATES, base, base + counts @ difference, scores_fn)
        pieces.append(
            Resamples(
                student_quality=quality[:, 0],
                teacher_quality=quality[:, -1],
                area=np.trapezoid(quality, rate, axis=1),
                random_area=np.trapezoid(random, _RANDOM_RATES, axis=1),
                ideal_area=np.full(len(counts), np.nan),
                oracle_area=np.trapezoid(oracle_quality, oracle_rate, axis=1),
                quality_at_rate=np.stack(
                    [np.interp(rates, x, y) for x, y in zip(rate, quality, strict=True)]
                ),
                rate_at_quality=_first_reaching(rate, quality, qualities),
            )
        )
    return _joined(pieces)


def _thinned(ends: Int[np.ndarray, " groups"]) -> Int[np.ndarray, " nodes"]:
    """Some 200 of the ends of tied groups, evenly spread over the examples, the last among them."""
    if len(ends) <= _CORPUS_NODES:
        return ends
    wanted = np.linspace(0, ends[-1], _CORPUS_NODES + 1)[1:]
    return ends[np.unique(np.searchsorted(ends, np.floor(wanted)))]


def _corpus_nodes(
    counts: Float[np.ndarray, "B n"],
    base: Float[np.ndarray, "B K"],
    difference: Float[np.ndarray, "n K"],
    order: Int[np.ndarray, " n"],
    ends: Int[np.ndarray, " nodes"],
    scores_fn: curves.ScoresFn,
) -> tuple[Float[np.ndarray, "B points"], Float[np.ndarray, "B points"]]:
    """Deferral rates of each resample, and the corpus figures there."""
    drawn, difference = counts[:, order], difference[order]
    starts = np.append(0, ends[:-1])
    rate = np.cumsum(np.add.reduceat(drawn, starts, axis=1), axis=1) / len(order)
    blocks = [drawn[:, i:j] @ difference[i:j] for i, j in zip(starts, ends, strict=True)]
    sums = base[:, None] + np.cumsum(np.stack([np.zeros_like(base), *blocks], axis=1), axis=1)
    return np.hstack([np.zeros((len(counts), 1)), rate]), scores_fn(sums)


def _draw(rng: np.random.Generator, samples: int, n: int) -> Float[np.ndarray, "B n"]:
    """How often each example is drawn, in each resample of n.

    One resample is drawn after the other, so the chunk size does not change the draws.
    """
    counts = np.empty((samples, n))
    for row in counts:
        row[:] = np.bincount(rng.integers(n, size=n, dtype=np.int32), minlength=n)
    return counts


def _nodes(
    counts: Float[np.ndarray, "B n"],
    base: Float[np.ndarray, " B"],
    gain: Float[np.ndarray, " n"],
    order: Int[np.ndarray, " n"],
    ends: Int[np.ndarray, " groups"],
) -> tuple[Float[np.ndarray, "B nodes"], Float[np.ndarray, "B nodes"]]:
    """Rates and qualities between which each resample's curve is straight."""
    n = len(order)
    drawn = counts[:, order]
    start = np.zeros((len(counts), 1))
    rate = np.cumsum(drawn, axis=1)[:, ends - 1] / n
    gained = np.cumsum(drawn * gain[order], axis=1)[:, ends - 1] / n
    return np.hstack([start, rate]), base[:, None] + np.hstack([start, gained])


def _first_reaching(
    rate: Float[np.ndarray, "B nodes"],
    quality: Float[np.ndarray, "B nodes"],
    targets: tuple[float, ...],
) -> Float[np.ndarray, "B targets"]:
    """Smallest rate with at least each target quality, linear between nodes; inf where none has."""
    rows = np.arange(len(rate))
    result = np.empty((len(rate), len(targets)))
    for column, target in enumerate(targets):
        reached = quality >= target - 1e-12
        at = np.argmax(reached, axis=1)
        before = np.maximum(at - 1, 0)
        rise = quality[rows, at] - quality[rows, before]
        share = np.where(
            rise > 0, (target - quality[rows, before]) / np.where(rise > 0, rise, 1.0), 0.0
        )
        found = rate[rows, before] + np.clip(share, 0, 1) * (rate[rows, at] - rate[rows, before])
        result[:, column] = np.where(reached.any(axis=1), found, np.inf)
    return result
