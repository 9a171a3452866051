"""Per-example quality against brute force and a peer library."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_jax.task_metrics import quality

WORDS = st.lists(st.sampled_from("abc"), max_size=6)


def test_accuracy_ignores_outer_white_space_and_takes_any_reference():
    targets, predictions = ["yes", "no", ["b", "c"], "Yes"], [" yes\n", "yes", "c", "yes"]
    assert quality.accuracy(targets, predictions) == {"accuracy": 0.5}


def test_token_f1_is_precision_and_recall_of_word_counts():
    # 2 words in common; precision 2/3, recall 2/3.
    assert quality.token_f1(["the red dog"], ["red red Dog"]) == {"token_f1": pytest.approx(2 / 3)}
    assert quality.token_f1(["a"], ["b"]) == {"token_f1": 0.0}
    assert quality.token_f1([""], [""]) == {"token_f1": 1.0}


def _longest_common_brute_force(first, second):
    """Tries every subsequence of `first`, longest first."""
    for size in range(len(first), 0, -1):
        for chosen in itertools.combinations(first, size):
            rest = iter(second)
            if all(word in rest for word in chosen):
                return size
    return 0


@given(WORDS, WORDS)
def test_rouge_l_is_f1_of_the_longest_common_subsequence(target, prediction):
    common = _longest_common_brute_force(target, prediction)
    if common == 0:
        expected = float(not target and not prediction)
    else:
        recall, precision = common / len(target), common / len(prediction)
        expected = 2 * precision * recall / (precision + recall)
    got = quality.rouge_l([" ".join(target)], [" ".join(prediction)])
    assert got["rouge_l"] == pytest.approx(expected, abs=1e-12)


def test_chrf_is_a_hundredth_of_sacrebleus_sentence_score():
    import sacrebleu

    pairs = [("We are closed today.", "We closed today"), ("海で泳ぐ。", "海で歩く。")]
    expected = [sacrebleu.sentence_chrf(p, [t]).score / 100 for t, p in pairs]
    got = quality.chrf([t for t, _ in pairs], [p for _, p in pairs])
    assert got["chrf"] == pytest.approx(np.mean(expected))
    assert quality.chrf(["same text"], ["same text"])["chrf"] == pytest.approx(1.0)
    assert quality.chrf(["", ""], ["", "x"])["chrf"] == 0.5


@pytest.mark.parametrize("metric", [quality.rouge_l, quality.chrf, quality.token_f1])
def test_the_best_reference_counts(metric):
    references, prediction = ["a dog runs fast", "the cat sleeps"], "the cat sleeps now"
    singles = [next(iter(metric([r], [prediction]).values())) for r in references]
    assert next(iter(metric([references], [prediction]).values())) == max(singles) != min(singles)


def test_per_example_values_have_the_metrics_mean():
    targets, predictions = ["a b", "c d e", "f"], ["a x", "c e", "g"]
    name, values = quality.per_example_quality([quality.rouge_l], targets, predictions)
    assert name == "rouge_l" and values.dtype == np.float64 and values.shape == (3,)
    assert values.mean() == pytest.approx(quality.rouge_l(targets, predictions)["rouge_l"])
    assert len(set(values.tolist())) == 3


def test_figures_of_a_split_are_those_of_all_metrics_at_once():
    def scalar(targets, predictions):
        class Scalar:  # as seqio's
            value = np.float32(0.25)

        return {"scalar": Scalar(), "text": "no number", "list": [1.0]}

    def longer(targets, predictions):
        return {"rouge_l": 2, "exact": 0.0}

    targets, predictions = ["a b", "c d e"], ["a x", "c e"]
    whole = quality.rouge_l(targets, predictions)["rouge_l"]
    metric_fns = [quality.rouge_l, scalar, longer, quality.rouge_l]
    assert quality.split_figures(metric_fns, targets, predictions) == {
        "rouge_l": whole,
        "scalar": 0.25,
        "rouge_l_3": 2.0,
        "exact": 0.0,
    }


def test_a_metric_in_percent_has_to_be_declared():
    def accuracy(targets, predictions):
        return {"accuracy": 100.0 * float(targets == predictions)}

    with pytest.raises(ValueError, match=r"'accuracy' is 100.0 for example 1; must be from 0 to 1"):
        quality.per_example_quality([accuracy], ["a", "b"], ["x", "b"])
    name, values = quality.per_example_quality([quality.percent(accuracy)], ["a", "b"], ["x", "b"])
    assert name == "accuracy" and values.tolist() == [0.0, 1.0]


def test_what_cannot_be_measured_says_why():
    with pytest.raises(ValueError, match="the task has no metric"):
        quality.per_example_quality([], ["a"], ["a"])
    with pytest.raises(ValueError, match="2 targets but 1 predictions"):
        quality.per_example_quality([quality.accuracy], ["a", "b"], ["a"])
    with pytest.raises(ValueError, match="is nan for example 0"):
        quality.per_example_quality([lambda targets, predictions: {"m": np.nan}], ["a"], ["a"])
    with pytest.raises(ValueError, match="no examples"):
        quality.accuracy([], [])
    with pytest.raises(ValueError, match="no reference"):
        quality.accuracy([[]], ["a"])
