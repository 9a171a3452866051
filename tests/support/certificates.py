"""Certificates as `cascade-jax calibrate` writes them, of made-up calibrations."""

from pathlib import Path

from cascade_jax import json_file
from cascade_jax.deferral.guarantees.certificate import (
    CERTIFIED,
    Certificate,
    DataIdentity,
    ModelIdentity,
    promise,
)
from cascade_jax.deferral.guarantees.learn_then_test import Candidate
from cascade_jax.deferral.guarantees.risks import CalibrationSettings, Risk

COST, LOSS = "share of deferred answers", "loss of quality against the large model"


def make(threshold=0.5, level="answer", score="average", limits=None, **changes) -> Certificate:
    """A certificate of one threshold for limits by the name of a risk."""
    thresholds = (threshold,) if isinstance(threshold, float) else tuple(threshold)
    limits = {COST: 0.4} if limits is None else limits
    result = [
        Risk(name, limit, -1.0, 1.0, "always_defer") if name == LOSS else Risk(name, limit)
        for name, limit in limits.items()
    ]
    status = changes.get("status", CERTIFIED)
    means = {risk.name: risk.lower / 2 for risk in result}
    p = 0.02 if status == CERTIFIED else 0.9
    first = thresholds or (0.5,)
    candidates = tuple(
        Candidate(at, 0.01, p, means, means, 0.3, 0.3, i, status == CERTIFIED)
        for i, at in enumerate(
            [first, tuple(value + 1 if abs(value) < 1e9 else 0.0 for value in first)]
        )
    )
    num_examples = len(changes.get("seen", ())) or 4000
    settings = CalibrationSettings(result)
    fields = {
        "promise": promise(settings, status),
        "status": status,
        "level": level,
        "score": score,
        "thresholds": thresholds,
        "block_length": 5 if len(thresholds) > 1 else None,
        "risks": tuple(result),
        "delta": 0.1,
        "procedure": "pareto_testing",
        "bound": "wsr",
        "tokens_per_sequence": None,
        "objective": "quality",
        "num_first": num_examples // 2,
        "num_second": num_examples // 2,
        "candidates": candidates,
        "models": {"student": ModelIdentity(), "teacher": ModelIdentity()},
        "data": DataIdentity(mixture="demo", split="validation"),
        "splits": {"first": "0" * 32, "second": "1" * 32, "test": "2" * 32},
        "seen": (),
    }
    return Certificate(**(fields | changes))


def write(folder: Path, *args, **changes) -> str:
    """A certificate on disk."""
    path = folder / "certificate.json"
    make(*args, **changes).save(path)
    return str(path)


def as_policy(result: Certificate) -> dict:
    """As the metadata of records hold it."""
    return json_file.to_values(result)
