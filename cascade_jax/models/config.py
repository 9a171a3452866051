"""Sizes and switches of a model, checked when they are written down."""

import dataclasses
from collections.abc import Sequence

from cascade_jax.names import nearest
from cascade_jax.numerics import DTYPE_NAMES

ACTIVATION_NAMES = ("gelu", "linear", "relu", "sigmoid", "silu", "tanh")
REMAT_NAMES = ("none", "full", "dots")

_SIZES = (
    "vocab_size",
    "embed_dim",
    "num_heads",
    "head_dim",
    "mlp_dim",
    "num_encoder_layers",
    "num_decoder_layers",
    "relative_buckets",
    "relative_max_distance",
)


class ModelConfig:
    """What the configs of all families have; each family's own config derives from it.

    Attributes:
      vocab_size: number of token ids, id 0 being padding.
      embed_dim: width of the residual stream.
      dropout_rate: in [0, 1); used only where a call says `deterministic=False`.
      tied_logits: whether the embedding projects to the vocabulary, too.
      dtype: of the computation; parameters are float32 always.
      remat: what the backward pass recomputes: "none" (nothing), "full" (each whole layer) or
        "dots" (all but the outputs of the weight matmuls).
      scan_layers: one compiled layer over stacked parameters instead of a copy for each layer.
      query_chunk: attention of longer rows goes over the queries in blocks of so many.
    """

    vocab_size: int
    embed_dim: int
    dropout_rate: float
    tied_logits: bool
    dtype: str
    remat: str
    scan_layers: bool
    query_chunk: int

    def _check_switches(self) -> None:
        _check_name("dtype", self.dtype, DTYPE_NAMES)
        _check_name("remat", self.remat, REMAT_NAMES)
        if not 0.0 <= self.dropout_rate < 1.0:
            raise ValueError(f"dropout_rate = {self.dropout_rate!r}: expected 0 <= rate < 1")


@dataclasses.dataclass(frozen=True)
class T5Config(ModelConfig):
    """An encoder-decoder of the T5 family; T5 1.1 is ("gelu", "linear") with untied logits.

    Attributes:
      num_heads, head_dim: attention heads and the size of each, whatever embed_dim is.
      mlp_dim: hidden size of the MLP.
      num_encoder_layers, num_decoder_layers: layers of each stack.
      mlp_activations: one name for a plain MLP; several are multiplied elementwise (gated).
      tied_logits: as in `ModelConfig`; T5X calls it logits_via_embedding.
      relative_buckets, relative_max_distance: of the relative position bias; all distances from
        relative_max_distance on share the last bucket.

    The others are those of `ModelConfig`.

    Raises:
      ValueError: if a value is outside what its line above allows.
    """

    vocab_size: int
    embed_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    mlp_activations: Sequence[str] = ("gelu", "linear")
    dropout_rate: float = 0.1
    tied_logits: bool = False
    dtype: str = "float32"
    remat: str = "none"
    scan_layers: bool = False
    relative_buckets: int = 32
    relative_max_distance: int = 128
    query_chunk: int = 512

    def __post_init__(self):
        for name in (*_SIZES, "query_chunk"):
            _check_size(name, getattr(self, name))
        _set_names(self, "mlp_activations", ACTIVATION_NAMES)
        self._check_switches()
        if self.relative_buckets % 2 or self.relative_buckets < 4:
            raise ValueError(
                f"relative_buckets = {self.relative_buckets}: expected an even number from 4 on "
                "(the encoder uses one half for each direction)"
            )
        if self.relative_max_distance <= self.relative_buckets // 2:
            raise ValueError(
                f"relative_max_distance = {self.relative_max_distance}: expected more than "
                f"relative_buckets / 2 = {self.relative_buckets // 2}"
            )


def _check_size(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} = {value!r}: expected a positive whole number")


def _check_name(field: str, value: object, allowed: Sequence[str]) -> None:
    if value in allowed:
        return
    near = nearest(value, allowed)
    raise ValueError(
        f"{field} = {value!r}: expected one of {', '.join(allowed)}; nearest is {near!r}"
    )


