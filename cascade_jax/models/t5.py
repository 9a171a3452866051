"""T5: an encoder-decoder Transformer in Flax Linen.

The parameter tree has the names and shapes of T5X's minimal T5, except that with
`config.scan_layers` the trees `layers_0`, `layers_1`, ... are stacked on a new axis 0 as `layers`.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from cascade_jax import axes
from cascade_jax.batch import PAD_ID
from cascade_jax.models.config import T5Config
from cascade_jax.models.layers import (
    MLP,
    Attention,
    Dense,
    Embed,
    RelativePositionBias,
    RMSNorm,
    residual_constraint,
)
from cascade_jax.models.ragged import Ragged, causal_mask
from cascade_jax.models.stack import layer_stack, run_layers
from cascade_jax.unembedding import Unembedding


class EncoderLayer(nn.Module):
    """Self-attention and MLP, each as `x + dropout(block(norm(x)))`."""

    config: T5Config

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B S D"],
        mask: Bool[Array, "B 1 S S"],
        bias: Float[Array, "1 H S S"],
        deterministic: bool,
    ) -> tuple[Float[Array, "B S D"], None]:
        """Returns the new residual stream, and None as `nn.scan` wants a second output."""
        config = self.config
        dropout = nn.Dropout(config.dropout_rate, broadcast_dims=(-2,))
        y = RMSNorm(config.dtype, name="pre_attention_layer_norm")(x)
        y = Attention(config, name="attention")(y, y, mask, bias, None, deterministic)
        x = x + dropout(y, deterministic=deterministic)
        y = RMSNorm(config.dtype, name="pre_mlp_layer_norm")(x)
        y = MLP(config, name="mlp")(y, deterministic)
        return residual_constraint(x + dropout(y, deterministic=deterministic)), None


class DecoderLayer(nn.Module):
    """Self-attention, attention to the encoder and MLP, each as `x + dropout(block(norm(x)))`."""

    config: T5Config

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        encoded: Float[Array, "B S D"] | None,
        self_mask: Bool[Array, "#B 1 L T"],
        cross_mask: Bool[Array, "B 1 #L S"],
        bias: Float[Array, "#B H L T"],
        position: Int[Array, ""] | Ragged | None,
        deterministic: bool,
    ) -> tuple[Float[Array, "B L D"], None]:
        """Returns the new residual stream, and None as `nn.scan` wants a second output."""
        config = self.config
        dropout = nn.Dropout(config.dropout_rate, broadcast_dims=(-2,))
        y = RMSNorm(config.dtype, name="pre_self_attention_layer_norm")(x)
        attention = Attention(config, name="self_attention")
        y = attention(y, y, self_mask, bias, position, deterministic)
        x = x + dropout(y, deterministic=deterministic)
        y = RMSNorm(config.dtype, name="pre_cross_attention_layer_norm")(x)
        attention = Attention(config, name="encoder_decoder_attention")
        y = attention(y, encoded, cross_mask, None, position, deterministic)
        x = x + dropout(y, deterministic=deterministic)
        y = RMSNorm(config.dtype, name="pre_mlp_layer_norm")(x)
        y = MLP(config, name="mlp")(y, deterministic)
        return residual_constraint(x + dropout(y, deterministic=deterministic)), None


class Encoder(nn.Module):
    """The encoder's stack, from embedded inputs to its final norm."""

    config: T5Config

    def setup(self):
        config = self.config
        self.relpos_bias = RelativePositionBias(config, bidirectional=True)
        self.layers = layer_stack(EncoderLayer, config, config.num_encoder_layers, 3)
        self.encoder_norm = RMSNorm(config.dtype)
        self.input_dropout = nn.Dropout(config.dropout_rate, broadcast_dims=(-2,))
        self.output_dropout = nn.Dropout(config.dropout_rate)

    def __call__(
        self, x: Float[Array, "B S D"], mask: Bool[Array, "B 1 S S"], deterministic: bool
    ) -> Float[Array, "B S D"]:
        """Runs the stack; mask is True where a query may look at a key."""
        positions = jnp.arange(x.shape[1])
        bias = self.relpos_bias(positions, positions)
        x = self.input_dropout(x, deterministic=deterministic)
        x = run_layers(self.layers, x, mask, bias, deterministic)
        return self.output_dropout(self.encoder_norm(x), deterministic=deterministic)


