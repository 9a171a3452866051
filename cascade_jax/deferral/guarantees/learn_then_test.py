"""Learn then test: thresholds that keep all limits with confidence 1 - δ, and the best of them.

Every configuration (a threshold, or one for each block of positions) has a null hypothesis: "its
mean risk reaches a limit" (`risks`). The accepted configurations are those whose null is
*rejected*, by a procedure that rejects any true null with a chance of δ at most. So all accepted
ones keep their limits at once, and the one with the best objective may be chosen after looking.

Pareto testing uses two splits. The first gives the configurations that no other beats in the means
of the objective and of all risks, in the order of their p-values. The second, which has had no say
in the order, tests them one after the other, each at the whole δ, up to the first that fails. Of
those accepted, the one with the smallest mean objective on the second split is chosen.

Where the second split is costly (both models decode live): `propose`, measure `next_to_test` until
there is none, then `decide`. `calibrate` does all at once.

Reference: Angelopoulos et al. 2021, "Learn then test"; Laufer-Goldshtein et al. 2023, "Efficiently
  controlling multiple risks with Pareto testing"; Budget-Constrained Learning to Defer for
  Autoregressive Models, section 3 and Theorem 3.2.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from cascade_jax.deferral.guarantees import hypotheses, pareto, risks, splits
from cascade_jax.deferral.guarantees.losses import CalibrationLosses
from cascade_jax.deferral.guarantees.risks import CalibrationSettings
from cascade_jax.deferral.policy import Thresholds
from cascade_jax.json_file import Number


@dataclasses.dataclass(frozen=True)
class Candidate:
    """The tests of one configuration.

    Attributes:
      thresholds: one, or one for each block of positions.
      first_p: on the first split, or on all examples where a procedure takes one split.
      second_p: on the second; None where it was not measured there.
      first_risks, second_risks: means, by the name of the risk.
      first_objective, second_objective: means.
      rank: its place among those tested, from 0; None if it was not to be tested.
      is_accepted: whether it is certified.
    """

    thresholds: tuple[Number, ...]
    first_p: Number
    second_p: Number | None
    first_risks: Mapping[str, Number]
    second_risks: Mapping[str, Number] | None
    first_objective: Number
    second_objective: Number | None
    rank: int | None
    is_accepted: bool


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The configurations with their tests, and the one that was chosen.

    Attributes:
      settings: risks and procedure.
      candidates: all configurations, in the order of the first split's.
      chosen: index of the accepted one with the best objective; None if none is accepted.
      num_first, num_second: examples of the splits; 0 for no second.
      examples: ids of each split, by its name.
    """

    settings: CalibrationSettings
    candidates: tuple[Candidate, ...]
    chosen: int | None
    num_first: int
    num_second: int
    examples: Mapping[str, tuple[str, ...]]

    @property
    def accepted(self) -> tuple[int, ...]:
        """Indices of the certified candidates."""
        return tuple(i for i, candidate in enumerate(self.candidates) if candidate.is_accepted)

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """Those of the chosen candidate, else of the fallback; None if there is neither."""
        if self.chosen is not None:
            return self.candidates[self.chosen].thresholds
        fallback = self.settings.fallback()
        if fallback == risks.NO_FALLBACK:
            return None
        return (risks.FALLBACKS[fallback],) * len(self.candidates[0].thresholds)


@dataclasses.dataclass(frozen=True, eq=False)
class Proposal:
    """The tests to make on the second split, from the first.

    Attributes:
      settings: risks and procedure.
      first: losses on the first split.
      p: its p-values, one for each configuration.
      order: indices of the configurations to test, the first first.
    """

    settings: CalibrationSettings
    first: CalibrationLosses
    p: Float[np.ndarray, " C"]
    order: tuple[int, ...]

    @property
    def to_test(self) -> list[Thresholds]:
        """Their thresholds, in the order of the tests."""
        return [self.first.thresholds[index] for index in self.order]


def propose(settings: CalibrationSettings, first: CalibrationLosses) -> Proposal:
    """The first stage of Pareto testing.

    Raises:
      ValueError: losses that are missing or outside their range, fewer than two configurations.
    """
    _check_grid(first)
    p = settings.p_values(first)
    means = [np.mean(first.losses[risk.name], axis=1) for risk in settings.risks]
    objective = first.mean_objective()
    front = np.flatnonzero(pareto.non_dominated(np.stack([objective, *means], axis=1)))
    order = front[np.lexsort((objective[front], p[front]))]
    return Proposal(settings, first, p, tuple(order.tolist()))


def next_to_test(proposal: Proposal, second: CalibrationLosses | None) -> Thresholds | None:
    """The next thresholds to measure on the second split; None when it is done.

    `second` are the losses so far, None at the start.
    """
    if second is None:
        return next(iter(proposal.to_test), None)
    p = proposal.settings.p_values(second)
    for thresholds in proposal.to_test:
        row = second.row_of(thresholds)
        if row is None:
            return thresholds
        if p[row] > proposal.settings.delta:
            break
    return None


