"""Every metric of every task over the whole split, as in the tables of papers."""

import itertools
import math
from collections.abc import Mapping

from cascade_jax.evaluation.results import Evaluation, Panel, SplitFigure
from cascade_jax.records.schema import CORPUS_METRICS, FIGURES, GREEDY
from cascade_jax.records.table import Records

# Two ways to compute one mean; a metric that only shares the name is further off.
_SAME = 1e-6


def compute(
    tables: Mapping[str, Records], tasks: Mapping[str, Panel], per_example: Mapping[str, Panel]
) -> tuple[SplitFigure, ...]:
    """Figures of all tasks: of both models as the records have them, of cascades where exact.

    A cascade has a figure for a task's corpus metric, by added statistics, and for the per-example
    quality, by its mean. For other metrics of the whole list, such as F1 of a class, records cannot
    tell what a mixture of answers would have.

    Args:
      tables: comparable records by cascade name.
      tasks: the panel of each task.
      per_example: of the tasks whose panel is of a corpus metric, the panels by means.
    """
    figures: list[SplitFigure] = []
    for task, panel in tasks.items():
        stated = {name: _stated(table, task) for name, table in tables.items()}
        means = per_example.get(task, panel)
        panels = {means.metric: means}
        if panel.is_corpus:
            first = next(iter(tables.values()))
            panels = {first.metadata[CORPUS_METRICS][task]["name"]: panel, **panels}
        decoding = next(iter(tables.values())).decoding(task)
        for metric in dict.fromkeys(itertools.chain(panels, *stated.values())):
            stated_values = _stated_figures(stated, metric)
            if metric in panels:
                computed = _panel_figures(panels[metric])
                if not stated_values or _is_same(stated_values, computed):
                    figures.append(SplitFigure(task, metric, decoding, *computed))
                    continue
                # A metric of the whole list that has the name of the per-example quality.
                figures.append(SplitFigure(task, f"{metric} (mean)", decoding, *computed))
            figures.append(SplitFigure(task, metric, decoding, *stated_values))
    return tuple(figures)


_Values = tuple[float, dict[str, float], dict[str, tuple[float, ...]]]


def _stated(table: Records, task: str) -> dict[str, tuple[float, float]]:
    """By metric, the values of the small and of the large model, as records state them."""
    ends = table.models[0], table.models[-1]
    by_metric = table.metadata.get(FIGURES, {}).get(task, {})
    return {
        metric: tuple(_number(by_model[model]) for model in ends)
        for metric, by_model in by_metric.items()
    }


def _stated_figures(
    stated: Mapping[str, Mapping[str, tuple[float, float]]], metric: str
) -> _Values | tuple[()]:
    """Values of the large model and of the small ones; () if no records state any."""
    pairs = {name: figures[metric] for name, figures in stated.items() if metric in figures}
    if not pairs:
        return ()
    students = {name: pairs.get(name, (math.nan,))[0] for name in stated}
    return next(iter(pairs.values()))[1], students, {}


def _panel_figures(panel: Panel) -> _Values:
    summaries = panel.summaries
    return (
        next(iter(summaries.values())).teacher_quality.value,
        {name: summary.student_quality.value for name, summary in summaries.items()},
        {
            name: tuple(estimate.value for estimate in summary.quality_at_rate)
            for name, summary in summaries.items()
        },
    )


def _is_same(stated: _Values, computed: _Values) -> bool:
    pairs = [(stated[0], computed[0]), *((stated[1][n], computed[1][n]) for n in computed[1])]
    return all(math.isnan(ours) or abs(ours - theirs) < _SAME for ours, theirs in pairs)


def _number(value: float | int | None) -> float:
    return math.nan if value is None else float(value)


def is_informative(evaluation: Evaluation) -> bool:
    """Whether they hold more than each task's per-example quality of greedy answers.

    That alone stands in the table of tasks already.
    """
    tasks = [figure.task for figure in evaluation.figures]
    is_greedy = all(figure.decoding in (GREEDY, "") for figure in evaluation.figures)
    return len(set(tasks)) < len(tasks) or not is_greedy
