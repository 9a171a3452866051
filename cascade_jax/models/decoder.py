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
from cascade_jax.batch import PAD_ID
from cascade_jax.models.attention import GroupedAttention, Kind, Places, kind_of
from cascade_jax.models.config import DecoderConfig
from cascade_jax.models.layers import MLP, Dense, RMSNorm, residual_constraint
from cascade_jax.models.ragged import Ragged
from cascade_jax.models.stack import layer_stack, run_layers
from cascade_jax.unembedding import Unembedding


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
    ) -> tuple[Float[Array, "B Q D"], None]:
        """Returns the new residual stream, and None as `nn.scan` wants a second output."""
        config = self.config
        y = self._norm("pre_attention_norm")(x)
        y = GroupedAttention(config, name="attention")(y, kind, query_places, key_places, slot)
        x = x + self._after("post_attention_norm", y, deterministic)
        y = self._norm("pre_mlp_norm")(x)
        y = MLP(config, name="mlp")(y, deterministic)
        return residual_constraint(x + self._after("post_mlp_norm", y, deterministic)), None

    def _norm(self, name: str) -> RMSNorm:
        config = self.config
        return RMSNorm(config.dtype, config.norm_epsilon, config.norm_adds_one, name=name)

    def _after(self, name: str, y: Any, deterministic: bool) -> Any:
        y = self._norm(name)(y) if self.config.post_norms else y
        dropout = nn.Dropout(self.config.dropout_rate, broadcast_dims=(-2,))
        return dropout(y, deterministic=deterministic)


