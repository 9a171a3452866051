"""What routers see: quantiles, lengths, embeddings, and padded probabilities."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given

from cascade_jax.deferral.routers import features as router_features
from cascade_jax.deferral.routers.features import ProbabilityFeatures, QuantileFeatures
from tests.support.ragged import LISTS, answers_of, rows_of


def with_embeddings(answers, size=3):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(answers.num_examples, size)).astype(np.float32)
    return dataclasses.replace(answers, embeddings=values)


@given(lists=LISTS)
def test_quantiles_lengths_and_embeddings_side_by_side(lists):
    answers = with_embeddings(answers_of(lists))
    features = QuantileFeatures(quantiles=(0.0, 0.3, 1.0), lengths=True, embeddings=True)
    width = features.width(answers)
    assert width == 7
    expected = [
        [*np.quantile(row, [0.0, 0.3, 1.0]), math.log(len(row)), *embedding]
        for row, embedding in zip(
            rows_of(answers, answers.log_probs), answers.embeddings, strict=True
        )
    ]
    np.testing.assert_allclose(features.matrix(answers, width), expected, rtol=1e-9, atol=1e-12)


@given(lists=LISTS)
def test_probabilities_are_padded_with_zeros(lists):
    answers = answers_of(lists)
    actual = ProbabilityFeatures(length=5).matrix(answers, 5)
    for row, log_probs in zip(actual, rows_of(answers, answers.log_probs), strict=True):
        expected = np.zeros(5)
        expected[: len(log_probs)] = np.exp(log_probs)[:5]
        np.testing.assert_allclose(row, expected, rtol=1e-6)


def test_the_columns_after_the_longest_answer_are_left_out():
    answers = answers_of([[-1.0] * 3, [-1.0]])
    assert ProbabilityFeatures().width(answers) == 3
    assert ProbabilityFeatures(length=2).width(answers) == 2
    assert ProbabilityFeatures().length == 2048


@pytest.mark.parametrize(
    "features",
    [QuantileFeatures(), QuantileFeatures((0.5,), True, True), ProbabilityFeatures(7)],
)
def test_features_are_built_of_their_description(features):
    assert router_features.build(features.describe()) == features


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (
            {"kind": "moments"},
            "kind of features is 'moments'; must be one of quantiles, probabilities",
        ),
        ({"kind": "probabilities", "width": 3}, "unexpected keyword argument 'width'"),
    ],
)
def test_a_description_that_is_not_known_is_refused(description, message):
    with pytest.raises(ValueError, match=message):
        router_features.build(description)


@pytest.mark.parametrize("quantiles", [(), (0.5, 0.5), (0.5, 0.1), (-0.1, 0.5), (0.5, 1.1)])
def test_quantiles_that_do_not_rise_within_0_and_1_are_refused(quantiles):
    with pytest.raises(ValueError, match=r"quantiles must rise within \[0, 1\], got"):
        QuantileFeatures(quantiles)


def test_answers_that_can_not_be_read_are_refused():
    answers = answers_of([[-1.0], [-2.0]], ["a", "b"])
    features = QuantileFeatures((0.0, 1.0), embeddings=True)
    with pytest.raises(ValueError, match="student_embedding, which is not.*EMBEDDINGS = True"):
        features.width(answers)
    with pytest.raises(ValueError, match="embeddings of 8 values can not read .* embeddings of 3"):
        features.check(with_embeddings(answers), 10)
    bad = with_embeddings(answers)
    bad.embeddings[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"example 'b' \(row 1\) has an embedding that is not"):
        features.check(bad, 5)
    empty = answers_of([[-1.0], []], ["a", "b"])
    for features in (QuantileFeatures(), ProbabilityFeatures()):
        with pytest.raises(ValueError, match="example 'b' .* without tokens"):
            features.check(empty, features.width(empty))
