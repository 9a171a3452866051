"""Parts of a T5 layer: linear maps, RMSNorm, embedding, relative position bias, attention, MLP.

Parameter names and shapes are those of T5X's minimal T5. Heads are joined in the kernels
([embed, heads * head size]), so that one matmul and one optimizer state serve them all.
"""

import functools
import math
import operator

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from cascade_jax import axes
from cascade_jax.models import cache, cpu_attention, cudnn, probe
from cascade_jax.models.blocks import in_blocks, num_shards
from cascade_jax.models.config import DecoderConfig, ModelConfig, T5Config
from cascade_jax.models.isolation import isolated
from cascade_jax.models.ragged import Ragged

_MASKED = -1e10  # finite, so that a row with nothing to attend to gives no NaN
_ACTIVATIONS = {
    "gelu": nn.gelu,  # tanh approximation, as in T5 1.1
    "linear": lambda x: x,
    "relu": nn.relu,
    "sigmoid": nn.sigmoid,
    "silu": nn.silu,
    "tanh": nn.tanh,
}

_truncated_fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
_fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


def residual_constraint(x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    """Shards the residual stream by the rules; a length that does not divide stays whole."""
    length = None if x.shape[1] % num_shards(axes.LENGTH) else axes.LENGTH
    return nn.with_logical_constraint(x, (axes.BATCH, length, axes.EMBED))


class Dense(nn.Module):
    """`x @ kernel + bias` over the last axis.

    Attributes:
      features: size of the output's last axis.
      kernel_axes: logical names of the kernel's two axes.
      dtype: of the product; the kernel is float32.
      kernel_init: initializer of the kernel.
      use_bias: whether there is a bias, which starts at 0.
    """

    features: int
    kernel_axes: tuple[str, str]
    dtype: str = "float32"
    kernel_init: nn.initializers.Initializer = _truncated_fan_in
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*n in"]) -> Float[Array, "*n out"]:
        kernel = self.param(
            "kernel",
            nn.with_logical_partitioning(self.kernel_init, self.kernel_axes),
            (x.shape[-1], self.features),
            jnp.float32,
        )
        # Of stacked layers, the loop's body sees one kernel: it is gathered here and not the stack
        # before the loop, and its gradient is split in the body of the backward loop.
        kernel = nn.with_logical_constraint(kernel, self.kernel_axes)
        # Rows in one axis: the kernel's gradient then sums over one axis. Over two, XLA's CPU
        # compiler transposes the larger operand first, which takes as long as the product.
        rows = x.reshape(-1, x.shape[-1]).astype(self.dtype)
        whole = tuple(None if axis == axes.EMBED else axis for axis in self.kernel_axes)
        gathered = nn.with_logical_constraint(kernel.astype(self.dtype), whole)
        product = (rows @ gathered).reshape(*x.shape[:-1], self.features)
        if not self.use_bias:
            return product
        init = nn.with_logical_partitioning(nn.initializers.zeros, self.kernel_axes[1:])
        bias = self.param("bias", init, (self.features,), jnp.float32)
        return product + jnp.expand_dims(bias.astype(self.dtype), range(x.ndim - 1))


def heads(
    config: T5Config | DecoderConfig,
    name: str,
    x: Float[Array, "B L D"],
    kernel_init: nn.initializers.Initializer = _truncated_fan_in,
    *,
    num_heads: int,
    use_bias: bool = False,
) -> Float[Array, "B L H K"]:
    """Projects to attention heads by a `Dense` of this name; for use in a compact `__call__`."""
    kernel_axes, width = (axes.EMBED, axes.JOINED_HEADS), num_heads * config.head_dim
    joined = Dense(width, kernel_axes, config.dtype, kernel_init, use_bias, name=name)(x)
    split = joined.reshape(*joined.shape[:2], num_heads, config.head_dim)
    return nn.with_logical_constraint(split, (axes.BATCH, axes.LENGTH, axes.HEADS, axes.HEAD_SIZE))


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x^2) + epsilon) * scale`: no mean is subtracted and no bias added.

    The mean is taken in float32 whatever the dtype.

    Attributes:
      dtype: of the result.
      epsilon: keeps a row of zeros finite.
      adds_one: the factor is `1 + scale`, and multiplies in float32 (Gemma).
      axis: logical name of the last axis.

    Reference: Zhang and Sennrich 2019, equation 4; Raffel et al. 2020, section 2.1.
    """

    dtype: str = "float32"
    epsilon: float = 1e-6
    adds_one: bool = False
    axis: str = axes.EMBED

    @nn.compact
    def __call__(self, x: Float[Array, "*n D"]) -> Float[Array, "*n D"]:
        start = nn.initializers.zeros if self.adds_one else nn.initializers.ones
        init = nn.with_logical_partitioning(start, (self.axis,))
        scale = self.param("scale", init, (x.shape[-1],), jnp.float32)
        x = x.astype(jnp.float32)
        normed = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon)
        scale = jnp.expand_dims(scale, range(x.ndim - 1))
        if self.adds_one:
            return (normed * (1.0 + scale)).astype(self.dtype)
        return normed.astype(self.dtype) * scale.astype(self.dtype)


def norm(config: DecoderConfig, name: str | None = None, axis: str = axes.EMBED) -> RMSNorm:
    """The RMSNorm of a decoder-only model."""
    return RMSNorm(config.dtype, config.norm_epsilon, config.norm_adds_one, axis, name=name)


class Embed(nn.Module):
    """Token embeddings, and the output projection that shares them.

    Attributes:
      config: of the model.
      stddev: of the initial embeddings.
      scale: what looked-up rows are multiplied by, in the compute dtype; None for nothing.
      divisor: what hidden states are divided by before the projection; None for nothing.
    """

    config: ModelConfig
    stddev: float = 1.0
    scale: float | None = None
    divisor: float | None = None

    def setup(self):
        config = self.config
        init = nn.initializers.normal(stddev=self.stddev)
        init = nn.with_logical_partitioning(init, (axes.VOCAB, axes.EMBED))
        shape = (config.vocab_size, config.embed_dim)
        self.embedding = self.param("embedding", init, shape, jnp.float32)

    def __call__(self, tokens: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """Rows of the embedding; an id past the vocabulary gives NaN rather than another token."""
        rows = jnp.take(self.embedding, tokens, axis=0, mode="fill").astype(self.config.dtype)
        if self.scale is not None:
            # Rounded to the compute dtype first, as the published models have it.
            rows = rows * jnp.asarray(self.scale, self.config.dtype)
        return residual_constraint(rows)

    def attend(self, hidden: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """`hidden @ embedding.T / divisor` in float32."""
        hidden = hidden.astype(jnp.float32)
        hidden = hidden if self.divisor is None else hidden / self.divisor
        return jnp.einsum("bld,vd->blv", hidden, self.embedding)


@functools.cache
def _distance_buckets(num_buckets: int, max_distance: int) -> np.ndarray:
    """Bucket of each distance 0..max_distance in one direction, as a NumPy table.

    A table rather than a logarithm on the device: distances that lie exactly on a boundary (16, 32
    and 64 of 16 buckets) get the same bucket on every backend.
    """
    num_exact = num_buckets // 2
    distance = np.arange(max_distance + 1)
    ratio = np.log(np.maximum(distance, 1) / num_exact) / math.log(max_distance / num_exact)
    # The small addend keeps a boundary that float64 puts at 1.9999999 in the bucket of 2.
    large = num_exact + np.floor(ratio * (num_buckets - num_exact) + 1e-9).astype(np.int32)
    return np.where(distance < num_exact, distance, np.minimum(large, num_buckets - 1))


def relative_position_buckets(
    relative_positions: Int[Array, "Q T"],
    *,
    bidirectional: bool,
    num_buckets: int,
    max_distance: int,
) -> Int[Array, "Q T"]:
    """Buckets of `key position - query position`.

    In each direction the first half of the buckets holds one distance each, the second half grows
    logarithmically up to max_distance, and the last one holds everything beyond.

    With `bidirectional` the upper half of the num_buckets is that of keys after the query; without
    all such keys, which a causal mask hides, are in bucket 0.

    Reference: Raffel et al. 2020, section 2.1.
    """
    distance = jnp.abs(relative_positions) if bidirectional else jnp.maximum(-relative_positions, 0)
    half = num_buckets // 2 if bidirectional else num_buckets
    table = jnp.asarray(_distance_buckets(half, max_distance), jnp.int32)
    buckets = table[jnp.minimum(distance, max_distance)]
    if bidirectional:
        buckets = buckets + jnp.where(relative_positions > 0, half, 0)
    return buckets


class RelativePositionBias(nn.Module):
    """A learned number per head and bucket of distance, added to the attention logits.

    Computed once and used by every layer of a stack, or a module of each layer.

    Reference: Raffel et al. 2020, section 2.1.
    """

    config: T5Config
    bidirectional: bool

    @nn.compact
    def __call__(
        self,
        query_positions: Int[Array, " Q"] | Int[Array, "B Q"],
        key_positions: Int[Array, " T"],
    ) -> Float[Array, "#B H Q T"]:
        """Bias of every query and key; queries may have other positions in every row."""
        config = self.config
        queries = query_positions.reshape(-1)
        embedding = self.param(
            "rel_embedding",
            nn.with_logical_partitioning(
                nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
                (axes.HEADS, axes.RELATIVE_BUCKETS),
            ),
            (config.num_heads, config.relative_buckets),
            jnp.float32,
        )
        buckets = relative_position_buckets(
            key_positions[None, :] - queries[:, None],
            bidirectional=self.bidirectional,
            num_buckets=config.relative_buckets,
            max_distance=config.relative_max_distance,
        )
        # A product, not a gather: the gather's gradient would be H * Q * T additions into a few
        # numbers, which a TPU does one after the other. Each sum has one term, so it is exact.
        one_hot = jax.nn.one_hot(buckets, config.relative_buckets, dtype=jnp.float32)
        bias = jnp.einsum("hb,qtb->hqt", embedding, one_hot, precision=jax.lax.Precision.HIGHEST)
        if query_positions.ndim == 1:
            return bias[None]
        return bias.reshape(-1, *query_positions.shape, key_positions.size).swapaxes(0, 1)


class Attention(nn.Module):
    """Multi-head attention; logits and softmax in float32.

    The division by sqrt(head_dim) is part of the initialization of the query kernel.

    Reference: Vaswani et al. 2017, section 3.2.2; Raffel et al. 2020, section 2.1.
    """

    config: T5Config

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B Q D"],
        source: Float[Array, "B T D"] | None,
        mask: Bool[Array, "#B 1 #Q S"],
        bias: Float[Array, "#B H #Q S"] | None,
        position: Int[Array, ""] | Ragged | None,
        deterministic: bool,
        asked: probe.Probe | None = None,
    ) -> Float[Array, "B Q D"]:
        """Attends from x.

        Args:
          x: what the queries are made of.
          source: what keys and values are made of; None takes all of them from the cache.
          mask: True where a query may look at a key; a query that may look nowhere gets 0.
          bias: added to the logits.
          position: of decoding with a cache: None computes keys and values from `source` alone;
            else `x is source` (self-attention) adds one key at this position to the cache, or the
            keys of ragged tokens where they belong; mask and bias are then by row.
          deterministic: True switches dropout off.
          asked: what is measured besides, without a cache; None for nothing.
        """
        config = self.config
        projected = functools.partial(heads, config, num_heads=config.num_heads)
        query = projected("query", x, lambda *a: _fan_in(*a) / math.sqrt(config.head_dim))

        key = value = None
        if source is not None:
            key, value = projected("key", source, _fan_in), projected("value", source, _fan_in)
            if deterministic:
                key, value = isolated(key, value)
            key, value = cache.keys_last(key), cache.values_by_head(value)
        if position is not None and source is x:
            # The call that creates the cache adds nothing to it.
            where = position if self.has_variable("cache", cache.KEY) else None
            key, value = cache.extended(self, key, value, mask.shape[-1], where)
        elif position is not None:  # a source that stays as it is: kept when the cache is created
            key, value = cache.kept(self, key, value)
        if isinstance(position, Ragged):
            query = position.by_row(query)
        if asked is not None and asked.distances:
            weights = _weights_at(query, key, mask, bias, config.query_chunk, asked.distances)
            probe.put_attention(self, weights)
        if config.dropout_rate and not deterministic:
            # Dropout of the weights takes the same keys from all queries of a head, so it might as
            # well take the values, which are fewer.
            ones = jnp.ones((*value.shape[:3], 1), config.dtype)
            value = value * nn.Dropout(config.dropout_rate)(ones, deterministic=False)
        joined = _attend(query, key, value, mask, bias, config.query_chunk, deterministic)
        if isinstance(position, Ragged):
            joined = position.by_token(joined)
        joined = joined.reshape(*joined.shape[:2], config.num_heads * config.head_dim)
        out = Dense(x.shape[-1], (axes.JOINED_HEADS, axes.EMBED), config.dtype, _fan_in, name="out")
        return out(joined)


def _attend(query, key, value, mask, bias, chunk, is_isolated=False):
    """Attention output of the queries [B Q H K]; with `is_isolated` a key may be NaN."""
    if bias is None and cudnn.takes(query, key):
        return cudnn.attend(query, key, value, mask[:, 0], 1.0)

    def attend(query, key, value, mask, bias):
        if not is_isolated and cpu_attention.takes(query):
            return cpu_attention.attend(query, key, value, mask[:, 0], bias=bias)
        weights = _weights(query, key, mask, bias).astype(value.dtype)
        return jnp.einsum("bhqt,bhtk->bqhk", weights, value)

    parts = (query, 1, 2), (key, None, 1), (value, None, 1), *_mask_parts(query, mask, bias)
    return in_blocks(attend, chunk, key.shape[-1], *parts)


def _weights(query, key, mask, bias):
    """The softmax [B H Q T] of `_attend`, float32; 0 where the mask is False."""
    logits = jnp.einsum("bqhk,bhkt->bhqt", query, key, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias
    weights = jax.nn.softmax(jnp.where(mask, logits, _MASKED), axis=-1)
    return jnp.where(mask, weights, 0.0)


def _mask_parts(query, mask, bias):
    """Mask and bias for `in_blocks`: one may be for all queries; else it is cut as they are."""

    def by_query(x):
        return 2 if x is not None and x.shape[2] == query.shape[1] else None

    return (mask, by_query(mask), None), (bias, by_query(bias), None if bias is None else 1)


def _weights_at(query, key, mask, bias, chunk, distances):
    """Weights [B Q H d] of the keys some distances before each query; see `probe.Probe`."""

    def at(query, key, mask, bias, places):
        return probe.at_distances(_weights(query, key, mask, bias), places, distances)

    places = probe.own_places(query.shape[1], len(query))
    parts = (query, 1, 2), (key, None, 1), *_mask_parts(query, mask, bias), (places, 1, None)
    return in_blocks(at, chunk, key.shape[-1], *parts)


class MLP(nn.Module):
    """`wo(act_0(wi_0 x) * act_1(wi_1 x) * ...)`; a single activation is the plain `wo(act(wi x))`.

    Reference: Shazeer 2020, equation 6; Raffel et al. 2020, section 2.1.
    """

    config: T5Config

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], deterministic: bool) -> Float[Array, "B L D"]:
        config = self.config
        names = [f"wi_{i}" for i in range(len(config.mlp_activations))]
        if len(names) == 1:
            names = ["wi"]
        gates = []
        for name, activation in zip(names, config.mlp_activations, strict=True):
            linear = Dense(config.mlp_dim, (axes.EMBED, axes.MLP), config.dtype, name=name)(x)
            gates.append(_ACTIVATIONS[activation](linear))
        hidden = functools.reduce(operator.mul, gates)
        dropout = nn.Dropout(config.dropout_rate, broadcast_dims=(-2,))
        hidden = dropout(hidden, deterministic=deterministic)
        hidden = nn.with_logical_constraint(hidden, (axes.BATCH, axes.LENGTH, axes.MLP))
        return Dense(x.shape[-1], (axes.MLP, axes.EMBED), config.dtype, name="wo")(hidden)
