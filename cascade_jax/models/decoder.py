"""Decoder-only Transformers in Flax Linen: Gemma 2 and 3, Llama 3, SmolLM2, Qwen 2.5 and 3.

Parameters: `token_embedder/embedding`, `layers_0..` (stacked as `layers` with `scan_layers`) with
`attention` and `mlp`, `final_norm`, and `logits_dense` where the logits are not tied.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from cascade_jax import axes
from cascade_jax.batch import PAD_ID, PREFIX_LM, Batch, DecoderBatch
from cascade_jax.models import layer_flops
from cascade_jax.models.attention import (
    GroupedAttention,
    Kind,
    Places,
    kind_of,
    take_places,
)
from cascade_jax.models.config import DecoderConfig
from cascade_jax.models.layers import MLP, Dense, Embed, norm, residual_constraint
from cascade_jax.models.packed_answers import PackedAnswers
from cascade_jax.models.probe import Probe
from cascade_jax.models.ragged import Ragged
from cascade_jax.models.slots import PackedInputs
from cascade_jax.models.stack import layer_stack, run_layers
from cascade_jax.unembedding import Unembedding

_PACKED = (
    "a decoder-only model cannot read packed encoder-decoder rows; set DataConfig.pack to False, "
    'or its architecture to "prefix_lm"'
)


class Layer(nn.Module):
    """Attention and MLP, each as `x + block(norm(x))`, or `x + norm(block(norm(x)))`."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B Q D"],
        kind: Kind,
        query_places: Places,
        key_places: Places,
        slot: Int[Array, ""] | Ragged | None,
        deterministic: bool,
    ) -> tuple[Float[Array, "B A D"], None]:
        """Returns the new residual stream at the places that `kind` asks for.

        The second output is None, as `nn.scan` wants one.
        """
        config = self.config
        y = norm(config, "pre_attention_norm")(x)
        y = GroupedAttention(config, name="attention")(y, kind, query_places, key_places, slot)
        x = kind.asked(x) + self._after("post_attention_norm", y, deterministic)
        y = norm(config, "pre_mlp_norm")(x)
        y = MLP(config, name="mlp")(y, deterministic)
        x = residual_constraint(x + self._after("post_mlp_norm", y, deterministic))
        if kind.probe is not None:
            kind.probe.put_states(self, kind.probed(x))
        return x, None

    def _after(self, name: str, y: Any, deterministic: bool) -> Any:
        y = norm(self.config, name)(y) if self.config.post_norms else y
        dropout = nn.Dropout(self.config.dropout_rate, broadcast_dims=(-2,))
        return dropout(y, deterministic=deterministic)


