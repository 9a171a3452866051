"""How a report writes costs, promises and repeated inputs in words."""

import math

from cascade_jax.evaluation.costs import prefix_of, short_label
from cascade_jax.evaluation.policy_points import RiskCheck
from cascade_jax.evaluation.results import Panel
from cascade_jax.text_table import number


def cost_text(panel: Panel, value: float) -> str:
    """A cost in words: ``2.21 MFLOPs per token``."""
    label = short_label(panel.cost_label)
    if not math.isfinite(value):
        return f"{number(value)} {label}"
    scale, prefix = prefix_of(abs(value), panel.cost_unit)
    return f"{value / scale:.3g} {prefix}{label}"


def promise_text(kept: RiskCheck) -> str:
    """A promise and what was measured, in words."""
    verdict = {True: "within", False: "above it", None: "these records can not tell"}
    measured = "" if kept.is_within is None else f"measured {number(kept.measured)}: "
    return f"mean {kept.name} promised ≤ {kept.limit:g}, {measured}{verdict[kept.is_within]}"


def repeats_text(panel: Panel) -> str:
    """How many examples repeat an input, and what intervals draw then; "" if none does."""
    if not panel.num_repeats:
        return ""
    text = f"{panel.num_repeats:,} of the {panel.num_examples:,} examples repeat the input of "
    text += "another one: intervals and p-values "
    if panel.num_inputs == 1:
        return text + "are not defined, as there is one input only."
    return text + f"draw the {panel.num_inputs:,} different inputs, each with all its examples."
