"""The last linear map: logits against NumPy, padding columns, what does not fit."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cascade_jax.unembedding import Unembedding

ROWS, WIDTH, VOCAB, COLUMNS = (2, 3), 4, 5, 8


def draw(tied=False, bias=False, **settings):
    a, b, c = jax.random.split(jax.random.key(0), 3)
    kernel = jax.random.normal(a, (COLUMNS, WIDTH) if tied else (WIDTH, COLUMNS))
    bias = jax.random.normal(b, (COLUMNS,)) if bias else None
    return Unembedding(kernel, bias, tied=tied, **settings), jax.random.normal(c, (*ROWS, WIDTH))


@pytest.mark.parametrize(
    "tied, bias, scale, cap, vocab_size",
    list(itertools.product([False, True], [False, True], [1.0, 0.3], [None, 2.0], [None, VOCAB])),
)
def test_logits_are_those_of_numpy(tied, bias, scale, cap, vocab_size):
    head, hidden = draw(tied, bias, scale=scale, soft_cap=cap, vocab_size=vocab_size)
    kernel = np.asarray(head.kernel, np.float64)
    expected = np.einsum("...d,dv->...v", hidden, kernel.T if tied else kernel) * scale
    if bias:
        expected = expected + np.asarray(head.bias)
    if cap is not None:
        expected = cap * np.tanh(expected / cap)
        assert np.abs(head.logits(hidden)).max() < cap
    assert head.num_ids == (vocab_size or COLUMNS)
    assert (head.features, head.columns) == (WIDTH, COLUMNS)
    actual = head.logits(hidden)
    assert actual.shape == (*ROWS, head.num_ids) and actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected[..., : head.num_ids], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(head.all_logits(hidden), expected, rtol=1e-5, atol=1e-6)


def test_in_bfloat16_the_operands_are_rounded_and_the_sums_are_not():
    head = Unembedding(jnp.ones((300, 1)).at[0].set(1 + 2**-10), dtype="bfloat16")
    actual = head.logits(jnp.ones((1, 300)))
    assert actual.dtype == jnp.float32
    # 300 ones make 300 in float32 (bfloat16 would stop at 256); 1 + 2^-10 is 1 in bfloat16.
    assert actual.tolist() == [[300.0]]


def test_the_scale_is_applied_before_the_product():
    head, hidden = draw(scale=0.25)
    np.testing.assert_array_equal(head.scaled(hidden), hidden / 4)
    half = head.replace(dtype="bfloat16").scaled(hidden)
    assert half.dtype == jnp.bfloat16


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_widened_adds_columns_after_the_others(tied, bias):
    head, hidden = draw(tied, bias, vocab_size=VOCAB, scale=0.5, soft_cap=3.0)
    wide = head.widened(11)
    assert (wide.columns, wide.features, wide.num_ids) == (11, WIDTH, 11)
    logits = wide.logits(hidden)
    # Products of two shapes are two programs, which may sum in another order.
    np.testing.assert_allclose(logits[..., :COLUMNS], head.all_logits(hidden), rtol=2e-6, atol=2e-6)
    assert not np.asarray(logits[..., COLUMNS:]).any()
    same = head.widened(COLUMNS)
    np.testing.assert_array_equal(same.kernel, head.kernel)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(soft_cap=0.0), "soft_cap is 0.0; must be a number above 0, or None"),
        (dict(soft_cap=-1.0), "soft_cap is -1.0; must be a number above 0"),
        (dict(soft_cap=float("nan")), "soft_cap is nan; must be a number above 0"),
        (dict(dtype="float16"), "dtype is 'float16'; must be one of bfloat16, float32"),
    ],
)
def test_bad_settings_are_refused_when_built(settings, message):
    with pytest.raises(ValueError, match=message):
        Unembedding(jnp.zeros((4, 5)), **settings)


@pytest.mark.parametrize(
    "kernel, settings, message",
    [
        ((4,), {}, r"kernel has shape \(4,\); it must have two axes"),
        (
            (4, 5),
            dict(bias=jnp.zeros(4)),
            r"shape \(4,\); must be \(5,\) for the kernel \(4, 5\)",
        ),
        ((4, 5), dict(bias=jnp.zeros(5), tied=True), r"bias has shape \(5,\); must be \(4,\)"),
        (
            (4, 5),
            dict(vocab_size=6),
            "vocab_size is 6; must be from 1 to 5 for the kernel",
        ),
        ((4, 5), dict(vocab_size=0), r"vocab_size is 0; must be from 1 to 5"),
        ((4, 5), dict(vocab_size=5, tied=True), r"vocab_size is 5; must be from 1 to 4"),
    ],
)
def test_check_refuses_arrays_that_do_not_fit(kernel, settings, message):
    with pytest.raises(ValueError, match=message):
        Unembedding(jnp.zeros(kernel), **settings).check()


def test_check_takes_what_fits():
    for tied in (False, True):
        draw(tied, bias=True, vocab_size=COLUMNS)[0].check()


def test_several_can_be_stacked_and_differentiated_at_once():
    head, hidden = draw(bias=True, vocab_size=VOCAB, soft_cap=3.0)
    other = jax.tree.map(lambda x: x * 2, head)
    both = jax.tree.map(lambda *x: jnp.stack(x), head, other)
    assert both.kernel.shape == (2, WIDTH, COLUMNS) and both.bias.shape == (2, COLUMNS)
    gradient = jax.grad(lambda head: jnp.square(head.logits(hidden)).sum())
    result = jax.vmap(gradient)(both)
    for i, each in enumerate((head, other)):
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6),
            result,
            gradient(each),
        )


def test_it_passes_through_transformations_with_its_settings():
    head, hidden = draw(bias=True, vocab_size=VOCAB, scale=0.5, soft_cap=3.0)
    assert len(jax.tree.leaves(head)) == 2
    np.testing.assert_allclose(
        jax.jit(lambda head: head.logits(hidden))(head), head.logits(hidden), rtol=1e-5
    )
    gradient = jax.grad(lambda head: head.logits(hidden).sum())(head)
    assert jax.tree.structure(gradient) == jax.tree.structure(head)
    # Columns of padding are cut off, so that they get no gradient.
    assert not np.asarray(gradient.kernel[:, VOCAB:]).any() and np.asarray(gradient.kernel).any()
    specs = jax.tree.map(lambda leaf: "spec", head)  # a tree of other things than arrays
    assert specs.kernel == specs.bias == "spec" and specs.vocab_size == VOCAB
