"""Supported model families of transformers: `config.json` to our configs, and back.

Every key is read and carried over, is known to change nothing (initial ranges, caches, training
dropout of the attention weights: `hf_other_keys.py`), or is refused.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from cascade_jax import checks
from cascade_jax.interop import hf_decoders as decoders
from cascade_jax.interop.hf_keys import Keys, UnsupportedError
from cascade_jax.json_text import shown
from cascade_jax.models.config import DecoderConfig, T5Config
from cascade_jax.models.families import ModelConfig as Config
from cascade_jax.names import did_you_mean


@dataclasses.dataclass(frozen=True)
class Family:
    """Models of one `model_type` of config.json."""

    model_type: str
    architectures: tuple[str, ...]  # classes of such weights; the first is written
    defaults: Mapping[str, Any]  # what transformers takes where config.json says nothing
    read: Callable[[Keys], Config]
    write: Callable[[Any], dict[str, Any]]  # `model_type` and `architectures` left out


# T5's feed_forward_proj; "gated-gelu" is the tanh approximation, "gelu" alone the exact function.
_GATES = {
    "relu": ("relu",),
    "gelu_new": ("gelu",),
    "gated-gelu": ("gelu", "linear"),
    "gated-silu": ("silu", "linear"),
    "gated-relu": ("relu", "linear"),
    "gated-gelu_new": ("gelu", "linear"),
}
_T5_ALIASES = {
    "hidden_size": "d_model",
    "num_attention_heads": "num_heads",
    "num_hidden_layers": "num_layers",
    "head_dim": "d_kv",
}
_WRITTEN_GATES = {ours: theirs for theirs, ours in reversed(_GATES.items())}


def _read_t5(keys: Keys) -> T5Config:
    kind = keys.one_of("feed_forward_proj", _GATES)
    activation = _GATES[kind]
    # Should these say something else, transformers computes what they say.
    keys.only("is_gated_act", len(activation) == 2)
    keys.only("dense_act_fn", "gelu_new" if activation[0] == "gelu" else activation[0])
    keys.only("layer_norm_epsilon", 1e-6)
    keys.only("decoder_start_token_id", 0, None)
    keys.only("is_encoder_decoder", True)
    for alias, key in _T5_ALIASES.items():
        keys.only(alias, keys.size(key))
    tied = keys.flag("tie_word_embeddings")
    scaled = keys.flag("scale_decoder_outputs", tied)
    if scaled and not tied:
        keys.refuse("scale_decoder_outputs", True, "false is, without tie_word_embeddings")
    layers = keys.layers("num_layers")
    decoder_layers = keys.layers("num_decoder_layers", None)
    return keys.build(
        T5Config,
        vocab_size=keys.size("vocab_size"),
        embed_dim=keys.size("d_model"),
        num_heads=keys.size("num_heads"),
        head_dim=keys.size("d_kv"),
        mlp_dim=keys.size("d_ff"),
        num_encoder_layers=layers,
        num_decoder_layers=layers if decoder_layers is None else decoder_layers,
        mlp_activations=activation,
        dropout_rate=_dropout(keys),
        tied_logits=tied and scaled,
        relative_buckets=keys.size("relative_attention_num_buckets"),
        relative_max_distance=keys.size("relative_attention_max_distance"),
    )


def _dropout(keys: Keys) -> float:
    rate = keys("dropout_rate")
    if checks.is_number(rate) and 0 <= rate < 1:
        return rate
    keys.refuse("dropout_rate", rate, "a number of at least 0 and below 1 is")
    return 0.0


def _read_mt5(keys: Keys) -> T5Config:
    # All of them are untied, whatever transformers wrote beside them.
    return dataclasses.replace(_read_t5(keys), tied_logits=False)


def _write_t5(config: T5Config) -> dict[str, Any]:
    activations = config.mlp_activations
    return {
        "vocab_size": config.vocab_size,
        "d_model": config.embed_dim,
        "num_heads": config.num_heads,
        "d_kv": config.head_dim,
        "d_ff": config.mlp_dim,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "feed_forward_proj": _WRITTEN_GATES.get(activations, "-".join(activations)),
        "dropout_rate": config.dropout_rate,
        "layer_norm_epsilon": 1e-6,
        "tie_word_embeddings": config.tied_logits,
        "scale_decoder_outputs": config.tied_logits,
        "relative_attention_num_buckets": config.relative_buckets,
        "relative_attention_max_distance": config.relative_max_distance,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "is_encoder_decoder": True,
    }


_T5 = {
    "feed_forward_proj": "relu",
    "layer_norm_epsilon": 1e-6,
    "decoder_start_token_id": None,
    "tie_word_embeddings": True,
    "dropout_rate": 0.1,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
}
GEMMA3_WITH_IMAGES = "gemma3"

FAMILIES = {
    family.model_type: family
    for family in (
        Family(
            "llama", ("LlamaForCausalLM",), decoders.LLAMA,
            decoders.read_decoder, decoders.write_llama,
        ),
        Family(
            "qwen2", ("Qwen2ForCausalLM",), decoders.QWEN,
            lambda keys: decoders.read_qwen(keys, qkv_bias=True, attention_out_bias=False),
            decoders.write_qwen,
        ),
        Family(
            "qwen3", ("Qwen3ForCausalLM",), {**decoders.QWEN, "head_dim": 128},
            lambda keys: decoders.read_qwen(keys, qk_norm=True), decoders.write_qwen,
        ),
        Family(
            "gemma2", ("Gemma2ForCausalLM",), decoders.GEMMA2,
            decoders.read_gemma2, decoders.write_gemma2,
        ),
        Family(
            "gemma3_text", ("Gemma3ForCausalLM",), decoders.GEMMA,
            decoders.read_gemma3, decoders.write_gemma3,
        ),
        Family("t5", ("T5ForConditionalGeneration", "T5WithLMHeadModel"), _T5, _read_t5, _write_t5),
        Family(
            "mt5", ("MT5ForConditionalGeneration",), {**_T5, "feed_forward_proj": "gated-gelu"},
            _read_mt5, _write_t5,
        ),
    )
}  # fmt: skip


def family_of(contents: Mapping[str, Any]) -> tuple[Family, Mapping[str, Any]]:
    """The family of a config.json, and the part of it that describes the language model.

    Raises:
      UnsupportedError: for another `model_type` or architecture.
    """
    model_type, architectures = contents.get("model_type"), contents.get("architectures")
    architectures = [] if architectures is None else architectures
    if not isinstance(architectures, list) or not all(isinstance(n, str) for n in architectures):
        raise UnsupportedError(
            f"architectures is {shown(architectures)}; must be a list of classes' names"
        )
    if model_type == GEMMA3_WITH_IMAGES:
        if architectures and architectures != ["Gemma3ForConditionalGeneration"]:
            raise _unknown("architectures", architectures, ["Gemma3ForConditionalGeneration"])
        return FAMILIES["gemma3_text"], _text_part(contents)
    if model_type is None:
        by_class = {name: each for each in FAMILIES.values() for name in each.architectures}
        family = by_class.get(architectures[0]) if architectures else None
    else:
        family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise _unknown("model_type", model_type, [*FAMILIES, GEMMA3_WITH_IMAGES])
    if architectures and not set(architectures) & set(family.architectures):
        raise _unknown("architectures", architectures, list(family.architectures))
    return family, contents


def _text_part(contents: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the config.json of a model with images says of its language model."""
    keys = Keys(contents, {})
    text = keys.mapping("text_config")
    if text.get("model_type") not in (None, "gemma3_text"):
        keys.refuse("text_config.model_type", text["model_type"], "gemma3_text is")
    keys.only("quantization_config", None, hint="weights of full precision")
    for key in ("vision_config", "mm_tokens_per_image"):
        keys(key, None)
    # Tying is stated outside of text_config, if at all.
    outside = {k: keys(k) for k in ("tie_word_embeddings", "bos_token_id") if k in contents}
    keys.refuse_unread()
    keys.raise_problems()
    return {**outside, **text}


