"""Bootstrap intervals of what is read off a deferral curve: percentile, over examples, seeded.

A resample is a weight per example (how often it was drawn), so one sort serves all resamples: along
the sorted order the cumulated weights are deferral rates, the cumulated weighted gains qualities.
Copies of one example are tied, and so linear, exactly as `curves.deferral_curve` treats ties.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int, Real

from cascade_jax.evaluation import curves

CONFIDENCE = 0.95
# Numbers held at a time, in float64; bounds memory, not the result.
_CHUNK_VALUES = 4_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class Resamples:
    """Statistics of one cascade in B resamples of its examples.

    Resamples of two cascades with the same number of examples and the same seed draw the same
    examples, so that differences of their statistics are paired.

    Attributes:
      student_quality, teacher_quality: means.
      area: under the deferral curve.
      oracle_area: under the oracle's.
      quality_at_rate: for each of the given rates.
      rate_at_quality: smallest rate reaching each of the given qualities; inf where none does.
    """

    student_quality: Float[np.ndarray, " B"]
    teacher_quality: Float[np.ndarray, " B"]
    area: Float[np.ndarray, " B"]
    oracle_area: Float[np.ndarray, " B"]
    quality_at_rate: Float[np.ndarray, "B rates"]
    rate_at_quality: Float[np.ndarray, "B qualities"]

    def deferral_performance(self, best: str) -> Float[np.ndarray, " B"]:
        """s_d of each resample, under the "ideal" line or the "oracle"; NaN where undefined."""
        if best not in ("ideal", "oracle"):
            raise ValueError(f"best must be 'ideal' or 'oracle', got {best!r}")
        ends = list(zip(self.student_quality, self.teacher_quality, strict=True))
        random_areas = [curves.random_area(*pair) for pair in ends]
        best_areas = self.oracle_area
        if best == "ideal":
            best_areas = [curves.ideal_area(*pair) for pair in ends]
        triples = zip(self.area, random_areas, best_areas, strict=True)
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
        pieces.append(
            Resamples(
                student_quality=base,
                teacher_quality=quality[:, -1],
                area=np.trapezoid(quality, rate, axis=1),
                oracle_area=np.trapezoid(oracle_quality, oracle_rate, axis=1),
                quality_at_rate=np.stack(
                    [np.interp(rates, x, y) for x, y in zip(rate, quality, strict=True)]
                ),
                rate_at_quality=_first_reaching(rate, quality, qualities),
            )
        )
    fields = dataclasses.fields(Resamples)
    return Resamples(
        **{field.name: np.concatenate([getattr(p, field.name) for p in pieces]) for field in fields}
    )


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
