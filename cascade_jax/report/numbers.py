"""How a report writes numbers."""

import html
import math

from cascade_jax.evaluation.comparison import Difference
from cascade_jax.evaluation.costs import SI_UNITS, format_cost, short_label
from cascade_jax.evaluation.policy_points import Kept
from cascade_jax.evaluation.results import Estimate, Panel


def cost(value: float, unit: str = "FLOPs") -> str:
    """A cost with three digits: ``2.21 M`` (FLOPs), ``25 ms``, ``3.4`` (of a currency)."""
    if not math.isfinite(value):
        return number(value)
    if unit not in SI_UNITS:
        return f"{value:.3g}"
    amount, _, prefix = format_cost(value).partition(" ")
    return f"{amount} {prefix}{unit.replace('FLOPs', '')}".strip()


def cost_text(panel: Panel, value: float) -> str:
    """A cost in words: ``2.21 MFLOPs per token``."""
    label = short_label(panel.cost_label)
    if panel.cost_unit not in SI_UNITS or not math.isfinite(value):
        return f"{cost(value, panel.cost_unit)} {label}"
    amount, _, prefix = format_cost(value).partition(" ")
    return f"{amount} {prefix}{label}"


def number(value: float, signed: bool = False) -> str:
    """Three decimals; "–" where undefined, "∞" where unbounded."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    text = f"{value:+.3f}" if signed and value > 0 else f"{value:.3f}"
    return "0.000" if text in ("-0.000", "+0.000") else text


def percent(share: float) -> str:
    """A share in per cent with three digits, e.g. ``31.4 %``, that no line break parts."""
    if math.isnan(share):
        return "–"
    return f"{100 * share:.3g}\N{NO-BREAK SPACE}%"


def kept_text(kept: Kept) -> str:
    """A promise and what was measured, in words."""
    verdict = {True: "within", False: "above it", None: "these records can not tell"}
    measured = "" if kept.is_within is None else f"measured {number(kept.measured)}: "
    return f"mean {kept.name} promised ≤ {kept.limit:g}, {measured}{verdict[kept.is_within]}"


def escaped(value: object) -> str:
    """Text that HTML shows as it is."""
    return html.escape(str(value), quote=True)


def estimate_cell(
    estimate: Estimate, *, is_best: bool = False, cost_unit: str = "", signed: bool = False
) -> str:
    """A table cell of a value over its interval; `cost_unit` says that it is a cost."""

    def show(value: float) -> str:
        return cost(value, cost_unit) if cost_unit else number(value, signed)

    known = not (math.isnan(estimate.low) or math.isnan(estimate.high))
    spread = f"<small>{show(estimate.low)} to {show(estimate.high)}</small>" if known else ""
    return f"<td{' class=best' if is_best else ''}>{show(estimate.value)}{spread}</td>"


def difference_cell(difference: Difference) -> str:
    """A table cell of a difference over its interval and p-value."""
    cell = estimate_cell(Estimate(difference.value, difference.low, difference.high), signed=True)
    p = difference.p_value
    if math.isnan(p):
        return cell
    text = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return cell.replace("</td>", f"<small>{escaped(text)}</small></td>")
