"""What `cascade-jax evaluate` and `compare` print."""

import math
import os
from pathlib import Path

from cascade_jax.deferral.guarantees.certificate import ANSWER
from cascade_jax.evaluation.comparison import Difference
from cascade_jax.evaluation.costs import short_label
from cascade_jax.evaluation.policy_points import PolicyPoint
from cascade_jax.evaluation.results import Evaluation, Panel
from cascade_jax.report import numbers
from cascade_jax.text_table import columns


def format_table(evaluation: Evaluation) -> str:
    """The pooled summary as an aligned plain-text table for a terminal."""
    pooled = evaluation.pooled
    label, quality = next(iter(pooled.references.qualities.items()))
    head = [
        "cascade",
        "small model",
        "area",
        *(f"at {100 * r:.0f} %" for r in pooled.references.rates),
    ]
    head += [f"{short_label(pooled.cost_label)} to {quality:.3f}", "s_d"]
    rows = [head]
    for name, summary in pooled.summaries.items():
        values = [summary.student_quality, summary.area, *summary.quality_at_rate]
        row = [name, *(f"{estimate.value:.3f}" for estimate in values)]
        s_d = summary.s_d_ideal.value
        row += [numbers.cost(summary.cost_at_quality[label].value, pooled.cost_unit)]
        rows.append([*row, "–" if math.isnan(s_d) else f"{s_d:.3f}"])
    lines = columns(rows, right=range(1, len(rows[0])))
    lines.insert(1, "-" * max(map(len, lines)))
    teacher = next(iter(pooled.summaries.values())).teacher_quality.value
    title = (
        f"{pooled.title}: {pooled.num_examples:,} examples, quality = {pooled.metric}, "
        f"large model {teacher:.3f}"
    )
    return "\n".join([title, "", *lines])


def below(evaluation: Evaluation, output_dir: str | os.PathLike) -> str:
    """A policy, scores beside the main one, differences to the first cascade, and the report."""
    parts = [_policy(name, point) for name, point in evaluation.points.items()]
    parts += [_scores(evaluation.pooled)] if evaluation.pooled.scores else []
    parts += [_comparison(name, evaluation.pooled) for name in evaluation.pooled.comparisons]
    return "\n\n".join([*parts, f"Open {Path(output_dir) / 'report.html'}"])


def _policy(name: str, point: PolicyPoint) -> str:
    """A certified policy on these records, and whether its promise is kept."""
    what = "answers" if point.level == ANSWER else "tokens"
    lines = [
        f"{name} by {point.path} ({point.status}):",
        f"  {100 * point.rate:.1f} % of {what} deferred, quality {point.quality:.3f}, "
        f"cost {numbers.cost(point.cost)}",
    ]
    lines += [f"  {numbers.kept_text(kept)}" for kept in point.kept]
    return "\n".join(lines + [f"  ! {warning}" for warning in point.warnings])


def _scores(panel: Panel) -> str:
    """Area under the curve of each score, a column for each cascade."""
    rows = [["area by score", *panel.scores]]
    for score in next(iter(panel.scores.values())):
        found = [by_score[score].area.value for by_score in panel.scores.values()]
        rows.append([score, *(f"{area:.3f}" for area in found)])
    return "\n".join(columns(rows, right=range(1, len(rows[0]))))


def _comparison(name: str, panel: Panel) -> str:
    """Whether one cascade is better than the first."""
    found = panel.comparisons[name]
    rows: list[tuple[str, Difference]] = [("area", found.area)]
    points = zip(panel.references.rates, found.at_rate, strict=True)
    rows += [(f"at {100 * rate:.0f} % deferred", difference) for rate, difference in points]
    lines = [f"{name} minus {found.first}:"]
    for label, difference in rows:
        ends = f"[{difference.low:+.3f}, {difference.high:+.3f}]"
        lines.append(f"  {label:<16} {difference.value:+.3f} {ends}  p {difference.p_value:.2g}")
    return "\n".join(lines)
