"""An evaluation as JSON: every figure in full precision, in lines that a reader can follow."""

import json
import math
from collections.abc import Iterator
from typing import Any

from cascade_jax import json_file, records
from cascade_jax.evaluation.results import (
    Evaluation,
    OwnCost,
    Panel,
    RecordsSource,
    ScoreSummary,
)
from cascade_jax.records.schema import POLICY

MAX_POINTS = 201  # of a curve
_SCORE_POINTS = 101  # of a curve of one of several scores
PANEL_FIELDS = ("title", "metric", "is_corpus", "num_examples", "num_inputs")
PANEL_FIELDS += ("cost_label", "cost_unit")


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Every figure as JSON values; NaN and inf become null."""
    return json_file.to_values(
        {
            "schema_version": records.SCHEMA_VERSION,
            "score": evaluation.score,
            "bootstrap_samples": evaluation.bootstrap_samples,
            "seed": evaluation.seed,
            "sources": [_source(source) for source in evaluation.sources],
            "pooled": _panel(evaluation.pooled),
            "macro": evaluation.macro(),
            "scores": {
                name: {score: _score(summary) for score, summary in by_score.items()}
                for name, by_score in evaluation.scores.items()
            },
            "groups": {
                group: {"tasks": evaluation.group_tasks[group], **_panel(panel)}
                for group, panel in evaluation.groups.items()
            },
            "tasks": {task: _panel(panel) for task, panel in evaluation.tasks.items()},
            "per_example": {t: _panel(panel) for t, panel in evaluation.per_example.items()},
            "figures": evaluation.figures,
            "notes": evaluation.notes,
            # Only where a score's own cost is not known.
            **({"cost_notes": evaluation.cost_notes} if evaluation.cost_notes else {}),
            # Only where a cascade ran live, or a policy was laid on the curves.
            **({"live": evaluation.live} if evaluation.live else {}),
            **({"policy": evaluation.points} if evaluation.points else {}),
        },
        json_file.finite_or_null,
    )


def _source(source: RecordsSource) -> dict[str, Any]:
    """A source, without what only the certificate of a live cascade needs to hold."""
    metadata = dict(source.metadata)
    if POLICY in metadata:
        long = ("candidates", "seen")
        metadata[POLICY] = {key: v for key, v in metadata[POLICY].items() if key not in long}
    return {"name": source.name, "path": source.path, "metadata": metadata}


def dump(value: Any) -> str:
    """JSON with a line for each key, and lists of numbers on the line of theirs."""
    return "".join(_pieces(value, "")) + "\n"


def _pieces(value: Any, indent: str) -> Iterator[str]:
    deeper = indent + " "
    if isinstance(value, dict) and value:
        before = "{\n"
        for key, inner in value.items():
            yield f"{before}{deeper}{json.dumps(key, ensure_ascii=False)}: "
            yield from _pieces(inner, deeper)
            before = ",\n"
        yield f"\n{indent}}}"
    elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        before = "[\n"
        for inner in value:
            yield before + deeper
            yield from _pieces(inner, deeper)
            before = ",\n"
        yield f"\n{indent}]"
    else:
        yield json.dumps(value, allow_nan=False, ensure_ascii=False)


def _panel(panel: Panel) -> dict[str, Any]:
    cascades = {}
    for name, summary in panel.summaries.items():
        curve, oracle = panel.curves[name].thin(MAX_POINTS), panel.oracles[name].thin(MAX_POINTS)
        # A corpus metric is no sum of a kept and a deferred part.
        left_out = ("a1", "a2") if panel.is_corpus else ()
        points = {k: v for k, v in vars(curve).items() if k not in left_out}
        cascades[name] = {"summary": summary, "curve": points}
        cascades[name] |= {"oracle_quality": oracle.quality, "oracle_cost": oracle.cost}
    fields = {name: getattr(panel, name) for name in (*PANEL_FIELDS, "references")}
    return fields | {"cascades": cascades, "comparisons": panel.comparisons}


def _score(summary: ScoreSummary) -> dict[str, Any]:
    curve = summary.curve.thin(_SCORE_POINTS)
    figures = {name: getattr(summary, name) for name in ("area", "s_d_ideal", "s_d_oracle")}
    points = {name: getattr(curve, name) for name in ("rate", "quality", "cost")}
    own = {} if summary.own_cost is None else {"own_cost": _own_cost(summary.own_cost)}
    return {**figures, **vars(summary.ranking), **own, "curve": points}


def _own_cost(own: OwnCost) -> dict[str, Any]:
    """With a word for a score that never pays: null is for what is not known."""
    return vars(own) | ({"pays_from": "never"} if own.pays_from == math.inf else {})
