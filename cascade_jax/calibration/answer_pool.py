"""Whole answers of a records table, kept or deferred by a score: no model is needed."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from cascade_jax import checks, records
from cascade_jax.calibration import search
from cascade_jax.calibration.pool import CascadeAnswers
from cascade_jax.deferral import routers
from cascade_jax.deferral.guarantees import splits
from cascade_jax.deferral.guarantees.certificate import DataIdentity, ModelIdentity
from cascade_jax.deferral.policy import ANSWER, Thresholds, defers
from cascade_jax.deferral.scores import Average, base
from cascade_jax.names import matching_tasks
from cascade_jax.records.schema import PAIR

QUALITY = "quality"  # the tasks' own, as records have it


@dataclasses.dataclass(frozen=True)
class RecordsSource:
    """Records to calibrate on, and the score that defers.

    Attributes:
      records_file: table of a split that is not reported on; None at level "token".
      test_records_file: table of a split to test the promise on; None for the examples that the
        calibration leaves of the first.
      score: higher = defer.
      tasks: patterns of the tasks that count.
      limit: at most so many examples of a task and file, the first; None for all.
    """

    records_file: str | os.PathLike | None = None
    test_records_file: str | os.PathLike | None = None
    score: base.DeferralScore = Average()
    tasks: Sequence[str] = ("*",)
    limit: int | None = None

    def __post_init__(self):
        check_patterns(self.tasks)
        checks.whole_number("limit", self.limit, 1, optional=True)

    def open(self) -> "RecordsPool":
        """Reads the tables.

        Raises:
          FileNotFoundError, RecordsError: a file that can not be used.
          ValueError: no task fits a pattern, a score that a table holds too little for, or that has
            learned from its examples, tables of different models.
        """
        if not self.records_file:
            raise ValueError("records_file must be the path of a file, got none")
        files = [file for file in (self.records_file, self.test_records_file) if file]
        for file in files:
            if not pathlib.Path(file).is_file():
                hint = "`cascade-jax collect` with this COLLECT_SPLIT writes it"
                raise FileNotFoundError(f"{file}: no such records file; {hint}")
        return RecordsPool(self, [records.read(file) for file in files])


def check_patterns(tasks: Sequence[str]) -> None:
    """Raises ValueError unless these are patterns of task names."""
    if isinstance(tasks, str) or not tasks or not all(isinstance(name, str) for name in tasks):
        raise ValueError(f"tasks are {tasks!r}; must be a list of names or patterns, e.g. ['*']")


class RecordsPool:
    """The examples of records tables; see `pool.Pool`."""

    level = ANSWER
    metrics = (QUALITY,)
    thresholds = 1
    max_length = 1

    def __init__(self, source: RecordsSource, tables: Sequence[records.Records]):
        tables = [_used(table, source.tasks, source.limit) for table in tables]
        for table in tables:  # a promise for examples that a router has learned would be too high
            qualities = table.student_quality, table.teacher_quality
            split = table.metadata["split"]
            routers.check_not_fitted_on(source.score, table.student, *qualities, split)
        for model in PAIR:
            _check_same(model, tables)
        self.name = tables[0].name
        self.uncertainty = base.name_of(source.score)
        self.ids = _joined(tables, "example_id")
        self.texts = _joined(tables, "inputs")
        self._score = np.concatenate([source.score(table.student) for table in tables])
        self._student = _joined(tables, "student_quality")
        self._teacher = _joined(tables, "teacher_quality")
        self._flops = None
        if all(table.student_flops is not None for table in tables):
            self._flops = [_joined(tables, f"{model}_flops") for model in PAIR]
            try:
                own = [base.own_flops(source.score, table.student) for table in tables]
                saved = [
                    base.saved_flops(source.score, table.student, table.student_flops)
                    for table in tables
                ]
                self._flops[0] = self._flops[0] + np.concatenate(own)
                self._flops[1] = self._flops[1] - np.concatenate(saved)  # where it is deferred
            except base.UnknownCost:  # nor is what the cascade costs
                self._flops = None
        first = len(tables[0])
        self.test_rows = None if len(tables) == 1 else np.arange(first, len(self.ids))
        parts = [slice(None)] if self.test_rows is None else [slice(first), slice(first, None)]
        self.models = {model: _identity(tables[0], model) for model in PAIR}
        self.data = DataIdentity(
            mixture=tables[0].metadata["mixture"],
            split=tables[0].metadata["split"],
            examples=tuple(splits.fingerprint(self.ids[p], self.texts[p]) for p in parts),
        )

    def evaluate(
        self, thresholds: Thresholds | Float[np.ndarray, "R 1"], rows: Int[np.ndarray, " R"]
    ) -> CascadeAnswers:
        """Defers the answers whose score is above the threshold."""
        score = self._score[rows]
        deferred = defers(score, np.asarray(thresholds)[..., 0])
        flops = None
        if self._flops is not None:
            flops = self._flops[0][rows] + np.where(deferred, self._flops[1][rows], 0.0)
        return CascadeAnswers(
            cost=deferred.astype(np.float64),
            quality={QUALITY: np.where(deferred, self._teacher[rows], self._student[rows])},
            holds_from=np.where(deferred, -np.inf, score)[:, None],
            holds_below=np.where(deferred, score, np.inf)[:, None],
            flops=flops,
            score=score,
        )

    def evaluate_random(self, share: float, rows: Int[np.ndarray, " R"]) -> None:
        """None: deferring answers at random is the straight line between the two models."""

    def values(self, count: int, rows: Int[np.ndarray, " R"]) -> Float[np.ndarray, " count"]:
        """Quantiles of the scores of these rows."""
        return search.score_quantiles(self._score[rows], count)[:, 0]


def _identity(table: records.Records, model: str) -> ModelIdentity:
    """What records say of a model's checkpoint."""
    return ModelIdentity(**{k: table.stated(model, k) for k in ("checkpoint", "saved")})


def _check_same(model: str, tables: Sequence[records.Records]) -> None:
    """Refuses a table to test on that is another model's."""
    identities = [_identity(table, model) for table in tables]
    saved = {identity.saved for identity in identities}
    # When it was saved tells a checkpoint from all others, wherever its folder stands.
    if len(set(identities)) > 1 and (len(saved) > 1 or None in saved):
        raise ValueError(
            f"the {model} of the records to test on is {identities[1]}, that of those to calibrate "
            f"on {identities[0]}; collect both with the same checkpoints"
        )


def _used(table: records.Records, patterns: Sequence[str], limit: int | None) -> records.Records:
    tasks = table.task.astype(str)
    used = matching_tasks(patterns, list(dict.fromkeys(tasks.tolist())))
    rows = [np.flatnonzero(tasks == task)[:limit] for task in used]
    table = table.take(np.sort(np.concatenate(rows)))
    return table.take(splits.without_repetitions(table.inputs))


def _joined(tables: Sequence[records.Records], column: str) -> np.ndarray:
    return np.concatenate([getattr(table, column) for table in tables])
