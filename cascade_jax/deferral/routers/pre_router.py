"""Pre-routers: from an input's state, whether the small model, a score or the large one decides.

The state is there before the small model has written a token. What is sent to the large model at
once costs the small model's reading of the input up to that state, and no answer of it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from cascade_jax import checks
from cascade_jax.deferral.routers import arrays, fitting
from cascade_jax.deferral.routers.arrays import AT_ONCE, BY_SCORE, SMALL
from cascade_jax.deferral.routers.fitted import FittedRouter, load
from cascade_jax.deferral.routers.states import HiddenStateRouter, checked_l2
from cascade_jax.deferral.scores import Average
from cascade_jax.deferral.scores.answer_tokens import AnswerTokens
from cascade_jax.deferral.scores.base import DeferralScore, UnknownCost, name_of, own_flops
from cascade_jax.deferral.scores.hidden_states import INPUT

_BEYOND = 2.0**100  # further from 0 than any score that has a use
_Chances = Float[np.ndarray, "n 3"]
_Classes = Int[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class PreRouter(HiddenStateRouter):
    """Three-way logistic regression on the state at the end of the input.

    The classes of the examples that it learns from, by a score that is high for a share `unsure` of
    them:

    | class | examples | what becomes of such an input |
    |---|---|---|
    | easy | score high, and yet nothing to gain by deferring | the small model answers |
    | normal | score low | the score decides |
    | hard | score high, and deferring gains | the large model answers at once |

    The score would defer the easy for nothing, and the hard after an answer for nothing. With the
    target "student_wrong" nothing is gained by deferring what the small model has right, a quality
    of at least 0.5; with "teacher_gain" where the large model is no better. An input is easy or
    hard if the chance of that is above `least_chance`, else normal. The layer and `l2` are chosen
    as by `StateRouter`.

    Attributes:
      score: what decides of the normal.
      unsure: share of the examples, in (0, 1).
      least_chance: in [0.5, 1).
      l2: see `StateRouter`.

    Reference: DiffAdapt, whose three classes set how a model reasons; accuracy and entropy of its
    answers make them. Which share counts as high, and the reading as a cascade, are ours.
    """

    state: str = INPUT
    score: DeferralScore = Average()
    unsure: float = 0.5
    least_chance: float = 0.5
    l2: Sequence[float] = (1.0, 10.0, 100.0, 1e3, 1e4)

    @property
    def name(self) -> str:
        """Of a fitted one too."""
        return "pre-router"

    def _check(self) -> None:
        super()._check()
        checks.require(self.state == INPUT, "state", self.state, f"{INPUT!r}: no other is there")
        checked_l2(self)
        is_share = checks.is_number(self.unsure) and 0 < self.unsure < 1
        checks.require(is_share, "unsure", self.unsure, "above 0 and below 1")
        is_chance = checks.is_number(self.least_chance) and 0.5 <= self.least_chance < 1
        checks.require(is_chance, "least_chance", self.least_chance, "at least 0.5 and below 1")

    def _targets(self, answers: AnswerTokens, student_quality, teacher_quality) -> _Classes:
        lost = super()._targets(answers, student_quality, teacher_quality)
        values = np.asarray(self.score(answers), np.float64)
        is_high = values > np.quantile(values, 1 - self.unsure)
        # In [0, 1]: of "student_wrong" 1 - s, of "teacher_gain" (1 + t - s) / 2.
        gains = lost > 0.5
        return np.where(is_high, np.where(gains, AT_ONCE, SMALL), BY_SCORE)

    def _learn(self, states, labels: _Classes) -> Any:
        counts = np.bincount(labels, minlength=3).tolist()
        if np.count_nonzero(counts) < 2:
            named = dict(zip(("easy", "normal", "hard"), counts, strict=True))
            raise ValueError(
                f"a pre-router has nothing to learn from examples of one class: {named}"
            )
        return self._fit(states, labels)

    def _held_out_losses(self, rows, labels, other_rows, other_labels) -> Mapping[float, float]:
        def loss(l2: float) -> float:
            chances = self._fit_one(rows, labels, l2)(other_rows)
            return -float(np.mean(np.log(chances[np.arange(len(chances)), other_labels])))

        return {l2: loss(l2) for l2 in self.l2}

    def _fit_one(self, rows, labels, setting: float) -> arrays.ThreeWay:
        return fitting.three_way(rows, labels, setting, self.least_chance)

    def _values(
        self, predicted: _Chances, answers: AnswerTokens, rows: Bool[np.ndarray, " examples"]
    ) -> Float[np.ndarray, " n"]:
        inner = self.score(answers.take(np.flatnonzero(rows)))
        return joined(predicted, inner, self.least_chance)


@dataclasses.dataclass(frozen=True)
class PreRouted:
    """A pre-router from a file and a score, as one score for a config.

    What is easy comes below all values of the score and what is hard above, ordered by their
    chances. So a threshold of the score decides of the normal inputs alone; one beyond the score's
    values decides how sure of an easy or a hard input the pre-router must be.

    Example, in gin: ``SCORE = @routers.PreRouted()`` and ``routers.PreRouted.path = 'runs/p.npz'``.

    Attributes:
      path: what `cascade-jax fit-router` wrote of a `PreRouter`; read at once.
      score: what decides of the normal inputs.
      router: from the file.
    """

    path: str
    score: DeferralScore = Average()
    router: FittedRouter = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self):
        router = load(self.path)
        if not isinstance(router.model, arrays.ThreeWay):
            raise ValueError(f"{self.path} holds a {router.name}: bind it as @routers.Saved()")
        object.__setattr__(self, "router", router)

    @property
    def name(self) -> str:
        """With the score's: "pre-router, average"."""
        return f"{self.router.name}, {name_of(self.score)}"

    def __call__(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
        """Scores every example.

        Raises:
          ValueError: see `FittedRouter`; a value of the score that is NaN or beyond 2^100.
        """
        model = self.router.model
        return joined(self.router.predict(answers), self.score(answers), model.least_chance)

    def routes(self, answers: AnswerTokens) -> Int[np.ndarray, " examples"]:
        """Of each example SMALL, BY_SCORE or AT_ONCE; see `arrays.ThreeWay`."""
        return self.router.model.routes(self.router.predict(answers))

    def own_flops(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
        """What the score spends on normal inputs; the state is the beginning of an answer.

        Raises:
          UnknownCost: what the score spends is not known.
        """
        return np.where(self.routes(answers) == BY_SCORE, own_flops(self.score, answers), 0.0)

    def early_flops(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
        """FLOPs of the small model on inputs that go to the large one at once; NaN for others.

        Raises:
          UnknownCost: the answers do not say.
        """
        routes, states = self.routes(answers), answers.states
        if states.input_flops is None:
            raise UnknownCost(
                "there is no column student_input_state_flops; `cascade-jax collect` with PROBES = "
                "[@probes.States()] adds it"
            )
        layers = (None,) if states.layers is None else states.layers
        spent = states.input_flops[:, layers.index(self.router.features.layer)]
        return np.where(routes == AT_ONCE, spent, np.nan)


def joined(
    chances: _Chances, score: Float[np.ndarray, " n"], least_chance: float
) -> Float[np.ndarray, " n"]:
    """A score's values of normal inputs, and values below or above all of them for the others.

    Example: chances [[0.9 0.1 0] [0.2 0.7 0.1] [0 0.2 0.8]], scores [5 3 1] and 0.5 give
    [-1.9 * 2^100, 3, 1.8 * 2^100].
    """
    score = np.asarray(score, np.float64)
    bad = np.flatnonzero(~(np.abs(score) < _BEYOND))
    if len(bad):
        raise ValueError(f"a pre-router can't join the score {score[bad[0]]} of row {bad[0]}")
    easy, hard = chances[:, SMALL], chances[:, AT_ONCE]
    score = np.where(easy > least_chance, -_BEYOND * (1 + easy), score)
    return np.where(hard > least_chance, _BEYOND * (1 + hard), score)
