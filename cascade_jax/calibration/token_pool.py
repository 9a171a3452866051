"""The calibration set of level "token": both models decode together, and answers are kept."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from cascade_jax import checks, json_file
from cascade_jax.calibration.answer_pool import check_patterns
from cascade_jax.calibration.answer_store import AnswerStore, digest
from cascade_jax.calibration.pool import CascadeAnswers
from cascade_jax.collection import live_answers, measuring
from cascade_jax.collection.measuring import METRICS
from cascade_jax.collection.questions import Questions
from cascade_jax.data import pipeline
from cascade_jax.deferral.guarantees import splits
from cascade_jax.deferral.guarantees.certificate import DataIdentity
from cascade_jax.deferral.policy import PAIR, TOKEN, Thresholds, by_position
from cascade_jax.inference.cascade.rules import ENTROPY, LOG_PROB, RANDOM, UNCERTAINTIES
from cascade_jax.names import check_choice, matching_tasks
from cascade_jax.parallel import hosts
from cascade_jax.records.schema import GREEDY
from cascade_jax.runs.saved_model import CascadeRuns, LoadedModel

BeforeBatch = Callable[[bool], None]


@dataclasses.dataclass(frozen=True)
class LiveSource:
    """The models, and the examples that they answer together.

    Attributes:
      cascade: the runs, of which one student, the data and the mesh. Of the data `target_length` is
        the most tokens of an answer, by which deferred tokens are divided.
      split: which split of every task is calibrated on.
      test_split: another to test the promise on; None for the examples that the calibration leaves.
      tasks: patterns of the mixture's tasks that count.
      limit: the most examples of a task and split; None for all.
      uncertainty: what is compared with the thresholds: "log_prob" (minus that of the student's
        token), "entropy", or "random".
      num_blocks: thresholds of a configuration, one for each block of positions.
      metrics: of rouge1, rouge2, rougeL, rougeLsum (rouge-score, F1), chrf (sentences) and task
        (each task's own).
    """

    cascade: CascadeRuns
    split: str = "validation"
    test_split: str | None = None
    tasks: Sequence[str] = ("*",)
    limit: int | None = None
    uncertainty: str = LOG_PROB
    num_blocks: int = 1
    metrics: Sequence[str] = ("rouge1", "rouge2", "rougeL")

    def __post_init__(self):
        if len(self.cascade.students) != 1:
            raise ValueError(f"students is {list(self.cascade.students)}; must be the one student")
        check_patterns(self.tasks)
        checks.whole_number("limit", self.limit, 1, optional=True)
        check_choice("uncertainty", self.uncertainty, UNCERTAINTIES)
        is_list = not isinstance(self.metrics, str) and len(self.metrics) > 0
        checks.require(is_list, "metrics", self.metrics, f"a list of {METRICS}")
        for metric in self.metrics:
            check_choice("metric", metric, METRICS)
        length = self.cascade.data.target_length
        is_count = type(self.num_blocks) is int and 1 <= self.num_blocks <= length
        checks.require(is_count, "num_blocks", self.num_blocks, f"1 to target_length = {length}")
        allowed = "another than the split that is calibrated on, or None for what that leaves"
        checks.require(self.test_split != self.split, "test_split", self.test_split, allowed)

    def open(self, before_batch: BeforeBatch = lambda may_compile: None) -> "LivePool":
        """Reads the examples and finds the checkpoints; loads no parameter yet.

        If `before_batch` (see `Questions`) raises hosts.Stopped, what was decoded before is kept.

        Raises:
          ValueError: runs on another vocabulary, checkpoints that do not fit, an unknown split or
            task, splits that overlap.
          ImportError: a metric needs an extra that is not installed.
        """
        return LivePool(self, before_batch)


# So many batches are decoded, or for so long, before their answers are written to disk.
_KEPT_BATCHES, _KEPT_SECONDS = 16, 60.0


class LivePool:
    """The examples, answered by a cascade of both models; see `pool.Pool`."""

    level = TOKEN

    def __init__(self, source: LiveSource, before_batch: BeforeBatch):
        self.source, data = source, source.cascade.data
        measuring.check_metrics_installed(source.metrics)
        [self._models], mixture, mesh = source.cascade.open()
        student, teacher = self._models
        examples = _examples(source, mixture, source.split)
        self.test_rows = None
        if source.test_split is not None:
            tested = _examples(source, mixture, source.test_split)
            self.test_rows = np.arange(len(examples), len(examples) + len(tested))
            examples = examples + tested
        decoding = dict.fromkeys(mixture.tasks, GREEDY)

        def before(may_compile: bool) -> None:
            before_batch(may_compile and not self.decoded)  # one program answers all

        self._questions = Questions(examples, mixture, data, mesh, decoding, before)
        self.name = student.name
        self.ids = np.array([example.example_id for example in examples], object)
        self.texts = np.array([example.inputs_text for example in examples], object)
        self.metrics = tuple(source.metrics)
        self.thresholds = source.num_blocks
        self.max_length = data.target_length
        self.uncertainty = source.uncertainty
        identities = (model.identity for model in self._models)
        self.models = dict(zip(PAIR, identities, strict=True))
        self.data = DataIdentity(
            mixture=data.mixture,
            split=source.split,
            test_split=source.test_split,
            examples=(splits.fingerprint(self.ids, self.texts),),
            vocabulary=mixture.fingerprint,
            input_length=data.input_length,
            target_length=data.target_length,
        )
        # Qualities depend on the targets too.
        texts = (t for e in examples for t in (e.example_id, e.inputs_text, e.target_text))
        self._facts = json_file.to_values(self.models) | json_file.to_values(self.data)
        self._facts |= {"metrics": list(self.metrics), "blocks": self.thresholds}
        self._facts["rows"] = splits.example_fingerprint(*texts)
        self._stores: dict[str, AnswerStore] = {}
        self.decoded = 0  # answers, since it was opened

    def evaluate(
        self, thresholds: Thresholds | Float[np.ndarray, "R K"], rows: Int[np.ndarray, " R"]
    ) -> CascadeAnswers:
        """Takes known answers, and decodes the others."""
        return self._evaluate(self.uncertainty, thresholds, rows)

    def evaluate_random(self, share: float, rows: Int[np.ndarray, " R"]) -> CascadeAnswers:
        """Each token is the large model's with the chance `share`."""
        return self._evaluate(RANDOM, (1.0 - share,) * self.thresholds, rows)

    def values(self, count: int, rows: Int[np.ndarray, " R"]) -> Float[np.ndarray, " count"]:
        """Thresholds of evenly spread probabilities (or entropies), the same for all data.

        So every repeat searches among the same thresholds, and decodes none that another has.
        """
        inner = np.arange(1, count + 1) / (count + 1)
        if self.uncertainty == LOG_PROB:
            return -np.log(inner[::-1])
        scale = np.log(self._models[0].config.vocab_size) if self.uncertainty == ENTROPY else 1.0
        return inner * scale

    def _evaluate(
        self,
        uncertainty: str,
        thresholds: Thresholds | Float[np.ndarray, "R K"],
        rows: Int[np.ndarray, " R"],
    ) -> CascadeAnswers:
        own = np.broadcast_to(np.asarray(thresholds, np.float32), (len(rows), self.thresholds))
        store = self._store(uncertainty)
        indices = store.find(own, rows)
        missing = np.flatnonzero(indices < 0)
        if missing.size:
            same = np.unique(own[missing], axis=0)
            shown = ", ".join(f"{t:.4g}" for t in same[0]) if len(same) == 1 else "each its own"
            label = f"{uncertainty} > {shown}"
            for part, made in self._decode_rows(uncertainty, own[missing], rows[missing], label):
                store.add(part, made)
            indices = store.find(own, rows)
            if np.any(indices < 0):
                row = rows[np.argmin(indices)]
                raise RuntimeError(
                    f"the answer to {self.ids[row]!r} does not hold at the thresholds "
                    f"{own[np.argmin(indices)]} that it was decoded at"
                )
        return store.take(indices)

    def _store(self, uncertainty: str) -> AnswerStore:
        if uncertainty not in self._stores:
            folder = Path(self.source.cascade.experiment_dir) / "calibration" / self.name
            facts = self._facts | {"uncertainty": uncertainty}
            self._stores[uncertainty] = AnswerStore(folder / "decodings", facts, len(self.ids))
        return self._stores[uncertainty]

    @functools.cached_property
    def _loaded(self) -> list[LoadedModel]:
        return [model.load(self._questions.mesh) for model in self._models]

    def _decode_rows(
        self,
        uncertainty: str,
        thresholds: Float[np.ndarray, "R K"],
        rows: Int[np.ndarray, " R"],
        label: str,
    ) -> Iterator[tuple[Int[np.ndarray, " P"], CascadeAnswers]]:
        """Decodes some rows at a time, and yields them with their answers."""
        facts = {"of": digest(rows), "at": digest(thresholds)}
        hosts.assert_equal_across_hosts("answers to decode", facts)
        questions = self._questions_of(rows)
        batches = live_answers.decode(self._loaded, questions, uncertainty, thresholds, label)
        done = 0
        for live in _parts(batches):
            part = rows[done : done + len(live.texts)]
            done += len(part)
            self.decoded += len(part)
            yield part, self._cascade_answers(live, part)

    def _questions_of(self, rows: Int[np.ndarray, " R"]) -> Questions:
        examples = [self._questions.examples[row] for row in rows]
        return dataclasses.replace(self._questions, examples=examples)

    def _cascade_answers(
        self, live: live_answers.LiveAnswers, rows: Int[np.ndarray, " R"]
    ) -> CascadeAnswers:
        unsure = live.uncertainties.sum(axis=1, dtype=np.float64)
        holds = holding_range(live, self.thresholds)
        return CascadeAnswers(
            cost=live.is_deferred.sum(axis=1) / self.max_length,
            quality=measuring.qualities(self.metrics, live.texts, self._questions_of(rows)),
            flops=live.flops,
            is_deferred=live.is_deferred,
            lengths=live.lengths,
            score=unsure / np.maximum(live.lengths, 1),
            holds_from=holds[0],
            holds_below=holds[1],
        )


def _parts(batches: Iterable[live_answers.LiveAnswers]) -> Iterator[live_answers.LiveAnswers]:
    """Joins several batches at a time, and those that are left where decoding ends early."""
    part: list[live_answers.LiveAnswers] = []
    began = time.monotonic()
    try:
        for batch in batches:
            part.append(batch)
            if len(part) == _KEPT_BATCHES or time.monotonic() - began > _KEPT_SECONDS:
                yield live_answers.joined(part)
                part, began = [], time.monotonic()
    except (Exception, KeyboardInterrupt):
        if part:
            yield live_answers.joined(part)
        raise
    if part:
        yield live_answers.joined(part)


def holding_range(
    live: live_answers.LiveAnswers, blocks: int
) -> tuple[Float[np.ndarray, "n K"], Float[np.ndarray, "n K"]]:
    """The ranges of thresholds, [from, below), in which each answer stays the same.

    If all comparisons of its tokens come out the same, an answer is the same. So a threshold may
    move down to the largest uncertainty that it kept, and up to the smallest that it deferred.
    """
    length = live.tokens.shape[1]
    block = by_position(np.arange(blocks), length)
    is_token = np.arange(length) < live.lengths[:, None]
    low = np.where(is_token & ~live.is_deferred, live.uncertainties, -np.inf)
    high = np.where(is_token & live.is_deferred, live.uncertainties, np.inf)
    masks = [block == number for number in range(blocks)]
    holds_from = np.stack([low[:, mask].max(axis=1) for mask in masks], axis=1)
    holds_below = np.stack([high[:, mask].min(axis=1) for mask in masks], axis=1)
    return holds_from.astype(np.float32), holds_below.astype(np.float32)


def _examples(source: LiveSource, mixture: pipeline.OpenMixture, split: str) -> list:
    """The examples of a split without those whose text came before."""
    examples = []
    for task in matching_tasks(source.tasks, list(mixture.tasks_with(split))):
        examples += pipeline.decode_examples(source.cascade.data, task, split, source.limit)
    kept = splits.without_repetitions([example.inputs_text for example in examples])
    if left := len(examples) - len(kept):
        of_all = f"{left} of {len(examples)} examples"
        hosts.print_once(f"{split}: {of_all} left out, whose input came before")
    return [examples[row] for row in kept]
