"""Hints for names that do not exist."""

import pytest

from cascade_jax.names import check_choice, did_you_mean, matching_tasks, nearest


def test_a_near_name_is_named_and_none_is_made_up():
    assert did_you_mean("trian", ["train", "collect"]) == "; did you mean 'train'?"
    assert did_you_mean("evaluate", iter(["xyz"])) == ""
    assert did_you_mean(3, ["train"]) == ""
    assert did_you_mean("tr", ["train"]) == ""
    assert did_you_mean("tr", ["train"], cutoff=0.5) == "; did you mean 'train'?"


def test_the_nearest_name_may_be_far():
    assert nearest("zzz", ["train"]) == "train"
    assert nearest("colect", ["train", "collect"]) == "collect"


def test_a_choice_is_one_of_the_names():
    check_choice("level", "token", ("answer", "token"))
    message = "level is 'tokens'; must be one of answer, token; did you mean 'token'"
    with pytest.raises(ValueError, match=message):
        check_choice("level", "tokens", iter(["answer", "token"]))
    with pytest.raises(ValueError, match="level is None; must be one of answer"):
        check_choice("level", None, ["answer"])
    with pytest.raises(
        ValueError, match=r"^level is \[0, 1, .{190,200}\.\.\.; must be one of a"
    ) as error:
        check_choice("level", list(range(10_000)), ["answer"])
    assert len(str(error.value)) < 400


def test_patterns_without_a_task_are_listed_all_at_once():
    with pytest.raises(ValueError) as error:
        matching_tasks(["a*", "bx", "cx"], ["ab", "b", "c"])
    assert str(error.value) == (
        "no task matches 'bx'; nearest is 'b', 'cx'; nearest is 'c' of 3 tasks"
    )
    assert matching_tasks(["c", "a*"], ["ab", "b", "c"]) == ["ab", "c"]
