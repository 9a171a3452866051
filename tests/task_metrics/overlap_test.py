"""ROUGE against rouge-score's own scorer, word edit distance against brute force."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from cascade_jax.task_metrics import overlap, quality

WORDS = ["the", "cats", "cat", "sat", "ran", "running", "on", "it", "\n", "Mat!"]


def texts(seed, count=30):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(0, 12))) for _ in range(count)]


def close(value):
    return pytest.approx(value, abs=1e-9, rel=0)


@pytest.mark.parametrize("use_stemmer", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_rouge_is_the_mean_of_rouge_scores_own_scorer(seed, use_stemmer):
    variants = ("rouge1", "rouge2", "rougeL", "rougeLsum")
    targets, predictions = texts(seed), texts(seed + 100)
    scorer = rouge_scorer.RougeScorer(variants, use_stemmer=use_stemmer)
    scores = [scorer.score(t, p) for t, p in zip(targets, predictions, strict=True)]
    got = overlap.Rouge(variants, use_stemmer)(targets, predictions)
    assert got == {v: close(np.mean([s[v].fmeasure for s in scores])) for v in variants}
    assert len({round(value, 9) for value in got.values()}) == 4


def test_the_best_reference_counts_for_each_variant():
    metric = overlap.Rouge()
    references, prediction = ["c b a x", "a b q q q q q q"], "a b c"
    singles = [metric([reference], [prediction]) for reference in references]
    got = metric([references], [prediction])
    assert got == {name: max(single[name] for single in singles) for name in got}
    assert singles[0]["rouge1"] > singles[1]["rouge1"]
    assert singles[0]["rouge2"] < singles[1]["rouge2"]


def test_rouge_by_example_and_per_example():
    metric = overlap.Rouge()
    got = metric(["the cat sat"], ["the cat ran"])
    assert got == {"rouge1": close(2 / 3), "rouge2": close(1 / 2), "rougeL": close(2 / 3)}
    targets, predictions = texts(1), texts(2)
    name, values = quality.per_example_quality([metric], targets, predictions)
    assert name == "rouge1"
    assert values.mean() == close(metric(targets, predictions)["rouge1"])


def _edits(first: tuple, second: tuple) -> int:
    """Every way to insert, delete or replace at the front."""

    @functools.cache
    def rest(i, j):
        if i == len(first) or j == len(second):
            return len(first) - i + len(second) - j
        return min(
            rest(i + 1, j) + 1, rest(i, j + 1) + 1, rest(i + 1, j + 1) + (first[i] != second[j])
        )

    return rest(0, 0)


@given(
    st.lists(
        st.tuples(*[st.lists(st.sampled_from(["a", "A", "b", ",", "12"]), max_size=6)] * 2),
        min_size=1,
        max_size=5,
    ),
    st.booleans(),
)
def test_word_edit_distance_is_the_brute_forces(rows, lowercase):
    def words(row):
        return tuple(word.lower() if lowercase else word for word in row)

    expected = [_edits(words(t), words(p)) for t, p in rows]
    targets, predictions = ([" ".join(row) for row in column] for column in zip(*rows, strict=True))
    metric = overlap.WordEditDistance(lowercase)
    assert metric(targets, predictions) == {
        "min_edit": close(min(expected)),
        "max_edit": close(max(expected)),
        "mean_edit": close(sum(expected) / len(expected)),
        "median_edit": close(np.median(expected)),
        "sum_edit": close(sum(expected)),
    }
    name, values = quality.per_example_quality([metric], targets, predictions)
    longest = [max(len(t), len(p)) for t, p in rows]
    assert name == "edit_similarity"
    assert values == close(
        np.array([1 - e / n if n else 1 for e, n in zip(expected, longest, strict=True)])
    )


def test_word_edit_distance_by_example():
    metric = overlap.WordEditDistance()
    assert metric(["I see, yes."], ["I see yes!"])["sum_edit"] == 2
    assert metric.per_example(["I see, yes."], ["I see yes!"])["edit_similarity"] == close(0.6)
    # The nearest reference, and the most similar one, each for its own figure.
    assert metric([["a b", "a b c d"]], ["a b c"])["sum_edit"] == 1
    assert metric.per_example([["a b", "a b c d"]], ["a b c"])["edit_similarity"] == close(0.75)


@pytest.mark.parametrize("metric", [overlap.Rouge(), overlap.WordEditDistance()])
def test_bad_input_says_what_is_wrong(metric):
    with pytest.raises(ValueError, match="2 targets but 1 predictions"):
        metric(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="no examples"):
        metric([], [])
    with pytest.raises(ValueError, match=r"prediction of example 1 is 3 \(int\); must be text"):
        metric(["a", "b"], ["a", 3])
    with pytest.raises(ValueError, match=r"'rouge3'.*must be of \('rouge1'"):
        overlap.Rouge(("rouge3",))
    with pytest.raises(ValueError, match="must be of"):
        overlap.Rouge("rouge1")
