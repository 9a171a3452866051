"""Rows of a table of records, and files of them, also as others would write them."""

import json

import pyarrow.parquet as pq

from cascade_jax import records

METADATA = {"name": "xent", "mixture": "m", "split": "test", "student_parameters": 3, "more": [1]}


def make_rows(n=4):
    """Rows with an empty answer, letters of several scripts, a line break, lists of any length."""
    texts = ["", "naïve 日本\n", "<b>&\"'", "🙂"]
    rows = []
    for i in range(n):
        lists = {}
        for model, length in (("student", 1 + i % 3), ("teacher", i % 2)):
            lists[f"{model}_tokens"] = [7 + i] * length
            lists[f"{model}_log_probs"] = [-0.25 * (i + 1)] * length
            lists[f"{model}_entropies"] = [0.5] * length
        rows.append(
            {
                "mixture": "m",
                "task": f"t{i % 2}",
                "split": "test",
                "example_id": f"t{i % 2}/test/{i}",
                "inputs": f"question {i} é",
                "target": texts[i % 4],
                "metric": "exact_match",
                "student_answer": texts[i % 4],
                "teacher_answer": texts[(i + 1) % 4],
                "student_quality": float(i % 2),
                "teacher_quality": 0.5,
                "student_flops_per_token": 10.0,
                "teacher_flops_per_token": 80.0,
                **lists,
            }
        )
    return rows


def write(path, changes=None, rows=None, **metadata):
    """A records file whose rows have been changed: {(row, column): value}."""
    rows = make_rows() if rows is None else rows
    for (row, column), value in (changes or {}).items():
        rows[row][column] = value
    records.write(path, rows, {**METADATA, **metadata})
    return records.read(path)


def rewrite(path, change_metadata=None, change_table=None):
    """Changes a file behind the back of `records.write`, as another program might.

    A key of the metadata that is changed to None is taken away.
    """
    table = pq.read_table(path)
    metadata = json.loads(table.schema.metadata[b"cascade_jax"])
    metadata = {k: v for k, v in (metadata | (change_metadata or {})).items() if v is not None}
    if change_table:
        table = change_table(table)
    pq.write_table(table.replace_schema_metadata({"cascade_jax": json.dumps(metadata)}), path)
