"""Checks of settings: what passes, and what the messages name."""

import numpy as np
import pytest

from cascade_jax import checks


def test_allowed_values_pass():
    checks.whole_number("steps", np.int64(1), 1)
    checks.whole_number("limit", None, 1, optional=True)
    checks.positive("rate", 0.5)
    checks.positive("rate", None, optional=True)
    checks.require(True, "name", "x", "a text")
    checks.true_or_false("flag", False)
    assert checks.is_number(np.float32(0.5)) and checks.is_number(-3)
    for value in (True, np.nan, np.inf, 10**400, "1", None):
        assert not checks.is_number(value)


@pytest.mark.parametrize(
    "check, message",
    [
        (lambda: checks.whole_number("steps", 0, 1), "is 0; must be an integer of at least 1$"),
        (lambda: checks.whole_number("steps", True, 0), "steps is True; must be an integer"),
        (lambda: checks.whole_number("k", 2.0, 1, True), "k is 2.0; .* at least 1, or None$"),
        (lambda: checks.whole_number("k", None, 1), "k is None; must be an integer"),
        (lambda: checks.whole_number("k", 2**31, 1), "k is 2147483648; .* and at most 2147483647$"),
        (lambda: checks.whole_number("k", 10**9, 1, most=9), "k is 1000000000; .* and at most 9$"),
        (lambda: checks.whole_number("k", 10**400, 1), "k is an integer of 401 digits; must be"),
        (lambda: checks.true_or_false("flag", 1), "flag is 1; must be True or False$"),
        (lambda: checks.positive("rate", True), "rate is True; must be a number above 0$"),
        (lambda: checks.positive("rate", float("nan")), "rate is nan; must be a number above 0$"),
        (lambda: checks.positive("rate", float("inf")), "rate is inf; must be a number above 0$"),
        (lambda: checks.positive("rate", "1", True), "rate is '1'; must be .* above 0, or None$"),
        (lambda: checks.positive("rate", 1e30, most=100), "is 1e\\+30; .* 0 and at most 100$"),
        (lambda: checks.require(False, "name", "", "a text"), "name is ''; must be a text$"),
    ],
)  # fmt: skip
def test_a_message_names_the_setting_the_value_and_what_is_allowed(check, message):
    with pytest.raises(ValueError, match=message):
        check()
