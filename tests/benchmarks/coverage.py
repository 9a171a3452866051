"""How often calibration certifies what does not hold, and what does, on made sequences.

    python tests/benchmarks/coverage.py              # the tables of docs/results/calibration.md
    python tests/benchmarks/coverage.py --repeats=200

One threshold: n = 200 sequences of 20 tokens. A token is deferred with its sequence's chance, which
is Beta-distributed with the true risk as its mean, so that two tokens of a sequence have the given
correlation; 1 stands for whole answers. The cost of a sequence is the share of its tokens that are
deferred. A threshold is certified if p ≤ delta.

Procedures: 20 thresholds, two splits of 200 sequences. A token's uncertainty is even in [0, 1] and
normal within its sequence after the usual map, with the given correlation of the normals; it is
deferred above the threshold, so that the true cost is one minus the threshold. Quality falls with
the threshold, with noise.
"""

import argparse
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import special

sys.path.insert(0, str(Path(__file__).parents[2]))

from cascade_jax.deferral.guarantees import (
    bounds,  # noqa: E402
    learn_then_test,  # noqa: E402
    risks,  # noqa: E402
)
from cascade_jax.deferral.guarantees import losses as measured  # noqa: E402

DELTA, SEQUENCES, TOKENS = 0.1, 200, 20
CORRELATIONS = (0.0, 0.05, 0.2, 0.5)
WHOLE_ANSWERS = 1.0
# True risks, as shares of the budget.
BROKEN, KEPT = (1.0, 1.01), (0.9, 0.8)
# Of 20 thresholds; the twelfth costs the budget exactly.
SHARES = np.linspace(0.45, 1.4, 20)


def allowed(repeats: int) -> float:
    """Delta and three standard errors."""
    return DELTA + 3 * np.sqrt(DELTA * (1 - DELTA) / repeats)


def costs(risk: float, correlation: float, repeats: int, seed: int) -> np.ndarray:
    """Share of tokens deferred, [repeats, sequences]."""
    rng = np.random.default_rng(seed)
    shape = (repeats, SEQUENCES)
    if correlation == WHOLE_ANSWERS:
        return (rng.random(shape) < risk).astype(float)
    if correlation == 0:
        return rng.binomial(TOKENS, risk, shape) / TOKENS
    spread = (1 - correlation) / correlation
    chances = rng.beta(risk * spread, (1 - risk) * spread, shape)
    return rng.binomial(TOKENS, chances) / TOKENS


def certified(budget: float, risk: float, correlation: float, bound: str, repeats: int) -> float:
    """The share of repeats in which the threshold is certified."""
    losses = costs(risk, correlation, repeats, seed=round(1000 * correlation))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bounds.IndependentTokensWarning)
        p = bounds.p_values(losses, budget, bound, delta=DELTA, tokens_per_sequence=TOKENS)
    return float(np.mean(p <= DELTA))


def split(name: str, budget: float, correlation: float, seed: int) -> measured.CalibrationLosses:
    """Costs and losses of quality at 20 thresholds; the true cost is `SHARES` of the budget."""
    rng = np.random.default_rng(seed)
    normal = np.sqrt(correlation) * rng.normal(size=(SEQUENCES, 1))
    normal = normal + np.sqrt(1 - correlation) * rng.normal(size=(SEQUENCES, TOKENS))
    thresholds = 1 - SHARES * budget
    is_deferred = special.ndtr(normal) > thresholds[:, None, None]
    noise = rng.normal(scale=0.1, size=(len(thresholds), SEQUENCES))
    return measured.CalibrationLosses(
        split=name,
        thresholds=thresholds.tolist(),
        losses={"cost": np.mean(is_deferred, axis=2)},
        objective=0.5 * thresholds[:, None] + noise,
        example_ids=[f"{name}/{i}" for i in range(SEQUENCES)],
    )


