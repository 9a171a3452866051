"""config.json of public models: our configs of them, their sizes, and what is refused."""

import dataclasses
import math

import jax
import pytest

from cascade_jax.interop.hf_families import differences, read_config, write_config
from cascade_jax.interop.hf_keys import UnsupportedError
from cascade_jax.models import families
from cascade_jax.models.config import DecoderConfig, RopeScaling, T5Config

pytestmark = pytest.mark.medium

GEMMA_3_270M = {
    "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text",
    "attention_bias": False, "attention_dropout": 0.0, "attn_logit_softcapping": None,
    "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "final_logit_softcapping": None,
    "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 640,
    "initializer_range": 0.02, "intermediate_size": 2048,
    "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 3,
    "max_position_embeddings": 32768, "num_attention_heads": 4, "num_hidden_layers": 18,
    "num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000.0, "rope_scaling": None, "rope_theta": 1000000.0,
    "sliding_window": 512, "use_bidirectional_attention": False, "use_cache": True,
    "vocab_size": 262144,
}  # fmt: skip
GEMMA_3_4B = {  # with images; much is left to the defaults of transformers
    "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
    "boi_token_index": 255999, "eoi_token_index": 256000, "image_token_index": 262144,
    "eos_token_id": [1, 106], "mm_tokens_per_image": 256,
    "text_config": {
        "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
        "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27},
}  # fmt: skip
GEMMA_2_2B = {
    "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "attention_bias": False,
    "attn_logit_softcapping": 50.0, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0,
    "cache_implementation": "hybrid", "final_logit_softcapping": 30.0, "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 2304, "intermediate_size": 9216, "max_position_embeddings": 8192,
    "num_attention_heads": 8, "num_hidden_layers": 26, "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_theta": 10000.0,
    "sliding_window": 4096, "vocab_size": 256000,
}  # fmt: skip
LLAMA_3_2_1B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False,
    "bos_token_id": 128000, "eos_token_id": 128001, "head_dim": 64, "hidden_act": "silu",
    "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 131072,
    "mlp_bias": False, "num_attention_heads": 32, "num_hidden_layers": 16,
    "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "rope_theta": 500000.0, "tie_word_embeddings": True, "vocab_size": 128256,
}  # fmt: skip
SMOLLM2_135M = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False,
    "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "silu", "hidden_size": 576,
    "intermediate_size": 1536, "is_llama_config": True, "max_position_embeddings": 8192,
    "mlp_bias": False, "num_attention_heads": 9, "num_hidden_layers": 30,
    "num_key_value_heads": 3, "rms_norm_eps": 1e-05, "rope_interleaved": False,
    "rope_scaling": None, "rope_theta": 100000, "tie_word_embeddings": True, "vocab_size": 49152,
}  # fmt: skip
QWEN2_5_0_5B = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "bos_token_id": 151643,
    "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 896, "intermediate_size": 4864,
    "max_position_embeddings": 32768, "max_window_layers": 24, "num_attention_heads": 14,
    "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True,
    "use_mrope": False, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
QWEN3_0_6B = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False,
    "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
    "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960,
    "max_window_layers": 28, "num_attention_heads": 16, "num_hidden_layers": 28,
    "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": None,
    "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True,
    "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
T5_SMALL = {
    "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "d_ff": 2048, "d_kv": 64,
    "d_model": 512, "decoder_start_token_id": 0, "dropout_rate": 0.1, "eos_token_id": 1,
    "initializer_factor": 1.0, "is_encoder_decoder": True, "layer_norm_epsilon": 1e-06,
    "n_positions": 512, "num_heads": 8, "num_layers": 6, "output_past": True, "pad_token_id": 0,
    "relative_attention_num_buckets": 32, "vocab_size": 32128,
}  # fmt: skip
FLAN_T5_SMALL = T5_SMALL | {
    "d_ff": 1024, "num_decoder_layers": 8, "num_heads": 6, "num_layers": 8,
    "feed_forward_proj": "gated-gelu", "relative_attention_max_distance": 128,
    "tie_word_embeddings": False,
}  # fmt: skip
FLAN_T5_XXL = FLAN_T5_SMALL | {
    "d_ff": 10240, "d_model": 4096, "num_decoder_layers": 24, "num_heads": 64, "num_layers": 24,
}  # fmt: skip
MT5_SMALL = FLAN_T5_SMALL | {
    "architectures": ["MT5ForConditionalGeneration"], "model_type": "mt5", "vocab_size": 250112,
    "tokenizer_class": "T5Tokenizer",
}  # fmt: skip