def decide(proposal: Proposal, second: CalibrationLosses) -> Calibration:
    """The second stage of Pareto testing.

    Args:
      proposal: from the first split.
      second: losses at the thresholds to test; of others the p-values are reported, but not tested.
        Those after the first that fails may be missing.

    Raises:
      ValueError: splits that share examples, too few examples, losses outside their range,
        thresholds that are missing.
    """
    settings, first = proposal.settings, proposal.first
    splits.check_disjoint({first.split: first.example_ids, second.split: second.example_ids})
    settings.check_enough(second.num_examples, first.num_configurations, second.split)
    missing = next_to_test(proposal, second)
    if missing is not None:
        where = f"at the thresholds {list(missing)}, which are to be tested"
        raise ValueError(f"{second.split!r} was not measured {where}")
    p = settings.p_values(second)
    # None only after the first that fails, where the sequence stops.
    rows = [second.row_of(thresholds) for thresholds in proposal.to_test]
    rows = list(itertools.takewhile(lambda row: row is not None, rows))
    rejected = hypotheses.fixed_sequence(p, settings.delta, rows)
    accepted = [i for i, row in zip(proposal.order, rows, strict=False) if rejected[row]]
    return _calibration(settings, first, proposal.p, proposal.order, accepted, second, p)


def calibrate(
    settings: CalibrationSettings, first: CalibrationLosses, second: CalibrationLosses | None = None
) -> Calibration:
    """The whole procedure, from losses on one split or two.

    Args:
      settings: risks and procedure.
      first: losses on the first split, or on the only one.
      second: on the second split, for Pareto testing. The other procedures take both together,
        with the same thresholds.

    Raises:
      ValueError: losses that are missing or outside their range, splits that share examples, too
        few examples to accept anything, fewer than two configurations.
    """
    if settings.procedure == risks.PARETO_TESTING:
        if second is None:
            raise ValueError(
                f"{settings.procedure!r} needs two splits, one to order and one to test; with one "
                f"take {risks.HOLM!r}, or {risks.FIXED_SEQUENCE!r} if the order is known beforehand"
            )
        return decide(propose(settings, first), second)
    if second is not None:
        splits.check_disjoint({first.split: first.example_ids, second.split: second.example_ids})
        first = first.joined(second)
    _check_grid(first)
    splits.check_disjoint({first.split: first.example_ids})
    settings.check_enough(first.num_examples, first.num_configurations, first.split)
    p = settings.p_values(first)
    order = range(first.num_configurations)
    if settings.procedure == risks.FIXED_SEQUENCE:
        rejected = hypotheses.fixed_sequence(p, settings.delta, order)
    else:
        order = np.argsort(p, kind="stable").tolist()
        test = hypotheses.holm if settings.procedure == risks.HOLM else hypotheses.bonferroni
        rejected = test(p, settings.delta)
    return _calibration(settings, first, p, order, np.flatnonzero(rejected).tolist())


def _calibration(
    settings: CalibrationSettings,
    first: CalibrationLosses,
    first_p: Float[np.ndarray, " C"],
    order: Sequence[int],
    accepted: Sequence[int],
    second: CalibrationLosses | None = None,
    second_p: Float[np.ndarray, " S"] | None = None,
) -> Calibration:
    """Lists all configurations, and chooses among the accepted."""
    objectives = (first.mean_objective(), None if second is None else second.mean_objective())
    ranks = {index: rank for rank, index in enumerate(order)}
    candidates = []
    for i, thresholds in enumerate(first.thresholds):
        row = None if second is None else second.row_of(thresholds)
        is_tested = row is not None and second is not None
        candidates.append(
            Candidate(
                thresholds=thresholds,
                first_p=float(first_p[i]),
                second_p=float(second_p[row]) if is_tested else None,
                first_risks=settings.means(first, i),
                second_risks=settings.means(second, row) if is_tested else None,
                first_objective=float(objectives[0][i]),
                second_objective=float(objectives[1][row]) if is_tested else None,
                rank=ranks.get(i),
                is_accepted=i in accepted,
            )
        )
    return Calibration(
        settings=settings,
        candidates=tuple(candidates),
        chosen=min(accepted, key=lambda i: _preference(candidates[i]), default=None),
        num_first=first.num_examples,
        num_second=0 if second is None else second.num_examples,
        examples={split.split: split.example_ids for split in (first, second) if split is not None},
    )


def _preference(candidate: Candidate) -> tuple[float, ...]:
    """The smaller the better: the objective, and where it is the same the risks."""
    if candidate.second_objective is None:
        return (candidate.first_objective, *candidate.first_risks.values())
    return (candidate.second_objective, *candidate.second_risks.values())


def _check_grid(first: CalibrationLosses) -> None:
    if first.num_configurations < 2:
        measured = f"{first.split!r} was measured at {first.num_configurations}"
        raise ValueError(f"calibration chooses among thresholds and {measured}; give two or more")
