"""Bayesian search against a whole grid of 400 thresholds, on real decoding.

    python tests/benchmarks/budget_search.py \
      --gin_file=gin/experiments/budget_local.gin --gin.DATA_DIR="'/path/to/data'" \
      --gin.CALIBRATION_LIMIT=70

Both models of the experiment decode CALIBRATION_LIMIT examples a task at all 400 thresholds, as
SEARCH = "grid" does; how many answers that takes is printed. Then a search evaluates 25 of them.
The hypervolume of mean cost and mean loss counts, with one reference point: a tenth of the grid's
front beyond its nadir. What 25 thresholds can reach at all is printed beside: the best of them,
chosen with the whole grid known. Decodings are kept, so it can go on.
"""

import sys

import numpy as np

from cascade_jax.cli import calibrate, gin_main
from cascade_jax.deferral import pareto, search

COUNT, EVALUATIONS, SEEDS = 400, 25, 3


def best_of(points: np.ndarray, reference: np.ndarray, count: int) -> float:
    """The largest hypervolume that `count` of the points have, by dynamic programming."""
    points = points[np.all(points < reference, axis=1)]
    front = np.unique(points[pareto.non_dominated(points)], axis=0)
    # From the right: a point counts from its own cost up to that of the next one that is taken.
    edges, heights = np.append(front[:, 0], reference[0]), reference[1] - front[:, 1]
    best = np.zeros(len(front) + 1)  # of what begins at each point, the first taken there
    for _ in range(count):
        following = np.full(len(front) + 1, 0.0)
        for i in range(len(front)):
            widths = edges[i + 1 :] - edges[i]
            following[i] = np.max(widths * heights[i] + best[i + 1 :])
        best = following
    return float(best.max())


def main() -> None:
    """Prints what share of the grid's hypervolume the search reaches."""
    config = gin_main.parse(calibrate.CONFIG, sys.argv[1:])
    pool = config.live.open()
    rows = np.arange(len(pool.ids))
    candidates = pool.values(COUNT, rows)[:, None]
    metric = pool.metrics[0]

    def objectives(thresholds):
        found = pool.evaluate(thresholds)
        return float(np.mean(found.cost)), 1.0 - float(np.mean(found.quality[metric]))

    pool.prepare([tuple(each) for each in candidates.tolist()])
    grid = np.array([objectives(tuple(each)) for each in candidates])
    print(f"the whole grid took {pool.decoded / len(rows):.1f} answers of each example")
    reference = pareto.reference_point(grid)
    whole = pareto.hypervolume(grid, reference)
    most = best_of(grid, reference, EVALUATIONS) / whole
    even = np.linspace(0, COUNT - 1, EVALUATIONS).round().astype(int)
    spread = pareto.hypervolume(grid[even], reference) / whole
    print(
        f"{len(rows)} examples, {COUNT} thresholds, {metric}; hypervolume as a share of the whole "
        f"grid's: the best {EVALUATIONS} of its points {most:.4f}, every "
        f"{round(COUNT / EVALUATIONS)}th of them {spread:.4f}",
        flush=True,
    )
    for seed in range(SEEDS):
        found = search.BayesianSearch(candidates, EVALUATIONS, seed=seed)
        for thresholds in found:
            found.tell(thresholds, objectives(thresholds))
        reached = found.hypervolumes(reference) / whole
        after = ", ".join(f"{reached[i - 1]:.4f}" for i in (5, 10, 15, 20, 25))
        print(f"seed {seed}: after 5, 10, 15, 20, 25 evaluations {after}", flush=True)


if __name__ == "__main__":
    main()
