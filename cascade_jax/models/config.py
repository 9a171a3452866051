"""Sizes and switches of a model, checked when they are written down."""

import dataclasses
import difflib
from collections.abc import Sequence

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


@dataclasses.dataclass(frozen=True)
class T5Config:
    """An encoder-decoder of the T5 family; T5 1.1 is ("gelu", "linear") with untied logits.

    Attributes:
      vocab_size: number of token ids, id 0 being padding.
      embed_dim: width of the residual stream.
      num_heads, head_dim: attention heads and the size of each, whatever embed_dim is.
      mlp_dim: hidden size of the MLP.
      num_encoder_layers, num_decoder_layers: layers of each stack.
      mlp_activations: one name for a plain MLP; several are multiplied elementwise (gated).
      dropout_rate: in [0, 1); used only where a call says `deterministic=False`.
      tied_logits: project to the vocabulary with the embedding (T5X calls it logits_via_embedding).
      dtype: of the computation; parameters are float32 always.
      remat: what the backward pass recomputes: "none" (nothing), "full" (each whole layer) or
        "dots" (all but the outputs of the weight matmuls).
      scan_layers: one compiled layer over stacked parameters instead of a copy for each layer.
      relative_buckets, relative_max_distance: of the relative position bias; all distances from
        relative_max_distance on share the last bucket.

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

    def __post_init__(self):
        for name in _SIZES:
            _check_size(name, getattr(self, name))
        if isinstance(self.mlp_activations, str) or not self.mlp_activations:
            raise ValueError(
                f"mlp_activations = {self.mlp_activations!r}: expected a tuple of one or more "
                f"names out of {', '.join(ACTIVATION_NAMES)}"
            )
        # A tuple, so that the config can be hashed whatever sequence a config file gave.
        object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))
        for activation in self.mlp_activations:
            _check_name("mlp_activations", activation, ACTIVATION_NAMES)
        _check_name("dtype", self.dtype, DTYPE_NAMES)
        _check_name("remat", self.remat, REMAT_NAMES)
        if not 0.0 <= self.dropout_rate < 1.0:
            raise ValueError(f"dropout_rate = {self.dropout_rate!r}: expected 0 <= rate < 1")
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
    nearest = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.0)[0]
    raise ValueError(
        f"{field} = {value!r}: expected one of {', '.join(allowed)}; nearest is {nearest!r}"
    )
