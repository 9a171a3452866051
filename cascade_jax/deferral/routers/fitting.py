"""Fits routers with scikit-learn, and takes the fitted models out of it as arrays."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from cascade_jax.deferral.routers import arrays

_Rows = Float[np.ndarray, "n F"]
_Targets = Float[np.ndarray, " n"]


def weighted_labels(
    features: _Rows, targets: _Targets
) -> tuple[Float[np.ndarray, "m F"], Int[np.ndarray, " m"], Float[np.ndarray, " m"] | None]:
    """Rows with labels 0 and 1 whose weighted cross-entropy is that of targets in [0, 1].

    A row with target t strictly inside counts twice: as 1 with weight t, as 0 with weight 1 - t.

    Returns:
      features, labels, and weights; None where every target is 0 or 1.
    """
    is_graded = (targets > 0) & (targets < 1)
    if not np.any(is_graded):
        return features, targets.astype(np.int64), None
    again = np.flatnonzero(is_graded)
    labels = np.concatenate([targets > 0, np.zeros(len(again), bool)]).astype(np.int64)
    weights = np.concatenate([np.where(targets > 0, targets, 1.0), 1.0 - targets[again]])
    return np.concatenate([features, features[again]]), labels, weights


def logistic(features: _Rows, targets: _Targets, l2: float) -> arrays.Linear:
    """Logistic regression on standardised features; the settings are `kinds.LogisticRouter`'s."""
    from sklearn.linear_model import LogisticRegression

    mean, scale = _standard(features)
    rows, labels, weights = weighted_labels((features - mean) / scale, targets)
    model = LogisticRegression(C=1.0 / l2, max_iter=1000)
    model.fit(rows, labels, sample_weight=weights)
    learned = arrays.Linear(mean, scale, model.coef_[0], float(model.intercept_[0]))
    return _agreeing(learned, features, model.decision_function((features - mean) / scale))


def three_way(
    features: _Rows, classes: Int[np.ndarray, " n"], l2: float, least_chance: float
) -> arrays.ThreeWay:
    """Multinomial logistic regression on standardised features; see `pre_router.PreRouter`.

    A class without an example has next to no chance.
    """
    from sklearn.linear_model import LogisticRegression

    mean, scale = _standard(features)
    model = LogisticRegression(C=1.0 / l2, max_iter=1000)
    model.fit((features - mean) / scale, classes)
    own, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # of the second class against the first
        own, bias = np.concatenate([np.zeros_like(own), own]), np.append(0.0, bias)
    weights, biases = np.zeros((features.shape[1], 3)), np.full(3, np.min(bias) - 40.0)
    weights[:, model.classes_], biases[model.classes_] = own.T, bias
    learned = arrays.ThreeWay(mean, scale, weights, biases, least_chance)
    chances = np.zeros((len(features), 3))
    chances[:, model.classes_] = model.predict_proba((features - mean) / scale)
    return _agreeing(learned, features, chances)


