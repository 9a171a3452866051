"""How much hypervolume Bayesian optimisation finds of made curves of cost and quality.

    python tests/benchmarks/search_curves.py

25 evaluations out of 400 thresholds: the share of the hypervolume of all 400 that they find, beside
25 that are evenly spaced, and the best 25 of all (which a search can't know). The reference point
is a tenth beyond the nadir.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from cascade_jax.calibration import search  # noqa: E402
from cascade_jax.deferral.guarantees import pareto  # noqa: E402


def schaffer_1(x):
    """Schaffer's first: the front is 0 ≤ x ≤ 2 of -10 to 10."""
    return np.stack([x**2, (x - 2) ** 2], axis=-1)


def sigmoid(x, centre, width):
    return 1 / (1 + np.exp(-(x - centre) / width))


def cost_and_loss(x):
    """As of deferral: the cost falls with the threshold, then the loss of quality rises."""
    return np.stack([sigmoid(-x, -0.3, 0.05), 0.5 + 0.3 * sigmoid(x, 0.5, 0.1)], axis=-1)


def cheap_soon(x):
    """A sharp bend, and all of it in the lowest quarter of the range."""
    return np.stack([np.exp(-24 * x), 0.5 + 0.3 * np.minimum(1, 4 * x) ** 2.5], axis=-1)


def waves(x):
    """The loss of quality goes up and down, so that the front is in pieces."""
    return np.stack([(1 - x) ** 2, 0.5 + 0.3 * x + 0.1 * np.sin(6 * np.pi * x)], axis=-1)


def stairs(x):
    """As of few examples: both objectives change in steps."""
    return np.stack([np.ceil(20 * np.exp(-6 * x)) / 20, 0.5 + np.floor(15 * x**2.5) / 50], axis=-1)


def schaffer_2(x):
    """Schaffer's second: the front is in two pieces, 1 < x < 2 and 4 < x < 5 of -5 to 10."""
    first = np.select([x <= 1, x <= 3, x <= 4], [-x, x - 2, 4 - x], x - 4)
    return np.stack([first, (x - 5) ** 2], axis=-1)


def nearly_straight(x):
    """Every evaluation is on the front, and worth as much."""
    return np.stack([1 - x, 0.5 + 0.3 * x**1.2], axis=-1)


CURVES = {
    cheap_soon: (0.0, 1.0), waves: (0.0, 1.0), stairs: (0.0, 1.0), cost_and_loss: (0.0, 1.0),
    schaffer_1: (-10.0, 10.0), schaffer_2: (-5.0, 10.0), nearly_straight: (0.0, 1.0),
}  # fmt: skip


def best_of(number, points, reference):
    """The largest hypervolume of so many of the points: exact, by the last one and their number."""
    front = np.unique(points[pareto.non_dominated(points)], axis=0)
    right, y = reference[0] - front[:, 0], front[:, 1]
    best = right * (reference[1] - y)
    for _ in range(number - 1):
        more = best[:, None] + right * (y[:, None] - y)
        more[np.tril_indices(len(y))] = -np.inf
        best = np.maximum(best, more.max(axis=0))
    return best.max()


def main() -> None:
    """Prints the table."""
    print("| curve | evenly spaced | Bayesian | best possible | evaluations to 99 % |")
    print("| --- | --- | --- | --- | --- |")
    for function, (low, high) in CURVES.items():
        grid = np.linspace(low, high, 400)[:, None]
        points = function(grid[:, 0])
        reference = pareto.reference_point(points)
        whole = pareto.hypervolume(points, reference)
        result = search.BayesianSearch(grid, 25)
        for thresholds in result:
            result.tell(thresholds, function(np.array(thresholds[0])))
        shares = result.hypervolumes(reference) / whole
        evenly = points[np.linspace(0, 399, 25).astype(int)]
        cells = [
            pareto.hypervolume(evenly, reference) / whole, shares[-1],
            best_of(25, points, reference) / whole,
        ]  # fmt: skip
        enough = np.flatnonzero(shares >= 0.99)
        cells = [f"{value:.2%}" for value in cells] + [str(enough[0] + 1) if len(enough) else "–"]
        print(f"| {function.__name__} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
