"""Next tokens under teacher forcing: each target token is a row of its own."""

import dataclasses
import functools

import jax
import numpy as np
from jaxtyping import Float, Int

from cascade_jax.batch import PAD_ID
from cascade_jax.collection.answers import Answers
from cascade_jax.collection.measuring import AnswerQuality
from cascade_jax.collection.questions import (
    Questions,
    filled,
    grouped,
    grouped_batches,
    input_length,
    progress_bar,
    to_global,
    with_rules,
)
from cascade_jax.data import features, pipeline
from cascade_jax.data.vocabulary import pieces
from cascade_jax.inference import teacher_forced
from cascade_jax.models import flops
from cascade_jax.runs.saved_model import LoadedModel

METRIC = "next_token_accuracy"
CONTEXT = 32  # tokens before a token that its row shows


def targets_of(questions: Questions) -> Int[np.ndarray, "n L"]:
    """Ids of every example's target as the models are trained on them, 0 for padding."""
    targets = np.full((len(questions.examples), questions.data.target_length), PAD_ID, np.int32)
    for row, example in enumerate(questions.examples):
        ids = example.features[features.TARGETS][: targets.shape[1]]
        targets[row, : len(ids)] = ids
    return targets


def examples(questions: Questions) -> list[pipeline.Example]:
    """A row for each target token: its id ends in the token's place, its target is the token.

    Example: the third token of row 7 of a task's test split: ``task/test/7/2``. The text of its
    input is that of the CONTEXT tokens before it; " → " stands where the target begins.

    Raises:
      ValueError: no example has a token in its target.
    """
    vocabulary, rows = questions.mixture.vocabulary, []
    for example, target in zip(questions.examples, targets_of(questions), strict=True):
        inputs = example.inputs[: input_length(example)]
        inputs = inputs[inputs != vocabulary.eos_id].tolist()
        for place in np.flatnonzero(target != PAD_ID).tolist():
            before = target[max(0, place - CONTEXT) : place].tolist()
            text = pieces.text_of(vocabulary, before)
            if len(before) < CONTEXT:
                tail = pieces.text_of(vocabulary, inputs[-(CONTEXT - len(before)) :])
                text = f"{tail} → {text}"
            rows.append(
                dataclasses.replace(
                    example,
                    example_id=f"{example.example_id}/{place}",
                    inputs_text=text,
                    target_text=questions.piece_of(int(target[place])),
                )
            )
    if not rows:
        raise ValueError(f"no example of {questions.mixture.name!r} has a token in its target")
    return rows


def answer(
    model: LoadedModel, questions: Questions, top_k: int = 0, embeddings: bool = False
) -> Answers:
    """One model's likeliest token at every place, each an answer; in the order of `examples`.

    Of several likeliest tokens it is the label, if that is among them. An example is read in one
    pass, whose FLOPs and seconds its tokens share; the input of a token is all that stands before
    it, and its embedding the hidden state that the token is predicted from. Arguments are as in
    `answers.answer`.
    """
    targets = targets_of(questions)
    is_token = targets != PAD_ID
    counts = np.count_nonzero(is_token, axis=1)

    def arguments(inputs, group):
        batch = targets[filled(group), : group.shape[1]]
        return model.params, inputs, to_global(batch, questions)

    fn = teacher_forced.make_next_tokens_fn(model.module, top_k, embeddings)
    fn, rows = with_rules(fn, model.rules), range(len(targets))
    groups = grouped(questions, rows, counts, questions.data.target_length)
    parts, token_rows, seconds = [], [], np.zeros(len(targets))
    with progress_bar(f"{model.name} answers", len(targets)) as bar:
        for group, made, seconds_of_row in grouped_batches(fn, arguments, questions, groups, bar):
            at = is_token[group.rows, : group.shape[1]]
            # Padding is left behind here: over a whole split it would take as much memory again.
            parts.append(jax.tree.map(lambda a, at=at: a[: len(at)][at], made))
            token_rows += np.repeat(group.rows, counts[group.rows]).tolist()
            seconds[group.rows] = seconds_of_row
    order = np.argsort(token_rows, kind="stable")  # a row's tokens stay in their order
    tokens = jax.tree.map(lambda *arrays: np.concatenate(arrays)[order], *parts)
    return _as_answers(model, questions, targets, tokens, seconds)


def _as_answers(
    model: LoadedModel,
    questions: Questions,
    targets: Int[np.ndarray, "n L"],
    made: teacher_forced.NextTokens,
    seconds: Float[np.ndarray, " n"],
) -> Answers:
    """All tokens one after the other, each as an answer of one token."""
    rows, places = np.nonzero(targets != PAD_ID)
    lengths = np.array([input_length(example) for example in questions.examples])
    counts = np.count_nonzero(targets != PAD_ID, axis=1)
    forward = functools.cache(functools.partial(flops.forward_flops, model.module.config))
    sizes = zip(lengths.tolist(), counts.tolist(), strict=True)
    flops_of_pass = np.array([forward(*size) for size in sizes], np.float64)
    texts = list(map(questions.piece_of, made.tokens.tolist()))
    names = ["tokens", "log_probs", "entropies"]
    names += [] if made.top_ids is None else ["top_log_probs", "top_ids"]
    return Answers(
        **{name: list(getattr(made, name)[:, None]) for name in names},
        texts=texts,
        pieces=[[text] for text in texts],
        input_tokens=(lengths[rows] + places).astype(np.int32),
        flops=(flops_of_pass / np.maximum(counts, 1))[rows],
        seconds=(seconds / np.maximum(counts, 1))[rows],
        embeddings=made.hidden,
    )


def measure(answers: Answers, questions: Questions) -> AnswerQuality:
    """1 for a token that is the label, else 0; a task's figure is the mean over its tokens."""
    targets = targets_of(questions)
    rows, places = np.nonzero(targets != PAD_ID)
    quality = (np.concatenate(answers.tokens) == targets[rows, places]).astype(np.float64)
    tasks = np.array([example.task for example in questions.examples])[rows]
    return AnswerQuality(
        metrics=[METRIC] * len(quality),
        quality=quality,
        statistics=[np.zeros(0, np.int64)] * len(quality),
        figures={task: {METRIC: float(np.mean(quality[tasks == task]))} for task in set(tasks)},
    )
