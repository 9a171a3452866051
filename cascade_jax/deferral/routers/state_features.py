"""Features of an answer that are its hidden state after one layer of the model."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from cascade_jax import checks
from cascade_jax.deferral.scores.answer_tokens import AnswerTokens
from cascade_jax.deferral.scores.hidden_states import ANSWER, STATES
from cascade_jax.names import check_choice


@dataclasses.dataclass(frozen=True)
class StateFeatures:
    """The hidden state after one layer: the mean over the answer, or at the end of the input.

    Attributes:
      state: "answer" or "input".
      layer: counted from 0; None if the records do not say which, and there is one.
      model: `HiddenStates.model` of the model whose states they are; "" if it is not known.

    Reference: Azaria and Mitchell 2023, The Internal State of an LLM Knows When It's Lying.
    """

    state: str = ANSWER
    layer: int | None = None
    model: str = ""
    spends: ClassVar[tuple[str, ...]] = ("probe_flops",)  # as of `scores.Score`

    def __post_init__(self):
        check_choice("state", self.state, STATES)
        checks.whole_number("layer", self.layer, 0, optional=True)

    def width(self, answers: AnswerTokens) -> int:
        """Numbers per answer.

        Raises:
          ValueError: the answers have no such states.
        """
        return recorded(answers, self.state)[1].shape[2]

    def misfit(self, width: int) -> str:
        """As in other features: "", since a model of any width may fit."""
        return ""

    def check(self, answers: AnswerTokens, width: int) -> None:
        """Refuses answers that a model of this width can not read.

        Raises:
          ValueError: no states, those of other layers or another model, a value that is NaN or
            infinite.
        """
        layers, values = recorded(answers, self.state)
        if self.layer not in layers:
            raise ValueError(
                f"the router was fitted on {_after([self.layer])}, the records have "
                f"{_after(layers)}; `cascade-jax collect` with PROBES = [@probes.States()] and "
                f"probes.States.layers = {[self.layer] if self.layer is not None else None} adds it"
            )
        model = answers.states.model
        if model and self.model and model != self.model:
            raise ValueError(
                f"the router was fitted on states of the model of {self.model!r}, those of the "
                f"records are of the model of {model!r}; fit one on that model's records"
            )
        if values.shape[2] != width:
            raise ValueError(
                f"a router fitted on states of {width} values can not read states of "
                f"{values.shape[2]}: they are of another small model"
            )
        refuse_non_finite(answers, values[:, layers.index(self.layer)])

    def matrix(self, answers: AnswerTokens, width: int) -> Float[np.ndarray, "examples F"]:
        """One row per answer, of answers that `check` let pass."""
        layers, values = recorded(answers, self.state)
        return values[:, layers.index(self.layer)].astype(np.float64)

    def describe(self) -> dict[str, Any]:
        """JSON values, for `features.build`."""
        return {"kind": "states", **dataclasses.asdict(self)}


def recorded(
    answers: AnswerTokens, state: str
) -> tuple[tuple[int | None, ...], Float[np.ndarray, "examples layers D"]]:
    """The layers of the states of answers, and the states.

    Raises:
      ValueError: there are none.
    """
    states = answers.states
    values = states and getattr(states, state)
    if values is None:
        raise ValueError(
            f"the router needs the column student_{state}_state, which is not there; "
            "`cascade-jax collect` with PROBES = [@probes.States()] adds it"
        )
    return (None,) if states.layers is None else states.layers, values


def refuse_non_finite(answers: AnswerTokens, values: Float[np.ndarray, "examples ..."]) -> None:
    """Raises ValueError naming the first example whose state has a NaN or an infinite value."""
    bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if len(bad):
        example = answers.describe(int(bad[0]))
        raise ValueError(f"{example} has a state that is not finite ({len(bad)} such)")


def _after(layers: Sequence[int | None]) -> str:
    if layers[0] is None:
        return "a state of a layer that is not known"
    return f"the state after layer {', '.join(map(str, layers))}"
