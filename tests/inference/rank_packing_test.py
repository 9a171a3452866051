"""Packed rows of examples with options: each once, where there is room, and little padding."""

import numpy as np
import pytest

from cascade_jax.inference.rank_packing import plan


def _lengths(count):
    rng = np.random.default_rng(count)
    inputs = np.exp(rng.uniform(np.log(8), np.log(500), count)).astype(int).tolist()
    return inputs, np.exp(rng.uniform(np.log(3), np.log(200), count)).astype(int).tolist()


def _computed(passes):
    return sum(each.size * (each.inputs + each.options) for each in passes)


@pytest.mark.parametrize(("count", "shards"), [(0, 1), (1, 4), (40, 2), (500, 8)])
def test_each_example_is_in_one_row_that_holds_it(count, shards):
    inputs, options = _lengths(count)
    passes = plan(inputs, options, 16, shards)
    rows = [row for each in passes for row in each.rows]
    assert sorted(index for row in rows for index in row) == list(range(count))
    for each in passes:
        assert len(each.rows) <= each.size <= 16 and each.size % shards == 0
        for row in each.rows:
            assert sum(inputs[index] for index in row) <= each.inputs
            assert sum(options[index] for index in row) <= each.options


def test_inputs_that_are_all_empty():
    (only,) = plan([0, 0], [5, 6], 8, 1)
    assert sorted(index for row in only.rows for index in row) == [0, 1]
    assert all(sum([5, 6][index] for index in row) <= only.options for row in only.rows)


def test_hardly_any_padding_and_few_shapes():
    inputs, options = _lengths(500)
    passes = plan(inputs, options, 16, 1)
    assert _computed(passes) < 1.2 * (sum(inputs) + sum(options))
    assert len({(each.size, each.inputs, each.options) for each in passes}) <= 4


def test_an_example_with_very_many_options_does_not_widen_all_rows():
    passes = plan([40] * 1001, [4] * 1000 + [4000], 16, 1)
    assert passes[0].rows == [[1000]] and passes[0].options >= 4000 and passes[0].size == 1
    assert all(each.options <= 128 for each in passes[1:])


@pytest.mark.parametrize("shards", [1, 4])
def test_a_pass_has_no_more_tokens_than_as_many_of_the_longest_inputs(shards):
    passes = plan([64] * 5 + [20] * 1000, [6] * 1005, 32, shards)
    assert all(each.size * each.inputs <= 32 * 64 for each in passes)
    assert _computed(passes) < 1.2 * (5 * 64 + 20 * 1000 + 6 * 1005)
