"""One way to use models of every family: build, initialise, run on a batch.

A decoder-only model reads rows of its own form (`DecoderBatch`), and an encoder-decoder's `Batch`
too: then each row is its input followed by its target, and what comes back stands at the target's
places, as an encoder-decoder gives it. So models of both kinds can be student and teacher of each
other, as long as they share one vocabulary.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from cascade_jax.batch import Batch, DecoderBatch
from cascade_jax.models import decoder, t5
from cascade_jax.models import probe as probe_lib
from cascade_jax.models.config import DecoderConfig, ModelConfig, T5Config
from cascade_jax.models.packed_answers import PackedAnswers
from cascade_jax.models.ragged import Ragged
from cascade_jax.models.slots import PackedInputs
from cascade_jax.unembedding import Unembedding


class Family(Protocol):
    """What a family of models offers: the members of its Flax module. An instance is one model.

    To add a family, write its config (derived from `ModelConfig`) and its module in one file of
    `models/`, and add both to FAMILIES. `hidden`, `unembed`, `encode`, `hidden_after` and the four
    of decoding run inside of `apply`; the others need no parameters (`nn.nowrap`).

    Attributes:
      config: of the model.
      start_places: places of a cache before an input's tokens, which hold a start.
    """

    config: ModelConfig
    start_places: int

    def hidden(self, *arguments: Any, deterministic: bool = True, **settings: Any):
        """Hidden states [B L D] that predict targets; what `reading` gives are its arguments.

        With `probe` (`models/probe.py`) its layers measure more; a family may be without it.
        """

    def unembed(self, hidden: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Logits of hidden states, float32."""

    def encode(self, inputs: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        """Hidden states of the input's tokens."""

    def hidden_after(self, inputs: PackedInputs, answers: PackedAnswers) -> Float[Array, "R W D"]:
        """Hidden states that predict each token of answers to packed inputs, which are read once.

        A token sees its input, and the tokens before it in its own answer.
        """

    def start_decoding(self, inputs: Int[Array, "B S"], max_length: int) -> Int[Array, " B"]:
        """Creates the collection "cache"; returns each row's first token for `decode_step`.

        This and the next three are applied with `mutable=["cache"]`.

        The cache's leaves: `step` [], which of the last `max_length` places the next token goes to;
        `is_readable` [B T], which places a row sees; `lengths` [B] of a family whose inputs and
        answers share a cache; keys and values of each layer (`cache.py`), inputs first.

        Args:
          inputs: tokens, 0 for padding, which stands at the end only.
          max_length: the most tokens that an answer may have.
        """

    def read_packed(self, packed: PackedInputs) -> None:
        """Creates the cache of packed inputs, from which `slots.insert` takes single ones."""

    def decode_step(
        self, tokens: Int[Array, "B 1"], inputs: Int[Array, "B S"]
    ) -> Float[Array, "B 1 V"]:
        """Logits after one more token of every row: the first one, then the tokens chosen.

        Rows may have begun at different steps (`slots.insert`): the answers' places are a ring.

        Args:
          tokens: one of each row.
          inputs: the argument of `start_decoding`.
        """

    def decode_ragged(
        self,
        tokens: Int[Array, "P K"],
        inputs: Int[Array, "B S"],
        where: Ragged,
        logits_at: Int[Array, " B"],
    ) -> Float[Array, "B V"]:
        """Logits after some more tokens of every row.

        Not to be mixed with `decode_step` on one cache: here the caller counts the places.

        Args:
          tokens: at place 0 the first token, then the tokens chosen.
          inputs: the argument of `start_decoding`.
          where: places of the tokens.
          logits_at: index, among the P * K tokens, of the one after which each row's logits are.
        """

    def example_arguments(self) -> tuple:
        """Arguments of `init`."""

    def stacks(self) -> dict[str, int]:
        """Layers of each stack by its name in the parameter tree, "" for its top."""

    def check_reads(self, architecture: str, pack: bool) -> None:
        """Raises ValueError for rows that it cannot read, saying which setting to change."""

    def reading(self, batch: Any) -> tuple[tuple, dict[str, Any]]:
        """Arguments and keywords with which `hidden` gives the states that predict the targets.

        Raises ValueError for a batch that it cannot read.
        """

    def unembedding(self, params: Mapping[str, Any]) -> Unembedding:
        """The map from `hidden` to logits, for a head that makes them in parts."""

    def prefill_flops(self, input_length: int) -> int:
        """FLOPs of reading an input."""

    def state_flops(self, input_length: int, layer: int) -> int:
        """FLOPs of reading an input up to the state after a layer that predicts the first token."""

    def forward_flops(self, input_length: int, target_length: int) -> int:
        """FLOPs of reading one example and predicting all its target tokens."""

    def decode_flops(self, input_length: int, position: int) -> int:
        """FLOPs of one more answer token with a cache, after `position` others."""


Model = Family
FAMILIES: dict[type[ModelConfig], type[Family]] = {T5Config: t5.T5, DecoderConfig: decoder.Decoder}


def build(config: ModelConfig) -> Model:
    """The unbound module of a config; raises ValueError for what is no config of a model."""
    if type(config) not in FAMILIES:
        kinds = " or a ".join(kind.__name__ for kind in FAMILIES)
        raise ValueError(f"{config!r} is no model; expected a {kinds}")
    return FAMILIES[type(config)](config)


def is_model(value: Any) -> bool:
    """Whether a value is a module of one of the families."""
    return type(value) in FAMILIES.values()


def parameter_shapes(config: ModelConfig) -> dict[str, Any]:
    """Shapes, dtypes and logical axes of all parameters, without computing any.

    The leaves are `nn.LogicallyPartitioned` boxes of `jax.ShapeDtypeStruct`.
    """
    model = build(config)
    return jax.eval_shape(model.init, jax.random.key(0), *model.example_arguments())["params"]


def initialize(model: Model, key: PRNGKeyArray) -> dict[str, Any]:
    """Fresh parameters, without boxes."""
    return nn.unbox(model.init(key, *model.example_arguments())["params"])


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
    arguments, settings = model.reading(batch)
    return model.apply(
        {"params": params},
        *arguments,
        **settings,
        method="hidden",
        deterministic=dropout_key is None,
        rngs=None if dropout_key is None else {"dropout": dropout_key},
    )


def probed(
    model: Model, params: Mapping[str, Any], batch: Batch, probe: probe_lib.Probe
) -> tuple[Float[Array, "B L D"], probe_lib.Measured]:
    """As `hidden` without dropout, and what the layers that answers go through measured."""
    arguments, settings = model.reading(batch)
    states, variables = model.apply(
        {"params": params},
        *arguments,
        **settings,
        probe=probe,
        method="hidden",
        mutable=[probe_lib.COLLECTION],
    )
    return states, probe_lib.measured(variables)


def answer_layers(config: ModelConfig) -> int:
    """How many layers an answer's tokens go through: those of the last stack."""
    return list(build(config).stacks().values())[-1]


def hidden_and_unembedding(
    model: Model,
    params: Mapping[str, Any],
    batch: Batch | DecoderBatch,
    dropout_key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, "B L D"], Unembedding]:
    """As `hidden`, and the map that makes logits of these states."""
    return hidden(model, params, batch, dropout_key), model.unembedding(params)


