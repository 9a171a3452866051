"""FLOPs of the parts of a Transformer in closed form.

A multiply and an add are two FLOPs. Norms, softmax, activations and dropout are left out: they are
below one per cent of a model of ordinary width. With D the width, H heads (G of keys and values) of
size K, M the MLP's hidden size with g gates, V the vocabulary, a layer has per token

    attention   2 D K (H + 2 G + H)      queries, keys, values, output
    scores      4 H K T                  against T keys, and the weighted sum of T values
    MLP         2 D M (g + 1)

and the logits take 2 D V. In a T5's cross-attention, queries and output are per target token, keys
and values per input token, once. The embedding and a T5's relative position bias are look-ups and
take none.
"""

from cascade_jax.models.config import DecoderConfig, ModelConfig, T5Config


def logits(config: ModelConfig) -> int:
    """Logits of one token."""
    return 2 * config.embed_dim * config.vocab_size


def mlp(config: T5Config | DecoderConfig) -> int:
    """One layer's MLP, for one token."""
    return 2 * config.embed_dim * config.mlp_dim * (len(config.mlp_activations) + 1)


def self_attention(config: T5Config | DecoderConfig, queries: int, keys: int) -> int:
    """One layer; keys and values are made for the queries' tokens alone, the rest is cached."""
    shared = getattr(config, "num_kv_heads", config.num_heads)
    projections = 2 * config.embed_dim * config.head_dim * 2 * (config.num_heads + shared)
    return queries * (projections + 4 * config.num_heads * config.head_dim * keys)


def attention_weights(config: T5Config | DecoderConfig, queries: int, keys: int) -> int:
    """One layer's weights once more, without the values that they weigh."""
    return queries * 2 * config.num_heads * config.head_dim * keys


def cross_attention(config: T5Config, queries: int, keys: int) -> int:
    """One layer, without the keys and values, which are made once for an input."""
    width = config.num_heads * config.head_dim
    return queries * (2 * config.embed_dim * 2 * width + 4 * width * keys)
