"""Answers drawn at random: the distribution of a token, and random keys that only its place sets.

The engine (`engine.samples`) draws n answers to each input. The key of a token is folded from the
seed, the name of its example, the number of the sample and the token's place in the answer. So
batches, padding, order, other examples, a resumed run and the number of hosts change no answer, but
for the rounding of logits: a token differs where two outcomes are equal to about 1e-6.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from cascade_jax import checks, numerics
from cascade_jax.inference import largest

TEMPERATURES = (1e-6, 1e6)  # beyond which float32 knows no other answers than at these
_KEYS = "threefry2x32"  # whatever JAX's default is


@dataclasses.dataclass(frozen=True)
class Distribution:
    """Which distribution tokens are drawn from: the model's, flattened or sharpened, and cut.

    In this order, as in transformers and vLLM:

        p(v) ~ exp(logit(v) / temperature)
        then only the top_k largest
        then only the fewest of the largest that have at least top_p of what is left

    and what is left adds up to 1. Tokens as likely as the last one that is kept are kept too, so no
    order of ids matters.

    Example: probabilities ``[0.5 0.3 0.2]`` with ``top_p = 0.7`` become ``[0.625 0.375 0]``.

    Attributes:
      temperature: 1 for the model's own; below 1 likely tokens become likelier.
      top_p: above 0; 1 cuts nothing.
      top_k: 0, or as many as there are, cuts nothing.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self):
        low, high = TEMPERATURES
        is_allowed = checks.is_number(self.temperature) and low <= self.temperature <= high
        allowed = f"a number from {low:g} to {high:g} (the limit at 0 is the greedy answer)"
        checks.require(is_allowed, "temperature", self.temperature, allowed)
        checks.positive("top_p", self.top_p, most=1.0)
        checks.whole_number("top_k", self.top_k, 0)

    def log_probs(self, logits: Float[Array, "*n V"]) -> Float[Array, "*n V"]:
        """Log-probs in nats of the tokens that may be drawn; about -1e30 for all others."""
        logits = logits.astype(jnp.float32)
        logits = logits - jnp.max(logits, axis=-1, keepdims=True)
        log_p = numerics.log_probs(logits, temperature=self.temperature)
        if 0 < self.top_k < log_p.shape[-1]:
            log_p = numerics.log_probs(log_p, where=_fewest(log_p, jnp.ones(()), self.top_k))
        if self.top_p < 1:
            log_p = numerics.log_probs(log_p, where=_fewest(log_p, jnp.exp(log_p), self.top_p))
        return log_p


def _fewest(log_p: Float[Array, "*n V"], weights: Array, least: float) -> Bool[Array, "*n V"]:
    """Whether an outcome is one of the fewest of the likeliest that weigh `least` together.

    The least log-prob among these is found by bisection: as bits, numbers above 0 have the order of
    integers. Sorting a vocabulary would take several times as long.
    """
    bits = jax.lax.bitcast_convert_type(jnp.maximum(-log_p, 0.0), jnp.int32)
    low = jnp.full((*log_p.shape[:-1], 1), -1, jnp.int32)
    high = jnp.full_like(low, 0x7F800000)  # the bits of infinity

    def halve(_, ends):  # outcomes up to `high` weigh enough, those up to `low` do not
        low, high = ends
        middle = low + (high - low) // 2
        weight = jnp.sum(jnp.where(bits <= middle, weights, 0.0), axis=-1, keepdims=True)
        is_enough = weight >= least
        return jnp.where(is_enough, low, middle), jnp.where(is_enough, middle, high)

    return bits <= jax.lax.fori_loop(0, 31, halve, (low, high))[1]


def draw(
    keys: UInt32[Array, "B 2"], places: Int[Array, " B"], log_p: Float[Array, "B V"]
) -> Int[Array, " B"]:
    """One token of each row, drawn from its distribution.

    First a block of tokens, then one of its tokens: so few random numbers are needed, and those of
    unlikely tokens are as exact as others.

    Args:
      keys: of the rows' answers, from `answer_keys`.
      places: of the tokens in their answers, from 0.
      log_p: what is drawn from; -1e30 is never drawn.
    """
    blocks = largest.in_blocks(log_p)

    def one(key, place, block_log_p, blocks):
        key = jax.random.fold_in(jax.random.wrap_key_data(key, impl=_KEYS), place)
        first, second = jax.random.split(key)
        block = jax.random.categorical(first, block_log_p)
        return block * blocks.shape[1] + jax.random.categorical(second, blocks[block])

    return jax.vmap(one)(keys, places, numerics.log_sum_exp(blocks), blocks).astype(jnp.int32)


def answer_keys(seed: int, names: Sequence[str], count: int) -> UInt32[np.ndarray, "N n 2"]:
    """Random keys of n answers to each of N examples.

    Args:
      seed: of all.
      names: of the examples. Only a 64-bit hash of an example's own name goes into its keys.
      count: how many answers to each. Those of a smaller count are the first of a larger one.

    Raises:
      ValueError: the seed is no whole number from 0 to 2 ** 31 - 1, or count is below 1.
    """
    checks.whole_number("seed", seed, 0)
    checks.whole_number("count", count, 1)
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names]
    words = np.frombuffer(b"".join(digests), "<u4").reshape(-1, 2)
    return np.asarray(_answer_keys(np.uint32(seed), words, count))


@functools.partial(jax.jit, static_argnums=2)
def _answer_keys(seed, words, count):
    def one(words, number):
        key = jax.random.key(seed, impl=_KEYS)
        for part in (words[0], words[1], number):
            key = jax.random.fold_in(key, part)
        return jax.random.key_data(key)

    by_number = jax.vmap(one, in_axes=(None, 0))
    return jax.vmap(by_number, in_axes=(0, None))(words, jnp.arange(count))
