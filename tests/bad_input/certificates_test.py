"""A certificate that contradicts itself, or that was edited, ends `evaluate` with one line.

Each contradiction by itself is in deferral/guarantees/certificate_test.py, those of budget.json in
budget_file_test.py there.
"""

import json

import pytest

from cascade_jax.cli.main import main
from tests.support import certificates, student_records

DIGITS = "1" + "0" * 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Records, a gin file, and a certificate."""
    result = tmp_path_factory.mktemp("certificates")
    student_records.write(result / "cat.parquet", "cat", 0.4)
    certificates.write(result, 0.65)
    (result / "e.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        "from cascade_jax.evaluation import evaluate\n"
        "POLICY = None\n"
        f"evaluate.EvaluateConfig.records_files = ['{result}/cat.parquet']\n"
        f"evaluate.EvaluateConfig.output_dir = '{result}/report'\n"
        "evaluate.EvaluateConfig.policy = %POLICY\n"
    )
    return result


EDITS = {  # as text, and what the line says
    "another threshold": (
        lambda text: text.replace("0.65", "0.75"),
        "was edited after it",
    ),
    "without a digest": (
        lambda text: json.dumps(
            {name: value for name, value in json.loads(text).items() if name != "digest"}
        ),
        "was edited after it was written: its digest, which every file of its version has, is",
    ),
    "of an earlier version": (
        lambda text: json.dumps(
            {name: value for name, value in json.loads(text).items() if name != "digest"}
            | {"thresholds": [0.75], "schema": 2}
        ),
        "the thresholds [0.75] are not among the candidates that are certified; take the file as "
        "`cascade-jax calibrate` wrote it, or calibrate again",
    ),
    "a number of 400 digits": (
        lambda text: text.replace("0.01", DIGITS, 1),
        "holds the number 10000000000000000000... of 401 characters; must be in the range",
    ),
    "a key twice": (
        lambda text: text.replace("{", '{"delta": 0.5,', 1),
        'has the key "delta" twice in one object',
    ),
    "depth": (
        lambda text: text.replace("0.65", "[" * 2000 + "]" * 2000, 1),
        "nested too deeply to be read",
    ),
    "cut": (lambda text: text[: len(text) // 2], "not JSON ("),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_certificate_ends_in_one_line(folder, tmp_path, capsys, name):
    change, said = EDITS[name]
    policy = tmp_path / "certificate.json"
    policy.write_text(change((folder / "certificate.json").read_text()))
    assert main(["evaluate", f"--gin_file={folder}/e.gin", f"--gin.POLICY='{policy}'"]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"cascade-jax evaluate: {policy}: ") and line.count("\n") == 1
    assert said in line and len(line) < 500
    assert not (folder / "report").exists()
