"""Decoder-only models: the keys of config.json and our DecoderConfig, in both directions."""

from typing import Any

from cascade_jax.interop import hf_rope
from cascade_jax.interop.hf_keys import Keys
from cascade_jax.models.config import DecoderConfig

# By transformers' names; its "gelu" is the exact one, ours the tanh approximation.
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_new": "gelu",
    "relu": "relu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "linear": "linear",
}
_WRITTEN_ACTIVATIONS = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}

LLAMA = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "bos_token_id": 1}
LLAMA |= {"tie_word_embeddings": False, "eos_token_id": 2}
QWEN = {**LLAMA, "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}
QWEN |= {"bos_token_id": None, "eos_token_id": None}
GEMMA = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
    "bos_token_id": 2,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "sliding_window_pattern": 6,
}
GEMMA2 = {**GEMMA, "vocab_size": 256000, "rope_theta": 10_000.0}
GEMMA2 |= {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}


def read_decoder(keys: Keys, **own: Any) -> DecoderConfig:
    """Llama's keys, which all have; `own` is what another family does its own way."""
    heads, width = keys.size("num_attention_heads"), keys.size("hidden_size")
    act = "hidden_activation" if "hidden_activation" in keys else "hidden_act"
    activation = keys.one_of(act, ACTIVATIONS)
    if act == "hidden_activation":  # which transformers reads alone
        keys.only("hidden_act", activation)
    biased = keys.flag("attention_bias", False)
    keys.only("mlp_bias", False)
    keys.only("is_encoder_decoder", False)
    head_dim = keys.size("head_dim", None)
    if head_dim is None:
        head_dim = max(width // heads, 1)
        if width % heads and not keys.is_refused("num_attention_heads"):
            keys.refuse("hidden_size", width, f"a multiple of num_attention_heads = {heads} is")
    if "attention_kinds" not in own and hf_rope.attention_kinds(keys, ("full",)) != ("full",):
        keys.refuse("layer_types", keys("layer_types"), f"{hf_rope.FULL} in all layers is")
    kv_heads = keys.size("num_key_value_heads", None)
    common = {
        "vocab_size": keys.size("vocab_size"),
        "embed_dim": width,
        "num_layers": keys.layers("num_hidden_layers"),
        "num_heads": heads,
        "num_kv_heads": heads if kv_heads is None else kv_heads,
        "head_dim": head_dim,
        "mlp_dim": keys.size("intermediate_size"),
        "mlp_activations": (ACTIVATIONS[activation], "linear"),
        "norm_epsilon": keys.number("rms_norm_eps"),
        "qkv_bias": biased,
        "attention_out_bias": biased,
        "tied_logits": keys.flag("tie_word_embeddings"),
        "bos_id": _bos_id(keys),
    }
    if "rope_theta" not in own:
        theta, scaling = hf_rope.read(keys)
        common |= {"rope_theta": theta, "rope_scaling": scaling}
    return keys.build(DecoderConfig, **{**common, **own})


def _bos_id(keys: Keys) -> int:
    """The start of a text; where a family has none, what ends the text before it."""
    ids = []
    for key in ("bos_token_id", "eos_token_id"):
        value = keys(key, None)
        values = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(each) is int and each >= 0 for each in values):
            keys.refuse(key, value, "a token's id, a list of ids or null is")
        ids += values
    return ids[0] if ids else 0


def read_qwen(keys: Keys, **own: Any) -> DecoderConfig:
    """Qwen 2's and 3's keys; `own` is what one of the two does its own way."""
    window = keys.size("sliding_window", None)
    first, count = keys.size("max_window_layers", least=0), keys.layers("num_hidden_layers")
    if keys.flag("use_sliding_window") and window is not None:
        full = min(first, count)
        kinds = ("full",) * full + ("sliding",) * (count - full)
        own |= {
            "sliding_window": window,
            "attention_kinds": hf_rope.attention_kinds(keys, kinds),
        }
    return read_decoder(keys, **own)


def _read_gemma(keys: Keys, **own: Any) -> DecoderConfig:
    keys.only("use_bidirectional_attention", False)
    scalar, head_dim = keys.number("query_pre_attn_scalar"), keys.size("head_dim")
    own |= {"norm_adds_one": True, "post_norms": True, "scaled_embedding": True}
    return read_decoder(
        keys,
        query_scale=None if scalar == head_dim else scalar**-0.5,
        sliding_window=keys.size("sliding_window", None),
        attention_soft_cap=keys.number("attn_logit_softcapping", None),
        logit_soft_cap=keys.number("final_logit_softcapping", None),
        **own,
    )


def read_gemma2(keys: Keys) -> DecoderConfig:
    """Gemma 2's keys."""
    return _read_gemma(keys, attention_kinds=hf_rope.attention_kinds(keys, ("sliding", "full")))


def read_gemma3(keys: Keys) -> DecoderConfig:
    """Keys of Gemma 3's language model."""
    pattern = keys.layers("sliding_window_pattern")
    kinds = hf_rope.attention_kinds(keys, ("sliding",) * (pattern - 1) + ("full",))
    theta, scaling, sliding = hf_rope.read_by_kind(keys)
    return _read_gemma(
        keys,
        qk_norm=True,
        attention_kinds=kinds,
        rope_theta=theta,
        rope_scaling=scaling,
        sliding_rope_theta=sliding,
    )


def _write_decoder(config: DecoderConfig) -> dict[str, Any]:
    kinds = [f"{config.attention_kind(layer)}_attention" for layer in range(config.num_layers)]
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_dim,
        "hidden_act": _WRITTEN_ACTIVATIONS[config.mlp_activations[0]],
        "rms_norm_eps": config.norm_epsilon,
        "attention_bias": config.qkv_bias and config.attention_out_bias,
        "attention_dropout": 0.0,
        "tie_word_embeddings": config.tied_logits,
        "bos_token_id": config.bos_id,
        "rope_theta": config.rope_theta,
        "rope_scaling": hf_rope.write(config.rope_scaling),
        "sliding_window": config.sliding_window,
        "layer_types": kinds,
    }


def write_qwen(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of `read_qwen`."""
    written = _write_decoder(config)
    windowed = "sliding_attention" in written["layer_types"]
    first = written["layer_types"].index("sliding_attention") if windowed else config.num_layers
    return written | {"use_sliding_window": windowed, "max_window_layers": first}


def write_llama(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of `read_decoder`."""
    written = _write_decoder(config) | {"mlp_bias": False}
    del written["layer_types"], written["sliding_window"]
    return written


def write_gemma2(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of `read_gemma2`."""
    written = _write_decoder(config)
    scale = config.query_scale
    scalar = config.head_dim if scale is None else round(scale**-2, 6)
    return written | {
        "hidden_activation": written["hidden_act"],
        "query_pre_attn_scalar": int(scalar) if scalar == int(scalar) else scalar,
        "attn_logit_softcapping": config.attention_soft_cap,
        "final_logit_softcapping": config.logit_soft_cap,
    }


def write_gemma3(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of `read_gemma3`."""
    written = write_gemma2(config)
    written["rope_local_base_freq"] = config.sliding_rope_theta or config.rope_theta
    kinds = config.attention_kinds
    if kinds.count("full") == 1 and kinds[-1] == "full":
        written["sliding_window_pattern"] = len(kinds)  # for versions that know no layer_types
    return written
