"""From the tables of a study to a verdict on every claim, by a rule that is fixed beforehand."""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from cascade_jax.evaluation.claims import claim as claims
from cascade_jax.evaluation.claims import effects, figures, losses
from cascade_jax.evaluation.claims.claim import Arm, Claim, Comparison
from cascade_jax.evaluation.claims.effects import Effect
from cascade_jax.evaluation.claims.figures import Sampled
from cascade_jax.evaluation.claims.losses import LossResult
from cascade_jax.evaluation.claims.tables import RunTable, Study

CONFIRMED, NOT_SHOWN, REFUTED, LACKING = "confirmed", "not shown", "refuted", "no tables"
LEVEL = 0.025  # of one-sided tests, after Holm
_WEIGHT = re.compile(r"gatekeeper_(\d+(?:\.\d+)?)")
_Values = Float[np.ndarray, " B_plus_1"]

RULE = (
    "An effect is a mean over seeds of a difference on the same seed and the same test examples; "
    "with several sizes of the student, of the mean over the sizes, seed by seed. Its 95 % "
    "interval counts seeds and examples (docs/evaluate.md). Of a claim that an effect is greater "
    "than 0 (less: the same with the other sign):\n\n"
    "| verdict | where |\n|---|---|\n"
    f"| confirmed | p (for), one-sided, of “it is at most 0” is at most {LEVEL}, and the effect is "
    "at least the smallest of interest |\n"
    f"| refuted | p (against), one-sided, of “it is at least the smallest of interest” is at most "
    f"{LEVEL} |\n"
    "| not shown | else |\n\n"
    "A claim that two figures are close has as p (for) the larger of those of “it is above the "
    "margin” and “it is below minus the margin”, and as p (against) twice the smaller of those of "
    "“it is at most the margin” and “it is at least minus the margin”. A claim of several "
    "comparisons is confirmed if all of them are, by the largest p (for), and refuted if one is, "
    "by the smallest p (against) times their number. Both kinds of p-values are corrected by Holm "
    "over all claims of the study that have tables. One seed says nothing of other seeds: the "
    "verdict is then “not shown”."
)


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """One comparison of a claim.

    Attributes:
      comparison: which.
      arms: the losses that were compared, "cat_xent − xent".
      effect: over all sizes.
      by_size: of each size.
      by_seed: of each seed, over all sizes.
      p_for, p_against: one-sided, of this comparison alone.
    """

    comparison: Comparison
    arms: str
    effect: Effect
    by_size: dict[str, Effect]
    by_seed: dict[int, float]
    p_for: float
    p_against: float


@dataclasses.dataclass(frozen=True, eq=False)
class Verdict:
    """What a study says of a claim.

    Attributes:
      claim: which.
      verdict: one of the four.
      outcomes: of its comparisons; none where there are no tables.
      weakest: the outcome that the verdict rests on; None without any.
      p_for, p_against: of the claim, after Holm; NaN where it has none.
      lacking: tables that it needs and that are not there.
      notes: seeds that were left out, and the like.
    """

    claim: Claim
    verdict: str
    outcomes: tuple[Outcome, ...]
    weakest: Outcome | None
    p_for: float
    p_against: float
    lacking: tuple[str, ...]
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class StudyVerdicts:
    """All verdicts of a study.

    Attributes:
      pair: of models.
      num_examples: in every table.
      tasks: examples of each.
      sizes: by size and loss, the seeds that have a table.
      losses: what each size and loss reaches.
      verdicts: in the order of the claims.
      samples, seed: of the draws of examples.
    """

    pair: str
    num_examples: int
    tasks: dict[str, int]
    sizes: dict[str, dict[str, tuple[int, ...]]]
    losses: tuple[LossResult, ...]
    verdicts: tuple[Verdict, ...]
    samples: int
    seed: int


class _Lacking(Exception):
    """Tables that a comparison needs and that are not there."""


def judge(
    study: Study, of_papers: Sequence[Claim], samples: int = 1000, seed: int = 0
) -> StudyVerdicts:
    """Verdicts on claims.

    Args:
      study: the tables.
      of_papers: the claims; Holm's correction is over those of them that have tables.
      samples: bootstrap draws of the examples.
      seed: of the draws.
    """
    sampled = Sampled(study, samples, seed)
    open_verdicts = [_outcomes(sampled, claim) for claim in of_papers]
    p_for = [max((o.p_for for o in v.outcomes), default=math.nan) for v in open_verdicts]
    p_against = [
        min([1.0, *(o.p_against * len(v.outcomes) for o in v.outcomes)]) if v.outcomes else math.nan
        for v in open_verdicts
    ]
    unknown = [
        any(math.isnan(o.p_for) for o in v.outcomes) or not v.outcomes for v in open_verdicts
    ]
    adjusted = [
        effects.holm([math.nan if nan else p for p, nan in zip(values, unknown, strict=True)])
        for values in (p_for, p_against)
    ]
    closed = [_closed(*three) for three in zip(open_verdicts, *adjusted, strict=True)]
    return StudyVerdicts(
        pair=study.pair,
        num_examples=len(study.first),
        tasks={task: len(rows) for task, rows in study.rows_by_task().items()},
        sizes={size: study.losses(size) for size in study.sizes},
        losses=losses.measure(study),
        verdicts=tuple(closed),
        samples=samples,
        seed=seed,
    )


