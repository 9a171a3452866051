"""Bayesian search against a whole grid of 400 thresholds, on real decoding.

    python tests/benchmarks/budget_search.py \
      --gin_file=gin/experiments/budget_local.gin --gin.DATA_DIR="'/path/to/data'" \
      --gin.CALIBRATION_LIMIT=70

Both models of the experiment decode CALIBRATION_LIMIT examples a task, and a search may spend what
25 evaluations of all of them take: 25 answers of each example. The hypervolume of mean cost and
mean loss counts, with one reference point: a tenth of the grid's front beyond its nadir.

"passes" is `SEARCH = "bayesian"`: answers are known at all thresholds at which they hold, and none
is decoded twice. "25 thresholds" evaluates as many, whatever is known of others; what the best 25
of the 400 would reach, chosen with the whole grid known, is printed beside. Decodings are kept, so
it can go on. The exit status is 1 if 25 passes, which decode each example 25 times at most, find
less than 99 % of the grid's hypervolume.
"""

import sys

import numpy as np

from cascade_jax.calibration import search
from cascade_jax.calibration.passes import run_search
from cascade_jax.cli import calibrate, gin_config
from cascade_jax.deferral.guarantees import pareto

COUNT, EVALUATIONS, SEEDS = 400, 25, 3
AFTER = (5, 10, 15, 20, 25)


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


def after_passes(result: search.Search, reference: np.ndarray) -> float:
    """Hypervolume of what the first 25 passes have made known."""
    number = np.cumsum([evaluated.cost > 0 for evaluated in result.trials])
    return float(result.hypervolumes(reference)[number <= EVALUATIONS][-1])


def main() -> int:
    """Prints what share of the grid's hypervolume each search reaches."""
    config = gin_config.parse(calibrate.CONFIG, sys.argv[1:])
    pool = config.live.open()
    rows = np.arange(len(pool.ids))
    candidates = pool.values(COUNT, rows)[:, None]
    metric = pool.metrics[0]
    grid, passes = search.GridSearch(candidates), []
    for seed in range(SEEDS):
        passes.append(search.BayesianSearch(candidates, EVALUATIONS, seed=seed))
        run_search(passes[-1], pool.evaluate, rows, metric)
    run_search(grid, pool.evaluate, rows, metric)
    points = {evaluated.thresholds[0]: evaluated.objectives for evaluated in grid.trials}
    reference = pareto.reference_point(grid.objectives())
    whole = pareto.hypervolume(grid.objectives(), reference)

    def after(result: search.Search) -> list[float]:
        reached = result.hypervolumes(reference) / whole
        spent = np.cumsum([evaluated.cost for evaluated in result.trials])
        return [float(reached[spent <= most + 1e-9].max()) for most in AFTER]

    print(
        f"{len(rows)} examples, {COUNT} thresholds, {metric}: the whole grid takes "
        f"{grid.spent:.1f} answers of each example\n\nshare of the grid's hypervolume after "
        f"{', '.join(map(str, AFTER))} answers of each example:",
        flush=True,
    )
    for seed, result in enumerate(passes):
        shown = ", ".join(f"{share:.4f}" for share in after(result))
        print(
            f"passes, seed {seed}: {shown}; after {EVALUATIONS} passes "
            f"{after_passes(result, reference) / whole:.4f}, all 400 known after "
            f"{sum(told.cost > 0 for told in result.trials)}"
        )
    for seed in range(SEEDS):
        alone = search.BayesianSearch(candidates, EVALUATIONS, seed=seed)
        for thresholds in alone:
            alone.tell(thresholds, points[thresholds[0]])
        shown = ", ".join(f"{share:.4f}" for share in after(alone))
        print(f"25 thresholds, seed {seed}: {shown}", flush=True)
    objectives = np.array([points[each] for each in candidates[:, 0].tolist()])
    even = np.linspace(0, COUNT - 1, EVALUATIONS).round().astype(int)
    spread = pareto.hypervolume(objectives[even], reference) / whole
    most = best_of(objectives, reference, EVALUATIONS) / whole
    print(f"{EVALUATIONS} thresholds, even: {spread:.4f}; the best with hindsight: {most:.4f}")
    least = min(after_passes(result, reference) for result in passes)
    return 0 if least >= 0.99 * whole else 1


if __name__ == "__main__":
    sys.exit(main())