class Decoder(nn.Module):
    """The decoder's stack, from embedded inputs to its final norm, and the untied projection."""

    config: T5Config

    def setup(self):
        config = self.config
        self.relpos_bias = RelativePositionBias(config, bidirectional=False)
        self.layers = layer_stack(DecoderLayer, config, config.num_decoder_layers, 6)
        self.decoder_norm = RMSNorm(config.dtype)
        self.input_dropout = nn.Dropout(config.dropout_rate, broadcast_dims=(-2,))
        self.output_dropout = nn.Dropout(config.dropout_rate, broadcast_dims=(-2,))
        if not config.tied_logits:
            # float32 whatever the compute dtype: the loss is sensitive to the logits' rounding.
            self.logits_dense = Dense(config.vocab_size, (axes.EMBED, axes.VOCAB), "float32")

    def __call__(
        self,
        x: Float[Array, "B L D"],
        encoded: Float[Array, "B S D"] | None,
        self_mask: Bool[Array, "#B 1 L T"],
        cross_mask: Bool[Array, "B 1 #L S"],
        position: Int[Array, ""] | Ragged | None,
        deterministic: bool,
    ) -> Float[Array, "B L D"]:
        """`position` says where x stands when decoding with a cache, and is None otherwise."""
        keys = jnp.arange(self_mask.shape[-1])
        if isinstance(position, Ragged):
            places = position.places_by_row
            bias = self.relpos_bias(places.reshape(-1), keys)[0]  # [H, B * W, T]
            bias = bias.reshape(-1, *places.shape, keys.size).swapaxes(0, 1)
        else:
            bias = self.relpos_bias(keys if position is None else position[None], keys)
        x = self.input_dropout(x, deterministic=deterministic)
        x = run_layers(
            self.layers, x, encoded, self_mask, cross_mask, bias, position, deterministic
        )
        return self.output_dropout(self.decoder_norm(x), deterministic=deterministic)

    def unembed(self, hidden: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Projects to float32 logits; only where they are not tied to the embedding."""
        return self.logits_dense(hidden)


class T5(nn.Module):
    """A T5 encoder-decoder. Id 0 pads the inputs; dropout draws from the rng named "dropout".

    Packed rows: segment ids keep every example to itself. Relative positions are differences, and
    a packed example's tokens stand together, so positions in the row serve as well as positions
    in the example, and `Batch`'s positions are not needed.

    Reference: Raffel et al. 2020, "Exploring the Limits of Transfer Learning".
    """

    config: T5Config

    def setup(self):
        self.token_embedder = Embed(self.config)
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)

    def __call__(
        self,
        inputs: Int[Array, "B S"],
        decoder_inputs: Int[Array, "B L"],
        *,
        input_segment_ids: Int[Array, "B S"] | None = None,
        target_segment_ids: Int[Array, "B L"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "B L V"]:
        """Logits of every next token, in float32.

        Args:
          inputs: encoder tokens, 0 for padding.
          decoder_inputs: targets shifted right by one, starting with 0.
          input_segment_ids, target_segment_ids: number (from 1) of the example that a position of a
            packed row belongs to; both or neither.
          deterministic: False switches dropout on.

        Raises:
          ValueError: if only one of the two segment ids is given.
        """
        hidden = self.hidden(
            inputs,
            decoder_inputs,
            input_segment_ids=input_segment_ids,
            target_segment_ids=target_segment_ids,
            deterministic=deterministic,
        )
        return self.unembed(hidden)

    def hidden(
        self,
        inputs: Int[Array, "B S"],
        decoder_inputs: Int[Array, "B L"],
        *,
        input_segment_ids: Int[Array, "B S"] | None = None,
        target_segment_ids: Int[Array, "B L"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "B L D"]:
        """What `unembed` turns into logits; arguments as in `__call__`."""
        if (input_segment_ids is None) != (target_segment_ids is None):
            raise ValueError("give input_segment_ids and target_segment_ids together, or neither")
        encoded = self.encode(
            inputs,
            input_segment_ids=input_segment_ids,
            deterministic=deterministic,
        )
        return self.decode(
            encoded,
            inputs,
            decoder_inputs,
            input_segment_ids=input_segment_ids,
            target_segment_ids=target_segment_ids,
            deterministic=deterministic,
        )

    def decode(
        self,
        encoded: Float[Array, "B S D"],
        inputs: Int[Array, "B S"],
        decoder_inputs: Int[Array, "B L"],
        *,
        input_segment_ids: Int[Array, "B S"] | None = None,
        target_segment_ids: Int[Array, "B L"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "B L D"]:
        """What `unembed` turns into logits, from what `encode` made of the inputs."""
        length = decoder_inputs.shape[1]
        self_mask = jnp.tril(jnp.ones((length, length), bool))[None, None]
        cross_mask = (inputs != PAD_ID)[:, None, None, :]
        if target_segment_ids is not None:
            self_mask = self_mask & _same_segment(target_segment_ids, target_segment_ids)
            cross_mask = cross_mask & _same_segment(target_segment_ids, input_segment_ids)
        x = self.token_embedder(decoder_inputs)
        return self.decoder(x, encoded, self_mask, cross_mask, None, deterministic)

    def unembed(self, hidden: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Projects the decoder's hidden states to float32 logits."""
        embed = self.token_embedder
        logits = embed.attend(hidden) if self.config.tied_logits else self.decoder.unembed(hidden)
        return nn.with_logical_constraint(logits, (axes.BATCH, axes.LENGTH, axes.VOCAB))

    def encode(
        self,
        inputs: Int[Array, "B S"],
        *,
        input_segment_ids: Int[Array, "B S"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "B S D"]:
        """The encoder's output; arguments as in `__call__`."""
        is_token = inputs != PAD_ID
        mask = (is_token[:, None, :] & is_token[:, :, None])[:, None]
        if input_segment_ids is not None:
            mask = mask & _same_segment(input_segment_ids, input_segment_ids)
        return self.encoder(self.token_embedder(inputs), mask, deterministic)

    def start_decoding(self, inputs: Int[Array, "B S"], max_length: int) -> Int[Array, " B"]:
        """Encodes the inputs and creates the cache: apply with `mutable=["cache"]`.

        Returns:
          The first token to give to `decode_step`, 0 for every row.
        """
        self.init_cache(self.encode(inputs), inputs, max_length)
        return jnp.zeros((inputs.shape[0],), jnp.int32)

    def init_cache(
        self, encoded: Float[Array, "B S D"], inputs: Int[Array, "B S"], max_length: int
    ) -> None:
        """Creates the collection "cache" for `decode_step`: apply with `mutable=["cache"]`.

        It holds room for the decoder's keys and values of `max_length` tokens, the keys and values
        of the encoder's output, and the position of the next token.
        """
        start = jnp.zeros((), jnp.int32)
        readable = jnp.zeros((max_length,), bool)
        self._decode(jnp.zeros((inputs.shape[0], 1), jnp.int32), encoded, inputs, start, readable)
        self.put_variable("cache", "position", start)
        self.put_variable("cache", "readable", readable)

    def decode_step(
        self, tokens: Int[Array, "B 1"], inputs: Int[Array, "B S"]
    ) -> Float[Array, "B 1 V"]:
        """Logits after one more decoder input; apply with the cache and `mutable=["cache"]`.

        Args:
          tokens: decoder input of the cache's next position: 0 first, then the tokens chosen.
          inputs: the encoder's tokens, which say what is padding.
        """
        position = self.get_variable("cache", "position")
        readable = self.get_variable("cache", "readable")
        readable = readable | (jnp.arange(readable.size) == position)
        hidden = self._decode(tokens, None, inputs, position, readable)
        self.put_variable("cache", "position", position + 1)
        self.put_variable("cache", "readable", readable)
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
          tokens: decoder inputs: 0 at place 0, then the tokens chosen.
          inputs: the encoder's tokens, which say what is padding.
          where: the tokens stand.
          wanted: index, among the P * K tokens, of that whose logits each row asks for.
        """
        cross_mask = (inputs != PAD_ID)[:, None, None, :]
        x = self.token_embedder(tokens)
        hidden = self.decoder(x, None, causal_mask(where), cross_mask, where, True)
        return self.unembed(hidden.reshape(-1, 1, hidden.shape[-1])[wanted])[:, 0]

    def _decode(self, tokens, encoded, inputs, position, readable):
        """Hidden state of one token; readable [max_length] marks the cached positions it sees."""
        self_mask = readable[None, None, None, :]
        cross_mask = (inputs != PAD_ID)[:, None, None, :]
        x = self.token_embedder(tokens)
        return self.decoder(x, encoded, self_mask, cross_mask, position, True)


def _same_segment(query_ids, key_ids):
    """[B Q], [B T] -> [B 1 Q T]: True where both positions belong to the same example."""
    return (query_ids[:, :, None] == key_ids[:, None, :])[:, None]


def parameter_shapes(config: T5Config) -> dict[str, Any]:
    """Shapes, dtypes and logical axes of all parameters, without computing any.

    Returns:
      The parameter tree with `nn.LogicallyPartitioned` boxes of `jax.ShapeDtypeStruct`, as
      `nn.get_partition_spec` reads it.
    """
    tokens = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(T5(config).init, jax.random.key(0), tokens, tokens)["params"]


def unembedding(config: T5Config, params: Mapping[str, Any]) -> Unembedding:
    """The map from `hidden` to the logits of `unembed`, for a head that makes them in parts.

    Args:
      config: of the model.
      params: its parameters, without boxes.
    """
    if config.tied_logits:
        scale = 1.0 / math.sqrt(config.embed_dim)
        return Unembedding(params["token_embedder"]["embedding"], tied=True, scale=scale)
    return Unembedding(params["decoder"]["logits_dense"]["kernel"])


def stack_layers(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of unrolled layers as a model with `scan_layers=True` wants them (no boxes)."""
    return {name: _stack(tree) if "layers_0" in tree else tree for name, tree in params.items()}


def unstack_layers(params: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `stack_layers`."""
    return {name: _unstack(tree) if "layers" in tree else tree for name, tree in params.items()}


def _stack(tree):
    names = [f"layers_{i}" for i in range(sum(name.startswith("layers_") for name in tree))]
    rest = {name: value for name, value in tree.items() if name not in names}
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(tree[name] for name in names))
    return {**rest, "layers": stacked}


def _unstack(tree):
    rest = {name: value for name, value in tree.items() if name != "layers"}
    count = jax.tree.leaves(tree["layers"])[0].shape[0]
    for i in range(count):
        rest[f"layers_{i}"] = jax.tree.map(lambda leaf, i=i: leaf[i], tree["layers"])
    return rest
