"""Attention of a decoder-only model: rotary positions, shared key heads, windows, a cache.

Which key a query sees follows from small arrays (`Places`), never from a [length, length] one, and
queries are taken in blocks, so that neither pass holds an array that grows with the square of the
length.
"""

import functools
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Shaped

from cascade_jax import axes
from cascade_jax.models import cache, cpu_attention, cudnn
from cascade_jax.models.blocks import in_blocks, platform
from cascade_jax.models.config import DecoderConfig, RopeScaling
from cascade_jax.models.isolation import isolated
from cascade_jax.models.layers import Dense, heads, norm
from cascade_jax.models.probe import Probe, at_distances, put_attention
from cascade_jax.models.ragged import Ragged

_MASKED = -1e10  # finite, so that a row with nothing to attend to gives no NaN


@flax.struct.dataclass
class Places:
    """Positions of tokens, as far as attention needs them.

    Attributes:
      positions: inside the example, from 0.
      segments: number of the example in a packed row; all alike in a row of one example.
      is_prefix: True for tokens that see each other both ways.
      is_readable: False for a key that no query may see, such as an empty place of a cache.
      answers: number of the answer, of several to one example, that a token belongs to; 0 for what
        all of them see. None where an example has one answer.
    """

    positions: Int[Array, "B T"]
    segments: Int[Array, "B T"]
    is_prefix: Bool[Array, "B T"]
    is_readable: Bool[Array, "B T"]
    answers: Int[Array, "B T"] | None = None


def is_visible(query: Places, key: Places, window: Int[Array, ""]) -> Bool[Array, "B Q T"]:
    """True where a query may look at a key.

    A key is seen from its own example, from positions that are not before it (or anywhere in the
    prefix, if both are in it), and not from `window` or more positions after it.
    """
    distance = query.positions[:, :, None] - key.positions[:, None, :]
    in_order = (distance >= 0) | (query.is_prefix[:, :, None] & key.is_prefix[:, None, :])
    same = query.segments[:, :, None] == key.segments[:, None, :]
    if key.answers is not None:
        own = query.answers[:, :, None] == key.answers[:, None, :]
        same = same & (own | (key.answers == 0)[:, None, :])
    return key.is_readable[:, None, :] & same & in_order & (distance < window)


def frequencies(
    head_dim: int, theta: float, scaling: RopeScaling | None = None
) -> Float[Array, " half"]:
    """Angle per position of each pair of a head's numbers, `theta ** (-2 i / head_dim)`, stretched.

    Reference: Su et al. 2021, "RoFormer", section 3.2.2; the stretching is that of Llama 3.1 and of
    Chen et al. 2023, "Extending Context Window of Large Language Models via Position
    Interpolation".
    """
    plain = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    if scaling is None:
        return plain
    stretched = plain / scaling.factor
    if scaling.kind == "linear":
        return stretched
    turns = scaling.original_length * plain / (2 * math.pi)  # in the original context
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return kept * plain + (1.0 - kept) * stretched


