"""Sampled answers of few words, for the tests of their scores."""

import numpy as np

from cascade_jax.deferral.scores import AnswerTokens, SampledAnswers

WORDS = ("a", "b", "red", "dogs", "ran")


def answers_of(texts, log_probs=None, tokens=None, greedy=None, ids=None) -> AnswerTokens:
    """Answers of one token each, beside samples given as lists; log-probs default to -1 a word."""
    if log_probs is None:
        log_probs = [[[-1.0] * (len(text.split()) + 1) for text in row] for row in texts]
    samples = SampledAnswers.from_lists(texts, log_probs, tokens, greedy)
    n = len(texts)
    return AnswerTokens(np.full(n, -1.0), None, np.arange(n + 1), ids, samples_fn=lambda: samples)


def random_lists(seed: int, examples: int, counts=(1, 2, 3, 5), words=(0, 4)):
    """(texts, log-probs, token ids, greedy texts) of examples with n samples each, n of `counts`.

    Texts have so many words, of a few, that some are equal, some share words, and some are empty.
    """
    rng = np.random.default_rng(seed)
    texts, log_probs, tokens = [], [], []
    for n in rng.choice(counts, examples):
        ids = [
            rng.integers(0, len(WORDS), size) for size in rng.integers(words[0], words[1] + 1, n)
        ]
        texts.append([" ".join(WORDS[i] for i in sample) for sample in ids])
        tokens.append([[*sample.tolist(), 99] for sample in ids])
        log_probs.append([(-rng.exponential(size=len(sample) + 1)).tolist() for sample in ids])
    return texts, log_probs, tokens, [str(rng.choice(row)) for row in texts]
