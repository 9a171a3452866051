"""Decoding rules: what is measured at a token, and whether the large model writes it instead.

`decode.py` asks a rule once for every proposed token. A rule is a pytree and an argument of the
compiled program: a rule of the same class with other values, thresholds say, compiles nothing. A
new rule is a class with the methods of `DecodingRule`; the decoding function takes one in place of
thresholds.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cascade_jax import checks, numerics
from cascade_jax.deferral import policy

LOG_PROB, ENTROPY, RANDOM = "log_prob", "entropy", "random"
UNCERTAINTIES = (LOG_PROB, ENTROPY, RANDOM)


@flax.struct.dataclass
class Proposal:
    """The small model's likeliest next token of each row.

    Attributes:
      position: of the token in the answer, from 0.
      token: its id, the lowest among equals.
      log_prob: of the token, in nats.
      entropy: of the next-token distribution, in nats.
      log_probs: of all tokens.
    """

    position: Int[Array, " B"]
    token: Int[Array, " B"]
    log_prob: Float[Array, " B"]
    entropy: Float[Array, " B"]
    log_probs: Float[Array, "B V"]


def propose(logits: Float[Array, "B V"], position: Int[Array, " B"]) -> Proposal:
    """The likeliest token, from the small model's logits at a position of each row."""
    log_probs = numerics.log_probs(logits)
    token = numerics.argmax(logits)
    return Proposal(
        position=position,
        token=token,
        log_prob=jnp.take_along_axis(log_probs, token[:, None], axis=-1)[:, 0],
        entropy=numerics.entropy(log_probs),
        log_probs=log_probs,
    )


@runtime_checkable
class DecodingRule(Protocol):
    """Who writes a token. All methods are traced."""

    def start(self, inputs: Int[Array, "B S"]) -> "DecodingRule":
        """The rule with what it needs of the inputs, before the first token."""

    def measure(self, proposal: Proposal) -> Float[Array, " B"]:
        """The uncertainty of each row's proposal, which is kept with the answer."""

    def defers(
        self, uncertainty: Float[Array, " B"], position: Int[Array, " B"]
    ) -> Bool[Array, " B"]:
        """In which rows the large model writes the token instead."""


@flax.struct.dataclass
class ThresholdRule:
    """Defers where one of three uncertainties is above the threshold of the position.

    Attributes:
      thresholds: of each row and position.
      kind: index of the uncertainty in UNCERTAINTIES.
      chances: evenly from 0 to 1 for each row and position; None before `start`.
    """

    thresholds: Float[Array, "B L"]
    kind: Int[Array, ""]
    chances: Float[Array, "B L"] | None = None

    def start(self, inputs: Int[Array, "B S"]) -> "ThresholdRule":
        """Draws the chances by a key of each input's own: no other row of the batch has a say."""
        odd = 2 * jax.random.bits(jax.random.key(0), inputs.shape[1:], jnp.uint32) + 1
        own = jnp.sum(inputs.astype(jnp.uint32) * odd[None], axis=1, dtype=jnp.uint32)
        keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.key(1), number))(own)
        shape = self.thresholds.shape[1:]
        return self.replace(chances=jax.vmap(lambda key: jax.random.uniform(key, shape))(keys))

    def measure(self, proposal: Proposal) -> Float[Array, " B"]:
        """Minus the log-prob of the token, the entropy, or chance."""
        chance = _at(self.chances, proposal.position)
        return jnp.stack([-proposal.log_prob, proposal.entropy, chance])[self.kind]

    def defers(
        self, uncertainty: Float[Array, " B"], position: Int[Array, " B"]
    ) -> Bool[Array, " B"]:
        """As `deferral/policy.py` defers."""
        return policy.defers(uncertainty, _at(self.thresholds, position))


def _at(values: Float[Array, "B L"], position: Int[Array, " B"]) -> Float[Array, " B"]:
    return jnp.take_along_axis(values, position[:, None], axis=1, mode="clip")[:, 0]


def as_rule(
    thresholds: "float | Sequence[float] | Float[Array, '...'] | DecodingRule",
    kind: Int[np.ndarray, ""],
    batch: int,
    max_length: int,
) -> DecodingRule:
    """A `ThresholdRule` of thresholds, see `make_cascade_decode_fn`; a rule as it is.

    Raises:
      ValueError: a threshold is NaN, or the shape is another.
    """
    if isinstance(thresholds, DecodingRule):
        return thresholds
    if not isinstance(thresholds, jax.core.Tracer):
        thresholds = np.asarray(thresholds, np.float32)
        checks.require(not np.isnan(thresholds).any(), "thresholds", thresholds, "no NaN")
    rows = jnp.atleast_2d(thresholds)
    if rows.ndim != 2 or len(rows) not in (1, batch) or not 1 <= rows.shape[-1] <= max_length:
        raise ValueError(
            f"thresholds of shape {jnp.shape(thresholds)}: expected one number, or one for each of "
            f"1 to max_length = {max_length} blocks of answer places, or such a row for each of "
            f"the {batch} inputs"
        )
    by_position = policy.by_position(rows, max_length)
    return ThresholdRule(jnp.broadcast_to(by_position, (batch, max_length)), kind)
