"""What is printed below the table of an evaluation."""

from cascade_jax import records
from cascade_jax.deferral import scores
from cascade_jax.report import terminal
from tests.support import records_table
from tests.support.reports import evaluate_and_write


def test_scores_and_differences_are_those_of_the_evaluation(tmp_path):
    for name in ("first", "second"):
        path = tmp_path / f"{name}.parquet"
        records.write(path, records_table.make_rows(8), {**records_table.METADATA, "name": name})
    result = evaluate_and_write(
        sorted(tmp_path.glob("*.parquet")), tmp_path, bootstrap_samples=20, scores=[scores.Sum()]
    )
    text = terminal.below(result, tmp_path)
    by_score = result.pooled.scores["second"]
    area = f"{by_score['average'].area.value:.3f}"
    assert ["average", area, area] in [line.split() for line in text.splitlines()]
    assert "second minus first:\n  area             +0.000 [+0.000, +0.000]  p 1" in text
    assert text.endswith(f"Open {tmp_path}/report.html")
