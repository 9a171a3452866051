"""From aligned records to panels: the pool, every task, and groups of tasks."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int, Real

from cascade_jax import checks
from cascade_jax.deferral import routers
from cascade_jax.deferral import scores as scores_lib
from cascade_jax.deferral.guarantees import splits
from cascade_jax.deferral.scores import Average
from cascade_jax.deferral.scores.base import DeferralScore, name_of
from cascade_jax.evaluation import reliability, score_costs, split_figures, summaries
from cascade_jax.evaluation.cascades import Cascade
from cascade_jax.evaluation.costs import CostModel, Parameters
from cascade_jax.evaluation.results import Evaluation, Panel, RecordsSource
from cascade_jax.names import matching_tasks
from cascade_jax.records.table import Records

AVAILABLE = "available"  # in place of several scores: all that the records hold enough for


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How panels are made.

    Attributes:
      score: what orders the examples.
      scores: more scores, to be laid beside it; or "available", all that the records hold enough
        for.
      cost: what an answer costs, `Parameters()` or another of costs.py.
      groups: by name, patterns of the tasks that are pooled as one set: ``{"wmt": ["wmt22_*"]}``.
      bootstrap_samples: resamples for the intervals.
      seed: of the resamples.
    """

    score: DeferralScore = Average()
    scores: Sequence[DeferralScore] | str = ()
    cost: CostModel = Parameters()
    groups: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    bootstrap_samples: int = 1000
    seed: int = 0

    def __post_init__(self):
        is_cost = isinstance(self.cost, CostModel) and not isinstance(self.cost, type)
        allowed = "a cost model such as Parameters() (a class needs its brackets)"
        checks.require(is_cost, "cost", self.cost, allowed)
        checks.whole_number("bootstrap_samples", self.bootstrap_samples, 1)
        several = () if self.scores == AVAILABLE else self.scores
        is_several = not isinstance(several, str)
        checks.require(is_several, "scores", several, f"scores, or {AVAILABLE!r}")
        for field, score in (("score", self.score), *(("scores", score) for score in several)):
            is_score = callable(score) and not isinstance(score, type)
            allowed = "a deferral score such as Average() (a class needs its brackets)"
            checks.require(is_score, field, score, allowed)
        # The main score may be among the others: it is then shown once.
        names = [name_of(self.score)] + [name_of(s) for s in several if s != self.score]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two scores are named {name!r}; names must differ")

    def panel(self, title: str, metric: str, cascades: Mapping[str, Cascade], **more) -> Panel:
        """One panel, with the settings' resamples and cost."""
        return summaries.compare(
            title,
            metric,
            cascades,
            bootstrap_samples=self.bootstrap_samples,
            seed=self.seed,
            cost=self.cost,
            **more,
        )


ByScore = dict[str, Real[np.ndarray, " n"]]


def score_all(
    tables: Mapping[str, Records], settings: Settings
) -> tuple[dict[str, Cascade], dict[str, ByScore], dict[str, score_costs.ByScore]]:
    """Cascades by the main score, all scores of each where there are several, and what they spend.

    The average log-prob is among them where another spends anything, to compare that with.

    Raises:
      ValueError: a score that the records lack a column for, an answer that has no score, or a
        router that was fitted on these examples.
      RecordsError: a cost that the records lack a column for.
    """
    cascades, by_score = {}, {}
    several, spent = _with_costs(tables, settings, _several(tables, settings))
    # Tables that are compared have the same inputs in one order.
    inputs = splits.text_numbers(next(iter(tables.values())).inputs)
    for name, table in tables.items():
        answers = table.student
        qualities = table.student_quality, table.teacher_quality
        for score in (settings.score, *several):
            routers.check_not_fitted_on(score, answers, *qualities, table.metadata["split"])
        main = np.asarray(settings.score(answers))
        values = {name_of(settings.score): main} if several else {}
        for score in several:
            if name_of(score) not in values:
                values[name_of(score)] = np.asarray(score(answers))
        by_score[name] = values
        confidence = reliability.confidence_of(answers)
        own = spent[name][name_of(settings.score)] if spent else score_costs.FREE
        cascades[name] = Cascade(
            main,
            *qualities,
            *settings.cost(table),
            confidence=confidence,
            inputs=inputs,
            score_cost=own.cost,
            saved_cost=own.saved,
        )
    return cascades, by_score, spent


def _several(tables: Mapping[str, Records], settings: Settings) -> Sequence[DeferralScore]:
    if settings.scores != AVAILABLE:
        return settings.scores
    available = [scores_lib.available(table.student) for table in tables.values()]
    return [score for score in available[0] if all(score in others for others in available)]


