"""Passes over a made pool, against evaluating every threshold for itself."""

import numpy as np
import pytest

from cascade_jax.calibration.passes import Passes, evaluate_all
from cascade_jax.calibration.pool import CascadeAnswers

LENGTH = 6


class MadePool:
    """Token by token: what is unsure next depends on all that was deferred before."""

    def __init__(self, n, blocks=1, seed=0):
        self.seed, self.blocks, self.size, self.asked = seed, blocks, n, []

    def evaluate(self, thresholds, rows):
        own = np.broadcast_to(thresholds, (len(rows), self.blocks))
        block = np.arange(LENGTH) * self.blocks // LENGTH
        unsure, deferred = np.zeros((len(rows), LENGTH)), np.zeros((len(rows), LENGTH), bool)
        for i, row in enumerate(rows):
            for place in range(LENGTH):
                history = [self.seed, int(row), *deferred[i, :place].tolist()]
                unsure[i, place] = np.random.default_rng(history).random()
                deferred[i, place] = unsure[i, place] > own[i, block[place]]
        low, high = np.where(deferred, -np.inf, unsure), np.where(deferred, unsure, np.inf)
        each = [block == number for number in range(self.blocks)]
        result = CascadeAnswers(
            cost=deferred.mean(axis=1),
            quality={"q": unsure.sum(axis=1) / LENGTH},
            holds_from=np.stack([low[:, places].max(axis=1) for places in each], axis=1),
            holds_below=np.stack([high[:, places].min(axis=1) for places in each], axis=1),
            is_deferred=deferred,
        )
        self.asked.append((np.array(rows), result))
        return result


def candidates(blocks, count=40):
    values = np.random.default_rng(5).random((count, blocks))
    return [tuple(each) for each in np.sort(values, axis=0).tolist()]


@pytest.mark.parametrize("blocks", [1, 2])
def test_passes_make_every_candidate_known_with_each_answer_once(blocks):
    pool, rows, arguments = MadePool(30, blocks), np.arange(4, 26), candidates(blocks)
    passes, known, spent = Passes(pool.evaluate, arguments, rows), [], 0
    while passes.cost:
        cost, before = passes.cost, len(pool.asked)
        expected = min(set(range(len(arguments))) - set(known))
        actual = passes.run(expected)
        assert actual[0] == expected and not set(actual) & set(known)
        known += actual
        ((asked, _),) = pool.asked[before:]
        assert len(asked) == len({*asked}) == round(cost * len(rows))
        spent += len(asked)
    assert sorted(known) == list(range(len(arguments)))
    alone = [pool.evaluate(each, rows).is_deferred for each in arguments]
    different = [{tuple(at[i]) for at in alone} for i in range(len(rows))]
    # Another way of deferring may come back at another threshold: never fewer than the different.
    assert sum(map(len, different)) <= spent < 0.5 * len(arguments) * len(rows)
    if blocks == 1:
        changes = [np.any(a != b, axis=1) for a, b in zip(alone, alone[1:], strict=False)]
        assert spent == len(rows) + np.sum(changes)


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_candidate_is_known_when_all_of_its_answers_are_and_not_before(blocks):
    pool, rows, arguments = MadePool(12, blocks), np.arange(12), candidates(blocks)
    passes, known, sizes = Passes(pool.evaluate, arguments, rows), set(), []
    while passes.cost:
        left = [index for index in range(len(arguments)) if index not in known]
        known |= {*passes.run(left[len(left) // 2])}
        is_known = np.zeros((len(arguments), 12), bool)
        for of, result in pool.asked:
            is_known[:, of] |= np.stack([result.holds_at(np.asarray(each)) for each in arguments])
        assert known == {*np.flatnonzero(is_known.all(axis=1))}
        sizes.append(len(known))
    assert len(sizes) > 5 and sizes[3] < len(arguments)


@pytest.mark.parametrize("blocks", [1, 2])
def test_all_at_once_is_each_for_itself(blocks):
    pool, rows, arguments = MadePool(20, blocks), np.array([3, 17, 5]), candidates(blocks, 15)
    for actual, each in zip(evaluate_all(pool.evaluate, arguments, rows), arguments, strict=True):
        whole = pool.evaluate(each, rows)
        for name, values in whole.columns().items():
            np.testing.assert_array_equal(actual.columns()[name], values)
