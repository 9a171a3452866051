"""The sample of examples that a report's page can be searched through."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from cascade_jax.deferral import policy
from cascade_jax.deferral.scores import ArithmeticMean, GeometricMean, Kurtosis
from cascade_jax.evaluation import confusion
from cascade_jax.records.table import Records
from cascade_jax.report import token_values

MAX_EXAMPLES = 1000
MAX_BYTES = 5_000_000
# Of each answer, as the pictures of Park et al. 2025 have them. A score is the number with its sign
# turned: "excess kurtosis" here.
STATISTICS = {
    "geometric mean": GeometricMean(),
    "arithmetic mean": ArithmeticMean(),
    "excess kurtosis": Kurtosis(),
}
_TEXT_LIMIT, _TOKEN_LIMIT = 4000, 256


def sample(
    tables: Mapping[str, Records],
    scores: Mapping[str, Float[np.ndarray, " n"]],
    *,
    values: Sequence[Callable] = (),
    seed: int = 0,
    max_examples: int = MAX_EXAMPLES,
    max_bytes: int = MAX_BYTES,
) -> dict[str, Any]:
    """Examples of every task, right and wrong ones in equal number as far as there are such.

    Args:
      tables, scores: aligned records and deferral scores by cascade name.
      values: quantities of tokens beside those of `token_values.KNOWN`.
      seed: of the draw.
      max_examples, max_bytes: where it ends; bytes are those of the rows in the page.

    Returns:
      The ``total`` number of examples, the ``rows`` drawn, in the order of the records, the
      quantities of tokens, ``token_values``, and the names of each answer's ``statistics``. A row
      has what all cascades share, and under ``answers`` what each small model wrote; its ``rank``
      is the number of rows with a higher score.
    """
    first = next(iter(tables.values()))
    drawn = draw_order(tables, seed)[:max_examples]
    # Texts of the drawn rows only are read.
    tables = {name: table.take(drawn) for name, table in tables.items()}
    scores = {name: score[drawn] for name, score in scores.items()}
    answers = {name: table.student for name, table in tables.items()}
    quantities = token_values.offered(answers, values)
    statistics = {
        name: np.stack([-score(tokens) for score in STATISTICS.values()], axis=1)
        for name, tokens in answers.items()
    }
    rows, used = {}, 0
    for position, row in enumerate(drawn.tolist()):
        rows[row] = _describe(tables, scores, position)
        for name, answer in rows[row]["answers"].items():
            answer["statistics"] = list(map(token_values.short, statistics[name][position]))
            answer["values"] = _values(answers[name].offsets, quantities, name, position)
        used += _bytes(rows[row])
        if used > max_bytes:
            del rows[row]
            break
    for name, score in scores.items():
        described = [row["answers"][name] for row in rows.values()]
        for answer, rank in zip(described, num_deferred(score[: len(rows)], score), strict=False):
            answer["rank"] = int(rank)
    return {
        "total": len(first),
        "rows": [rows[row] for row in sorted(rows)],
        "statistics": list(STATISTICS),
        "token_values": _scales(quantities, rows.values()),
    }


def _values(
    offsets: Int[np.ndarray, " n_plus_1"],
    quantities: Sequence[tuple[token_values.TokenValue, Mapping[str, Any]]],
    name: str,
    row: int,
) -> list[list[float] | None]:
    """Every quantity of the answer's first tokens; None for one that its records do not have."""
    shown = slice(offsets[row], min(offsets[row + 1], offsets[row] + _TOKEN_LIMIT))
    columns = [by_name[name] for _, by_name in quantities]
    return [
        None if column is None else list(map(token_values.short, column[shown]))
        for column in columns
    ]


