"""The parts of a budget.json: thresholds that were tried, and runs of each α, with their checks."""

import collections
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated

from msgspec import Meta

from cascade_jax.deferral.policy import Thresholds
from cascade_jax.json_file import Number, NumberOrNull

COST, QUALITY = "cost", "quality"
PROMISES = (COST, QUALITY)
Limit = Annotated[float, Meta(gt=-1, lt=1)]
_Thresholds = Annotated[tuple[Number, ...], Meta(min_length=1)]
_Index = Annotated[int, Meta(ge=0, lt=1 << 31)]
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Point:
    """Means over a split.

    Attributes:
      cost: share of deferred tokens (of max_length), or of deferred answers.
      quality: by metric.
    """

    cost: Number
    quality: Mapping[str, NumberOrNull]


@dataclasses.dataclass(frozen=True)
class Outcome(Point):
    """Means over the test split.

    Attributes:
      flops: per example; NaN if not known.
      worse: by how much the objective is below that of the large model's own answers; NaN likewise.
    """

    flops: NumberOrNull = math.nan
    worse: NumberOrNull = math.nan

    def __post_init__(self):
        if not math.isfinite(self.cost):
            raise ValueError(f"cost must be a finite number, got {self.cost}")


@dataclasses.dataclass(frozen=True)
class TriedThresholds:
    """Thresholds that were tried, in repeat 0 for the largest α.

    Attributes:
      thresholds: one, or one for each block of positions.
      order: when they were tried, from 0.
      cost: means on the first and on the second calibration split; NaN where not measured.
      quality: the same by metric.
      hypervolume: of all that were tried until then; NaN if not known.
      answers: decoded of each example of the first split until then, on average; NaN likewise.
    """

    thresholds: _Thresholds
    order: _Index
    cost: tuple[NumberOrNull, NumberOrNull]
    quality: Mapping[str, tuple[NumberOrNull, NumberOrNull]]
    hypervolume: NumberOrNull
    answers: NumberOrNull = math.nan


@dataclasses.dataclass(frozen=True)
class PValues:
    """P-values of the candidates on both calibration splits; NaN where there is none."""

    first: tuple[NumberOrNull, ...]
    second: tuple[NumberOrNull, ...]


@dataclasses.dataclass(frozen=True)
class Run:
    """One α in one repeat.

    Attributes:
      alpha: the budget, a limit of the mean cost (or of the quality lost).
      repeat: number of the repeat; each has splits of its own.
      thresholds: chosen, or if nothing was certified the fallback's; None if no policy is known.
      certified: whether the thresholds are.
      accepted: indices of the candidates (of this repeat) that are certified.
      calibration: means on the second calibration split; None without a policy.
      test: means on the test split; None without a policy.
      baselines: by name, other ways that cost as much, on the test split; None without any.
      p_values: of the candidates; None in all repeats but 0.
    """

    alpha: Limit
    repeat: _Index
    thresholds: _Thresholds | None
    certified: bool
    accepted: tuple[_Index, ...]
    calibration: Point | None
    test: Outcome | None
    baselines: Mapping[str, Point] | None
    p_values: PValues | None = None

    def __post_init__(self):
        for name in ("thresholds", "test"):
            if self.certified and getattr(self, name) is None:
                raise ValueError(f"{name} must be known, as the run is certified")
        if self.certified != bool(self.accepted):
            count = f"{len(self.accepted)} candidates are accepted"
            raise ValueError(f"certified is {self.certified}, but {count}")
        if len(set(self.accepted)) < len(self.accepted):
            raise ValueError(f"accepted holds an index twice: {list(self.accepted)}")
        unknown = self.thresholds is None and (self.test or self.calibration or self.baselines)
        if unknown:
            raise ValueError("thresholds are null, but there are results of them")
        if not self.certified and self.thresholds is not None:
            if len(set(self.thresholds)) > 1 or math.isfinite(self.thresholds[0]):
                shown = list(self.thresholds)
                raise ValueError(
                    f"thresholds are {shown}, but certified is False: without a certificate a "
                    "policy never or always defers"
                )


