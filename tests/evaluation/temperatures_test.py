"""TSU: by hand, against a loop, by chance, of exact entropies, and from records."""

import dataclasses
import math

import numpy as np
import pytest

from cascade_jax import records
from cascade_jax.deferral.scores import DiscreteSemanticEntropy
from cascade_jax.evaluation import temperatures
from tests.support import records_table


def test_tsu_by_hand():
    uncertainties = np.array([[0.1, 0.2, 0.3, 0.0], [0.2, 0.2, 0.1, 1.0], [0.4, 0.3, 0.5, 2.0]])
    assert temperatures.tsu(uncertainties) == 0.5  # the second is level, the third falls first
    assert temperatures.tsu(uncertainties[1:]) == 1.0
    assert temperatures.tsu(np.ones((3, 5))) == 0.0
    # Rounding is no rise: the same as float32.
    assert temperatures.tsu(np.array([[0.3], [0.3 + 1e-12]])) == 0.0


def test_tsu_against_a_loop_and_by_chance():
    values = np.random.default_rng(0).normal(size=(3, 6000))
    rising = sum(a < b < c for a, b, c in values.T.astype(np.float32))
    assert temperatures.tsu(values) == rising / 6000
    assert temperatures.tsu(values) == pytest.approx(1 / math.factorial(3), abs=0.02)


def test_the_entropy_of_what_is_sampled_from_rises():
    logits = np.random.default_rng(1).normal(size=(200, 11))

    def entropies(temperature):
        p = np.exp(logits / temperature)
        p /= p.sum(axis=1, keepdims=True)
        return -np.sum(p * np.log(p), axis=1)

    assert temperatures.tsu(np.stack([entropies(t) for t in (0.3, 0.7, 1.0, 1.5)])) == 1.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((1, 3)), r"shape \(1, 3\); must be at least two temperatures"),
        (np.ones((2, 0)), "at least one example"),
        (np.array([[0, 1], [1, np.nan]]), "example 1 at temperature 1 .* is nan; must be finite"),
    ],
)
def test_what_has_no_tsu_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        temperatures.tsu(values)


def table(path, temperature, samples):
    rows = records_table.make_rows(4)
    for row, texts in zip(rows, samples, strict=True):
        row["student_sample_answers"] = texts
    metadata = {"name": "s", "mixture": "m", "split": "test"}
    if temperature:
        metadata["student_samples"] = {"count": 4, "temperature": temperature}
    records.write(path, rows, metadata)
    return records.read(path)


@pytest.fixture
def tables(tmp_path):
    """Numbers of classes of four samples: 1 2 3, 1 1 2, 2 2 4 and 1 4 4."""
    classes = {0.5: ["aaaa", "aaaa", "aabb", "aaaa"], 1.0: ["aabb", "aaaa", "aabb", "abcd"]}
    classes[1.5] = ["aabc", "aabb", "abcd", "abcd"]
    return {t: table(tmp_path / f"{t}", t, map(list, texts)) for t, texts in classes.items()}


def test_records_at_several_temperatures(tables):
    result = temperatures.sensitivity(
        [tables[1.5], tables[0.5], tables[1.0]], DiscreteSemanticEntropy()
    )
    assert result.temperatures == (0.5, 1.0, 1.5) and result.num_examples == 4
    assert result.tsu == 0.25 and result.steps == (0.5, 0.75)
    expected = [np.log(2) / 4, (2 * np.log(2) + np.log(4)) / 4]
    np.testing.assert_allclose(result.means[:2], expected, rtol=1e-9)


def test_rows_in_another_order_are_the_same(tables):
    shuffled = tables[1.0].take(np.array([2, 0, 3, 1]))
    one = temperatures.sensitivity([tables[0.5], shuffled], DiscreteSemanticEntropy())
    assert one.steps == (0.5,)


def test_tables_that_do_not_fit_are_refused(tables, tmp_path):
    score = DiscreteSemanticEntropy()
    with pytest.raises(ValueError, match="1 tables; TSU takes two temperatures or more"):
        temperatures.sensitivity([tables[0.5]], score)
    with pytest.raises(records.RecordsError, match="both have samples at temperature 0.5"):
        temperatures.sensitivity([tables[0.5], tables[0.5]], score)
    without = table(tmp_path / "none", None, [["a"]] * 4)
    with pytest.raises(records.RecordsError, match="none does not say at what temperature"):
        temperatures.sensitivity([tables[0.5], without], score)
    with pytest.raises(ValueError, match="score 'nan': the uncertainty of example 0"):
        nan = dataclasses.make_dataclass(
            "N", [], namespace={"name": "nan", "__call__": lambda self, a: np.full(4, np.nan)}
        )
        temperatures.sensitivity([tables[0.5], tables[1.0]], nan())
