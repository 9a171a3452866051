"""Per-example losses, the input of calibration."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Real

from cascade_jax import names
from cascade_jax.deferral.guarantees import bounds
from cascade_jax.deferral.policy import Thresholds, as_thresholds


@dataclasses.dataclass(frozen=True, eq=False)
class CalibrationLosses:
    """Per-example loss of each configuration, [C, n], on the examples of one split.

    Attributes:
      split: its name.
      thresholds: of each configuration, all different: a number, or one for each block of
        positions; kept as tuples. Infinite ones are allowed.
      losses: of each risk, by its name, [C, n].
      objective: the choice among accepted configurations minimises its mean, [C, n]: one minus the
        answer's quality, say.
      example_ids: n, all different.
    """

    split: str
    thresholds: Iterable[float | Iterable[float]]
    losses: Mapping[str, Real[np.ndarray, "C n"]]
    objective: Real[np.ndarray, "C n"]
    example_ids: Sequence[str]

    def __post_init__(self):
        thresholds = tuple(as_thresholds(value) for value in self.thresholds)
        object.__setattr__(self, "thresholds", thresholds)
        object.__setattr__(self, "example_ids", tuple(map(str, self.example_ids)))
        if len({len(value) for value in thresholds}) > 1:
            raise ValueError("configurations must have the same number of thresholds")
        seen: dict[Thresholds, int] = {}
        for row, value in enumerate(thresholds):
            if seen.setdefault(value, row) != row:
                raise ValueError(
                    f"configurations {seen[value]} and {row} of {self.split!r} both have the "
                    f"thresholds {list(value)}"
                )
        shape = (len(thresholds), len(self.example_ids))
        for name, values in {**self.losses, "objective": self.objective}.items():
            if np.shape(values) != shape:
                sizes = f"{np.shape(values)}, must be {shape}: configurations, examples"
                raise ValueError(f"{name!r} of {self.split!r} has the shape {sizes}")
        if not np.all(np.isfinite(self.objective)):
            row, column = np.argwhere(~np.isfinite(self.objective))[0]
            value = self.objective[row, column]
            raise ValueError(f"objective of configuration {row} for example {column} is {value}")

    @property
    def num_configurations(self) -> int:
        """Number of configurations, C."""
        return len(self.thresholds)

    @property
    def num_examples(self) -> int:
        """Number of examples, n."""
        return len(self.example_ids)

    def row_of(self, thresholds: Thresholds) -> int | None:
        """Index of the configuration with these thresholds; None if there is none."""
        return self.thresholds.index(thresholds) if thresholds in self.thresholds else None

    def losses_of(self, risk: str, lower: float, upper: float) -> Real[np.ndarray, "C n"]:
        """The losses of a risk, checked to be in its range.

        Raises:
          ValueError: no such risk was measured, or a loss is NaN or outside (the first is named).
        """
        if risk not in self.losses:
            hint = names.did_you_mean(risk, self.losses)
            known = ", ".join(map(repr, self.losses))
            raise ValueError(f"{self.split!r} has no losses of {risk!r}, only of {known}{hint}")
        losses = np.asarray(self.losses[risk])
        bounds.check_losses(losses, lower, upper, f"the loss {risk!r} in {self.split!r}")
        return losses

    def mean_objective(self) -> Float[np.ndarray, " C"]:
        """Mean objective of each configuration."""
        return np.mean(self.objective, axis=1, dtype=np.float64)

    def joined(self, other: "CalibrationLosses") -> "CalibrationLosses":
        """The examples of both splits together, this split's first.

        Raises:
          ValueError: other thresholds or risks than these.
        """
        rows = [other.row_of(value) for value in self.thresholds]
        one, two = repr(self.split), repr(other.split)
        if None in rows or other.num_configurations != self.num_configurations:
            raise ValueError(f"{one} and {two} were measured at different thresholds")
        if set(self.losses) != set(other.losses):
            risks = sorted(self.losses), sorted(other.losses)
            raise ValueError(f"{one} has losses of {risks[0]}, {two} of {risks[1]}")

        def both(own: np.ndarray, others: np.ndarray) -> np.ndarray:
            return np.concatenate([own, others[rows]], axis=1)

        return CalibrationLosses(
            split=f"{self.split} + {other.split}",
            thresholds=self.thresholds,
            losses={name: both(own, other.losses[name]) for name, own in self.losses.items()},
            objective=both(self.objective, other.objective),
            example_ids=(*self.example_ids, *other.example_ids),
        )
