"""Reuses decoded answers across thresholds.

An example has the same answer at any two thresholds that none of its uncertainties lies between. So
a decoded answer is valid for a range of thresholds, and while some examples are decoded at one
threshold, those whose answer there is known are decoded at another.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from cascade_jax.calibration.pool import CascadeAnswers
from cascade_jax.calibration.search import Search
from cascade_jax.deferral.policy import Thresholds
from cascade_jax.parallel import hosts
from cascade_jax.progress import progress_bar

Evaluate = Callable[..., CascadeAnswers]  # `Pool.evaluate`


class Passes:
    """Answers to examples at candidate thresholds, up to one more of each example at a time."""

    def __init__(
        self, evaluate: Evaluate, candidates: Sequence[Thresholds], rows: Int[np.ndarray, " R"]
    ):
        """Starts with no answer known, whatever the pool has kept: passes are always the same."""
        self._evaluate, self._rows = evaluate, rows
        self._candidates = np.asarray(candidates, np.float64)
        ranks = [np.unique(axis, return_inverse=True)[1] for axis in self._candidates.T]
        self._ranks = np.stack(ranks, axis=1)
        self._is_open = np.ones((len(self._candidates), len(rows)), bool)

    @property
    def cost(self) -> float:
        """Answers per example that the next pass decodes: the share of examples that lack any."""
        return float(np.mean(np.any(self._is_open, axis=0)))

    def run(self, candidate: int) -> list[int]:
        """A pass; afterwards all answers at one candidate are known.

        An example that lacks the answer at that candidate is decoded there, and any other at the
        nearest candidate that it lacks.

        Returns:
          Indices of the candidates at which all answers have become known, `candidate` first.
        """
        was_open = np.any(self._is_open, axis=1)
        lacking = np.flatnonzero(np.any(self._is_open, axis=0))
        distance = np.abs(self._ranks - self._ranks[candidate]).sum(axis=1)
        order = np.argsort(distance, kind="stable")
        own = order[np.argmax(self._is_open[np.ix_(order, lacking)], axis=0)]
        answers = self._evaluate(self._candidates[own], self._rows[lacking])
        holds = answers.holds_at(self._candidates[:, None])
        self._is_open[:, lacking] &= ~holds
        self._is_open[own, lacking] = False
        known = np.flatnonzero(was_open & ~np.any(self._is_open, axis=1)).tolist()
        return sorted(known, key=lambda index: index != candidate)


def evaluate_all(
    evaluate: Evaluate, candidates: Sequence[Thresholds], rows: Int[np.ndarray, " R"]
) -> list[CascadeAnswers]:
    """Answers to some examples at all candidates, none decoded twice."""
    passes, left = Passes(evaluate, candidates, rows), dict.fromkeys(range(len(candidates)))
    while left:
        for index in passes.run(next(iter(left))):
            del left[index]
    return [evaluate(thresholds, rows) for thresholds in candidates]


def run_search(
    search: Search, evaluate: Evaluate, rows: Int[np.ndarray, " R"], metric: str
) -> None:
    """Runs a search for mean cost and one minus mean quality.

    An evaluation is a pass: it costs the share of the examples that have to be decoded. Other
    candidates whose answers it makes known become trials of no cost.
    """
    passes = Passes(evaluate, search.candidates, rows)
    shown = {"desc": "searches", "leave": False, "disable": not hosts.is_first()}
    with progress_bar(total=len(search.candidates), unit="threshold", **shown) as bar:
        while (proposed := search.ask(passes.cost)) is not None:
            cost = passes.cost
            for index in passes.run(search.candidates.index(proposed)):
                thresholds = search.candidates[index]
                answers = evaluate(thresholds, rows)
                loss = 1.0 - np.mean(answers.quality[metric])
                search.tell(thresholds, (np.mean(answers.cost), loss), cost)
                bar.update()
                cost = 0.0
