"""Names and layouts of our parameters in transformers."""

import dataclasses
import os
import re
from collections.abc import Collection, Iterable, Mapping

from cascade_jax.models.config import DecoderConfig, T5Config

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Source:
    """The tensor of transformers that one of our parameters (or layers of one) is."""

    name: str
    is_transposed: bool = False  # its axes are the other way round
    is_by_id: bool = False  # its rows are token ids


_DECODER_TOP = {
    "token_embedder/embedding": Source("model.embed_tokens.weight", is_by_id=True),
    "final_norm/scale": Source("model.norm.weight"),
    "logits_dense/kernel": Source("lm_head.weight", True, True),
}
_DECODER_LAYER = {
    "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj",
    "attention/value": "self_attn.v_proj",
    "attention/out": "self_attn.o_proj",
    "attention/query_norm": "self_attn.q_norm",
    "attention/key_norm": "self_attn.k_norm",
    "mlp/wi_0": "mlp.gate_proj",
    "mlp/wi_1": "mlp.up_proj",
    "mlp/wo": "mlp.down_proj",
    "pre_attention_norm": "input_layernorm",
}
_PLAIN_NORMS = {"pre_mlp_norm": "post_attention_layernorm"}
_POST_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "pre_mlp_norm": "pre_feedforward_layernorm",
    "post_mlp_norm": "post_feedforward_layernorm",
}
_BIAS = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
_T5_TOP = {
    "token_embedder/embedding": Source("shared.weight", is_by_id=True),
    "decoder/logits_dense/kernel": Source("lm_head.weight", True, True),
    "encoder/encoder_norm/scale": Source("encoder.final_layer_norm.weight"),
    "decoder/decoder_norm/scale": Source("decoder.final_layer_norm.weight"),
    "encoder/relpos_bias/rel_embedding": Source(f"encoder.{_BIAS}", True),
    "decoder/relpos_bias/rel_embedding": Source(f"decoder.{_BIAS}", True),
}
_T5_PROJECTIONS = {"query": "q", "key": "k", "value": "v", "out": "o"}
# Of each stack, the blocks of a layer in their order, with what transformers calls them.
_T5_BLOCKS = {
    "encoder": {
        "attention": ("pre_attention_layer_norm", "SelfAttention"),
        "mlp": ("pre_mlp_layer_norm", "DenseReluDense"),
    },
    "decoder": {
        "self_attention": ("pre_self_attention_layer_norm", "SelfAttention"),
        "encoder_decoder_attention": ("pre_cross_attention_layer_norm", "EncDecAttention"),
        "mlp": ("pre_mlp_layer_norm", "DenseReluDense"),
    },
}


def source(config: DecoderConfig | T5Config, path: Path, layer: int | None = None) -> Source:
    """The tensor of the parameter with this path.

    A layer's parameter has "layers_3" in its path or, stacked, "layers" and the number `layer`.
    """
    if isinstance(config, T5Config):
        return _t5_source(path, layer)
    if top := _DECODER_TOP.get("/".join(path)):
        return top
    number, rest, leaf = _layer(path[0], layer), "/".join(path[1:-1]), path[-1]
    norms = _POST_NORMS if config.post_norms else _PLAIN_NORMS
    kind = "bias" if leaf == "bias" else "weight"
    part = (_DECODER_LAYER | norms)[rest]
    return Source(f"model.layers.{number}.{part}.{kind}", is_transposed=leaf == "kernel")


def _t5_source(path: Path, layer: int | None) -> Source:
    if top := _T5_TOP.get("/".join(path)):
        return top
    stack, block = path[0], path[2]
    number = _layer(path[1], layer)
    for place, (ours, (norm, theirs)) in enumerate(_T5_BLOCKS[stack].items()):
        inner = f"{stack}.block.{number}.layer.{place}"
        if block == norm:
            return Source(f"{inner}.layer_norm.weight")
        if block == ours:
            part = _T5_PROJECTIONS.get(path[3], path[3])
            return Source(f"{inner}.{theirs}.{part}.weight", is_transposed=True)
    raise KeyError(path)


def _layer(part: str, layer: int | None) -> int:
    return int(part.removeprefix("layers_")) if layer is None else layer


# Tensors that are in some checkpoints and that no model needs.
_NEEDLESS = re.compile(
    r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
    r"|decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
)
_IMAGE_PARTS = re.compile(r"(model\.)?(vision_tower|multi_modal_projector)\.")
_TEXT_PREFIX = re.compile(r"language_model\.(model|lm_head)\.|model\.(language_model)\.")


def renamed(names: Collection[str], folder: str | os.PathLike) -> Mapping[str, str]:
    """Names as a language model alone has them, with the names in the files; images' left out.

    Raises:
      ValueError: a parameter is there under two names; names the folder.
    """
    stored_names = {}
    for name in names:
        if _NEEDLESS.fullmatch(name) or _IMAGE_PARTS.match(name):
            continue
        alone = name
        if prefix := _TEXT_PREFIX.match(name):
            part = "lm_head" if prefix[1] == "lm_head" else "model"
            alone = f"{part}.{name[prefix.end() :]}"
        if alone in stored_names:
            raise ValueError(
                f"{os.fspath(folder)}: tensors {stored_names[alone]} and {name} are the same "
                "parameter; delete one of them, or get another copy of the folder"
            )
        stored_names[alone] = name
    return stored_names


_LAYER = re.compile(r"(model\.layers|encoder\.block|decoder\.block)\.(\d+)\.")


def layers(names: Iterable[str]) -> dict[str, set[int]]:
    """Numbers of the layers that tensors are of, by the start of their names ("model.layers")."""
    numbers = {}
    for match in filter(None, map(_LAYER.match, names)):
        numbers.setdefault(match[1], set()).add(int(match[2]))
    return numbers


def layer_counts(config: DecoderConfig | T5Config) -> dict[str, int]:
    """How many layers of each kind that `layers` tells apart a model has."""
    if isinstance(config, T5Config):
        return {
            "encoder.block": config.num_encoder_layers,
            "decoder.block": config.num_decoder_layers,
        }
    return {"model.layers": config.num_layers}


def copies(config: DecoderConfig | T5Config) -> dict[str, str]:
    """Tensors that a checkpoint may repeat, with the tensor that they must equal."""
    names, first = [], "model.embed_tokens.weight"
    if isinstance(config, T5Config):
        names, first = [f"{s}.embed_tokens.weight" for s in _T5_BLOCKS], "shared.weight"
    if config.tied_logits:
        names.append("lm_head.weight")
    return dict.fromkeys(names, first)
