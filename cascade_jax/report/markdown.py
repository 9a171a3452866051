"""An evaluation as Markdown, to be pasted into a document as it is."""

from cascade_jax.evaluation import split_figures
from cascade_jax.evaluation.results import Evaluation
from cascade_jax.report import tables
from cascade_jax.report.numbers import repeats_text
from cascade_jax.text_table import Column, as_markdown, markdown_text


def render(evaluation: Evaluation) -> str:
    """The pooled summary with intervals, scores, comparisons, curves, groups, tasks, figures."""
    pooled = evaluation.pooled
    teacher = next(iter(pooled.summaries.values())).teacher_quality
    (large,) = Column("", [tables.estimate(teacher)]).texts()
    what = "inputs" if pooled.num_repeats else "examples"
    parts = [
        f"{markdown_text(pooled.title)}: {pooled.num_examples:,} examples; quality is "
        f"{markdown_text(pooled.metric)}; the large "
        f"model alone has {large}. In brackets 95 % intervals "
        f"({evaluation.bootstrap_samples} bootstrap resamples of the {what}).",
        *filter(None, [repeats_text(pooled)]),
        as_markdown(tables.summary(pooled)),
    ]
    if evaluation.points:
        parts.append(as_markdown(tables.policies(evaluation)))
        warnings = [text for point in evaluation.points.values() for text in point.warnings]
        parts += dict.fromkeys(map(markdown_text, warnings))
    parts.append(as_markdown(tables.separation(pooled)))
    if evaluation.scores:
        parts.append(as_markdown(tables.scores(pooled.scores)))
        costs = tables.score_costs(pooled.scores)
        parts += [as_markdown(costs)] * costs.has_rows
    parts += [f"{markdown_text(note)}." for note in evaluation.cost_notes]
    if pooled.comparisons:
        parts.append(as_markdown(tables.comparisons(pooled)))
    parts.append(as_markdown(tables.curve(pooled)))
    if evaluation.groups:
        title = "Per group of tasks, as the table of tasks below"
        parts.append(as_markdown(tables.alone_and_area(title, "group", evaluation.groups)))
    title = "Per task: quality of the large model, then of each small model alone / area under "
    title += "its curve"
    parts.append(as_markdown(tables.alone_and_area(title, "task", evaluation.tasks)))
    if split_figures.is_informative(evaluation):
        parts.append(as_markdown(tables.figures(evaluation)))
    parts += [f"{markdown_text(note)}." for note in evaluation.notes]
    return "\n\n".join(parts) + "\n"
