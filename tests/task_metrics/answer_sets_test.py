"""F1 of sets of answers: hand-made cases, NumPy, and how a text is parted into answers."""

import itertools

import numpy as np
import pytest

from cascade_jax.task_metrics import quality
from cascade_jax.task_metrics.answer_sets import SetF1


def f1_of(target, prediction):
    return SetF1()([target], [prediction])["set_f1"]


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("Lima", ["Lima"]),
        ("red, green and blue", ["red", "green", "blue"]),
        ("red, green, and blue.", ["red", "green", "blue."]),
        ("red & blue", ["red", "blue"]),
        ("1. Paris, France\n2) Rome, Italy\n\n", ["Paris, France", "Rome, Italy"]),
        ("- a dog\n• two cats\n(c) an owl", ["a dog", "two cats", "an owl"]),
        ("Paris, France; Rome, Italy; and Bern", ["Paris, France", "Rome, Italy", "Bern"]),
        ("1,000 and 2,500", ["1,000", "2,500"]),
        ("1,2,3", ["1", "2", "3"]),
        ("3.5, 4", ["3.5", "4"]),
        ("赤、青，白", ["赤", "青", "白"]),
        ("Andes, sand", ["Andes", "sand"]),
        (" , ;", []),
        ("", []),
    ],
)
def test_a_text_is_parted_into_answers(text, answers):
    assert SetF1().listed(text) == answers


@pytest.mark.parametrize(
    ("target", "prediction", "expected"),
    [
        (["red", "blue"], "blue, red", 1),
        (["red", ["gray", "grey"], "blue"], "Blue, red and green", 2 / 3),
        (["red", ["gray", "grey"]], "gray, grey, red", 1),  # two spellings of one answer
        (["red", "blue"], "red", 2 / 3),
        (["red"], "red, blue, green", 1 / 2),
        (["red", "blue"], "green", 0),
        (["red", "blue"], "", 0),
        (["Romeo and Juliet", "Hamlet"], "Hamlet, Romeo and Juliet", 1),
        (["Paris, France"], "Paris, France", 1),
        (["red", "The Red!"], "red", 1),  # one answer
        (["A", "C"], "a, b", 1 / 2),  # of which SQuAD's normalisation leaves nothing
        ("red, blue", "Blue and red.", 1),
        ("", "", 1),
        ("", "red", 0),
    ],
)
def test_f1_by_hand(target, prediction, expected):
    assert f1_of(target, prediction) == pytest.approx(expected)


def test_precision_and_recall_are_means_over_examples():
    targets = [["a1", "a2", "a3"], ["b1"], ["c1"]]
    figures = SetF1()(targets, ["a1, x", "b1, y, z", ""])
    assert figures == pytest.approx(
        {
            "set_f1": np.mean([2 / 5, 2 / 4, 0]),
            "set_precision": np.mean([1 / 2, 1 / 3, 0]),
            "set_recall": np.mean([1 / 3, 1, 0]),
        }
    )


def test_any_two_sets_against_numpy():
    words = ["red", "green", "blue", "white"]
    sets = [s for n in range(1, 5) for s in itertools.combinations(words, n)]
    pairs = list(itertools.product(sets, sets))
    name, actual = quality.per_example_quality(
        [SetF1()], [list(a) for a, _ in pairs], ["\n".join(b) for _, b in pairs]
    )
    assert name == "set_f1"
    expected = [2 * len(np.intersect1d(a, b)) / (len(a) + len(b)) for a, b in pairs]
    np.testing.assert_allclose(actual, expected, rtol=1e-12)
    swapped = [f1_of(list(b), ", ".join(a)) for a, b in pairs[:40]]
    np.testing.assert_allclose(swapped, expected[:40], rtol=1e-12)


def test_a_normaliser_of_ones_own():
    metric = SetF1(normalize=lambda text: text.strip(" s"))
    assert metric([["dog", "cat"]], ["cats, dogs"])["set_f1"] == 1
    assert f1_of(["dog", "cat"], "cats, dogs") == 0


@pytest.mark.parametrize(
    ("targets", "predictions", "message"),
    [
        ([["a"]], [], "1 targets but 0 predictions"),
        ([[]], ["a"], "a target list is empty"),
        ([[[]]], ["a"], "a target list is empty"),
        ([["a"], [1]], ["a", "b"], r"target of example 1 is 1 \(int\); must be text"),
        ([["a"]], [None], r"prediction of example 0 is None \(NoneType\); must be text"),
    ],
)
def test_what_is_no_text_is_refused(targets, predictions, message):
    with pytest.raises(ValueError, match=message):
        SetF1()(targets, predictions)