def _scales(
    quantities: Sequence[tuple[token_values.TokenValue, Any]], rows: Collection[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """How each quantity is coloured: by its values in these rows, of all cascades alike."""
    scales = []
    for number, (quantity, _) in enumerate(quantities):
        lists = (a["values"][number] for row in rows for a in row["answers"].values())
        values = [value for one in lists if one is not None for value in one]
        scales.append(token_values.scale(quantity, np.array(values or [0.0])))
    return scales


def num_deferred(
    scores: Float[np.ndarray, " n"], thresholds: Float[np.ndarray, " points"]
) -> Int[np.ndarray, " points"]:
    """How many of the scores each threshold defers.

    So with its own score as threshold, an example has its rank: the number of higher scores. A
    threshold defers it iff the rank is below what is deferred: a page that knows the ranks compares
    no scores.
    """
    return policy.defers(scores[None], thresholds[:, None]).sum(axis=1)


def draw_order(tables: Mapping[str, Records], seed: int) -> Int[np.ndarray, " n"]:
    """All rows, so ordered that any first part of them is even over the strata.

    A stratum is a task and whether all, some or none of the small models have the answer right.
    Each gives one of its rows, by chance, then each a second one, and so on.
    """
    first = next(iter(tables.values()))
    rights = np.stack([confusion.is_right(t.student_quality) for t in tables.values()])
    share = np.where(rights.all(axis=0), 2, np.where(rights.any(axis=0), 1, 0))
    _, task = np.unique(first.task.astype(str), return_inverse=True)
    stratum = 3 * task + share
    shuffled = np.random.default_rng(seed).permutation(len(first))
    by_stratum = shuffled[np.argsort(stratum[shuffled], kind="stable")]
    _, starts, sizes = np.unique(stratum[by_stratum], return_index=True, return_counts=True)
    turn = np.arange(len(first)) - np.repeat(starts, sizes)
    return by_stratum[np.argsort(turn, kind="stable")]


def _describe(
    tables: Mapping[str, Records], scores: Mapping[str, np.ndarray], row: int
) -> dict[str, Any]:
    first = next(iter(tables.values()))
    texts = ("example_id", "task", "inputs", "target", "teacher_answer")
    return {
        **{name: _cut(str(getattr(first, name)[row])) for name in texts},
        "teacher_quality": float(first.teacher_quality[row]),
        "answers": {
            name: {
                "text": _cut(str(table.student_answer[row])),
                "quality": float(table.student_quality[row]),
                "score": float(scores[name][row]),
                "rank": len(scores[name]),  # not known before all rows are; takes no more bytes
                **_tokens(table, row),
                **_live(table, row),
            }
            for name, table in tables.items()
        },
    }


def _tokens(table: Records, row: int) -> dict[str, Any]:
    """Texts of the answer's first tokens where the records have them, and how many are left."""
    shown: dict[str, Any] = {}
    num_tokens = table.student_offsets[row + 1] - table.student_offsets[row]
    if num_tokens > _TOKEN_LIMIT:
        shown["more_tokens"] = int(num_tokens) - _TOKEN_LIMIT
    pieces = table.pieces("student", row)
    if pieces is not None:
        shown["pieces"] = list(pieces[:_TOKEN_LIMIT])
    return shown


def _live(table: Records, row: int) -> dict[str, Any]:
    """What the live cascade wrote, and which model each of its first tokens; nothing without it."""
    if table.cascade_answer is None:
        return {}
    start, end = table.cascade_offsets[row], table.cascade_offsets[row + 1]
    shown = slice(start, min(end, start + _TOKEN_LIMIT))
    live: dict[str, Any] = {
        "quality": float(table.cascade_quality[row]),
        "pieces": list(table.pieces("cascade", row)[:_TOKEN_LIMIT]),
        "deferred": [int(value) for value in table.cascade_is_deferred[shown]],
        "uncertainties": [round(float(value), 3) for value in table.cascade_uncertainties[shown]],
    }
    if end > shown.stop:
        live["more_tokens"] = int(end - shown.stop)
    return {"live": live}


def _bytes(row: Mapping[str, Any]) -> int:
    """Of a row in the page, where each of ``<>&`` is an escape of six characters."""
    text = json.dumps(row, ensure_ascii=False)
    return len(text.encode()) + 5 * sum(map(text.count, "<>&"))


def _cut(text: str) -> str:
    if len(text) <= _TEXT_LIMIT:
        return text
    return f"{text[:_TEXT_LIMIT]}… ({len(text) - _TEXT_LIMIT:,} more characters are in the records)"
