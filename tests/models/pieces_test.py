"""Tokens cut into pieces and put into a cache, against loops over rows and tokens."""

import jax.numpy as jnp
import numpy as np
import pytest

from cascade_jax.models.pieces import Pieces, causal_mask, first_tokens

STARTS, COUNTS, LENGTH = np.array([3, 0, 7, 2, 5]), np.array([3, 0, 1, 6, 2]), 9


def _tokens(pieces, width):
    """(row, place) of each token, in the order of the pieces."""
    rows = np.arange(len(pieces.starts)) if pieces.rows is None else np.asarray(pieces.rows)
    return [
        [(int(row), int(start) + k) if k < count else None for k in range(width)]
        for row, start, count in zip(rows, pieces.starts, pieces.counts, strict=True)
    ]


WANTED = [
    (row, place)
    for row, (start, count) in enumerate(zip(STARTS, COUNTS, strict=True))
    for place in range(start, start + count)
]


@pytest.mark.parametrize("width, number", [(1, 12), (2, 7), (2, 16), (4, 5), (6, 4), (9, 8)])
def test_cut_rows_hold_every_token_once_and_in_order(width, number):
    pieces = Pieces.of_cut_rows(STARTS, COUNTS, width=width, number=number, length=LENGTH)
    found = _tokens(pieces, width)
    assert [token for piece in found for token in piece if token] == WANTED
    flat = [token for piece in found for token in piece]
    first = np.asarray(first_tokens(COUNTS, width))
    for row, place in WANTED:
        assert flat[first[row] + place - STARTS[row]] == (row, place)
    _check_sources(pieces, flat)


def test_of_rows_each_row_is_one_piece():
    pieces = Pieces.of_rows(STARTS, COUNTS, width=6, length=LENGTH)
    found = _tokens(pieces, 6)
    assert [token for piece in found for token in piece if token] == WANTED
    _check_sources(pieces, [token for piece in found for token in piece])


def _check_sources(pieces, flat):
    assert pieces.sources.shape == (len(STARTS), LENGTH)
    for row in range(len(STARTS)):
        for place in range(LENGTH):
            source = int(pieces.sources[row, place])
            assert (flat[source] if source >= 0 else None) == (
                (row, place) if (row, place) in WANTED else None
            )


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("cut", [False, True])
def test_a_cache_gets_the_new_keys_and_keeps_the_others(before, cut):
    width, rng = 2 if cut else 6, np.random.default_rng(0)
    make = Pieces.of_cut_rows if cut else Pieces.of_rows
    size = {"number": 8} if cut else {}
    pieces = make(STARTS, COUNTS, width=width, length=LENGTH, **size)
    new = rng.normal(size=(len(pieces.starts), 3, 4, width)).astype(np.float32)
    cache = rng.normal(size=(len(STARTS), 3, 4, before + LENGTH)).astype(np.float32)
    expected = cache.copy()
    for piece, tokens in enumerate(_tokens(pieces, width)):
        for k, token in enumerate(tokens):
            if token:
                expected[token[0], :, :, before + token[1]] = new[piece, :, :, k]
    np.testing.assert_array_equal(pieces.put(jnp.asarray(cache), jnp.asarray(new)), expected)


def test_one_token_a_row_is_put_where_it_belongs():
    counts = np.array([1, 0, 1, 1, 0])
    pieces = Pieces.of_rows(STARTS, counts, width=1, length=LENGTH)
    cache, new = np.zeros((5, 1, 1, LENGTH)), np.arange(1.0, 6).reshape(5, 1, 1, 1)
    found = np.asarray(pieces.put(jnp.asarray(cache), jnp.asarray(new)))[:, 0, 0]
    expected = np.zeros((5, LENGTH))
    expected[[0, 2, 3], [3, 7, 2]] = [1, 3, 4]
    np.testing.assert_array_equal(found, expected)


def test_a_token_sees_its_own_place_and_those_before():
    pieces = Pieces.of_cut_rows(STARTS, COUNTS, width=2, number=7, length=LENGTH)
    mask = np.asarray(causal_mask(pieces, 2))
    assert mask.shape == (7, 1, 2, LENGTH)
    for piece, tokens in enumerate(_tokens(pieces, 2)):
        for k, token in enumerate(tokens):
            if token:
                expected = np.arange(LENGTH) <= token[1]
                np.testing.assert_array_equal(mask[piece, 0, k], expected)
    of = np.asarray(pieces.of(jnp.asarray(STARTS)))
    assert of.tolist() == [STARTS[row] for row in np.asarray(pieces.rows)]
