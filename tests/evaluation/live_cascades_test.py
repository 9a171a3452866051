"""Figures of a live cascade: against a loop over examples and tokens."""

import math

import numpy as np
import pytest

from cascade_jax.evaluation import live_cascades
from cascade_jax.task_metrics import corpus
from cascade_jax.task_metrics.translation import Chrf
from tests.support import records_cascade, records_table


def test_figures_are_those_of_a_loop(tmp_path):
    rows = records_cascade.make_rows(9)
    policy = {"thresholds": ["inf", 0.25, "-inf"], "score": "entropy"}
    read = records_cascade.write(tmp_path / "a", rows=rows, policy=policy, target_length=7)
    actual = live_cascades.from_records(read)
    shares, by_position = [], {}
    for row in rows:
        shares.append(sum(row["cascade_is_deferred"]) / 7)
        for j, is_deferred in enumerate(row["cascade_is_deferred"]):
            by_position.setdefault(j, []).append(is_deferred)
    assert actual.num_examples == 9 and actual.max_length == 7 and actual.is_length_stated
    assert actual.cost == pytest.approx(np.mean(shares)) and 0 < actual.cost < 0.5
    every = [flag for flags in by_position.values() for flag in flags]
    assert actual.token_share == pytest.approx(np.mean(every))
    assert actual.by_position == pytest.approx([np.mean(by_position[j]) for j in range(4)])
    assert actual.reached.tolist() == [len(by_position[j]) for j in range(4)]
    assert actual.quality == pytest.approx(np.mean([row["cascade_quality"] for row in rows]))
    assert actual.flops == pytest.approx(np.mean([row["cascade_flops"] for row in rows]))
    assert actual.thresholds == (math.inf, 0.25, -math.inf) and actual.uncertainty == "entropy"


def test_tasks_have_their_own_metric(tmp_path):
    rows = records_cascade.make_rows(8, statistics=True)
    described = {"t1": corpus.describe(Chrf())}
    read = records_cascade.write(tmp_path / "a", rows=rows, corpus_metrics=described)
    actual = live_cascades.from_records(read)
    by_task = {task: [row for row in rows if row["task"] == task] for task in ("t0", "t1")}
    expected = np.mean([row["cascade_quality"] for row in by_task["t0"]])
    assert actual.task_quality["t0"] == pytest.approx(expected)
    count = len(by_task["t1"])
    (figure,) = Chrf()(["a text"] * count, ["a tex"] * count).values()
    assert actual.task_quality["t1"] == pytest.approx(figure) and figure > 0.5
    for task, of_task in by_task.items():
        flags = [flag for row in of_task for flag in row["cascade_is_deferred"]]
        assert actual.task_share[task] == pytest.approx(np.mean(flags))
    for row in rows:
        del row["cascade_statistics"]
    read = records_cascade.write(tmp_path / "b", rows=rows, corpus_metrics=described)
    actual = live_cascades.from_records(read)
    assert math.isnan(actual.task_quality["t1"]) and actual.task_quality["t0"] == expected


@pytest.mark.parametrize("length", [None, 3, "7", 0, True])
def test_without_a_length_that_fits_the_longest_answer_is_taken(tmp_path, length):
    more = {} if length is None else {"target_length": length}
    read = records_cascade.write(tmp_path / "a", policy={}, **more)
    actual = live_cascades.from_records(read)
    assert actual.max_length == 4 and not actual.is_length_stated
    deferred = sum(sum(row["cascade_is_deferred"]) for row in records_cascade.make_rows())
    assert actual.cost == pytest.approx(deferred / (6 * 4)) and actual.thresholds == ()


def test_answers_without_a_token_and_records_without_a_cascade(tmp_path):
    rows = records_cascade.make_rows()
    for row in rows:
        for name in ("tokens", "pieces", "is_deferred", "uncertainties"):
            row[f"cascade_{name}"] = []
    actual = live_cascades.from_records(records_cascade.write(tmp_path / "a", rows=rows))
    assert actual.cost == actual.token_share == 0 and len(actual.by_position) == 0
    assert live_cascades.from_records(records_table.write(tmp_path / "b")) is None
