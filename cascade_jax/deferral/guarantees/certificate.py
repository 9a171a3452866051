"""The file that says what is promised of a policy, and everything that the promise rests on.

It is JSON by the letter: an infinite number is the text "inf" or "-inf". A field that is missing,
unknown or of another kind is refused by its name, so that a promise is never read as another.
"""

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cascade_jax import files
from cascade_jax import names as nearest
from cascade_jax.deferral.guarantees import bounds, risks
from cascade_jax.deferral.guarantees import splits as split_checks
from cascade_jax.deferral.guarantees.learn_then_test import Calibration, Candidate
from cascade_jax.deferral.guarantees.risks import Risk

SCHEMA = 1
TOKEN, ANSWER = "token", "answer"
LEVELS = (TOKEN, ANSWER)
CERTIFIED, FALLBACK, NOTHING = "certified", "fallback", "nothing"
STATUSES = (CERTIFIED, FALLBACK, NOTHING)


@dataclasses.dataclass(frozen=True)
class Certificate:
    """A policy, "defer where the score is above the threshold", and its promise.

    Attributes:
      promise: in words.
      status: "certified"; "fallback", a policy that keeps the limits trivially since nothing could
        be certified; or "nothing": no policy is known to keep them, and there are no thresholds.
      level: what is deferred, "token" or "answer".
      score: name of the uncertainty or deferral score; higher = defer.
      thresholds: one, or one for each block of positions. Infinity never defers, minus infinity
        always does.
      block_length: positions of a block, where there are several thresholds: of the longest, where
        the places of an answer can't be divided evenly. Position j of L is of block ``j * K // L``.
      risks: with their limits.
      delta: the chance that the promise does not hold, at most.
      procedure, bound, tokens_per_sequence: see `risks.Settings`.
      objective: name of what was made small among the certified.
      num_first, num_second: examples of the calibration splits; 0 for no second.
      candidates: all that was evaluated, with p-values and means.
      models: role -> fingerprint.
      data: fingerprint of the data.
      splits: name -> fingerprint, `splits.split_fingerprint`.
      seen: hashes of the ids of all calibration examples, sorted, `splits.id_hash`.
      schema: of this file.
    """

    promise: str
    status: str
    level: str
    score: str
    thresholds: tuple[float, ...]
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
    models: Mapping[str, str]
    data: str
    splits: Mapping[str, str]
    seen: tuple[str, ...] = ()
    schema: int = SCHEMA

    def __post_init__(self):
        for name, known in (
            ("level", LEVELS), ("status", STATUSES), ("procedure", risks.PROCEDURES),
            ("bound", bounds.BOUNDS),
        ):  # fmt: skip
            value = getattr(self, name)
            if value not in known:
                hint = nearest.did_you_mean(value, known)
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}{hint}")
        if self.schema != SCHEMA:
            raise ValueError(f"schema is {self.schema}, this program reads {SCHEMA}")
        bounds.check_level(self.delta)
        if not self.risks:
            raise ValueError("risks must hold one or more")
        if (len(self.thresholds) == 0) != (self.status == NOTHING):
            raise ValueError(
                f"a certificate of status {self.status!r} has {len(self.thresholds)} thresholds"
            )
        accepted = [found.thresholds for found in self.candidates if found.is_accepted]
        if self.status == CERTIFIED and self.thresholds not in accepted:
            raise ValueError(
                f"the thresholds {list(self.thresholds)} are not among the candidates that are "
                "certified"
            )
        trivial = {risks.FALLBACKS.get(risk.fallback) for risk in self.risks}
        if self.status == FALLBACK and (len(trivial) > 1 or {*self.thresholds} != trivial):
            raise ValueError(
                f"the thresholds {list(self.thresholds)} of a certificate of status {FALLBACK!r} "
                "are not those of the policy that keeps its limits trivially"
            )
        if any(number != number for number in self.thresholds):
            raise ValueError(f"thresholds must not be NaN, got {list(self.thresholds)}")
        if len(self.thresholds) > 1 and (self.block_length is None or self.block_length < 1):
            raise ValueError(
                f"{len(self.thresholds)} thresholds need a block_length of 1 or more, got "
                f"{self.block_length}"
            )

    @property
    def is_fallback(self) -> bool:
        """Whether nothing could be certified."""
        return self.status != CERTIFIED

    def policy_thresholds(self) -> tuple[float, ...]:
        """The thresholds to use.

        Raises:
          ValueError: the certificate is of no policy.
        """
        if self.status == NOTHING:
            raise ValueError(f"the certificate is of no policy: {self.promise}")
        return self.thresholds

    def was_calibrated_on(self, example_ids: Iterable[str]) -> list[bool]:
        """For each example, whether it is known to be one of those."""
        seen = set(self.seen)
        return [split_checks.id_hash(str(name)) in seen for name in example_ids]

    def check_not_calibrated_on(self, example_ids: Iterable[str]) -> None:
        """Refuses to be judged on examples that it was calibrated on.

        Raises:
          ValueError: how many, and the first.
        """
        names = list(map(str, example_ids))
        shared = list(itertools.compress(names, self.was_calibrated_on(names)))
        if shared:
            raise ValueError(
                f"the policy was calibrated on {len(shared)} of these {len(names)} examples: "
                f"{', '.join(map(repr, shared[:5]))}{', …' * (len(shared) > 5)}; evaluate it on "
                "others"
            )

    def to_json(self) -> str:
        """As text, which `from_json` reads back to the same."""
        return json.dumps(_encoded(dataclasses.asdict(self)), indent=2, allow_nan=False) + "\n"

    def save(self, path: str | os.PathLike) -> None:
        """Writes the file, whole or not at all."""
        files.write_text(path, self.to_json())