@dataclasses.dataclass(frozen=True)
class Ends:
    """Each model alone."""

    student: Point
    teacher: Point


def check_tried(candidates: Sequence[TriedThresholds]) -> None:
    """Checks the thresholds that were tried against each other.

    Raises:
      ValueError: the same thresholds twice, an order with gaps, a hypervolume or a number of
        answers that falls.
    """
    seen: dict[Thresholds, int] = {}
    for i, tried in enumerate(candidates):
        if seen.setdefault(tried.thresholds, i) != i:
            both = f"candidates[{seen[tried.thresholds]}] and candidates[{i}]"
            raise ValueError(f"{both} have the same thresholds {list(tried.thresholds)}")
    in_order = sorted(candidates, key=lambda tried: tried.order)
    orders = [tried.order for tried in in_order]
    if orders != list(range(len(orders))):
        raise ValueError(f"candidates have the orders {orders}, must be 0 to {len(orders) - 1}")
    for name in ("hypervolume", "answers"):
        values = [(tried.order, getattr(tried, name)) for tried in in_order]
        for (_, before), (order, value) in itertools.pairwise(values):
            if value < before - _ROUNDING:
                raise ValueError(
                    f"the {name} of the candidate of order {order} is {value}, that of the one "
                    f"before {before}: it never falls"
                )


def check_runs(runs: Sequence[Run], alphas: Sequence[float], repeats: int) -> None:
    """Checks that every α has every repeat once.

    Raises:
      ValueError: which is missing, not among them, or there twice.
    """
    number = repeats * len(alphas)
    few = range(min(repeats, len(runs) + 1))  # a file may say that it has a billion repeats
    expected = {(alpha, repeat) for alpha in alphas for repeat in few}
    counts = collections.Counter((run.alpha, run.repeat) for run in runs)
    lacking = expected - set(counts)
    wrong = {
        "lack {}": (lacking, number - len(expected) + len(lacking)),
        "have {}, which is not among alphas and repeats": (set(counts) - expected, 0),
        "have {} twice": ({key for key, count in counts.items() if count > 1}, 0),
    }
    for text, (keys, count) in wrong.items():
        for alpha, repeat in sorted(keys)[:1]:
            which = f"alpha = {alpha:g}, repeat = {repeat} ({count or len(keys)} such)"
            raise ValueError(f"runs {text.format(which)}")


def check_first_repeat(
    run: Run, place: str, candidates: Sequence[TriedThresholds], delta: float, promise: str
) -> None:
    """Checks a run of repeat 0, whose candidates the file has, against them.

    Raises:
      ValueError: an index beyond them, p-values of another number, accepted thresholds whose
        p-value is above delta or whose mean is above α, chosen ones that are not accepted.
    """
    count, accepted = len(candidates), run.accepted
    if any(index >= count for index in accepted):
        allowed = f"indices of the {count} candidates, got {list(accepted)}"
        raise ValueError(f"{place}.accepted must be {allowed}")
    for name, values in vars(run.p_values).items() if run.p_values else ():
        where = f"{place}.p_values.{name}"
        if len(values) != count:
            raise ValueError(f"{where} has {len(values)} values, candidates {count}")
        for i, value in enumerate(values):
            if not (math.isnan(value) or 0 <= value <= 1):
                raise ValueError(f"{where}[{i}] is {value}, must be in [0, 1]")
    if run.certified and run.thresholds not in [candidates[i].thresholds for i in accepted]:
        raise ValueError(f"{place}.thresholds {list(run.thresholds)} are not among those accepted")
    for i in accepted:
        if run.p_values and not run.p_values.second[i] <= delta:
            p = f"its p-value {run.p_values.second[i]}, which must be at most delta = {delta:g}"
            raise ValueError(f"{place} accepts candidate {i} in spite of {p}")
        mean = candidates[i].cost[1]
        if promise == COST and delta < 0.5 and not mean <= run.alpha + _ROUNDING:
            cost = f"the mean cost {mean}, which must be within alpha = {run.alpha:g}"
            raise ValueError(f"{place} accepts candidate {i} with {cost}")
