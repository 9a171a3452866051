"""Mixtures name their tasks: what is not registered is listed."""

import pytest

import tasks.demo  # noqa: F401
from tasks.registration import add_mixture


def test_tasks_that_are_not_registered_are_listed_all_at_once():
    names = ["demo_last_v1", "demo_lookup_v2", ("demo_ad_v1", 2.0), "demo_mixture_v1"]
    with pytest.raises(ValueError) as error:
        add_mixture("demo_wrong_v1", names, 1.0)
    assert str(error.value) == (
        "mixture 'demo_wrong_v1' has tasks that are not registered: 'demo_lookup_v2'; did you mean "
        "'demo_lookup_v1'?, 'demo_ad_v1'; did you mean 'demo_add_v1'?"
    )
