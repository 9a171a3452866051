"""summary.md holds the figures of the evaluation, in tables that Markdown can read."""

import numpy as np

from cascade_jax.evaluation import curves, summaries
from cascade_jax.evaluation.cascades import Cascade
from cascade_jax.evaluation.comparison import Difference
from cascade_jax.evaluation.results import Evaluation
from cascade_jax.report import markdown
from cascade_jax.report import tables as tables_lib
from tests.support.markdown_tables import tables


def evaluation():
    def panel(title, n):
        cascades = {}
        for seed, name in enumerate(("xent", "cat")):
            rng = np.random.default_rng(seed)
            right = (rng.random(n) < 0.5) * 1.0
            cascades[name] = Cascade(rng.normal(size=n) - right, right, np.ones(n), 2e6, 1e7)
        return summaries.compare(title, "accuracy", cascades, bootstrap_samples=20)

    tasks = {"t1": panel("t1", 20), "t2": panel("t2", 20)}
    return Evaluation(panel("mix", 40), tasks, (), "Average()", 20, 0)


def test_tables_whose_cells_are_the_figures():
    found = evaluation()
    summary, separation, comparisons, curve, tasks = tables(markdown.render(found))
    for table in (summary, separation, comparisons, curve, tasks):
        assert len({len(row) for row in table}) == 1
    assert [row[0] for row in summary[2:]] == ["xent", "cat"]
    alone = found.pooled.summaries["cat"].student_quality
    assert summary[3][1] == f"{alone.value:.3f} [{alone.low:.3f}, {alone.high:.3f}]"
    assert summary[2][6] == "–" and summary[3][6][0] in "+-"
    read = curves.quality_at_rate(found.pooled.curves["xent"], 0.3)
    assert curve[2][4] == f"{float(read):.3f}"
    assert curve[0][4] == "30 %" and curve[2][11] == "1.000"
    assert [row[0] for row in tasks[2:]] == ["t1", "t2"]
    told = found.pooled.summaries["cat"].separation
    values = [told.auroc, told.auprc, told.error_share, told.prr, told.prr_half, told.pearson]
    assert separation[3][1:7] == [f"{value:.3f}" for value in values]
    assert separation[3][-1] == "–"  # no confidence, no ECE
    area = found.pooled.comparisons["cat"].area
    cell = f"{area.value:+.3f} [{area.low:+.3f}, {area.high:+.3f}], p {area.p_value:.3f}"
    assert [row[0] for row in comparisons[2:]] == ["cat"] and comparisons[2][-1] == cell
    assert comparisons[0][4] == "at 4.5 MFLOPs per token"
    area = found.tasks["t2"].summaries["cat"].area.value
    assert tasks[3][5].endswith(f"/ {area:.3f}")


def test_a_p_value_is_never_nought():
    assert tables_lib.difference(Difference(0.1, 0.05, 0.2, 1e-4)).note == "p < 0.001"
    assert tables_lib.difference(Difference(0.1, 0.05, 0.2, 0.25)).note == "p 0.250"
    assert tables_lib.difference(Difference(0.1)).note == "p –"
