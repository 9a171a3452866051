"""What losses reach, against plain sums over sorted examples."""

import numpy as np

from cascade_jax.evaluation.claims import losses, tables
from tests.support import study_tables


def test_curves_are_those_of_sorted_examples(tmp_path):
    study_tables.write(tmp_path, {("xent", 0): 0.0, ("xent", 3): 0.3, ("dist", 0): 0.6})
    study = tables.load([tmp_path])["p"]
    results = {result.loss: result for result in losses.measure(study)}
    assert set(results["xent"].tasks) == set(study_tables.TASKS)
    assert results["xent"].seeds == (0, 3) and results["dist"].seeds == (0,)
    for number, seed in enumerate((0, 3)):
        entry = study.table("small", "xent", seed)
        small, large = entry.table.student_quality, entry.table.teacher_quality
        order = np.argsort(-entry.score("average"), kind="stable")
        cascades = [small.mean()]
        for row in order:
            cascades.append(cascades[-1] + (large[row] - small[row]) / len(small))
        rates = np.arange(len(small) + 1) / len(small)
        expected = np.interp(losses.RATES, rates, cascades)
        np.testing.assert_allclose(results["xent"].quality[number], expected, atol=1e-12)
        np.testing.assert_allclose(results["xent"].area[number], np.trapezoid(cascades, rates))
        at_cost = np.interp([0.25, 0.5, 0.75], rates, cascades).mean()
        np.testing.assert_allclose(results["xent"].quality_at_cost[number], at_cost)
        assert results["xent"].small[number] == small.mean()
        assert results["xent"].large == large.mean()
        for task, (small_alone, large_alone) in results["xent"].tasks.items():
            rows = entry.table.task == task
            assert small_alone[number] == small[rows].mean() and large_alone == large[rows].mean()
