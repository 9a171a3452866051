"""Runs a teacher once over a mixture and saves its outputs for every target token.

Training then looks it up (`teacher_cache/batches.py`) and needs no teacher. The training split is
read once in file order, whole; of the held-out split the examples that training evaluates on.
"""

import collections
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tqdm
from jax.sharding import Mesh

import cascade_jax
from cascade_jax import checks, files
from cascade_jax.data import example_keys, pipeline, placement
from cascade_jax.models import families
from cascade_jax.names import check_choice
from cascade_jax.parallel import hosts, rules
from cascade_jax.runs import checkpoints, run_folder
from cascade_jax.runs import identity as identity_lib
from cascade_jax.runs import state as state_lib
from cascade_jax.runs.folder_lock import FolderLock
from cascade_jax.runs.saved_model import CascadeRuns, SavedModel
from cascade_jax.runs.watchdog import Watchdog
from cascade_jax.teacher_cache import facts as teacher_facts
from cascade_jax.teacher_cache import identity as cache_identity
from cascade_jax.teacher_cache.format import FLOORS, Holding, TokenFacts
from cascade_jax.teacher_cache.shards import (
    COMPLETE,
    FINGERPRINT,
    Shard,
    ShardWriter,
    TeacherCacheError,
    read_complete,
    shards_in,
)

NAME = "cache-teacher"


@dataclasses.dataclass(frozen=True)
class CacheConfig:
    """Which teacher to run, on which examples, and which of its outputs to save.

    Attributes:
      folder: of the cache; training's `teacher_cache`.
      cascade: the teacher's run, the mesh, and the data as in training, which may pack: the cache
        is of single examples, and serves runs that pack and that do not. The students are not read.
      top_k, dtype, label_log_probs: what is kept beside whether the teacher is right: see
        `teacher_cache/format.py`.
      limit: the first rows of each task of the training split, to try a cache out; None for all,
        without which no run trains from it.
      eval_split: the held-out split; None for none.
      eval_batches: of it, so many batches of `data.batch_size` examples are kept, as training
        takes them.
      batch_size: rows that the teacher reads at once; None for that of `data`.
      shard_rows: about so many rows are in a group, which is done again if it is interrupted.
      hang_seconds: a command without progress for so long is ended; None to wait for ever.
    """

    folder: str
    cascade: CascadeRuns
    top_k: int = 0
    dtype: str = "float32"
    label_log_probs: bool = True
    limit: int | None = None
    eval_split: str | None = "validation"
    eval_batches: int = 16
    batch_size: int | None = None
    shard_rows: int = 65_536
    hang_seconds: float | None = 1800.0

    def __post_init__(self):
        is_path = bool(self.folder) and isinstance(self.folder, str)
        example = "a path, e.g. --gin.TEACHER_CACHE=\"'runs/demo/teacher_cache'\""
        checks.require(is_path, "the folder of the teacher cache", self.folder, example)
        for field in ("eval_batches", "shard_rows", "batch_size", "limit"):
            is_optional = field in ("batch_size", "limit")
            checks.whole_number(field, getattr(self, field), 1, optional=is_optional)
        checks.true_or_false("label_log_probs", self.label_log_probs)
        checks.positive("hang_seconds", self.hang_seconds, optional=True, most=1e9)
        checks.whole_number("top_k", self.top_k, 0)  # `Holding` compares it with the vocabulary
        check_choice("dtype", self.dtype, FLOORS)

    def holding(self, vocab_size: int) -> Holding:
        """The facts to save for a teacher whose vocabulary has `vocab_size` ids."""
        return Holding(vocab_size, self.top_k, self.dtype, self.label_log_probs)

    @property
    def data(self) -> pipeline.DataConfig:
        """Mixture, lengths and vocabulary, as in training."""
        return self.cascade.data

    @property
    def run_folders(self) -> list[str]:
        """Where the config is written to."""
        return [self.folder]

    @property
    def rows_at_once(self) -> int:
        """Rows that the teacher reads at once."""
        return self.batch_size or self.data.batch_size

    @property
    def teacher_data(self) -> pipeline.DataConfig:
        """The data as the teacher reads it."""
        return dataclasses.replace(self.data, batch_size=self.rows_at_once)

    def splits(self, mixture: pipeline.OpenMixture) -> dict[str, int | None]:
        """By split, how many rows of it are kept; None for all."""
        held_out = {} if self.eval_split is None else {self.eval_split: self.eval_rows}
        tasks = len(mixture.tasks_with("train"))
        return held_out | {"train": None if self.limit is None else self.limit * tasks}

    @property
    def eval_rows(self) -> int:
        """Rows of the held-out split that are kept."""
        return 0 if self.eval_split is None else self.eval_batches * self.data.batch_size


