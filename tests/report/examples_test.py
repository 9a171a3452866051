"""The sample of examples: even over tasks and right or wrong, within its limits, as recorded."""

import json
from collections import Counter

import numpy as np
import pytest
import scipy.stats

from cascade_jax import records
from cascade_jax.report import examples, page_data

TASKS = ("large", "small")


def write(path, name, right, *, pieces=False, text=str):
    """Records of one student; every fifth example is of the small task."""
    n = len(right)
    tasks = [TASKS[i % 5 == 0] for i in range(n)]
    tokens = [np.ones(1 + i % 3, np.int32) for i in range(n)]
    log_probs = [np.linspace(-1, -0.1, len(part)) for part in tokens]
    columns = {
        "mixture": ["m"] * n,
        "task": tasks,
        "split": ["test"] * n,
        "example_id": [f"{task}/test/{i}" for i, task in enumerate(tasks)],
        "inputs": [text(i) for i in range(n)],
        "target": ["yes"] * n,
        "metric": ["exact_match"] * n,
        "student_answer": [f"{name} {i}" for i in range(n)],
        "teacher_answer": ["yes"] * n,
        "student_tokens": tokens,
        "student_log_probs": log_probs,
        "student_entropies": [-part for part in log_probs],
        "teacher_tokens": [[]] * n,
        "teacher_log_probs": [[]] * n,
        "teacher_entropies": [[]] * n,
        "student_quality": np.asarray(right, float),
        "teacher_quality": np.ones(n),
        "student_flops_per_token": np.full(n, 1.0),
        "teacher_flops_per_token": np.full(n, 9.0),
    }
    if pieces:
        columns["student_pieces"] = [[f"p{i}.{j}" for j in range(len(t))] for i, t in
                                     enumerate(tokens)]  # fmt: skip
    records.write(path, columns, {"name": name, "mixture": "m", "split": "test"})
    return records.read(path)


@pytest.fixture
def tables(tmp_path):
    rng = np.random.default_rng(0)
    return {
        "a": write(tmp_path / "a", "a", rng.random(300) < 0.9, pieces=True),
        "b": write(tmp_path / "b", "b", rng.random(300) < 0.9),
    }


@pytest.fixture
def scores():
    return {name: np.random.default_rng(i).random(300) for i, name in enumerate("ab")}


def stratum(row):
    rights = [answer["quality"] >= 0.5 for answer in row["answers"].values()]
    return row["task"], sum(rights)


def test_all_are_drawn_where_there_is_room(tables, scores):
    actual = examples.sample(tables, scores, max_examples=1000)
    assert actual["total"] == 300
    assert [row["example_id"] for row in actual["rows"]] == list(tables["a"].example_id)


def test_a_sample_is_even_over_tasks_and_right_or_wrong(tables, scores):
    everything = Counter(map(stratum, examples.sample(tables, scores)["rows"]))
    assert min(everything.values()) < 12 < max(everything.values()) / 5  # they are not even
    actual = examples.sample(tables, scores, max_examples=60)
    drawn = Counter(map(stratum, actual["rows"]))
    assert sum(drawn.values()) == 60
    # No stratum has two more than another, unless the other has given all of its rows.
    for key, count in drawn.items():
        assert all(count <= drawn[o] + 1 or drawn[o] == everything[o] for o in everything), key
    again = examples.sample(tables, scores, max_examples=60)
    assert again == actual
    other = examples.sample(tables, scores, max_examples=60, seed=1)
    assert other != actual


def test_it_ends_at_its_bytes(tables, scores):
    whole = examples.sample(tables, scores)["rows"]
    limit = len(json.dumps(whole)) // 3
    result = examples.sample(tables, scores, max_bytes=limit)["rows"]
    assert 0.7 * limit < len(json.dumps(result)) <= limit * 1.02


def test_rows_hold_what_was_recorded(tables, scores):
    (row,) = [row for row in examples.sample(tables, scores)["rows"] if row["inputs"] == "17"]
    assert row["task"] == "large" and row["example_id"] == "large/test/17"
    assert row["answers"]["b"]["text"] == "b 17" and row["teacher_quality"] == 1.0
    assert row["answers"]["b"]["score"] == scores["b"][17]  # in full: it is compared with τ
    assert row["answers"]["a"]["values"] == [[0.368, 0.577, 0.905], [1.0, 0.55, 0.1]]
    assert row["answers"]["a"]["pieces"] == ["p17.0", "p17.1", "p17.2"]
    assert "pieces" not in row["answers"]["b"]


def test_answers_have_means_and_kurtosis_of_their_probabilities(tables, scores):
    actual = examples.sample(tables, scores)
    assert actual["statistics"] == ["geometric mean", "arithmetic mean", "excess kurtosis"]
    for row in actual["rows"][:30]:
        log_probs = np.linspace(-1, -0.1, 1 + int(row["inputs"]) % 3)
        p = np.exp(log_probs)
        kurtosis = scipy.stats.kurtosis(p) if len(p) > 1 else 0.0
        expected = [np.exp(log_probs.mean()), p.mean(), kurtosis]
        np.testing.assert_allclose(row["answers"]["a"]["statistics"], expected, rtol=6e-3)


def test_long_texts_and_answers_say_what_is_left_out(tmp_path):
    table = write(tmp_path / "a", "a", [True], text=lambda i: "x" * 5000)
    (row,) = examples.sample({"a": table}, {"a": np.zeros(1)})["rows"]
    assert row["answers"]["a"]["values"] == [[0.368], [1.0]]
    assert row["inputs"] == "x" * 4000 + "… (1,000 more characters are in the records)"


def test_what_the_page_escapes_counts(tmp_path):
    tables = {"a": write(tmp_path / "a", "a", np.ones(300), text=lambda i: "<&>" * 200)}
    result = examples.sample(tables, {"a": np.zeros(300)}, max_bytes=100_000)
    size = len(page_data.script_text(result["rows"]))
    assert 90_000 < size <= 100_000
