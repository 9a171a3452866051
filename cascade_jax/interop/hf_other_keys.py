"""Keys of config.json that no supported family reads: which of them change nothing.

What is in neither list is refused unless it is null or empty: this version can not know whether it
changes the computation.
"""

import re
from typing import Any

from cascade_jax import json_text

# Of training, of generation, of saving, and of models that answer with classes.
_HARMLESS = frozenset(
    """
    model_type architectures transformers_version torch_dtype dtype name_or_path tokenizer_class
    hidden_dropout_prob attention_probs_dropout_prob resid_pdrop embd_pdrop attn_pdrop
    bos_token eos_token pad_token unk_token seq_length tokenizer_model_max_length use_flash_attn
    use_cache cache_implementation attn_implementation attn_implementation_internal
    initializer_range initializer_factor attention_dropout hidden_dropout classifier_dropout
    gradient_checkpointing neftune_noise_alpha output_attentions output_hidden_states output_past
    output_router_logits return_dict torchscript use_bfloat16 tf_legacy_loss xla_device
    chunk_size_feed_forward pretraining_tp max_position_embeddings max_sequence_length n_positions
    model_max_length id2label label2id num_labels problem_type finetuning_task task_specific_params
    prefix is_decoder is_llama_config unsloth_fixed unsloth_version transformers.js_config
    bad_words_ids diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    encoder_repetition_penalty epsilon_cutoff eta_cutoff exponential_decay_length_penalty
    begin_suppress_tokens suppress_tokens length_penalty max_length min_length max_new_tokens
    min_new_tokens min_p no_repeat_ngram_size num_beam_groups num_beams num_return_sequences
    output_scores penalty_alpha remove_invalid_values repetition_penalty return_dict_in_generate
    temperature top_k top_p typical_p num_logits_to_keep logits_to_keep
    """.split()
)
_HARMLESS_NAMES = re.compile(r"_.*|.*_token_(id|ids|index)")
# Of other families or of later versions, with the value by which they change nothing.
_OFF = {
    "is_causal": True,
    "use_bidirectional_attention": False,
    "use_sliding_window": False,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "tie_encoder_decoder": False,
    "rope_interleaved": False,
    "rope_traditional": False,
    "use_mrope": False,
    "use_qk_norm": False,
    "qk_norm": False,
    "qk_layernorm": False,
    "alibi": False,
    "use_parallel_residual": False,
    "parallel_attn": False,
    "num_kv_shared_layers": 0,
    "num_experts": 0,
    "num_local_experts": 0,
    "rotary_pct": 1.0,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "transformers_weights": "model.safetensors",
}


def refusal(key: str, value: Any) -> str | None:
    """What is supported instead of a value, or None if the key with this value changes nothing."""
    if key in _OFF:
        off = _OFF[key]
        is_off = value == off and isinstance(value, bool) == isinstance(off, bool)
        is_off = is_off or (value is None and off is not True)  # null counts as false there
        return None if is_off else f"{json_text.shown(off)} is"
    if value is None or value in ({}, []):
        return None
    if key in _HARMLESS or _HARMLESS_NAMES.fullmatch(key):
        return None
    if key == "auto_map" and isinstance(value, dict):
        is_model = any(name.startswith("AutoModel") for name in value)
        return "no code of its own for the model is" if is_model else None
    return "unknown to this version; delete the key from config.json if it changes nothing"
