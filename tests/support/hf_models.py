"""Tiny random models of every supported family, made by transformers itself."""

import dataclasses
import warnings
from pathlib import Path

import pytest

_REASON = "the peer to compare with is not installed: pip install torch transformers"

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason=_REASON)
    transformers = pytest.importorskip("transformers", reason=_REASON)
    safetensors_torch = pytest.importorskip("safetensors.torch", reason=_REASON)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

_DECODER = {
    "vocab_size": 47,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 5,
    "eos_token_id": None,
    "pad_token_id": None,
    "attn_implementation": "eager",
}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 200.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
_GEMMA = _DECODER | {"head_dim": 6, "query_pre_attn_scalar": 9, "sliding_window": 4}
_GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
}
_GEMMA3_KINDS = ("sliding", "full", "sliding", "sliding")
_T5 = {
    "vocab_size": 47,
    "d_model": 16,
    "d_kv": 6,
    "d_ff": 24,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
    "eos_token_id": None,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A tiny model: its class in transformers, and its configuration there."""

    model: str
    config: str
    settings: dict
    pad_id: int = 0

    def config_class(self):
        return getattr(transformers, self.config)

    def model_class(self):
        return getattr(transformers, self.model)


CASES = {
    "llama": Case(
        "LlamaForCausalLM",
        "LlamaConfig",
        _DECODER | {"num_hidden_layers": 2, "rope_parameters": _LLAMA3_ROPE, "rms_norm_eps": 1e-5},
        pad_id=7,
    ),
    "llama_biases": Case(
        "LlamaForCausalLM",
        "LlamaConfig",
        _DECODER | {"num_hidden_layers": 2, "attention_bias": True, "tie_word_embeddings": True},
        pad_id=5,  # which is also the start of a text
    ),
    "gemma2": Case(
        "Gemma2ForCausalLM",
        "Gemma2Config",
        _GEMMA
        | {
            "num_hidden_layers": 3,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": Case(
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        _GEMMA
        | {
            "num_hidden_layers": 4,
            "rope_parameters": _GEMMA3_ROPE,
            "layer_types": [f"{kind}_attention" for kind in _GEMMA3_KINDS],
        },
    ),
    "qwen2": Case(
        "Qwen2ForCausalLM",
        "Qwen2Config",
        _DECODER | {"num_hidden_layers": 2, "rope_parameters": {"rope_theta": 300.0}},
        pad_id=46,
    ),
    "qwen2_windows": Case(
        "Qwen2ForCausalLM",
        "Qwen2Config",
        _DECODER
        | {
            "num_hidden_layers": 3,
            "use_sliding_window": True,
            "sliding_window": 4,
            "max_window_layers": 1,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3": Case(
        "Qwen3ForCausalLM",
        "Qwen3Config",
        _DECODER | {"num_hidden_layers": 2, "head_dim": 6, "tie_word_embeddings": True},
        pad_id=7,
    ),
    "t5": Case("T5ForConditionalGeneration", "T5Config", _T5),
    "t5_v1_1": Case(
        "T5ForConditionalGeneration",
        "T5Config",
        _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "mt5": Case("MT5ForConditionalGeneration", "MT5Config", _T5),
}
# Gemma 3 as its larger sizes are published: the language model beside one of images.
GEMMA3_WITH_IMAGES = Case(
    "Gemma3ForConditionalGeneration",
    "Gemma3Config",
    {
        "text_config": CASES["gemma3"].settings,
        "vision_config": {
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 8,
            "patch_size": 4,
        },
        "mm_tokens_per_image": 4,
        "attn_implementation": "eager",
    },
)
DECODERS = [name for name in CASES if "t5" not in name]
ENCODER_DECODERS = [name for name in CASES if "t5" in name]


def make(name: str, folder: Path):
    """Saves a model with random numbers everywhere (norms and biases too), and returns it."""
    case = CASES.get(name, GEMMA3_WITH_IMAGES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = case.model_class()(case.config_class()(**case.settings)).eval()
        if name in ("t5_v1_1", "mt5"):  # transformers 5 ties what the public ones have apart
            model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            scale = 0.5 if parameter.ndim == 2 else 0.2
            if name in ENCODER_DECODERS and parameter.ndim == 2:
                # Its attention has no division by sqrt(head size) to keep rounding small.
                scale = 1.0 if len(parameter) == _T5["vocab_size"] else 0.3
            noise = torch.empty_like(parameter.data).normal_(generator=generator)
            parameter.data = scale * noise + (parameter.data if parameter.ndim == 1 else 0)
        model.save_pretrained(folder)
    return model


def load(name: str, folder: Path):
    """What transformers makes of a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name in ENCODER_DECODERS:
            kind = CASES[name].model_class()
        else:
            kind = transformers.AutoModelForCausalLM
        return kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
