"""Whether the fields of a certificate agree with each other.

What a certificate accepts follows from its p-values, its level and its procedure; its p-values are
bounded by the means and by the number of examples beside them. One whose fields contradict each
other was changed, or made by something else than a calibration, and promises nothing.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from cascade_jax.deferral.guarantees import bounds, hypotheses, risks
from cascade_jax.deferral.guarantees.learn_then_test import Candidate
from cascade_jax.deferral.guarantees.risks import CalibrationSettings
from cascade_jax.deferral.policy import TOKEN

_ROUNDING = 1e-9


def check_candidates(
    settings: CalibrationSettings,
    candidates: Sequence[Candidate],
    num_first: int,
    num_second: int,
) -> None:
    """Checks everything that a certificate says of its candidates.

    Args:
      settings: risks and procedure.
      candidates: all configurations with their tests.
      num_first, num_second: examples of the splits; 0 for no second.

    Raises:
      ValueError: which fields contradict each other.
    """
    has_two = settings.procedure == risks.PARETO_TESTING
    if num_first < 1 or (num_second > 0) != has_two:
        splits = "two splits" if has_two else "one split, the first"
        shown = f"num_first is {num_first} and num_second {num_second}"
        raise ValueError(f"{shown}, but {settings.procedure!r} tests on {splits}")
    if len(candidates) < 2:
        raise ValueError(f"candidates must be two or more, got {len(candidates)}")
    places: dict[tuple[float, ...], int] = {}
    for i, candidate in enumerate(candidates):
        place, thresholds = f"candidates[{i}]", candidate.thresholds
        if len(thresholds) != len(candidates[0].thresholds):
            number = f"{len(thresholds)} thresholds, candidates[0] {len(candidates[0].thresholds)}"
            raise ValueError(f"{place} has {number}")
        if places.setdefault(thresholds, i) != i:
            both = f"candidates[{places[thresholds]}] and {place}"
            raise ValueError(f"{both} have the same thresholds {list(thresholds)}")
        for split, number in (("first", num_first), ("second", num_second)):
            _check_split(settings, candidate, split, number, place)
    _check_ranks(settings, candidates)
    _check_accepted(settings, candidates)


def _check_split(
    settings: CalibrationSettings, candidate: Candidate, split: str, number: int, place: str
) -> None:
    """Checks the figures of one candidate on one split."""
    names = [f"{split}_{name}" for name in ("p", "risks", "objective")]
    p, means, objective = values = [getattr(candidate, name) for name in names]
    if None in values:
        if any(value is not None for value in values):
            raise ValueError(f"{place} must have all of {', '.join(names)}, or none of them")
        return
    if number == 0:
        raise ValueError(f"{place} has {names[0]}, but num_{split} is 0")
    if not 0 <= p <= 1:
        raise ValueError(f"{place}.{names[0]} is {p}, must be in [0, 1]")
    if not math.isfinite(objective):
        raise ValueError(f"{place}.{names[2]} is {objective}, must be finite")
    if {*means} != {risk.name for risk in settings.risks}:
        own = [risk.name for risk in settings.risks]
        raise ValueError(f"{place}.{names[1]} are of {list(means)}, the certificate's risks {own}")
    for risk in settings.risks:
        mean = means[risk.name]
        which = f"{place}.{names[1]}: the mean {risk.name}"
        if not risk.lower - _ROUNDING <= mean <= risk.upper + _ROUNDING:
            raise ValueError(f"{which} is {mean}, must be in [{risk.lower:g}, {risk.upper:g}]")
        # No bound gives a smaller p where the sample itself is at the limit or above it.
        if mean > risk.limit + _ROUNDING and p < 0.5:
            against = f"is {mean}, above the limit {risk.limit}, but {names[0]} is {p}"
            raise ValueError(f"{which} {against}")
        least = bounds.least_p_value(
            number, risk.limit, settings.bound, risk.lower, risk.upper, settings.tokens_per_sequence
        )
        if p < least * (1 - _ROUNDING):
            raise ValueError(
                f"{place}.{names[0]} is {p}, but with {number} examples it is at least {least:.3g} "
                f"for the limit {risk.limit} of {risk.name}"
            )


def _check_ranks(settings: CalibrationSettings, candidates: Sequence[Candidate]) -> None:
    """Ranks are 0, 1, … in the order of the tests."""
    ranked = [i for i, candidate in enumerate(candidates) if candidate.rank is not None]
    ranked.sort(key=lambda i: candidates[i].rank)
    ranks = [candidates[i].rank for i in ranked]
    if ranks != list(range(len(ranks))):
        wrong = next(rank for rank, expected in zip(ranks, itertools.count()) if rank != expected)
        raise ValueError(f"candidates have the ranks 0 to {ranks[-1]} with {wrong} out of order")
    if settings.procedure != risks.PARETO_TESTING and len(ranked) < len(candidates):
        lacks = next(i for i, candidate in enumerate(candidates) if candidate.rank is None)
        raise ValueError(f"candidates[{lacks}].rank is null, but {settings.procedure!r} tests all")
    if settings.procedure == risks.FIXED_SEQUENCE:
        is_ordered = ranked == list(range(len(candidates)))
    else:
        p = [candidates[i].first_p for i in ranked]
        is_ordered = p == sorted(p)
    if not is_ordered:
        raise ValueError(f"the ranks of candidates are not in the order of {settings.procedure!r}")


def _check_accepted(settings: CalibrationSettings, candidates: Sequence[Candidate]) -> None:
    """Accepted are those that the procedure certifies at delta by the p-values in the file."""
    first = np.array([candidate.first_p for candidate in candidates])
    order = sorted(
        (i for i, candidate in enumerate(candidates) if candidate.rank is not None),
        key=lambda i: candidates[i].rank,
    )
    if settings.procedure == risks.PARETO_TESTING:
        second = [candidate.second_p for candidate in candidates]
        measured = list(itertools.takewhile(lambda i: second[i] is not None, order))
        p = np.array([1.0 if value is None else value for value in second])
        expected = hypotheses.fixed_sequence(p, settings.delta, measured)
    elif settings.procedure == risks.FIXED_SEQUENCE:
        expected = hypotheses.fixed_sequence(first, settings.delta, order)
    else:
        test = hypotheses.holm if settings.procedure == risks.HOLM else hypotheses.bonferroni
        expected = test(first, settings.delta)
    for i, candidate in enumerate(candidates):
        if candidate.is_accepted != expected[i]:
            says = "is certified" if candidate.is_accepted else "is not certified"
            raise ValueError(
                f"candidates[{i}] {says}, which contradicts the p-values at delta = "
                f"{settings.delta:g} by {settings.procedure!r}"
            )


def check_chosen(
    settings: CalibrationSettings,
    candidates: Sequence[Candidate],
    thresholds: tuple[float, ...],
    objective: str,
) -> None:
    """Checks that the thresholds of a certificate are the best of those that are certified.

    Raises:
      ValueError: they are not among them, or another has a smaller mean objective.
    """

    def preference(candidate: Candidate) -> tuple[float, ...]:
        second = candidate.second_objective is not None
        means = candidate.second_risks if second else candidate.first_risks
        value = candidate.second_objective if second else candidate.first_objective
        return (value, *(means[risk.name] for risk in settings.risks))

    accepted = {c.thresholds: preference(c) for c in candidates if c.is_accepted}
    if thresholds not in accepted:
        where = "among the candidates that are certified"
        raise ValueError(f"the thresholds {list(thresholds)} are not {where}")
    best = min(accepted, key=accepted.get)
    if accepted[thresholds] != accepted[best]:
        better = f"{list(best)} are certified, too, with a better mean of {objective!r}"
        raise ValueError(f"the thresholds {list(thresholds)} are not the best: {better}")


def check_blocks(
    level: str, number: int, block_length: int | None, target_length: int | None
) -> None:
    """Checks the blocks of positions that thresholds are for.

    Args:
      level: "token" or "answer".
      number: of thresholds.
      block_length: of the longest block; None where there is one.
      target_length: tokens of an answer; None if not known.
    """
    if block_length is None and number <= 1:
        return
    if block_length is None or block_length < 1:
        raise ValueError(
            f"{number} thresholds need a block_length of 1 or more, got {block_length}"
        )
    if level != TOKEN:
        raise ValueError(f"block_length is {block_length}, but the level {level!r} has no blocks")
    if target_length is not None and number and block_length != -(-target_length // number):
        blocks = f"{number} equal blocks of {target_length} tokens (data.target_length)"
        expected = -(-target_length // number)
        raise ValueError(f"block_length is {block_length}; {blocks} have {expected}")


def check_examples(
    seen: Sequence[str], splits: Mapping[str, str], num_first: int, num_second: int
) -> None:
    """Checks the hashes of the calibration examples against their number.

    Raises:
      ValueError: hashes that are none, not sorted or fewer than examples (no hash at all means
        that they are not known); two splits that are one.
    """
    digits = set("0123456789abcdef")
    for i, value in enumerate(seen):
        if len(value) != 16 or not digits.issuperset(value):
            raise ValueError(f"seen[{i}] is {value!r}; must be 16 hexadecimal digits")
    if any(a >= b for a, b in itertools.pairwise(seen)):
        raise ValueError("seen must be sorted, each hash once")
    if seen and len(seen) < num_first + num_second:
        numbers = f"num_first + num_second is {num_first + num_second}"
        raise ValueError(f"seen has the hashes of {len(seen)} examples, but {numbers}")
    for (one, first), (two, second) in itertools.combinations(splits.items(), 2):
        if first == second:
            raise ValueError(f"splits.{one} and splits.{two} are the same examples: {first!r}")
