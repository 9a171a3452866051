"""Made measurements: thresholds of which the cost falls and the loss of quality rises."""

import numpy as np

from cascade_jax.deferral.guarantees.losses import CalibrationLosses

COST, WORSE = "cost", "worse"


def measured(split, n, seed, thresholds=None, tokens=20, correlation=0.2):
    """A token is deferred where its uncertainty, even in [0, 1], is above the threshold.

    The true mean cost at a threshold is 1 - threshold, the true loss of quality half the threshold.
    """
    thresholds = np.linspace(0.5, 1, 21) if thresholds is None else np.asarray(thresholds)
    rng = np.random.default_rng(seed)
    normal = np.sqrt(correlation) * rng.normal(size=(n, 1))
    normal = normal + np.sqrt(1 - correlation) * rng.normal(size=(n, tokens))
    from scipy import special

    uncertainty = special.ndtr(normal)
    cost = np.mean(uncertainty[None] > thresholds[:, None, None], axis=2)
    noise = rng.uniform(-0.05, 0.05, n)
    worse = 0.5 * np.minimum(thresholds, 1)[:, None] + noise[None]
    return CalibrationLosses(
        split=split,
        thresholds=thresholds.tolist(),
        losses={COST: cost, WORSE: worse},
        objective=worse,
        example_ids=[f"{split}/{i}" for i in range(n)],
    )
