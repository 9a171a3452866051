"""Rows with the optional columns, and what must be read of them."""

import numpy as np

from tests.support import records_table

TOP_K, WIDTH = 3, 5


def make_rows(n=6):
    """Rows with every optional column but statistics."""
    rng = np.random.default_rng(n)
    rows = records_table.make_rows(n)
    for i, row in enumerate(rows):
        count = len(row["student_tokens"])
        top = -np.sort(2 + rng.exponential(size=(count, TOP_K)), axis=1).astype(np.float32)
        row["student_top_log_probs"] = top.ravel().tolist()
        row["student_top_ids"] = rng.integers(0, 99, count * TOP_K).tolist()
        row["student_embedding"] = rng.normal(size=WIDTH).astype(np.float32).tolist()
        for model in ("student", "teacher"):
            row[f"{model}_pieces"] = [f"▁é{i}.{k}" for k in range(len(row[f"{model}_tokens"]))]
            row[f"{model}_input_tokens"] = i
            row[f"{model}_flops"] = 1e9 + i
            row[f"{model}_seconds"] = i / 7
    return rows


def assert_holds(read, rows):
    """Every value of the rows, and none more."""
    offsets = read.student_offsets
    assert len(read) == len(rows) and read.student_top_log_probs.shape == (offsets[-1], TOP_K)
    for i, row in enumerate(rows):
        span = slice(offsets[i], offsets[i + 1])
        for name in ("top_log_probs", "top_ids"):
            of_row = getattr(read, f"student_{name}")[span]
            assert of_row.ravel().tolist() == row[f"student_{name}"]
        assert read.student_embedding[i].tolist() == row["student_embedding"]
        for model in ("student", "teacher"):
            assert read.pieces(model, i) == row[f"{model}_pieces"]
            for name in ("input_tokens", "flops", "seconds"):
                assert getattr(read, f"{model}_{name}")[i] == row[f"{model}_{name}"]
