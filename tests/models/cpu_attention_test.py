"""The form of attention and rotation that CPUs get, against the one that other devices get."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cascade_jax.models import attention, cpu_attention, families
from cascade_jax.models.config import DecoderConfig

ROWS, QUERIES, HEADS, GROUPS, SIZE = 2, 6, 4, 2, 8


def _outputs(monkeypatch, is_cpu, soft_cap):
    """Answers and gradients of attention to rotated keys; the last two places are unreadable."""
    monkeypatch.setattr(cpu_attention, "takes", lambda query: is_cpu)
    monkeypatch.setattr(attention, "platform", lambda: "cpu" if is_cpu else "tpu")
    rng = np.random.default_rng(0)
    query, key, value = (
        jnp.asarray(rng.normal(size=(ROWS, QUERIES, heads, SIZE)), jnp.float32)
        for heads in (HEADS, GROUPS, GROUPS)
    )
    positions = jnp.broadcast_to(jnp.arange(QUERIES), (ROWS, QUERIES))
    # The last query is alone in its segment, where no key can be read.
    segments, is_readable = 1 + (positions == QUERIES - 1), positions < QUERIES - 2
    is_prefix = (positions < 2) & (jnp.arange(ROWS)[:, None] == 0)
    places = attention.Places(positions, segments, is_prefix, is_readable)
    freqs = attention.frequencies(SIZE, 10_000.0)

    def attend(query, key, value):
        query, key = (attention.rotate(x, positions, freqs) for x in (query, key))
        return attention.attend(
            query, key.transpose(0, 2, 3, 1), value.transpose(0, 2, 1, 3), places, places,
            window=jnp.asarray(4), scale=0.3, soft_cap=soft_cap, chunk=QUERIES,
        )  # fmt: skip

    cotangent = jnp.asarray(rng.normal(size=query.shape), jnp.float32)

    @jax.jit
    def both_passes(*arguments):
        answers, backward = jax.vjp(attend, *arguments)
        return answers, *backward(cotangent)

    return both_passes(query, key, value)


@pytest.mark.parametrize("soft_cap", [None, 2.0])
def test_a_cpu_gets_what_other_devices_get(monkeypatch, soft_cap):
    ours, plain = (_outputs(monkeypatch, is_cpu, soft_cap) for is_cpu in (True, False))
    assert not np.any(np.asarray(ours[0])[:, -1])  # it may look nowhere
    for one, other in zip(ours, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 130, 256, 301])
def test_queries_in_order_need_no_later_keys(length):
    rng = np.random.default_rng(length)
    query, key, value = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in (
            (ROWS, length, HEADS, SIZE),
            (ROWS, GROUPS, SIZE, length),
            (ROWS, GROUPS, length, SIZE),
        )
    )
    segments = np.sort(rng.integers(0, 4, size=(ROWS, length)), axis=1)
    visible = np.tril(segments[:, :, None] == segments[:, None])
    visible &= rng.random(visible.shape) < 0.7  # some may look nowhere

    def both_passes(form):
        def total(*arguments):
            answers = form(*arguments, visible, scale=0.3, soft_cap=2.0)
            return jnp.sum(jnp.sin(answers)), answers

        return jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(query, key, value)

    forms = cpu_attention.attend_in_order, cpu_attention.attend
    ours, plain = (jax.tree.leaves(both_passes(form)) for form in forms)
    for one, other in zip(ours, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6)
    later = np.arange(length) > np.arange(length)[:, None]
    assert not (visible & later).any()


@pytest.mark.parametrize("is_both_ways", [False, True])
def test_a_decoder_with_long_rows_is_the_same_on_a_cpu(monkeypatch, is_both_ways):
    config = DecoderConfig(
        vocab_size=40, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8,
        mlp_dim=24, bidirectional_prefix=is_both_ways, sliding_window=70,
        attention_kinds=("sliding", "full"),
    )  # fmt: skip
    model, rng = families.build(config), np.random.default_rng(0)
    params = families.initialize(model, jax.random.key(0))
    tokens = rng.integers(1, 40, size=(2, 150))
    segments = 1 + (np.arange(150) >= np.array([[80], [31]]))
    positions = np.stack([np.r_[:80, :70], np.r_[:31, :119]])
    arguments = dict(segment_ids=segments, positions=positions, is_prefix=positions < 40)

    def states(is_cpu):
        monkeypatch.setattr(cpu_attention, "takes", lambda query: is_cpu)
        return model.apply({"params": params}, tokens, method="hidden", **arguments)

    np.testing.assert_allclose(states(True), states(False), rtol=1e-4, atol=1e-5)