def rotate(
    x: Float[Array, "B T H K"], positions: Int[Array, "B T"], freqs: Float[Array, " half"]
) -> Float[Array, "B T H K"]:
    """Turns the pairs (x_i, x_{i + K/2}) of every head by `position * frequency_i`, in float32."""
    angles = positions.astype(jnp.float32)[:, :, None] * freqs[None, None, :]
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    if platform() == "cpu":
        return cpu_attention.rotate(x.astype(jnp.float32), sin, cos).astype(x.dtype)
    sin, cos = sin[:, :, None], cos[:, :, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def attend(
    query: Float[Array, "B Q H K"],
    key: Float[Array, "B G K T"],
    value: Float[Array, "B G T K"],
    query_places: Places,
    key_places: Places,
    *,
    window: Int[Array, ""],
    scale: float,
    soft_cap: float | None,
    chunk: int,
    is_in_order: bool = False,
    is_isolated: bool = False,
) -> Float[Array, "B Q H K"]:
    """`softmax(cap(scale * q k^T)) v` with the keys that each query may see; softmax in float32.

    Each of the G key heads serves H / G query heads that stand together. Long rows of queries are
    taken in blocks (`in_blocks`). `is_in_order` says that no query sees a key after its own place;
    with `is_isolated` a key may be NaN (`isolated`).

    Reference: Vaswani et al. 2017, section 3.2; Ainslie et al. 2023, "GQA".
    """

    if soft_cap is None and cudnn.takes(query, key):
        visible = is_visible(query_places, key_places, window)
        return cudnn.attend(query, key, value, visible, scale)

    def block(query, key, value, places):
        if not is_isolated and cpu_attention.takes(query):
            visible = is_visible(places, key_places, window)
            settings = dict(scale=scale, soft_cap=soft_cap)
            has_all_queries = is_in_order and query.shape[1] == key.shape[-1]
            form = cpu_attention.attend_in_order if has_all_queries else cpu_attention.attend
            return form(query, key, value, visible, **settings)
        visible = is_visible(places, key_places, window)
        weights = _weights(query, key, visible, scale, soft_cap).astype(value.dtype)
        batch, length, num_heads, size = query.shape
        groups, shared = key.shape[1], num_heads // key.shape[1]
        answers = jnp.matmul(weights.reshape(batch, groups, shared * length, -1), value)
        answers = answers.reshape(batch, groups, shared, length, size).transpose(0, 3, 1, 2, 4)
        return answers.reshape(batch, length, num_heads, size)

    return in_blocks(
        block, chunk, key.shape[-1], (query, 1, 2), (key, None, 1), (value, None, 1),
        (query_places, 1, None),
    )  # fmt: skip


def _weights(
    query: Float[Array, "B Q H K"],
    key: Float[Array, "B G K T"],
    visible: Bool[Array, "B Q T"],
    scale: float,
    soft_cap: float | None,
) -> Float[Array, "B G shared Q T"]:
    """The softmax of `attend`, float32; 0 for keys that are not visible."""
    # Queries of all heads that share a key head in one axis: with the values these are two matrix
    # products, of which only the small operands are transposed.
    batch, length, num_heads, size = query.shape
    groups, shared = key.shape[1], num_heads // key.shape[1]
    query = query.reshape(batch, length, groups, shared, size).transpose(0, 2, 3, 1, 4)
    query = query.reshape(batch, groups, shared * length, size)
    logits = jnp.matmul(query, key, preferred_element_type=jnp.float32) * scale
    if soft_cap is not None:
        logits = soft_cap * jnp.tanh(logits / soft_cap)
    visible = visible[:, None, None]
    logits = logits.reshape(batch, groups, shared, length, -1)
    weights = jax.nn.softmax(jnp.where(visible, logits, _MASKED), axis=-1)
    return jnp.where(visible, weights, 0.0)


def weights_at(
    query: Float[Array, "B Q H K"],
    key: Float[Array, "B G K T"],
    query_places: Places,
    key_places: Places,
    at: Int[Array, "B Q"],
    distances: tuple[int, ...],
    *,
    window: Int[Array, ""],
    scale: float,
    soft_cap: float | None,
    chunk: int,
) -> Float[Array, "B Q H d"]:
    """Of the weights in `attend`, those of the keys some distances before each query's own place.

    Args:
      query, key, query_places, key_places, window, scale, soft_cap, chunk: as in `attend`.
      at: where each query stands among the keys.
      distances: 0 for its own place.
    """

    def block(query, key, places, at):
        visible = is_visible(places, key_places, window)
        weights = _weights(query, key, visible, scale, soft_cap)
        by_head = weights.reshape(len(query), query.shape[2], query.shape[1], -1)
        return at_distances(by_head, at, distances)

    return in_blocks(
        block, chunk, key.shape[-1], (query, 1, 2), (key, None, 1), (query_places, 1, None),
        (at, 1, None),
    )  # fmt: skip


@flax.struct.dataclass
class Kind:
    """What differs from layer to layer, as arrays that a scan can stack.

    Attributes:
      window, freqs: by which "full" and "sliding" layers differ.
      only_at: of which places an output is wanted; None for all of them.
      probe: what the layer measures beside its output; None for nothing.
    """

    window: Int[Array, "..."]
    freqs: Float[Array, "... half"]
    only_at: Int[Array, "B A"] | None = None
    probe: Probe | None = None

    def asked(self, tree: Any) -> Any:
        """The places of arrays [B, Q, ...] of which an output is wanted."""
        if self.only_at is None:
            return tree
        return jax.tree.map(lambda array: take_places(array, self.only_at), tree)

    def probed(self, tree: Any) -> Any:
        """The places of arrays [B, Q, ...] at which the probe looks, after `asked`."""
        if self.only_at is not None:  # which are the same
            return tree
        return jax.tree.map(lambda array: take_places(array, self.probe.at), tree)


def take_places(array: Shaped[Array, "B Q *n"], places: Int[Array, "B A"]) -> Array:
    """`array[b, places[b, a]]`."""
    index = places.reshape(*places.shape, *[1] * (array.ndim - 2))
    return jnp.take_along_axis(array, index, axis=1)


def kind_of(config: DecoderConfig, layer: int) -> Kind:
    """The kind of a layer counted from 0."""
    theta, scaling = config.rope_theta, config.rope_scaling
    window = jnp.iinfo(jnp.int32).max
    if config.attention_kind(layer) == "sliding":
        window = config.sliding_window
        if config.sliding_rope_theta is not None:
            theta, scaling = config.sliding_rope_theta, None
    return Kind(jnp.asarray(window, jnp.int32), frequencies(config.head_dim, theta, scaling))


class GroupedAttention(nn.Module):
    """Self-attention with rotary positions and key heads that groups of query heads share."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B Q D"],
        kind: Kind,
        query_places: Places,
        key_places: Places,
        slot: Int[Array, ""] | Ragged | None,
    ) -> Float[Array, "B A D"]:
        """Attends from x, or from the places of it that `kind` asks for.

        Args:
          x: what queries, keys and values are made of.
          kind: of this layer.
          query_places: of x.
          key_places: of x, or with a cache of all its places.
          slot: the cache's place for the first key and value of x, or where each row's tokens
            stand; None for no cache.
        """
        config = self.config
        projected = functools.partial(heads, config, use_bias=config.qkv_bias)
        query = projected("query", kind.asked(x), num_heads=config.num_heads)
        key = projected("key", x, num_heads=config.num_kv_heads)
        value = projected("value", x, num_heads=config.num_kv_heads)
        if config.qk_norm:
            query = norm(config, "query_norm", axes.HEAD_SIZE)(query)
            key = norm(config, "key_norm", axes.HEAD_SIZE)(key)
        key = rotate(key, query_places.positions, kind.freqs)
        query_places = kind.asked(query_places)
        query = rotate(query, query_places.positions, kind.freqs)
        is_isolated = slot is not None or query_places.answers is not None
        if is_isolated:
            key, value = isolated(key, value)
        key, value = cache.keys_last(key), cache.values_by_head(value)
        if slot is not None:
            key, value = cache.extended(self, key, value, key_places.positions.shape[1], slot)
        if isinstance(slot, Ragged):
            query, query_places = jax.tree.map(slot.by_row, (query, query_places))
        settings = dict(
            window=kind.window, scale=config.query_scale or config.head_dim**-0.5,
            soft_cap=config.attention_soft_cap, chunk=config.query_chunk,
        )  # fmt: skip
        if kind.probe is not None and kind.probe.distances:
            at, distances = kind.probe.at, kind.probe.distances
            looking, places = kind.probed((query, query_places))
            weights = weights_at(looking, key, places, key_places, at, distances, **settings)
            put_attention(self, weights)
        answers = attend(
            query, key, value, query_places, key_places, is_isolated=is_isolated,
            is_in_order=slot is None and kind.only_at is None and not config.bidirectional_prefix,
            **settings,
        )  # fmt: skip
        if isinstance(slot, Ragged):
            answers = slot.by_token(answers)
        joined = answers.reshape(*answers.shape[:2], config.num_heads * config.head_dim)
        kernel_axes, has_bias = (axes.JOINED_HEADS, axes.EMBED), config.attention_out_bias
        out = Dense(x.shape[-1], kernel_axes, config.dtype, use_bias=has_bias, name="out")
        return out(joined)
