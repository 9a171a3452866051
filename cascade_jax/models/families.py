"""One way to use encoder-decoder and decoder-only models: build, initialise, run on a batch.

A decoder-only model reads rows of its own form (`DecoderBatch`), and an encoder-decoder's `Batch`
too: then each row is its input followed by its target, and what comes back stands at the target's
places, as an encoder-decoder gives it. So models of both kinds can be student and teacher of each
other, as long as they share one vocabulary.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from cascade_jax.batch import PAD_ID, PREFIX_LM, Batch, DecoderBatch
from cascade_jax.models import decoder, t5
from cascade_jax.models.config import DecoderConfig, T5Config
from cascade_jax.unembedding import Unembedding

ModelConfig = T5Config | DecoderConfig
Model = t5.T5 | decoder.Decoder
_FOR_DECODERS = (
    "an encoder-decoder model cannot read rows made for decoder-only models; set "
    'DataConfig.architecture to "encoder_decoder"'
)
_PACKED = (
    "a decoder-only model cannot read packed encoder-decoder rows; set DataConfig.pack to False, "
    'or its architecture to "prefix_lm"'
)
_MODULES = {T5Config: t5, DecoderConfig: decoder}


def build(config: ModelConfig) -> Model:
    """The unbound module of a config.

    Raises:
      ValueError: no config of a model.
    """
    _module(config)
    return t5.T5(config) if isinstance(config, T5Config) else decoder.Decoder(config)


def parameter_shapes(config: ModelConfig) -> dict[str, Any]:
    """Shapes, dtypes and logical axes of all parameters; see `t5.parameter_shapes`."""
    return _module(config).parameter_shapes(config)


def unembedding(config: ModelConfig, params: Mapping[str, Any]) -> Unembedding:
    """The map from hidden states to logits, for a head that makes them in parts."""
    return _module(config).unembedding(config, params)


def initialize(model: Model, key: PRNGKeyArray) -> dict[str, Any]:
    """Fresh parameters, without boxes."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    arguments = (tokens, tokens) if isinstance(model, t5.T5) else (tokens,)
    return nn.unbox(model.init(key, *arguments)["params"])


def hidden(
    model: Model,
    params: Mapping[str, Any],
    batch: Batch | DecoderBatch,
    dropout_key: PRNGKeyArray | None = None,
) -> Float[Array, "B L D"]:
    """Hidden states that predict `batch.targets`; dropout is on when a key is given.

    Raises:
      ValueError: an encoder-decoder for a DecoderBatch, or a decoder for packed encoder-decoder
        rows.
    """
    return _apply(model, params, batch, dropout_key, "hidden")


def logits(
    model: Model,
    params: Mapping[str, Any],
    batch: Batch | DecoderBatch,
    dropout_key: PRNGKeyArray | None = None,
) -> Float[Array, "B L V"]:
    """Teacher-forced logits; otherwise as `hidden`."""
    return _apply(model, params, batch, dropout_key, "__call__")


def hidden_and_unembedding(
    model: Model,
    params: Mapping[str, Any],
    batch: Batch | DecoderBatch,
    dropout_key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, "B L D"], Unembedding]:
    """As `hidden`, and the map that makes logits of these states."""
    return hidden(model, params, batch, dropout_key), unembedding(model.config, params)


def check_reads(config: ModelConfig, architecture: str, pack: bool) -> None:
    """Refuses a model that cannot read the rows that a data config makes.

    Args:
      config: of the model.
      architecture, pack: as in `DataConfig`.

    Raises:
      ValueError: says which of the two to change.
    """
    for_decoders = architecture == PREFIX_LM
    if isinstance(config, T5Config) and for_decoders:
        raise ValueError(_FOR_DECODERS)
    if isinstance(config, DecoderConfig) and pack and not for_decoders:
        raise ValueError(_PACKED)


def _module(config: ModelConfig):
    for kind, module in _MODULES.items():
        if isinstance(config, kind):
            return module
    raise ValueError(f"{config!r} is no model; expected a T5Config or a DecoderConfig")


def _apply(model, params, batch, dropout_key, method):
    settings = {
        "deterministic": dropout_key is None,
        "rngs": None if dropout_key is None else {"dropout": dropout_key},
    }
    if isinstance(model, t5.T5):
        if isinstance(batch, DecoderBatch):
            raise ValueError(_FOR_DECODERS)
        return model.apply(
            {"params": params},
            batch.inputs,
            batch.decoder_inputs,
            input_segment_ids=batch.input_segment_ids,
            target_segment_ids=batch.target_segment_ids,
            method=method,
            **settings,
        )
    if isinstance(batch, DecoderBatch):
        return _run_rows(model, params, batch, method, settings)
    if batch.input_segment_ids is not None:
        raise ValueError(_PACKED)
    found = _run_rows(model, params, joined_rows(batch), "hidden", settings)
    found = jnp.take_along_axis(found, _target_places(batch)[:, :, None], axis=1)
    if method == "hidden":
        return found
    return model.apply({"params": params}, found, method="unembed")


def _run_rows(model, params, rows, method, settings):
    return model.apply(
        {"params": params},
        rows.tokens,
        is_prefix=rows.is_prefix,
        segment_ids=rows.segment_ids,
        positions=rows.positions,
        method=method,
        **settings,
    )


def joined_rows(batch: Batch) -> DecoderBatch:
    """Each row's input and, right after it, its target, in rows of S + L places.

    Example: inputs "7 8 0" and targets "5 6 1 0": ``tokens = [0 7 8 5 6 1 0]``,
    ``targets = [7 8 5 6 1 0 0]``, ``weights = [0 0 1 1 1 0 0]``,
    ``is_prefix = [1 1 1 0 0 0 0]``.

    Args:
      batch: unpacked, its inputs padded at the end.
    """
    width = batch.inputs.shape[1] + batch.targets.shape[1]
    lengths = _input_lengths(batch)[:, None]
    place = jnp.broadcast_to(jnp.arange(width), (batch.inputs.shape[0], width))

    def of(array: Array, index: Int[Array, "B W"]) -> Array:
        """array[row, index], and 0 outside of it."""
        inside = (index >= 0) & (index < array.shape[1])
        found = jnp.take_along_axis(array, jnp.where(inside, index, 0), axis=1)
        return jnp.where(inside, found, jnp.zeros_like(found))

    is_input = place < lengths
    targets = jnp.where(is_input, of(batch.inputs, place), of(batch.targets, place - lengths))
    weights = jnp.where(is_input, 0.0, of(batch.weights, place - lengths))
    return DecoderBatch(
        tokens=jnp.pad(targets[:, :-1], ((0, 0), (1, 0))),
        targets=targets,
        weights=weights,
        is_prefix=(place <= lengths).astype(jnp.int32),
    )


def _input_lengths(batch: Batch) -> Int[Array, " B"]:
    return jnp.sum(batch.inputs != PAD_ID, axis=1)


def _target_places(batch: Batch) -> Int[Array, "B L"]:
    """Where in `joined_rows` stands what predicts each target."""
    return _input_lengths(batch)[:, None] + jnp.arange(batch.targets.shape[1])[None]


def start_decoding(
    model: Model, params: Mapping[str, Any], inputs: Int[Array, "B S"], max_length: int
) -> tuple[Int[Array, " B"], Any]:
    """The first token to give to the model's `decode_step`, and the cache that it reads."""
    first, created = model.apply(
        {"params": params}, inputs, max_length, method="start_decoding", mutable=["cache"]
    )
    return first, created["cache"]
