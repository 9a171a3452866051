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


def rows_by_name(table):
    """{first cell: {column: cell}} of a table, whose second line is a rule."""
    header, _, *rows = table
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def test_tables_whose_cells_are_the_figures():
    made = evaluation()
    summary, separation, comparisons, curve, tasks = map(
        rows_by_name, tables(markdown.render(made))
    )
    cat = made.pooled.summaries["cat"]
    assert list(summary) == ["xent", "cat"]
    alone = cat.student_quality
    assert summary["cat"]["small model"] == (
        f"{alone.value:.3f} [{alone.low:.3f}, {alone.high:.3f}]"
    )
    assert summary["xent"]["area − first"] == "–" and summary["cat"]["area − first"][0] in "+-"
    read = curves.quality_at_rate(made.pooled.curves["xent"], 0.3)
    assert curve["xent"]["30 %"] == f"{float(read):.3f}"
    assert curve["xent"]["100 %"] == "1.000"
    columns = {
        "AUROC": "auroc",
        "AUPRC": "auprc",
        "share of errors": "error_share",
        "PRR": "prr",
        "PRR to 50 %": "prr_half",
        "Pearson": "pearson",
    }
    for column, figure in columns.items():
        assert separation["cat"][column] == f"{getattr(cat.separation, figure):.3f}", column
    assert separation["cat"]["ECE scaled"] == "–"  # no confidence, no ECE
    area = made.pooled.comparisons["cat"].area
    cell = f"{area.value:+.3f} [{area.low:+.3f}, {area.high:+.3f}], p {area.p_value:.3f}"
    assert list(comparisons) == ["cat"] and comparisons["cat"]["area"] == cell
    assert "at 4.5 MFLOPs per token" in comparisons["cat"]
    assert list(tasks) == ["t1", "t2"]
    area = made.tasks["t2"].summaries["cat"].area.value
    assert tasks["t2"]["cat"].endswith(f"/ {area:.3f}")


def test_a_p_value_is_never_nought():
    assert tables_lib.difference(Difference(0.1, 0.05, 0.2, 1e-4)).note == "p < 0.001"
    assert tables_lib.difference(Difference(0.1, 0.05, 0.2, 0.25)).note == "p 0.250"
    assert tables_lib.difference(Difference(0.1)).note == "p –"