def from_calibration(
    found: Calibration,
    level: str,
    score: str,
    objective: str,
    models: Mapping[str, str],
    data: str,
    splits: Mapping[str, str] | None = None,
    block_length: int | None = None,
    searched: Iterable[str] = (),
) -> Certificate:
    """The certificate of what calibration found.

    Args:
      found: by `calibrate`.
      level, score, objective, models, data, block_length: see `Certificate`.
      splits: fingerprints of splits by name; None = made of the examples' ids.
      searched: ids of examples that thresholds were searched on, if `found` does not know them.
    """
    settings = found.settings
    status = CERTIFIED if found.chosen is not None else FALLBACK
    status = NOTHING if found.thresholds is None else status
    seen = itertools.chain(searched, *found.examples.values())
    own = {name: split_checks.split_fingerprint(ids) for name, ids in found.examples.items()}
    return Certificate(
        promise=promise(settings, status),
        status=status,
        level=level,
        score=score,
        thresholds=found.thresholds or (),
        block_length=block_length,
        risks=tuple(settings.risks),
        delta=settings.delta,
        procedure=settings.procedure,
        bound=settings.bound,
        tokens_per_sequence=settings.tokens_per_sequence,
        objective=objective,
        num_first=found.num_first,
        num_second=found.num_second,
        candidates=found.candidates,
        models=dict(models),
        data=data,
        splits=dict(splits or own),
        seen=tuple(sorted({split_checks.id_hash(name) for name in seen})),
    )


def promise(settings: risks.Settings, status: str) -> str:
    """What a certificate promises, in words."""
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
      ValueError: see `from_json`.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{os.fspath(path)}: no such file of a certificate")
    with open(path, encoding="utf-8") as file:
        try:
            return from_json(file.read())
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from None


def from_json(text: str) -> Certificate:
    """Reads what `Certificate.to_json` wrote.

    Raises:
      ValueError: not JSON, a field that is missing, unknown, or of another kind, or a value that is
        not allowed.
    """
    try:
        fields = json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        raise ValueError(f"not a certificate: {error}") from None
    if isinstance(fields, dict) and "schema_version" in fields and "alphas" in fields:
        raise ValueError("a budget file (BUDGET), not a certificate; they lie beside it")
    schema = fields.get("schema") if isinstance(fields, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"not a certificate of schema {SCHEMA}: its schema is {schema!r}")
    return _certificate(fields, "")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _encoded(value: Any) -> Any:
    """With lists for tuples, and texts for infinite numbers."""
    if isinstance(value, Mapping):
        return {name: _encoded(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(inner) for inner in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


# Readers: each takes a value out of JSON and the name of its field, and returns what it should be.
_Reader = Callable[[Any, str], Any]


def _of_type(kind: Any, what: str) -> _Reader:
    def read(value: Any, name: str) -> Any:
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
            raise ValueError(f"{name} must be {what}, got {json.dumps(value)[:100]}")
        return value

    return read


_text, _whole, _flag = (
    _of_type(str, "a text"), _of_type(int, "a whole number"), _of_type(bool, "true or false")
)  # fmt: skip


def _number(value: Any, name: str) -> float:
    if value in ("inf", "-inf"):
        return float(value)
    return float(_of_type(int | float, 'a number, "inf" or "-inf"')(value, name))


def _or_none(reader: _Reader) -> _Reader:
    return lambda value, name: None if value is None else reader(value, name)


def _list_of(reader: _Reader) -> _Reader:
    def read(value: Any, name: str) -> tuple:
        values = _of_type(list, "a list")(value, name)
        return tuple(reader(inner, f"{name}[{i}]") for i, inner in enumerate(values))

    return read


def _dict_of(reader: _Reader) -> _Reader:
    def read(value: Any, name: str) -> dict:
        values = _of_type(dict, "an object")(value, name)
        return {key: reader(inner, f"{name}.{key}") for key, inner in values.items()}

    return read


def _object(built: type, readers: Mapping[str, _Reader]) -> _Reader:
    assert set(readers) == {field.name for field in dataclasses.fields(built)}

    def read(value: Any, name: str) -> Any:
        values, of = _of_type(dict, "an object")(value, name), f" of {name}" * bool(name)
        for key in values:
            if key not in readers:
                raise ValueError(
                    f"unknown field {key!r}{of}{nearest.did_you_mean(key, readers)}; a certificate "
                    "of another version, or changed by hand"
                )
        missing = [key for key in readers if key not in values]
        if missing:
            raise ValueError(f"missing fields{of}: {', '.join(missing)}")
        prefix = f"{name}." * bool(name)
        return built(**{key: reader(values[key], prefix + key) for key, reader in readers.items()})

    return read


_risk = _object(
    Risk, {"name": _text, "limit": _number, "lower": _number, "upper": _number, "fallback": _text}
)
_candidate = _object(
    Candidate,
    {
        "thresholds": _list_of(_number), "first_p": _number, "second_p": _or_none(_number),
        "first_risks": _dict_of(_number), "second_risks": _or_none(_dict_of(_number)),
        "first_objective": _number, "second_objective": _or_none(_number),
        "rank": _or_none(_whole), "is_accepted": _flag,
    },
)  # fmt: skip
_certificate = _object(
    Certificate,
    {
        "promise": _text, "status": _text, "level": _text, "score": _text,
        "thresholds": _list_of(_number), "block_length": _or_none(_whole),
        "risks": _list_of(_risk), "delta": _number, "procedure": _text, "bound": _text,
        "tokens_per_sequence": _or_none(_whole), "objective": _text, "num_first": _whole,
        "num_second": _whole, "candidates": _list_of(_candidate), "models": _dict_of(_text),
        "data": _text, "splits": _dict_of(_text),
        "seen": _list_of(_text), "schema": _whole,
    },
)  # fmt: skip
