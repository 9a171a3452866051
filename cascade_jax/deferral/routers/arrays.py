"""Fitted models as arrays: NumPy predicts, files hold them, and no pickle is needed.

scikit-learn fits; its objects could only be stored by pickle, which runs whatever a file says. The
arrays of a linear model, a network or trees are few, and predicting with them is short. Predictions
are the log-odds that scikit-learn's own have, which is checked when a router is fitted.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

_BLOCK = 1 << 13  # rows whose way through the trees stays in a processor's cache
Arrays = Mapping[str, np.ndarray]


class _Model:
    """Base of models whose fields are arrays and numbers, one array of a file each."""

    @property
    def width(self) -> int:
        """Features it reads."""
        return len(self.mean)

    def arrays(self) -> dict[str, np.ndarray]:
        """Arrays for a file."""
        return {key: np.asarray(value) for key, value in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "Model":
        """The model from the arrays of a file."""
        values = {field.name: arrays[field.name] for field in dataclasses.fields(cls)}
        return cls(**{k: v if np.ndim(v) else v.item() for k, v in values.items()})


@dataclasses.dataclass(frozen=True, eq=False)
class Linear(_Model):
    """``log-odds = ((f - mean) / scale) . weights + bias``."""

    mean: Float[np.ndarray, " F"]
    scale: Float[np.ndarray, " F"]
    weights: Float[np.ndarray, " F"]
    bias: float
    kind: ClassVar[str] = "linear"

    def __call__(self, features: Float[np.ndarray, "n F"]) -> Float[np.ndarray, " n"]:
        """Log-odds of each row."""
        return (features - self.mean) / self.scale @ self.weights + self.bias


@dataclasses.dataclass(frozen=True, eq=False)
class Network(_Model):
    """A multi-layer perceptron with ReLU between its layers, on ``(f - mean) / scale``."""

    mean: Float[np.ndarray, " F"]
    scale: Float[np.ndarray, " F"]
    weights: tuple[Float[np.ndarray, "_ _"], ...]
    biases: tuple[Float[np.ndarray, " _"], ...]
    kind: ClassVar[str] = "network"

    def __call__(self, features: Float[np.ndarray, "n F"]) -> Float[np.ndarray, " n"]:
        """Log-odds of each row."""
        values = (features - self.mean) / self.scale
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = (np.maximum(values, 0.0) if layer else values) @ weight + bias
        return values[:, 0].astype(np.float64)

    def arrays(self) -> dict[str, np.ndarray]:
        """Arrays for a file."""
        layers = {f"weight_{i}": weight for i, weight in enumerate(self.weights)}
        layers |= {f"bias_{i}": bias for i, bias in enumerate(self.biases)}
        return {"mean": self.mean, "scale": self.scale, **layers}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "Model":
        """The model from the arrays of a file."""
        layers = range(sum(name.startswith("weight_") for name in arrays))
        weights, biases = ([arrays[f"{name}_{i}"] for i in layers] for name in ("weight", "bias"))
        return cls(arrays["mean"], arrays["scale"], tuple(weights), tuple(biases))


@dataclasses.dataclass(frozen=True, eq=False)
class Trees(_Model):
    """Boosted trees: the sum of one leaf's value of each tree, and a baseline.

    Nodes of all trees lie in one array. A node sends a row to `left` if its feature is at most the
    threshold, else to `right`; a leaf is its own child on both sides.

    Attributes:
      roots: first node of each tree.
      num_features: how many a row has.
      depth: steps from a root to the deepest leaf.
    """

    roots: Int[np.ndarray, " trees"]
    feature: Int[np.ndarray, " nodes"]
    threshold: Float[np.ndarray, " nodes"]
    left: Int[np.ndarray, " nodes"]
    right: Int[np.ndarray, " nodes"]
    value: Float[np.ndarray, " nodes"]
    baseline: float
    num_features: int
    depth: int
    kind: ClassVar[str] = "trees"

    @property
    def width(self) -> int:
        """Features it reads."""
        return self.num_features

    def __call__(self, features: Float[np.ndarray, "n F"]) -> Float[np.ndarray, " n"]:
        """Log-odds of each row."""
        result = np.full(len(features), self.baseline)
        for start in range(0, len(features), _BLOCK):
            block = np.ascontiguousarray(features[start : start + _BLOCK])
            first = np.arange(len(block)) * block.shape[1]  # of each row, where all lie end to end
            for root in self.roots:
                node = np.full(len(block), root)
                for _ in range(self.depth):
                    at = first + self.feature[node]
                    goes_left = block.ravel()[at] <= self.threshold[node]
                    node = np.where(goes_left, self.left[node], self.right[node])
                result[start : start + _BLOCK] += self.value[node]
        return result


Model = Linear | Network | Trees
KINDS: dict[str, Any] = {model.kind: model for model in (Linear, Network, Trees)}
