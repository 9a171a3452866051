"""Next tokens under teacher forcing: each counted target token as a question of its own."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from cascade_jax.batch import PAD_ID
from cascade_jax.collection import answers as answers_lib
from cascade_jax.collection.answers import Answers, Measured, Questions
from cascade_jax.data import features, pipeline
from cascade_jax.data.browse import rows as row_view
from cascade_jax.inference import teacher_forced
from cascade_jax.models import families, flops
from cascade_jax.parallel import rules

METRIC = "next_token_accuracy"
CONTEXT = 32  # tokens before a token that its row shows


def targets_of(questions: Questions) -> Int[np.ndarray, "n L"]:
    """Ids of every example's target as the models are trained on them, 0 for padding."""
    found = np.full((len(questions.examples), questions.data.target_length), PAD_ID, np.int32)
    for row, example in enumerate(questions.examples):
        ids = example.features[features.TARGETS][: found.shape[1]]
        found[row, : len(ids)] = ids
    return found


def examples(questions: Questions) -> list[pipeline.Example]:
    """A row for each target token: its id ends in the token's place, its target is the token.

    Example: the third token of row 7 of a task's test split: ``task/test/7/2``. The text of its
    input is that of the CONTEXT tokens before it; " → " stands where the target begins.

    Raises:
      ValueError: no example has a token in its target.
    """
    vocabulary, found = questions.mixture.vocabulary, []
    piece_of = functools.cache(functools.partial(answers_lib.piece_of, vocabulary))
    for example, target in zip(questions.examples, targets_of(questions), strict=True):
        inputs = example.inputs[: answers_lib.input_length(example)]
        inputs = inputs[inputs != vocabulary.eos_id].tolist()
        for place in np.flatnonzero(target != PAD_ID).tolist():
            before = target[max(0, place - CONTEXT) : place].tolist()
            text = row_view.text_of(vocabulary, before)
            if len(before) < CONTEXT:
                tail = row_view.text_of(vocabulary, inputs[-(CONTEXT - len(before)) :])
                text = f"{tail} → {text}"
            found.append(
                dataclasses.replace(
                    example,
                    example_id=f"{example.example_id}/{place}",
                    inputs_text=text,
                    target_text=piece_of(int(target[place])),
                )
            )
    if not found:
        raise ValueError(f"no example of {questions.mixture.name!r} has a token in its target")
    return found


def answer(
    name: str,
    module: families.Model,
    params: Any,
    questions: Questions,
    top_k: int = 0,
    embeddings: bool = False,
) -> Answers:
    """One model's likeliest token at every place, each an answer; in the order of `examples`.

    Of several likeliest tokens it is the label, if that is among them. An example is read in one
    pass, whose FLOPs and seconds its tokens share; the input of a token is all that stands before
    it, and its embedding the hidden state that the token is predicted from.

    Args:
      name: of the model, for the progress bar.
      module: unbound.
      params: its parameters, on the mesh.
      questions: the examples.
      top_k: so many of the largest log-probs at each token.
      embeddings: whether hidden states are wanted.
    """
    targets = targets_of(questions)
    sharding = rules.batch_sharding(questions.mesh)

    def arguments(inputs, rows):
        filled = targets[rows + [rows[-1]] * (inputs.shape[0] - len(rows))]
        placed = jax.make_array_from_callback(filled.shape, sharding, filled.__getitem__)
        return params, inputs, placed

    fn = teacher_forced.make_next_tokens_fn(module, top_k, embeddings)
    parts, seconds, done = [], [], 0
    batches = answers_lib.batches(fn, arguments, questions, list(range(len(targets))))
    with answers_lib.progress_bar(name, len(targets)) as bar:
        for group, made, seconds_of_row in batches:
            is_token = targets[done : done + len(group)] != PAD_ID
            # Padding is left behind here: over a whole split it would take as much memory again.
            parts.append(jax.tree.map(lambda a, at=is_token: a[: len(at)][at], made))
            seconds += [seconds_of_row] * len(group)
            done += len(group)
            bar.update(len(group))
    found = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
    return _as_answers(module, questions, targets, found, np.array(seconds))


def _as_answers(
    module: families.Model,
    questions: Questions,
    targets: Int[np.ndarray, "n L"],
    found: teacher_forced.NextTokens,
    seconds: Float[np.ndarray, " n"],
) -> Answers:
    """What was found for all tokens one after the other, each as an answer of one token."""
    rows, places = np.nonzero(targets != PAD_ID)
    lengths = np.array([answers_lib.input_length(example) for example in questions.examples])
    counts = np.count_nonzero(targets != PAD_ID, axis=1)
    forward = functools.cache(functools.partial(flops.forward_flops, module.config))
    sizes = zip(lengths.tolist(), counts.tolist(), strict=True)
    of_pass = np.array([forward(*size) for size in sizes], np.float64)
    piece_of = functools.partial(answers_lib.piece_of, questions.mixture.vocabulary)
    texts = list(map(functools.cache(piece_of), found.tokens.tolist()))
    has_top = found.top_ids is not None
    return Answers(
        tokens=list(found.tokens[:, None]),
        log_probs=list(found.log_probs[:, None]),
        entropies=list(found.entropies[:, None]),
        texts=texts,
        pieces=[[text] for text in texts],
        input_tokens=(lengths[rows] + places).astype(np.int32),
        flops=(of_pass / np.maximum(counts, 1))[rows],
        seconds=(seconds / np.maximum(counts, 1))[rows],
        top_log_probs=list(found.top_log_probs[:, None]) if has_top else None,
        top_ids=list(found.top_ids[:, None]) if has_top else None,
        embeddings=found.hidden,
    )


def measure(answers: Answers, questions: Questions) -> Measured:
    """1 for a token that is the label, else 0; a task's figure is the mean over its tokens."""
    targets = targets_of(questions)
    rows, places = np.nonzero(targets != PAD_ID)
    quality = (np.concatenate(answers.tokens) == targets[rows, places]).astype(np.float64)
    tasks = np.array([example.task for example in questions.examples])[rows]
    return Measured(
        metrics=[METRIC] * len(quality),
        quality=quality,
        statistics=[np.zeros(0, np.int64)] * len(quality),
        figures={task: {METRIC: float(np.mean(quality[tasks == task]))} for task in set(tasks)},
    )
