"""Sections of a report about budgets: what was promised and kept, and what live cascades wrote."""

import math
from collections.abc import Mapping

from cascade_jax.deferral.guarantees.bounds import PAPER
from cascade_jax.deferral.guarantees.budget_file import (
    ANSWER,
    COST,
    TOKEN,
    AtAlpha,
    Budget,
    Spread,
    uncertainty_label,
)
from cascade_jax.evaluation.live_cascades import LiveCascade
from cascade_jax.evaluation.policy_points import PolicyPoint
from cascade_jax.evaluation.results import Evaluation
from cascade_jax.report import tables
from cascade_jax.report.numbers import cost as cost_of
from cascade_jax.report.numbers import cost_text, escaped, kept_text, number, percent

PICTURES = {
    "budget": (
        "First what α limits, on the test split: below the dashed line the budget is kept. Others: "
        "mean quality, beside what else costs as much. Bands go from the lowest to the highest "
        "repeat."
    ),
    "live_positions": "Share of the tokens at each position that the large model wrote.",
}
SEARCH_PICTURES = {
    "budget_thresholds": (
        "Every threshold that was tried, on the split that the search used and on the one that it "
        "did not (repeat 0, largest α). Shaded: certified."
    ),
    "budget_search": "Hypervolume of all cost and quality pairs found until then.",
    "budget_positions": "Deferred tokens by their position in the answer, on the test split.",
}


def policies(evaluation: Evaluation) -> list[str]:
    """A box for each certified policy: what it promises, and what it comes to here."""
    return [_policy(evaluation, name, point) for name, point in evaluation.points.items()]


def _policy(evaluation: Evaluation, name: str, point: PolicyPoint) -> str:
    panel = evaluation.pooled
    kind = " broken" * any(kept.is_within is False for kept in point.kept)
    kind += " warned" * bool(point.warnings)
    cost = "" if math.isnan(point.cost) else f" at {cost_text(panel, point.cost)}"
    score = uncertainty_label(point.score) if point.level == TOKEN else point.score
    came_to = (
        f"{name} by its {point.status} policy, {score} > {threshold_text(point.thresholds)}: "
        f"{percent(point.rate)} of the {point.level}s deferred, quality "
        f"{number(point.quality)}{cost}."
    )
    lines = [f"<p>{escaped(came_to)}</p>"]
    for kept in point.kept:
        mark = {True: "✓ ", False: "✗ ", None: ""}[kept.is_within]
        css = {True: "right", False: "wrong", None: "soft"}[kept.is_within]
        lines.append(f'<p class="{css}">{mark}{escaped(kept_text(kept))}</p>')
    lines += [f'<p class="wrong">{escaped(warning)}</p>' for warning in point.warnings]
    lines.append(f'<p class="soft">{escaped(f"{point.promise} ({point.path})")}</p>')
    label = f"Certified policy of {name}"
    return f'<section class="policy{kind}" aria-label="{escaped(label)}">{"".join(lines)}</section>'


def budget(found: Budget) -> list[str]:
    """Head, sentences and table of a calibration; the charts come into ``#budgets``."""
    return [
        '<h2 id="budget">Budgets</h2>',
        f"<p>{escaped(_measured(found))}</p>",
        f'<p class="soft">{escaped(_promised(found))}</p>',
        '<div id="budgets"></div>',
        budget_table(found),
    ]


def _measured(found: Budget) -> str:
    last = found.over_alphas()[-1]
    if math.isnan(last.risk.mean):
        return f"{found.name}: no policy is known to keep α = {last.alpha:g}."
    repeats = f"{found.repeats} repeat{'s' * (found.repeats != 1)} on splits of their own"
    return (
        f"{found.name}, {repeats}: at α = {last.alpha:g} the {found.risk_label} was "
        f"{number(last.risk.mean)}, and within the budget in {percent(last.share_within)} of the "
        "repeats. A test split is itself a sample: it can exceed α by chance where the promise "
        "holds."
    )


def _promised(found: Budget) -> str:
    kept = "cost" if found.promise == COST else f"loss of {found.objective}"
    cost = "answers that the large model gives"
    if found.level == TOKEN:
        cost = f"the {found.max_length} tokens of an answer that the large model writes"
    drop = ""
    if found.quality_drop is not None:
        drop = f", and a mean loss of {found.objective} of at most {found.quality_drop:g}"
    tokens = ", if all tokens were independent" * (found.bound == PAPER)
    return (
        f"A certificate for α promises a mean {kept} of at most α{drop} on new examples, with a "
        f"chance of at least {percent(1 - found.delta)} over the calibration examples{tokens}. "
        f"Cost is the share of {cost}."
    )


def budget_table(budget: Budget) -> str:
    """A row for each α: promised, measured, kept how often, certified how often, and quality."""
    metric, kept = budget.objective, "mean cost" if budget.promise == COST else "mean loss"
    head = ["budget α", f"promised {kept}", f"measured {kept}", "repeats within", "certified"]
    head += ["mean cost"] * (budget.promise != COST) + [metric]
    head += [f"{metric}: {name.replace('_', ' ')}" for name in budget.baselines]
    rows = [_alpha_row(budget, at) for at in budget.over_alphas()]
    ends = [number(end.quality[metric]) for end in (budget.ends.student, budget.ends.teacher)]
    repeats = f"means of {budget.repeats} repeats, small print the lowest and highest; "
    caption = (
        f"Test splits: {repeats * (budget.repeats > 1)}small model alone {ends[0]}, large model "
        f"alone {ends[1]}"
        + "; other ways at equal cost, the oracle within the budget"
        * bool(budget.baselines)
    )
    return tables.table(caption, head, rows)


