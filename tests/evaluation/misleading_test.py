"""Misleading rates: by hand, against a loop, and of two records tables paired by ids."""

import math

import numpy as np
import pytest

from cascade_jax import records
from cascade_jax.deferral.scores import Average
from cascade_jax.evaluation import misleading
from tests.support import records_table


def test_rates_by_hand():
    plain, misled = np.array([1, 1, 1, 1, 0, 0]), np.array([1, 0, 1, 0, 1, 0])
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0, 0]), np.array([0.1, 0.7, 0.1, 1.0, 9, 9])
    result = misleading.rates(plain, misled, *scores)
    assert result.misleading_rate == 0.5 and result.corrected_rate == 0.5
    assert (result.num_right, result.num_wrong) == (4, 2)
    assert result.rise_overturned == pytest.approx(0.55)
    assert result.rise_kept == pytest.approx(-0.1)
    without = misleading.rates(plain, misled)
    assert without.misleading_rate == 0.5 and math.isnan(without.rise_kept)


def test_rates_against_a_loop_over_graded_quality():
    plain, misled = np.random.default_rng(0).random((2, 500))
    result = misleading.rates(plain, misled)
    right = [i for i in range(500) if plain[i] >= 0.5]
    assert result.misleading_rate == sum(misled[i] < 0.5 for i in right) / len(right)
    wrong = [i for i in range(500) if plain[i] < 0.5]
    assert result.corrected_rate == sum(misled[i] >= 0.5 for i in wrong) / len(wrong)


def test_a_rate_of_no_example_is_undefined():
    result = misleading.rates(np.zeros(3), np.ones(3))
    assert math.isnan(result.misleading_rate) and result.corrected_rate == 1.0
    result = misleading.rates(np.ones(3), np.ones(3), np.zeros(3), np.ones(3))
    assert result.misleading_rate == 0.0 and math.isnan(result.corrected_rate)
    assert math.isnan(result.rise_overturned) and result.rise_kept == 1.0


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((np.ones(0), np.ones(0)), "must be one value for each example"),
        ((np.ones(3), np.ones(3), np.ones(3)), "misled_score"),
        ((np.ones(2), np.array([1, np.nan])), "misled of example 1 is nan; must be finite"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays, message):
    with pytest.raises(ValueError, match=message):
        misleading.rates(*arrays)


def test_names_of_twins():
    for name, twin in [("demo_last_v1", "demo_last_misled_v1"), ("nli", "nli_misled")]:
        assert misleading.misled_name(name) == twin
        assert misleading.plain_name(twin) == name and misleading.plain_name(name) == name


def write(path, n=8, twin=False, order=(), **changes):
    rows = records_table.make_rows(n)
    for i, row in enumerate(rows):
        row |= {"target": f"answer {i}", "student_quality": float(i % 4 > 0)}
        if twin:
            task = misleading.misled_name(row["task"])
            row |= {"task": task, "example_id": f"{task}/test/{i}", "inputs": f"hint {i}"}
            row["student_quality"] = float(i % 4 > 1)
            row["student_log_probs"] = [2 * v for v in row["student_log_probs"]]
        row |= changes
    records.write(
        path, [rows[i] for i in order or range(n)], {"name": "s", "mixture": "m", "split": "test"}
    )
    return records.read(path)


def test_tables_are_paired_by_their_ids(tmp_path):
    plain = write(tmp_path / "plain")
    misled = write(tmp_path / "misled", twin=True, order=[5, 0, 3, 6, 1, 2, 4, 7])
    result = misleading.from_tables(plain, misled, score=Average())
    assert result.misleading_rate == pytest.approx(1 / 3)  # rows 1 and 5 of six
    assert result.corrected_rate == 0.0 and (result.num_right, result.num_wrong) == (6, 2)
    assert result.rise_overturned == pytest.approx(0.25 * np.mean([2, 6]))
    some = write(tmp_path / "some", twin=True, order=range(2, 6))
    assert misleading.from_tables(plain, some).num_right == 3
    teacher = misleading.from_tables(plain, misled, "teacher")
    assert teacher.misleading_rate == 0.0 and teacher.num_right == 8


def test_tables_of_one_task_under_two_templates_may_share_their_ids(tmp_path):
    plain, again = write(tmp_path / "plain"), write(tmp_path / "again", student_quality=0.0)
    assert misleading.from_tables(plain, again).misleading_rate == 1.0


def test_tables_that_are_not_of_the_same_questions_are_refused(tmp_path):
    plain = write(tmp_path / "plain", n=4)
    with pytest.raises(records.RecordsError, match=r"lacks the plain input of 't0_misled/test/4'"):
        misleading.from_tables(plain, write(tmp_path / "long", n=6, twin=True))
    with pytest.raises(records.RecordsError, match="target of 't0_misled/test/0' is 'x', in"):
        misleading.from_tables(plain, write(tmp_path / "other", n=4, twin=True, target="x"))
    with pytest.raises(ValueError, match="model is 'large'"):
        misleading.from_tables(plain, plain, "large")