# Parameters as the models' publishers, or their files' headers, count them (an output matrix that
# is the embedding counted once).
PUBLIC = {
    "gemma-3-270m": (GEMMA_3_270M, 268_098_176),
    "gemma-3-4b": (GEMMA_3_4B, 3_880_263_168),
    "gemma-2-2b": (GEMMA_2_2B, 2_614_341_888),
    "Llama-3.2-1B": (LLAMA_3_2_1B, 1_235_814_400),
    "SmolLM2-135M": (SMOLLM2_135M, 134_515_008),
    "Qwen2.5-0.5B": (QWEN2_5_0_5B, 494_032_768),
    "Qwen3-0.6B": (QWEN3_0_6B, 596_049_920),
    "t5-small": (T5_SMALL, 60_506_624),
    "flan-t5-small": (FLAN_T5_SMALL, 76_961_152),
    "flan-t5-xxl": (FLAN_T5_XXL, 11_135_332_352),
    "mt5-small": (MT5_SMALL, 300_176_768),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_number_of_parameters_of_public_models(name):
    result, count = PUBLIC[name]
    _, config = read_config(result)
    shapes = families.parameter_shapes(dataclasses.replace(config, scan_layers=True))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == count


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_written_is_read_as_the_same_model(name):
    result, _ = PUBLIC[name]
    family, config = read_config(result)
    written = write_config(config, prefer=family.model_type)
    again, other = read_config(written)
    assert (again, differences(config, other)) == (family, [])


def test_the_fields_of_gemma_3():
    _, config = read_config(GEMMA_3_4B)
    assert config == DecoderConfig(
        vocab_size=262208, embed_dim=2560, num_layers=34, num_heads=8, num_kv_heads=4,
        head_dim=256, mlp_dim=10240, mlp_activations=("gelu", "linear"), norm_adds_one=True,
        post_norms=True, qk_norm=True, rope_theta=1e6, rope_scaling=RopeScaling(8.0),
        sliding_window=1024, attention_kinds=("sliding",) * 5 + ("full",),
        sliding_rope_theta=10000.0, scaled_embedding=True, bos_id=2,
    )  # fmt: skip


def test_the_fields_of_gemma_2():
    _, config = read_config(GEMMA_2_2B | {"query_pre_attn_scalar": 144})
    assert config.attention_kinds == ("sliding", "full")
    assert (config.attention_soft_cap, config.logit_soft_cap) == (50.0, 30.0)
    assert config.query_scale == pytest.approx(1 / 12)
    assert config.tied_logits and not config.qk_norm


def test_the_fields_of_t5():
    _, config = read_config(FLAN_T5_SMALL)
    assert config == T5Config(32128, 512, 6, 64, 1024, 8, 8)
    _, config = read_config(T5_SMALL)
    sizes = T5Config(32128, 512, 8, 64, 2048, 6, 6, mlp_activations=("relu",), tied_logits=True)
    assert config == sizes


# By transformers 5, what 4 spelled in several keys.
_NEW_LLAMA = {k: v for k, v in LLAMA_3_2_1B.items() if not k.startswith("rope")} | {
    "rope_parameters": LLAMA_3_2_1B["rope_scaling"] | {"rope_theta": 500000.0},
}
_NEW_GEMMA = {k: v for k, v in GEMMA_3_270M.items() if not k.startswith("rope")} | {
    "rope_parameters": {
        "full_attention": {"rope_theta": 1000000.0, "rope_type": "default"},
        "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
    },
}
_NEW_FLAN = FLAN_T5_SMALL | {"tie_word_embeddings": True, "scale_decoder_outputs": False}


@pytest.mark.parametrize(
    "old, new",
    [(LLAMA_3_2_1B, _NEW_LLAMA), (GEMMA_3_270M, _NEW_GEMMA), (FLAN_T5_SMALL, _NEW_FLAN)],
)
def test_both_spellings_are_the_same_model(old, new):
    assert read_config(old) == read_config(new)


def test_theta_may_stand_in_both_places_if_it_is_the_same():
    both = _NEW_LLAMA | {"rope_theta": 500000}
    assert read_config(both) == read_config(LLAMA_3_2_1B)


def test_gemma_3_without_a_list_of_layers():
    changed = {k: v for k, v in GEMMA_3_270M.items() if k != "layer_types"}
    assert read_config(GEMMA_3_270M) == read_config(changed)
    assert read_config(GEMMA_3_270M) == read_config(changed | {"sliding_window_pattern": 6})
    with pytest.raises(UnsupportedError, match="sliding_window_pattern = 0"):
        read_config(changed | {"sliding_window_pattern": 0})


REFUSED = [
    (LLAMA_3_2_1B, {"model_type": "mixtral"}, ['model_type = "mixtral"', "llama", "gemma3_text"]),
    (LLAMA_3_2_1B, {"model_type": "qwen3_moe"}, ["did you mean 'qwen3'"]),
    (LLAMA_3_2_1B, {"architectures": ["LlamaForSequenceClassification"]}, ["LlamaForCausalLM"]),
    (T5_SMALL, {"architectures": ["T5EncoderModel"]}, ["T5ForConditionalGeneration"]),
    (LLAMA_3_2_1B, {"hidden_act": "gelu"}, ['hidden_act = "gelu"', "gelu_pytorch_tanh"]),
    (LLAMA_3_2_1B, {"mlp_bias": True}, ["mlp_bias = true", "false is"]),
    (LLAMA_3_2_1B, {"partial_rotary_factor": 0.5}, ["partial_rotary_factor = 0.5", "1 is"]),
    (
        QWEN2_5_0_5B,
        {"rope_scaling": {"type": "yarn", "factor": 4.0}},
        ['"yarn"', "default, linear and llama3"],
    ),
    (
        LLAMA_3_2_1B,
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        ["llama3 needs low_freq_factor, high_freq_factor"],
    ),
    (QWEN3_0_6B, {"quantization_config": {"bits": 4}}, ["quantization_config", "full precision"]),
    (GEMMA_3_270M, {"use_bidirectional_attention": True}, ["use_bidirectional_attention = true"]),
    (GEMMA_3_270M, {"layer_types": ["linear_attention"] * 18}, ["layer_types", "18 of full"]),
    (GEMMA_3_270M, {"layer_types": ["full_attention"] * 17}, ["layer_types", "18 of full"]),
    (T5_SMALL, {"feed_forward_proj": "gelu"}, ['feed_forward_proj = "gelu"', "gated-gelu"]),
    (T5_SMALL, {"layer_norm_epsilon": 1e-5}, ["layer_norm_epsilon = 1e-05", "1e-06 is"]),
    (LLAMA_3_2_1B, {"num_key_value_heads": 5}, ["num_heads is 32", "num_kv_heads = 5"]),
    (LLAMA_3_2_1B, {"bos_token_id": 128256}, ["bos_id is 128256"]),
]


ROPE = "rope_scaling"
LLAMA3 = LLAMA_3_2_1B[ROPE]
REFUSED += [
    # Options that change the computation.
    (LLAMA_3_2_1B, {"is_causal": False}, ["is_causal = false", "true is"]),
    (LLAMA_3_2_1B, {"is_causal": None}, ["is_causal = null"]),  # which transformers takes as false
    (LLAMA_3_2_1B, {"is_causal": True, "is_decoder": True, "alibi": True}, ["alibi = true"]),
    (LLAMA_3_2_1B, {"use_bidirectional_attention": True}, ["use_bidirectional_attention = true"]),
    (LLAMA_3_2_1B, {"per_layer_config": {"0": {"head_dim": 2}}}, ["per_layer_config = "]),
    (LLAMA_3_2_1B, {"transformers_weights": "x.safetensors"}, ['transformers_weights = "x.saf']),
    (LLAMA_3_2_1B, {"auto_map": {"AutoModelForCausalLM": "m.M"}}, ["auto_map = "]),
    (LLAMA_3_2_1B, {"is_encoder_decoder": True}, ["is_encoder_decoder = true"]),
    (T5_SMALL, {"is_encoder_decoder": False}, ["is_encoder_decoder = false"]),
    (FLAN_T5_SMALL, {"dense_act_fn": "relu"}, ['dense_act_fn = "relu"', '"gelu_new" is']),
    (FLAN_T5_SMALL, {"is_gated_act": False}, ["is_gated_act = false"]),
    (FLAN_T5_SMALL, {"scale_decoder_outputs": True}, ["scale_decoder_outputs = true"]),
    (T5_SMALL, {"hidden_size": 8}, ["hidden_size = 8", "512 is"]),
    (GEMMA_2_2B, {"hidden_act": "silu"}, ['hidden_act = "silu"', '"gelu_pytorch_tanh" is']),
    (GEMMA_3_4B, {"quantization_config": {"bits": 4}}, ["full precision"]),
    (GEMMA_3_4B, {"text_config": [1]}, ["text_config = [1]", "an object is"]),
    (GEMMA_3_4B, {"is_encoder_decoder": True}, ["is_encoder_decoder = true"]),
    (GEMMA_3_4B, {"text_config": {"model_type": "llama"}}, ['text_config.model_type = "llama"']),
    (LLAMA_3_2_1B, {"architectures": 0}, ["architectures is 0"]),
    # Keys of other families, and of none.
    (LLAMA_3_2_1B, {"attn_logit_softcapping": 50.0}, ["attn_logit_softcapping = 50.0"]),
    (LLAMA_3_2_1B, {"query_pre_attn_scalar": 256}, ["query_pre_attn_scalar = 256", "delete"]),
    (LLAMA_3_2_1B, {"sliding_window": 4096}, ["sliding_window = 4096"]),
    (LLAMA_3_2_1B, {"num_local_experts": 8}, ["num_local_experts = 8"]),
    (LLAMA_3_2_1B, {"embedding_multiplier": 12.0}, ["embedding_multiplier = 12.0", "1.0 is"]),
    (LLAMA_3_2_1B, {"layer_types": ["sliding_attention"] * 16}, ["layer_types = ", "in all"]),
    (QWEN3_0_6B, {"layer_types": ["sliding_attention"] * 28}, ["layer_types = ", "in all"]),
    (QWEN3_0_6B, {"no_such_key": 0}, ["no_such_key = 0", "unknown to this version; delete"]),
    # Values of other kinds.
    (LLAMA_3_2_1B, {"model_type": ["llama"]}, ['model_type = ["llama"]', "did you mean 'llama'"]),
    (LLAMA_3_2_1B, {"architectures": "LlamaForCausalLM"}, ['architectures is "LlamaForCausalLM"']),
    (LLAMA_3_2_1B, {"tie_word_embeddings": "false"}, ['tie_word_embeddings = "false"']),
    (LLAMA_3_2_1B, {"attention_bias": "no"}, ['attention_bias = "no"', "true or false are"]),
    (LLAMA_3_2_1B, {"mlp_bias": 0}, ["mlp_bias = 0"]),
    (LLAMA_3_2_1B, {"hidden_act": ["silu"]}, ['hidden_act = ["silu"]']),
    (LLAMA_3_2_1B, {"rms_norm_eps": "1e-5"}, ['rms_norm_eps = "1e-5"', "a number above 0"]),
    (LLAMA_3_2_1B, {"bos_token_id": "1"}, ['bos_token_id = "1"']),
    (LLAMA_3_2_1B, {"bos_token_id": True}, ["bos_token_id = true"]),
    (LLAMA_3_2_1B, {"eos_token_id": [[1]]}, ["eos_token_id = [[1]]"]),
    (QWEN3_0_6B, {"use_sliding_window": "false"}, ['use_sliding_window = "false"']),
    (T5_SMALL, {"dropout_rate": "0"}, ['dropout_rate = "0"']),
    (T5_SMALL, {"tie_word_embeddings": "False"}, ['tie_word_embeddings = "False"']),
    # Sizes that can't be.
    (LLAMA_3_2_1B, {"hidden_size": True}, ["hidden_size = true", "an integer from 1"]),
    (LLAMA_3_2_1B, {"hidden_size": 2048.0}, ["hidden_size = 2048.0"]),
    (LLAMA_3_2_1B, {"num_hidden_layers": 10**9}, ["num_hidden_layers = 1000000000", "10000 is"]),
    (LLAMA_3_2_1B, {"num_hidden_layers": -1}, ["num_hidden_layers = -1"]),
    (LLAMA_3_2_1B, {"num_key_value_heads": 0}, ["num_key_value_heads = 0"]),
    (LLAMA_3_2_1B, {"head_dim": 0}, ["head_dim = 0"]),
    (LLAMA_3_2_1B, {"vocab_size": 10**40}, ["vocab_size = 1000000000"]),
    (LLAMA_3_2_1B, {"head_dim": None, "hidden_size": 2049}, ["a multiple of num_attention_heads"]),
    (LLAMA_3_2_1B, {"num_attention_heads": None}, ["num_attention_heads = null"]),
    (T5_SMALL, {"num_decoder_layers": 0}, ["num_decoder_layers = 0"]),
    (GEMMA_3_270M, {"sliding_window": "512"}, ['sliding_window = "512"']),
    (GEMMA_2_2B, {"query_pre_attn_scalar": 0}, ["query_pre_attn_scalar = 0"]),
    (GEMMA_2_2B, {"final_logit_softcapping": 0.0}, ["final_logit_softcapping = 0.0"]),
    (GEMMA_3_270M, {"layer_types": "full"}, ['layer_types = "full"', "18 of"]),
    (GEMMA_3_270M, {"layer_types": [["full_attention"]] * 18}, ["layer_types = "]),
    # Rotary positions.
    (LLAMA_3_2_1B, {"rope_theta": None}, ["rope_theta = null", "a number above 0"]),
    (LLAMA_3_2_1B, {"rope_theta": "500000"}, ['rope_theta = "500000"']),
    (LLAMA_3_2_1B, {ROPE: "x"}, ['rope_scaling = "x"', "an object is"]),
    (LLAMA_3_2_1B, {ROPE: {"rope_type": ["linear"]}}, ["rope_scaling = ", "linear and llama3"]),
    (LLAMA_3_2_1B, {ROPE: LLAMA3 | {"factor": "32"}}, ["numbers above 0 for factor"]),
    (LLAMA_3_2_1B, {ROPE: LLAMA3 | {"factor": 0}}, ["numbers above 0 for factor"]),
    (LLAMA_3_2_1B, {ROPE: LLAMA3 | {"high_freq_factor": 1.0}}, ["low_frequency_factor is 1.0"]),
    (
        LLAMA_3_2_1B,
        {ROPE: LLAMA3 | {"original_max_position_embeddings": "8192"}},
        ["rope_scaling = ", "original_length is '8192'"],
    ),
    (LLAMA_3_2_1B, {ROPE: LLAMA3 | {"beta_fast": 32}}, ["rope_scaling.beta_fast = 32"]),
    (LLAMA_3_2_1B, {ROPE: LLAMA3 | {"type": "linear"}}, ["default, linear and llama3 are"]),
    (LLAMA_3_2_1B, {ROPE: {"rope_type": "default", "factor": 8.0}}, ["rope_scaling.factor = 8.0"]),
    (LLAMA_3_2_1B, {"rope_parameters": {"rope_theta": 1e4}}, ["the same as in rope_parameters"]),
    (
        LLAMA_3_2_1B,
        {ROPE: LLAMA3 | {"rope_theta": 1e6}},
        ["rope_theta = 500000.0", "1000000.0, as"],
    ),
    (
        LLAMA_3_2_1B,
        {ROPE: None, "rope_parameters": {"rope_theta": 1e4}},
        ["rope_theta = 500000.0", "10000.0, as in rope_parameters.rope_theta, is"],
    ),
    (LLAMA_3_2_1B, {"partial_rotary_factor": True}, ["partial_rotary_factor = true"]),
    (LLAMA_3_2_1B, {"original_max_position_embeddings": 4}, ["original_max_position_embeddings"]),
    (GEMMA_3_270M, {"rope_parameters": {"rope_type": "linear"}}, ["rope_parameters = ", "objects"]),
    (GEMMA_3_270M, {"rope_parameters": {"full_attention": 1}}, ["rope_parameters = ", "objects"]),
    (GEMMA_3_270M, {"rope_local_base_freq": None}, ["rope_local_base_freq = null"]),
]


@pytest.mark.parametrize("result, change, said", REFUSED)
def test_what_is_not_supported_is_named(result, change, said):
    with pytest.raises(UnsupportedError) as error:
        read_config(result | change)
    for text in said:
        assert text in str(error.value)


# What published models and their fine-tuned versions have besides.
HARMLESS = {
    "_name_or_path": "meta-llama/Llama-2-7b-hf", "_attn_implementation_autoset": True,
    "torch_dtype": "bfloat16", "dtype": "float32", "transformers_version": "4.31.0",
    "use_cache": True, "initializer_range": 0.02, "attention_dropout": 0.0, "pretraining_tp": 1,
    "max_length": 20, "do_sample": False, "temperature": 1.0, "top_k": 50, "early_stopping": False,
    "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "num_labels": 1, "problem_type": None,
    "output_attentions": False, "output_hidden_states": False, "return_dict": True, "prefix": None,
    "chunk_size_feed_forward": 0, "pruned_heads": {}, "tie_encoder_decoder": False,
    "task_specific_params": {"summarization": {"num_beams": 4}}, "torchscript": False,
    "unsloth_fixed": True, "unsloth_version": "2024.9", "cross_attention_hidden_size": None,
    "transformers.js_config": {"kv_cache_dtype": "float16"}, "gradient_checkpointing": False,
    "sep_token_id": None, "unk_token_id": 0, "pad_token_id": 3, "max_sequence_length": 2048,
    "hidden_dropout_prob": 0.1, "resid_pdrop": 0.1, "embd_pdrop": 0.0, "eos_token": "</s>",
    "seq_length": 4096, "tokenizer_model_max_length": 4096, "use_flash_attn": True,
    "add_cross_attention": False, "is_decoder": False, "auto_map": {"AutoTokenizer": ["t.T", None]},
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_keys_that_change_nothing_are_no_hindrance(name):
    result, _ = PUBLIC[name]
    assert read_config(result | HARMLESS) == read_config(result)


def test_other_spellings_of_the_same():
    same = {
        "num_key_value_heads": None, "head_dim": None, "bos_token_id": None, "mlp_bias": None,
        "rope_scaling": {}, "sliding_window": None, "layer_types": ["full_attention"] * 30,
        "use_mrope": False, "quantization_config": None, "partial_rotary_factor": 1.0,
    }  # fmt: skip
    plain = SMOLLM2_135M | {"num_key_value_heads": 9}
    assert read_config(plain | same) == read_config(plain)
    assert read_config(plain | {"rope_scaling": {"type": "default"}}) == read_config(plain)
    both = {"rope_parameters": LLAMA3 | {"rope_theta": 500000.0}}
    assert read_config(LLAMA_3_2_1B | both) == read_config(LLAMA_3_2_1B)
    windows = {"use_sliding_window": True, "sliding_window": None}
    assert read_config(QWEN3_0_6B | windows) == read_config(QWEN3_0_6B)
    gelu = {"dense_act_fn": "gelu_new", "is_gated_act": True, "hidden_size": 512}
    assert read_config(FLAN_T5_SMALL | gelu) == read_config(FLAN_T5_SMALL)


def test_all_that_is_not_supported_is_named_at_once():
    change = {"mlp_bias": True, "hidden_act": "gelu", "rope_scaling": {"rope_type": "dynamic"}}
    with pytest.raises(UnsupportedError) as error:
        read_config(LLAMA_3_2_1B | change)
    assert all(key in str(error.value) for key in change)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": "2048", "head_dim": None},
        {"num_attention_heads": "32", "head_dim": None},
        {"num_hidden_layers": "16", "layer_types": ["full_attention"] * 16},
    ],
)
def test_a_refused_value_brings_no_complaint_about_what_is_taken_instead(change):
    with pytest.raises(UnsupportedError) as error:
        read_config(LLAMA_3_2_1B | change)
    (key, value), *_ = change.items()
    assert str(error.value).startswith(f'config.json: {key} = "{value}" is not supported: an int')
    assert str(error.value).count("is not supported") == 1
    with pytest.raises(
        UnsupportedError, match='"2" is not supported: an integer from 1 to 2147'
    ) as error:
        read_config(T5_SMALL | {"num_layers": "2"})
    assert str(error.value).count("is not supported") == 1


def test_a_missing_size_is_named():
    result = {key: value for key, value in LLAMA_3_2_1B.items() if key != "hidden_size"}
    with pytest.raises(UnsupportedError, match="no 'hidden_size'"):
        read_config(result)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"logit_soft_cap": 30.0}, "logit_soft_cap"),
        ({"bidirectional_prefix": True}, "bidirectional_prefix"),
        ({"mlp_activations": ("silu",)}, "mlp_activations"),
        ({"attention_out_bias": True}, "attention_out_bias"),
    ],
)
def test_a_model_that_transformers_lacks_is_refused(change, said):
    _, config = read_config(LLAMA_3_2_1B)
    with pytest.raises(UnsupportedError, match=said):
        write_config(dataclasses.replace(config, **change))
