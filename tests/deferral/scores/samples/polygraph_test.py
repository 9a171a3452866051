"""Scores of sampled answers against lm-polygraph's on the same random answers and log-probs."""

import numpy as np
import pytest
from rouge_score import tokenizers

from cascade_jax.deferral import scores
from cascade_jax.deferral.scores.samples.classes import classes
from cascade_jax.deferral.scores.samples.similarity import ExactMatch, Jaccard, RougeL
from tests.support.polygraph import estimator, needs_polygraph
from tests.support.sampled import answers_of, random_lists

pytestmark = needs_polygraph

# Ten samples each, as its own default; no empty ones, which it drops or counts as different.
TEXTS, LOG_PROBS, TOKENS, GREEDY = random_lists(11, 40, counts=(10,), words=(1, 4))
ANSWERS = answers_of(TEXTS, LOG_PROBS, TOKENS, GREEDY)
SUMS = [[sum(sample) for sample in row] for row in LOG_PROBS]
PORTER = RougeL(tokenizers.DefaultTokenizer(use_stemmer=True).tokenize)  # its words of ROUGE


class Drawn:
    """A random symmetric similarity of texts, of any value between 0 and 1."""

    name = "drawn"

    def __call__(self, first: str, second: str) -> float:
        seed = sum(map(ord, first)) + sum(map(ord, second))
        return float(np.random.default_rng(seed).random())


DRAWN = Drawn()


def matrices(kind) -> np.ndarray:
    return np.array([[[1.0 if a == b else kind(a, b) for b in t] for a in t] for t in TEXTS])


def assert_same(score, peer, stats) -> None:
    expected = np.array(peer(stats))
    assert len(expected) == len(TEXTS) > 20 and len(set(expected.round(6))) > 5
    np.testing.assert_allclose(score(ANSWERS), expected, atol=1e-6)


def semantic_classes(kind, alike=0.5):
    labels = classes(matrices(kind) >= alike)
    numbered = [{label: i for i, label in enumerate(dict.fromkeys(row))} for row in labels.tolist()]
    return {
        "sample_to_class": [
            [numbers[label] for label in row]
            for numbers, row in zip(numbered, labels.tolist(), strict=True)
        ],
        "class_to_sample": [
            [np.flatnonzero(row == label).tolist() for label in dict.fromkeys(row.tolist())]
            for row in labels
        ],
    }


def test_predictive_entropy():
    peer = estimator("monte_carlo_sequence_entropy", "MonteCarloSequenceEntropy")
    assert_same(scores.PredictiveEntropy(), peer, {"sample_log_probs": SUMS})


def test_predictive_entropy_per_token():
    peer = estimator(
        "monte_carlo_normalized_sequence_entropy", "MonteCarloNormalizedSequenceEntropy"
    )
    # Its lists of tokens have no EOS; here they are those that the log-probs are of.
    stats = {"sample_log_probs": SUMS, "sample_tokens": TOKENS}
    assert_same(scores.PredictiveEntropy(per_token=True), peer, stats)


@pytest.mark.parametrize("kind", [ExactMatch(), DRAWN, RougeL()], ids=lambda kind: kind.name)
def test_semantic_entropies(kind):
    stats = {"sample_texts": TEXTS, "sample_log_probs": SUMS}
    stats["semantic_classes_entail"] = semantic_classes(kind, alike=0.9)
    frequency = estimator(
        "semantic_entropy", "SemanticEntropy", class_probability_estimation="frequency"
    )
    score = scores.DiscreteSemanticEntropy(kind, alike=0.9)
    np.testing.assert_allclose(score(ANSWERS), frequency(stats), atol=1e-6)
    assert_same(
        scores.SemanticEntropy(kind, alike=0.9),
        estimator("semantic_entropy", "SemanticEntropy"),
        stats,
    )


