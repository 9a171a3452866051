"""T5: an encoder-decoder Transformer in Flax Linen.

The parameter tree has the names and shapes of T5X's minimal T5, except that with
`config.scan_layers` the trees `layers_0`, `layers_1`, ... are stacked on a new axis 0 as `layers`.
With `config.relative_bias_per_layer` each of them has a `relpos_bias`, as in T5X's scalable T5, and
the stack has none.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from cascade_jax import axes
from cascade_jax.batch import PAD_ID, PREFIX_LM, Batch, DecoderBatch
from cascade_jax.models import layer_flops
from cascade_jax.models.config import T5Config
from cascade_jax.models.layers import Embed
from cascade_jax.models.packed_answers import PackedAnswers
from cascade_jax.models.probe import Probe
from cascade_jax.models.ragged import Ragged, causal_mask
from cascade_jax.models.slots import PackedInputs
from cascade_jax.models.t5_stacks import Decoder, Encoder
from cascade_jax.unembedding import Unembedding

_FOR_DECODERS = (
    "an encoder-decoder model cannot read rows made for decoder-only models; set "
    'DataConfig.architecture to "encoder_decoder"'
)


class T5(nn.Module):
    """A T5 encoder-decoder. Id 0 pads the inputs; dropout draws from the rng named "dropout".

    Packed rows: segment ids keep every example to itself. Relative positions are differences, and
    a packed example's tokens stand together, so positions in the row serve as well as positions
    in the example, and `Batch`'s positions are not needed.

    Reference: Raffel et al. 2020, "Exploring the Limits of Transfer Learning".
    """

    config: T5Config

    def setup(self):
        self.token_embedder = Embed(self.config, divisor=math.sqrt(self.config.embed_dim))
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)

    def __call__(
        self, inputs: Int[Array, "B S"], decoder_inputs: Int[Array, "B L"], **settings: Any
    ) -> Float[Array, "B L V"]:
        """Logits of every next token, in float32; arguments as in `hidden`."""
        return self.unembed(self.hidden(inputs, decoder_inputs, **settings))

    def hidden(
        self,
        inputs: Int[Array, "B S"],
        decoder_inputs: Int[Array, "B L"],
        *,
        input_segment_ids: Int[Array, "B S"] | None = None,
        target_segment_ids: Int[Array, "B L"] | None = None,
        probe: Probe | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "B L D"]:
        """What `unembed` makes logits of; arguments as in `Batch`, deterministic=False for dropout.

        A probe looks at the decoder's places.

        Raises:
          ValueError: if only one of the two segment ids is given.
        """
        if (input_segment_ids is None) != (target_segment_ids is None):
            raise ValueError("give input_segment_ids and target_segment_ids together, or neither")
        settings = {"input_segment_ids": input_segment_ids, "deterministic": deterministic}
        encoded = self.encode(inputs, **settings)
        settings |= {"target_segment_ids": target_segment_ids, "probe": probe}
        return self.decode(encoded, inputs, decoder_inputs, **settings)

    def decode(
        self,
        encoded: Float[Array, "B S D"],
        inputs: Int[Array, "B S"],
        decoder_inputs: Int[Array, "B L"],
        *,
        input_segment_ids: Int[Array, "B S"] | None = None,
        target_segment_ids: Int[Array, "B L"] | None = None,
        answer_numbers: Int[Array, "B L"] | None = None,
        probe: Probe | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "B L D"]:
        """What `unembed` turns into logits, from what `encode` made of the inputs.

        With answer numbers, targets of a segment see those of their own number alone.
        """
        length = decoder_inputs.shape[1]
        self_mask = jnp.tril(jnp.ones((length, length), bool))[None, None]
        cross_mask = (inputs != PAD_ID)[:, None, None, :]
        if target_segment_ids is not None:
            self_mask = self_mask & _same_segment(target_segment_ids, target_segment_ids)
            cross_mask = cross_mask & _same_segment(target_segment_ids, input_segment_ids)
        if answer_numbers is not None:
            self_mask = self_mask & _same_segment(answer_numbers, answer_numbers)
        x = self.token_embedder(decoder_inputs)
        return self.decoder(x, encoded, self_mask, cross_mask, None, deterministic, probe)

    def hidden_after(self, inputs: PackedInputs, answers: PackedAnswers) -> Float[Array, "R W D"]:
        """Hidden states that predict each token of answers to packed inputs."""
        encoded = self.encode(inputs.tokens, input_segment_ids=inputs.segment_ids)
        # Relative positions are differences, and so those of an answer that stands alone.
        return self.decode(
            encoded,
            inputs.tokens,
            answers.before(0),
            input_segment_ids=inputs.segment_ids,
            target_segment_ids=answers.segment_ids,
            answer_numbers=answers.numbers,
        )

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
        """The encoder's output; arguments as in `hidden`."""
        is_token = inputs != PAD_ID
        mask = (is_token[:, None, :] & is_token[:, :, None])[:, None]
        if input_segment_ids is not None:
            mask = mask & _same_segment(input_segment_ids, input_segment_ids)
        return self.encoder(self.token_embedder(inputs), mask, deterministic)

    def start_decoding(self, inputs: Int[Array, "B S"], max_length: int) -> Int[Array, " B"]:
        """Encodes the inputs and creates the cache; the first token of every row is 0.

        It has room for the decoder's keys and values of `max_length` tokens, the keys and values of
        the encoder's output, the place of the next token, and which places each row has written.
        """
        self._create_cache(self.encode(inputs), inputs, max_length)
        self.put_variable("cache", "step", jnp.zeros((), jnp.int32))
        is_readable = jnp.zeros((inputs.shape[0], max_length), bool)
        self.put_variable("cache", "is_readable", is_readable)
        return jnp.zeros((inputs.shape[0],), jnp.int32)

    def read_packed(self, packed: PackedInputs) -> None:
        """Encodes packed inputs; the cache has the keys and values of the encoder's output."""
        encoded = self.encode(packed.tokens, input_segment_ids=packed.segment_ids)
        self._create_cache(encoded, packed.tokens, 1)

    def decode_step(
        self, tokens: Int[Array, "B 1"], inputs: Int[Array, "B S"]
    ) -> Float[Array, "B 1 V"]:
        """Logits after one more decoder input; `inputs` tells what is padding."""
        step, is_readable = (self.get_variable("cache", name) for name in ("step", "is_readable"))
        length = is_readable.shape[1]
        is_readable = is_readable | (jnp.arange(length) == step)[None]
        hidden = self._decode(tokens, None, inputs, step, is_readable)
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
        cross_mask = (inputs != PAD_ID)[:, None, None, :]
        x = self.token_embedder(tokens)
        hidden = self.decoder(x, None, causal_mask(where), cross_mask, where, True)
        return self.unembed(hidden.reshape(-1, 1, hidden.shape[-1])[logits_at])[:, 0]

    def _create_cache(self, encoded, inputs, max_length):
        start = jnp.zeros((inputs.shape[0], 1), jnp.int32)
        is_readable = jnp.zeros((1, max_length), bool)
        self._decode(start, encoded, inputs, jnp.zeros((), jnp.int32), is_readable)

    def _decode(self, tokens, encoded, inputs, step, is_readable):
        """Hidden state of one token; is_readable [B L] marks the places of the cache it sees."""
        self_mask = is_readable[:, None, None, :]
        cross_mask = (inputs != PAD_ID)[:, None, None, :]
        x = self.token_embedder(tokens)
        return self.decoder(x, encoded, self_mask, cross_mask, step, True)

    # What follows needs no parameters; see `families.Family`.

    start_places = 0

    @nn.nowrap
    def example_arguments(self) -> tuple:
        """Arguments of `init`."""
        tokens = jnp.zeros((1, 1), jnp.int32)
        return tokens, tokens

    @nn.nowrap
    def stacks(self) -> dict[str, int]:
        """Layers of the stacks, by their name in the parameter tree."""
        config = self.config
        return {"encoder": config.num_encoder_layers, "decoder": config.num_decoder_layers}

    @nn.nowrap
    def check_reads(self, architecture: str, pack: bool) -> None:
        """Refuses rows made for decoder-only models."""
        if architecture == PREFIX_LM:
            raise ValueError(_FOR_DECODERS)

    @nn.nowrap
    def reading(self, batch: Batch | DecoderBatch) -> tuple[tuple, dict[str, Any]]:
        """The arguments of `hidden` that read a batch."""
        if isinstance(batch, DecoderBatch):
            raise ValueError(_FOR_DECODERS)
        segments = {
            "input_segment_ids": batch.input_segment_ids,
            "target_segment_ids": batch.target_segment_ids,
        }
        return (batch.inputs, batch.decoder_inputs), segments

    @nn.nowrap
    def unembedding(self, params: Mapping[str, Any]) -> Unembedding:
        """The map from `hidden` to the logits of `unembed`."""
        if self.config.tied_logits:
            scale = 1.0 / math.sqrt(self.config.embed_dim)
            return Unembedding(params["token_embedder"]["embedding"], tied=True, scale=scale)
        return Unembedding(params["decoder"]["logits_dense"]["kernel"])

    @nn.nowrap
    def prefill_flops(self, input_length: int) -> int:
        """The encoder, and the keys and values that the decoder needs of its output."""
        return self._reading_flops(input_length, self.config.num_decoder_layers)

    @nn.nowrap
    def _reading_flops(self, input_length: int, decoder_layers: int) -> int:
        """The encoder, and the keys and values that this number of decoder layers needs."""
        config = self.config
        layer = layer_flops.self_attention(config, input_length, input_length)
        layer += input_length * layer_flops.mlp(config)
        cross = 2 * config.embed_dim * config.head_dim * 2 * config.num_heads
        return config.num_encoder_layers * layer + decoder_layers * input_length * cross

    @nn.nowrap
    def state_flops(self, input_length: int, layer: int) -> int:
        """Reading an input, and its decoder's start up to the state after a layer."""
        layers = layer + 1
        return self._reading_flops(input_length, layers) + layers * self._step_flops(
            input_length, 0
        )

    @nn.nowrap
    def forward_flops(self, input_length: int, target_length: int) -> int:
        """Reading an input and predicting all target tokens."""
        config = self.config
        layer = target_length * layer_flops.mlp(config)
        layer += layer_flops.self_attention(config, target_length, target_length)
        layer += layer_flops.cross_attention(config, target_length, input_length)
        decoder = config.num_decoder_layers * layer + target_length * layer_flops.logits(config)
        return self.prefill_flops(input_length) + decoder

    @nn.nowrap
    def decode_flops(self, input_length: int, position: int) -> int:
        """One more answer token with a cache."""
        layers = self.config.num_decoder_layers * self._step_flops(input_length, position)
        return layers + layer_flops.logits(self.config)

    @nn.nowrap
    def _step_flops(self, input_length: int, position: int) -> int:
        """One more answer token through one layer of the decoder."""
        layer = layer_flops.self_attention(self.config, 1, position + 1)
        layer += layer_flops.mlp(self.config)
        return layer + layer_flops.cross_attention(self.config, 1, input_length)


def _same_segment(query_ids, key_ids):
    """[B Q], [B T] -> [B 1 Q T]: True where both positions belong to the same example."""
    return (query_ids[:, :, None] == key_ids[:, None, :])[:, None]
