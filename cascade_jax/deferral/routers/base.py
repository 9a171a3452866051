"""Base of all routers: fitting on a calibration split, and cross-validation on it."""

import dataclasses
import re
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from cascade_jax.deferral.routers import arrays, fingerprints, fitted
from cascade_jax.deferral.routers import features as router_features
from cascade_jax.deferral.routers.fitted import STUDENT_WRONG, TEACHER_GAIN, FittedRouter
from cascade_jax.deferral.scores.answer_tokens import AnswerTokens
from cascade_jax.names import check_choice

_Quality = Real[np.ndarray, " examples"]


@dataclasses.dataclass(frozen=True)
class Router:
    """Base of all kinds of router; build one of its kinds.

    Attributes:
      target: "teacher_gain" or "student_wrong", see above.
    """

    target: str = TEACHER_GAIN
    name: ClassVar[str] = ""

    def __post_init__(self):
        check_choice("target", self.target, fitted.TARGETS)
        self._check()

    def fit(
        self,
        answers: AnswerTokens,
        student_quality: _Quality,
        teacher_quality: _Quality,
        split: str,
        fingerprint: str = "",
    ) -> FittedRouter:
        """Learns from the examples of a calibration split.

        Args:
          answers: of the small model.
          student_quality, teacher_quality: of each example, in [0, 1].
          split: where the examples are from; never a test split.
          fingerprint: of the examples, if known already.

        Raises:
          ValueError: a test split, nothing to learn from, answers that lack what the features need,
            or qualities that do not fit.
        """
        refuse_test_split(split)
        qualities = student_quality, teacher_quality
        labels = self._targets(answers, *qualities)
        features, matrix = self._read(answers)
        features, model = self._chosen(features, self._learn(matrix, labels))
        import sklearn

        return FittedRouter(
            name=self.name,
            features=features,
            target=self.target,
            model=model,
            split=split,
            fingerprint=fingerprint or fingerprints.fingerprint(answers, *qualities),
            seen=fingerprints.id_hashes(answers.example_ids),
            num_examples=answers.num_examples,
            library=f"scikit-learn {sklearn.__version__}",
            settings=repr(self),
        )

    def cross_validated(
        self,
        answers: AnswerTokens,
        student_quality: _Quality,
        teacher_quality: _Quality,
        folds: int = 5,
        seed: int = 0,
        inputs: Int[np.ndarray, " examples"] | None = None,
    ) -> Float[np.ndarray, " examples"]:
        """The score of every example by a router that was fitted on the other folds.

        Args:
          answers, student_quality, teacher_quality: see `fit`.
          folds: of as many inputs each, drawn at random by the seed.
          seed: see there.
          inputs: a number for each example, equal where inputs are equal, from 0 on without gaps:
            all examples of an input are in one fold. None: all differ.

        Raises:
          ValueError: see `fit`; fewer than two folds, or more than there are inputs.
        """
        n = answers.num_examples
        inputs = np.arange(n) if inputs is None else inputs
        count = int(np.max(inputs, initial=-1)) + 1
        if not 2 <= folds <= count:
            what = "examples" if count == n else "different inputs"
            raise ValueError(f"folds must lie in [2, {count}], the number of {what}, got {folds}")
        labels = self._targets(answers, student_quality, teacher_quality)
        _, matrix = self._read(answers)
        fold = (np.random.default_rng(seed).permutation(count) % folds)[inputs]
        result = np.empty(n)
        for held_out in range(folds):
            is_held_out = fold == held_out
            model = self._learn(matrix[~is_held_out], labels[~is_held_out])
            result[is_held_out] = self._values(model(matrix[is_held_out]), answers, is_held_out)
        return result

    def _values(
        self, predicted: np.ndarray, answers: AnswerTokens, rows: Bool[np.ndarray, " examples"]
    ) -> Float[np.ndarray, " n"]:
        """The score of some rows, from what the model predicts of them."""
        return fitted.target_value(predicted, self.target)

    def _read(self, answers: AnswerTokens) -> tuple[router_features.Features, np.ndarray]:
        """Features, and the matrix of them."""
        features = self._features()
        width = features.width(answers)
        features.check(answers, width)
        return features, features.matrix(answers, width)

    def _chosen(self, features: Any, model: Any) -> tuple[router_features.Features, arrays.Model]:
        """The features that the model reads, and the model, where there was a choice."""
        return features, model

    def _targets(
        self, answers: AnswerTokens, student_quality: _Quality, teacher_quality: _Quality
    ) -> Float[np.ndarray, " examples"]:
        for name, quality in (("student", student_quality), ("teacher", teacher_quality)):
            if len(quality) != answers.num_examples:
                count = f"{len(quality)} values of {name} quality"
                raise ValueError(f"{answers.num_examples} answers, but {count}")
            bad = np.flatnonzero(~((quality >= 0) & (quality <= 1)))
            if len(bad):
                raise ValueError(
                    f"{answers.describe(int(bad[0]))} has the {name} quality {quality[bad[0]]}, "
                    f"must be in [0, 1] ({len(bad)} such)"
                )
        return fitted.targets(student_quality, teacher_quality, self.target)

    def _learn(self, features: Float[np.ndarray, "n ..."], labels: Float[np.ndarray, " n"]) -> Any:
        if len(labels) == 0 or np.ptp(labels) == 0:
            same = {STUDENT_WRONG: "all small answers", TEACHER_GAIN: "all gains by deferring"}
            raise ValueError(
                f"a router of {self.target} has nothing to learn from {len(labels)} examples: "
                f"{same[self.target]} are of one quality"
            )
        return self._fit(features, labels)

    def _check(self) -> None:
        """Raises ValueError for a setting that is not allowed."""

    def _features(self) -> router_features.Features:
        raise NotImplementedError

    def _fit(self, features: np.ndarray, labels: np.ndarray) -> arrays.Model:
        raise NotImplementedError


def refuse_test_split(split: str) -> None:
    """Raises ValueError if a split is a test split by its name, or has none."""
    if not split:
        raise ValueError("a router needs the name of the split that it is fitted on, got ''")
    if re.search(r"(^|[^a-z])test", split.lower()):
        raise ValueError(
            f"a router is never fitted on a test split, got {split!r}: what it is judged on must "
            "be new to it; collect a calibration split, e.g. COLLECT_SPLIT = 'validation'"
        )