def _closed(verdict: Verdict, p_for: float, p_against: float) -> Verdict:
    """With p-values after Holm, and the verdict by the rule."""
    values = {"p_for": p_for, "p_against": p_against}
    if verdict.weakest is None or math.isnan(p_for):
        return dataclasses.replace(verdict, **values)
    text = NOT_SHOWN
    if p_for <= LEVEL and all(map(_is_large_enough, verdict.outcomes)):
        text = CONFIRMED
    elif p_against <= LEVEL:
        text = REFUTED
    return dataclasses.replace(verdict, verdict=text, **values)


def _is_large_enough(outcome: Outcome) -> bool:
    comparison, value = outcome.comparison, outcome.effect.value
    if comparison.expected == claims.CLOSE:
        return True  # its p-value is of the margin already
    return (value if comparison.expected == claims.GREATER else -value) >= comparison.smallest


def _outcomes(sampled: Sampled, claim: Claim) -> Verdict:
    """A claim's comparisons, before the verdict."""
    outcomes, lacking, notes = [], [], []
    for comparison in claim.comparisons:
        try:
            outcome, noted = _compared(sampled, comparison)
        except _Lacking as error:
            lacking.append(str(error))
        else:
            outcomes.append(outcome)
            notes += noted
    none = {"p_for": math.nan, "p_against": math.nan, "notes": tuple(dict.fromkeys(notes))}
    if lacking:
        lacking = tuple(dict.fromkeys(lacking))
        return Verdict(claim, LACKING, (), None, lacking=lacking, **none)
    weakest = max(outcomes, key=lambda o: math.inf if math.isnan(o.p_for) else o.p_for)
    return Verdict(claim, NOT_SHOWN, tuple(outcomes), weakest, lacking=(), **none)


# ------------------------------------------------------------------ one comparison


def _compared(sampled: Sampled, comparison: Comparison) -> tuple[Outcome, list[str]]:
    """The effect of all sizes that have tables, and notes on what was left out."""
    values: dict[str, dict[int, _Values]] = {}
    lacking, notes, arms = [], [], []
    for size in sampled.study.sizes:
        try:
            values[size], names, noted = _size_effects(sampled, comparison, size)
        except _Lacking as error:
            lacking.append(str(error))
        else:
            arms.append(names)
            notes += noted
    if not values:
        raise _Lacking("; ".join(dict.fromkeys(lacking)))
    notes += [f"without {text}" for text in lacking]
    common = sorted(set.intersection(*(set(of_size) for of_size in values.values())))
    if not common:
        seeds = "; ".join(f"{size}: {sorted(of_size)}" for size, of_size in values.items())
        raise _Lacking(f"seeds that all sizes have ({seeds})")
    for size, of_size in values.items():
        if more := sorted(set(of_size) - set(common)):
            notes.append(f"over all sizes without seeds {_listed(more)} of {size}")
    together = {seed: np.mean([v[seed] for v in values.values()], axis=0) for seed in common}
    effect = effects.over_seeds(list(together.values()))
    if effect.seeds == 1:
        notes.append("one seed says nothing of other seeds; an interval is over its examples")
    if math.isnan(effect.value):
        notes.append(f"{comparison.figure} is undefined on some seed or draw of the examples")
    outcome = Outcome(
        comparison=comparison,
        arms=", ".join(dict.fromkeys(arms)),
        effect=effect,
        by_size={size: effects.over_seeds(list(v.values())) for size, v in values.items()},
        by_seed={seed: float(v[0]) for seed, v in together.items()},
        **_p_values(comparison, effect),
    )
    return outcome, notes


def _p_values(comparison: Comparison, effect: Effect) -> dict[str, float]:
    smallest = comparison.smallest
    if comparison.expected == claims.GREATER:
        return {"p_for": effect.p_above(0.0), "p_against": effect.p_below(smallest)}
    if comparison.expected == claims.LESS:
        return {"p_for": effect.p_below(0.0), "p_against": effect.p_above(-smallest)}
    inside = effect.p_above(-smallest), effect.p_below(smallest)
    outside = effect.p_below(-smallest), effect.p_above(smallest)
    return {"p_for": max(inside), "p_against": min(1.0, 2 * min(outside))}


