"""Scores of sampled answers: plain sums row by row, worked examples, properties, and bad input."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg

from cascade_jax.deferral import scores
from cascade_jax.deferral.scores import AnswerTokens, SampledAnswers
from cascade_jax.deferral.scores.samples.classes import classes
from cascade_jax.deferral.scores.samples.similarity import ExactMatch, Jaccard, RougeL
from tests.support.sampled import answers_of, random_lists

ALL = scores.FROM_SAMPLES
each_score = pytest.mark.parametrize("score", ALL, ids=lambda score: score.name)


# ------------------------------------------------------------------ row by row


def matrix_of(kind, texts):
    return np.array([[1.0 if a == b else kind(a, b) for b in texts] for a in texts])


def sar_of(log_p, weights, t=0.001):
    p, n = np.exp(log_p), len(log_p)
    masses = [p[k] + sum(weights[k, j] * p[j] for j in range(n) if j != k) / t for k in range(n)]
    return -np.mean(np.log(masses))


def class_sets(texts):
    return [[j for j, other in enumerate(texts) if other == t] for t in dict.fromkeys(texts)]


def laplacian_of(weights):
    scale = np.diag(weights.sum(axis=1) ** -0.5)
    return np.eye(len(weights)) - scale @ weights @ scale


def eccentricity(weights):
    values, vectors = scipy.linalg.eigh(laplacian_of(weights))
    kept = vectors[:, values < 0.9]
    return np.linalg.norm(kept - kept.mean(axis=0))


def heat_entropy(weights):
    graph = 2 * weights
    kernel = scipy.linalg.expm(-0.3 * (np.diag(graph.sum(axis=1)) - graph))
    kernel /= len(weights) * np.sqrt(np.outer(np.diag(kernel), np.diag(kernel)))
    values = np.linalg.eigvalsh(kernel)
    return -sum(v * math.log(v) for v in values if v > 0) / math.log(len(weights))


def row_by_row(texts, log_probs, greedy):
    """Each score of one example, by plain sums; not for one sample."""
    n = len(texts)
    log_p = np.array([math.fsum(sample) for sample in log_probs])
    mean_log_p = log_p / [len(sample) for sample in log_probs]
    parts = class_sets(texts)
    mass = {k: math.fsum(np.exp(log_p[part])) for part in parts for k in part}
    shares = [math.fsum(np.exp(log_p[part])) / math.fsum(np.exp(log_p)) for part in parts]
    rouge, jaccard = matrix_of(RougeL(), texts), matrix_of(Jaccard(), texts)
    pairs = [rouge[j, k] for j, k in itertools.combinations(range(n), 2)]
    return {
        "predictive entropy": -log_p.mean(),
        "predictive entropy per token": -mean_log_p.mean(),
        "discrete semantic entropy": -sum(len(c) / n * math.log(len(c) / n) for c in parts),
        "semantic entropy": -np.mean([math.log(mass[k]) for k in range(n)]),
        "semantic entropy normalized": -sum(p * math.log(p) for p in shares),
        "SentSAR": sar_of(log_p, rouge),
        "SAR": sar_of(mean_log_p, rouge),
        "lexical similarity": -np.mean(pairs),
        "Deg": 1 - jaccard.mean(),
        "Ecc": eccentricity(jaccard),
        "EigV": sum(max(0, 1 - v) for v in np.linalg.eigvalsh(laplacian_of(jaccard))),
        "NumSet": len(parts),
        "kernel language entropy": heat_entropy(rouge),
        "disagreement": np.mean([text != greedy for text in texts]),
    }


def test_every_score_is_what_plain_sums_have_example_by_example():
    texts, log_probs, tokens, greedy = random_lists(0, 60, counts=(2, 3, 5, 10))
    answers = answers_of(texts, log_probs, tokens, greedy)
    expected = [row_by_row(*row) for row in zip(texts, log_probs, greedy, strict=True)]
    assert [score.name for score in ALL] == list(expected[0])
    for score in ALL:
        actual = score(answers)
        assert actual.dtype == np.float64
        np.testing.assert_allclose(
            actual, [row[score.name] for row in expected], atol=1e-9, err_msg=score.name
        )


# ------------------------------------------------------------------ worked examples

EQUAL, DISJOINT, PAIRS = ["p q"] * 4, ["a", "b", "c", "d"], ["a b c", "a b d", "x y", "x y"]


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (scores.Deg(), [0, 0.75, 0.5625]),
        (scores.Ecc(), [0, math.sqrt(3), math.sqrt(2)]),
        (scores.EigV(), [1, 4, 7 / 3]),
        (scores.LexicalSimilarity(Jaccard()), [-1, 0, -(0.5 + 1) / 6]),
        (scores.NumSet(), [1, 4, 3]),
        (scores.NumSet(Jaccard()), [1, 4, 2]),
        (scores.NumSet(Jaccard(), alike=0.51), [1, 4, 3]),
        (scores.DiscreteSemanticEntropy(), [0, math.log(4), 1.5 * math.log(2)]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_equal_disjoint_and_paired_samples(score, expected):
    np.testing.assert_allclose(score(answers_of([EQUAL, DISJOINT, PAIRS])), expected, atol=1e-12)


def one(score, texts, log_probs=None, **more):
    return score(answers_of([texts], log_probs and [log_probs], **more))[0]


def test_the_worked_examples_of_the_docstrings():
    log_probs = [[-0.5, -0.5], [-1.0, -1.0, 0.0, -1.0]]
    assert one(scores.PredictiveEntropy(), ["a", "b"], log_probs) == 2.0
    assert one(scores.PredictiveEntropy(True), ["a", "b"], log_probs) == 0.625
    half = [[math.log(0.5)]] * 2
    assert one(scores.SentSAR(), ["a", "b"], half) == pytest.approx(0.6931, abs=1e-4)
    assert one(scores.SentSAR(), ["a", "a"], half) == pytest.approx(-6.2156, abs=1e-4)
    assert one(scores.SAR(), ["a"], [[-1.0, -3.0]]) == 2.0
    first = scores.SAR(relevance=lambda text, tokens: np.array([1.0, 0.0]))
    assert one(first, ["a"], [[-1.0, -3.0]], tokens=[[[5, 1]]]) == 1.0
    log_probs = [[math.log(p)] for p in (0.2, 0.2, 0.1)]
    assert one(scores.DiscreteSemanticEntropy(), ["a", "a", "b"]) == pytest.approx(0.6365, abs=1e-4)
    mean, normalized = scores.SemanticEntropy(), scores.SemanticEntropy(form="normalized")
    assert one(mean, ["a", "a", "b"], log_probs) == pytest.approx(1.3784, abs=1e-4)
    assert one(normalized, ["a", "a", "b"], log_probs) == pytest.approx(0.5004, abs=1e-4)
    assert one(scores.KernelLanguageEntropy(), ["a", "a"]) == pytest.approx(0.7806, abs=1e-4)
    assert one(scores.KernelLanguageEntropy(), ["a", "b"]) == 1.0
    third = one(scores.Disagreement(), ["a", "a", "b"], greedy=["a"])
    assert third == pytest.approx(1 / 3)


def test_a_probability_below_all_numbers_has_its_logarithm():
    # exp(-800) is 0: what computes with probabilities has an infinite score here.
    value = one(scores.SentSAR(), ["a", "b"], [[-800.0], [-792.0]])
    assert value == pytest.approx(796.0)
    both = one(scores.SentSAR(), ["a b", "a c"], [[-800.0], [-800.0]])
    assert both == pytest.approx(800 - math.log(1 + 0.5 / 0.001))
    assert one(scores.SAR(), ["a", "b"], [[-1600.0, 0.0], [-900.0]]) == pytest.approx(850.0)


def test_classes_are_connected_components_whatever_the_order():
    is_alike = np.array([[[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 1], [0, 0, 1, 1]]], bool)
    for order in itertools.permutations(range(4)):
        part = classes(is_alike[:, order][:, :, order])[0]
        inverse = np.argsort(order)
        labels = part[inverse]
        assert labels[0] == labels[2] == labels[3] != labels[1]


def test_a_long_chain_is_one_class():
    chain = np.abs(np.subtract.outer(np.arange(40), np.arange(40))) <= 1
    np.testing.assert_array_equal(classes(chain[None]), np.zeros((1, 40)))


def test_relevance_weighs_tokens_and_nothing_relevant_weighs_all_alike():
    texts, log_probs, tokens, _ = random_lists(3, 20)
    answers = answers_of(texts, log_probs, tokens)
    plain = scores.SAR()(answers)
    for weight in (lambda text, ids: np.full(len(ids), 0.3), lambda text, ids: ids * 0.0):
        np.testing.assert_allclose(scores.SAR(relevance=weight)(answers), plain, atol=1e-9)
    for odd in ([1.0], [[-1.0]], [math.nan], math.nan):
        with pytest.raises(ValueError, match=r"of '[\w ]*', an answer to row \d+, is .*; must be"):
            scores.SAR(relevance=lambda text, ids, odd=odd: np.append(ids, odd))(answers)


# ------------------------------------------------------------------ properties


@each_score
def test_the_order_of_samples_and_of_examples_does_not_matter(score):
    texts, log_probs, tokens, greedy = random_lists(1, 40)
    rng = np.random.default_rng(2)
    orders = [rng.permutation(len(row)) for row in texts]
    shuffled = [
        [[row[k] for k in order] for row, order in zip(lists, orders, strict=True)]
        for lists in (texts, log_probs, tokens)
    ]
    answers = answers_of(texts, log_probs, tokens, greedy)
    whole = score(answers)
    np.testing.assert_allclose(score(answers_of(*shuffled, greedy)), whole, atol=1e-9)
    rows = rng.permutation(40)[:17]
    np.testing.assert_array_equal(score(answers.take(rows)), whole[rows])
    np.testing.assert_array_equal(score(answers.part(5, 30)), whole[5:30])


@each_score
def test_blocks_of_few_examples_change_nothing(score, monkeypatch):
    answers = answers_of(*random_lists(4, 30))
    whole = score(answers)
    monkeypatch.setattr("cascade_jax.deferral.scores.samples.answers._BLOCK", 60)
    np.testing.assert_array_equal(score(answers.take(np.arange(30))), whole)


def test_every_sample_twice_changes_no_score_of_shares():
    lists = random_lists(5, 30)
    answers = answers_of(*lists)
    doubled = answers_of(*([[*row, *row] for row in part] for part in lists[:3]), lists[3])
    for score in ALL:
        if score.name in ("SentSAR", "SAR", "lexical similarity", "semantic entropy"):
            continue  # a sample's double adds to its mass, and there are more pairs of equal ones
        if score.name == "kernel language entropy":
            continue  # is relative to log n
        np.testing.assert_allclose(score(doubled), score(answers), atol=1e-9, err_msg=score.name)


BOUNDS = {
    "predictive entropy": (0, np.inf), "predictive entropy per token": (0, np.inf),
    "discrete semantic entropy": (0, math.log(5)), "semantic entropy normalized": (0, math.log(5)),
    "lexical similarity": (-1, 0), "Deg": (0, 0.8), "Ecc": (0, 2), "EigV": (1, 5),
    "NumSet": (1, 5), "kernel language entropy": (0, 1), "disagreement": (0, 1),
}  # fmt: skip


def test_scores_stay_in_their_bounds():
    answers = answers_of(*random_lists(6, 200))
    for score in ALL:
        values, (low, high) = score(answers), BOUNDS.get(score.name, (-np.inf, np.inf))
        assert np.all(np.isfinite(values)) and values.min() >= low and values.max() <= high


def test_samples_that_differ_have_higher_scores_than_equal_ones():
    log_probs = [[[-1.0, -1.0]] * 4] * 2
    answers = answers_of([EQUAL, DISJOINT], log_probs, greedy=["p q", "a"])
    for score in ALL:
        equal, different = score(answers)
        if score.label == "predictive entropy":  # is of log-probs alone
            assert equal == different
        else:
            assert equal < different, score.name


def test_one_sample_scores_as_samples_that_are_all_equal():
    answers = answers_of([["a b"], ["a b"] * 3], greedy=["a b", "a b"])
    names = {"Deg", "Ecc", "EigV", "NumSet", "lexical similarity", "discrete semantic entropy"}
    for score in ALL:
        values = score(answers)
        assert np.all(np.isfinite(values))
        if score.name in names | {"semantic entropy normalized", "disagreement"}:
            assert values[0] == values[1], score.name
    assert scores.SentSAR()(answers)[0] == scores.SemanticEntropy()(answers)[0] == 3.0


def test_examples_of_equal_samples_tie_however_many_words_they_have():
    rows = [[" ".join("abcdefg"[:k])] * 7 for k in range(8)]
    log_probs = [[[-1.5]] * 7] * 8
    answers = answers_of(rows, log_probs, greedy=[row[0] for row in rows])
    for score in ALL:
        assert len(set(score(answers).tolist())) == 1, score.name


@each_score
def test_extremes_are_finite(score):
    rng = np.random.default_rng(7)
    long = [" ".join(rng.integers(0, 50, 1000).astype(str)) for _ in range(3)]
    texts = [["", "", ""], ["", " ", "a"], long, ["a"], ["."] * 50]
    log_probs = [
        [[0.0]] * 3,
        [[-1e4], [-1e-30], [-3e38]],
        (-rng.exponential(size=(3, 1000)) * 5).tolist(),
        [[-1e300]],
        [[-800.0]] * 50,
    ]
    greedy = ["", "b", long[0], "a", "."]
    with np.errstate(all="raise", under="ignore"):
        values = score(answers_of(texts, log_probs, greedy=greedy))
    assert np.all(np.isfinite(values))
    # Three empty samples are as alike as any three equal ones.
    equal = score(answers_of([["a b"] * 3], [[[0.0]] * 3], greedy=["a b"]))
    assert values[0] == equal[0]


# ------------------------------------------------------------------ needs and bad input


def bare(n=1) -> AnswerTokens:
    return AnswerTokens(np.full(n, -1.0), None, np.arange(n + 1))


def with_samples(samples: SampledAnswers) -> AnswerTokens:
    n = samples.num_examples
    return AnswerTokens(np.full(n, -1.0), None, np.arange(n + 1), samples_fn=lambda: samples)


@each_score
def test_without_samples_the_command_that_adds_them_is_named(score):
    message = (
        f"score {score.name!r} needs the column student_sample_answers, which is not there; "
        "`cascade-jax collect` with SAMPLES = 10 adds it"
    )
    with pytest.raises(ValueError) as caught:
        score(bare())
    assert str(caught.value) == message == score.lack(bare())


def test_what_can_be_had_of_which_samples():
    texts_only = with_samples(SampledAnswers.from_lists([["a"]]))
    assert not set(scores.available(bare())) & set(ALL)
    names = {score.name for score in set(scores.available(texts_only)) & set(ALL)}
    assert names == {
        "discrete semantic entropy", "lexical similarity", "Deg", "Ecc", "EigV", "NumSet",
        "kernel language entropy",
    }  # fmt: skip
    lack = scores.SentSAR().lack(texts_only)
    assert "'SentSAR' needs the column student_sample_log_probs, which" in lack
    assert "the column student_answer," in scores.Disagreement().lack(texts_only)
    assert scores.SAR(relevance=len).lack(answers_of([["a"]])).count("student_sample_tokens") == 1
    assert set(ALL) <= set(scores.available(answers_of([["a"]], greedy=["a"])))


def test_samples_are_made_only_when_a_score_asks_for_them():
    made = []

    def make():
        made.append(1)
        return SampledAnswers.from_lists([["a", "b"]] * 3)

    answers = AnswerTokens(np.full(3, -1.0), None, np.arange(4), samples_fn=make)
    for part in (answers, answers.take(np.array([2, 0])), answers.part(1, 3)):
        scores.Average()(part)
    assert not made
    for score in (scores.Deg(), scores.NumSet()):
        assert len(score(answers.take(np.array([2, 0])))) == 2
    assert made == [1]


@each_score
def test_no_examples_give_no_scores(score):
    assert score(answers_of([], greedy=[])).shape == (0,)


@each_score
def test_an_example_without_samples_is_named(score):
    answers = answers_of([["a"], [], []], ids=["x", "y", "z"], greedy=["a"] * 3)
    with pytest.raises(ValueError, match=r"^example 'y' \(row 1\) has no sampled answer \(2 such"):
        score(answers)


@pytest.mark.parametrize("score", [s for s in ALL if "log_probs" in s.needs], ids=lambda s: s.name)
def test_a_sample_without_tokens_or_with_an_odd_log_prob_is_named(score):
    answers = answers_of([["a"], ["b", ""]], [[[-1.0]], [[-1.0], []]], ids=["x", "y"])
    with pytest.raises(ValueError, match=r"^sample 1 of example 'y' \(row 1\) has no token"):
        score(answers)
    for odd in (math.nan, math.inf, -math.inf):
        answers = answers_of([["a"], ["b", ""]], [[[-1.0]], [[-1.0], [-2.0, odd]]])
        with pytest.raises(ValueError, match="^sample 1 of row 1 has the log-prob .* at token 1 "):
            score(answers)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: scores.Deg(Jaccard), "similarity is .*; must be a function of two texts"),
        (lambda: scores.NumSet(alike=0.0), "alike is 0.0; must be a number above 0"),
        (lambda: scores.NumSet(alike=1.1), "alike is 1.1; must be .* above 0 and at most 1"),
        (lambda: scores.SemanticEntropy(form="mode"), "form is 'mode'; must be one of mean, norma"),
        (lambda: scores.SentSAR(t=0.0), "t is 0.0; must be a number above 0"),
        (lambda: scores.Ecc(below=1.5), "below is 1.5; must be a number above 0 and at most 1"),
        (lambda: scores.KernelLanguageEntropy(t=math.nan), "t is nan; must be a number above 0"),
        (lambda: SampledAnswers(["a"], np.array([0, 2])), "offsets of samples end at 2, there are"),
        (lambda: SampledAnswers(["a"], np.array([1, 1])), "offsets of samples must start at 0"),
        (
            lambda: SampledAnswers(["a"], np.array([0, 1]), np.zeros(2), np.array([0, 1, 2])),
            "token_offsets are of 2 samples, texts 1",
        ),
        (
            lambda: SampledAnswers(["a"], np.array([0, 1]), np.zeros(2)),
            "log_probs of samples need token_offsets",
        ),
        (lambda: SampledAnswers.from_lists([["a"]], greedy=[]), "0 greedy texts for 1 examples"),
    ],
)
def test_settings_and_samples_that_can_not_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_samples_of_other_examples_are_refused():
    answers = AnswerTokens(
        np.full(2, -1.0), None, np.arange(3), samples_fn=lambda: SampledAnswers.from_lists([["a"]])
    )
    with pytest.raises(ValueError, match="samples of 1 examples for 2"):
        scores.Deg()(answers)


def test_names_say_which_settings_are_not_the_usual_ones():
    def own(first, second):
        return 0.0

    assert scores.Deg(ExactMatch()).name == "Deg exact match"
    assert scores.Deg(Jaccard(str.split)).name == "Deg Jaccard by split"
    assert scores.SentSAR(own, t=0.01).name == "SentSAR own t 0.01"
    assert scores.SemanticEntropy(per_token=True).name == "semantic entropy per token"
