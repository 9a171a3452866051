"""Token masks: the worked example, and who may be kept by which rule."""

import jax.numpy as jnp
import pytest

from cascade_jax.losses import alpha

STUDENT = jnp.asarray([1, 1, 0, 0, 1, 0], bool)
TEACHER = jnp.asarray([1, 0, 1, 0, 1, 0], bool)


def test_worked_example_of_the_masks():
    actual = {rule: alpha.token_mask(rule, STUDENT, TEACHER).tolist() for rule in alpha.RULES}
    assert actual == {
        "either": [1, 1, 1, 0, 1, 0],
        "teacher": [1, 0, 1, 0, 1, 0],
        "student": [1, 1, 0, 0, 1, 0],
    }


def test_another_rule_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"'both'; must be one of either, teacher, student"):
        alpha.token_mask("both", STUDENT, TEACHER)
