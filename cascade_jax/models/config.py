"""Sizes and switches of a model, checked when they are written down."""

import dataclasses
from collections.abc import Sequence

from cascade_jax import checks
from cascade_jax.names import check_choice
from cascade_jax.numerics import DTYPE_NAMES

ACTIVATION_NAMES = ("gelu", "linear", "relu", "sigmoid", "silu", "tanh")
REMAT_NAMES = ("none", "full", "dots")
# Of a field that runs of older versions lack: at its default, new ones leave it out as well.
ADDED_LATER = {"added_later": True}


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
        check_choice("dtype", self.dtype, DTYPE_NAMES)
        check_choice("remat", self.remat, REMAT_NAMES)
        rate = self.dropout_rate
        checks.require(0.0 <= rate < 1.0, "dropout_rate", rate, "at least 0 and below 1")
        self._set_names("mlp_activations", ACTIVATION_NAMES)

    def _check_sizes(self, *names: str) -> None:
        for name in ("vocab_size", "embed_dim", "query_chunk", *names):
            checks.whole_number(name, getattr(self, name), 1)

    def _set_names(self, field: str, allowed: Sequence[str]) -> None:
        """Makes a tuple of names, so that the config can be hashed whatever sequence it was."""
        value = getattr(self, field)
        is_sequence = bool(value) and not isinstance(value, str)
        choices = f"a tuple of one or more names out of {', '.join(allowed)}"
        checks.require(is_sequence, field, value, choices)
        for name in value:
            check_choice(field, name, allowed)
        object.__setattr__(self, field, tuple(value))


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
      relative_bias_per_layer: whether every layer has a relative position bias of its own, as in
        T5X's scalable network and umT5. T5 has one for a stack.

    The others are those of `ModelConfig`.
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
    relative_bias_per_layer: bool = dataclasses.field(default=False, metadata=ADDED_LATER)

    def __post_init__(self):
        self._check_sizes("num_heads", "head_dim", "mlp_dim", "num_encoder_layers")
        self._check_sizes("num_decoder_layers", "relative_buckets", "relative_max_distance")
        self._check_switches()
        per_layer = self.relative_bias_per_layer
        is_bool = isinstance(per_layer, bool)
        checks.require(is_bool, "relative_bias_per_layer", per_layer, "True or False")
        buckets, distance = self.relative_buckets, self.relative_max_distance
        halves = "an even number of at least 4 (the encoder uses one half for each direction)"
        checks.require(buckets % 2 == 0 and buckets >= 4, "relative_buckets", buckets, halves)
        least = f"more than relative_buckets / 2 = {buckets // 2}"
        checks.require(distance > buckets // 2, "relative_max_distance", distance, least)


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
        check_choice("kind", self.kind, ("linear", "llama3"))
        checks.positive("factor", self.factor)
        low, high = self.low_frequency_factor, self.high_frequency_factor
        allowed = f"above 0 and below high_frequency_factor = {high!r}"
        checks.require(0 < low < high, "low_frequency_factor", low, allowed)
        checks.whole_number("original_length", self.original_length, 1)


ATTENTION_KINDS = ("full", "sliding")


def shortest_cycle(kinds: Sequence[str]) -> tuple[str, ...]:
    """The shortest tuple that gives these when it is repeated: the form of `attention_kinds`."""
    for period in range(1, len(kinds)):
        if all(kind == kinds[i % period] for i, kind in enumerate(kinds)):
            return tuple(kinds[:period])
    return tuple(kinds)


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
        self._check_sizes("num_layers", "num_heads", "num_kv_heads", "head_dim", "mlp_dim")
        self._set_names("attention_kinds", ATTENTION_KINDS)
        self._check_switches()
        for name in ("norm_epsilon", "rope_theta"):
            checks.positive(name, getattr(self, name))
        optional = ("query_scale", "sliding_rope_theta", "attention_soft_cap", "logit_soft_cap")
        for name in optional:
            checks.positive(name, getattr(self, name), optional=True)
        checks.whole_number("sliding_window", self.sliding_window, 1, optional=True)
        heads, shared, kinds = self.num_heads, self.num_kv_heads, self.attention_kinds
        multiple = f"a multiple of num_kv_heads = {shared}"
        checks.require(heads % shared == 0, "num_heads", heads, multiple)
        even = "an even number, for rotary positions"
        checks.require(self.head_dim % 2 == 0, "head_dim", self.head_dim, even)
        if "sliding" in kinds and self.sliding_window is None:
            raise ValueError(f"attention_kinds is {kinds!r}; 'sliding' needs sliding_window")
        is_id = not isinstance(self.bos_id, bool) and 0 <= self.bos_id < self.vocab_size
        ids = f"an id of the vocabulary, 0 to {self.vocab_size - 1}"
        checks.require(is_id, "bos_id", self.bos_id, ids)

    def attention_kind(self, layer: int) -> str:
        """ "full" or "sliding", of a layer counted from 0."""
        return self.attention_kinds[layer % len(self.attention_kinds)]
