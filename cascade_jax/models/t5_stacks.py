"""The layers and the two stacks of a T5."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from cascade_jax import axes
from cascade_jax.models.config import T5Config
from cascade_jax.models.layers import (
    MLP,
    Attention,
    Dense,
    RelativePositionBias,
    RMSNorm,
    residual_constraint,
)
from cascade_jax.models.probe import Probe
from cascade_jax.models.ragged import Ragged
from cascade_jax.models.stack import layer_stack, run_layers

# Positions of queries and keys, of which a layer with a bias of its own computes it.
Places = tuple[Int[Array, "*B Q"], Int[Array, " T"]]


class EncoderLayer(nn.Module):
    """Self-attention and MLP, each as `x + dropout(block(norm(x)))`."""

    config: T5Config

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B S D"],
        mask: Bool[Array, "B 1 S S"],
        bias: Float[Array, "1 H S S"] | Places,
        deterministic: bool,
    ) -> tuple[Float[Array, "B S D"], None]:
        """Returns the new residual stream, and None as `nn.scan` wants a second output."""
        config = self.config
        if config.relative_bias_per_layer:
            bias = RelativePositionBias(config, bidirectional=True, name="relpos_bias")(*bias)
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
        bias: Float[Array, "#B H L T"] | Places,
        position: Int[Array, ""] | Ragged | None,
        probe: Probe | None,
        deterministic: bool,
    ) -> tuple[Float[Array, "B L D"], None]:
        """Returns the new residual stream, and None as `nn.scan` wants a second output."""
        config = self.config
        if config.relative_bias_per_layer:
            bias = RelativePositionBias(config, bidirectional=False, name="relpos_bias")(*bias)
        dropout = nn.Dropout(config.dropout_rate, broadcast_dims=(-2,))
        y = RMSNorm(config.dtype, name="pre_self_attention_layer_norm")(x)
        attention = Attention(config, name="self_attention")
        y = attention(y, y, self_mask, bias, position, deterministic, probe)
        x = x + dropout(y, deterministic=deterministic)
        y = RMSNorm(config.dtype, name="pre_cross_attention_layer_norm")(x)
        attention = Attention(config, name="encoder_decoder_attention")
        y = attention(y, encoded, cross_mask, None, position, deterministic)
        x = x + dropout(y, deterministic=deterministic)
        y = RMSNorm(config.dtype, name="pre_mlp_layer_norm")(x)
        y = MLP(config, name="mlp")(y, deterministic)
        x = residual_constraint(x + dropout(y, deterministic=deterministic))
        if probe is not None:
            probe.put_states(self, x)
        return x, None


class Encoder(nn.Module):
    """The encoder's stack, from embedded inputs to its final norm."""

    config: T5Config

    def setup(self):
        config = self.config
        if not config.relative_bias_per_layer:
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
        places = positions, positions
        bias = places if self.config.relative_bias_per_layer else self.relpos_bias(*places)
        x = self.input_dropout(x, deterministic=deterministic)
        x = run_layers(self.layers, x, mask, bias, deterministic)
        return self.output_dropout(self.encoder_norm(x), deterministic=deterministic)


class Decoder(nn.Module):
    """The decoder's stack, from embedded inputs to its final norm, and the untied projection."""

    config: T5Config

    def setup(self):
        config = self.config
        if not config.relative_bias_per_layer:
            self.relpos_bias = RelativePositionBias(config, bidirectional=False)
        self.layers = layer_stack(DecoderLayer, config, config.num_decoder_layers, 7)
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
        probe: Probe | None = None,
    ) -> Float[Array, "B L D"]:
        """`position` says where x goes in a cache, and is None without one.

        A cache is a ring: the token that was read d steps ago stands d places before x, and those
        before the first place are the last ones.
        """
        keys = jnp.arange(self_mask.shape[-1])
        if isinstance(position, Ragged):
            places = position.places_by_row, keys
        elif position is None:
            places = keys, keys
        else:
            places = position[None], position - (position - keys) % keys.size
        bias = places if self.config.relative_bias_per_layer else self.relpos_bias(*places)
        x = self.input_dropout(x, deterministic=deterministic)
        arguments = encoded, self_mask, cross_mask, bias, position, probe, deterministic
        x = run_layers(self.layers, x, *arguments)
        return self.output_dropout(self.decoder_norm(x), deterministic=deterministic)

    def unembed(self, hidden: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Projects to float32 logits; only where they are not tied to the embedding."""
        return self.logits_dense(hidden)