@pytest.mark.parametrize("kind", [RougeL(), DRAWN], ids=lambda kind: kind.name)
def test_sar(kind):
    stats = {"sample_sentence_similarity": matrices(kind), "sample_log_probs": SUMS}
    assert_same(scores.SentSAR(kind), estimator("sentence_sar", "SentenceSAR"), stats)

    def relevance(text, tokens):
        return np.random.default_rng(np.append(tokens, 7)).random(len(tokens))

    stats["sample_log_likelihoods"] = LOG_PROBS
    stats["sample_token_similarity"] = [
        [1 - relevance("", np.array(tokens)) for tokens in row] for row in TOKENS
    ]
    assert_same(scores.SAR(kind, relevance=relevance), estimator("sar", "SAR"), stats)


def test_lexical_similarity():
    peer = estimator("lexical_similarity", "LexicalSimilarity")
    assert_same(scores.LexicalSimilarity(PORTER), peer, {"sample_texts": TEXTS})
    assert_same(scores.LexicalSimilarity(), peer, {"sample_texts": TEXTS})  # no stems in these


@pytest.mark.parametrize(
    ("score", "peer"),
    [
        (scores.Deg, ("deg_mat", "DegMat")),
        (scores.EigV, ("eig_val_laplacian", "EigValLaplacian")),
        (scores.Ecc, ("eccentricity", "Eccentricity")),
    ],
)
def test_graphs_of_samples(score, peer):
    by_words = estimator(*peer, similarity_score="Jaccard_score")
    assert_same(score(), by_words, {"sample_texts": TEXTS})
    for kind in (Jaccard(), DRAWN):
        stats = {"sample_texts": TEXTS, "semantic_matrix_entail": matrices(kind)}
        assert_same(score(kind), estimator(*peer), stats)


@pytest.mark.medium  # imports torch
def test_num_set():
    pytest.importorskip("torch", reason="lm-polygraph's file imports torch: the extra peers")
    entail = matrices(DRAWN)
    stats = {
        "sample_texts": TEXTS,
        "semantic_matrix_entail": entail,
        "semantic_matrix_contra": np.full_like(entail, 0.9),
    }
    peer = estimator("num_sem_sets", "NumSemSets")
    np.testing.assert_array_equal(scores.NumSet(DRAWN, alike=0.9)(ANSWERS), peer(stats))


@pytest.mark.parametrize("kind", [RougeL(), DRAWN], ids=lambda kind: kind.name)
def test_kernel_language_entropy(kind):
    # Similarity is what it makes of entailment and half of what is neutral.
    entail = matrices(kind) * 0.8
    stats = {"semantic_matrix_entail": entail}
    stats["semantic_matrix_contra"] = 1 - entail - 2 * (matrices(kind) - entail)
    peer = estimator("kernel_language_entropy", "KernelLanguageEntropy")
    assert_same(scores.KernelLanguageEntropy(kind), peer, stats)


def test_where_ours_differs():
    """Where the peer has infinity, NaN, or another value: docs/scores.md lists these cases."""
    texts, sums = [["a", "b"]], [[-800.0, -792.0]]
    stats = {"sample_log_probs": sums, "sample_sentence_similarity": np.eye(2)[None]}
    with np.errstate(all="ignore"):
        assert np.isinf(estimator("sentence_sar", "SentenceSAR")(stats))
    ours = answers_of(texts, [[[value] for value in row] for row in sums])
    assert scores.SentSAR()(ours) == 796.0
    empty = {"sample_texts": [["", ""]]}
    assert estimator("deg_mat", "DegMat", similarity_score="Jaccard_score")(empty) == 0.5
    assert scores.Deg()(answers_of(empty["sample_texts"])) == 0.0
    assert estimator("lexical_similarity", "LexicalSimilarity")(empty) == 0.0
    assert scores.LexicalSimilarity()(answers_of(empty["sample_texts"])) == -1.0
    with pytest.warns(RuntimeWarning):
        assert np.isnan(
            estimator("lexical_similarity", "LexicalSimilarity")({"sample_texts": [["a"]]})
        )
    assert scores.LexicalSimilarity()(answers_of([["a"]])) == -1.0
