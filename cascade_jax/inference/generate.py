"""Batched decoding with a key-value cache: greedy, or a token of each row drawn at random."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from cascade_jax import checks, numerics
from cascade_jax.inference import largest
from cascade_jax.inference.sample import Distribution, draw
from cascade_jax.models import families


@flax.struct.dataclass
class Generation:
    """Answers of B rows; everything after a row's end of sequence is 0.

    Example: the answer "5 6" with end of sequence 1 in a row of length 4:
    ``tokens = [5 6 1 0]``, ``lengths = 3``.

    Attributes:
      tokens: chosen ids, the end of sequence included.
      log_probs: of each chosen token, in nats.
      entropies: of each whole next-token distribution, in nats.
      lengths: number of tokens, the end of sequence included; max_length for a row without one.
      top_log_probs: the K largest log-probs of each next-token distribution, descending; the first
        is that of a greedy answer's token. None without any (top_k = 0).
      top_ids: ids of their tokens, the lowest first among equals.
      drawn_log_probs: of each token, in the distribution that it was drawn from. None of greedy
        answers.
    """

    tokens: Int[Array, "B L"]
    log_probs: Float[Array, "B L"]
    entropies: Float[Array, "B L"]
    lengths: Int[Array, " B"]
    top_log_probs: Float[Array, "B L K"] | None = None
    top_ids: Int[Array, "B L K"] | None = None
    drawn_log_probs: Float[Array, "B L"] | None = None


@flax.struct.dataclass
class Decoding:
    """B rows on their way; their answers' lengths are those so far.

    Attributes:
      last: the token that a model reads next.
      has_ended: by its end of sequence or its length; such a row stays as it is.
      answers: what there is of them, 0 after a row's last token.
      cache: of the model.
      keys: of the answers, where tokens are drawn at random.
    """

    last: Int[Array, " B"]
    has_ended: Bool[Array, " B"]
    answers: Generation
    cache: Any
    keys: UInt32[Array, "B 2"] | None = None


@functools.lru_cache(maxsize=32)
def make_generate_fn(
    model: families.Model, max_length: int, eos_id: int, top_k: int = 0
) -> Callable[[Mapping[str, Any], Int[Array, "B S"]], Generation]:
    """A jitted `(params, inputs) -> Generation`, compiled once for each shape of inputs.

    The most likely token at every step, until all rows have ended or are max_length long. Every id
    is allowed, padding (0) too: it is the model's own argmax, the lowest id among equals. Equal
    arguments give the same function. Log-probs are float32, whatever dtype the model computes in.

    Args:
      model: an unbound module.
      max_length: the most tokens that an answer may have, the end of sequence included.
      eos_id: id that ends a row.
      top_k: how many of the largest log-probs of each token are kept; 0 costs nothing.

    Raises:
      ValueError: if max_length, eos_id or top_k is out of range.
    """
    check_lengths(max_length, eos_id, model.config.vocab_size)
    check_top_k(top_k, model.config.vocab_size)

    @jax.jit
    def generate_fn(params, inputs):
        first, cache = families.start_decoding(model, params, inputs, max_length)
        has_ended = jnp.zeros(first.shape, bool)
        start = Decoding(first, has_ended, no_answers(len(first), max_length, top_k), cache)
        return jax.lax.while_loop(
            lambda state: ~jnp.all(state.has_ended),
            lambda state: next_tokens(model, params, inputs, state, eos_id, top_k),
            start,
        ).answers

    return generate_fn


def check_lengths(max_length: int, eos_id: int, vocab_size: int) -> None:
    """Refuses answers of no token, and an end of sequence that is not in the vocabulary."""
    checks.whole_number("max_length", max_length, 1)
    last = vocab_size - 1
    checks.require(0 <= eos_id <= last, "eos_id", eos_id, f"an id of the vocabulary, 0 to {last}")


def check_top_k(top_k: int, vocab_size: int) -> None:
    """Refuses more log-probs of a token than there are tokens."""
    allowed = f"from 0 (none) to {vocab_size}, the vocabulary"
    checks.require(0 <= top_k <= vocab_size, "top_k", top_k, allowed)


def top_of(
    logits: Float[Array, "*n V"], log_p: Float[Array, "*n V"], top_k: int
) -> tuple[Float[Array, "*n K"], Int[Array, "*n K"]]:
    """The K largest log-probs and their ids, in the order of the logits, as argmax has it."""
    ids = largest.top_k(logits, top_k)[1].astype(jnp.int32)
    return jnp.take_along_axis(log_p, ids, axis=-1), ids


def no_answers(rows: int, max_length: int, top_k: int, are_drawn: bool = False) -> Generation:
    """Answers of no tokens."""
    shape, top = (rows, max_length), (rows, max_length, top_k)
    return Generation(
        tokens=jnp.zeros(shape, jnp.int32),
        log_probs=jnp.zeros(shape, jnp.float32),
        entropies=jnp.zeros(shape, jnp.float32),
        lengths=jnp.zeros((rows,), jnp.int32),
        top_log_probs=jnp.zeros(top, jnp.float32) if top_k else None,
        top_ids=jnp.zeros(top, jnp.int32) if top_k else None,
        drawn_log_probs=jnp.zeros(shape, jnp.float32) if are_drawn else None,
    )


def next_tokens(
    model: families.Model,
    params: Mapping[str, Any],
    inputs: Int[Array, "B S"],
    state: Decoding,
    eos_id: int,
    top_k: int,
    distribution: Distribution | None = None,
) -> Decoding:
    """Appends the likeliest token, or one that is drawn, to the rows that have not ended."""
    logits, updated = model.apply(
        {"params": params, "cache": state.cache},
        state.last[:, None],
        inputs,
        method="decode_step",
        mutable=["cache"],
    )
    return _advance(state, logits[:, 0], updated["cache"], eos_id, top_k, distribution)


def _advance(state, logits, cache, eos_id, top_k, distribution):
    """Appends the argmax of logits [B V], or a draw, to the rows that have not ended."""
    log_p = numerics.log_probs(logits)
    new = {"entropies": numerics.entropy(log_p)}
    if top_k:
        new["top_log_probs"], new["top_ids"] = top_of(logits, log_p, top_k)
    if distribution is None:  # the first of the top is the argmax
        chosen = new["top_ids"][:, 0] if top_k else numerics.argmax(logits)
    else:
        drawn_from = distribution.log_probs(logits)
        chosen = draw(state.keys, state.answers.lengths, drawn_from)
        new["drawn_log_probs"] = _at(drawn_from, chosen)
    new["log_probs"] = _at(log_p, chosen)
    new["tokens"] = chosen = jnp.where(state.has_ended, 0, chosen)
    old, takes = state.answers, ~state.has_ended
    lengths = old.lengths + takes

    def put(name, new):
        values = getattr(old, name)
        is_here = (jnp.arange(values.shape[1])[None] == old.lengths[:, None]) & takes[:, None]
        is_here = jnp.expand_dims(is_here, range(2, values.ndim))
        return jnp.where(is_here, new[:, None].astype(values.dtype), values)

    has_ended = (chosen == eos_id) | (lengths == old.tokens.shape[1])
    return state.replace(
        last=chosen,
        has_ended=state.has_ended | (takes & has_ended),
        answers=old.replace(lengths=lengths, **{name: put(name, new[name]) for name in new}),
        cache=cache,
    )


def _at(values, ids):
    """From each row of [B V], the value at its id."""
    return jnp.take_along_axis(values, ids[:, None], axis=-1)[:, 0]
