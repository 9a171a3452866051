"""The form of attention and rotation that CPUs get, against the one that other devices get."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cascade_jax.models import attention, cpu_attention

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
