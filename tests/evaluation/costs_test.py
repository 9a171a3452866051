"""Costs of answers, from records."""

import math

import numpy as np
import pytest

from cascade_jax import records
from cascade_jax.evaluation import costs
from cascade_jax.records.table import RecordsError
from tests.support import evaluated


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Records of three examples with every optional number."""
    columns = {
        "student_input_tokens": np.array([10, 20, 30], np.int32),
        "teacher_input_tokens": np.array([11, 21, 31], np.int32),
        "student_flops": np.array([1.0, 2.0, 3.0]),
        "teacher_flops": np.array([10.0, 20.0, 30.0]),
        "student_seconds": np.array([0.1, 0.2, 0.3]),
        "teacher_seconds": np.array([1.0, 2.0, 3.0]),
    }
    for kind, value in (("tokens", 1), ("log_probs", -0.5), ("entropies", 0.5)):
        columns[f"student_{kind}"] = [[value] * length for length in (2, 1, 4)]
        columns[f"teacher_{kind}"] = [[value] * length for length in (1, 5, 2)]
    path = tmp_path_factory.mktemp("costs") / "a.parquet"
    return records.read(evaluated.write(path, "a", n=3, changes=columns))


class Changed(records.Records):
    """Records with values in some columns that `read` would refuse."""

    def __init__(self, table, **columns):
        vars(self).update(vars(table) | columns)


def test_every_model_reads_its_columns(table):
    np.testing.assert_array_equal(costs.Parameters()(table), [[2e6] * 3, [1e7] * 3])
    np.testing.assert_array_equal(costs.Flops()(table), [[1, 2, 3], [10, 20, 30]])
    np.testing.assert_array_equal(costs.Latency()(table), [[0.1, 0.2, 0.3], [1, 2, 3]])


def test_a_price_is_that_of_a_million_answers(table):
    price = costs.Price(0.1, 0.4, 2.5, 10.0, currency="EUR")
    student, teacher = price(table)
    # Tokens written: 2, 1, 4 by the small model, 1, 5, 2 by the large one.
    np.testing.assert_allclose(student, [1 + 0.8, 2 + 0.4, 3 + 1.6])
    np.testing.assert_allclose(teacher, [27.5 + 10, 52.5 + 50, 77.5 + 20])
    assert price.unit == "EUR" and price.label.startswith("EUR per million examples")


@pytest.mark.parametrize("model", [costs.Flops(), costs.Latency(), costs.Price(1, 1, 1, 1)])
def test_a_missing_column_names_the_command_that_adds_it(model, table):
    lacking = dict.fromkeys(("teacher_flops", "teacher_seconds", "teacher_input_tokens"), None)
    with pytest.raises(RecordsError, match="a.parquet: no column 'teacher_.*cascade-jax collect"):
        model(Changed(table, **lacking))


def test_bad_values_are_named(table):
    with pytest.raises(
        RecordsError, match="student_flops of example 'long/er task/test/1' is nan.*1 such"
    ):
        costs.Flops()(Changed(table, student_flops=np.array([1.0, math.nan, 2.0])))
    with pytest.raises(
        RecordsError, match="teacher_seconds of example 'long/er task/test/2' is -1.0"
    ):
        costs.Latency()(Changed(table, teacher_seconds=np.array([1.0, 1.0, -1.0])))
    with pytest.raises(RecordsError, match="teacher_flops_per_token varies from 1 to 3"):
        costs.Parameters()(Changed(table, teacher_flops_per_token=np.array([1.0, 2.0, 3.0])))


def test_a_large_model_whose_tokens_are_not_known_has_no_price(tmp_path):
    numbers = {f"{model}_input_tokens": [10, 20, 30] for model in ("student", "teacher")}
    file = evaluated.write(tmp_path / "a", "a", n=3, changes=numbers)
    with pytest.raises(RecordsError, match="teacher_tokens are empty"):
        costs.Price(1, 1, 1, 1)(records.read(file))
    assert costs.Price(1, 1, 1, 0)(records.read(file))[1].tolist() == [10, 20, 30]


@pytest.mark.parametrize("bad", [-1, math.inf, math.nan, "1"])
def test_prices_that_are_none_are_refused(bad):
    with pytest.raises((ValueError, TypeError), match="teacher_input|Type-check"):
        costs.Price(1, 1, bad, 1)


def test_every_model_says_what_its_numbers_are():
    for model in (costs.Parameters(), costs.Flops(), costs.Latency(), costs.Price(1, 1, 1, 1)):
        assert isinstance(model, costs.CostModel)
        assert model.label.startswith(model.unit)
    assert costs.short_label("FLOPs per token (2 × parameters)") == "FLOPs per token"


def test_only_units_with_prefixes_get_one():
    assert costs.prefix_of(3e6, "FLOPs") == (1e6, "M")
    assert costs.prefix_of(0.02, "s") == (1e-3, "m")
    assert costs.prefix_of(3e6, "USD") == (1.0, "")
