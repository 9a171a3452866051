"""A certificate as the policy of a collection: answers that both models write together."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from cascade_jax import json_file
from cascade_jax.collection import live_answers, measuring
from cascade_jax.collection.questions import Questions
from cascade_jax.data import pipeline
from cascade_jax.deferral.guarantees import certificate
from cascade_jax.deferral.guarantees.certificate import Certificate
from cascade_jax.deferral.policy import PAIR, TOKEN
from cascade_jax.records.schema import POLICY
from cascade_jax.runs.saved_model import SavedModel


@dataclasses.dataclass(frozen=True)
class LivePolicy:
    """A certificate for single tokens; None for no policy, which adds nothing."""

    certificate: Certificate | None

    def _is_for(self, student: SavedModel) -> bool:
        policy = self.certificate
        return policy is not None and policy.models.get(PAIR[0]) == student.identity

    def metadata(self, student: SavedModel) -> dict[str, Any]:
        """The policy as metadata of a student's records; nothing if it is for another student."""
        if not self._is_for(student):
            return {}
        return {POLICY: json_file.to_values(self.certificate)}

    def columns(
        self, student: SavedModel, teacher: SavedModel, questions: Questions
    ) -> dict[str, list]:
        """The columns of what both models write together; none if it is for another student."""
        if not self._is_for(student):
            return {}
        batches = live_answers.decode(
            [model.load(questions.mesh) for model in (student, teacher)],
            questions,
            self.certificate.score,
            self.certificate.policy().thresholds,
            f"{student.name} and {teacher.name} answer",
            bar_stays=True,
        )
        answers = live_answers.joined(batches)
        measured = measuring.measure(answers.texts, questions)
        rows = [slice(length) for length in answers.lengths.tolist()]

        def cut(columns):
            return [values[row] for values, row in zip(columns, rows, strict=True)]

        tokens = cut(answers.tokens)
        columns = {
            "cascade_answer": answers.texts,
            "cascade_tokens": tokens,
            "cascade_pieces": [list(map(questions.piece_of, row.tolist())) for row in tokens],
            "cascade_is_deferred": cut(answers.is_deferred),
            "cascade_uncertainties": cut(answers.uncertainties),
            "cascade_quality": measured.quality,
            "cascade_flops": answers.flops,
        }
        if any(len(counts) for counts in measured.statistics):
            columns["cascade_statistics"] = measured.statistics
        return columns


def load(
    path: str,
    students: Sequence[SavedModel],
    teacher: SavedModel,
    vocabulary: str,
    data: pipeline.DataConfig,
) -> LivePolicy:
    """Reads a certificate and checks that it is for these models and data.

    Args:
      path: of the file; "" for no policy.
      students, teacher: it must be for one of the students, and for this teacher.
      vocabulary: fingerprint of the vocabulary.
      data: tells the lengths at which inputs and answers are cut.

    Raises:
      FileNotFoundError: no such file.
      ValueError: no certificate, one of whole answers or of nothing, of other models, another
        vocabulary or length.
    """
    if not path:
        return LivePolicy(None)
    policy = certificate.load(path)
    if policy.level != TOKEN:
        raise ValueError(
            f"{path} is a certificate for whole answers, which records have in both models' words "
            "already: collect without it, and give it to `cascade-jax evaluate`"
        )
    policy.policy()  # refuses one without a policy
    for role, models in zip(PAIR, (students, [teacher]), strict=True):
        identity, ours = policy.models.get(role), [model.identity for model in models]
        if identity not in ours:
            raise ValueError(
                f"{path} is not of these models: its {role} is {identity}; here is "
                f"{' or '.join(map(str, ours))}; calibrate them anew"
            )
    here = {"vocabulary": vocabulary}
    here |= {name: getattr(data, name) for name in ("input_length", "target_length")}
    for name, value in here.items():
        if (calibrated := getattr(policy.data, name)) != value:
            raise ValueError(f"{path} is of {name} {calibrated!r}, here it is {value!r}")
    return LivePolicy(policy)
