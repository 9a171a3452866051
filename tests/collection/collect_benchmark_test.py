"""The benchmark of collect on tiny models: every answer is checked against the row alone."""

import pytest

from tests.benchmarks import collect

# The answers are compared with those of rows alone in engine_test.py and rank_test.py too.
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("model", ["t5", "smollm2"])
def test_it_runs_and_all_answers_are_right(model, capsys):
    arguments = ["--tiny", "--model", model, "--peers", "before", "--alone", "100"]
    assert collect.main(arguments) == 0
    text = capsys.readouterr().out
    assert "| tiny | ours |" in text and "| tiny | before |" in text
    assert "16 of 16 answers are those of the row decoded alone" in text
