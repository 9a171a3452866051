"""Answers that the models of a cascade write together, token by token."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from cascade_jax.collection.questions import Questions, batches, input_length, progress_bar
from cascade_jax.inference.cascade import costs
from cascade_jax.inference.cascade import decode as cascade_decode
from cascade_jax.inference.cascade.steppers import ModelStepper
from cascade_jax.runs.saved_model import LoadedModel


@dataclasses.dataclass(frozen=True, eq=False)
class LiveAnswers:
    """Answers to n examples; after the end of each all columns are 0."""

    tokens: Int[np.ndarray, "n L"]  # ids, the end of sequence included
    lengths: Int[np.ndarray, " n"]  # number of tokens
    is_deferred: Bool[np.ndarray, "n L"]  # True where the large model wrote the token
    uncertainties: Float[np.ndarray, "n L"]  # of the small model at each token
    flops: Float[np.ndarray, " n"]  # spent on each answer by both models
    texts: list[str]


def joined(batches: Iterable[LiveAnswers]) -> LiveAnswers:
    """Batches joined into one."""
    batches = list(batches)
    names = [field.name for field in dataclasses.fields(LiveAnswers) if field.name != "texts"]
    arrays = {n: np.concatenate([getattr(batch, n) for batch in batches]) for n in names}
    return LiveAnswers(**arrays, texts=[text for batch in batches for text in batch.texts])


def decode(
    models: Sequence[LoadedModel],
    questions: Questions,
    uncertainty: str,
    thresholds: Sequence[float] | Float[np.ndarray, "n K"],
    label: str = "",
    bar_stays: bool = False,
) -> Iterator[LiveAnswers]:
    """Lets a cascade answer all examples, a batch at a time; on many hosts all have the answers.

    Args:
      models: in order of cost; two so far.
      questions: examples, vocabulary, lengths and mesh.
      uncertainty: see `decode.make_cascade_decode_fn`.
      thresholds: one, or one for each block of positions; or such a row for each example.
      label, bar_stays: of the progress bar, and whether it stays when it is full.

    Raises:
      ValueError: an uncertainty is NaN or infinite; names the example.
    """
    fn = cascade_decode.make_cascade_decode_fn(
        *(ModelStepper(model.module, model.rules) for model in models),
        questions.data.target_length,
        questions.mixture.eos_id,
        uncertainty=uncertainty,
        is_packed=questions.mesh.size == 1,
    )
    params, count = [model.params for model in models], len(questions.examples)
    thresholds = np.asarray(thresholds, np.float32)
    own = np.broadcast_to(thresholds, (count, thresholds.shape[-1]))

    def arguments(inputs, members):
        # Rows that only fill the batch up never defer.
        limits = np.full((len(inputs), own.shape[1]), np.inf, np.float32)
        limits[: len(members)] = own[members]
        return *params, inputs, limits

    with progress_bar(label, count, bar_stays) as bar:
        for members, made, _ in batches(fn, arguments, questions, list(range(count)), bar):
            yield _answers(made, members, models, questions)


def _answers(
    made: cascade_decode.CascadeGeneration,
    members: list[int],
    models: Sequence[LoadedModel],
    questions: Questions,
) -> LiveAnswers:
    """Answers of a batch, whose first rows are the examples."""
    count, examples = len(members), [questions.examples[row] for row in members]
    lengths = [input_length(example) for example in examples]
    lengths += lengths[-1:] * (len(made.lengths) - count)
    spent = costs.cascade_flops(made, *(model.module.config for model in models), lengths)
    is_counted = np.arange(made.tokens.shape[1]) < made.lengths[:count, None]
    uncertainties = np.where(is_counted, made.uncertainties[:count], 0.0)
    bad = np.flatnonzero(~np.isfinite(uncertainties).all(axis=1))
    if bad.size:
        raise ValueError(
            f"the small model's uncertainty is not a number in the answer to example "
            f"{examples[bad[0]].example_id!r}; are its parameters finite?"
        )
    decode_ids = questions.mixture.vocabulary.decode
    rows = zip(made.tokens, made.lengths[:count], strict=False)
    return LiveAnswers(
        tokens=made.tokens[:count],
        lengths=made.lengths[:count],
        is_deferred=made.is_deferred[:count].astype(bool) & is_counted,
        uncertainties=uncertainties,
        flops=(spent.student + spent.teacher)[:count].astype(np.float64),
        texts=[decode_ids(row[:length].tolist()) for row, length in rows],
    )