class TokenEmbedding(nn.Module):
    """Rows of the embedding, scaled where the family does so."""

    config: DecoderConfig

    def setup(self):
        config = self.config
        init = nn.with_logical_partitioning(
            nn.initializers.normal(stddev=config.embed_dim**-0.5), (axes.VOCAB, axes.EMBED)
        )
        shape = (config.vocab_size, config.embed_dim)
        self.embedding = self.param("embedding", init, shape, jnp.float32)

    def __call__(self, tokens: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """An id past the vocabulary gives NaN rather than another token."""
        config = self.config
        rows = jnp.take(self.embedding, tokens, axis=0, mode="fill").astype(config.dtype)
        if config.scaled_embedding:
            # Rounded to the compute dtype first, as the published models have it.
            rows = rows * jnp.asarray(math.sqrt(config.embed_dim), config.dtype)
        return residual_constraint(rows)

    def attend(self, hidden: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """`hidden @ embedding.T` in float32."""
        return jnp.einsum("bld,vd->blv", hidden.astype(jnp.float32), self.embedding)


class Decoder(nn.Module):
    """A decoder-only language model. Dropout draws from the rng named "dropout"."""

    config: DecoderConfig

    def setup(self):
        config = self.config
        self.token_embedder = TokenEmbedding(config)
        self.layers = layer_stack(Layer, config, config.num_layers, 5, has_own=True)
        self.final_norm = RMSNorm(config.dtype, config.norm_epsilon, config.norm_adds_one)
        if not config.tied_logits:
            kernel_axes = (axes.EMBED, axes.VOCAB)
            self.logits_dense = Dense(config.vocab_size, kernel_axes, "float32")

    def __call__(
        self,
        tokens: Int[Array, "B L"],
        *,
        is_prefix: Int[Array, "B L"] | None = None,
        segment_ids: Int[Array, "B L"] | None = None,
        positions: Int[Array, "B L"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "B L V"]:
        """Logits of every next token, in float32; arguments as in `DecoderBatch`."""
        hidden = self.hidden(
            tokens,
            is_prefix=is_prefix,
            segment_ids=segment_ids,
            positions=positions,
            deterministic=deterministic,
        )
        return self.unembed(hidden)

    def hidden(
        self,
        tokens: Int[Array, "B L"],
        *,
        is_prefix: Int[Array, "B L"] | None = None,
        segment_ids: Int[Array, "B L"] | None = None,
        positions: Int[Array, "B L"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "B L D"]:
        """What `unembed` turns into logits; arguments as in `__call__`.

        Raises:
          ValueError: if only one of segment_ids and positions is given.
        """
        if (segment_ids is None) != (positions is None):
            raise ValueError("give segment_ids and positions together, or neither")
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
            segment_ids = jnp.ones_like(tokens)
        both_ways = jnp.zeros(tokens.shape, bool)
        if self.config.bidirectional_prefix and is_prefix is not None:
            both_ways = is_prefix.astype(bool)
        places = Places(positions, segment_ids, both_ways, jnp.ones(tokens.shape, bool))
        return self._run(tokens, places, places, None, deterministic)

    def unembed(self, hidden: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Projects hidden states to float32 logits."""
        embed, cap = self.token_embedder, self.config.logit_soft_cap
        logits = embed.attend(hidden) if self.config.tied_logits else self.logits_dense(hidden)
        if cap is not None:
            logits = cap * jnp.tanh(logits / cap)
        return nn.with_logical_constraint(logits, (axes.BATCH, axes.LENGTH, axes.VOCAB))

    def start_decoding(self, inputs: Int[Array, "B S"], max_length: int) -> Int[Array, " B"]:
        """Reads the inputs into a new cache: apply with `mutable=["cache"]`.

        The cache has a place for the start and each input token, then `max_length` for the answer.

        Args:
          inputs: tokens, 0 for padding, which stands at the end only.
          max_length: the most tokens that an answer may have.

        Returns:
          The first token to give to `decode_step`: the last of each row's inputs.
        """
        batch, size = inputs.shape
        tokens = jnp.pad(inputs, ((0, 0), (1, 0)))  # the start, then the inputs
        lengths = 1 + jnp.sum(inputs != PAD_ID, axis=1)
        places = jnp.broadcast_to(jnp.arange(size + 1 + max_length), (batch, size + 1 + max_length))
        is_input = places < lengths[:, None]
        # The last input token comes again as the first token of `decode_step`.
        is_again = places == lengths[:, None] - 1
        both_ways = is_input & self.config.bidirectional_prefix
        segments = jnp.ones_like(places)
        key = Places(places, segments, both_ways, is_input)
        query = jax.tree.map(lambda x: x[:, : size + 1], key)
        self._run(tokens, query, key, jnp.zeros((), jnp.int32), True)
        self.put_variable("cache", "step", jnp.zeros((), jnp.int32))
        self.put_variable("cache", "lengths", lengths)
        self.put_variable("cache", "is_readable", is_input & ~is_again)
        return jnp.take_along_axis(tokens, lengths[:, None] - 1, axis=1)[:, 0]

    def decode_step(
        self, tokens: Int[Array, "B 1"], inputs: Int[Array, "B S"]
    ) -> Float[Array, "B 1 V"]:
        """Logits after one more token; apply with the cache and `mutable=["cache"]`.

        Args:
          tokens: what `start_decoding` gave, then the tokens chosen.
          inputs: as given to `start_decoding`.
        """
        step = self.get_variable("cache", "step")
        lengths = self.get_variable("cache", "lengths")
        is_readable = self.get_variable("cache", "is_readable")
        first = inputs.shape[1] + 1  # place of the first answer token
        batch, places = is_readable.shape
        order = jnp.broadcast_to(jnp.arange(places), (batch, places))
        positions = jnp.where(order < first, order, lengths[:, None] - 1 + order - first)
        is_readable = is_readable | (order == first + step)
        segments = jnp.ones_like(order)
        both_ways = (order < lengths[:, None]) & self.config.bidirectional_prefix
        key = Places(positions, segments, both_ways, is_readable)
        query = Places(
            lengths[:, None] - 1 + step,
            segments[:, :1],
            jnp.broadcast_to((step == 0) & self.config.bidirectional_prefix, (batch, 1)),
            jnp.ones((batch, 1), bool),
        )
        hidden = self._run(tokens, query, key, first + step, True)
        self.put_variable("cache", "step", step + 1)
        self.put_variable("cache", "is_readable", is_readable)
        return self.unembed(hidden)

    def decode_ragged(
        self,
        tokens: Int[Array, "P K"],
        inputs: Int[Array, "B S"],
        where: Ragged,
        wanted: Int[Array, " B"],
    ) -> Float[Array, "B V"]:
        """Logits after some more tokens of every row; apply with the cache, `mutable=["cache"]`.

        Not to be mixed with `decode_step` on one cache: here the caller keeps count of the places.

        Args:
          tokens: of place 0 what `start_decoding` gave, then the tokens chosen.
          inputs: as given to `start_decoding`.
          where: the tokens stand.
          wanted: index, among the P * K tokens, of that whose logits each row asks for.
        """
        lengths = self.get_variable("cache", "lengths")
        first = inputs.shape[1] + 1  # place of the first answer token in the cache
        order = jnp.broadcast_to(
            jnp.arange(first + where.length), (len(lengths), first + where.length)
        )
        positions = jnp.where(order < first, order, lengths[:, None] - 1 + order - first)
        # A token never looks ahead, so that of the answer's places it sees those alone that are
        # written; the last input token counts as the answer's first.
        is_readable = (order < lengths[:, None] - 1) | (order >= first)
        both_ways = (order < lengths[:, None]) & self.config.bidirectional_prefix
        key = Places(positions, jnp.ones_like(order), both_ways, is_readable)
        places = where.places
        query = Places(
            lengths[where.rows][:, None] - 1 + places,
            jnp.ones_like(places),
            (places == 0) & self.config.bidirectional_prefix,
            jnp.ones(places.shape, bool),
        )
        hidden = self._run(tokens, query, key, where, True)
        return self.unembed(hidden.reshape(-1, 1, hidden.shape[-1])[wanted])[:, 0]

    def _run(self, tokens, query_places, key_places, slot, deterministic):
        """Hidden states of tokens; `slot` is where they go in the cache, if there is one."""
        config = self.config
        at_start = (query_places.positions == 0) & (tokens == PAD_ID)
        x = self.token_embedder(jnp.where(at_start, config.bos_id, tokens))
        kinds = [kind_of(config, layer) for layer in range(config.num_layers)]
        arguments = query_places, key_places, slot, deterministic
        x = run_layers(self.layers, x, *arguments, own=kinds)
        return self.final_norm(x)


def parameter_shapes(config: DecoderConfig) -> dict[str, Any]:
    """Shapes, dtypes and logical axes of all parameters; see `t5.parameter_shapes`."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(Decoder(config).init, jax.random.key(0), tokens)["params"]


def unembedding(config: DecoderConfig, params: Mapping[str, Any]) -> Unembedding:
    """The map from `hidden` to logits, for a head that makes them in parts.

    Args:
      config: of the model.
      params: its parameters, without boxes.
    """
    if config.tied_logits:
        kernel = params["token_embedder"]["embedding"]
    else:
        kernel = params["logits_dense"]["kernel"]
    return Unembedding(kernel, tied=config.tied_logits, soft_cap=config.logit_soft_cap)