def _alpha_row(budget: Budget, at: AtAlpha) -> str:
    cells = [
        f'<th scope="row">{at.alpha:g}</th>',
        f"<td>≤ {at.alpha:g}<small>chance ≥ {percent(1 - budget.delta)}</small></td>",
        _spread(at.risk),
        f"<td>{percent(at.share_within)}</td>",
        f"<td>{percent(at.share_certified)}</td>",
        *([_spread(at.cost)] if budget.promise != COST else []),
        _spread(at.quality[budget.objective]),
    ]
    others = [at.baselines[name][budget.objective] for name in budget.baselines]
    return "".join([*cells, *(f"<td>{number(value)}</td>" for value in others)])


def _spread(found: Spread) -> str:
    varies = found.low < found.high
    under = f"<small>{number(found.low)} to {number(found.high)}</small>" * varies
    return f"<td>{number(found.mean)}{under}</td>"


def live(evaluation: Evaluation) -> list[str]:
    """Head and table of cascades that ran live, token by token; charts come into ``#positions``."""
    found = evaluation.live
    lengths = {name: c.max_length for name, c in found.items()}
    text = (
        "Here both models wrote each answer together: the large one a token where the small one "
        "was unsure of its own. Cost is the share of the most tokens that an answer may have "
        f"({', '.join(map(str, dict.fromkeys(lengths.values())))}) that are the large model's."
    )
    unstated = [name for name, c in found.items() if not c.is_length_stated]
    if unstated:
        text += f" Records of {', '.join(unstated)} do not state it: the longest answer's is taken."
    return [
        '<h2 id="live">Token by token</h2>',
        f'<p class="soft">{escaped(text)}</p>',
        live_table(evaluation),
        *([task_table(evaluation)] if evaluation.shows_tasks else []),
        '<div id="positions"></div>',
    ]


def live_table(evaluation: Evaluation) -> str:
    """A row for each live cascade."""
    head = ["cascade", "small model", "live cascade", "large model", "deferred tokens", "cost"]
    head += ["FLOPs per example", "threshold λ"]
    rows = []
    for name, found in evaluation.live.items():
        ends = evaluation.pooled.summaries[name]
        qualities = [ends.student_quality.value, found.quality, ends.teacher_quality.value]
        cells = [*map(number, qualities), percent(found.token_share), number(found.cost)]
        cells += [cost_of(found.flops), threshold_text(found.thresholds)]
        rows.append(
            f'<th scope="row">{escaped(name)}</th>'
            + "".join(f"<td>{escaped(cell)}</td>" for cell in cells)
        )
    caption = f"Mean quality ({evaluation.pooled.metric}), all tasks pooled"
    return tables.table(caption, head, rows)


def task_table(evaluation: Evaluation) -> str:
    """A row for each task and live cascade."""
    rows = []
    for task, panel in evaluation.tasks.items():
        for name, found in evaluation.live.items():
            ends, share = panel.summaries[name], found.task_share.get(task, math.nan)
            live = found.task_quality.get(task, math.nan)
            qualities = [ends.student_quality.value, live, ends.teacher_quality.value]
            cells = [name, panel.metric, *map(number, qualities), percent(share)]
            rows.append(
                f'<th scope="row">{escaped(task)}</th>'
                + "".join(f"<td>{escaped(cell)}</td>" for cell in cells)
            )
    head = ["task", "cascade", "metric", "small model", "live cascade", "large model"]
    table = tables.table("Per task", [*head, "deferred tokens"], rows, "figures")
    return f"<details><summary>Per task</summary>{table}</details>"


def threshold_text(thresholds: tuple[float, ...]) -> str:
    """Thresholds as a report writes them."""
    shown = [f"{v:.4g}".replace("-inf", "−∞").replace("inf", "∞") for v in thresholds]
    return ", ".join(shown) or "–"


def page_points(evaluation: Evaluation) -> dict:
    """What the chart of the pool marks; empty without a policy."""
    found = [
        {
            "name": name,
            "cost": point.cost,
            "rate": point.rate if point.level == ANSWER else None,  # tokens: another axis
            "quality": point.quality,
        }
        for name, point in evaluation.points.items()
    ]
    return {"points": found} if found else {}


def page_data(evaluation: Evaluation) -> dict:
    """What the page draws of budgets and live cascades; empty without either."""
    found: dict = {}
    if evaluation.budget is not None:
        found["budget"] = _budget_data(evaluation.budget)
    if evaluation.live:
        found["live"] = {n: _live_data(live) for n, live in evaluation.live.items()}
    return found


def _budget_data(budget: Budget) -> dict:
    def rounded(value: float) -> float | None:
        return float(f"{value:.6g}") if math.isfinite(value) else None

    def spread(found: Spread) -> list[float | None]:
        return [rounded(value) for value in (found.mean, found.low, found.high)]

    at = budget.over_alphas()
    return {
        "name": budget.name,
        "alphas": list(budget.alphas),
        "repeats": budget.repeats,
        "metrics": [budget.objective, *(m for m in budget.metrics if m != budget.objective)],
        "risk_label": budget.risk_label,
        "risk": [spread(a.risk) for a in at],
        "risks": [[r.alpha, rounded(budget.risk_of(r.test))] for r in budget.runs if r.test],
        "quality": {m: [spread(a.quality[m]) for a in at] for m in budget.metrics},
        "baselines": {
            n: {m: [rounded(a.baselines[n][m]) for a in at] for m in budget.metrics}
            for n in budget.baselines
        },
        "ends": [
            {m: rounded(end.quality[m]) for m in budget.metrics}
            for end in (budget.ends.student, budget.ends.teacher)
        ],
    }


def _live_data(found: LiveCascade) -> Mapping[str, list]:
    shares = [float(f"{value:.4g}") for value in found.by_position]
    return {"by_position": shares, "reached": found.reached.tolist()}
