"""The work of `collect.py`: tasks of many lengths, and models whose answers end now and then."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import numpy as np

from cascade_jax.collection.questions import Questions
from cascade_jax.data import pipeline
from cascade_jax.data.options import OPTIONS
from cascade_jax.models import families
from cascade_jax.models.config import DecoderConfig, T5Config
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.records.schema import GREEDY, RANK

EOS_ID = 1


@dataclasses.dataclass(frozen=True)
class Task:
    """Ranges of lengths, both ends included.

    Attributes:
      inputs: tokens of an input.
      options: number of options of a row; None for a task that is answered greedily.
      tokens: of an option, without the end of sequence.
    """

    inputs: tuple[int, int]
    options: tuple[int, int] | None = None
    tokens: tuple[int, int] | None = None


TASKS = {
    "words": Task((8, 16)),
    "sums": Task((12, 32)),
    "titles": Task((24, 48)),
    "translation": Task((16, 96)),
    "questions": Task((48, 160)),
    "dialogue": Task((96, 256)),
    "reading": Task((160, 400)),
    "summaries": Task((320, 512)),
    "sentiment": Task((12, 60), (2, 2), (1, 1)),
    "entailment": Task((40, 120), (3, 3), (1, 2)),
    "topics": Task((60, 200), (14, 14), (1, 3)),
    "yes_or_no": Task((120, 400), (2, 2), (1, 1)),
    "choices": Task((24, 96), (4, 5), (2, 16)),
    "endings": Task((32, 96), (2, 4), (12, 48)),
}


@dataclasses.dataclass(frozen=True)
class Mix:
    """Rows of all tasks in turns: ids of inputs, and of options (None for a greedy answer)."""

    inputs: list[list[int]]
    options: list[list[list[int]] | None]
    eos_id: int
    input_length: int
    answer_length: int

    @property
    def greedy(self) -> list[int]:
        """Indices of the rows that are answered greedily."""
        return [row for row, options in enumerate(self.options) if options is None]

    @property
    def tasks(self) -> int:
        """Their number: row 0 is of the first, row 1 of the second."""
        return len(TASKS)

    @property
    def ranked(self) -> list[int]:
        """Indices of the other rows."""
        return [row for row, options in enumerate(self.options) if options is not None]


def make_mix(rows_of_task: int, vocab_size: int, scale: float, eos_id: int) -> Mix:
    """Random tokens.

    Args:
      rows_of_task: rows of each task.
      vocab_size: of the model.
      scale: of all lengths.
      eos_id: ends every option, and stands nowhere else.
    """
    rng = np.random.default_rng(0)
    ids = np.setdiff1d(np.arange(2, vocab_size), [eos_id])

    def draw(bounds, scale=scale):
        return max(round(rng.integers(bounds[0], bounds[1] + 1) * scale), 1)

    def text(bounds):
        return rng.choice(ids, draw(bounds)).tolist()

    inputs, options = [], []
    for _ in range(rows_of_task):
        for task in TASKS.values():
            inputs.append(text(task.inputs))
            if task.options is None:
                options.append(None)
                continue
            count = draw(task.options, 1)
            distinct = {tuple(text(task.tokens)) for _ in range(4 * count)}
            options.append([[*each, eos_id] for each in sorted(distinct)[:count]])
    longest = max(task.inputs[1] for task in TASKS.values())
    return Mix(inputs, options, eos_id, round(longest * scale), round(128 * scale))


def questions(mix: Mix, batch_size: int) -> Questions:
    """The mix as `cascade-jax collect` asks it; a text is its ids."""
    vocabulary = SimpleNamespace(
        encode=lambda text: list(map(int, text.split())),
        decode=lambda ids: " ".join(map(str, ids)),
        eos_id=mix.eos_id,
        vocab_size=0,  # pieces are numbers
    )
    mixture = SimpleNamespace(eos_id=mix.eos_id, vocabulary=vocabulary)
    data = pipeline.DataConfig("mix_v1", mix.input_length, mix.answer_length, batch_size)
    examples = []
    for row, (ids, options) in enumerate(zip(mix.inputs, mix.options, strict=True)):
        texts = [" ".join(map(str, each[:-1])).encode() for each in options or []]
        padded = np.pad(np.array(ids, np.int32), (0, mix.input_length - len(ids)))
        how = GREEDY if options is None else RANK
        examples.append(pipeline.Example(str(row), how, "", "", "", padded, {OPTIONS: texts}))
    decoding = {GREEDY: GREEDY, RANK: RANK}
    return Questions(examples, mixture, data, MeshConfig(1).build(jax.devices()[:1]), decoding)


def fresh_parameters(config: T5Config | DecoderConfig, eos_factor: float):
    """Of a model that says ever new tokens, and after a few or many of them ends.

    Kernels are larger than a fresh model's, so that it does not repeat itself; logits of the end
    of sequence vary more than others by a factor, so that they are now and then the largest.
    """
    model = families.build(config)
    params = jax.jit(functools.partial(families.initialize, model))(jax.random.key(0))

    def change(path, leaf):
        name = jax.tree_util.keystr(path)
        if "logits_dense" in name or (config.tied_logits and "token_embedder" in name):
            row = (slice(None), EOS_ID) if "logits_dense" in name else EOS_ID
            return leaf.at[row].multiply(eos_factor)
        is_kernel = leaf.ndim > 1 and "embed" not in name
        return leaf * 2 if is_kernel else leaf

    return jax.tree_util.tree_map_with_path(change, params)
