"""The results of an evaluation: estimates, summaries, panels, and all of them together."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from cascade_jax.deferral.guarantees.budget_file import Budget
from cascade_jax.evaluation.cascades import Cascade
from cascade_jax.evaluation.comparison import Comparison, Difference
from cascade_jax.evaluation.curves import Curve
from cascade_jax.evaluation.live_cascades import LiveCascade
from cascade_jax.evaluation.policy_points import PolicyPoint
from cascade_jax.evaluation.separation import Ranking, Separation
from cascade_jax.records.table import Records

# Of a summary and of its `separation`, what is averaged over tasks.
_MACRO = ("student_quality", "teacher_quality", "area", "s_d_ideal", "s_d_oracle")
_MACRO_SEPARATION = ("auroc", "auprc", "prr", "prr_half", "pearson", "spearman")
_MACRO_SEPARATION += ("overlap", "ece", "ece_scaled")


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value with its bootstrap interval; NaN = undefined or never reached, inf = an open end."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclasses.dataclass(frozen=True)
class References:
    """Where curves are read off: the same points for all cascades of a panel.

    Attributes:
      rates: deferral rates.
      costs: mean costs of deferring that share at random, for the most expensive student.
      qualities: by label: halfway from the best student to the teacher, and 99 % of the teacher.
    """

    rates: tuple[float, ...]
    costs: tuple[float, ...]
    qualities: dict[str, float]


@dataclasses.dataclass(frozen=True)
class CascadeSummary:
    """The figures of one cascade.

    Attributes:
      num_examples: n.
      student_quality, teacher_quality: the two ends of the curve.
      area: under quality over the deferral rate.
      area_minus_first: area minus the first cascade's, with a paired interval.
      random_area, ideal_area, oracle_area: of the lines that the area is judged by.
      s_d_ideal, s_d_oracle: share of the gap between random and best that the score closes.
      quality_at_rate, quality_at_cost: one for each reference.
      rate_at_quality, cost_at_quality: smallest that reach each reference quality, by label.
      separation: how well the score finds errors, and how well the confidence is calibrated.
      student_better_share: share of examples where the small model is better than the large one
        (for 0/1 quality: small right, large wrong); the ideal line takes it to be 0.

    For a corpus metric there is no ideal line, so its area and s_d are NaN, and the oracle, which
    defers the largest gains first (`curves.corpus_gain`), is a good order but no strict bound.
    """

    num_examples: int
    student_quality: Estimate
    teacher_quality: Estimate
    area: Estimate
    area_minus_first: Estimate
    random_area: float
    ideal_area: float
    oracle_area: float
    s_d_ideal: Estimate
    s_d_oracle: Estimate
    quality_at_rate: tuple[Estimate, ...]
    quality_at_cost: tuple[Estimate, ...]
    rate_at_quality: dict[str, Estimate]
    cost_at_quality: dict[str, Estimate]
    separation: Separation
    student_better_share: float

    @property
    def auroc(self) -> float:
        """Chance that an error of the student has a higher score than a right answer."""
        return self.separation.auroc


@dataclasses.dataclass(frozen=True)
class OwnCost:
    """What a score spends itself, and how it does where that counts; NaN where it is not known.

    Attributes:
      flops: mean of an example, beside the small model's own answer.
      area: under quality over the total cost, see `equal_cost.area`.
      area_minus_average: minus that of the average log-prob, paired.
      pays_from, pays_until: deferral rates between which it has at least the quality that the
        average log-prob has at the same total cost, see `equal_cost.pays_between`; inf and NaN for
        never.
    """

    flops: float
    area: Estimate
    area_minus_average: Difference
    pays_from: float = math.nan
    pays_until: float = math.nan


@dataclasses.dataclass(frozen=True, eq=False)
class ScoreSummary:
    """One deferral score of one cascade, beside others.

    Attributes:
      area, s_d_ideal, s_d_oracle: as in `CascadeSummary`, by the same draws.
      ranking: how well it tells errors.
      curve: with some 400 points.
      own_cost: what it spends itself, and what that does; None where no score beside it spends
        anything.
    """

    area: Estimate
    s_d_ideal: Estimate
    s_d_oracle: Estimate
    ranking: Ranking
    curve: Curve
    own_cost: OwnCost | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Panel:
    """Cascades side by side on one set of examples: what one plot and one table show.

    Attributes:
      title: mixture, group or task.
      metric: name of the per-example quality, or of the corpus metric; several are joined by ", ".
      references: where the curves were read off.
      curves, oracles, summaries: by cascade name, in the order given.
      randoms: quality of random deferral at the rates of each curve.
      is_corpus: whether quality is a corpus metric rather than a mean over examples.
      cost_label, cost_unit: what costs are, see `costs.CostModel`.
      num_inputs: how many different inputs the examples have, which intervals draw; None if that is
        not known.
      comparisons: of each cascade but the first with the first, by name.
      scores: by cascade and name of the score, where several scores were asked for.
    """

    title: str
    metric: str
    references: References
    curves: dict[str, Curve]
    oracles: dict[str, Curve]
    summaries: dict[str, CascadeSummary]
    randoms: dict[str, Float[np.ndarray, " n_plus_1"]]
    is_corpus: bool = False
    cost_label: str = "FLOPs per token (2 × parameters)"
    cost_unit: str = "FLOPs"
    num_inputs: int | None = None
    comparisons: dict[str, Comparison] = dataclasses.field(default_factory=dict)
    scores: dict[str, dict[str, ScoreSummary]] = dataclasses.field(default_factory=dict)

    @property
    def num_examples(self) -> int:
        return next(iter(self.summaries.values())).num_examples

    @property
    def num_repeats(self) -> int:
        """Examples whose input an example before them has too."""
        return 0 if self.num_inputs is None else self.num_examples - self.num_inputs


@dataclasses.dataclass(frozen=True)
class RecordsSource:
    """Where one cascade's figures come from."""

    name: str
    path: str
    metadata: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class SplitFigure:
    """One metric of one task over the whole split.

    Attributes:
      task, metric: names.
      decoding: how the answers were made; "" if the records do not say.
      teacher: of the large model alone; NaN if not known.
      students: of each small model alone, by cascade name; NaN if not known.
      cascades: of each cascade at REFERENCE_RATES; empty where the metric is neither a mean over
        examples nor additive, so that a mixture of answers has none that records could tell.
    """

    task: str
    metric: str
    decoding: str
    teacher: float
    students: dict[str, float]
    cascades: dict[str, tuple[float, ...]]


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """All results of `evaluate`, which the report shows.

    Attributes:
      pooled: all examples as one set, one threshold for all tasks, every example weighing the same:
        means of per-example quality.
      tasks: each task by itself, with its own deferral rates; by its corpus metric if it has one.
      sources: the records files, in the order of the cascades.
      score: the deferral score, as text.
      bootstrap_samples, seed: of the intervals.
      per_example: the tasks with a corpus metric once more, by means of per-example quality.
      figures: every metric of every task over the whole split.
      notes: remarks on how the figures were made.
      cost_notes: the scores whose own cost is not known, and why.
      groups: by name, some tasks pooled as one set, as the pool is.
      group_tasks: by name, the tasks of each group.
      live: by cascade name, token-level cascades that ran live, where the records hold them.
      budget: a calibration to show beside; None for none.
      points: by cascade name, where a certified policy stands.
      tables, cascades: by cascade name, the examples behind the figures.
      token_values: quantities of tokens to colour the examples by, beside those known.
    """

    pooled: Panel
    tasks: dict[str, Panel]
    sources: tuple[RecordsSource, ...]
    score: str
    bootstrap_samples: int
    seed: int
    per_example: dict[str, Panel] = dataclasses.field(default_factory=dict)
    figures: tuple[SplitFigure, ...] = ()
    notes: tuple[str, ...] = ()
    cost_notes: tuple[str, ...] = ()
    groups: dict[str, Panel] = dataclasses.field(default_factory=dict)
    group_tasks: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    live: dict[str, LiveCascade] = dataclasses.field(default_factory=dict)
    budget: Budget | None = None
    points: dict[str, PolicyPoint] = dataclasses.field(default_factory=dict)
    tables: Mapping[str, Records] = dataclasses.field(default_factory=dict)
    cascades: Mapping[str, Cascade] = dataclasses.field(default_factory=dict)
    token_values: Sequence[Callable] = ()

    @property
    def shows_tasks(self) -> bool:
        """Whether a task by itself says more than the pool."""
        return len(self.tasks) > 1 or any(panel.is_corpus for panel in self.tasks.values())

    @property
    def scores(self) -> dict[str, dict[str, ScoreSummary]]:
        """By cascade and name of the score, the pool by each of several scores."""
        return self.pooled.scores

    def macro(self) -> dict[str, dict[str, float]]:
        """By cascade, means over the tasks' panels in which every task weighs the same.

        A figure that is undefined on a task for some cascade leaves that task out for all of them;
        NaN where no task is left.
        """
        names = list(self.pooled.summaries)
        result: dict[str, dict[str, float]] = {name: {} for name in names}
        for field in (*_MACRO, *_MACRO_SEPARATION):
            panels = self.tasks.values()
            values = [[_figure(panel.summaries[n], field) for n in names] for panel in panels]
            values = np.reshape(values, (-1, len(names)))
            values = values[np.all(np.isfinite(values), axis=1)]
            for name, column in zip(names, values.T, strict=True):
                result[name][field] = float(np.mean(column)) if len(column) else math.nan
        return result


def _figure(summary: CascadeSummary, field: str) -> float:
    if field in _MACRO_SEPARATION:
        return getattr(summary.separation, field)
    return getattr(summary, field).value
