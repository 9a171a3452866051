"""A claim as data: which figures of which runs are compared, and what would confirm it."""

import dataclasses

from cascade_jax import checks
from cascade_jax.names import check_choice

GREATER, LESS, CLOSE = "greater", "less", "close"
# Examples that a figure is of.
POOL, TASKS, EASY, HARD = "pool", "tasks", "easy tasks", "hard tasks"
CLASSES, WRITTEN = "class answers", "written answers"
PLACES = {
    POOL: "all examples as one set",
    TASKS: "each task by itself, then the mean over tasks",
    EASY: "the same over the half of the tasks on which the large model is better",
    HARD: "the same over the other half",
    CLASSES: "the tasks whose metric is accuracy, as one set",
    WRITTEN: "the tasks with another metric, as one set",
}
# Of losses such as gatekeeper_0.3, the one with the lowest and with the highest weight.
LOWEST, HIGHEST, ANY = "gatekeeper, lowest a", "gatekeeper, highest a", "any"


@dataclasses.dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    Attributes:
      loss: of the run: the name of its file in gin/losses; `LOWEST` or `HIGHEST` of the
        Gatekeeper's; or `ANY`, the mean over all runs that have what the figure needs.
      score: the deferral score, by its name: "average", "quantile 0.4"; or a stored score's.
    """

    loss: str
    score: str = "average"

    def __str__(self) -> str:
        return self.loss if self.score == "average" else f"{self.loss} by {self.score}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A figure of one arm minus that of another, on the same seed.

    Attributes:
      figure: a name of `figures.FIGURES`.
      second, first: the arms; the effect is of the second minus the first. No first: the effect is
        the figure itself.
      on: one of `PLACES`.
      minus_on: another, whose effect is subtracted; "" for none.
      expected: whether the effect is claimed to be GREATER than 0, LESS, or CLOSE to it.
      smallest: the smallest effect of interest, 0 or more: with GREATER and LESS a smaller one does
        not confirm the claim; with CLOSE a larger one contradicts it.
    """

    figure: str
    second: Arm
    first: Arm | None = None
    on: str = POOL
    minus_on: str = ""
    expected: str = GREATER
    smallest: float = 0.0

    def __post_init__(self):
        check_choice("expected", self.expected, (GREATER, LESS, CLOSE))
        for place in filter(None, (self.on, self.minus_on)):
            check_choice("on", place, PLACES)
        least = 0 if self.expected != CLOSE else 1e-9
        is_right = least <= self.smallest < 1
        checks.require(
            is_right, "smallest", self.smallest, "an effect in [0, 1), with close above 0"
        )

    @property
    def place(self) -> str:
        """The examples that it is about."""
        return f"{self.on} − {self.minus_on}" if self.minus_on else self.on


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a paper claims, as comparisons that must all come out as expected.

    Attributes:
      id: a short name.
      sentence: the claim in one sentence.
      source: paper and figure.
      comparisons: one or more.
    """

    id: str
    sentence: str
    source: str
    comparisons: tuple[Comparison, ...]

    def __post_init__(self):
        checks.require(bool(self.comparisons), "comparisons", self.comparisons, "one or more")
