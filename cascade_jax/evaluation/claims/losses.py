"""What the students of each size and loss reach, over their seeds."""

import dataclasses

import numpy as np
from jaxtyping import Float

from cascade_jax.evaluation import curves
from cascade_jax.evaluation.claims import figures
from cascade_jax.evaluation.claims.tables import RunTable, Study

RATES = np.linspace(0.0, 1.0, 201)
_SCORE = "average"


@dataclasses.dataclass(frozen=True, eq=False)
class LossResult:
    """Figures of all runs of one size and loss, by the average log-prob, in one pool.

    Attributes:
      size, loss, seeds: of which runs.
      costs: FLOPs per token of the small and the large model.
      quality: of the cascade at each of RATES, a row for each seed.
      large: quality of the large model alone.
      area: under quality over the deferral rate, by seed.
      quality_at_cost: mean over the costs of deferring 25, 50 and 75 %, by seed.
      tasks: quality of the small model (by seed) and of the large one, alone, on each task.
    """

    size: str
    loss: str
    seeds: tuple[int, ...]
    costs: tuple[float, float]
    quality: Float[np.ndarray, "seeds rates"]
    large: float
    area: Float[np.ndarray, " seeds"]
    quality_at_cost: Float[np.ndarray, " seeds"]
    tasks: dict[str, tuple[Float[np.ndarray, " seeds"], float]]

    @property
    def small(self) -> Float[np.ndarray, " seeds"]:
        """Quality of the small model alone."""
        return self.quality[:, 0]


def measure(study: Study) -> tuple[LossResult, ...]:
    """Results of every size and loss of a study."""
    results = []
    for size in study.sizes:
        for loss, seeds in study.losses(size).items():
            entries = [study.table(size, loss, seed) for seed in seeds]
            measured = [_curve(entry) for entry in entries]
            table = entries[0].table
            small = np.stack([entry.table.student_quality for entry in entries])
            results.append(
                LossResult(
                    size=size,
                    loss=loss,
                    seeds=seeds,
                    costs=entries[0].costs,
                    quality=np.stack([np.interp(RATES, c.rate[0], c.quality[0]) for c in measured]),
                    large=float(table.teacher_quality.mean()),
                    area=np.concatenate([figures.area(c) for c in measured]),
                    quality_at_cost=np.concatenate([figures.quality_at_cost(c) for c in measured]),
                    tasks={
                        task: (
                            small[:, rows].mean(axis=1),
                            float(table.teacher_quality[rows].mean()),
                        )
                        for task, rows in study.rows_by_task().items()
                    },
                )
            )
    return tuple(results)


def _curve(entry: RunTable) -> figures.SampledCurve:
    order, ends = curves.deferral_order(entry.score(_SCORE))
    student, teacher = entry.table.student_quality, entry.table.teacher_quality
    columns = np.stack([np.ones(len(student)), teacher - student, student])
    return figures.sampled_curve(np.ones((len(student), 1), np.uint8), columns, order, ends)