def _set_names(config: ModelConfig, field: str, allowed: Sequence[str]) -> None:
    """Makes a tuple of names, so that the config can be hashed whatever sequence it was."""
    value = getattr(config, field)
    if isinstance(value, str) or not value:
        raise ValueError(
            f"{field} = {value!r}: expected a tuple of one or more names out of "
            f"{', '.join(allowed)}"
        )
    for name in value:
        _check_name(field, name, allowed)
    object.__setattr__(config, field, tuple(value))


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for longer contexts than a model was first trained on.

    Attributes:
      factor: by how much.
      kind: "linear" divides every frequency by `factor` (Gemma 3); "llama3" only those whose wave
        is long against `original_length`, with a ramp between.
      low_frequency_factor, high_frequency_factor, original_length: of "llama3": waves longer than
        original_length / low_frequency_factor are divided, those shorter than
        original_length / high_frequency_factor are kept.
    """

    factor: float
    kind: str = "linear"
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_length: int = 8192

    def __post_init__(self):
        _check_name("kind", self.kind, ("linear", "llama3"))
        if not self.factor > 0:
            raise ValueError(f"factor = {self.factor!r}: expected a number above 0")
        if not 0 < self.low_frequency_factor < self.high_frequency_factor:
            raise ValueError(
                f"low_frequency_factor = {self.low_frequency_factor!r}: expected above 0 and below "
                f"high_frequency_factor = {self.high_frequency_factor!r}"
            )
        _check_size("original_length", self.original_length)


ATTENTION_KINDS = ("full", "sliding")


@dataclasses.dataclass(frozen=True)
class DecoderConfig(ModelConfig):
    """A decoder-only Transformer of the Gemma, Llama and Qwen kind.

    Attributes:
      num_layers: layers.
      num_heads, num_kv_heads, head_dim: query heads, the key and value heads that they share in
        equal groups, and the size of each.
      mlp_dim, mlp_activations: as in `T5Config`.
      norm_epsilon, norm_adds_one: of every RMSNorm.
      post_norms: each block's output is normed too before it is added (Gemma 2 and 3).
      qk_norm: queries and keys are normed per head, before rotation (Gemma 3, Qwen 3).
      qkv_bias: queries, keys and values have biases (Qwen 2).
      attention_out_bias: attention's output has one.
      query_scale: what attention logits are multiplied by; None for 1 / sqrt(head_dim).
      rope_theta, rope_scaling: of the rotary positions.
      sliding_window: in layers of kind "sliding" a position sees itself and the
        `sliding_window - 1` before it.
      attention_kinds: "full" or "sliding", repeated over the layers: ("sliding", "full") takes
        turns.
      sliding_rope_theta: of the sliding layers, unscaled; None for the same as the others.
      attention_soft_cap, logit_soft_cap: c of `c * tanh(x / c)` (Gemma 2); None for no cap.
      scaled_embedding: embeddings are multiplied by sqrt(embed_dim) (Gemma).
      bidirectional_prefix: positions of the input see each other both ways (prefix-LM); False is
        causal throughout, as these families were trained.
      bos_id: what stands at the start of every example in place of `DecoderBatch`'s 0.
      dropout_rate: of every block's output, in [0, 1).

    The others are those of `ModelConfig`.

    Raises:
      ValueError: if a value is outside what its line above allows.
    """

    vocab_size: int
    embed_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    mlp_activations: Sequence[str] = ("silu", "linear")
    norm_epsilon: float = 1e-6
    norm_adds_one: bool = False
    post_norms: bool = False
    qk_norm: bool = False
    qkv_bias: bool = False
    attention_out_bias: bool = False
    query_scale: float | None = None
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    sliding_window: int | None = None
    attention_kinds: Sequence[str] = ("full",)
    sliding_rope_theta: float | None = None
    attention_soft_cap: float | None = None
    logit_soft_cap: float | None = None
    scaled_embedding: bool = False
    tied_logits: bool = True
    bidirectional_prefix: bool = False
    bos_id: int = 0
    dropout_rate: float = 0.0
    query_chunk: int = 512
    dtype: str = "float32"
    remat: str = "none"
    scan_layers: bool = False

    def __post_init__(self):
        for name in (*_DECODER_SIZES, "query_chunk"):
            _check_size(name, getattr(self, name))
        _set_names(self, "mlp_activations", ACTIVATION_NAMES)
        _set_names(self, "attention_kinds", ATTENTION_KINDS)
        self._check_switches()
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads = {self.num_heads}: expected a multiple of num_kv_heads = "
                f"{self.num_kv_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim = {self.head_dim}: expected an even number, for rotary positions"
            )
        self._check_numbers()

    def _check_numbers(self) -> None:
        for name in ("norm_epsilon", "rope_theta"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)!r}: expected a number above 0")
        optional = ("query_scale", "sliding_rope_theta", "attention_soft_cap", "logit_soft_cap")
        for name in optional:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} = {value!r}: expected a number above 0, or None")
        if self.sliding_window is not None:
            _check_size("sliding_window", self.sliding_window)
        elif "sliding" in self.attention_kinds:
            raise ValueError(
                f"attention_kinds = {self.attention_kinds!r}: 'sliding' needs sliding_window"
            )
        if isinstance(self.bos_id, bool) or not 0 <= self.bos_id < self.vocab_size:
            raise ValueError(
                f"bos_id = {self.bos_id!r}: expected an id of the vocabulary, 0 to "
                f"{self.vocab_size - 1}"
            )

    def attention_kind(self, layer: int) -> str:
        """ "full" or "sliding", of a layer counted from 0."""
        return self.attention_kinds[layer % len(self.attention_kinds)]


_DECODER_SIZES = (
    "vocab_size", "embed_dim", "num_layers", "num_heads", "num_kv_heads", "head_dim", "mlp_dim",
)  # fmt: skip
