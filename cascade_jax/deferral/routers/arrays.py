"""Fitted models as arrays: NumPy predicts, files hold them, and no pickle is needed.

scikit-learn fits; its objects could only be stored by pickle, which runs whatever a file says. The
arrays of a linear model, a network or trees are few, and predicting with them is short. Predictions
are the log-odds that scikit-learn's own have, which is checked when a router is fitted; those of a
three-way model are chances.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from cascade_jax import array_file

_BLOCK = 1 << 13  # rows whose way through the trees stays in a processor's cache
SMALL, BY_SCORE, AT_ONCE = range(3)  # classes of `ThreeWay`
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
        """The model from the arrays of a file.

        Raises:
          ValueError: arrays that are missing, of another dtype or shape, or that hold numbers which
            no fitted model has.
        """
        values = {name: _taken(arrays, name, kinds) for name, kinds in cls.layout.items()}
        cls.check(**values)
        return cls(**values)


@dataclasses.dataclass(frozen=True, eq=False)
class Linear(_Model):
    """``log-odds = ((f - mean) / scale) . weights + bias``."""

    mean: Float[np.ndarray, " F"]
    scale: Float[np.ndarray, " F"]
    weights: Float[np.ndarray, " F"]
    bias: float
    kind: ClassVar[str] = "linear"
    layout: ClassVar[dict[str, str]] = {"mean": "f1", "scale": "f1", "weights": "f1", "bias": "f0"}

    @staticmethod
    def check(mean: np.ndarray, scale: np.ndarray, weights: np.ndarray, bias: float) -> None:
        """Refuses arrays that do not fit together."""
        _check_scaling(mean, scale)
        _check_shape("weights", weights, mean.shape)
        _check_finite(weights=weights, bias=bias)

    def __call__(self, features: Float[np.ndarray, "n F"]) -> Float[np.ndarray, " n"]:
        """Log-odds of each row."""
        return (features - self.mean) / self.scale @ self.weights + self.bias


@dataclasses.dataclass(frozen=True, eq=False)
class ThreeWay(_Model):
    """Chances of the classes SMALL, BY_SCORE and AT_ONCE, of a pre-router.

    ``softmax(((f - mean) / scale) . weights + bias)``. What has a chance above `least_chance` to be
    SMALL (the small model answers) or AT_ONCE (the large one does, and the small one does not) is
    that, the rest BY_SCORE.
    """

    mean: Float[np.ndarray, " F"]
    scale: Float[np.ndarray, " F"]
    weights: Float[np.ndarray, "F 3"]
    bias: Float[np.ndarray, " 3"]
    least_chance: float
    kind: ClassVar[str] = "three-way"
    layout: ClassVar[dict[str, str]] = {
        "mean": "f1", "scale": "f1", "weights": "f2", "bias": "f1", "least_chance": "f0",
    }  # fmt: skip

    @staticmethod
    def check(**arrays: Any) -> None:
        """Refuses arrays that do not fit together."""
        _check_scaling(arrays["mean"], arrays["scale"])
        _check_shape("weights", arrays["weights"], (len(arrays["mean"]), 3))
        _check_shape("bias", arrays["bias"], (3,))
        _check_finite(weights=arrays["weights"], bias=arrays["bias"])
        if not 0.5 <= arrays["least_chance"] < 1:
            raise ValueError(f"least_chance is {arrays['least_chance']}; must be in [0.5, 1)")

    def __call__(self, features: Float[np.ndarray, "n F"]) -> Float[np.ndarray, "n 3"]:
        """Chances of each row."""
        values = (features - self.mean) / self.scale @ self.weights + self.bias
        values = np.exp(values - np.max(values, axis=1, keepdims=True))
        return values / np.sum(values, axis=1, keepdims=True)

    def routes(self, chances: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, " n"]:
        """The class that each row counts as."""
        is_one = chances[:, [SMALL, AT_ONCE]] > self.least_chance
        return np.select(list(is_one.T), [SMALL, AT_ONCE], BY_SCORE)


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
        """The model from the arrays of a file; raises ValueError as that of other models."""
        layers = range(max(1, sum(name.startswith("weight_") for name in arrays)))
        weights = tuple(_taken(arrays, f"weight_{i}", "f2") for i in layers)
        biases = tuple(_taken(arrays, f"bias_{i}", "f1") for i in layers)
        mean, scale = (_taken(arrays, name, "f1") for name in ("mean", "scale"))
        _check_scaling(mean, scale)
        width = len(mean)
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            width_after = 1 if i == len(weights) - 1 else weight.shape[1]
            _check_shape(f"weight_{i}", weight, (width, width_after))
            _check_shape(f"bias_{i}", bias, (width_after,))
            _check_finite(**{f"weight_{i}": weight, f"bias_{i}": bias})
            width = width_after
        return cls(mean, scale, weights, biases)


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
    layout: ClassVar[dict[str, str]] = {
        "roots": "i1", "feature": "i1", "threshold": "f1", "left": "i1", "right": "i1",
        "value": "f1", "baseline": "f0", "num_features": "i0", "depth": "i0",
    }  # fmt: skip

    @staticmethod
    def check(**arrays: Any) -> None:
        """Refuses arrays that do not fit together, and nodes or features that are not there."""
        nodes, features = len(arrays["value"]), arrays["num_features"]
        for name in ("feature", "threshold", "left", "right"):
            _check_shape(name, arrays[name], (nodes,))
        ends = {"roots": nodes, "left": nodes, "right": nodes, "feature": features}
        for name, end in ends.items():
            if np.any((arrays[name] < 0) | (arrays[name] >= end)):
                raise ValueError(f"array {name!r} holds indices outside of 0 to {end - 1}")
        if not 0 <= arrays["depth"] <= nodes or features < 1:
            counts = f"depth {arrays['depth']} and num_features {features}"
            raise ValueError(f"trees of {nodes} nodes can not have {counts}")
        _check_finite(value=arrays["value"], baseline=arrays["baseline"])
        if np.any(np.isnan(arrays["threshold"])):
            raise ValueError("array 'threshold' holds NaN")

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


def _taken(arrays: Arrays, name: str, kind: str) -> Any:
    """An array, or the number of one without axes; `kind` is "f1" for floats with one axis."""
    array = array_file.checked(
        arrays, name, {"f": "f", "i": "iu"}[kind[0]], (None,) * int(kind[1]), "its model"
    )
    return array if array.ndim else array.item()


def _check_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        sizes = f"{list(array.shape)}, must be {list(shape)}, to fit the arrays before it"
        raise ValueError(f"array {name!r} has the shape {sizes}")


def _check_finite(**arrays: Any) -> None:
    for name, array in arrays.items():
        if not np.all(np.isfinite(array)):
            raise ValueError(f"array {name!r} holds numbers that are not finite")


def _check_scaling(mean: np.ndarray, scale: np.ndarray) -> None:
    _check_shape("scale", scale, mean.shape)
    _check_finite(mean=mean, scale=scale)
    if np.any(scale <= 0):
        raise ValueError("array 'scale' holds a deviation that is not above 0")


Model = Linear | ThreeWay | Network | Trees
KINDS: dict[str, Any] = {model.kind: model for model in (Linear, ThreeWay, Network, Trees)}
