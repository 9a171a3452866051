"""The certificate of a policy: its promise, and everything that the promise rests on.

A JSON file (`json_file`) with a digest of its content, so that one that was edited is refused. A
field that is missing, unknown, of another type or that contradicts another (`consistency`) is
refused by its name, so that no promise is read as another.
"""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Mapping
from typing import Any

from cascade_jax import json_file, json_text, names
from cascade_jax.deferral.guarantees import bounds, consistency, risks
from cascade_jax.deferral.guarantees import splits as split_checks
from cascade_jax.deferral.guarantees.learn_then_test import Calibration, Candidate
from cascade_jax.deferral.guarantees.risks import Risk
from cascade_jax.deferral.policy import ANSWER, LEVELS, PAIR, TOKEN, Policy, as_thresholds
from cascade_jax.json_file import Number

SCHEMA = 3  # files of 1 and 2 may lack the digest, and 1 held models and data as texts
CERTIFIED, FALLBACK, NOTHING = "certified", "fallback", "nothing"
STATUSES = (CERTIFIED, FALLBACK, NOTHING)


@dataclasses.dataclass(frozen=True)
class ModelIdentity:
    """The checkpoint of a model; None where not known.

    Attributes:
      run: name of the run.
      step: of the checkpoint.
      saved: when it was completed, which tells it from all others wherever its folder stands.
      checkpoint: path of the checkpoint.
    """

    run: str | None = None
    step: int | None = None
    saved: int | str | None = None
    checkpoint: str | None = None

    def __str__(self) -> str:
        known = ((name, value) for name, value in vars(self).items() if value is not None)
        return ", ".join(f"{name} {value!r}" for name, value in known) or "unknown"


@dataclasses.dataclass(frozen=True)
class DataIdentity:
    """The examples that a certificate was made on, and how they were cut; None where not known.

    Attributes:
      mixture, split, test_split: names.
      examples: fingerprints of all examples: of the whole, or of the table that is calibrated on
        and of the one that is tested on.
      vocabulary: its fingerprint.
      input_length, target_length: tokens at which inputs and answers are cut.
      metric: of quality.
    """

    mixture: str | None = None
    split: str | None = None
    test_split: str | None = None
    examples: tuple[str, ...] = ()
    vocabulary: str | None = None
    input_length: int | None = None
    target_length: int | None = None
    metric: str | None = None


