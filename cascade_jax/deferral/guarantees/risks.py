"""Risks with their limits, and the settings of a calibration.

With several risks the null hypothesis of a configuration is "some limit is broken", and its p-value
the largest of the risks' own (intersection-union): where the null is true, that of some risk is,
and the largest p-value is at most u only if that risk's is, with a chance of u at most. So no
correction for the number of risks is needed.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from cascade_jax.deferral.guarantees import bounds
from cascade_jax.deferral.guarantees.losses import CalibrationLosses
from cascade_jax.names import check_choice

PARETO_TESTING, FIXED_SEQUENCE = "pareto_testing", "fixed_sequence"
HOLM, BONFERRONI = "holm", "bonferroni"
PROCEDURES = (PARETO_TESTING, FIXED_SEQUENCE, HOLM, BONFERRONI)
NEVER_DEFER, ALWAYS_DEFER, NO_FALLBACK = "never_defer", "always_defer", "none"
FALLBACKS = {NEVER_DEFER: math.inf, ALWAYS_DEFER: -math.inf}


@dataclasses.dataclass(frozen=True)
class Risk:
    """A mean loss that is to stay below a limit.

    Attributes:
      name: for tables and the promise: "share of tokens deferred".
      limit: the budget, strictly between `lower` and `upper`.
      lower, upper: the range of one example's loss; -1 and 1 for paired differences, "how much
        worse than the large model's answer".
      fallback: the policy whose loss is never above 0 and so within any limit from 0 on:
        "never_defer" for a cost, "always_defer" for a loss against the large model, "none" for a
        risk that no policy trivially keeps.
    """

    name: str
    limit: float
    lower: float = 0.0
    upper: float = 1.0
    fallback: str = NEVER_DEFER

    def __post_init__(self):
        if not self.name:
            raise ValueError("a risk needs a name")
        bounds.check_limit(self.limit, self.lower, self.upper)
        check_choice(f"the fallback of {self.name!r}", self.fallback, (*FALLBACKS, NO_FALLBACK))
        if self.limit < 0 and self.fallback != NO_FALLBACK:
            raise ValueError(
                f"the limit of risk {self.name!r} is {self.limit}: no policy keeps a limit below 0 "
                f"trivially; give fallback={NO_FALLBACK!r}"
            )


@dataclasses.dataclass(frozen=True)
class CalibrationSettings:
    """The risks to control, and the procedure.

    Attributes:
      risks: all of which the chosen configuration must keep.
      delta: the chance that it does not, at most.
      procedure: "pareto_testing" (two splits), or of one split, or of two taken together,
        "fixed_sequence" (in the order of the configurations, which must be chosen beforehand: from
        the safest, say), "holm" and "bonferroni".
      bound: see `bounds`.
      tokens_per_sequence: for the bound "paper".
    """

    risks: Sequence[Risk]
    delta: float = 0.1
    procedure: str = PARETO_TESTING
    bound: str = bounds.WSR
    tokens_per_sequence: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "risks", tuple(self.risks))
        names = [risk.name for risk in self.risks]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"calibration needs one risk or more, of different names, got {names}")
        bounds.check_level(self.delta)
        check_choice("bound", self.bound, bounds.BOUNDS)
        for risk in self.risks if self.bound == bounds.PAPER else ():
            bounds.checked_tokens(self.tokens_per_sequence)
            if risk.lower < 0:
                raise ValueError(
                    f"the bound {bounds.PAPER!r} counts deferred tokens, and a loss of "
                    f"{risk.name!r} is a difference in [{risk.lower:g}, {risk.upper:g}]; give "
                    f"{bounds.WSR!r} or {bounds.HOEFFDING_BENTKUS!r}"
                )
        check_choice("procedure", self.procedure, PROCEDURES)

    def first_level(self, num_configurations: int) -> float:
        """The level of the smallest p-value, above which nothing is accepted."""
        corrected = self.procedure in (HOLM, BONFERRONI)
        return self.delta / num_configurations if corrected else self.delta

    def check_enough(self, num_examples: int, num_configurations: int, split: str) -> None:
        """Refuses a split too small for anything to be accepted; call it before decoding.

        Args:
          num_examples: of the split that is tested on: the second of Pareto testing, or all.
          num_configurations: how many thresholds there are.
          split: its name.

        Raises:
          ValueError: the smallest number that could do.
        """
        level = self.first_level(num_configurations)
        for risk in self.risks:
            needed = bounds.smallest_n(
                risk.limit, level, self.bound, risk.lower, risk.upper, self.tokens_per_sequence
            )
            if num_examples < needed:
                corrected = f" / {num_configurations}" * (level < self.delta)
                could = f"{needed:,} could" if needed < 10_000 else f"it takes {needed:,} or more"
                raise ValueError(
                    f"{split!r} has {num_examples} examples, too few to certify any threshold for "
                    f"{risk.name!r} ≤ {risk.limit} at delta = {self.delta}{corrected} with the "
                    f"bound {self.bound!r}: {could}, if every loss were {risk.lower}"
                )

    def fallback(self) -> str:
        """The policy that trivially keeps every limit; "none" if there is none."""
        fallbacks = {risk.fallback for risk in self.risks}
        return fallbacks.pop() if len(fallbacks) == 1 else NO_FALLBACK

    def means(self, losses: CalibrationLosses, row: int) -> dict[str, float]:
        """Mean losses of a configuration, by the risks' names."""
        return {risk.name: float(np.mean(losses.losses[risk.name][row])) for risk in self.risks}

    def p_values(self, losses: CalibrationLosses) -> Float[np.ndarray, " C"]:
        """The largest of the risks' p-values, for each configuration."""
        level = self.first_level(losses.num_configurations)
        by_risk = [
            bounds.p_values(
                losses.losses_of(risk.name, risk.lower, risk.upper), risk.limit, self.bound,
                risk.lower, risk.upper, level, self.tokens_per_sequence,
            )
            for risk in self.risks
        ]  # fmt: skip
        return np.max(by_risk, axis=0)
