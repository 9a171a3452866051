"""The claims of the three papers. A new claim is one more entry of `CLAIMS`.

The smallest effects of interest were fixed before a study was run: half a point of quality or of
area, 2 % of the cost, and one point where two figures are claimed to be close.
"""

from cascade_jax.evaluation.claims.claim import (
    ANY,
    CLASSES,
    CLOSE,
    EASY,
    HARD,
    HIGHEST,
    LESS,
    LOWEST,
    TASKS,
    WRITTEN,
    Arm,
    Claim,
    Comparison,
)

POINTS, COST, NEAR = 0.005, 0.02, 0.01
XENT, CAT_XENT, DIST, CAT_DIST = map(Arm, ("xent", "cat_xent", "dist", "cat_dist"))
_OTHER_SCORES = ("minimum", "maximum", "sum", "quantile 0.4", "quantile 0.8")


def _over(name: str, base: str, second: Arm, first: Arm) -> tuple[Claim, ...]:
    """A cascade-aware loss over the one that it is made of: cost, quality and area."""
    return (
        Claim(
            f"{second.loss}_cost",
            f"{name} costs less than {base} at equal quality",
            "CAT, figures 2 and 3",
            (Comparison("cost saved at quality", second, first, smallest=COST),),
        ),
        Claim(
            f"{second.loss}_quality",
            f"{name} has more quality than {base} at equal cost",
            "CAT, figures 2 and 3",
            (Comparison("quality at cost", second, first, smallest=POINTS),),
        ),
        Claim(
            f"{second.loss}_area",
            f"{name} has a larger area under its curve than {base}",
            "CAT, figures 2 and 3",
            (Comparison("area", second, first, smallest=POINTS),),
        ),
    )


def _masks(name: str, union: Arm) -> tuple[Claim, ...]:
    """The union of the two token masks over either: L close to it, S far from it."""
    by_large, by_small = Arm(f"{union.loss}_l"), Arm(f"{union.loss}_s")
    source = "CAT, figure 7"
    return (
        Claim(
            f"{union.loss}_union_best",
            f"{name}: the tokens that either model has right are the best choice",
            source,
            (Comparison("area", union, by_large), Comparison("area", union, by_small)),
        ),
        Claim(
            f"{union.loss}_l_close",
            f"{name}: the large model's tokens alone come close",
            source,
            (Comparison("area", by_large, union, expected=CLOSE, smallest=NEAR),),
        ),
        Claim(
            f"{union.loss}_s_far",
            f"{name}: the small model's tokens alone are far behind",
            source,
            (Comparison("area", by_small, union, expected=LESS, smallest=NEAR),),
        ),
    )


def _average_best(on: str, id: str, where: str) -> Claim:
    """The average against each of the five other rules, for both cascade-aware losses."""
    return Claim(
        id,
        f"The average log-prob is the best of six scores {where}",
        "CAT, figure 6",
        tuple(
            Comparison("area", arm, Arm(arm.loss, score), on=on)
            for arm in (CAT_XENT, CAT_DIST)
            for score in _OTHER_SCORES
        ),
    )


_GAINS = (
    Claim(
        "gains_in_a1",
        "What CAT-Xent gains lies in the answers that the small model keeps (A1), not in A2",
        "CAT, figure 4",
        (
            Comparison("area of A1", CAT_XENT, XENT),
            Comparison("area of A1 − area of A2", CAT_XENT, XENT),
        ),
    ),
    Claim(
        "easy_tasks",
        "CAT-Xent helps easy tasks, and these more than hard ones",
        "CAT, figures 8 to 12",
        (
            Comparison("area", CAT_XENT, XENT, on=EASY, smallest=POINTS),
            Comparison("area", CAT_XENT, XENT, on=EASY, minus_on=HARD),
        ),
    ),
    Claim(
        "hard_tasks",
        "CAT-Xent may hurt hard tasks",
        "CAT, figures 8 to 12",
        (Comparison("area", CAT_XENT, XENT, on=HARD, expected=LESS),),
    ),
)

_EDGE = Arm("xent", "edge_inference")
_ROUTER = (
    Claim(
        "edge_near_on_classes",
        "The EdgeInference router is near the average score where answers are classes",
        "CAT, figure 5",
        (Comparison("area", _EDGE, XENT, on=CLASSES, expected=CLOSE, smallest=NEAR),),
    ),
    Claim(
        "edge_worse_on_written",
        "The EdgeInference router is worse than the average score where answers are written",
        "CAT, figure 5",
        (Comparison("area", _EDGE, XENT, on=WRITTEN, expected=LESS, smallest=POINTS),),
    ),
)

_GATEKEEPER = tuple(
    Claim(
        id,
        sentence,
        "Gatekeeper, figures 4 to 6",
        tuple(
            Comparison(figure, Arm(LOWEST), first, expected=expected)
            for first in (XENT, Arm(HIGHEST))
        ),
    )
    for id, sentence, figure, expected in (
        ("gatekeeper_s_d", "Gatekeeper with a low a defers better (s_d)", "s_d", "greater"),
        ("gatekeeper_s_o", "Gatekeeper with a low a separates right from wrong (s_o)", "s_o", LESS),
        (
            "gatekeeper_price",
            "Gatekeeper pays with quality of the small model alone",
            "small model",
            LESS,
        ),
    )
)

_TOKENS = (
    Claim(
        "tokens_over_answers",
        "Deferring tokens is better than deferring whole answers at equal cost",
        "L2D, figure 1",
        (Comparison("tokens − whole answers", Arm(ANY), smallest=POINTS),),
    ),
    Claim(
        "tokens_over_random",
        "Deferring uncertain tokens is better than deferring random ones at equal cost",
        "L2D, figure 1",
        (Comparison("tokens − random tokens", Arm(ANY), smallest=POINTS),),
    ),
    Claim(
        "certificates",
        "Certificates hold on test rows as often as they promise",
        "L2D, theorem 3.2",
        (Comparison("kept − promised", Arm(ANY)),),
    ),
)

CLAIMS: tuple[Claim, ...] = (
    *_over("CAT-Xent", "Xent", CAT_XENT, XENT),
    *_over("CAT-Dist", "Dist", CAT_DIST, DIST),
    *_masks("CAT-Xent", CAT_XENT),
    *_masks("CAT-Dist", CAT_DIST),
    _average_best("pool", "average_best_on_pool", "on the pool"),
    _average_best(TASKS, "average_best_per_task", "per task"),
    *_GAINS,
    *_ROUTER,
    *_GATEKEEPER,
    *_TOKENS,
)
