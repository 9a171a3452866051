"""Search for thresholds: a whole grid, or Bayesian optimisation.

Ask and tell: a search proposes thresholds, and gets the two objectives measured there (mean cost
and one minus mean quality, say; both are to be small).

    search = BayesianSearch(score_quantiles(scores), max_evaluations=25)
    for thresholds in search:
        search.tell(thresholds, measure(thresholds))
    front = search.front()

An evaluation may cost less than a whole one, or nothing: examples whose answer at these thresholds
is known from others need not be decoded again. `tell` takes its cost, and `max_evaluations` limits
the sum of the costs.

What `ask` proposes depends only on the trials so far and their order. So a caller who keeps each
trial on disk resumes by calling `tell` with the kept ones first; a warm start is the same.
"""

import abc
import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float, Int, Real

from cascade_jax.deferral.guarantees import pareto
from cascade_jax.deferral.policy import Thresholds, as_thresholds

_EXPLORE, _EXPLORED = 4, 0.6  # every fourth evaluation, of the first three fifths


@dataclasses.dataclass(frozen=True)
class Trial:
    """Thresholds, the two objectives measured there, and the cost of measuring them."""

    thresholds: Thresholds
    objectives: tuple[float, float]
    cost: float = 1.0


def score_quantiles(
    scores: Real[np.ndarray, " scores"], count: int = 400
) -> Float[np.ndarray, "values 1"]:
    """Candidates: quantiles of scores, so that about as many scores lie between any two.

    Values that are the same are given once.

    Raises:
      ValueError: fewer than two different values, or one that is NaN or infinite.
    """
    if not np.all(np.isfinite(scores)):
        raise ValueError("scores must be finite")
    values = np.quantile(scores, np.linspace(0, 1, count)) if len(scores) else np.zeros(0)
    values = np.unique(values)
    if len(values) < 2:
        count = f"{len(values)} different values"
        raise ValueError(f"{len(scores)} scores have {count}: no grid of two or more")
    return values[:, None]