def _with_costs(
    tables: Mapping[str, Records], settings: Settings, several: Sequence[DeferralScore]
) -> tuple[Sequence[DeferralScore], dict[str, score_costs.ByScore]]:
    """The other scores, and what all spend by table and score; nothing if all are free."""
    scores = {name_of(score): score for score in (*several, settings.score)}
    spent = {
        name: {own: score_costs.cost_of(s, table, settings.cost) for own, s in scores.items()}
        for name, table in tables.items()
    }
    if all(cost.is_free for by_score in spent.values() for cost in by_score.values()):
        return several, {}
    average = summaries.BASELINE
    if average not in scores:
        several = [*several, Average()]
        for name, table in tables.items():
            spent[name][average] = score_costs.cost_of(Average(), table, settings.cost)
    elif scores[average] != Average():
        raise ValueError(
            f"a score is named {average!r}, as the one is that scores which cost something are "
            "compared with; give it another name"
        )
    return several, spent


def rows_by_task(tasks: np.ndarray) -> dict[str, Int[np.ndarray, " rows"]]:
    """Rows of each task, in the order in which the tasks first come."""
    numbers: dict[str, int] = {}
    codes = np.fromiter(
        (numbers.setdefault(task, len(numbers)) for task in tasks), np.int64, len(tasks)
    )
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=len(numbers)))
    return {str(task): part for task, part in zip(numbers, np.split(order, ends[:-1]), strict=True)}


def tasks_of_groups(
    groups: Mapping[str, Sequence[str]], tasks: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Tasks of each group, by patterns such as ``wmt22_*``.

    Raises:
      ValueError: a pattern that no task matches.
    """
    by_group = {}
    for group, patterns in groups.items():
        patterns = [patterns] if isinstance(patterns, str) else patterns
        try:
            by_group[group] = tuple(matching_tasks(patterns, tasks))
        except ValueError as error:
            raise ValueError(f"group {group!r}: {error}") from None
    return by_group


def evaluate_tables(
    tables: Mapping[str, Records],
    cascades: Mapping[str, Cascade],
    by_score: Mapping[str, ByScore],
    spent: Mapping[str, score_costs.ByScore],
    settings: Settings,
) -> Evaluation:
    """All panels, the tasks in the order in which they first come, and every figure.

    Args:
      tables: by name.
      cascades, by_score, spent: of `score_all`.
      settings: how panels are made.
    """
    first = next(iter(tables.values()))
    rows = rows_by_task(first.task)
    groups = tasks_of_groups(settings.groups, list(rows))

    def means(title: str, rows: Int[np.ndarray, " rows"]) -> Panel:
        taken = {name: cascade.take(rows) for name, cascade in cascades.items()}
        return settings.panel(title, _metric_names(first.metric[rows]), taken)

    mixture = str(first.metadata["mixture"])
    several = {"scores": by_score, "score_costs": spent or None}
    pooled = settings.panel(mixture, _metric_names(first.metric), cascades, **several)
    tasks, per_example, notes = {}, {}, []
    for task, task_rows in rows.items():
        tasks[task] = means(task, task_rows)
        panel, note = _corpus_panel(task, task_rows, tables, cascades, settings)
        if panel:
            tasks[task], per_example[task] = panel, tasks[task]
        notes += [note] if note else []
    return Evaluation(
        pooled=pooled,
        tasks=tasks,
        sources=tuple(RecordsSource(name, t.source, t.metadata) for name, t in tables.items()),
        score=repr(settings.score),
        bootstrap_samples=settings.bootstrap_samples,
        seed=settings.seed,
        per_example=per_example,
        figures=split_figures.compute(tables, tasks, per_example),
        notes=tuple(notes),
        cost_notes=score_costs.notes(name_of(settings.score), spent),
        groups={
            group: means(group, np.sort(np.concatenate([rows[task] for task in members])))
            for group, members in groups.items()
        },
        group_tasks=groups,
        tables=tables,
        cascades=cascades,
    )


def _corpus_panel(
    task: str,
    rows: Int[np.ndarray, " rows"],
    tables: Mapping[str, Records],
    cascades: Mapping[str, Cascade],
    settings: Settings,
) -> tuple[Panel | None, str]:
    """The panel of a task's corpus metric, if all records hold statistics, and a note or ""."""
    counts = {name: table.statistics(task) for name, table in tables.items()}
    lacking = [name for name, statistics in counts.items() if statistics is None]
    if lacking:
        note = f"{task} has no curve of its corpus metric: no statistics in the records of "
        return None, (note + ", ".join(lacking)) * (len(lacking) < len(tables))
    taken = {
        name: dataclasses.replace(cascade.take(rows), statistics=counts[name])
        for name, cascade in cascades.items()
    }
    label = next(iter(counts.values())).metric.label
    return settings.panel(task, f"{label} (corpus)", taken), ""


def _metric_names(metrics: np.ndarray) -> str:
    return ", ".join(dict.fromkeys(metrics))
