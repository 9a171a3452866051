"""Data that are the same have one fingerprint; any change gives another."""

import dataclasses

import numpy as np
import pytest

from cascade_jax.deferral.routers.fingerprints import fingerprint, id_hashes
from tests.support.ragged import answers_of

ANSWERS = answers_of([[-1.0, -0.5], [-0.25], [-2.0, -3.0, -0.125]], ["b", "a", "c"])
STUDENT, TEACHER = np.array([0.0, 1.0, 0.5]), np.array([1.0, 1.0, 0.0])
WHOLE = fingerprint(ANSWERS, STUDENT, TEACHER)


def test_the_order_of_named_examples_does_not_matter():
    order = np.array([2, 0, 1])
    assert fingerprint(ANSWERS.take(order), STUDENT[order], TEACHER[order]) == WHOLE


def test_what_a_router_does_not_learn_from_does_not_matter():
    more = answers_of([[-1.0, -0.5], [-0.25], [-2.0, -3.0, -0.125]], ["b", "a", "c"], k=3)
    assert fingerprint(more, STUDENT, TEACHER) == WHOLE
    double = dataclasses.replace(ANSWERS, log_probs=ANSWERS.log_probs.astype(np.float64))
    assert fingerprint(double, STUDENT, TEACHER.astype(np.float32)) == WHOLE


def changed(**changes):
    return dataclasses.replace(ANSWERS, **changes)


@pytest.mark.parametrize(
    "other",
    [
        (changed(log_probs=ANSWERS.log_probs - np.float32(1e-6)), STUDENT, TEACHER),
        (changed(offsets=np.array([0, 1, 3, 6])), STUDENT, TEACHER),
        (changed(example_ids=["b", "a", "d"]), STUDENT, TEACHER),
        (changed(example_ids=None), STUDENT, TEACHER),
        (ANSWERS, TEACHER, STUDENT),
        (ANSWERS, STUDENT, np.array([1.0, 1.0, 0.25])),
        (ANSWERS.take(np.array([0, 1])), STUDENT[:2], TEACHER[:2]),
    ],
)
def test_any_change_gives_another(other):
    assert fingerprint(*other) != WHOLE


def test_hashes_are_of_the_ids_and_sorted():
    hashes = id_hashes(["b", "a", "c"])
    np.testing.assert_array_equal(hashes, id_hashes(np.array(["c", "b", "a"], dtype=object)))
    assert hashes.dtype == np.uint64 and np.all(np.diff(hashes.astype(object)) > 0)
    assert not set(hashes) & set(id_hashes(["d", "e"]))
    assert id_hashes(None).shape == (0,) == id_hashes([]).shape