class Decoder(nn.Module):
    """A decoder-only language model. Dropout draws from the rng named "dropout"."""

    config: DecoderConfig

    def setup(self):
        config = self.config
        width = config.embed_dim
        scale = math.sqrt(width) if config.scaled_embedding else None
        self.token_embedder = Embed(config, stddev=width**-0.5, scale=scale)
        self.layers = layer_stack(Layer, config, config.num_layers, 5, has_own=True)
        self.final_norm = norm(config)
        if not config.tied_logits:
            kernel_axes = (axes.EMBED, axes.VOCAB)
            self.logits_dense = Dense(config.vocab_size, kernel_axes, "float32")

    def __call__(self, tokens: Int[Array, "B L"], **settings: Any) -> Float[Array, "B L V"]:
        """Logits of every next token, in float32; arguments as in `hidden`."""
        return self.unembed(self.hidden(tokens, **settings))

    def hidden(
        self,
        tokens: Int[Array, "B L"],
        *,
        is_prefix: Int[Array, "B L"] | None = None,
        segment_ids: Int[Array, "B L"] | None = None,
        positions: Int[Array, "B L"] | None = None,
        only_at: Int[Array, "B A"] | None = None,
        probe: Probe | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "B A D"]:
        """What `unembed` turns into logits; arguments as in `DecoderBatch`.

        With `only_at` only what predicts after these places of each row, where a probe looks too.

        Raises:
          ValueError: if only one of segment_ids and positions is given, or a probe without only_at.
        """
        if probe is not None:
            if only_at is None:
                raise ValueError("a probe looks at the places of only_at, which is None")
            probe = probe.replace(at=only_at)
        if (segment_ids is None) != (positions is None):
            raise ValueError("give segment_ids and positions together, or neither")
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
            segment_ids = jnp.ones_like(tokens)
        both_ways = jnp.zeros(tokens.shape, bool)
        if self.config.bidirectional_prefix and is_prefix is not None:
            both_ways = is_prefix.astype(bool)
        places = Places(positions, segment_ids, both_ways, jnp.ones(tokens.shape, bool))
        return self._run(tokens, places, places, None, deterministic, only_at, probe)

    def encode(self, inputs: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        """Hidden states of the input's tokens, read as a prompt."""
        tokens = jnp.pad(inputs, ((0, 0), (1, 0)))  # the start, then the input
        places = jnp.arange(tokens.shape[1])[None, :]
        is_prefix = places <= jnp.sum(inputs != PAD_ID, axis=1)[:, None]
        return self.hidden(tokens, is_prefix=is_prefix.astype(jnp.int32))[:, 1:]

    def hidden_after(self, inputs: PackedInputs, answers: PackedAnswers) -> Float[Array, "R W D"]:
        """Hidden states that predict each token of answers to packed inputs.

        A row is the packed inputs, then the answers, each after the last token of its input, as in
        `decode_step`. That token comes again for each answer, and is no key there.

        Example: input "7 8", answers "5 6" and "9" are read as ``[0 7 8 8 5 8]`` at the positions
        ``[0 1 2 2 3 2]``.
        """
        last, end = (
            jnp.take_along_axis(x, answers.input_ends, axis=1)
            for x in (inputs.tokens, inputs.positions)
        )
        starts, order = answers.is_first, jnp.arange(answers.tokens.shape[1])[None]
        positions = end + order - jax.lax.cummax(jnp.where(starts, order, 0), axis=1)

        def joined(input_part: Any, answer_part: Any) -> Array:
            return jnp.concatenate([input_part, answer_part], axis=1)

        is_input = inputs.segment_ids > 0
        both_ways = joined(is_input, starts) & self.config.bidirectional_prefix
        query = Places(
            joined(inputs.positions, positions),
            joined(inputs.segment_ids, answers.segment_ids),
            both_ways,
            jnp.ones(both_ways.shape, bool),
            joined(jnp.zeros_like(inputs.tokens), answers.numbers),
        )
        key = query.replace(is_readable=joined(is_input, ~starts))
        tokens = joined(inputs.tokens, answers.before(last))
        only_at = inputs.tokens.shape[1] + jnp.broadcast_to(order, answers.tokens.shape)
        return self._run(tokens, query, key, None, True, only_at)

    def unembed(self, hidden: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Projects hidden states to float32 logits."""
        embed, cap = self.token_embedder, self.config.logit_soft_cap
        logits = embed.attend(hidden) if self.config.tied_logits else self.logits_dense(hidden)
        if cap is not None:
            logits = cap * jnp.tanh(logits / cap)
        return nn.with_logical_constraint(logits, (axes.BATCH, axes.LENGTH, axes.VOCAB))

    def start_decoding(self, inputs: Int[Array, "B S"], max_length: int) -> Int[Array, " B"]:
        """Reads the inputs into a new cache; the first token is the last of each row's inputs.

        The cache has a place for the start and each input token, then `max_length` for the answer.
        """
        batch, size = inputs.shape
        tokens = jnp.pad(inputs, ((0, 0), (1, 0)))  # the start, then the inputs
        lengths, width = 1 + jnp.sum(inputs != PAD_ID, axis=1), size + 1 + max_length
        places = jnp.broadcast_to(jnp.arange(width), (batch, width))
        is_input = places < lengths[:, None]
        # The last input token comes again as the first token of `decode_step`.
        is_again = places == lengths[:, None] - 1
        both_ways = is_input & self.config.bidirectional_prefix
        key = Places(places, jnp.ones_like(places), both_ways, is_input)
        query = jax.tree.map(lambda x: x[:, : size + 1], key)
        self._run(tokens, query, key, jnp.zeros((), jnp.int32), True)
        self.put_variable("cache", "step", jnp.zeros((), jnp.int32))
        self.put_variable("cache", "lengths", lengths)
        self.put_variable("cache", "is_readable", is_input & ~is_again)
        return jnp.take_along_axis(tokens, lengths[:, None] - 1, axis=1)[:, 0]

    def read_packed(self, packed: PackedInputs) -> None:
        """Reads packed inputs, each after a start; the cache has their keys and values."""
        both_ways = (packed.segment_ids > 0) & self.config.bidirectional_prefix
        is_readable = jnp.ones(packed.tokens.shape, bool)
        places = Places(packed.positions, packed.segment_ids, both_ways, is_readable)
        self._run(packed.tokens, places, places, jnp.zeros((), jnp.int32), True)

    def decode_step(
        self, tokens: Int[Array, "B 1"], inputs: Int[Array, "B S"]
    ) -> Float[Array, "B 1 V"]:
        """Logits after one more token of every row."""
        step, lengths = self.get_variable("cache", "step"), self.get_variable("cache", "lengths")
        is_readable = self.get_variable("cache", "is_readable")
        first = inputs.shape[1] + 1  # place of the answer's part of the cache, which is a ring
        length = is_readable.shape[1] - first
        places = jnp.sum(is_readable[:, first:], axis=1, keepdims=True)  # of the tokens
        ages = (step - jnp.arange(length)) % length
        order = jnp.broadcast_to(jnp.arange(first + length), is_readable.shape)
        is_readable = is_readable | (order == first + step)
        key = self._cache_places(lengths, first, places - ages[None], is_readable)
        query = self._answer_places(lengths, places)
        hidden = self._run(tokens, query, key, first + step, True)
        self.put_variable("cache", "step", (step + 1) % length)
        self.put_variable("cache", "is_readable", is_readable)
        return self.unembed(hidden)

    def decode_ragged(
        self,
        tokens: Int[Array, "P K"],
        inputs: Int[Array, "B S"],
        where: Ragged,
        logits_at: Int[Array, " B"],
    ) -> Float[Array, "B V"]:
        """Logits after some more tokens of every row."""
        lengths = self.get_variable("cache", "lengths")
        first = inputs.shape[1] + 1  # place of the first answer token in the cache
        width = first + where.length
        order = jnp.broadcast_to(jnp.arange(width), (len(lengths), width))
        # A token never looks ahead, so that of the answer's places it sees those alone that are
        # written; the last input token counts as the answer's first.
        is_readable = (order < lengths[:, None] - 1) | (order >= first)
        places = jnp.broadcast_to(jnp.arange(where.length), (len(lengths), where.length))
        key = self._cache_places(lengths, first, places, is_readable)
        query = self._answer_places(lengths[where.rows], where.places)
        hidden = self._run(tokens, query, key, where, True)
        return self.unembed(hidden.reshape(-1, 1, hidden.shape[-1])[logits_at])[:, 0]

    def _cache_places(self, lengths, first, places, is_readable) -> Places:
        """Places [B T] of the cache: the inputs, and the answer's `places` from `first` on."""
        order = jnp.broadcast_to(jnp.arange(first), (len(lengths), first))
        positions = jnp.concatenate([order, lengths[:, None] - 1 + places], axis=1)
        both_ways = jnp.arange(is_readable.shape[1])[None] < lengths[:, None]
        both_ways = both_ways & self.config.bidirectional_prefix
        return Places(positions, jnp.ones_like(positions), both_ways, is_readable)

    def _answer_places(self, lengths, places) -> Places:
        """Tokens at these places [P K] of the answer; the first is the input's last token."""
        both_ways = (places == 0) & self.config.bidirectional_prefix
        is_readable = jnp.ones(places.shape, bool)
        positions = lengths[:, None] - 1 + places
        return Places(positions, jnp.ones_like(places), both_ways, is_readable)

    def _run(self, tokens, query_places, key_places, slot, deterministic, only_at=None, probe=None):
        """Hidden states of tokens, or at these places of theirs alone.

        `slot` is where they go in the cache, if there is one. What is not asked for is left out of
        the last layer but for its keys and values. A scan has no last layer that could differ.
        """
        config = self.config
        at_start = (query_places.positions == 0) & (tokens == PAD_ID)
        x = self.token_embedder(jnp.where(at_start, config.bos_id, tokens))
        layers = range(config.num_layers)
        kinds = [kind_of(config, layer).replace(probe=probe) for layer in layers]
        arguments = query_places, key_places, slot, deterministic
        if not config.scan_layers:
            kinds[-1] = kinds[-1].replace(only_at=only_at)
        x = run_layers(self.layers, x, *arguments, own=kinds)
        if config.scan_layers and only_at is not None:
            x = take_places(x, only_at)
        return self.final_norm(x)

    # What follows needs no parameters; see `families.Family`.

    start_places = 1

    @nn.nowrap
    def example_arguments(self) -> tuple:
        """Arguments of `init`."""
        return (jnp.zeros((1, 1), jnp.int32),)

    @nn.nowrap
    def stacks(self) -> dict[str, int]:
        """Layers of the one stack, which stands at the top of the parameter tree."""
        return {"": self.config.num_layers}

    @nn.nowrap
    def check_reads(self, architecture: str, pack: bool) -> None:
        """Refuses packed encoder-decoder rows."""
        if pack and architecture != PREFIX_LM:
            raise ValueError(_PACKED)

    @nn.nowrap
    def reading(self, batch: Batch | DecoderBatch) -> tuple[tuple, dict[str, Any]]:
        """The arguments of `hidden` that read a batch and predict its targets."""
        rows, only_at = batch, None
        if isinstance(batch, Batch):
            if batch.input_segment_ids is not None:
                raise ValueError(_PACKED)
            rows = joined_rows(batch)
            # Where in these rows stands what predicts each target.
            only_at = _input_lengths(batch)[:, None] + jnp.arange(batch.targets.shape[1])[None]
        settings = {name: getattr(rows, name) for name in ("is_prefix", "segment_ids", "positions")}
        return (rows.tokens,), settings | {"only_at": only_at}

    @nn.nowrap
    def unembedding(self, params: Mapping[str, Any]) -> Unembedding:
        """The map from `hidden` to the logits of `unembed`."""
        is_tied, cap = self.config.tied_logits, self.config.logit_soft_cap
        name = ("token_embedder", "embedding") if is_tied else ("logits_dense", "kernel")
        return Unembedding(params[name[0]][name[1]], tied=is_tied, soft_cap=cap)

    @nn.nowrap
    def _layer_flops(self, queries: int, keys: int) -> int:
        """One layer; windows only mask."""
        attention = layer_flops.self_attention(self.config, queries, keys)
        return attention + queries * layer_flops.mlp(self.config)

    @nn.nowrap
    def _token_flops(self, queries: int, keys: int) -> int:
        """All layers, without the logits."""
        return self.config.num_layers * self._layer_flops(queries, keys)

    @nn.nowrap
    def state_flops(self, input_length: int, layer: int) -> int:
        """Reading an input, and the first step up to the state after a layer."""
        reading = self._layer_flops(input_length, input_length)
        return (layer + 1) * (reading + self._layer_flops(1, input_length + 1))

    @nn.nowrap
    def prefill_flops(self, input_length: int) -> int:
        """Reading an input."""
        return self._token_flops(input_length, input_length)

    @nn.nowrap
    def forward_flops(self, input_length: int, target_length: int) -> int:
        """Reading input and target as one row, and predicting all target tokens."""
        length = input_length + target_length
        logits = target_length * layer_flops.logits(self.config)
        return self._token_flops(length, length) + logits

    @nn.nowrap
    def decode_flops(self, input_length: int, position: int) -> int:
        """One more answer token with a cache."""
        keys = input_length + position + 1
        return self._token_flops(1, keys) + layer_flops.logits(self.config)


def joined_rows(batch: Batch) -> DecoderBatch:
    """Each row's input and, right after it, its target, in rows of S + L places.

    Example: inputs "7 8 0" and targets "5 6 1 0": ``tokens = [0 7 8 5 6 1 0]``,
    ``targets = [7 8 5 6 1 0 0]``, ``weights = [0 0 1 1 1 0 0]``,
    ``is_prefix = [1 1 1 0 0 0 0]``. The batch is not packed, and inputs are padded at the end.
    """
    width = batch.inputs.shape[1] + batch.targets.shape[1]
    lengths = _input_lengths(batch)[:, None]
    place = jnp.broadcast_to(jnp.arange(width), (batch.inputs.shape[0], width))

    def take(array: Array, index: Int[Array, "B W"]) -> Array:
        """array[row, index], and 0 outside of it."""
        inside = (index >= 0) & (index < array.shape[1])
        values = jnp.take_along_axis(array, jnp.where(inside, index, 0), axis=1)
        return jnp.where(inside, values, jnp.zeros_like(values))

    is_input = place < lengths
    targets = jnp.where(is_input, take(batch.inputs, place), take(batch.targets, place - lengths))
    weights = jnp.where(is_input, 0.0, take(batch.weights, place - lengths))
    return DecoderBatch(
        tokens=jnp.pad(targets[:, :-1], ((0, 0), (1, 0))),
        targets=targets,
        weights=weights,
        is_prefix=(place <= lengths).astype(jnp.int32),
    )


def _input_lengths(batch: Batch) -> Int[Array, " B"]:
    return jnp.sum(batch.inputs != PAD_ID, axis=1)
