"""The data of a report's interactive page, as JSON values."""

import base64
import gzip
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from cascade_jax import json_file
from cascade_jax.evaluation import confusion, curves
from cascade_jax.evaluation.results import Evaluation, Panel
from cascade_jax.evaluation.separation import Separation
from cascade_jax.records.table import Records
from cascade_jax.report import budget, examples, headline
from cascade_jax.report.metrics_json import MAX_POINTS, PANEL_FIELDS

MOST_PLAIN = 2_000_000  # letters that stand on the page as they are
_DIGITS = 6  # of what is drawn only; what is printed and compared is in full precision


def build(evaluation: Evaluation, *, seed: int = 0) -> dict[str, Any]:
    """Everything that the page shows and moves, as JSON values; what is undefined is None.

    The seed is that of the sample of examples.
    """
    tables = evaluation.tables
    scores = {name: cascade.score for name, cascade in evaluation.cascades.items()}
    sample = examples.sample(tables, scores, values=evaluation.token_values, seed=seed)
    sampled = {
        name: np.array([row["answers"][name]["score"] for row in sample["rows"]]) for name in tables
    }
    panels = []
    for kind, panel, rows in _panels(evaluation, next(iter(tables.values()))):
        cascades = {}
        for name, table in tables.items():
            parts = scores[name][rows], table.student_quality[rows], table.teacher_quality[rows]
            cascades[name] = {
                **_curve(panel.curves[name], sampled[name]),
                **_lines_around(panel, name),
                **_counts(parts, panel.curves[name]),
                "histogram": vars(confusion.histogram(*parts[:2])),
                "reliability": _reliability(panel.summaries[name].separation),
                "area": panel.summaries[name].area.value,
            }
        points = budget.page_points(evaluation) if kind == "pooled" else {}
        panels.append({**_about(kind, panel, tables, rows), "cascades": cascades, **points})
    return to_json(
        {
            "score": evaluation.score,
            "names": list(tables),
            "best": headline.best(evaluation.pooled),
            "start": start(evaluation.pooled),
            "right_from": confusion.RIGHT_FROM,
            "panels": panels,
            "examples": sample,
            **budget.page_data(evaluation),
        }
    )


def _reliability(separation: Separation) -> dict[str, Any]:
    """The confidence as it is and with a temperature; nothing where it is not known."""
    before, after = separation.reliability, separation.reliability_scaled
    return {
        "before": before and _rounded(vars(before)),
        "after": after and _rounded(vars(after)),
        "ece": separation.ece,
        "ece_scaled": separation.ece_scaled,
    }


def start(panel: Panel) -> int:
    """Where the slider begins: the first thinned point of the threshold that is recommended.

    It is the very point unless ties leave it out; its threshold is the recommended one even then.
    """
    choice = headline.choose(panel)
    thresholds = panel.curves[choice.name].thin(MAX_POINTS).thresholds
    return int(np.argmax(thresholds <= choice.threshold))


def _panels(evaluation: Evaluation, table: Records) -> Iterator[tuple[str, Panel, np.ndarray]]:
    """Kind, panel and rows of everything that can be selected."""
    yield "pooled", evaluation.pooled, np.arange(len(table))
    for kind, panels in (("task", evaluation.tasks), ("mean", evaluation.per_example)):
        for task, panel in panels.items():
            if evaluation.shows_tasks:
                yield kind, panel, np.flatnonzero(table.task == task)
    for name, panel in evaluation.groups.items():
        yield "group", panel, np.flatnonzero(np.isin(table.task, evaluation.group_tasks[name]))


def _about(
    kind: str, panel: Panel, tables: Mapping[str, Records], rows: np.ndarray
) -> dict[str, Any]:
    qualities = [table.student_quality[rows] for table in tables.values()]
    is_graded = not all(np.isin(quality, (0.0, 1.0)).all() for quality in qualities)
    fields = {name: getattr(panel, name) for name in PANEL_FIELDS}
    return {"kind": kind, "is_graded": is_graded, **fields}


def _curve(curve: curves.Curve, sampled: Float[np.ndarray, " rows"]) -> dict[str, Any]:
    """The points of metrics.json: k deferred (the rate is k / n); None = all are realised.

    ``sample_deferred`` is how many of the sampled examples each threshold defers.
    """
    thin = curve.thin(MAX_POINTS)
    return {
        "ks": _ks(curve),
        "quality": thin.quality,
        "cost": thin.cost,
        "thresholds": thin.thresholds,
        "sample_deferred": examples.num_deferred(sampled, thin.thresholds),
        **_rounded({"a1": thin.a1, "a2": thin.a2}),
        "is_realised": None if thin.is_realised.all() else thin.is_realised,
    }


def _ks(curve: curves.Curve) -> Int[np.ndarray, " points"]:
    """How many are deferred at each thinned point."""
    return np.rint(curve.thin(MAX_POINTS).rate * (len(curve.rate) - 1)).astype(int)


def _lines_around(panel: Panel, name: str) -> dict[str, Any]:
    """Random, ideal and oracle at the thinned points."""
    curve, oracle = panel.curves[name].thin(MAX_POINTS), panel.oracles[name].thin(MAX_POINTS)
    ideal = np.full(len(curve.rate), np.nan)
    if not panel.is_corpus:
        ideal = curves.ideal_quality(curve.rate, curve.student_quality, curve.teacher_quality)
    lines = {
        "random": np.interp(curve.rate, panel.curves[name].rate, panel.randoms[name]),
        "ideal": ideal,
        "oracle": oracle.quality,
        "oracle_cost": oracle.cost,
    }
    if np.array_equal(oracle.cost, curve.cost):  # unless costs differ by example
        del lines["oracle_cost"]
    return _rounded(lines)


def _counts(parts: tuple[np.ndarray, np.ndarray, np.ndarray], curve: curves.Curve) -> dict:
    """Right and wrong answers, kept and deferred, at the thinned points."""
    counts = _rounded(vars(confusion.confusion(*parts, _ks(curve))))
    if curve.thin(MAX_POINTS).is_realised.all():
        del counts["rate_at_threshold"]  # it is the rate
    return counts


def _rounded(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of floats to six significant digits, whole numbers as they are."""
    return {
        key: np.array([float(f"{v:.{_DIGITS}g}") for v in array.tolist()])
        if array.dtype.kind == "f" and not np.all(array == np.rint(array))
        else array
        for key, array in arrays.items()
    }


def to_json(value: Any) -> Any:
    """JSON values: NaN and inf become null, and 3.0 becomes 3."""
    return json_file.to_values(value, _short)


def _short(value: float) -> float | None:
    is_whole = value.is_integer() and abs(value) < 2**53
    return int(value) if is_whole else json_file.finite_or_null(value)


def element(value: Any) -> str:
    """The script element that holds JSON for the page; gzip in base64 where it is long."""
    text = script_text(value)
    if len(text) <= MOST_PLAIN:
        return f'<script type="application/json" id="data">{text}</script>'
    data = base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode("ascii")
    return f'<script type="text/plain" id="data" data-encoding="gzip">{data}</script>'


def script_text(value: Any) -> str:
    """JSON that can stand inside a script element whatever the texts in it are.

    ``<``, ``>`` and ``&`` would end the element or begin an entity, U+2028 and U+2029 end a line of
    a script: all five are written as escapes, which JSON reads back as the same text.
    """
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
