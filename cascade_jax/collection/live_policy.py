"""A certificate as the policy of a collection: answers that both models write together."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from cascade_jax.collection import answers, live_answers
from cascade_jax.collection.answers import Questions
from cascade_jax.data import pipeline
from cascade_jax.deferral.guarantees import certificate
from cascade_jax.deferral.guarantees.certificate import Certificate
from cascade_jax.records.schema import POLICY
from cascade_jax.runs.saved_model import SavedModel


@dataclasses.dataclass(frozen=True)
class LivePolicy:
    """A certificate for single tokens; None for no policy, which adds nothing."""

    certificate: Certificate | None

    def _is_of(self, student: SavedModel) -> bool:
        found = self.certificate
        return found is not None and found.models.get("student") == student.fingerprint

    def metadata(self, student: SavedModel) -> dict[str, Any]:
        """What the metadata of a student's records say of it; nothing if it is of another."""
        if not self._is_of(student):
            return {}
        return {POLICY: json.loads(self.certificate.to_json())}

    def columns(
        self, student: SavedModel, teacher: SavedModel, questions: Questions
    ) -> dict[str, list]:
        """The columns of records about what both models write together.

        Args:
          student, teacher: the models; nothing if the policy is of another student.
          questions: what is answered.
        """
        if not self._is_of(student):
            return {}
        mesh, mixture = questions.mesh, questions.mixture
        batches = live_answers.decode(
            (student.config, teacher.config),
            (student.load(mesh), teacher.load(mesh)),
            questions,
            self.certificate.score,
            self.certificate.policy_thresholds(),
            f"{student.name} and {teacher.name} answer",
            is_kept=True,
        )
        found = live_answers.joined(batches)
        measured = answers.measure(found, questions)
        spell = functools.cache(functools.partial(answers.piece_of, mixture.vocabulary))
        rows = [slice(length) for length in found.lengths.tolist()]

        def cut(columns):
            return [of_row[row] for of_row, row in zip(columns, rows, strict=True)]

        tokens = cut(found.tokens)
        columns = {
            "cascade_answer": found.texts,
            "cascade_tokens": tokens,
            "cascade_pieces": [[spell(token) for token in row.tolist()] for row in tokens],
            "cascade_is_deferred": cut(found.is_deferred),
            "cascade_uncertainties": cut(found.uncertainties),
            "cascade_quality": measured.quality,
            "cascade_flops": found.flops,
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
    """Reads a certificate and checks that it is of these models.

    Args:
      path: of the file; "" for no policy.
      students: of which it must be one's.
      teacher: of which it must be.
      vocabulary: fingerprint of the vocabulary.
      data: tells the lengths at which inputs and answers are cut.

    Raises:
      FileNotFoundError: no such file.
      ValueError: no certificate, one of whole answers or of nothing, of other models, another
        vocabulary or length.
    """
    if not path:
        return LivePolicy(None)
    found = certificate.load(path)
    if found.level != certificate.TOKEN:
        raise ValueError(
            f"{path} is a certificate for whole answers, which records have in both models' words "
            "already: collect without it, and give it to `cascade-jax evaluate`"
        )
    found.policy_thresholds()  # refuses one without a policy
    for role, models in (("student", students), ("teacher", [teacher])):
        wanted, given = found.models.get(role), [model.fingerprint for model in models]
        if wanted not in given:
            raise ValueError(
                f"{path} is not of these models: its {role} is {wanted!r}, here is "
                f"{' or '.join(map(repr, given))}; calibrate them anew"
            )
    facts = _facts(path, found)
    ours = {"vocabulary": vocabulary}
    ours |= {name: getattr(data, name) for name in ("input_length", "target_length")}
    for what, here in ours.items():
        if facts.get(what) != here:
            raise ValueError(f"{path} is of {what} {facts.get(what)!r}, here it is {here!r}")
    return LivePolicy(found)


def _facts(path: str, found: Certificate) -> Mapping[str, Any]:
    """What `cascade-jax calibrate` wrote of the data."""
    try:
        facts = json.loads(found.data)
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise ValueError(
            f"{path} does not say of which vocabulary and lengths it is: its data is "
            f"{found.data[:40]!r}, not the object that `cascade-jax calibrate` writes"
        )
    return facts
