"""How often 95 % intervals over seeds and examples hold the true effect, by how they are made.

    python tests/benchmarks/claims_coverage.py               # the table of docs/evaluate.md
    python tests/benchmarks/claims_coverage.py --repeats=200

Means: on seed k and example i the two losses differ by ``mu + s_k + e_i + w_ki``, all normal, with
300 examples; the row says the standard deviations of what a study's mean has of each for one seed,
in hundredths. Areas: the area under the deferral curve of one small model minus that of another, on
400 examples; seeds differ in quality and in how well the score tells errors.

Every study has 3 or 5 seeds, the same examples for all of them, and 400 draws. In brackets the
mean width over that of the intervals of `effects`. The exit status is 1 where these hold the true
effect in fewer than 95 %, less three standard errors.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[2]))

from cascade_jax.evaluation import bootstrap, curves  # noqa: E402
from cascade_jax.evaluation.claims import effects, figures  # noqa: E402

SEEDS, EXAMPLES, DRAWS, TAIL = (3, 5), 300, 400, 0.025
# Of seeds, of examples in all seeds, and of examples in one seed.
SPREADS = ((1, 0, 0), (1, 0.3, 0.3), (1, 1, 0.5), (0.3, 1, 0.3), (0, 1, 1), (0, 0, 1))
OURS = "t² V₁ + z² V₂"


def normal(values: np.ndarray) -> tuple[float, float]:
    """Ends of a percentile interval."""
    low, high = np.quantile(values, [TAIL, 1 - TAIL])
    return float(low), float(high)


def intervals(values: np.ndarray, rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """Every candidate's interval of the mean over seeds, from [seeds, 1 + draws]."""
    count, mean, draws = len(values), float(values[:, 0].mean()), values[:, 1:]
    effect = effects.over_seeds(list(values))
    drawn = rng.integers(count, size=(DRAWS, count))
    both = draws[drawn, np.arange(DRAWS)[:, None]].mean(axis=1)
    total = effect.between + effect.shared
    freedom = total**2 / (effect.between**2 / (count - 1) + effect.shared**2 / EXAMPLES)
    halves = {
        "Student, seeds alone": stats.t.isf(TAIL, count - 1) * effect.between**0.5,
        "Satterthwaite": stats.t.isf(TAIL, freedom) * total**0.5,
    }
    return {
        "percentile, examples alone": normal(draws.mean(axis=0)),
        "percentile, seeds and examples": normal(both),
        **{name: (mean - half, mean + half) for name, half in halves.items()},
        OURS: effect.interval,
    }


def means(count: int, spreads: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    """A study of means whose true effect is 0: effects of each seed [seeds, 1 + draws]."""
    of_seed, shared, own = (0.01 * spread for spread in spreads)
    root = EXAMPLES**0.5
    difference = rng.normal(0, of_seed, (count, 1)) + rng.normal(0, shared * root, EXAMPLES)
    difference = difference + rng.normal(0, own * root, (count, EXAMPLES))
    drawn = rng.multinomial(EXAMPLES, np.full(EXAMPLES, 1 / EXAMPLES), size=DRAWS)
    return np.hstack([difference.mean(axis=1, keepdims=True), difference @ drawn.T / EXAMPLES])


def areas(count: int, size: int, rng: np.random.Generator, draws: int = DRAWS) -> np.ndarray:
    """A study of areas under deferral curves; the true effect is the mean of many."""
    hardness = rng.normal(size=size)
    large = (hardness + rng.normal(size=size) < 1.0).astype(float)
    counts = np.ones((size, 1 + draws), np.uint8)
    counts[:, 1:] = rng.multinomial(size, np.full(size, 1 / size), size=draws).T
    effect = np.zeros((count, 1 + draws))
    for seed in range(count):
        for sign, skill, noise in ((1, 0.15, 0.6), (-1, 0.0, 0.8)):
            shift = skill + rng.normal(0, 0.05)
            small = (hardness + rng.normal(size=size) < shift).astype(float)
            score = hardness + rng.normal(size=size) * noise * np.exp(rng.normal(0, 0.1))
            order, ends = curves.deferral_order(score)
            columns = np.stack([np.ones(size), large - small, small])
            nodes = bootstrap.thinned(ends, 100)
            curve = figures.sampled_curve(counts, columns, order, nodes)
            effect[seed] += sign * figures.area(curve)
    return effect


def share_within(studies, truth: float, rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """Of each candidate, how many intervals hold the truth, and their mean width."""
    within: dict[str, list[bool]] = {}
    widths: dict[str, list[float]] = {}
    for study in studies:
        for name, (low, high) in intervals(study, rng).items():
            within.setdefault(name, []).append(low <= truth <= high)
            widths.setdefault(name, []).append(high - low)
    return {name: (float(np.mean(within[name])), float(np.mean(widths[name]))) for name in within}


def main() -> int:
    """Prints a row for each kind of study."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=1500, help="studies of a row (areas: a 4th)")
    repeats = parser.parse_args().repeats
    rng, failed, head = np.random.default_rng(0), False, True
    truth = float(np.mean([areas(50, 20_000, rng, 1)[:, 0].mean() for _ in range(20)]))
    for count in SEEDS:
        kinds = [(f"means {spreads}", repeats, spreads) for spreads in SPREADS]
        for name, number, spreads in [*kinds, ("areas", max(1, repeats // 4), None)]:
            if spreads:
                made, true = (means(count, spreads, rng) for _ in range(number)), 0.0
            else:
                made, true = (areas(count, 400, rng) for _ in range(number)), truth
            shares = share_within(made, true, rng)
            if head:
                print("| seeds | study |", " | ".join(shares), "|")
                print("| --- " * (2 + len(shares)) + "|")
                head = False
            ours = shares[OURS][1]
            cells = [f"{100 * share:.1f} ({width / ours:.2f})" for share, width in shares.values()]
            print(f"| {count} | {name} |", " | ".join(cells), "|", flush=True)
            failed |= shares[OURS][0] < 0.95 - 3 * (0.95 * 0.05 / number) ** 0.5
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
