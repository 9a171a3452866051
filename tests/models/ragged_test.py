"""Tokens of rows that have different numbers of them, against loops over rows and tokens."""

import jax.numpy as jnp
import numpy as np
import pytest

from cascade_jax.models.ragged import Ragged, causal_mask

STARTS, COUNTS, LENGTH = np.array([3, 0, 7, 2, 5]), np.array([3, 0, 1, 6, 2]), 9
WANTED = [
    (row, place)
    for row, (start, count) in enumerate(zip(STARTS, COUNTS, strict=True))
    for place in range(start, start + count)
]


def made(number, width=7):
    """By rows of 6 for None, else packed into so many."""
    starts, counts = jnp.asarray(STARTS), jnp.asarray(COUNTS)
    if number is None:
        return Ragged.padded(starts, counts, width=6, length=LENGTH)
    return Ragged.packed(starts, counts, number=number, row_width=width, length=LENGTH)


def tokens_of(ragged):
    """(row, place) of each of the P * K tokens; None for what fills up."""
    rows = np.repeat(np.asarray(ragged.rows), ragged.places.shape[1])
    result = list(zip(rows.tolist(), np.asarray(ragged.places).reshape(-1).tolist(), strict=True))
    return [token if token in WANTED else None for token in result]


@pytest.mark.parametrize("number", [None, 12, 17, 40])
def test_every_token_is_there_once_and_in_order(number):
    ragged = made(number)
    flat = tokens_of(ragged)
    assert ragged.places.shape == ((5, 6) if number is None else (number, 1))
    assert [token for token in flat if token] == WANTED
    if number is not None:
        assert flat[: len(WANTED)] == WANTED
    first, sources = np.asarray(ragged.first), np.asarray(ragged.sources)
    for row, place in WANTED:
        assert flat[first[row] + place - STARTS[row]] == (row, place)
        assert flat[sources[row, place]] == (row, place)
    assert sources.shape == (5, LENGTH) and (sources >= 0).sum() == len(WANTED)


@pytest.mark.parametrize("number", [None, 12, 17])
def test_by_row_and_back(number):
    ragged = made(number)
    flat = tokens_of(ragged)
    shape = ragged.places.shape
    values = np.random.default_rng(0).normal(size=(*shape, 2, 3))
    by_row = np.asarray(ragged.by_row(jnp.asarray(values)))
    places = np.asarray(ragged.places_by_row)
    assert by_row.shape == (*places.shape, 2, 3)
    for token, value in zip(flat, values.reshape(-1, 2, 3), strict=True):
        if token:
            (at,) = np.flatnonzero(places[token[0]] == token[1])
            np.testing.assert_array_equal(by_row[token[0], at], np.float32(value))
    back = np.asarray(ragged.by_token(jnp.asarray(by_row)))
    assert back.shape == values.shape
    is_there = np.array([token is not None for token in flat]).reshape(shape)
    np.testing.assert_array_equal(back[is_there], np.float32(values)[is_there])


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("number", [None, 12, 17])
def test_a_cache_gets_the_new_keys_and_keeps_the_others(before, number):
    ragged, rng = made(number), np.random.default_rng(0)
    count, width = ragged.places.shape
    new = rng.normal(size=(count, 3, 4, width)).astype(np.float32)
    cache = rng.normal(size=(5, 3, 4, before + LENGTH)).astype(np.float32)
    expected = cache.copy()
    flat = new.transpose(0, 3, 1, 2).reshape(-1, 3, 4)
    for token, value in zip(tokens_of(ragged), flat, strict=True):
        if token:
            expected[token[0], :, :, before + token[1]] = value
    np.testing.assert_array_equal(ragged.put(jnp.asarray(cache), jnp.asarray(new), -1), expected)
    values = ragged.put(jnp.asarray(cache.swapaxes(2, 3)), jnp.asarray(new.swapaxes(2, 3)), -2)
    np.testing.assert_array_equal(values, expected.swapaxes(2, 3))


@pytest.mark.parametrize("packed", [False, True])
def test_one_token_a_row_is_put_where_it_belongs(packed):
    counts = jnp.array([1, 0, 1, 1, 0])
    make, size = (
        (Ragged.packed, {"number": 5, "row_width": 2}) if packed else (Ragged.padded, {"width": 1})
    )
    ragged = make(jnp.asarray(STARTS), counts, length=LENGTH, **size)
    cache, new = np.zeros((5, 1, 1, LENGTH)), np.arange(1.0, 6).reshape(5, 1, 1, 1)
    actual = np.asarray(ragged.put(jnp.asarray(cache), jnp.asarray(new), -1))[:, 0, 0]
    expected = np.zeros((5, LENGTH))
    expected[[0, 2, 3], [3, 7, 2]] = [1, 2, 3] if packed else [1, 3, 4]
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("number", [None, 12])
def test_a_token_sees_its_own_place_and_those_before(number):
    ragged = made(number)
    mask, places = np.asarray(causal_mask(ragged)), np.asarray(ragged.places_by_row)
    assert mask.shape == (5, 1, places.shape[1], LENGTH)
    for row, place in WANTED:
        (at,) = np.flatnonzero(places[row] == place)
        np.testing.assert_array_equal(mask[row, 0, at], np.arange(LENGTH) <= place)
