"""From aligned records to panels: the pool, every task, and groups of tasks."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int, Real

from cascade_jax.deferral import routers
from cascade_jax.deferral import scores as scores_lib
from cascade_jax.deferral.scores.base import DeferralScore, name_of
from cascade_jax.evaluation import reliability, split_figures, summaries
from cascade_jax.evaluation.cascades import Cascade
from cascade_jax.evaluation.costs import CostModel
from cascade_jax.evaluation.results import Evaluation, Panel, RecordsSource
from cascade_jax.names import matching_tasks
from cascade_jax.records.table import Records

AVAILABLE = "available"  # in place of several scores: all that the records hold enough for


@dataclasses.dataclass(frozen=True)
class Settings:
    """How panels are made; see `EvaluateConfig`."""

    score: DeferralScore
    cost: CostModel
    scores: Sequence[DeferralScore] | str
    groups: Mapping[str, Sequence[str]]
    bootstrap_samples: int
    seed: int

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
) -> tuple[dict[str, Cascade], dict[str, ByScore]]:
    """Cascades by the main score, and all scores of each where several are asked for.

    Raises:
      ValueError: a score that the records lack a column for, an answer that has no score, or a
        router that was fitted on these examples.
      RecordsError: a cost that the records lack a column for.
    """
    cascades, by_score = {}, {}
    several = _several(tables, settings)
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
        student_cost, teacher_cost = settings.cost(table)
        cascades[name] = Cascade(
            score=main,
            student_quality=table.student_quality,
            teacher_quality=table.teacher_quality,
            student_cost=student_cost,
            teacher_cost=teacher_cost,
            confidence=reliability.confidence_of(answers),
        )
    return cascades, by_score


def _several(tables: Mapping[str, Records], settings: Settings) -> Sequence[DeferralScore]:
    if settings.scores != AVAILABLE:
        return settings.scores
    available = [scores_lib.available(table.student) for table in tables.values()]
    return [score for score in available[0] if all(score in others for others in available)]


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
        try:
            patterns = [patterns] if isinstance(patterns, str) else patterns
            by_group[group] = tuple(matching_tasks(patterns, tasks))
        except ValueError as error:
            raise ValueError(f"group {group!r}: {error}") from None
    return by_group


def evaluate_tables(
    tables: Mapping[str, Records],
    cascades: Mapping[str, Cascade],
    by_score: Mapping[str, ByScore],
    settings: Settings,
) -> Evaluation:
    """All panels, the tasks in the order in which they first come, and every figure."""
    first = next(iter(tables.values()))
    rows = rows_by_task(first.task)
    groups = tasks_of_groups(settings.groups, list(rows))
    mixture = str(first.metadata["mixture"])
    tasks, per_example, notes = {}, {}, []
    pooled = settings.panel(mixture, _metric_names(first), cascades, scores=by_score)
    for task, task_rows in rows.items():
        tasks[task], means, note = _task_panels(task, task_rows, tables, cascades, settings)
        per_example |= {} if means is None else {task: means}
        notes += [note] if note else []
    return Evaluation(
        pooled=pooled,
        tasks=tasks,
        sources=tuple(
            RecordsSource(name, table.source, table.metadata) for name, table in tables.items()
        ),
        score=repr(settings.score),
        bootstrap_samples=settings.bootstrap_samples,
        seed=settings.seed,
        per_example=per_example,
        figures=split_figures.compute(tables, tasks, per_example),
        notes=tuple(notes),
        groups={
            group: _group_panel(group, [rows[task] for task in members], first, cascades, settings)
            for group, members in groups.items()
        },
        group_tasks=groups,
        tables=tables,
        cascades=cascades,
    )


def _task_panels(
    task: str,
    rows: Int[np.ndarray, " rows"],
    tables: Mapping[str, Records],
    cascades: Mapping[str, Cascade],
    settings: Settings,
) -> tuple[Panel, Panel | None, str]:
    """The panel of a task, that of means beside one of a corpus metric, and a note or ""."""
    first = next(iter(tables.values()))
    taken = {name: cascade.take(rows) for name, cascade in cascades.items()}
    means = settings.panel(task, _metric_names(first, rows), taken)
    counts = {name: table.statistics(task) for name, table in tables.items()}
    lacking = [name for name, statistics in counts.items() if statistics is None]
    if lacking:
        note = f"{task} has no curve of its corpus metric: no statistics in the records of "
        return means, None, (note + ", ".join(lacking)) * (len(lacking) < len(tables))
    taken = {n: dataclasses.replace(c, statistics=counts[n]) for n, c in taken.items()}
    label = next(iter(counts.values())).metric.label
    return settings.panel(task, f"{label} (corpus)", taken), means, ""


def _group_panel(
    group: str,
    parts: Sequence[np.ndarray],
    first: Records,
    cascades: Mapping[str, Cascade],
    settings: Settings,
) -> Panel:
    rows = np.sort(np.concatenate(parts))
    taken = {name: cascade.take(rows) for name, cascade in cascades.items()}
    return settings.panel(group, _metric_names(first, rows), taken)


def _metric_names(table: Records, rows: Int[np.ndarray, " rows"] | None = None) -> str:
    return ", ".join(dict.fromkeys(table.metric if rows is None else table.metric[rows]))
