"""What `cascade-jax evaluate` and `compare` print below their table."""

import os
from pathlib import Path

from cascade_jax.evaluation.comparison import Difference
from cascade_jax.evaluation.results import Evaluation, Panel


def below(evaluation: Evaluation, output_dir: str | os.PathLike) -> str:
    """Scores beside the main one, differences to the first cascade, and where the report is."""
    parts = [_scores(evaluation.pooled)] if evaluation.pooled.scores else []
    parts += [_comparison(name, evaluation.pooled) for name in evaluation.pooled.comparisons]
    return "\n\n".join([*parts, f"Open {Path(output_dir) / 'report.html'}"])


def _scores(panel: Panel) -> str:
    """Area under the curve of each score, a column for each cascade."""
    title, names = "area by score", list(panel.scores)
    widths = [max(len(name), 5) for name in names]
    first = max(len(title), *(len(score) for score in panel.scores[names[0]]))
    lines = [title.ljust(first) + "".join(f"  {name:>5}" for name in names)]
    for score in panel.scores[names[0]]:
        areas = [panel.scores[name][score].area.value for name in names]
        cells = (f"  {area:>{width}.3f}" for area, width in zip(areas, widths, strict=True))
        lines.append(score.ljust(first) + "".join(cells))
    return "\n".join(lines)


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
