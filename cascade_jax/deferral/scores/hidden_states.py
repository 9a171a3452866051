"""Hidden states of a model, as learned scores read them."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

ANSWER, INPUT = "answer", "input"
STATES = (ANSWER, INPUT)


@dataclasses.dataclass(frozen=True, eq=False)
class HiddenStates:
    """Hidden states of n examples after some layers of a model, as `probes.States` measures them.

    Attributes:
      answer: the mean over the places that predict the answer's tokens; None when not kept.
      input: at the end of the input, where the first token is predicted; None when not kept.
      layers: counted from 0, rising; None if it is not known which, and there is one.
      input_flops: what the model spends to have each state at the end of the input, the beginning
        of its answer; None when not known.
      model: when the model that has these states was saved, or another text that tells it from
        others; "" if it is not known.
    """

    answer: Float[np.ndarray, "n layers D"] | None = None
    input: Float[np.ndarray, "n layers D"] | None = None
    layers: Sequence[int] | None = None
    input_flops: Float[np.ndarray, "n layers"] | None = None
    model: str = ""

    def __post_init__(self):
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(map(int, self.layers)))
        count = 1 if self.layers is None else len(self.layers)
        for name in STATES:
            values = getattr(self, name)
            if values is not None and (values.ndim != 3 or values.shape[1] != count):
                shape = list(values.shape)
                raise ValueError(f"{name} states have the shape {shape}; must be [n, {count}, D]")
        if self.input_flops is not None and self.input_flops.shape[1] != count:
            shape = list(self.input_flops.shape)
            raise ValueError(f"input_flops have the shape {shape}; must be [n, {count}]")

    def take(self, rows: Int[np.ndarray, " rows"] | slice) -> "HiddenStates":
        """Those of some examples."""
        parts = {name: getattr(self, name) for name in (*STATES, "input_flops")}
        taken = {name: None if part is None else part[rows] for name, part in parts.items()}
        return dataclasses.replace(self, **taken)
