"""Sections of a report on budgets, certified policies and live cascades."""

import math
from collections.abc import Mapping
from html import escape

from cascade_jax.deferral.guarantees.bounds import PAPER
from cascade_jax.deferral.guarantees.budget_file import Budget, Spread, uncertainty_label
from cascade_jax.deferral.guarantees.budget_runs import COST
from cascade_jax.deferral.policy import ANSWER, TOKEN
from cascade_jax.evaluation.costs import format_cost
from cascade_jax.evaluation.live_cascades import LiveCascade
from cascade_jax.evaluation.policy_points import PolicyPoint
from cascade_jax.evaluation.results import Evaluation
from cascade_jax.report.numbers import cost_text, promise_text, threshold_text
from cascade_jax.text_table import Cell, Column, Table, as_html, number, percent

SEARCH_PICTURES = {
    "budget_thresholds": (
        "Every threshold that was tried, on the split that the search used and on the one that it "
        "did not (repeat 0, largest α). Shaded: certified."
    ),
    "budget_search": "Hypervolume of all cost and quality pairs found until then.",
    "budget_positions": "Deferred tokens by their position in the answer, on the test split.",
}


def policies(evaluation: Evaluation) -> list[str]:
    """A box for each certified policy: its promise, and its result on these records."""
    return [_policy(evaluation, name, point) for name, point in evaluation.points.items()]


def _policy(evaluation: Evaluation, name: str, point: PolicyPoint) -> str:
    panel = evaluation.pooled
    kind = " broken" * any(kept.is_within is False for kept in point.kept)
    kind += " warned" * bool(point.warnings)
    cost = "" if math.isnan(point.cost) else f" at {cost_text(panel, point.cost)}"
    score = uncertainty_label(point.score) if point.level == TOKEN else point.score
    result = (
        f"{name} by its {point.status} policy, {score} > {threshold_text(*point.thresholds)}: "
        f"{percent(point.rate)} of the {point.level}s deferred, quality "
        f"{number(point.quality)}{cost}."
    )
    lines = [f"<p>{escape(result)}</p>"]
    for kept in point.kept:
        marks = {True: ("right", "✓ "), False: ("wrong", "✗ "), None: ("soft", "")}
        css, mark = marks[kept.is_within]
        lines.append(f'<p class="{css}">{mark}{escape(promise_text(kept))}</p>')
    lines += [f'<p class="wrong">{escape(warning)}</p>' for warning in point.warnings]
    lines.append(f'<p class="soft">{escape(f"{point.promise} ({point.path})")}</p>')
    label = f"Certified policy of {name}"
    return f'<section class="policy{kind}" aria-label="{escape(label)}">{"".join(lines)}</section>'


def budget(budget: Budget) -> list[str]:
    """Head, sentences and table of a calibration; the charts come into ``#budgets``."""
    return [
        '<h2 id="budget">Budgets</h2>',
        f"<p>{escape(_measured(budget))}</p>",
        f'<p class="soft">{escape(_promised(budget))}</p>',
        '<div id="budgets"></div>',
        as_html(budget_table(budget)),
    ]


def _measured(budget: Budget) -> str:
    last = budget.over_alphas()[-1]
    if math.isnan(last.risk.mean):
        return f"{budget.name}: no policy is known to keep α = {last.alpha:g}."
    repeats = f"{budget.repeats} repeat{'s' * (budget.repeats != 1)} on splits of their own"
    return (
        f"{budget.name}, {repeats}: at α = {last.alpha:g} the {budget.risk_label} was "
        f"{number(last.risk.mean)}, and within the budget in {percent(last.share_within)} of the "
        "repeats. A test split is itself a sample: it can exceed α by chance where the promise "
        "holds."
    )


def _promised(budget: Budget) -> str:
    kept = "cost" if budget.promise == COST else f"loss of {budget.objective}"
    cost = "answers that the large model gives"
    if budget.level == TOKEN:
        cost = f"the {budget.max_length} tokens of an answer that the large model writes"
    drop = ""
    if budget.quality_drop is not None:
        drop = f", and a mean loss of {budget.objective} of at most {budget.quality_drop:g}"
    tokens = ", if all tokens were independent" * (budget.bound == PAPER)
    return (
        f"A certificate for α promises a mean {kept} of at most α{drop} on new examples, with a "
        f"chance of at least {percent(1 - budget.delta)} over the calibration examples{tokens}. "
        f"Cost is the share of {cost}."
    )


