"""What losses reach, against plain sums over sorted examples."""

import numpy as np

from cascade_jax.evaluation.claims import losses, tables
from tests.support import study_tables


def test_curves_are_those_of_sorted_examples(tmp_path):
    study_tables.write(tmp_path, {("xent", 0): 0.0, ("xent", 3): 0.3, ("dist", 0): 0.6})
    study = tables.load([tmp_path])["p"]
    results = {result.loss: result for result in losses.measure(study)}
    assert results["xent"].seeds == (0, 3) and results["dist"].seeds == (0,)
    (pool, of_tasks), parts = results["xent"].places.values(), results["xent"].tasks
    for number, seed in enumerate((0, 3)):
        entry = study.table("small", "xent", seed)
        _check(pool, number, entry, np.arange(len(entry.table)))
        for task, rows in study.rows_by_task().items():
            _check(parts[task], number, entry, rows)
    means = {k: np.mean([getattr(part, k) for part in parts.values()], 0) for k in vars(pool)}
    for name, value in means.items():
        np.testing.assert_allclose(getattr(of_tasks, name), value)


def _check(result, number, entry, rows):
    small, large = entry.table.student_quality[rows], entry.table.teacher_quality[rows]
    cascades = [small.mean()]
    for row in np.argsort(-entry.score("average")[rows], kind="stable"):
        cascades.append(cascades[-1] + (large[row] - small[row]) / len(small))
    rates = np.arange(len(small) + 1) / len(small)
    expected = np.interp(losses.RATES, rates, cascades)
    np.testing.assert_allclose(result.quality[number], expected, atol=1e-12)
    np.testing.assert_allclose(result.area[number], np.trapezoid(cascades, rates))
    at_cost = np.interp([0.25, 0.5, 0.75], rates, cascades).mean()
    np.testing.assert_allclose(result.quality_at_cost[number], at_cost)
    assert result.small[number] == small.mean() and result.large == large.mean()