def check(config: CacheConfig) -> None:
    """Refuses what can be refused before anything is written.

    Raises:
      ValueError: if mesh, batch or vocabulary does not fit, a task has no fixed examples, the
        folder holds another cache, or hosts have different configs or code.
    """
    hosts.assert_equal_across_hosts("configs", identity_lib.config_identity(config))
    hosts.assert_equal_across_hosts("versions of the code", identity_lib.code_identity())
    _opened(config, config.cascade.mesh.build())


def _opened(
    config: CacheConfig, mesh: Mesh
) -> tuple[SavedModel, pipeline.OpenMixture, dict[str, Any]]:
    """The teacher, the mixture, and the fingerprint of the cache but for the parameters' digest."""
    cascade = config.cascade
    teacher = cascade.saved(cascade.teachers[-1])
    families.check_reads(teacher.config, config.data.architecture, config.data.pack)
    holding = config.holding(teacher.config.vocab_size)
    rules.check_batch_size("batch_size", config.rows_at_once, mesh, teacher.rules)
    mixture = pipeline.open_mixture(config.data)
    run_folder.check_same_vocabulary(NAME, mixture.fingerprint, teacher.folder)
    checkpoints.check_finished(NAME, teacher.folder)
    teacher.check(mesh)
    splits = [split for split in config.splits(mixture) if split != "train"]
    which = teacher.config, teacher.folder, cascade.checkpoint
    fingerprint = {
        "format": cache_identity.FORMAT,
        "version": cascade_jax.__version__,
        "holding": dataclasses.asdict(holding),
        "teacher": cache_identity.teacher_identity(*which),
        "data": cache_identity.data_identity(config.data, mixture, ["train", *splits]),
        "eval_rows": config.eval_rows,
        "batch_size": config.rows_at_once,
        "shard_rows": config.shard_rows,
    }
    if config.limit is not None:
        fingerprint["limit"] = config.limit
    if config.data.pack:
        fingerprint["pack"] = True
    there = cache_identity.read_fingerprint(Path(config.folder))
    differences = cache_identity.differences(there, fingerprint) if there is not None else []
    if differences:
        same_division = {
            key: there.get(key) for key in ("holding", "batch_size", "shard_rows", "limit", "pack")
        }
        go_on = ""
        if not cache_identity.differences(there, fingerprint | same_division):
            go_on = f", or give what it was begun with: {cache_identity.making_flags(there)}"
        raise TeacherCacheError(
            f"{config.folder} holds another teacher cache: {'; '.join(differences[:3])}. "
            f"Choose another folder (TEACHER_CACHE), or delete it{go_on}"
        )
    return teacher, mixture, fingerprint


def make(config: CacheConfig, mesh: Mesh | None = None) -> None:
    """Makes the cache, or what is missing of it, on a mesh (None: that of the config).

    Raises:
      ValueError: see `check`; the teacher is not there or not at its end, or says NaN.
      hosts.Stopped: asked to; whole shards are kept.
    """
    mesh = config.cascade.mesh.build() if mesh is None else mesh
    teacher, mixture, fingerprint = _opened(config, mesh)
    folder = Path(config.folder)
    hosts.assert_equal_across_hosts("data or teachers", fingerprint)
    with FolderLock(folder, hosts.is_first()), hosts.StopSignal() as stop:
        done = shards_in(folder, cache_identity.digest(fingerprint))
        hosts.assert_equal_across_hosts("finished shards", {"names": sorted(done)})
        complete = read_complete(folder)
        if complete is not None and complete["shards"].keys() <= done.keys():
            summary = _summary(complete, config.limit)
            hosts.print_once(f"{folder} is complete, nothing to do\n{summary}")
            return
        kept = f"whole shards stay in {folder}"
        with Watchdog(NAME, "", config.hang_seconds, folder, lambda: kept) as watchdog:
            _Maker(config, mesh, teacher, mixture, fingerprint, done, stop, watchdog).run()


