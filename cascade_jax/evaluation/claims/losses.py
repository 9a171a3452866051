"""What the students of each size and loss reach, over their seeds."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from cascade_jax.evaluation import curves
from cascade_jax.evaluation.claims import claim, figures
from cascade_jax.evaluation.claims.tables import RunTable, Study

RATES = np.linspace(0.0, 1.0, 201)
_SCORE = "average"


@dataclasses.dataclass(frozen=True, eq=False)
class CascadeResult:
    """The deferral curve of each seed, on one set of rows or as the mean of several.

    Attributes:
      quality: at each of RATES.
      large: quality of the large model alone.
      area: under quality over the deferral rate.
      quality_at_cost: mean over the costs of deferring 25, 50 and 75 %.
    """

    quality: Float[np.ndarray, "seeds rates"]
    large: float
    area: Float[np.ndarray, " seeds"]
    quality_at_cost: Float[np.ndarray, " seeds"]

    @property
    def small(self) -> Float[np.ndarray, " seeds"]:
        """Quality of the small model alone."""
        return self.quality[:, 0]


@dataclasses.dataclass(frozen=True, eq=False)
class LossResult:
    """Figures of all runs of one size and loss, by the average log-prob.

    Attributes:
      size, loss, seeds: of which runs.
      costs: FLOPs per token of the small and the large model.
      pool: with one threshold for all examples.
      tasks: of each task with a threshold of its own.
    """

    size: str
    loss: str
    seeds: tuple[int, ...]
    costs: tuple[float, float]
    pool: CascadeResult
    tasks: dict[str, CascadeResult]

    @property
    def places(self) -> dict[str, CascadeResult]:
        """The pool, and the mean of all tasks."""
        parts = list(self.tasks.values())
        fields = [field.name for field in dataclasses.fields(CascadeResult)]
        means = {name: np.mean([getattr(p, name) for p in parts], axis=0) for name in fields}
        return {claim.POOL: self.pool, claim.TASKS: CascadeResult(**means)}


def measure(study: Study) -> tuple[LossResult, ...]:
    """Results of every size and loss of a study."""
    results, by_task = [], study.rows_by_task()
    for size in study.sizes:
        for loss, seeds in study.losses(size).items():
            entries = [study.table(size, loss, seed) for seed in seeds]
            pool = _result(entries, np.arange(len(study.first)))
            tasks = {task: _result(entries, rows) for task, rows in by_task.items()}
            results.append(LossResult(size, loss, seeds, entries[0].costs, pool, tasks))
    return tuple(results)


def _result(entries: Sequence[RunTable], rows: Int[np.ndarray, " rows"]) -> CascadeResult:
    measured = [_curve(entry, rows) for entry in entries]
    return CascadeResult(
        quality=np.stack([np.interp(RATES, c.rate[0], c.quality[0]) for c in measured]),
        large=float(entries[0].table.teacher_quality[rows].mean()),
        area=np.concatenate([figures.area(c) for c in measured]),
        quality_at_cost=np.concatenate([figures.quality_at_cost(c) for c in measured]),
    )


def _curve(entry: RunTable, rows: Int[np.ndarray, " rows"]) -> figures.SampledCurve:
    order, ends = curves.deferral_order(entry.score(_SCORE)[rows])
    student, teacher = entry.table.student_quality[rows], entry.table.teacher_quality[rows]
    columns = np.stack([np.ones(len(rows)), teacher - student, student])
    return figures.sampled_curve(np.ones((len(rows), 1), np.uint8), columns, order, ends)