def _size_effects(
    sampled: Sampled, comparison: Comparison, size: str
) -> tuple[dict[int, _Values], str, list[str]]:
    """The effect on each seed of one size, what was compared, and notes."""
    if comparison.figure in figures.OF_BUDGETS:
        return _budget_effects(sampled.study, comparison, size)
    for place in filter(None, (comparison.on, comparison.minus_on)):
        if not sampled.places[place]:
            raise _Lacking(f"{place} in the tables")
    sides = [arm for arm in (comparison.second, comparison.first) if arm]
    named, lacking = [], []
    for arm in sides:
        try:
            named.append(_resolved(sampled.study, arm, size))
        except _Lacking as error:
            lacking.append(str(error))
    if lacking:
        raise _Lacking("; ".join(dict.fromkeys(lacking)))
    if len(set(map(str, named))) < len(named):
        raise _Lacking(f"{size}: a second weight of gatekeeper beside {named[0].loss}")
    seeds = [_seeds(sampled.study, arm, size) for arm in named]
    common = sorted(set.intersection(*map(set, seeds)))
    if not common:
        raise _Lacking(f"{size}: a seed that {' and '.join(map(str, named))} both have")
    notes = [
        f"{size}: {arm} alone has seeds {_listed(more)}, left out"
        for arm, own in zip(named, seeds, strict=True)
        if (more := sorted(set(own) - set(common)))
    ]
    values = {}
    for seed in common:
        pairs = [(sampled.study.table(size, arm.loss, seed), arm.score) for arm in named]
        _check_costs(pairs)
        values[seed] = _difference(sampled, comparison, pairs)
    return values, " − ".join(map(str, named)), notes


def _difference(
    sampled: Sampled, comparison: Comparison, pairs: Sequence[tuple[RunTable, str]]
) -> _Values:
    """The effect on one seed."""

    def on(place: str) -> _Values:
        if comparison.figure == figures.COST_SAVED:
            return sampled.saved(*pairs, place)
        values = [sampled.value(comparison.figure, *pair, place) for pair in pairs]
        return values[0] - values[1] if len(values) == 2 else values[0]

    effect = on(comparison.on)
    return effect - on(comparison.minus_on) if comparison.minus_on else effect


def _budget_effects(
    study: Study, comparison: Comparison, size: str
) -> tuple[dict[int, _Values], str, list[str]]:
    """Of each seed the mean over its runs with a budget; the examples are not known."""
    values: dict[int, list[float]] = {}
    losses = set()
    for run, entry in study.tables.items():
        if run.size == size and not math.isnan(
            value := figures.budget_figure(comparison.figure, entry)
        ):
            values.setdefault(run.seed, []).append(value)
            losses.add(run.loss)
    if not values:
        level = "budget.json" if not figures.OF_BUDGETS[comparison.figure] else "token.budget.json"
        raise _Lacking(f"{size}: a {level} with certified thresholds")
    means = {seed: np.array([np.mean(of_seed)]) for seed, of_seed in sorted(values.items())}
    return means, ", ".join(sorted(losses)), ["of budgets: the interval is over seeds alone"]


def _resolved(study: Study, arm: Arm, size: str) -> Arm:
    """The arm with a loss that there is a table of."""
    losses = study.losses(size)
    if arm.loss in (claims.LOWEST, claims.HIGHEST):
        weights = {float(m[1]): loss for loss in losses if (m := _WEIGHT.fullmatch(loss))}
        if not weights:
            raise _Lacking(f"{size}: gatekeeper_A")
        pick = min if arm.loss == claims.LOWEST else max
        return dataclasses.replace(arm, loss=weights[pick(weights)])
    if arm.loss not in losses:
        raise _Lacking(f"{size}: {arm.loss}")
    return arm


def _seeds(study: Study, arm: Arm, size: str) -> list[int]:
    """Seeds whose table has the arm's score."""
    seeds = study.losses(size)[arm.loss]
    having = [s for s in seeds if study.table(size, arm.loss, s).has_score(arm.score)]
    if not having:
        raise _Lacking(f"{size}: the score {arm.score} of {arm.loss}")
    return having


def _check_costs(pairs: Sequence[tuple[RunTable, str]]) -> None:
    """Refuses students of one size whose tokens cost differently: rates are then no costs."""
    costs = [entry.costs for entry, _ in pairs]
    if len(set(costs)) > 1:
        sources = " and ".join(entry.table.source for entry, _ in pairs)
        raise ValueError(
            f"{sources}: FLOPs per token (small, large) are {costs[0]} and {costs[1]}; students of "
            "one size must cost the same"
        )


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
