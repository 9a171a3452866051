"""A certified policy on the records that are evaluated: its point, and whether its promise holds.

A policy that defers answers is applied to the records' scores. One that defers tokens can not be
replayed, as the answer changes after the first deferred token: its answers must be in the records.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

from cascade_jax.deferral.guarantees import certificate as certificate_file
from cascade_jax.deferral.guarantees.certificate import CERTIFIED, Certificate, ModelIdentity
from cascade_jax.deferral.guarantees.risks import Risk
from cascade_jax.deferral.policy import ANSWER
from cascade_jax.deferral.scores.base import (
    DeferralScore,
    UnknownCost,
    name_of,
    own_flops,
    saved_flops,
)
from cascade_jax.evaluation import curves, live_cascades
from cascade_jax.evaluation.cascades import Cascade
from cascade_jax.evaluation.costs import CostModel, Flops, Parameters
from cascade_jax.evaluation.live_cascades import LiveCascade
from cascade_jax.records.schema import PAIR, POLICY
from cascade_jax.records.table import Records


class PolicyError(ValueError):
    """A certificate that is not of the records evaluated; the message says what differs."""


@dataclasses.dataclass(frozen=True)
class RiskCheck:
    """A certified risk limit and its held-out estimate.

    Attributes:
      name: of the risk.
      limit: what its mean is promised not to exceed.
      measured: its mean on these records; NaN where they do not determine it.
      is_within: whether that is at most the limit; None where it is not known.
    """

    name: str
    limit: float
    measured: float
    is_within: bool | None


@dataclasses.dataclass(frozen=True)
class PolicyPoint:
    """A certified policy on the examples of one cascade.

    Attributes:
      path: of the certificate.
      level, status, promise, score, thresholds, delta: see `Certificate`.
      num_examples: n.
      num_judged: those of them that the promises were measured on: all that the certificate was
        not calibrated on, nor on an example with the same input, as far as it knows.
      rate: share of answers deferred, or of the tokens written.
      quality: mean, per example.
      cost: mean, in the unit of the evaluation; NaN if it has none for tokens.
      flops: mean FLOPs of an example, what the score spends included; NaN if not known.
      kept: each promise beside what was measured.
      warnings: what a reader must know before believing it.
    """

    path: str
    level: str
    status: str
    promise: str
    score: str
    thresholds: tuple[float, ...]
    delta: float
    num_examples: int
    num_judged: int
    rate: float
    quality: float
    cost: float
    flops: float
    kept: tuple[RiskCheck, ...]
    warnings: tuple[str, ...]


def points(
    path: str | os.PathLike,
    tables: Mapping[str, Records],
    cascades: Mapping[str, Cascade],
    score: DeferralScore,
    cost: CostModel,
) -> dict[str, PolicyPoint]:
    """The policy of a certificate on every cascade whose models it was made for.

    Raises:
      FileNotFoundError: no such file.
      PolicyError: the certificate is of none of the cascades (what differs), or of no policy.
      ValueError: not a certificate.
    """
    certificate = certificate_file.load(path)
    try:
        certificate.policy()
    except ValueError as error:
        raise PolicyError(f"{path}: {error}") from None
    differing = {name: difference(certificate, table, score) for name, table in tables.items()}
    if all(differing.values()):
        listed = "; ".join(f"{name}: {text}" for name, text in differing.items())
        raise PolicyError(f"{path} is not a certificate of what is evaluated: {listed}")
    return {
        name: _point(os.fspath(path), certificate, tables[name], cascades[name], score, cost)
        for name, text in differing.items()
        if not text
    }


def difference(certificate: Certificate, table: Records, score: DeferralScore) -> str:
    """Why a certificate is not of some records; "" if it may be."""
    for role in PAIR:
        identity = certificate.models.get(role, ModelIdentity())
        if different := _other_model(role, identity, table):
            return different
    theirs, ours = certificate.data.mixture, table.metadata["mixture"]
    if theirs is not None and theirs != ours:
        return f"it is of the mixture {theirs!r}, the records of {ours!r}"
    if certificate.level != ANSWER:
        return _other_live(certificate, table)
    if certificate.score != name_of(score):
        return (
            f"its thresholds are of the score {certificate.score!r}, the evaluation is by "
            f"{name_of(score)!r} (SCORE)"
        )
    return ""


def _other_live(certificate: Certificate, table: Records) -> str:
    """Why the live answers of a table are not of a policy."""
    if table.cascade_answer is None:
        return (
            "it defers tokens, and the records hold no cascade_* columns; `cascade-jax collect` "
            "with this policy writes them"
        )
    policy = table.metadata.get(POLICY, {})
    ours = live_cascades.thresholds_of(policy), policy.get("score")
    if ours != (certificate.thresholds, certificate.score):
        return (
            f"its thresholds are {list(certificate.thresholds)} of {certificate.score!r}, those of "
            f"the records' cascade_* columns {list(ours[0])} of {ours[1]!r}"
        )
    theirs, ours = certificate.data.target_length, table.metadata.get("target_length")
    if None not in (theirs, ours) and theirs != ours:
        return f"it is of answers of {theirs} tokens, the records of {ours}"
    return ""


def _other_model(role: str, identity: ModelIdentity, table: Records) -> str:
    """Why a certificate's model is not the records'; "" if nothing speaks against it.

    When a checkpoint was saved tells it from all others; without that its path counts.
    """
    checkpoint = table.stated(role, "checkpoint")
    ours = {"saved": table.stated(role, "saved"), "checkpoint": checkpoint}
    if isinstance(checkpoint, str):
        parts = pathlib.PurePath(checkpoint).parts
        ours |= {"step": parts[-1], "run": parts[-3] if len(parts) > 2 else None}
    words_of_keys = ("saved", "was saved at"), ("checkpoint", "is the checkpoint")
    words_of_keys += ("run", "is of the run"), ("step", "is of the step")
    for key, words in words_of_keys:
        pair = getattr(identity, key), ours.get(key)
        if None not in pair and str(pair[0]) != str(pair[1]):
            return f"its {role} {words} {pair[0]!r}, that of the records {words} {pair[1]!r}"
        if None not in pair and key in ("saved", "checkpoint"):
            break
    return ""


def _point(
    path: str,
    certificate: Certificate,
    table: Records,
    cascade: Cascade,
    score: DeferralScore,
    cost: CostModel,
) -> PolicyPoint:
    rows = _unseen(certificate, table)
    figures, _ = _measured(certificate, table, cascade, score, cost)
    spent = lost = math.nan
    if len(rows):
        new = table.take(rows)
        unseen, spent = _measured(certificate, new, cascade.take(rows), score, cost)
        lost = float(np.mean(new.teacher_quality)) - unseen["quality"]
    shared = ("level", "status", "promise", "score", "thresholds", "delta")
    return PolicyPoint(
        path=path,
        **{name: getattr(certificate, name) for name in shared},
        num_examples=len(table),
        num_judged=len(rows),
        kept=tuple(_checked(risk, spent, lost, certificate, table) for risk in certificate.risks),
        warnings=_warnings(certificate, table, len(table) - len(rows)),
        **figures,
    )


def _unseen(certificate: Certificate, table: Records) -> Int[np.ndarray, " rows"]:
    """Rows of examples that the certificate was not calibrated on, as far as it knows them.

    Calibration takes one example of each input. Another with the same input, under an id of its
    own, has the same answers, so it is no new one either.
    """
    is_seen = np.array(certificate.was_calibrated_on(table.example_id), bool)
    if np.any(is_seen):
        inputs = np.array([" ".join(str(text).split()) for text in table.inputs], object)
        known = set(inputs[is_seen])
        is_seen = np.array([text in known for text in inputs], bool)
    return np.flatnonzero(~is_seen)


def _measured(
    certificate: Certificate,
    table: Records,
    cascade: Cascade,
    score: DeferralScore,
    cost: CostModel,
) -> tuple[dict[str, float], float]:
    """Rate, quality, cost and FLOPs of a point, and the cost that a budget limits.

    Of answers: ``deferred = score > τ``, and the cost is ``mean(C_S + F + deferred · C_L)``, F what
    the score spends itself; less what of C_S an example does not cost that is deferred early.
    """
    if certificate.level != ANSWER:
        live = live_cascades.from_records(table)
        spent, length = live.cost, certificate.data.target_length
        if length and not live.is_length_stated:
            spent = live.cost * live.max_length / length
        costs = {"cost": cost_of_live(live, cascade, cost), "flops": live.flops}
        return {"rate": live.token_share, "quality": live.quality, **costs}, spent
    deferred = certificate.policy().defers(cascade.score)
    quality = np.where(deferred, table.teacher_quality, table.student_quality)
    small, large = cascade.costs
    large = np.broadcast_to(np.asarray(large, np.float64), deferred.shape)
    flops, rate = math.nan, float(np.mean(deferred))
    if table.student_flops is not None and table.teacher_flops is not None:
        flops = float(np.mean(table.student_flops + deferred * table.teacher_flops))
        try:
            flops += float(np.mean(own_flops(score, table.student)))
            saved = saved_flops(score, table.student, table.student_flops)
            flops -= float(np.mean(deferred * saved))
        except UnknownCost:
            flops = math.nan
    return {
        "rate": rate,
        "quality": float(np.mean(quality)),
        "cost": curves.mean_cost(small) + float(np.mean(deferred * large)),
        "flops": flops,
    }, rate


def cost_of_live(live: LiveCascade, cascade: Cascade, cost: CostModel) -> float:
    """Cost of a live cascade in the unit of an evaluation.

    By FLOPs what was really spent; by parameters ``C_S + share of tokens deferred · C_L``, a token;
    NaN for seconds and prices, which records do not hold.
    """
    if isinstance(cost, Flops):
        return live.flops
    if isinstance(cost, Parameters):
        small, large = map(curves.mean_cost, (cascade.student_cost, cascade.teacher_cost))
        return small + live.token_share * large
    return math.nan


def _checked(
    risk: Risk, spent: float, lost: float, certificate: Certificate, table: Records
) -> RiskCheck:
    """A risk on these records: the loss if it is one of paired differences, else the share."""
    measured = math.nan
    if risk.lower >= 0 and "defer" in risk.name:
        measured = spent
    elif risk.lower < 0 and _has_objective(certificate, table):
        measured = lost
    is_within = None if math.isnan(measured) else measured <= risk.limit
    return RiskCheck(risk.name, risk.limit, measured, is_within)


def _has_objective(certificate: Certificate, table: Records) -> bool:
    """Whether the records' quality is the metric in which a loss of quality was promised."""
    metric = certificate.data.metric or certificate.objective
    if certificate.level == ANSWER or metric in ("quality", "task"):
        return True
    return set(table.metric) == {metric}


def _warnings(certificate: Certificate, table: Records, num_seen: int) -> tuple[str, ...]:
    warnings, split = [], certificate.data.split
    if num_seen == len(table):
        warnings.append(
            "The certificate was made on these very examples. Its promise is about new ones: "
            "nothing here can tell whether it is kept."
        )
    elif num_seen:
        warnings.append(
            f"The certificate was made on {num_seen:,} of these {len(table):,} examples, or on "
            "others of the same input. Its promise is about new ones, so it was measured on the "
            f"other {len(table) - num_seen:,}."
        )
    elif not certificate.seen and split == table.metadata["split"]:
        warnings.append(
            f"The certificate was made on the split {split!r} of the same data and does "
            "not say on which examples, so some here may have chosen the thresholds. Its promise "
            "is about new ones: measure it on another split."
        )
    if certificate.status != CERTIFIED:
        warnings.append("Nothing could be certified: the fallback keeps the limit trivially.")
    return tuple(warnings)