def several_thresholds(
    one: Real[np.ndarray, "N 1"], blocks: int, count: int = 1024, seed: int = 0
) -> Float[np.ndarray, "M blocks"]:
    """Candidates for several blocks of positions, each threshold a value of an ascending grid.

    All combinations, where they are at most `count`; else `count`, of which some are the same value
    in all blocks (so that one threshold for all is never left out) and the rest fill the space
    evenly (a Sobol sequence, by the seed).
    """
    from scipy.stats import qmc

    values = np.asarray(one, np.float64)[:, 0]
    if len(values) ** blocks <= count:
        mesh = np.meshgrid(*[values] * blocks, indexing="ij")
        return np.stack([axis.ravel() for axis in mesh], axis=1)
    same = np.unique(np.linspace(0, len(values) - 1, min(len(values), count // 4)).astype(int))
    exponent = int(np.ceil(np.log2(count)))
    points = qmc.Sobol(blocks, seed=seed).random_base2(exponent)
    spread = np.minimum((points * len(values)).astype(int), len(values) - 1)
    rows = np.concatenate([np.repeat(same[:, None], blocks, axis=1), spread])
    _, first = np.unique(rows, axis=0, return_index=True)
    return values[rows[np.sort(first)][:count]]


class Search(abc.ABC):
    """Proposes candidates and keeps the trials; never proposes one that was evaluated.

    Attributes:
      candidates: the thresholds to choose from, a row each.
      trials: all evaluations, in the order of `tell`.
    """

    def __init__(self, candidates: Real[np.ndarray, "N blocks"]):
        """Refuses fewer than two different candidates, one that is given twice, and NaN."""
        self.candidates = tuple(as_thresholds(row) for row in np.asarray(candidates, np.float64))
        self._index = {thresholds: i for i, thresholds in enumerate(self.candidates)}
        count = len(self._index)
        if count < 2:
            raise ValueError(f"a search needs two different candidates or more, got {count}")
        if count < len(self.candidates):
            raise ValueError("a candidate was given more than once")
        self.trials: list[Trial] = []

    def __iter__(self) -> Iterator[Thresholds]:
        """Candidates until there is none to evaluate."""
        while (thresholds := self.ask()) is not None:
            yield thresholds

    @abc.abstractmethod
    def ask(self, cost: float = 1.0) -> Thresholds | None:
        """What to measure next, at that cost; None at the end. The same until `tell` is called."""

    def tell(
        self,
        thresholds: float | Iterable[float],
        objectives: Iterable[float],
        cost: float = 1.0,
    ) -> None:
        """Adds a trial.

        Args:
          thresholds: proposed or not; others than the candidates serve as a warm start.
          objectives: two, both to be small.
          cost: what measuring took; 1 for a whole evaluation, 0 if it was known.

        Raises:
          ValueError: evaluated before, objectives that are not two finite numbers, a cost below 0.
        """
        thresholds = as_thresholds(thresholds)
        if len(thresholds) != len(self.candidates[0]):
            has = f"has {len(thresholds)} thresholds, the candidates have {len(self.candidates[0])}"
            raise ValueError(f"{list(thresholds)} {has}")
        if any(thresholds == trial.thresholds for trial in self.trials):
            raise ValueError(f"the thresholds {list(thresholds)} were evaluated before")
        values = tuple(float(value) for value in objectives)
        if len(values) != 2 or not np.all(np.isfinite(values)):
            raise ValueError(f"objectives must be two finite numbers, got {list(values)}")
        if not cost >= 0:
            raise ValueError(f"cost must be 0 or more, got {cost}")
        self.trials.append(Trial(thresholds, values, float(cost)))

    @property
    def spent(self) -> float:
        """Sum of the costs of all trials."""
        return float(sum(trial.cost for trial in self.trials))

    def objectives(self) -> Float[np.ndarray, "T 2"]:
        """Objectives of all trials."""
        return np.array([trial.objectives for trial in self.trials]).reshape(-1, 2)

    def front(self) -> list[Trial]:
        """The trials that no other beats, by the first objective."""
        if not self.trials:
            return []
        kept = np.flatnonzero(pareto.non_dominated(self.objectives()))
        return sorted((self.trials[i] for i in kept), key=lambda trial: trial.objectives)

    def hypervolumes(
        self, reference: Float[np.ndarray, "2"] | None = None
    ) -> Float[np.ndarray, " T"]:
        """Hypervolume after each trial; the reference is `pareto.reference_point` by default."""
        objectives = self.objectives()
        if reference is None and len(objectives):
            reference = pareto.reference_point(objectives)
        gains, front = [], np.zeros((0, 2))
        for point in objectives:
            gains.append(float(pareto.improvement(point[None], front, reference)[0]))
            if not np.any(np.all(front <= point, axis=1)):
                left = front[np.any(front < point, axis=1)]
                front = np.concatenate([left, point[None]])
        return np.cumsum(gains)

    def _unevaluated(self) -> Int[np.ndarray, " left"]:
        """Indices of the candidates that have no trial."""
        known = {self._index.get(trial.thresholds) for trial in self.trials}
        return np.array([i for i in range(len(self.candidates)) if i not in known], np.int64)


class GridSearch(Search):
    """All candidates, in their order."""

    def ask(self, cost: float = 1.0) -> Thresholds | None:
        """The first candidate that was not evaluated, whatever it costs."""
        left = self._unevaluated()
        return self.candidates[left[0]] if len(left) else None


class BayesianSearch(Search):
    """Bayesian optimisation: a Gaussian process per objective, and hypervolume improvement.

    First candidates that lie far from each other, the lowest and the highest among them. Then, each
    time: both objectives are fitted (Matérn, ν = 2.5), and the candidate is proposed whose
    posterior means would add most hypervolume to the front of the trials. The posterior mean alone
    never explores: it can leave out a whole piece of the front. So no candidate is proposed twice;
    every fourth evaluation of the first three fifths goes to the candidate farthest from all
    trials; and so does any for which no mean promises a gain.

    Trials of no cost count in the front, and are not proposed; the processes are fitted without
    them.

    The processes see a threshold as its place among the candidates' values, from 0 to 1: they do
    not depend on the scale of the score, and infinite thresholds have a place.

    Reference: Budget-Constrained Learning to Defer for Autoregressive Models, Algorithm 1.
    """

    def __init__(
        self,
        candidates: Real[np.ndarray, "N blocks"],
        max_evaluations: int = 25,
        num_initial: int = 5,
        margin: float = 0.1,
        seed: int = 0,
    ):
        """Sets up a search.

        Args:
          candidates: thresholds to choose from, a row each, all different.
          max_evaluations: the most that all may cost; trials of a warm start, or of a search that
            is resumed, count.
          num_initial: how many are placed by distance alone.
          margin: of the reference point beyond the nadir, see `pareto.reference_point`.
          seed: of the fits' restarts.

        Raises:
          ValueError: fewer than two candidates, settings out of range.
        """
        super().__init__(candidates)
        if not 2 <= num_initial <= max_evaluations:
            counts = f"{num_initial} and {max_evaluations}"
            raise ValueError(f"num_initial must be 2 to max_evaluations, got {counts}")
        if not margin > 0:
            why = "at the nadir itself the ends of a front add nothing"
            raise ValueError(f"margin must be above 0, got {margin}: {why}")
        self.max_evaluations, self.num_initial = max_evaluations, num_initial
        self.margin, self.seed = margin, seed
        self._values = [np.unique(axis) for axis in zip(*self.candidates, strict=True)]
        self._places = self._placed(self.candidates)

    def ask(self, cost: float = 1.0) -> Thresholds | None:
        """The candidate that promises most; None if no more may be spent."""
        left = self._unevaluated()
        if self.spent + cost > self.max_evaluations + 1e-9 or not len(left):
            return None
        if self._is_by_distance(len(self._fitted)):
            return self.candidates[self._farthest(left)]
        gain = self._expected_gain(left)
        best = left[np.argmax(gain)] if gain.max() > 0 else self._farthest(left)
        return self.candidates[best]

    @property
    def _fitted(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.cost > 0]

    def _is_by_distance(self, number: int) -> bool:
        """Whether an evaluation, counted from 0, is placed without looking at the objectives."""
        later = number - self.num_initial
        if later < 0:
            return True
        return later % _EXPLORE == _EXPLORE - 1 and number < _EXPLORED * self.max_evaluations

    def _placed(self, thresholds: Iterable[Thresholds]) -> Float[np.ndarray, "N blocks"]:
        """Places from 0 to 1 among the candidates' values, between two of them in between."""
        rows = np.array(list(thresholds))
        columns = []
        for values, column in zip(self._values, rows.T, strict=True):
            place = (np.searchsorted(values, column) + np.searchsorted(values, column, "right")) / 2
            columns.append((place - 0.5) / max(1, len(values) - 1))
        return np.stack(columns, axis=1)

    def _farthest(self, left: Int[np.ndarray, " left"]) -> int:
        """The candidate farthest from all trials; first the lowest of all."""
        places = self._places[left]
        if not self.trials:
            return int(left[np.argmin(places.sum(axis=1))])
        evaluated = self._placed(trial.thresholds for trial in self.trials)
        distances = places[:, None] - evaluated[None]
        return int(left[np.argmax(np.min(np.sum(distances**2, axis=2), axis=1))])

    def _expected_gain(self, left: Int[np.ndarray, " left"]) -> Float[np.ndarray, " left"]:
        """Hypervolume that each candidate would add if its posterior means were true."""
        objectives, fitted = self.objectives(), self._fitted
        places = self._placed(trial.thresholds for trial in fitted)
        columns = [
            posterior_mean(places, np.array(column), self._places[left], self.seed)
            for column in zip(*(trial.objectives for trial in fitted), strict=True)
        ]
        means = np.stack(columns, axis=1)
        # The nadir of the trials alone would leave out ends of the front that have none yet.
        reference = pareto.reference_point(np.concatenate([objectives, means]), self.margin)
        return pareto.improvement(means, objectives, reference)


def posterior_mean(
    places: Float[np.ndarray, "T D"],
    values: Float[np.ndarray, " T"],
    queries: Float[np.ndarray, "M D"],
    seed: int = 0,
) -> Float[np.ndarray, " M"]:
    """Posterior mean of a Gaussian process (Matérn, ν = 2.5, and noise), fitted by its likelihood.

    `values` were measured at `places` in [0, 1]; the seed is that of the fit's restart.
    """
    import warnings

    import threadpoolctl
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    if np.ptp(values) == 0:
        return np.full(len(queries), values[0])
    scales, dimensions = (0.03, 10.0), places.shape[1]
    kernel = ConstantKernel(1.0, (0.01, 100.0)) * Matern(np.full(dimensions, 0.3), scales, nu=2.5)
    kernel += WhiteKernel(1e-4, (1e-8, 0.1))
    process = GaussianProcessRegressor(
        kernel, normalize_y=True, n_restarts_optimizer=1, random_state=seed
    )
    # The matrices are small: threads of a busy machine would wait for each other, not help.
    with warnings.catch_warnings(), threadpoolctl.threadpool_limits(1):
        # A parameter at the end of its range is no fault here.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(places, values)
        return process.predict(queries)
