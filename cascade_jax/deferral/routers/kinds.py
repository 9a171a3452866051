"""Routers that can be fitted: logistic regression, networks, boosted trees, EdgeInference."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Real

from cascade_jax import checks
from cascade_jax.deferral.routers import arrays, fingerprints, fitting
from cascade_jax.deferral.routers import features as router_features
from cascade_jax.deferral.routers.base import Router
from cascade_jax.deferral.routers.features import ProbabilityFeatures, QuantileFeatures
from cascade_jax.deferral.routers.fitted import FittedRouter, load
from cascade_jax.deferral.routers.rank_features import RankFeatures
from cascade_jax.deferral.scores.answer_tokens import AnswerTokens
from cascade_jax.deferral.scores.base import DeferralScore

_Quality = Real[np.ndarray, " examples"]


@dataclasses.dataclass(frozen=True)
class QuantileRouter(Router):
    """Base of routers on the quantiles of an answer's log-probs; build one of the next three.

    Attributes:
      quantiles, lengths, embeddings: its features, see `QuantileFeatures`.
    """

    quantiles: Sequence[float] = router_features.QUANTILES
    lengths: bool = False
    embeddings: bool = False

    def _check(self) -> None:
        object.__setattr__(self, "quantiles", self._features().quantiles)

    def _features(self) -> QuantileFeatures:
        return QuantileFeatures(self.quantiles, self.lengths, self.embeddings)


@dataclasses.dataclass(frozen=True)
class LogisticRouter(QuantileRouter):
    """Logistic regression on the quantiles of an answer's log-probs.

    Attributes:
      l2: half of it times the weights' squares is added to the summed cross-entropy.

    Reference: Gupta et al. 2024, post-hoc deferral rules on quantiles.
    """

    l2: float = 1.0
    name: ClassVar[str] = "logistic router"

    def _check(self) -> None:
        super()._check()
        checks.positive("l2", self.l2)

    def _fit(self, features, labels) -> arrays.Linear:
        return fitting.logistic(features, labels, self.l2)


@dataclasses.dataclass(frozen=True)
class MlpRouter(QuantileRouter):
    """A small multi-layer perceptron on the quantiles of an answer's log-probs.

    Attributes:
      hidden: width of each hidden layer.
      l2: half of it times the weights' squares is added to a batch's mean cross-entropy.
      max_epochs: passes over the examples, at most.
      seed: of the first weights and the order of examples.

    Reference: Gupta et al. 2024, post-hoc deferral rules by an MLP on quantiles and embeddings.
    """

    hidden: Sequence[int] = (32, 16)
    l2: float = 1e-2
    max_epochs: int = 200
    seed: int = 0
    name: ClassVar[str] = "MLP router"

    def _check(self) -> None:
        super()._check()
        check_network(self)

    def _fit(self, features, labels) -> arrays.Network:
        return fitting.network(features, labels, self.hidden, self.l2, self.max_epochs, self.seed)


@dataclasses.dataclass(frozen=True)
class BoostedRouter(QuantileRouter):
    """Gradient-boosted trees on the quantiles of an answer's log-probs.

    Attributes:
      trees: how many.
      learning_rate: share of the residual that each tree adds.
      max_depth: splits from root to leaf.
      min_leaf: fewest examples of a leaf.
      l2: penalty on the leaves' values.
      seed: of the sample of examples that bins are made from, if there are many.
    """

    trees: int = 100
    learning_rate: float = 0.1
    max_depth: int = 3
    min_leaf: int = 20
    l2: float = 1.0
    seed: int = 0
    name: ClassVar[str] = "boosted router"

    def _check(self) -> None:
        super()._check()
        for name, most in (("trees", 10_000), ("max_depth", 64), ("min_leaf", checks.LARGEST)):
            checks.whole_number(name, getattr(self, name), 1, most=most)
        is_share = checks.is_number(self.learning_rate) and 0 < self.learning_rate <= 1
        checks.require(is_share, "learning_rate", self.learning_rate, "above 0 and at most 1")
        is_penalty = checks.is_number(self.l2) and self.l2 >= 0
        checks.require(is_penalty, "l2", self.l2, "a number of at least 0")
        checks.whole_number("seed", self.seed, 0)

    def _fit(self, features, labels) -> arrays.Trees:
        names = ("trees", "learning_rate", "max_depth", "min_leaf", "l2", "seed")
        return fitting.boosted(features, labels, *(getattr(self, name) for name in names))


@dataclasses.dataclass(frozen=True)
class EntropyRateRouter(Router):
    """The entropy production rate in its learned form: a weight for each rank, by mean and largest.

    Logistic regression on `RankFeatures`; with every weight of a mean equal and none of a largest
    value it orders answers as `scores.EntropyProductionRate`.

    Attributes:
      k: the paper's 10.
      l2: see `LogisticRouter`; of standardised features, while the paper does not state any.

    Reference: Moslonka et al. 2025, weighted entropy production rate, equation 8.
    """

    k: int = 10
    l2: float = 1.0
    name: ClassVar[str] = "weighted entropy production rate"

    def _check(self) -> None:
        self._features()
        checks.positive("l2", self.l2)

    def _features(self) -> RankFeatures:
        return RankFeatures(self.k)

    def _fit(self, features, labels) -> arrays.Linear:
        return fitting.logistic(features, labels, self.l2)


@dataclasses.dataclass(frozen=True)
class EdgeRouter(Router):
    """EdgeInference: a multi-layer perceptron on the token probabilities in order, zero-padded.

    Tokens beyond the longest answer of the examples it is fitted on have no weight.

    Attributes:
      length: what answers are padded to, 2048 in the paper.
      hidden, l2, max_epochs, seed: see `MlpRouter`. The papers do not state the network's size.

    Reference: CAT, equation 10; Kag et al. 2023, Efficient Edge Inference by Selective Query.
    """

    length: int = 2048
    hidden: Sequence[int] = (32,)
    l2: float = 1e-2
    max_epochs: int = 200
    seed: int = 0
    name: ClassVar[str] = "EdgeInference router"

    def _check(self) -> None:
        check_network(self)
        self._features()

    def _features(self) -> ProbabilityFeatures:
        return ProbabilityFeatures(self.length)

    def _fit(self, features, labels) -> arrays.Network:
        return fitting.network(
            features, labels, self.hidden, self.l2, self.max_epochs, self.seed, standardise=False
        )


@dataclasses.dataclass(frozen=True)
class Saved:
    """A router from a file, as a score for a config.

    Example, in gin: ``SCORE = @routers.Saved()`` and ``routers.Saved.path = 'runs/router.npz'``.

    Attributes:
      path: what `cascade-jax fit-router` or `FittedRouter.save` wrote; read at once.
      router: from the file.
    """

    path: str
    router: FittedRouter = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self):
        router = load(self.path)
        if isinstance(router.model, arrays.ThreeWay):
            raise ValueError(f"{self.path} holds a {router.name}: bind it as @routers.PreRouted()")
        object.__setattr__(self, "router", router)

    @property
    def name(self) -> str:
        """Name of the router."""
        return self.router.name

    def __call__(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
        """See `FittedRouter`."""
        return self.router(answers)

    def own_flops(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
        """See `FittedRouter`."""
        return self.router.own_flops(answers)


def check_not_fitted_on(
    score: DeferralScore,
    answers: AnswerTokens,
    student_quality: _Quality,
    teacher_quality: _Quality,
    split: str,
) -> None:
    """Refuses a learned router on examples it was fitted on: `FittedRouter.check_not_fitted_on`.

    Any other score passes.
    """
    if isinstance(getattr(score, "score", None), Saved):  # a pre-router's
        check_not_fitted_on(score.score, answers, student_quality, teacher_quality, split)
    router = getattr(score, "router", score)
    if isinstance(router, FittedRouter):
        fingerprint = fingerprints.fingerprint(answers, student_quality, teacher_quality)
        router.check_not_fitted_on(fingerprint, split, answers.example_ids)


def check_network(router: Router) -> None:
    """Checks the settings of a router that has those of `MlpRouter`; makes `hidden` a tuple."""
    is_list = isinstance(router.hidden, list | tuple) and len(router.hidden) > 0
    checks.require(is_list, "hidden", router.hidden, "widths of layers, such as (32,)")
    for width in router.hidden:
        checks.whole_number("a width of hidden", width, 1, most=1 << 16)
    object.__setattr__(router, "hidden", tuple(router.hidden))
    checks.positive("l2", router.l2)
    checks.whole_number("max_epochs", router.max_epochs, 1, most=1_000_000)
    checks.whole_number("seed", router.seed, 0)