def logits(
    model: Model,
    params: Mapping[str, Any],
    batch: Batch | DecoderBatch,
    dropout_key: PRNGKeyArray | None = None,
) -> Float[Array, "B L V"]:
    """Teacher-forced logits; otherwise as `hidden`."""
    states = hidden(model, params, batch, dropout_key)
    return model.apply({"params": params}, states, method="unembed")


def check_reads(config: ModelConfig, architecture: str, pack: bool) -> None:
    """Raises ValueError for a model that cannot read the rows of a `DataConfig` with these."""
    build(config).check_reads(architecture, pack)


def check_reads_chats(config: ModelConfig) -> None:
    """Raises ValueError for an encoder-decoder: a chat template ends in the start of an answer."""
    if "encoder" in build(config).stacks():
        raise ValueError(
            f"a {type(config).__name__} can't read what a chat template renders, which ends in the "
            "start of an answer: only a decoder-only model goes on from there; leave chat_template "
            "out of the vocabulary"
        )


def start_decoding(
    model: Model, params: Mapping[str, Any], inputs: Int[Array, "B S"], max_length: int
) -> tuple[Int[Array, " B"], Any]:
    """The first token to give to the model's `decode_step`, and the cache that it reads."""
    first, created = model.apply(
        {"params": params}, inputs, max_length, method="start_decoding", mutable=["cache"]
    )
    return first, created["cache"]
