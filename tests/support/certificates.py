"""Certificates as `cascade-jax calibrate` writes them, of made-up calibrations."""

from pathlib import Path

from cascade_jax import json_file
from cascade_jax.deferral.guarantees.certificate import (
    CERTIFIED,
    Certificate,
    DataIdentity,
    ModelIdentity,
)
from cascade_jax.deferral.guarantees.learn_then_test import Candidate
from cascade_jax.deferral.guarantees.risks import Risk

COST, LOSS = "share of deferred answers", "loss of quality against the large model"


def make(threshold=0.5, level="answer", score="average", limits=None, **changes) -> Certificate:
    """A certificate of one threshold for limits by the name of a risk."""
    thresholds = (threshold,) if isinstance(threshold, float) else tuple(threshold)
    limits = {COST: 0.4} if limits is None else limits
    result = [
        Risk(name, limit, -1.0 if name == LOSS else 0.0, 1.0) for name, limit in limits.items()
    ]
    candidates = tuple(
        Candidate(at, 0.01, 0.02, {}, {}, 0.3, 0.3, i, True)
        for i, at in enumerate([thresholds, tuple(value + 1 for value in thresholds)])
    )
    fields = {
        "promise": "On new examples, a promise.",
        "status": CERTIFIED,
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
        "num_first": 200,
        "num_second": 200,
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
