"""A registered task once more, with a misleading sentence in its input: a second input template."""

from collections.abc import Callable

import seqio
import tensorflow as tf

from cascade_jax.data import catalog, features
from cascade_jax.data.options import OPTIONS
from cascade_jax.evaluation import misleading
from tasks.registration import add_task

# Our own words: those of the papers are unverified.
TEMPLATE = "{inputs}\nHint: the answer is {wrong}."


def other_option(row: dict) -> tf.Tensor:
    """The option of a row that follows its target, the first one after the last."""
    options, target = row[OPTIONS], row[features.TARGETS]
    start = tf.argmax(tf.cast(options == target, tf.int32))
    rolled = tf.roll(options, -tf.cast(start, tf.int32), axis=0)
    others = tf.boolean_mask(rolled, rolled != target)
    check = tf.debugging.assert_positive(tf.size(others), "a row has no option beside its target")
    with tf.control_dependencies([check]):
        return others[0]


def add_misled(
    task: str,
    *,
    template: str = TEMPLATE,
    wrong_fn: Callable[[dict], tf.Tensor] = other_option,
) -> str:
    """Registers a task's misleading twin, and returns its name, `misleading.misled_name`.

    Source, splits, targets, options and metrics are the task's; its rows have the same numbers in
    their ids, so that `misleading.from_tables` pairs them. Collect both with the same model.

    Args:
      task: a registered task whose preprocessors end in `features.tokenizing()`.
      template: of the input, with {inputs} and {wrong} in it.
      wrong_fn: a wrong answer, from a row before it is tokenised; by default another of its
        options, for tasks that have such.

    Raises:
      ValueError: a template without the two, a task that is not registered or that makes its own
        token ids, or one without options where `wrong_fn` is left out.

    Reference: Dang et al. 2024, "Exploring Response Uncertainty in MLLMs", explicit misleading.
    """
    for part in ("{inputs}", "{wrong}"):
        if template.count(part) != 1:
            raise ValueError(f"template is {template!r}; must have {part} once")
    if task not in seqio.TaskRegistry.names():
        raise ValueError(f"task is {task!r}; must be registered before its misleading twin")
    registered, card = seqio.TaskRegistry.get(task), catalog.card_of(task)
    steps = list(registered.preprocessors)
    if not features.ends_in_tokenizing(steps):
        raise ValueError(
            f"task {task!r} makes its own token ids; must end in features.tokenizing()"
        )
    has_options = card is not None and card.kind in catalog.WITH_OPTIONS
    if wrong_fn is other_option and not has_options:
        raise ValueError(f"task {task!r} has no options; give wrong_fn, a wrong answer of a row")

    def mislead(row: dict) -> dict:
        values = {"{inputs}": row[features.INPUTS], "{wrong}": wrong_fn(row)}
        parts = [values.get(part, part) for part in _parts(template)]
        return {**row, features.INPUTS: tf.strings.join(parts)}

    return add_task(
        misleading.misled_name(task),
        registered.source,
        [*steps[: -len(features.tokenizing())], seqio.map_over_dataset(mislead)],
        registered.metric_fns,
        registered.postprocessor,
        suite=card.suite if card else "",
        kind=card.kind if card else "generation",
    )


def _parts(template: str) -> list[str]:
    """The template, cut at its two places."""
    before, inputs, rest = template.partition("{inputs}")
    parts = [*before.partition("{wrong}"), inputs, *rest.partition("{wrong}")]
    return [part for part in parts if part]
