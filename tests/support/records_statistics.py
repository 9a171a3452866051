"""Rows with counts of a corpus metric, and files of them."""

from cascade_jax.task_metrics import corpus
from cascade_jax.task_metrics.translation import Chrf
from tests.support import records_table

DESCRIBED = {"t1": corpus.describe(Chrf())}


def make_rows(n=6):
    """Every second row is of task t1, whose corpus metric is chrF."""
    rows = records_table.make_rows(n)
    for i, row in enumerate(rows):
        counts = [[], []]
        if row["task"] == "t1":
            counts = Chrf().statistics(["a text"] * 2, ["a te", f"ext {i}"]).tolist()
        row["student_statistics"], row["teacher_statistics"] = counts
    return rows


def write(path, changes=None, rows=None, **metadata):
    rows = make_rows() if rows is None else rows
    metadata = {"corpus_metrics": DESCRIBED, **metadata}
    return records_table.write(path, changes, rows, **metadata)