@dataclasses.dataclass(frozen=True)
class Certificate:
    """A policy, "defer where the score is above the threshold", and its promise.

    Attributes:
      promise: in words.
      status: "certified"; "fallback", a policy that keeps the limits trivially since nothing could
        be certified; or "nothing": no policy is known to keep them, and there are no thresholds.
      level: what is deferred, "token" or "answer".
      score: name of the uncertainty or deferral score; higher = defer.
      thresholds: one, or one for each block of positions; inf never defers, -inf always does.
      block_length: positions of the longest of several blocks; position j of L is of block
        ``j * K // L``.
      risks: with their limits.
      delta: the chance that the promise does not hold, at most.
      procedure, bound, tokens_per_sequence: see `risks.CalibrationSettings`.
      objective: name of the quantity that was minimised among the certified.
      num_first, num_second: examples of the calibration splits; 0 for no second.
      candidates: all thresholds that were evaluated, with p-values and means.
      models: by role, "student" and "teacher".
      data: the examples it was made on.
      splits: fingerprints by name, `splits.split_fingerprint`.
      seen: hashes of the ids of all calibration examples, sorted, `splits.id_hash`.
      schema: version of the file.
    """

    promise: str
    status: str
    level: str
    score: str
    thresholds: tuple[Number, ...]
    block_length: int | None
    risks: tuple[Risk, ...]
    delta: float
    procedure: str
    bound: str
    tokens_per_sequence: int | None
    objective: str
    num_first: int
    num_second: int
    candidates: tuple[Candidate, ...]
    models: Mapping[str, ModelIdentity]
    data: DataIdentity
    splits: Mapping[str, str]
    seen: tuple[str, ...]
    schema: int = SCHEMA

    def __post_init__(self):
        allowed = {"level": LEVELS, "status": STATUSES, "procedure": risks.PROCEDURES}
        for name, choices in (allowed | {"bound": bounds.BOUNDS}).items():
            names.check_choice(name, getattr(self, name), choices)
        if not self.risks:
            raise ValueError("risks must hold one or more")
        if self.schema != SCHEMA:
            raise ValueError(f"schema is {self.schema}, this program reads {SCHEMA}")
        settings = self.settings()
        numbers = self.num_first, self.num_second
        consistency.check_candidates(settings, self.candidates, *numbers)
        self._check_status(settings)
        self._check_data()
        consistency.check_examples(self.seen, self.splits, *numbers)
        if self.promise != (expected := promise(settings, self.status)):
            raise ValueError(
                f"the promise contradicts status, risks and delta: it is {self.promise!r}, must be "
                f"{expected!r}"
            )

    def _check_status(self, settings: risks.CalibrationSettings) -> None:
        """The thresholds are those of the status, which is what the tests came to."""
        count, shown = len(self.thresholds), list(self.thresholds)
        if (count == 0) != (self.status == NOTHING):
            raise ValueError(f"a certificate of status {self.status!r} has {count} thresholds")
        if self.status == CERTIFIED:
            consistency.check_chosen(settings, self.candidates, self.thresholds, self.objective)
            as_thresholds(self.thresholds)
            return
        accepted = sum(candidate.is_accepted for candidate in self.candidates)
        if accepted:
            raise ValueError(f"status is {self.status!r}, but {accepted} candidates are certified")
        fallback = risks.FALLBACKS.get(settings.fallback())
        trivial = () if fallback is None else (fallback,) * len(self.candidates[0].thresholds)
        if self.thresholds != trivial:
            raise ValueError(
                f"the thresholds {shown} of a certificate of status {self.status!r} are not those "
                f"of the policy that keeps its limits trivially, {list(trivial)}"
            )

    def _check_data(self) -> None:
        """Lengths and roles agree with the level."""
        length, tokens = self.data.target_length, self.tokens_per_sequence
        count = len(self.thresholds)
        if self.level == ANSWER and count > 1:
            raise ValueError(f"a certificate for whole answers has {count} thresholds, must be one")
        consistency.check_blocks(self.level, count, self.block_length, length)
        if self.level == TOKEN and None not in (length, tokens) and length != tokens:
            raise ValueError(
                f"tokens_per_sequence is {tokens}, but data.target_length {length} tokens"
            )
        for role in self.models:
            names.check_choice("a role of models", role, PAIR)

    def settings(self) -> risks.CalibrationSettings:
        """Risks and procedure."""
        return risks.CalibrationSettings(
            self.risks, self.delta, self.procedure, self.bound, self.tokens_per_sequence
        )

    def policy(self) -> Policy:
        """The rule to use.

        Raises:
          ValueError: the certificate is of no policy.
        """
        if self.status == NOTHING:
            raise ValueError(f"the certificate is of no policy: {self.promise}")
        return Policy(self.level, self.score, (self.thresholds,))

    def was_calibrated_on(self, example_ids: Iterable[str]) -> list[bool]:
        """For each example, whether its id is that of a calibration example."""
        seen = set(self.seen)
        return [split_checks.id_hash(str(example_id)) in seen for example_id in example_ids]

    def save(self, path: str | os.PathLike) -> None:
        """Writes the file, whole or not at all."""
        json_file.write(path, self, indent=2, with_digest=True)


