"""Routers on hidden states of the small model: SAPLMA-like probes, linear or a network.

The layer, and how much the weights are held down, are those with the least cross-entropy on rows
that the fit did not see; what they are is then fitted again on all rows.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Real

from cascade_jax import checks
from cascade_jax.deferral.routers import arrays, fitting
from cascade_jax.deferral.routers.base import Router
from cascade_jax.deferral.routers.kinds import check_network
from cascade_jax.deferral.routers.state_features import StateFeatures, recorded, refuse_non_finite
from cascade_jax.deferral.scores.answer_tokens import AnswerTokens
from cascade_jax.deferral.scores.hidden_states import ANSWER

_States = Float[np.ndarray, "n layers D"]
_Labels = Real[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class _OfLayer:
    """A model of the states after one of the layers, by its place among them."""

    place: int
    model: arrays.Model

    def __call__(self, states: _States) -> Float[np.ndarray, "n ..."]:
        return self.model(states[:, self.place])


@dataclasses.dataclass(frozen=True)
class HiddenStateRouter(Router):
    """Base of routers on hidden states; build one of its kinds.

    Attributes:
      state: "answer", the mean over the places that predict the answer's tokens, or "input", that
        at the end of the input.
      held_out: share of the rows, in (0, 1), on which settings are chosen.
      seed: of the choice of those rows.
    """

    state: str = ANSWER
    held_out: float = 0.2
    seed: int = 0

    def _check(self) -> None:
        StateFeatures(self.state)
        is_share = checks.is_number(self.held_out) and 0 < self.held_out < 1
        checks.require(is_share, "held_out", self.held_out, "above 0 and below 1")
        checks.whole_number("seed", self.seed, 0)

    @property
    def name(self) -> str:
        """With the state that it reads: "answer state router"."""
        return f"{self.state} {self.label}"

    def _read(self, answers: AnswerTokens) -> tuple[tuple[StateFeatures, ...], _States]:
        layers, values = recorded(answers, self.state)
        refuse_non_finite(answers, values)
        model = answers.states.model
        features = tuple(StateFeatures(self.state, layer, model) for layer in layers)
        return features, values.astype(np.float64)

    def _chosen(
        self, features: tuple[StateFeatures, ...], model: _OfLayer
    ) -> tuple[StateFeatures, arrays.Model]:
        return features[model.place], model.model

    def _fit(self, states: _States, labels: _Labels) -> _OfLayer:
        is_held_out = held_out_rows(labels, self.held_out, self.seed)
        losses: dict[tuple[int, Any], float] = {}
        for place in range(states.shape[1]):
            rows = states[:, place]
            parts = rows[~is_held_out], labels[~is_held_out], rows[is_held_out], labels[is_held_out]
            losses |= {(place, key): loss for key, loss in self._held_out_losses(*parts).items()}
        place, setting = min(losses, key=losses.get)
        return _OfLayer(place, self._fit_one(states[:, place], labels, setting))

    def _held_out_losses(
        self, rows: np.ndarray, labels: _Labels, other_rows: np.ndarray, other_labels: _Labels
    ) -> Mapping[Any, float]:
        """Cross-entropy on the other rows of a fit by each setting."""
        raise NotImplementedError

    def _fit_one(self, rows: np.ndarray, labels: _Labels, setting: Any) -> arrays.Model:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class StateRouter(HiddenStateRouter):
    """Logistic regression on the state after one layer.

    Attributes:
      l2: of these the best on held-out rows; half of it times the weights' squares is added to the
        summed cross-entropy.

    Reference: Azaria and Mitchell 2023, SAPLMA, whose probe is `StateNetworkRouter`'s.
    """

    l2: Sequence[float] = (1.0, 10.0, 100.0, 1e3, 1e4)
    label: ClassVar[str] = "state router"

    def _check(self) -> None:
        super()._check()
        checked_l2(self)

    def _held_out_losses(self, rows, labels, other_rows, other_labels) -> Mapping[float, float]:
        def loss(l2: float) -> float:
            return cross_entropy(fitting.logistic(rows, labels, l2)(other_rows), other_labels)

        return {l2: loss(l2) for l2 in self.l2}

    def _fit_one(self, rows, labels, setting: float) -> arrays.Linear:
        return fitting.logistic(rows, labels, setting)


@dataclasses.dataclass(frozen=True)
class StateNetworkRouter(HiddenStateRouter):
    """SAPLMA: a multi-layer perceptron on the state after one layer, stopped early.

    It trains until the cross-entropy on held-out rows has not fallen for `patience` epochs, and
    then anew on all rows for as many epochs as were best.

    Attributes:
      hidden: width of each hidden layer, the paper's.
      l2: half of it times the weights' squares is added to a batch's mean cross-entropy.
      max_epochs: passes over the examples, at most. The paper takes 5.
      patience: see above.

    Reference: Azaria and Mitchell 2023, The Internal State of an LLM Knows When It's Lying.
    """

    hidden: Sequence[int] = (256, 128, 64)
    l2: float = 1e-2
    max_epochs: int = 200
    patience: int = 10
    label: ClassVar[str] = "state network router"

    def _check(self) -> None:
        super()._check()
        check_network(self)
        checks.whole_number("patience", self.patience, 1)

    def _held_out_losses(self, rows, labels, other_rows, other_labels) -> Mapping[int, float]:
        losses: list[float] = []

        def goes_on(model: Callable[[np.ndarray], np.ndarray]) -> bool:
            losses.append(cross_entropy(model(other_rows), other_labels))
            return len(losses) - 1 - int(np.argmin(losses)) < self.patience

        settings = self.hidden, self.l2, self.max_epochs, self.seed
        fitting.network_by_epochs(rows, labels, *settings, goes_on)
        best = int(np.argmin(losses))
        return {best + 1: losses[best]}

    def _fit_one(self, rows, labels, setting: int) -> arrays.Network:
        settings = self.hidden, self.l2, setting, self.seed
        return fitting.network_by_epochs(rows, labels, *settings)


def checked_l2(router: HiddenStateRouter) -> None:
    """Makes the penalties `l2` of a router a tuple; raises ValueError unless they are above 0."""
    is_list = isinstance(router.l2, Sequence) and not isinstance(router.l2, str) and len(router.l2)
    checks.require(bool(is_list), "l2", router.l2, "a list of numbers above 0")
    for value in router.l2:
        checks.positive("a value of l2", value)
    object.__setattr__(router, "l2", tuple(router.l2))


def held_out_rows(labels: _Labels, share: float, seed: int) -> Bool[np.ndarray, " n"]:
    """A random share of the rows, evenly among those of each label.

    Raises:
      ValueError: no row is among them, or the others have one label alone.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    edges = np.floor(np.arange(len(labels) + 1) * share + 0.5)
    is_held_out = np.zeros(len(labels), bool)
    is_held_out[order] = np.diff(edges) > 0
    if not is_held_out.any() or np.ptp(labels[~is_held_out]) == 0:
        raise ValueError(
            f"{len(labels)} examples are too few to hold out a share of {share} of them: the rest "
            "must be of more than one quality, and one must be held out"
        )
    return is_held_out


def cross_entropy(log_odds: Float[np.ndarray, " n"], labels: _Labels) -> float:
    """Mean in nats of ``log(1 + exp(x)) - y * x``, labels y in [0, 1]."""
    return float(np.mean(np.logaddexp(0.0, log_odds) - labels * log_odds))
