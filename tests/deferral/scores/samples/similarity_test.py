"""Similarities against other libraries and brute force, and what is refused of a user's own."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer, tokenizers

from cascade_jax.deferral.scores.samples import pairwise, similarity
from cascade_jax.deferral.scores.samples.similarity import ExactMatch, Jaccard, RougeL
from tests.support.sampled import answers_of

TEXTS = st.lists(st.sampled_from(["a", "B", "cars", "running", "x."]), max_size=9).map(" ".join)
KINDS = (ExactMatch(), Jaccard(), RougeL())


def lcs(a, b) -> int:
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = (
                table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
            )
    return int(table[-1, -1])


@given(a=TEXTS, b=TEXTS)
def test_rouge_l_is_the_longest_common_subsequence_of_all_words(a, b):
    x, y = a.lower().split(), b.lower().split()
    expected = 2 * lcs(x, y) / (len(x) + len(y)) if x or y else 1.0
    assert RougeL()(a, b) == pytest.approx(expected, abs=1e-12)


@given(a=TEXTS, b=TEXTS)
def test_rouge_l_of_rouge_scores_words_is_rouge_scores(a, b):
    words = tokenizers.DefaultTokenizer(use_stemmer=True).tokenize
    expected = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True).score(a, b)["rougeL"].fmeasure
    if a or b:  # of two empty ones it has 0
        assert RougeL(words)(a, b) == pytest.approx(expected, abs=1e-12)


@given(a=TEXTS, b=TEXTS)
def test_all_are_the_same_both_ways_round_and_in_0_to_1(a, b):
    for kind in KINDS:
        assert kind(a, b) == kind(b, a) and 0 <= kind(a, b) <= 1 and kind(a, a) == 1


def test_the_worked_examples_of_the_docstrings():
    assert ExactMatch()(" yes", "yes") == 1 and ExactMatch()("yes", "Yes") == 0
    assert ExactMatch(normalize=str.lower)("yes", "Yes") == 1
    assert Jaccard()("a b c", "a b d") == 0.5
    assert RougeL()("a dog ran off", "a cat ran") == pytest.approx(4 / 7)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_two_texts_without_words_are_alike_and_one_is_like_no_other(kind):
    assert kind("", " ") == 1 and kind("", "a") == 0


def test_rouge_l_of_a_thousand_words():
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 30, 1000).astype(str).tolist() for _ in range(2))
    # The longest common subsequence with itself turned by 100 words has at least the other 900.
    assert RougeL()(" ".join(a), " ".join(a[100:] + a[:100])) >= 0.9
    assert RougeL()(" ".join(a), " ".join(b)) == RougeL()(" ".join(b), " ".join(a))


# ------------------------------------------------------------------ of many samples


@dataclasses.dataclass(frozen=True)
class Counting:
    """Exact match that keeps the pairs it was asked for."""

    asked: list = dataclasses.field(default_factory=list, compare=False)

    def __call__(self, first: str, second: str) -> float:
        self.asked.append((first, second))
        return float(first.strip() == second.strip())


def all_matrices(answers, kind):
    blocks = answers.samples.blocks()
    return {n: pairwise.matrices(answers, kind, *rows) for rows in blocks if (n := len(rows[1]))}


def test_each_pair_of_different_texts_is_asked_once_for_all_examples():
    counting = Counting()
    answers = answers_of([["a", "b", "a"], ["b", "a", "c"], ["a", "a", "a"], ["c", "b", "b"]])
    for _ in range(2):
        (matrices,) = all_matrices(answers, counting).values()
        np.testing.assert_array_equal(matrices[0], [[1, 0, 1], [0, 1, 0], [1, 0, 1]])
    assert sorted(counting.asked) == sorted(
        (x, y) for x in "abc" for y in "abc" if x != y
    )  # both ways round, as it does not say that it is symmetric


def test_a_users_value_that_is_none_is_refused_with_the_pair_and_the_example():
    answers = answers_of([["a", "a"], ["a", "it's b"]], ids=["x", "y"])
    texts = r"""'a' and "it's b", answers to example 'y' \(row 1\),"""
    for value in (math.nan, 1.5, -0.2, math.inf, None, "high"):

        def odd(first, second, value=value):
            return value

        with pytest.raises(
            ValueError, match=rf"^similarity 'odd' of {texts} is .*; must be a number in \[0, 1\]"
        ):
            all_matrices(answers, odd)

    def one_way(first, second):
        return 0.25 if first == "a" else 0.75

    with pytest.raises(ValueError, match=f"^similarity 'one_way' of {texts} is 0.25, and 0.75 the"):
        all_matrices(answers, one_way)


def test_values_that_are_numbers_of_other_kinds_or_rounded_are_taken():
    answers = answers_of([["a", "b"]])
    for value, expected in ((True, 1.0), (np.float32(0.25), 0.25), (1 + 1e-9, 1.0), (-1e-9, 0.0)):
        (matrix,) = all_matrices(answers, lambda first, second, value=value: value).values()
        np.testing.assert_array_equal(matrix, [[[1, expected], [expected, 1]]])


@dataclasses.dataclass(frozen=True)
class AtOnce:
    """Jaccard, asked many pairs at once; counts the calls."""

    lost: int = 0
    calls: list = dataclasses.field(default_factory=list, compare=False)

    def __call__(self, first: str, second: str) -> float:
        raise AssertionError("is asked by many()")

    def many(self, pairs):
        self.calls.append(len(pairs))
        return [Jaccard()(*pair) for pair in pairs[self.lost :]]


def test_a_similarity_may_be_asked_many_pairs_at_once():
    answers = answers_of([["a", "a b", "a"], ["a b", "b", ""]])
    at_once = AtOnce()
    (matrices,) = all_matrices(answers, at_once).values()
    np.testing.assert_array_equal(matrices, next(iter(all_matrices(answers, Jaccard()).values())))
    assert at_once.calls == [4, 4]  # both ways round
    with pytest.raises(ValueError, match="gave 3 for 4 pairs"):
        all_matrices(answers, AtOnce(lost=1))


@pytest.mark.parametrize("value", [RougeL, "rouge", None, 0.5, dict])
def test_what_is_no_similarity_is_refused(value):
    with pytest.raises(ValueError, match="similarity is .*; must be a function of two texts, or a"):
        similarity.check("similarity", value)
