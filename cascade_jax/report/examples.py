"""The clearest right and wrong decisions of a deferral score, for readers without JavaScript."""

import dataclasses

import numpy as np
from jaxtyping import Float

from cascade_jax.records.table import Records

_KINDS = (
    ("right", "deferred, the large model is better", 1, True),
    ("right", "kept, the small model is better", -1, False),
    ("wrong", "kept, the large model is better", 1, False),
    ("wrong", "deferred, the small model is better", -1, True),
)


@dataclasses.dataclass(frozen=True)
class Example:
    """An example on which the two models differ, and what the score made of it at 50 % deferral."""

    verdict: str
    what: str
    score: float
    task: str
    inputs: str
    target: str
    student_answer: str
    teacher_answer: str
    student_quality: float
    teacher_quality: float


def pick_examples(
    records: Records, score: Float[np.ndarray, " n"], per_kind: int = 2
) -> list[Example]:
    """The clearest right and wrong decisions of a score, where half of all examples are deferred.

    Right is to defer what the large model does better and to keep what the small one does better.
    Of each kind those come first whose scores lie farthest from the middle, then lower rows.
    """
    gain = records.teacher_quality - records.student_quality
    # Ranks by score, averaged over ties, so that 0 is the middle and the tied are treated alike.
    _, group, sizes = np.unique(score, return_inverse=True, return_counts=True)
    urgency = ((np.cumsum(sizes) - (sizes - 1) / 2 - 0.5) / len(score) - 0.5)[group]
    picked = []
    for verdict, what, sign, is_deferred in _KINDS:
        rows = np.flatnonzero((sign * gain > 0) & ((urgency >= 0) == is_deferred))
        order = np.argsort(-np.abs(urgency[rows] * gain[rows]), kind="stable")
        for row in rows[order[:per_kind]]:
            texts = ("task", "inputs", "target", "student_answer", "teacher_answer")
            qualities = ("student_quality", "teacher_quality")
            picked.append(
                Example(
                    verdict=verdict,
                    what=what,
                    score=float(score[row]),
                    **{name: str(getattr(records, name)[row]) for name in texts},
                    **{name: float(getattr(records, name)[row]) for name in qualities},
                )
            )
    return picked