def procedure_figures(
    budget: float, correlation: float, procedure: str, bound: str, repeats: int
) -> tuple[float, float, float, float]:
    """Shares of repeats, and a cost.

    Returns:
      the share with a wrong certificate (the family-wise error), with a wrong choice, with nothing
      certified; and the mean true cost of the choice, as a share of the budget (0 for nothing).
    """
    tokens = TOKENS if bound == bounds.PAPER else None
    settings = risks.CalibrationSettings(
        [risks.Risk("cost", budget)], DELTA, procedure, bound, tokens_per_sequence=tokens
    )
    broken = SHARES >= 1 - 1e-9
    wrong, wrong_choice, nothing, share = 0, 0, 0, 0.0
    for repeat in range(repeats):
        one, two = (
            split(name, budget, correlation, seed=2 * repeat + i)
            for i, name in enumerate(("one", "two"))
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", bounds.IndependentTokensWarning)
            result = learn_then_test.calibrate(settings, one, two)
        wrong += bool(np.any(broken[list(result.accepted)]))
        if result.chosen is None:
            nothing += 1
        else:
            wrong_choice += bool(broken[result.chosen])
            share += SHARES[result.chosen]
    return wrong / repeats, wrong_choice / repeats, nothing / repeats, share / repeats


def one_threshold_table(budget: float, shares: tuple[float, ...], repeats: int) -> Iterator[str]:
    """Lines of markdown: how often true risks of these shares of the budget are certified."""
    names = {"wsr": "WSR", "hoeffding_bentkus": "HB", "paper": "paper", "binomial": "binomial"}
    heads = [f"{share:g}: {name}" for share in shares for name in names.values()]
    yield "| correlation | " + " | ".join(heads) + " |"
    yield "| --- |" + " --- |" * len(heads)
    for correlation in (*CORRELATIONS, WHOLE_ANSWERS):
        cells = []
        for share in shares:
            for bound in names:
                if bound == bounds.BINOMIAL and correlation != WHOLE_ANSWERS:
                    cells.append("–")
                    continue
                rate = certified(budget, share * budget, correlation, bound, repeats)
                too_often = share >= 1 and rate > allowed(repeats)
                cells.append(f"**{rate:.3f}**" if too_often else f"{rate:.3f}")
        label = "1 (whole answers)" if correlation == WHOLE_ANSWERS else f"{correlation:g}"
        yield f"| {label} | " + " | ".join(cells) + " |"


def procedures_table(budget: float, repeats: int) -> Iterator[str]:
    """Lines of markdown: errors of whole procedures."""
    yield (
        "| correlation | procedure | bound | wrong certificate | wrong choice | nothing certified "
        "| true cost of the choice / budget |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    pairs = [(p, bounds.WSR) for p in ("pareto_testing", "fixed_sequence", "holm", "bonferroni")]
    pairs += [("pareto_testing", bounds.HOEFFDING_BENTKUS), ("pareto_testing", bounds.PAPER)]
    for correlation in (0.2, 0.5):
        for procedure, bound in pairs:
            figures = procedure_figures(budget, correlation, procedure, bound, repeats)
            cells = [f"{value:.3f}" for value in figures]
            if figures[0] > allowed(repeats):
                cells[0] = f"**{cells[0]}**"
            row = " | ".join([f"{correlation:g}", procedure, bound, *cells])
            yield f"| {row} |"


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2000)
    repeats = parser.parse_args().repeats
    print(f"{repeats} repeats; bold: above {allowed(repeats):.3f}, delta and 3 standard errors")
    for budget in (0.2, 0.05):
        for what, shares in (("wrongly certified", BROKEN), ("power", KEPT)):
            print(f"\nOne threshold, budget {budget:g}: {what}, by true risk / budget\n")
            for line in one_threshold_table(budget, shares, repeats):
                print(line, flush=True)
    print("\nProcedures, 20 thresholds, budget 0.2\n")
    for line in procedures_table(0.2, repeats):
        print(line, flush=True)


if __name__ == "__main__":
    main()
