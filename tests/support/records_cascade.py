"""Rows with answers of a cascade that ran live, and files of them."""

import numpy as np

from cascade_jax.task_metrics.translation import Chrf
from tests.support import records_table

COLUMNS = ("answer", "tokens", "pieces", "is_deferred", "uncertainties", "quality", "flops")


PER_TOKEN = ("tokens", "is_deferred", "uncertainties")


POLICY = {"level": "token", "thresholds": [0.5], "alpha": 0.2}


def make_rows(n=6, statistics=False):
    """Rows with answers of a live cascade, one of them without a token."""
    rng = np.random.default_rng(n)
    rows = records_table.make_rows(n)
    for i, row in enumerate(rows):
        count = (2 * i) % 5
        row["cascade_answer"] = f"mixed é{i}" if count else ""
        row["cascade_tokens"] = rng.integers(0, 99, count).tolist()
        row["cascade_pieces"] = [f"▁é{i}.{k}" for k in range(count)]
        row["cascade_is_deferred"] = (rng.random(count) < 0.5).tolist()
        row["cascade_uncertainties"] = rng.exponential(size=count).astype(np.float32).tolist()
        row["cascade_quality"] = i / 10
        row["cascade_flops"] = 1e9 + i
        if statistics:
            counts = [[], [], []]
            if row["task"] == "t1":
                counts = Chrf().statistics(["a text"] * 3, ["a te", f"ext {i}", "a tex"]).tolist()
            for model, of_model in zip(("student", "teacher", "cascade"), counts, strict=True):
                row[f"{model}_statistics"] = of_model
    return rows


def write(path, changes=None, rows=None, **metadata):
    rows = make_rows() if rows is None else rows
    return records_table.write(path, changes, rows, **{"policy": POLICY, **metadata})


def assert_holds(read, rows):
    offsets = read.cascade_offsets
    assert len(offsets) == len(rows) + 1
    for i, row in enumerate(rows):
        span = slice(offsets[i], offsets[i + 1])
        for name in PER_TOKEN:
            assert getattr(read, f"cascade_{name}")[span].tolist() == row[f"cascade_{name}"]
        assert read.pieces("cascade", i) == row["cascade_pieces"]
        for name in ("answer", "quality", "flops"):
            assert getattr(read, f"cascade_{name}")[i] == row[f"cascade_{name}"]
