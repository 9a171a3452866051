"""Teacher forcing: the likeliest next token at every position of a target, in one pass."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cascade_jax import numerics
from cascade_jax.batch import PAD_ID, Batch
from cascade_jax.inference import generate, places
from cascade_jax.losses import terms
from cascade_jax.models import families


@flax.struct.dataclass
class NextTokens:
    """Next-token predictions at every position of B targets, after the target's tokens before it.

    Example: where the target is "5 6 1" and the model would go on with 5, after "5" with 7, and
    after "5 6" with 1: ``tokens = [5 7 1]``.

    Attributes:
      tokens: the likeliest; of several the label if it is among them, as the loss counts it right,
        else the lowest id. 0 at padding, as everything is.
      log_probs: of these tokens, in nats.
      entropies: of each whole next-token distribution, in nats.
      top_log_probs: the K largest log-probs, descending. None without any (top_k = 0).
      top_ids: ids of their tokens, the lowest first among equals.
      hidden: what the logits are made of, float32; None if not asked for.
    """

    tokens: Int[Array, "B L"]
    log_probs: Float[Array, "B L"]
    entropies: Float[Array, "B L"]
    top_log_probs: Float[Array, "B L K"] | None = None
    top_ids: Int[Array, "B L K"] | None = None
    hidden: Float[Array, "B L D"] | None = None


@functools.lru_cache(maxsize=32)
def make_next_tokens_fn(
    model: families.Model,
    top_k: int = 0,
    with_hidden: bool = False,
    logits_at_once: int = places.LOGITS_AT_ONCE,
) -> Callable[[Mapping[str, Any], Int[Array, "B S"], Int[Array, "B L"]], NextTokens]:
    """A jitted `(params, inputs, targets) -> NextTokens`, compiled once for each pair of shapes.

    Targets are padded with 0 at the end. Logits are made of some places of all rows at a time.

    Args:
      model: an unbound module.
      top_k: how many of the largest log-probs are kept at each position.
      with_hidden: whether hidden states are kept.
      logits_at_once: the most logits held at a time, though at least those of one position of all
        rows.

    Raises:
      ValueError: if top_k is out of range.
    """
    vocab_size = model.config.vocab_size
    generate.check_top_k(top_k, vocab_size)

    def measure(params, hidden, labels):
        logits = model.apply({"params": params}, hidden, method="unembed")
        log_p = numerics.log_probs(logits)
        is_right = terms.is_correct(logits, labels)
        tokens = jnp.where(is_right, labels, numerics.argmax(logits).astype(labels.dtype))
        top_log_probs, top_ids = generate.top_of(logits, log_p, top_k) if top_k else (None, None)
        return NextTokens(
            tokens=tokens,
            log_probs=jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0],
            entropies=numerics.entropy(log_p),
            top_log_probs=top_log_probs,
            top_ids=top_ids,
            hidden=hidden.astype(jnp.float32) if with_hidden else None,
        )

    @jax.jit
    def next_tokens_fn(params, inputs, targets):
        shifted = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))
        weights = (targets != PAD_ID).astype(jnp.float32)
        hidden = families.hidden(model, params, Batch(inputs, shifted, targets, weights))
        fn = functools.partial(measure, params)
        return places.measure(fn, hidden, targets, vocab_size, logits_at_once)

    return next_tokens_fn
