"""How a report writes costs, promises and repeated inputs in words."""

import math

import numpy as np

from cascade_jax.evaluation.costs import prefix_of, short_label
from cascade_jax.evaluation.policy_points import RiskCheck
from cascade_jax.evaluation.results import Panel
from cascade_jax.text_table import NOT_MEASURED, number


def cost_text(panel: Panel, value: float) -> str:
    """A cost in words: ``2.21 MFLOPs per token``."""
    label = short_label(panel.cost_label)
    if not math.isfinite(value):
        return f"{number(value)} {label}"
    scale, prefix = prefix_of(abs(value), panel.cost_unit)
    return f"{value / scale:.3g} {prefix}{label}"


def threshold_text(*thresholds: float) -> str:
    """Thresholds as one types them: the shortest text of the same float32; "–" for none.

    Example: 0.8455815315246582 gives "0.84558153", with which the same scores are above it.
    """
    with np.errstate(over="ignore"):
        shown = [str(np.float32(value)).removesuffix(".0") for value in thresholds]
    texts = {"inf": "∞", "-inf": "−∞", "nan": NOT_MEASURED}
    return ", ".join(texts.get(text, text) for text in shown) or NOT_MEASURED


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
