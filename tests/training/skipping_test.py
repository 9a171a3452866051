"""Batches whose gradient is not finite, left out."""

import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cascade_jax import metrics
from cascade_jax.training import skipping


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_gradient_changes_nothing_and_a_good_one_is_as_ever(bad):
    plain = optax.adafactor(0.1)
    guarded = skipping.skip_non_finite(plain)
    params = {"a": jnp.arange(4.0), "b": jnp.ones((2, 3))}
    good = {"a": jnp.ones(4), "b": jnp.full((2, 3), 0.5)}
    poisoned = good | {"b": good["b"].at[1, 2].set(bad)}
    state = guarded.init(params)
    updates, same = guarded.update(poisoned, state, params)
    for leaf in updates.values():
        np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))
    # What follows is what follows without that batch.
    mine, theirs = guarded.update(good, same, params), plain.update(good, state, params)
    for name in params:
        np.testing.assert_allclose(mine[0][name], theirs[0][name], rtol=1e-6)
        assert np.abs(mine[0][name]).max() > 0


def test_which_figures_are_bad():
    def result(loss, norm):
        one = np.float32(1)
        return {
            metrics.LOSS: metrics.Ratio(np.float32(loss), one),
            metrics.GRADIENT_NORM: metrics.Ratio(np.float32(norm), one),
        }

    assert skipping.is_finite(result(1, 1)) and skipping.is_finite({})
    assert not skipping.is_finite(result(np.nan, 1)) and not skipping.is_finite(result(1, np.inf))


def test_the_list_forgets_steps_that_run_again(tmp_path):
    skipping.SkippedSteps(tmp_path, 0, True).add([3, 7])
    skipping.SkippedSteps(tmp_path, 0, False)  # another host writes nothing
    assert skipping.SkippedSteps(tmp_path, 5, True).steps == [3]
    lines = (tmp_path / "skipped.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == [{"step": 3}]
