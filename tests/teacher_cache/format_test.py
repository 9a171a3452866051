"""Facts as bytes: what is written is read, and rounding stays within the stated error."""

import math

import numpy as np
import pytest

from cascade_jax.teacher_cache.format import FLOORS, Holding, TokenFacts

ERRORS = {"float32": 0.0, "uint16": 0.00025, "uint8": 0.032}  # of docs/teacher_cache.md


def facts(tokens: int, vocab: int, k: int, seed: int = 0) -> TokenFacts:
    """Those of random distributions, some of them very sure."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(tokens, vocab)) * rng.choice([1, 10], (tokens, 1))
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    ids = np.argsort(-log_p, axis=-1)[:, :k]
    kept = np.take_along_axis(log_p, ids, -1)
    with np.errstate(divide="ignore"):
        tail = np.log(np.maximum(1 - np.exp(kept).sum(-1), 0))
    return TokenFacts(
        rng.random(tokens) < 0.5,
        log_p[:, 0].astype(np.float32),
        ids.astype(np.int32),
        kept.astype(np.float32),
        tail.astype(np.float32),
    )


@pytest.mark.parametrize("dtype", FLOORS)
@pytest.mark.parametrize("vocab, k", [(40, 0), (40, 5), (40, 40), (70_000, 3)])
@pytest.mark.parametrize("tokens", [0, 1, 8, 13])
def test_what_is_written_is_read_within_the_stated_error(dtype, vocab, k, tokens):
    holding = Holding(vocab, k, dtype)
    arguments = facts(tokens, vocab, k)
    record = holding.encode(arguments)
    assert len(record) == holding.num_bytes(tokens)
    actual = holding.decode(record, tokens)
    np.testing.assert_array_equal(actual.label_is_best, arguments.label_is_best)
    floor = -math.inf if FLOORS[dtype] is None else -FLOORS[dtype]
    names = ["label_log_probs", *["log_probs"] * (k > 0), *["log_tail"] * (0 < k < vocab)]
    for name in names:
        mine, true = holding.unrounded(getattr(actual, name)), getattr(arguments, name)
        np.testing.assert_allclose(mine, np.maximum(true, floor), atol=ERRORS[dtype], rtol=0)
    if k:
        np.testing.assert_array_equal(actual.ids, arguments.ids)
    else:
        assert actual.ids is None and actual.log_probs is None
    assert (actual.log_tail is None) == (not 0 < k < vocab)


def test_bytes_of_a_token_are_those_of_the_table():
    def per_token(**settings):
        return Holding(32_128, **settings).num_bytes(8000) / 8000

    assert per_token(label_log_probs=False) == 1 / 8
    assert per_token() == 1 / 8 + 4
    assert per_token(top_k=64) == 1 / 8 + 4 + 64 * (2 + 4) + 4
    assert per_token(top_k=64, dtype="uint16") == 1 / 8 + 2 + 64 * (2 + 2) + 2
    assert per_token(top_k=64, dtype="uint8") == 1 / 8 + 1 + 64 * (2 + 1) + 1


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"top_k": 41}, "top_k is 41; must be 0 .none. to 40, the vocabulary of the teacher"),
        ({"top_k": True}, "top_k is True"),
        ({"dtype": "uint61"}, "must be one of .*did you mean 'uint16'"),
        ({"label_log_probs": 1}, "label_log_probs is 1; must be True or False"),
    ],
)
def test_what_cannot_be_held_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Holding(40, **settings)
