"""The probes of one teacher-forced pass over inputs and the model's own answers."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from cascade_jax import numerics
from cascade_jax.collection.probes.base import (
    LOGITS,
    STATES,
    PassProbe,
    Seen,
    check_layers,
)
from cascade_jax.models import families, flops
from cascade_jax.models.config import ModelConfig
from cascade_jax.models.probe import FIRST, MEAN


def _vocab_size(seen: Seen) -> Float[Array, " B"]:
    return jnp.full(len(seen.answers), seen.vocab_size, jnp.float32)


@dataclasses.dataclass(frozen=True)
class SelfCertainty(PassProbe):
    """The mean over the vocabulary of the log-probs at each token, ``(1/V) * sum_v log p_v``.

    Ids that can't come, with a logit of minus infinity, are left out of the mean, not of V.
    """

    columns: ClassVar[tuple[str, ...]] = ("mean_log_probs", "vocab_size")
    reads: ClassVar[tuple[str, ...]] = (LOGITS,)

    def measure(self, seen: Seen) -> Mapping[str, Array]:
        def mean(log_p: Float[Array, "B P V"]) -> Float[Array, "B P"]:
            is_possible = log_p > numerics.LOWEST / 2
            total = jnp.sum(jnp.where(is_possible, log_p, 0.0), axis=-1)
            return total / jnp.sum(is_possible, axis=-1).astype(jnp.float32)

        return {"mean_log_probs": seen.on_log_probs(mean), "vocab_size": _vocab_size(seen)}


@dataclasses.dataclass(frozen=True)
class PreviousAttention(PassProbe):
    """How much the place that predicts a token attends to the token before it, which it reads.

    Of each layer it is that of the head with the largest mean over the answer's tokens after the
    first: the heads are chosen anew for each answer.

    Attributes:
      layers: counted from 0, of a T5 of its decoder; None for the paper's middle third: of n layers
        those from ``n // 3`` to ``ceil(2 n / 3)``, both included.

    Reference: Vazhentsev et al. 2025, RAUQ. Their code takes the weights of the step that writes a
    token, whose query is the token before.
    """

    layers: Sequence[int] | None = None
    columns: ClassVar[tuple[str, ...]] = ("previous_attention", "vocab_size")

    def __post_init__(self):
        _make_layers(self)

    def check(self, config: ModelConfig, top_k: int, samples: int) -> None:
        check_layers("PreviousAttention.layers", self.layers or (), config)

    def attention_layers(self, count: int) -> tuple[int, ...]:
        if self.layers is not None:
            return self.layers
        return tuple(range(count // 3, min(math.ceil(2 * count / 3) + 1, count)))

    def measure(self, seen: Seen) -> Mapping[str, Array]:
        attention = seen.attention[jnp.array(self.attention_layers(len(seen.attention)))]
        is_after = seen.is_token.at[:, 0].set(False)[None, :, :, None]
        totals = jnp.sum(jnp.where(is_after, attention, 0.0), axis=2, keepdims=True)
        head = numerics.argmax(totals)[..., None]  # of each layer and answer
        chosen = jnp.take_along_axis(attention, head, axis=-1)[..., 0]
        previous = jnp.moveaxis(chosen, 0, -1)
        return {"previous_attention": previous, "vocab_size": _vocab_size(seen)}


@dataclasses.dataclass(frozen=True)
class SelfAttention(PassProbe):
    """The mean over a layer's heads of ``log(a + 1e-12)``: how much each place attends to itself.

    The value of a token is that of the place that predicts it.

    Attributes:
      layer: counted from 0, of a T5 of its decoder; None for ``n // 2`` of n.

    Reference: Sriramanan et al. 2024, LLM-Check, attention score.
    """

    layer: int | None = None
    columns: ClassVar[tuple[str, ...]] = ("self_attention_logs",)

    def check(self, config: ModelConfig, top_k: int, samples: int) -> None:
        check_layers("SelfAttention.layer", _as_tuple(self.layer), config)

    def attention_layers(self, count: int) -> tuple[int, ...]:
        return (count // 2 if self.layer is None else self.layer,)

    def measure(self, seen: Seen) -> Mapping[str, Array]:
        (layer,) = self.attention_layers(len(seen.attention))
        attention = seen.attention[layer]
        return {"self_attention_logs": jnp.mean(jnp.log(attention + 1e-12), axis=-1)}


@dataclasses.dataclass(frozen=True)
class Relevance(PassProbe):
    """How much an answer's vector turns if a token is left out of it: one minus their cosine.

    The vector is the mean of the model's last hidden states at the places that predict the tokens.
    The end of sequence has relevance 0.

    Ours, in place of the paper's cross-encoder of the answer's text with and without the token: it
    needs no second model and reads the answer once, but a token that is left out was still seen by
    those after it.
    """

    columns: ClassVar[tuple[str, ...]] = ("relevances",)

    def measure(self, seen: Seen) -> Mapping[str, Array]:
        is_token = seen.is_token[:, :, None]
        hidden = jnp.where(is_token, seen.hidden.astype(jnp.float32), 0.0)
        whole = jnp.sum(hidden, axis=1, keepdims=True)  # sums have the directions of means
        # Half the squared distance of unit vectors: one minus a cosine near one would be rounding.
        turned = 0.5 * jnp.sum(jnp.square(_unit(whole) - _unit(whole - hidden)), axis=-1)
        return {"relevances": jnp.where(seen.answers == seen.eos_id, 0.0, turned)}


def _unit(vectors: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    """Vectors of length one in the same directions; 0 for 0."""
    return numerics.safe_ratio(vectors, jnp.linalg.norm(vectors, axis=-1, keepdims=True))


@dataclasses.dataclass(frozen=True)
class States(PassProbe):
    """Hidden states after some layers: at the end of the input, and the mean over the answer.

    At the end of the input is the place that predicts the first token: the input's last token, and
    of a T5 the start of its decoder, which has read the whole input. The mean is over the places
    that predict the answer's tokens. Those of several layers lie end to end, layers rising.

    Attributes:
      layers: counted from 0, or one layer; of a T5 of its decoder. None for ``n // 2`` of n.

    Reference: Azaria and Mitchell 2023, The Internal State of an LLM Knows When It's Lying.
    """

    layers: Sequence[int] | int | None = None
    columns: ClassVar[tuple[str, ...]] = ("input_state", "answer_state", "input_state_flops")
    reads: ClassVar[tuple[str, ...]] = (STATES,)

    def __post_init__(self):
        _make_layers(self)

    def check(self, config: ModelConfig, top_k: int, samples: int) -> None:
        check_layers("States.layers", self.layers or (), config)

    def state_layers(self, count: int) -> tuple[int, ...]:
        """The layers after which it takes states, in order, in a model with `count` layers."""
        return (count // 2,) if self.layers is None else tuple(sorted(self.layers))

    def input_columns(
        self, config: ModelConfig, input_length: int
    ) -> Mapping[str, Sequence[float]]:
        layers = self.state_layers(families.answer_layers(config))
        spent = [flops.state_flops(config, input_length, layer) for layer in layers]
        return {"input_state_flops": list(map(float, spent))}

    def measure(self, seen: Seen) -> Mapping[str, Array]:
        layers = jnp.array(self.state_layers(len(seen.states)))
        states = jnp.moveaxis(seen.states[layers], 0, 2)  # [B 3 layers D]
        states = states.reshape(*states.shape[:2], -1)
        return {"input_state": states[:, FIRST], "answer_state": states[:, MEAN]}


def _make_layers(probe: "PreviousAttention | States") -> None:
    """Makes a probe's layers a tuple; refuses an empty list and a layer that is listed twice."""
    if probe.layers is not None:
        is_list = isinstance(probe.layers, Sequence) and not isinstance(probe.layers, str)
        layers = tuple(probe.layers) if is_list else (probe.layers,)
        object.__setattr__(probe, "layers", layers)
        if not layers or len(set(layers)) < len(layers):
            raise ValueError(f"layers is {list(layers)}; must be different layers, or None")


def _as_tuple(layer: int | None) -> tuple[int, ...]:
    return () if layer is None else (layer,)