def network(
    features: _Rows,
    targets: _Targets,
    hidden: Sequence[int],
    l2: float,
    max_epochs: int,
    seed: int,
    standardise: bool = True,
) -> arrays.Network:
    """A multi-layer perceptron by Adam, stopped when its loss stays, or after `max_epochs`.

    The settings are `kinds.MlpRouter`'s; `standardise=False` leaves features as they are.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    mean, scale = _standard(features)
    if not standardise:
        mean, scale = np.zeros_like(mean), np.ones_like(scale)
    standard = (features - mean) / scale
    rows, labels, weights = weighted_labels(standard, targets)
    model = MLPClassifier(
        hidden_layer_sizes=tuple(hidden), alpha=l2, max_iter=max_epochs, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # max_epochs is a setting, no accident
        model.fit(rows, labels, sample_weight=weights)
    learned = arrays.Network(mean, scale, tuple(model.coefs_), tuple(model.intercepts_))
    chance = model.predict_proba(standard)[:, 1].astype(np.float64)
    _agreeing(lambda rows: 0.5 + 0.5 * np.tanh(learned(rows) / 2), features, chance)
    return learned


def network_by_epochs(
    features: _Rows,
    targets: _Targets,
    hidden: Sequence[int],
    l2: float,
    epochs: int,
    seed: int,
    goes_on: Callable[[arrays.Network], bool] = lambda network: True,
) -> arrays.Network:
    """A multi-layer perceptron, fitted by Adam on standardised features in `epochs` at most.

    `goes_on` is asked after every epoch; the settings are `states.StateNetworkRouter`'s.
    """
    from sklearn.neural_network import MLPClassifier

    mean, scale = _standard(features)
    rows, labels, weights = weighted_labels((features - mean) / scale, targets)
    model = MLPClassifier(hidden_layer_sizes=tuple(hidden), alpha=l2, random_state=seed)
    for _ in range(epochs):
        model.partial_fit(rows, labels, sample_weight=weights, classes=(0, 1))
        learned = arrays.Network(mean, scale, tuple(model.coefs_), tuple(model.intercepts_))
        if not goes_on(learned):
            break
    chance = model.predict_proba((features - mean) / scale)[:, 1]
    _agreeing(lambda rows: 0.5 + 0.5 * np.tanh(learned(rows) / 2), features, chance)
    return learned


def boosted(
    features: _Rows,
    targets: _Targets,
    trees: int,
    learning_rate: float,
    max_depth: int,
    min_leaf: int,
    l2: float,
    seed: int,
) -> arrays.Trees:
    """Gradient-boosted trees on histograms; the settings are `kinds.BoostedRouter`'s."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    rows, labels, weights = weighted_labels(features, targets)
    model = HistGradientBoostingClassifier(
        max_iter=trees,
        learning_rate=learning_rate,
        max_depth=max_depth,
        min_samples_leaf=min_leaf,
        l2_regularization=l2,
        early_stopping=False,
        random_state=seed,
    )
    model.fit(rows, labels, sample_weight=weights)
    return _agreeing(_trees(model, features.shape[1]), features, model.decision_function(features))


def _trees(model, num_features: int) -> arrays.Trees:
    """The nodes of scikit-learn's trees laid end to end."""
    nodes = [predictor.nodes for (predictor,) in model._predictors]
    roots = np.cumsum([0] + [len(tree) for tree in nodes[:-1]])
    itself = [np.arange(len(tree)) + root for tree, root in zip(nodes, roots, strict=True)]

    def joined(name: str, dtype) -> np.ndarray:
        return np.concatenate([tree[name].astype(dtype) for tree in nodes])

    is_leaf, own = joined("is_leaf", bool), np.concatenate(itself)
    first = np.repeat(roots, [len(tree) for tree in nodes])
    return arrays.Trees(
        roots=roots,
        feature=np.where(is_leaf, 0, joined("feature_idx", np.int64)),
        threshold=np.where(is_leaf, np.inf, joined("num_threshold", np.float64)),
        left=np.where(is_leaf, own, joined("left", np.int64) + first),
        right=np.where(is_leaf, own, joined("right", np.int64) + first),
        value=np.where(is_leaf, joined("value", np.float64), 0.0),
        baseline=float(np.ravel(model._baseline_prediction)[0]),
        num_features=num_features,
        depth=int(max(tree["depth"].max() for tree in nodes)),
    )


def _standard(features: _Rows) -> tuple[Float[np.ndarray, " F"], Float[np.ndarray, " F"]]:
    """Mean and standard deviation of each column; 1 for a column that does not vary."""
    mean, scale = np.mean(features, axis=0), np.std(features, axis=0)
    return mean, np.where(scale > 1e-12 * np.abs(mean), scale, np.ones_like(scale))


def _agreeing(learned, features: _Rows, expected: Float[np.ndarray, "n ..."]):
    """Checks that the arrays predict as scikit-learn does: a new version may store others."""
    predicted = learned(features)
    if not np.allclose(predicted, expected, rtol=1e-4, atol=1e-4):
        import sklearn

        raise RuntimeError(
            f"scikit-learn {sklearn.__version__} predicts other values than the arrays taken out "
            f"of it, by up to {np.max(np.abs(predicted - expected)):g}; 1.9.1 agrees"
        )
    return learned
