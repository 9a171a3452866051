"""Answers of any lengths for the tests of scores."""

import dataclasses

import numpy as np
from hypothesis import strategies as st

from cascade_jax.deferral.scores import AnswerTokens

LISTS = st.lists(
    st.lists(st.floats(-50, 0, allow_nan=False, width=32), min_size=1, max_size=7),
    min_size=1,
    max_size=20,
)


def answers_of(lists, ids=None, dtype=np.float32, k=0) -> AnswerTokens:
    """Answers with the given log-probs; with K also top log-probs and entropies drawn for them."""
    offsets = np.cumsum([0] + [len(part) for part in lists])
    values = np.array([x for part in lists for x in part], dtype)
    if not k:
        return AnswerTokens(values, None, offsets, ids)
    rng = np.random.default_rng(len(values))
    logits = rng.normal(size=(len(values), k + 3)) * 3
    log_probs = logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
    top = -np.sort(-log_probs, axis=1)[:, :k]
    entropies = -np.sum(np.exp(log_probs) * log_probs, axis=1)
    return AnswerTokens(values, entropies.astype(dtype), offsets, ids, top.astype(dtype))


def probed(lists, layers=3, vocab_size=40) -> AnswerTokens:
    """Answers with these log-probs, and all columns that probes measure drawn for them."""
    answers = answers_of(lists, k=2)
    rng = np.random.default_rng(len(answers.log_probs) + 1)
    count = len(answers.log_probs)
    per_token = {
        "mean_log_probs": -np.log(vocab_size) - rng.exponential(size=count),
        "previous_attention": rng.random((count, layers)),
        "self_attention_logs": np.log(rng.random(count)),
        "relevances": rng.random(count),
        "surface_log_probs": -rng.exponential(size=count),
    }
    per_token = {name: values.astype(np.float32) for name, values in per_token.items()}
    sizes = np.full(answers.num_examples, vocab_size, np.int32)
    return dataclasses.replace(answers, per_token=per_token, per_example={"vocab_size": sizes})


def rows_of(answers: AnswerTokens, values) -> list[np.ndarray]:
    """The values of each answer, in float64."""
    pairs = zip(answers.offsets[:-1], answers.offsets[1:], strict=True)
    return [np.asarray(values[a:b], np.float64) for a, b in pairs]
