"""Columns and metadata of the records table, and every check on them; see records.py."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from cascade_jax.names import nearest_names
from cascade_jax.task_metrics import corpus

SCHEMA_VERSION = 1
METADATA_KEY = "cascade_jax"
REQUIRED_METADATA = ("name", "mixture", "split")
CORPUS_METRICS, FIGURES, DECODING = "corpus_metrics", "figures", "decoding"  # optional, by task
POLICY = "policy"  # optional: the certificate that the live cascade keeps to, as a dict
TOP_K = "top_k"  # optional: how many log-probs a token has in the column of top log-probs
# What `collect` writes under the last.
GREEDY, RANK, TEACHER_FORCED = "greedy", "rank_classification", "teacher_forced"

TEXTS = ("mixture", "task", "split", "example_id", "inputs", "target", "metric")
TEXTS += ("student_answer", "teacher_answer")
_TOKENS = ("student_tokens", "teacher_tokens")
_PER_TOKEN = ("student_log_probs", "student_entropies", "teacher_log_probs", "teacher_entropies")
NUMBERS = ("student_quality", "teacher_quality")
NUMBERS += ("student_flops_per_token", "teacher_flops_per_token")
SCHEMA = pa.schema(
    [(name, pa.string()) for name in TEXTS]
    + [(name, pa.list_(pa.int32())) for name in _TOKENS]
    + [(name, pa.list_(pa.float32())) for name in _PER_TOKEN]
    + [(name, pa.float64()) for name in NUMBERS]
)
STATISTICS = ("student_statistics", "teacher_statistics")
TOP_LOG_PROBS, TOP_IDS = "student_top_log_probs", "student_top_ids"
PIECES = ("student_pieces", "teacher_pieces")
EMBEDDING = "student_embedding"
INPUT_TOKENS = ("student_input_tokens", "teacher_input_tokens")
FLOPS = ("student_flops", "teacher_flops")
SECONDS = ("student_seconds", "teacher_seconds")
MEASURES = INPUT_TOKENS + FLOPS + SECONDS  # one number a row, None in `Records` if absent
# Answers of the token-level cascade that ran live; all of them or none.
CASCADE = ("cascade_answer", "cascade_tokens", "cascade_pieces", "cascade_is_deferred")
CASCADE += ("cascade_uncertainties", "cascade_quality", "cascade_flops")
CASCADE_STATISTICS = "cascade_statistics"  # only with them and with STATISTICS
_CASCADE_TYPES = (pa.string(), pa.list_(pa.int32()), pa.list_(pa.string()), pa.list_(pa.bool_()))
_CASCADE_TYPES += (pa.list_(pa.float32()), pa.float64(), pa.float64())
OPTIONAL_SCHEMA = pa.schema(
    [(name, pa.list_(pa.int64())) for name in STATISTICS]
    + [(TOP_LOG_PROBS, pa.list_(pa.float32())), (TOP_IDS, pa.list_(pa.int32()))]
    + [(name, pa.list_(pa.string())) for name in PIECES]
    + [(EMBEDDING, pa.list_(pa.float32()))]
    + [(name, pa.int32()) for name in INPUT_TOKENS]
    + [(name, pa.float64()) for name in FLOPS + SECONDS]
    + list(zip(CASCADE, _CASCADE_TYPES, strict=True))
    + [(CASCADE_STATISTICS, pa.list_(pa.int64()))]
)
TYPES = {field.name: field.type for field in (*SCHEMA, *OPTIONAL_SCHEMA)}
# A column on the left is there only with that on the right.
_NEEDS = {TOP_IDS: TOP_LOG_PROBS} | {
    name: pair[1 - i]
    for pair in (STATISTICS, INPUT_TOKENS, FLOPS, SECONDS)
    for i, name in enumerate(pair)
}


class RecordsError(ValueError):
    """A records file, or a set of them, that can not be used; the message says which and why."""


def check_metadata(metadata: Mapping[str, Any], source: str) -> None:
    """Refuses metadata of another version, without a required text, or with odd optional keys."""
    version = metadata.get("schema_version")
    if version != SCHEMA_VERSION:
        raise RecordsError(
            f"{source}: records schema version {version!r}, this program reads version "
            f"{SCHEMA_VERSION}; collect the records again"
        )
    for key in REQUIRED_METADATA:
        if not isinstance(metadata.get(key), str) or not metadata[key]:
            raise RecordsError(
                f"{source}: metadata must hold a text under {key!r}, got {metadata.get(key)!r}"
            )
    corpus_metrics(metadata, source)
    decoding = metadata.get(DECODING, "")
    if not isinstance(decoding, str | Mapping):
        raise RecordsError(
            f"{source}: metadata under {DECODING!r} must be a text, or texts by task, got "
            f"{decoding!r}"
        )
    policy = metadata.get(POLICY, {})
    if not isinstance(policy, Mapping):
        raise RecordsError(
            f"{source}: metadata under {POLICY!r} must be a certificate, an object, got {policy!r}"
        )
    _check_figures(metadata.get(FIGURES, {}), source)
    top_k = metadata.get(TOP_K, 0)
    if type(top_k) is not int or top_k < 0:
        raise RecordsError(
            f"{source}: metadata under {TOP_K!r} must be a whole number, 0 for none, got {top_k!r}"
        )


def corpus_metrics(metadata: Mapping[str, Any], source: str) -> dict[str, corpus.CorpusMetric]:
    """By task, the metric that its statistics are of.

    Raises:
      RecordsError: one that can not be built; the message says what is known.
    """
    described = metadata.get(CORPUS_METRICS, {})
    if not isinstance(described, Mapping):
        raise RecordsError(f"{source}: {CORPUS_METRICS} must be metrics by task, got {described!r}")
    built = {}
    for task, description in described.items():
        try:
            built[task] = corpus.build(description)
        except ValueError as error:
            raise RecordsError(f"{source}: {CORPUS_METRICS} of task {task!r}: {error}") from None
    return built


def _check_figures(figures: Any, source: str) -> None:
    """By task and metric, a number (or None: undefined) for each model."""

    def is_pair(pair: Any) -> bool:
        return (
            isinstance(pair, Mapping)
            and set(pair) == {"student", "teacher"}
            and all(value is None or type(value) in (int, float) for value in pair.values())
        )

    tasks = figures.items() if isinstance(figures, Mapping) else [("", figures)]
    for task, by_metric in tasks:
        pairs = by_metric.values() if isinstance(by_metric, Mapping) else [None]
        if not all(map(is_pair, pairs)):
            raise RecordsError(
                f"{source}: {FIGURES} of task {task!r} must be numbers of both models by metric, "
                f"{{'bleu': {{'student': 0.31, 'teacher': 0.4}}}}, got {by_metric!r}"
            )


def check_columns(names: Iterable[str], metadata: Mapping[str, Any], source: str) -> None:
    """Refuses a table that lacks a column, or one that an optional column or `top_k` needs."""
    names = list(names)
    missing = [name for name in SCHEMA.names if name not in names]
    if missing:
        near = nearest_names(missing[0], set(names) - set(SCHEMA.names), 1, cutoff=0.6)
        hint = f" (nearest there: {near[0]!r})" if near else ""
        raise RecordsError(f"{source}: missing column {', '.join(map(repr, missing))}{hint}")
    for name, needed in _NEEDS.items():
        if name in names and needed not in names:
            raise RecordsError(f"{source}: column {name!r} needs its pair {needed!r}")
    _check_cascade(names, source)
    top_k = metadata.get(TOP_K, 0)
    if (TOP_LOG_PROBS in names) != (top_k > 0):
        has = "with" if TOP_LOG_PROBS in names else "without"
        raise RecordsError(
            f"{source}: metadata have {TOP_K} = {top_k} {has} a column {TOP_LOG_PROBS!r}; it must "
            "be the number of log-probs for each token there, and 0 or left out without it"
        )


def _check_cascade(names: list[str], source: str) -> None:
    """Refuses some columns of the live cascade without the others."""
    present = [name for name in (*CASCADE, CASCADE_STATISTICS) if name in names]
    needed = CASCADE + STATISTICS * (CASCADE_STATISTICS in present)
    if present and (missing := [name for name in needed if name not in names]):
        raise RecordsError(
            f"{source}: column {present[-1]!r} needs {', '.join(map(repr, missing))} beside it"
        )


def present_schema(names: Iterable[str]) -> pa.Schema:
    """The required columns, and the optional ones that are among the names."""
    names = set(names)
    return pa.schema([*SCHEMA, *(field for field in OPTIONAL_SCHEMA if field.name in names)])


def to_table(
    rows: Mapping[str, Any] | Iterable[Mapping[str, Any]], metadata: Mapping[str, Any], source: str
) -> pa.Table:
    """An Arrow table of the schema's columns and types."""
    if not isinstance(rows, Mapping):
        rows = list(rows)
        check_columns(rows[0] if rows else SCHEMA.names, metadata if rows else {}, source)
        names = present_schema(rows[0] if rows else ()).names
        for number, row in enumerate(rows):
            if lacking := [name for name in names if name not in row]:
                raise RecordsError(f"{source}: row {number} lacks {', '.join(map(repr, lacking))}")
        rows = {name: [row[name] for row in rows] for name in names}
    else:
        check_columns(rows, metadata, source)
    schema, arrays = present_schema(rows), []
    for field in schema:
        try:
            arrays.append(_to_array(rows[field.name], field.type))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise RecordsError(
                f"{source}: column {field.name!r} must hold {field.type}: {error}"
            ) from None
    lengths = {name: len(array) for name, array in zip(schema.names, arrays, strict=True)}
    if len(set(lengths.values())) > 1:
        raise RecordsError(f"{source}: columns of different lengths: {lengths}")
    return pa.table(arrays, schema=schema)


def _to_array(values: Any, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values.cast(kind)
    # A 2-D NumPy array is a sequence of its rows; Arrow takes 1-D ones only.
    values = list(values) if getattr(values, "ndim", 1) > 1 else values
    if pa.types.is_integer(_inner(kind)):
        found = pa.array(values)
        if pa.types.is_floating(_inner(found.type)):
            return found.cast(kind)  # which refuses fractions; made so at once they are cut off
    return pa.array(values, type=kind)


def _inner(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_list(kind) else kind
