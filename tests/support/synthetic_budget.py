"""A budget file as `cascade-jax calibrate` writes it, of made-up figures."""

import json
from typing import Any

import numpy as np

METRICS = ["rouge1", "rouge2", "rougeL"]
LENGTH = 20
_SCALE = {"rouge1": 1.0, "rouge2": 0.4, "rougeL": 0.8}


def quality_at(cost: float, scale: float = 1.0) -> dict[str, float]:
    """Quality that saturates as more tokens are deferred."""
    share = cost / 0.8
    gained = scale * (1 - (1 - min(share, 1.0)) ** 2)
    return {m: round((0.28 + 0.12 * gained) * f, 4) for m, f in _SCALE.items()}


def make(repeats: int = 5, blocks: int = 1, level: str = "token", **changes: Any) -> dict[str, Any]:
    """All fields of the file; the largest α accepts what costs at most 0.18 on the second split."""
    rng = np.random.default_rng(0)
    alphas = [0.05, 0.1, 0.15, 0.2]
    thresholds = [float("inf"), *np.linspace(4, 0.2, 14).round(2), -float("inf")]
    costs = [0.0, *(0.78 * np.exp(-np.linspace(4, 0.2, 14) / 1.4)), 0.8]
    order = rng.permutation(len(thresholds))
    candidates = []
    for i, (threshold, cost) in enumerate(zip(thresholds, costs, strict=True)):
        shift = 0.01 * rng.normal() * (0 < cost < 0.8)
        second = None if cost > 0.3 else cost + shift
        both = [quality_at(cost), quality_at(cost + shift)]
        shown = {np.inf: "inf", -np.inf: "-inf"}.get(threshold, threshold)
        candidates.append(
            {
                "thresholds": [shown] * blocks,
                "order": int(order[i]),
                "cost": [float(cost), second],
                "quality": {
                    m: [both[0][m], None if second is None else both[1][m]] for m in METRICS
                },
                "hypervolume": float(0.1 * (1 - 0.7 ** (1 + order[i]))),
            }
        )
    accepted = [i for i, c in enumerate(candidates) if c["cost"][1] is not None]
    accepted = [i for i in accepted if candidates[i]["cost"][1] <= 0.18]
    runs = [
        make_run(alpha, repeat, candidates, accepted, rng)
        for alpha in alphas
        for repeat in range(repeats)
    ]
    made = {
        "schema_version": 1,  # so that it may be written without a digest
        "name": "cat",
        "level": level,
        "uncertainty": "log_prob",
        "delta": 0.1,
        "max_length": LENGTH,
        "metrics": METRICS,
        "objective": "rouge1",
        "alphas": alphas,
        "repeats": repeats,
        "candidates": candidates,
        "runs": runs,
        "ends": {
            "student": {"cost": 0, "quality": quality_at(0)},
            "teacher": {"cost": 0.8, "quality": quality_at(0.8)},
        },
        "deferred_by_position": (0.3 * np.exp(-np.arange(LENGTH) / 8)).round(4).tolist(),
        **changes,
    }
    return json.loads(json.dumps(made))


def make_run(alpha, repeat, candidates, accepted, rng) -> dict[str, Any]:
    """One α in one repeat; the smallest α certifies nothing in its last repeat."""
    is_certified = not (alpha == 0.05 and repeat == 4)
    accepted = [i for i in accepted if candidates[i]["cost"][1] <= 0.9 * alpha]
    cost = float(np.clip(alpha * (0.88 + 0.06 * rng.normal()), 0, 1)) if is_certified else 0.0
    run = {
        "alpha": alpha,
        "repeat": repeat,
        "thresholds": candidates[accepted[-1] if is_certified else 0]["thresholds"],
        "certified": is_certified,
        "accepted": accepted if is_certified else [],
        "calibration": {"cost": cost, "quality": quality_at(cost)},
        "test": {"cost": cost, "quality": quality_at(cost), "flops": 1e9 * (1 + 10 * cost)},
        "baselines": {
            "random_tokens": {"cost": cost, "quality": quality_at(cost, 0.3)},
            "whole_answers": {"cost": cost, "quality": quality_at(cost, 0.6)},
            "oracle": {"cost": cost, "quality": quality_at(cost, 1.8)},
        },
    }
    if repeat == 0:
        p = [float(np.exp(-20 * max(alpha - c["cost"][0], 0))) for c in candidates]
        second = [0.02 if i in accepted else v if v < 0.5 else None for i, v in enumerate(p)]
        run["p_values"] = {"first": p, "second": second}
    return run