def from_calibration(
    calibration: Calibration,
    level: str,
    score: str,
    objective: str,
    models: Mapping[str, ModelIdentity],
    data: DataIdentity,
    splits: Mapping[str, str] | None = None,
    block_length: int | None = None,
    searched: Iterable[str] = (),
) -> Certificate:
    """The certificate of the thresholds that a calibration chose.

    Args:
      calibration: by `learn_then_test.calibrate`.
      level, score, objective, models, data, block_length: see `Certificate`.
      splits: fingerprints of splits by name; None = made of the examples' ids.
      searched: ids of examples that thresholds were searched on beside those of `calibration`.
    """
    settings = calibration.settings
    status = CERTIFIED if calibration.chosen is not None else FALLBACK
    status = NOTHING if calibration.thresholds is None else status
    seen = itertools.chain(searched, *calibration.examples.values())
    own = {name: split_checks.split_fingerprint(ids) for name, ids in calibration.examples.items()}
    return Certificate(
        promise=promise(settings, status),
        status=status,
        level=level,
        score=score,
        thresholds=calibration.thresholds or (),
        block_length=block_length,
        **vars(settings),
        objective=objective,
        num_first=calibration.num_first,
        num_second=calibration.num_second,
        candidates=calibration.candidates,
        models=dict(models),
        data=data,
        splits=dict(splits or own),
        seen=tuple(sorted({split_checks.id_hash(name) for name in seen})),
    )


def promise(settings: risks.CalibrationSettings, status: str) -> str:
    """The promise of a certificate in words."""
    kept = " and ".join(f"mean {risk.name} ≤ {risk.limit:g}" for risk in settings.risks)
    if status == CERTIFIED:
        sure = f"with a chance of at least {1 - settings.delta:g} over the calibration examples"
        tokens = ", if all tokens were independent" * (settings.bound == bounds.PAPER)
        return f"On new examples of the same distribution, {kept}, {sure}{tokens}."
    failed = f"No threshold could be certified for {kept} at delta = {settings.delta:g}."
    if status == FALLBACK:
        does = "never" if settings.fallback() == risks.NEVER_DEFER else "always"
        return f"{failed} This policy {does} defers, which keeps it trivially."
    return f"{failed} No policy keeps it trivially either, so there is none here."


def load(path: str | os.PathLike) -> Certificate:
    """Reads what `Certificate.save` wrote.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not JSON, or see `from_values`.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{os.fspath(path)}: no such file of a certificate")
    return from_values(json_file.read_values(path), os.fspath(path), is_file=True)


def from_values(values: Any, source: str = "certificate", is_file: bool = False) -> Certificate:
    """A certificate from JSON values.

    Args:
      values: its fields, as a file or the metadata of records hold them.
      source: the file, for messages.
      is_file: whether they are the whole of a file, which has a digest from schema 3 on.

    Raises:
      ValueError: a field that is missing, unknown, of another type, or has a value not allowed.
    """
    fields = values if isinstance(values, dict) else {}
    if "schema_version" in fields and "alphas" in fields:
        raise ValueError(f"{source}: a budget file (BUDGET), not a certificate; they lie beside it")
    schema = fields.get("schema")
    fields = json_file.without_digest(fields, source, has_one=is_file and schema == SCHEMA)
    if schema == 1 and type(schema) is int:
        fields = _from_schema_1(fields, source)
    elif schema == 2 and type(schema) is int:
        fields = {**fields, "schema": SCHEMA}
    elif schema != SCHEMA:
        raise ValueError(
            f"{source}: not a certificate of schema {SCHEMA}: its schema is {schema!r}"
        )
    try:
        return json_file.from_values(fields, Certificate, source, complete=True)
    except ValueError as error:
        remedy = "take the file as `cascade-jax calibrate` wrote it, or calibrate again"
        raise ValueError(f"{error}; {remedy}") from None


def _from_schema_1(fields: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The fields of schema 3; schema 1 held the identities of models and data as JSON texts."""
    try:
        known = json_file.to_values(ModelIdentity())
        models = {role: known | json_text.parse(text) for role, text in fields["models"].items()}
        data = json_file.to_values(DataIdentity()) | json_text.parse(fields["data"])
        examples = data.pop("data", [])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{source}: a certificate of schema 1 that does not name its models and data as "
            "`cascade-jax calibrate` did: calibrate again"
        ) from None
    data["examples"] = [examples] if isinstance(examples, str) else examples
    return {**fields, "models": models, "data": data, "schema": SCHEMA}
