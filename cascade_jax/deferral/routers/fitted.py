"""A fitted router: a deferral score, its arrays, and the data it must not be evaluated on."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float, Real, UInt64
from msgspec import Meta

from cascade_jax import array_file, json_file, json_text
from cascade_jax.deferral.routers import arrays as router_models
from cascade_jax.deferral.routers import features as router_features
from cascade_jax.deferral.routers import fingerprints
from cascade_jax.deferral.scores.answer_tokens import AnswerTokens
from cascade_jax.deferral.scores.base import spent
from cascade_jax.names import check_choice

FORMAT = 2  # 1 differs in the hash of ids
STUDENT_WRONG, TEACHER_GAIN = "student_wrong", "teacher_gain"
TARGETS = (TEACHER_GAIN, STUDENT_WRONG)
_BLOCK = 1 << 23  # feature values at once
_ABOUT, _MODEL = "about", "model/"


@dataclasses.dataclass(frozen=True)
class _Header:
    """The part of a router's file beside its arrays."""

    format: int
    name: str
    features: dict[str, Any]
    target: str
    model: str
    split: str
    fingerprint: str
    num_examples: Annotated[int, Meta(ge=1, lt=1 << 31)]
    library: str
    settings: str

    def __post_init__(self):
        check_choice("model", self.model, router_models.KINDS)
        check_choice("target", self.target, TARGETS)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FittedRouter:
    """A learned score; `routers` describes its targets.

    Attributes:
      name: for tables and axes: "logistic router".
      features: of an answer, which it reads.
      target: its prediction, "teacher_gain" or "student_wrong".
      model: the arrays.
      split: of the examples it was fitted on.
      fingerprint: of the same, `fingerprints.fingerprint`.
      seen: sorted hashes of their ids, `fingerprints.id_hashes`.
      num_examples: their number.
      library: that fitted it, "scikit-learn 1.9.1".
      settings: the router's own before it was fitted, as text.
      format: version of its file, which says how ids are hashed.
    """

    name: str
    features: router_features.Features
    target: str
    model: router_models.Model
    split: str
    fingerprint: str
    seen: UInt64[np.ndarray, " ids"]
    num_examples: int
    library: str = ""
    settings: str = ""
    format: int = FORMAT

    def __repr__(self) -> str:
        where = f"{self.num_examples} examples of {self.split!r}"
        return f"<{self.name} of {self.target}, fitted on {where}>"

    def __call__(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
        """Scores every example.

        Args:
          answers: of the small model that it was fitted on.

        Returns:
          float64; for "student_wrong" the predicted chance, or expected loss of quality, in [0, 1];
          for "teacher_gain" the expected gain of quality by deferring, in [-1, 1].

        Raises:
          ValueError: features that it was not fitted for, an answer without a token, a value that
            is NaN or infinite.
        """
        if isinstance(self.model, router_models.ThreeWay):
            raise ValueError(
                f"a {self.name} is no score by itself: bind it as @routers.PreRouted()"
            )
        return target_value(self.predict(answers), self.target)

    def predict(self, answers: AnswerTokens) -> Float[np.ndarray, "examples ..."]:
        """The log-odds of every example, or of a three-way model the chances [n, 3]; see above."""
        width = self.model.width
        self.features.check(answers, width)
        parts, n = [], answers.num_examples
        step = max(1, _BLOCK // width)
        for start in range(0, max(n, 1), step):
            part = answers.part(start, min(start + step, n))
            parts.append(self.model(self.features.matrix(part, width)))
        return np.concatenate(parts)

    def own_flops(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
        """FLOPs of what its features read beside the answer; see `scores.Score`.

        Raises:
          UnknownCost: the answers do not hold them.
        """
        return spent(answers, *getattr(self.features, "spends", ()))

    def check_not_fitted_on(
        self,
        fingerprint: str,
        split: str,
        example_ids: Sequence[str] | np.ndarray | None = None,
    ) -> None:
        """Refuses to be evaluated on examples that it was fitted on.

        Raises:
          ValueError: the same fingerprint, an example in both, or without ids the same split.
        """
        advice = "fit it on a calibration split that is not evaluated"
        fitted = f"the {self.name} was fitted on these examples"
        if fingerprint == self.fingerprint:
            raise ValueError(f"{fitted} themselves ({self.split!r}): {advice}")
        if example_ids is not None and len(self.seen):
            hashes = fingerprints.id_hashes(example_ids, self.format)
            both = int(np.sum(np.isin(hashes, self.seen)))
            if both:
                raise ValueError(
                    f"{fitted}: {both} of {len(hashes)} are among the {self.num_examples} of "
                    f"{self.split!r} that it has learned from, by their ids; {advice}, or give the "
                    "examples of each split ids of their own"
                )
        elif split == self.split:
            raise ValueError(
                f"{fitted}, or others of the split {split!r}; without their ids none can be told "
                f"from those it has learned from: {advice}"
            )

    def save(self, path: str | os.PathLike) -> None:
        """Writes one file, whole or not at all: arrays (NumPy's npz) and a JSON text."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(_Header)}
        values |= {"features": self.features.describe(), "model": self.model.kind}
        header = json_file.to_text(_Header(**values))
        arrays = {f"{_MODEL}{name}": value for name, value in self.model.arrays().items()}
        array_file.write(path, {_ABOUT: np.array(header), "seen": self.seen, **arrays})


def load(path: str | os.PathLike, features: router_features.Features | None = None) -> FittedRouter:
    """Reads what `FittedRouter.save` wrote; never runs code from the file.

    Args:
      path: the file.
      features: refused unless the router was fitted for just these; None = any.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a router's file, one of another format, arrays that do not fit its features,
        or other features than asked for.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{os.fspath(path)}: no such file of a router")
    arrays, source = array_file.read(path), os.fspath(path)
    if _ABOUT not in arrays:
        raise ValueError(f"{source} is not a file of a router: it has no array {_ABOUT!r}")
    header = array_file.checked(arrays, _ABOUT, "U", (), source)
    router = _built(json_text.parse(str(header), f"{source}: {_ABOUT}"), arrays, source)
    if features is not None and features != router.features:
        raise ValueError(
            f"{source}: the router was fitted for {router.features}, not for {features}"
        )
    return router


def _built(about: Any, arrays: dict[str, np.ndarray], source: str) -> FittedRouter:
    version = about.get("format") if isinstance(about, dict) else None
    if version not in (1, FORMAT):
        reads = f"this program reads 1 and {FORMAT}; fit it again"
        raise ValueError(f"{source}: a router's file of format {version!r}, {reads}")
    header = json_file.from_values(about, _Header, source)
    seen = array_file.checked(arrays, "seen", "u", (None,), source)
    if len(seen) not in (0, header.num_examples) or np.any(seen[1:] < seen[:-1]):
        hashes = f"{len(seen)} hashes of ids, sorted or not, of {header.num_examples} examples"
        raise ValueError(
            f"{source}: array 'seen' has {hashes}; must be sorted, one of each or none"
        )
    own = {name: value for name, value in arrays.items() if name.startswith(_MODEL)}
    try:
        features = router_features.build(header.features)
        kind = router_models.KINDS[header.model]
        model = kind.from_arrays({name.removeprefix(_MODEL): v for name, v in own.items()})
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    if misfit := features.misfit(model.width):
        raise ValueError(f"{source}: {misfit}")
    return FittedRouter(**vars(header) | {"features": features, "model": model, "seen": seen})


def targets(
    student_quality: Real[np.ndarray, " examples"],
    teacher_quality: Real[np.ndarray, " examples"],
    target: str,
) -> Float[np.ndarray, " examples"]:
    """Training targets in [0, 1]: ``1 - s``, or ``(1 + t - s) / 2``.

    Cross-entropy against it has its least value at its mean given the features, so the score orders
    examples by the expected loss of the small model's answer, or by the expected gain of deferring.

    Example: s = 0.25 and t = 1 give 0.75 for "student_wrong", 0.875 for "teacher_gain".
    """
    student = np.asarray(student_quality, np.float64)
    if target == STUDENT_WRONG:
        return 1.0 - student
    return (1.0 + np.asarray(teacher_quality, np.float64) - student) / 2


def target_value(
    log_odds: Float[np.ndarray, " examples"], target: str
) -> Float[np.ndarray, " examples"]:
    """The expected loss, or gain, from predicted log-odds of `targets`."""
    # The logistic function of x is (1 + tanh(x / 2)) / 2; this form overflows nowhere.
    gain = np.tanh(log_odds / 2)
    return gain if target == TEACHER_GAIN else (1.0 + gain) / 2