class _Maker:
    """The making of one cache."""

    def __init__(self, config, mesh, teacher, mixture, fingerprint, done, stop, watchdog):
        self._config, self._mesh, self._teacher, self._mixture = config, mesh, teacher, mixture
        self._fingerprint, self._done = fingerprint, set(done)
        self._stop, self._watchdog, self._folder = stop, watchdog, Path(config.folder)
        self._holding = config.holding(teacher.config.vocab_size)
        self._sharding, data = rules.batch_sharding(mesh), config.teacher_data
        self._part = placement.host_shard(self._sharding, data.batch_size, data.row_length)
        self._num_groups: dict[str, int] = {}  # by split

    def run(self) -> None:
        """Does what is missing, then writes that it is complete."""
        config, folder = self._config, self._folder
        teacher = families.build(self._teacher.config)
        params = state_lib.in_compute_dtype(teacher, self._teacher.load(self._mesh).params)
        self._claim(teacher_facts.digest(params))
        facts_fn = teacher_facts.make_facts_fn(
            teacher, self._holding, self._mesh, self._teacher.rules
        )
        for split, max_rows in config.splits(self._mixture).items():
            self._split(split, max_rows, lambda batch: facts_fn(params, batch))
        hosts.barrier("the teacher cache's last shard")
        if not hosts.is_first():
            return
        shards = self._whole_shards()
        complete = {
            "shards": {name: facts["bytes"] for name, facts in shards.items()},
            "splits": {split: _total(shards, split) for split in config.splits(self._mixture)},
        }
        files.write_text(folder / COMPLETE, json.dumps(complete, indent=2) + "\n")
        hosts.print_once(_summary(complete, config.limit))

    def _whole_shards(self) -> dict[str, dict]:
        """The shards of all groups, with their facts.

        Of a group that another number of hosts began and did not end some parts may be there, too.

        Raises:
          TeacherCacheError: not all that the hosts wrote is here.
        """
        shards = shards_in(self._folder, cache_identity.digest(self._fingerprint))
        whole_shards = {}
        for split, count in self._num_groups.items():
            whole = _whole_groups(shards, split)
            missing = [group for group in range(count) if group not in whole]
            if missing:
                raise TeacherCacheError(
                    f"{self._folder}: of group {missing[0]} of split {split!r} not all parts are "
                    f"here ({len(missing)} of {count} groups), though every host has written its "
                    "own. The folder must be one for all hosts; if it is, start the same command "
                    "again"
                )
            for name, facts in shards.items():
                shard = Shard.of(name)
                if shard.split == split and whole.get(shard.group) == shard.parts:
                    whole_shards[name] = facts
        return whole_shards

    def _claim(self, digest: str) -> None:
        """Writes the fingerprint; refuses a teacher of other parameters than the shards there."""
        there = cache_identity.read_fingerprint(self._folder)
        before = there and there["teacher"].get("parameters")
        if before not in (None, digest):
            raise TeacherCacheError(
                f"{self._folder} holds another teacher cache: teacher.parameters is {before!r} "
                f"there and {digest!r} here. Choose another folder (TEACHER_CACHE), or delete it"
            )
        if hosts.is_first():
            (self._folder / COMPLETE).unlink(missing_ok=True)
            for file in self._folder.glob(".*.tmp"):  # of one that was killed
                file.unlink(missing_ok=True)
            teacher = self._fingerprint["teacher"] | {"parameters": digest}
            fingerprint = self._fingerprint | {"teacher": teacher}
            files.write_text(self._folder / FINGERPRINT, json.dumps(fingerprint, indent=2) + "\n")
        hosts.barrier("the teacher cache's folder")

    def _split(self, split: str, max_rows: int | None, facts_of: Callable) -> None:
        """Does the groups of a split that are missing."""
        # The devices work on a batch while the one before is written.
        batches = _one_behind(self._batches(split, max_rows, facts_of))
        is_writer = placement.is_first_holder(self._sharding, self._config.rows_at_once)
        for group, members in itertools.groupby(batches, key=lambda batch: batch[0]):
            shard = Shard(split, group, self._part.index, self._part.num_shards)
            fingerprint = cache_identity.digest(self._fingerprint)
            if not is_writer:  # another host has the same rows
                collections.deque(members, maxlen=0)
                continue
            with ShardWriter(self._folder, shard, self._holding, fingerprint) as writer:
                for _, rows, facts in members:
                    for example in self._examples(rows, facts, split):
                        writer.add(*example)
            self._done.add(shard.name)

    def _batches(self, split: str, max_rows: int | None, facts_of: Callable) -> Iterator[tuple]:
        """(group, this host's rows, facts on devices) of the batches of missing groups."""
        config, data = self._config, self._config.teacher_data
        size = -(-config.shard_rows // data.batch_size)  # batches of a group
        done = _whole_groups(self._done, split)
        first = next(group for group in range(len(done) + 1) if group not in done) * size
        self._num_groups[split] = first // size
        bar = tqdm.tqdm(
            desc=f"{NAME} {split}",
            unit=" rows",
            initial=first * config.rows_at_once,
            total=max_rows,
            disable=None if hosts.is_first() else True,  # unless in a terminal
        )
        self._watchdog.progress(f"reading split {split!r} up to batch {first + 1}", True)
        with bar:
            for number, rows in enumerate(
                pipeline.rows_once(data, self._sharding, split, max_rows, first), start=first
            ):
                self._watchdog.progress(f"batch {number + 1} of split {split!r}", number == first)
                if self._stop.asked():
                    raise hosts.Stopped(
                        f"asked to stop while at split {split!r}; whole shards stay in "
                        f"{self._folder}. The same command goes on from there"
                    )
                bar.update(data.batch_size)
                self._num_groups[split] = number // size + 1
                if number // size not in done:
                    batch = placement.to_global_batch(
                        rows, self._sharding, data.batch_size, data.architecture
                    )
                    yield number // size, rows, facts_of(batch)

    def _examples(
        self, rows: Mapping[str, np.ndarray], arrays: Mapping[str, jax.Array], split: str
    ) -> Iterator[tuple[bytes, TokenFacts, np.ndarray]]:
        """Key, facts and labels' log-probs of each example of a batch."""
        facts = {name: teacher_facts.own_rows(array) for name, array in arrays.items()}
        for example in example_keys.examples_of(rows, self._config.data.architecture):
            here = {name: array[example.row, example.places] for name, array in facts.items()}
            log_probs = here["label_log_probs"]
            if np.isnan(log_probs).any():
                raise TeacherCacheError(
                    f"the teacher says NaN of an example of split {split!r}: "
                    f"{cache_identity.text_of(self._mixture, example)}; its parameters or its "
                    "dtype can't be right"
                )
            yield example.key, TokenFacts(**here), log_probs


def _one_behind(items: Iterator) -> Iterator:
    """The same items, each yielded once the next has been made."""
    yield from (before for before, _ in itertools.pairwise(itertools.chain(items, [None])))


def _whole_groups(names: Iterable[str], split: str) -> dict[int, int]:
    """The groups of a split whose parts are all there, and how many parts each has."""
    shards = [shard for shard in map(Shard.of, names) if shard.split == split]
    num_parts = collections.Counter((shard.group, shard.parts) for shard in shards)
    return {group: parts for (group, parts), count in num_parts.items() if count == parts}


def _total(shards: Mapping[str, Mapping[str, Any]], split: str) -> dict[str, Any]:
    """Sums over the shards of a split."""
    own = [facts for name, facts in shards.items() if Shard.of(name).split == split]
    keys = ("examples", "tokens", "right", "log_probs", "bytes", "index_bytes")
    return {key: sum(facts[key] for facts in own) for key in keys}


def _summary(complete: Mapping[str, Any], limit: int | None) -> str:
    lines = []
    for split, total in complete["splits"].items():
        tokens = max(total["tokens"], 1)
        num_bytes = total["bytes"] + total["index_bytes"]
        lines.append(
            f"{split}: {total['examples']:,} examples, {total['tokens']:,} target tokens; the "
            f"teacher is right on {100 * total['right'] / tokens:.2f} %, cross-entropy "
            f"{-total['log_probs'] / tokens:.4f} nats a token; {num_bytes / 1e6:.2f} MB, "
            f"{num_bytes / tokens:.2f} bytes a token"
        )
    if limit is not None:
        lines.append(
            f"a part: the first {limit} rows of each task of the training split (CACHE_LIMIT); no "
            "run trains from it"
        )
    return "\n".join(lines)
