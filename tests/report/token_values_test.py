"""Quantities of tokens: those of the records, those of a user, and their scales."""

import re
import sys
from pathlib import Path

import gin
import numpy as np
import pytest

from cascade_jax.cli import evaluate as evaluate_command
from cascade_jax.cli import gin_config
from cascade_jax.deferral.scores import AnswerTokens
from cascade_jax.evaluation.evaluate import EvaluateConfig, evaluate
from cascade_jax.report import token_values
from cascade_jax.report.token_values import TokenValue
from cascade_jax.report.write import write
from tests.support import student_records

ROOT = Path(__file__).parents[2]

LOG_PROBS = np.log([0.5, 0.25, 1.0])
TOP = np.log([[0.5, 0.3], [0.6, 0.25], [1.0, 1e-9]])


def answers(**more):
    fields = {"entropies": None, "offsets": np.array([0, 2, 3]), **more}
    return AnswerTokens(log_probs=LOG_PROBS, **fields)


def values_of(tokens, more=()):
    return {q.name: values["a"] for q, values in token_values.offered({"a": tokens}, more)}


def test_probabilities_are_always_there_and_others_where_the_records_have_them():
    assert list(values_of(answers())) == ["probability"]
    per_token = {"relevances": np.array([0.1, 0.0, 0.3]), "surface_log_probs": np.log([1, 0.5, 1])}
    tokens = answers(entropies=np.array([1.0, 2.0, 0.0]), top_log_probs=TOP, per_token=per_token)
    expected = {
        "probability": [0.5, 0.25, 1.0],
        "entropy": [1.0, 2.0, 0.0],
        "margin": [0.2, 0.35, 1.0],
        "relevance": [0.1, 0.0, 0.3],
        "surface-form CCP": [1.0, 0.5, 1.0],
    }
    actual = values_of(tokens)
    assert list(actual) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(actual[name], values, atol=1e-8)
    assert "margin" not in values_of(answers(top_log_probs=TOP[:, :1]))


def test_a_column_of_numbers_per_token_needs_no_row():
    per_token = {"my_numbers": np.arange(3.0), "by_layer": np.ones((3, 2))}
    assert list(values_of(answers(per_token=per_token))) == ["probability", "my numbers"]
    with_note = answers(per_token={"self_attention_logs": -np.arange(3.0)})
    (_, (quantity, _)) = token_values.offered({"a": with_note})
    assert "heads" in quantity.note  # what the schema says of the column


def test_what_one_of_two_lacks_is_none_there():
    two = {"a": answers(), "b": answers(entropies=np.ones(3))}
    by_name = dict(token_values.offered(two)[1][1])
    assert by_name["a"] is None and by_name["b"].tolist() == [1, 1, 1]


def surprise(tokens):
    return -tokens.log_probs


def test_a_users_function_is_one_more():
    half = TokenValue("half", lambda tokens: tokens.log_probs / 2, unit="nats", ends=(-1.0, 0.0))
    actual = values_of(answers(), [surprise, half])
    assert list(actual) == ["probability", "surprise", "half"]
    np.testing.assert_array_equal(actual["surprise"], -LOG_PROBS)
    with pytest.raises(ValueError, match="two token values are named 'entropy'"):
        values_of(answers(), [TokenValue("entropy", surprise)])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda tokens: np.ones(2), r"'bad' has the shape \(2,\) for 3 tokens"),
        (
            lambda tokens: np.array([0, np.nan, 1]),
            r"has the bad nan at token 1",
        ),
    ],
)
def test_numbers_that_do_not_fit_are_refused(function, message):
    with pytest.raises(ValueError, match=message):
        values_of(answers(example_ids=["y", "z"]), [TokenValue("bad", function)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": ""}, "name is ''"),
        ({"marked": "top"}, "marked is 'top'; must be 'low' or 'high'"),
        ({"ends": (1.0, 1.0)}, r"ends is \(1.0, 1.0\)"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        TokenValue(**{"name": "x", "values_fn": surprise} | settings)


def test_a_config_refuses_a_class():
    with pytest.raises(ValueError, match="a class needs its brackets"):
        EvaluateConfig("a", "b", token_values=[TokenValue])


def test_scales_span_the_middle_of_the_values_or_their_own_ends():
    values = np.append(np.arange(101.0), 1e6)
    scale = token_values.scale(TokenValue("x", surprise, unit="m", note="n"), values)
    low, high = np.percentile(values, [5, 95])
    assert scale["ends"] == [pytest.approx(low, rel=5e-3), pytest.approx(high, rel=5e-3)]
    assert scale["range"] == [0, 1e6] and scale["marked"] == "high"
    assert scale["unit"] == "m" and scale["note"] == "n"
    scale = token_values.scale(TokenValue("x", surprise, ends=(0, 1), marked="low"), values / 1e6)
    assert scale["ends"] == [0, 1] and scale["marked"] == "low"
    rare = np.zeros(1000)
    rare[3] = 2.0  # the percentiles are both 0
    assert token_values.scale(TokenValue("x", surprise), rare)["ends"] == [0, 2]


def test_a_users_file_as_the_page_of_documentation_has_it(tmp_path, monkeypatch):
    page = (ROOT / "docs/evaluate.md").read_text(encoding="utf-8")
    for name, text in re.findall(r"```\w*\n# (my\w*\.\w+)\n(.*?)```", page, re.S):
        (tmp_path / name).write_text(text)
    file = student_records.write(tmp_path / "a.parquet", "a", 0.4, n=20)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    argv = ["--gin_file=my.gin", f"--gin.RECORDS='{file}'", "--gin.REPORT_DIR='report'"]
    try:
        config = gin_config.parse(evaluate_command.CONFIG, [*argv, "--gin.BOOTSTRAP_SAMPLES=2"])
        write(evaluate(config), config.output_dir)
    finally:
        gin.clear_config(clear_constants=True)
        sys.modules.pop("my_values", None)
    assert '"name":"surprise"' in (tmp_path / "report" / "report.html").read_text("utf-8")
