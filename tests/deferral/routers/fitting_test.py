"""What is taken out of scikit-learn predicts as it does, and targets in between are fitted."""

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from cascade_jax.deferral.routers import arrays, fitting

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(400, 5)) * [1, 10, 0.1, 1, 0] + [0, 5, 0, -3, 2]
IS_ONE = (FEATURES[:, 0] + FEATURES[:, 3] + RNG.normal(size=400) > -3).astype(float)
NEW = FEATURES + RNG.normal(size=FEATURES.shape)
STANDARD = (FEATURES - FEATURES.mean(0)) / [*FEATURES.std(0)[:4], 1.0]
NEW_STANDARD = (NEW - FEATURES.mean(0)) / [*FEATURES.std(0)[:4], 1.0]


def test_logistic_regression_is_scikit_learns():
    model = LogisticRegression(C=0.5, max_iter=1000).fit(STANDARD, IS_ONE)
    actual = fitting.logistic(FEATURES, IS_ONE, l2=2.0)(NEW)
    np.testing.assert_allclose(actual, model.decision_function(NEW_STANDARD), rtol=1e-6, atol=1e-6)


def test_the_network_is_scikit_learns():
    settings = {"alpha": 0.01, "max_iter": 400, "random_state": 3}
    model = MLPClassifier(hidden_layer_sizes=(7, 4), **settings).fit(STANDARD, IS_ONE)
    learned = fitting.network(FEATURES, IS_ONE, (7, 4), 0.01, 400, 3)
    chance = 1 / (1 + np.exp(-learned(NEW)))
    np.testing.assert_allclose(chance, model.predict_proba(NEW_STANDARD)[:, 1], atol=1e-9)


def test_the_trees_are_scikit_learns():
    model = HistGradientBoostingClassifier(
        max_iter=25, learning_rate=0.2, max_depth=4, min_samples_leaf=5, l2_regularization=0.5,
        early_stopping=False, random_state=0,
    ).fit(FEATURES, IS_ONE)  # fmt: skip
    learned = fitting.boosted(FEATURES, IS_ONE, 25, 0.2, 4, 5, 0.5, 0)
    np.testing.assert_allclose(learned(NEW), model.decision_function(NEW), rtol=1e-9, atol=1e-9)
    many = np.tile(NEW, (30, 1))  # more than a block of rows
    np.testing.assert_array_equal(learned(many), np.tile(learned(NEW), 30))


def test_a_target_in_between_weighs_both_labels():
    """The weighted cross-entropy is that of the targets, whatever is predicted."""
    targets = np.array([0.0, 0.25, 1.0, 0.5])
    features = np.arange(4.0)[:, None]
    rows, labels, weights = fitting.weighted_labels(features, targets)
    np.testing.assert_array_equal(rows[:, 0], [0, 1, 2, 3, 1, 3])
    chance = np.array([0.1, 0.3, 0.6, 0.9])
    expected = -np.sum(targets * np.log(chance) + (1 - targets) * np.log(1 - chance))
    of_row = chance[rows[:, 0].astype(int)]
    actual = -np.sum(weights * np.log(np.where(labels == 1, of_row, 1 - of_row)))
    assert actual == pytest.approx(expected, rel=1e-12)
    assert fitting.weighted_labels(features, np.array([0.0, 1.0, 1.0, 0.0]))[2] is None


def test_arrays_that_do_not_predict_as_scikit_learn_does_are_refused():
    learned = fitting.logistic(FEATURES, IS_ONE, l2=1.0)
    with pytest.raises(RuntimeError, match="predicts other values than the arrays taken out of it"):
        fitting._agreeing(learned, FEATURES, learned(FEATURES) + 0.01)


@pytest.mark.parametrize(
    "learned",
    [
        fitting.logistic(FEATURES, IS_ONE, 1.0),
        fitting.network(FEATURES, IS_ONE, (3,), 0.01, 5, 0),
        fitting.boosted(FEATURES, IS_ONE, 3, 0.2, 3, 5, 0.5, 0),
    ],
    ids=lambda learned: learned.kind,
)
def test_a_model_is_its_arrays(learned):
    again = arrays.KINDS[learned.kind].from_arrays(learned.arrays())
    np.testing.assert_array_equal(again(NEW), learned(NEW))
    assert again.width == learned.width == 5