def budget_table(budget: Budget) -> Table:
    """A row for each α: promised, measured, kept how often, certified how often, and quality."""
    metric, kept = budget.objective, "mean cost" if budget.promise == COST else "mean loss"
    rows = budget.over_alphas()
    chance = f"chance ≥ {percent(1 - budget.delta)}"
    columns = [
        Column("budget α", [f"{row.alpha:g}" for row in rows]),
        Column(f"promised {kept}", [Cell(f"≤ {row.alpha:g}", note=chance) for row in rows]),
        Column(f"measured {kept}", [_spread(row.risk) for row in rows]),
        Column("repeats within", [row.share_within for row in rows], percent),
        Column("certified", [row.share_certified for row in rows], percent),
    ]
    if budget.promise != COST:
        columns.append(Column("mean cost", [_spread(row.cost) for row in rows]))
    columns.append(Column(metric, [_spread(row.quality[metric]) for row in rows]))
    for name in budget.baselines:
        qualities = [row.baselines[name][metric] for row in rows]
        columns.append(Column(f"{metric}: {name.replace('_', ' ')}", qualities))
    ends = [number(end.quality[metric]) for end in (budget.ends.student, budget.ends.teacher)]
    repeats = f"means of {budget.repeats} repeats, small print the lowest and highest; "
    title = f"Test splits: {repeats * (budget.repeats > 1)}"
    title += f"small model alone {ends[0]}, large model alone {ends[1]}"
    title += "; other ways at equal cost, the oracle within the budget" * bool(budget.baselines)
    return Table(title, columns)


def _spread(spread: Spread) -> Cell:
    ends = (spread.low, spread.high) if spread.low < spread.high else ()
    return Cell(spread.mean, *ends)


def live(evaluation: Evaluation) -> list[str]:
    """Head and table of cascades that ran live, token by token; charts come into ``#positions``."""
    cascades = evaluation.live
    lengths = {name: c.max_length for name, c in cascades.items()}
    text = (
        "Here both models wrote each answer together: the large one a token where the small one "
        "was unsure of its own. Cost is the share of the most tokens that an answer may have "
        f"({', '.join(map(str, dict.fromkeys(lengths.values())))}) that are the large model's."
    )
    by_task = as_html(task_table(evaluation), "figures")
    unstated = [name for name, c in cascades.items() if not c.is_length_stated]
    if unstated:
        text += f" Records of {', '.join(unstated)} do not state it: the longest answer's is taken."
    return [
        '<h2 id="live">Token by token</h2>',
        f'<p class="soft">{escape(text)}</p>',
        as_html(live_table(evaluation)),
        f"<details><summary>Per task</summary>{by_task}</details>" * evaluation.shows_tasks,
        '<div id="positions"></div>',
    ]


def live_table(evaluation: Evaluation) -> Table:
    """A row for each live cascade."""
    rows = evaluation.live.values()
    ends = [evaluation.pooled.summaries[name] for name in evaluation.live]
    return Table(
        f"Mean quality ({evaluation.pooled.metric}), all tasks pooled",
        [
            Column("cascade", list(evaluation.live)),
            Column("small model", [end.student_quality.value for end in ends]),
            Column("live cascade", [row.quality for row in rows]),
            Column("large model", [end.teacher_quality.value for end in ends]),
            Column("deferred tokens", [row.token_share for row in rows], percent),
            Column("cost", [row.cost for row in rows]),
            Column("FLOPs per example", [format_cost(row.flops, "FLOPs") for row in rows]),
            Column("threshold λ", [threshold_text(*row.thresholds) for row in rows]),
        ],
    )


def task_table(evaluation: Evaluation) -> Table:
    """A row for each task and live cascade."""
    rows = [(task, name) for task in evaluation.tasks for name in evaluation.live]
    ends = [evaluation.tasks[task].summaries[name] for task, name in rows]
    live = [(task, evaluation.live[name]) for task, name in rows]
    return Table(
        "Per task",
        [
            Column("task", [task for task, _ in rows]),
            Column("cascade", [name for _, name in rows]),
            Column("metric", [evaluation.tasks[task].metric for task, _ in rows]),
            Column("small model", [end.student_quality.value for end in ends]),
            Column("live cascade", [row.task_quality.get(task, math.nan) for task, row in live]),
            Column("large model", [end.teacher_quality.value for end in ends]),
            Column("deferred tokens", [row.task_share.get(task, math.nan) for task, row in live],
                   percent),
        ],
    )  # fmt: skip


def page_points(evaluation: Evaluation) -> dict:
    """Points marked on the pooled chart; empty without a policy."""
    points = [
        {
            "name": name,
            "cost": point.cost,
            "rate": point.rate if point.level == ANSWER else None,  # tokens: another axis
            "quality": point.quality,
        }
        for name, point in evaluation.points.items()
    ]
    return {"points": points} if points else {}


def page_data(evaluation: Evaluation) -> dict:
    """Data of the charts of budgets and live cascades; empty without either."""
    data: dict = {}
    if evaluation.budget is not None:
        data["budget"] = _budget_data(evaluation.budget)
    if evaluation.live:
        data["live"] = {n: _live_data(live) for n, live in evaluation.live.items()}
    return data


def _budget_data(budget: Budget) -> dict:
    def rounded(value: float) -> float | None:
        return float(f"{value:.6g}") if math.isfinite(value) else None

    def spread(measured: Spread) -> list[float | None]:
        return [rounded(value) for value in (measured.mean, measured.low, measured.high)]

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


def _live_data(live: LiveCascade) -> Mapping[str, list]:
    shares = [float(f"{value:.4g}") for value in live.by_position]
    return {"by_position": shares, "reached": live.reached.tolist()}