def _unknown(key: str, value: Any, allowed: list[str]) -> UnsupportedError:
    text = shown(value[0] if isinstance(value, list) and value else value)
    hint = did_you_mean(text.strip("'"), allowed)
    names = ", ".join(allowed)
    return UnsupportedError(f"{key} = {shown(value)} is not supported: {names} are{hint}")


def read_config(contents: Mapping[str, Any]) -> tuple[Family, Config]:
    """Family and our config of the contents of a config.json.

    Raises:
      UnsupportedError: names every key whose value is not supported, and what is.
    """
    family, part = family_of(contents)
    keys = Keys(part, family.defaults)
    keys.only("quantization_config", None, hint="weights of full precision")
    return family, family.read(keys)


def write_config(config: Config, prefer: str | None = None) -> dict[str, Any]:
    """The config.json that transformers makes the same model of.

    Args:
      config: of the model.
      prefer: the `model_type` to take where several describe it.

    Raises:
      UnsupportedError: if no family of transformers has this model; names what is in the way.
    """
    kind, problems = type(config), {}
    for name in sorted(FAMILIES, key=lambda name: name != prefer):
        family = FAMILIES[name]
        if (name in ("t5", "mt5")) != (kind is T5Config):
            continue
        written = family.write(config)
        written |= {"model_type": name, "architectures": [family.architectures[0]]}
        try:
            problems[name] = differences(config, read_config(written)[1])
        except ValueError as error:
            problems[name] = [str(error)]
        if not problems[name]:
            return written
    name = min(problems, key=lambda name: len(problems[name]))
    raise UnsupportedError(
        f"transformers has no model like this {kind.__name__}; nearest is {name}, which has "
        f"{'; '.join(problems[name])}"
    )


# Not in a config for transformers.
_OURS_ALONE = ("dtype", "remat", "scan_layers", "query_chunk")


def differences(config: Config, other: Config) -> list[str]:
    """Fields by which the other config is another model, with the other's value first."""

    def value(config, name):
        if name == "attention_kinds":
            return [config.attention_kind(layer) for layer in range(config.num_layers)]
        setting = getattr(config, name)
        if name in ("sliding_window", "sliding_rope_theta"):
            if "sliding" not in config.attention_kinds:
                return None
            if name == "sliding_rope_theta" and config.rope_scaling is None:
                return setting or config.rope_theta
        return setting

    texts = []
    for field in dataclasses.fields(config):
        # A decoder's dropout is not in transformers' configs; it is of training alone.
        ours_alone = field.name == "dropout_rate" and isinstance(config, DecoderConfig)
        if field.name in _OURS_ALONE or ours_alone:
            continue
        theirs, ours = value(other, field.name), value(config, field.name)
        if theirs != ours:
            texts.append(f"{field.name} = {theirs!r} (this model: {ours!r})")
    return texts
