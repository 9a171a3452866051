"""Answers to any number of inputs: slots of a cache that are refilled as rows end.

Inputs are read longest first, packed into rows of one size (`packing.py`). Each then takes a slot
of the cache; all slots write a token at a time in a loop on the device, which stops when enough of
them have ended for the next inputs to take their places. So no row waits for the slowest of its
batch. The cache shrinks as the inputs get shorter, and in the end to the rows that are left.
Answers are greedy, or several are drawn to each input, which is read once for all of them.

What is computed depends on which inputs there are and when answers end, not on time, so that all
hosts take the same turns.
"""

import dataclasses
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int, UInt32

from cascade_jax import checks
from cascade_jax.inference import packing
from cascade_jax.inference.buckets import bucket, power_of_two
from cascade_jax.inference.engine_programs import Settings, programs
from cascade_jax.inference.generate import Generation
from cascade_jax.models import slots
from cascade_jax.parallel import hosts
from cascade_jax.parallel import rules as rules_lib

_WIDTH = 64  # of a slot's input, below which attention costs next to nothing
_REFILLS = 8  # this part of the slots is refilled at once
_FEW = 16  # slots on a device, below which fewer are hardly faster


@dataclasses.dataclass
class ComputedTokens:
    """Tokens of the examples, and those that were computed, fill-ups included.

    Attributes:
      prefill_useful, prefill_computed: read by the encoder, or by a decoder-only model before the
        answer; its starts count as useful.
      decode_useful, decode_computed: of answers, ends of sequence included.
      options_useful, options_computed: of the options of rows whose answer is one of them.
      loops: runs of the decoding loop, after each of which the host looked.
    """

    prefill_useful: int = 0
    prefill_computed: int = 0
    decode_useful: int = 0
    decode_computed: int = 0
    options_useful: int = 0
    options_computed: int = 0
    loops: int = 0

    @property
    def ratio(self) -> float:
        """Tokens computed for each useful one."""
        computed = self.prefill_computed + self.decode_computed + self.options_computed
        useful = self.prefill_useful + self.decode_useful + self.options_useful
        return computed / max(useful, 1)

    @property
    def text(self) -> str:
        """For a line of output."""
        parts = {
            "inputs": (self.prefill_computed, self.prefill_useful),
            "answers": (self.decode_computed, self.decode_useful),
            "options": (self.options_computed, self.options_useful),
        }
        texts = [f"{name} {a:,} for {b:,}" for name, (a, b) in parts.items() if b]
        return f"{self.ratio:.2f} tokens computed for each one needed ({', '.join(texts)})"


class _Read(NamedTuple):
    """An answer whose input was read: its number, and where the input is in the packed rows."""

    answer: int
    row: int
    offset: int


def answers(
    settings: Settings,
    params: Mapping[str, Any],
    inputs: Sequence[Int[np.ndarray, " _"]],
    slot_count: int,
    counts: ComputedTokens | None = None,
    before: Callable[[bool], None] = lambda may_compile: None,
) -> Iterator[tuple[int, Generation, float]]:
    """Greedy answers, as they end; each is what the model answers to that input alone.

    Args:
      settings: of the programs.
      params: of the model, on the mesh.
      inputs: token ids of each, without padding; all hosts have the same.
      slot_count: the most rows that are decoded at once; a multiple of the mesh's shards.
      counts: is added to.
      before: called before programs run, with whether one may be compiled; may raise.

    Yields:
      The index of an input, its answer (without the axis of rows) as NumPy arrays, and the seconds
      that it took: those of reading a batch, shared by tokens, and those of each loop, shared by
      the rows that were live. Compiling is left out.

    Raises:
      ValueError: slot_count does not divide over the mesh.
    """
    checks.require(settings.distribution is None, "distribution", settings.distribution, "None")
    yield from _run(settings, params, inputs, None, slot_count, counts, before)


def samples(
    settings: Settings,
    params: Mapping[str, Any],
    inputs: Sequence[Int[np.ndarray, " _"]],
    keys: UInt32[np.ndarray, "N n 2"],
    slot_count: int,
    counts: ComputedTokens | None = None,
    before: Callable[[bool], None] = lambda may_compile: None,
) -> Iterator[tuple[int, int, Generation, float]]:
    """Answers drawn at random from `settings.distribution`, n to each input, as they end.

    An input is read once for all its answers.

    Args:
      settings, params, inputs, slot_count, counts, before: as those of `answers`.
      keys: of the answers, from `sample.answer_keys`.

    Yields:
      The index of an input and the number of its answer; the answer and its seconds as `answers`
      yields them, with an equal part of the seconds of reading.

    Raises:
      ValueError: see `answers`; no distribution.
    """
    has_distribution = settings.distribution is not None
    checks.require(has_distribution, "distribution", None, "what the tokens are drawn from")
    for number, *answer in _run(settings, params, inputs, keys, slot_count, counts, before):
        yield (*divmod(number, keys.shape[1]), *answer)


def _run(settings, params, inputs, keys, slot_count, counts, before):
    """The answers of an engine that is made for them."""
    checks.whole_number("slot_count", slot_count, 1)
    rules_lib.check_batch_size("slot_count", slot_count, settings.mesh, settings.rules)
    if len(inputs):
        counts = ComputedTokens() if counts is None else counts
        yield from _Engine(settings, params, inputs, keys, slot_count, counts, before).answers()


class _Engine:
    """One run over some inputs, with one answer to each or several.

    Answer i is about input i // `each`.
    """

    def __init__(
        self,
        settings: Settings,
        params: Mapping[str, Any],
        inputs: Sequence[Int[np.ndarray, " _"]],
        keys: UInt32[np.ndarray, "N n 2"] | None,
        slot_count: int,
        counts: ComputedTokens,
        before: Callable[[bool], None],
    ):
        self._settings, self._params, self._inputs = settings, params, inputs
        self._each = 1 if keys is None else keys.shape[1]
        self._keys = None if keys is None else keys.reshape(-1, 2)
        self._programs, self._counts, self._before = programs(settings), counts, before
        self._start = settings.model.start_places
        self._shards = rules_lib.batch_shards(settings.mesh, settings.rules)
        self._compiling = 0.0  # seconds
        self._queue = deque(sorted(range(len(inputs)), key=lambda index: -len(inputs[index])))
        self._total = self._left = sum(map(self._length, self._queue))
        self._packed: Any = None  # what `read_packed` made of the rows of those that are ready
        self._ready: deque[_Read] = deque()
        needed = self._shards * power_of_two(-(-len(inputs) * self._each // self._shards))
        # The number of the answer in each slot.
        self._members: list[int | None] = [None] * min(slot_count, needed)
        self._longest = bucket(len(inputs[self._queue[0]]))
        self._width = self._longest
        self._seconds = np.zeros(len(inputs) * self._each)
        self._state = self._call(self._programs.empty, len(self._members), self._width)

    def answers(self) -> Iterator[tuple[int, Generation, float]]:
        """See `answers`."""
        while True:
            self._before(False)
            self._refill()
            if not self._live():
                return
            self._shrink()
            yield from self._decode()

    def _is_waiting(self) -> bool:
        """Whether examples are left that have no slot yet."""
        return bool(self._ready or self._queue)

    def _live(self) -> list[int]:
        return [slot for slot, index in enumerate(self._members) if index is not None]

    def _input(self, answer: int) -> Int[np.ndarray, " _"]:
        return self._inputs[answer // self._each]

    def _length(self, index: int) -> int:
        """Places that an example takes in a packed row."""
        return max(len(self._inputs[index]) + self._start, 1)

    def _width_for(self, lengths: Iterable[int]) -> int:
        """Places for the input of each slot: a power of two, and between two large ones another."""
        longest = max(*lengths, _WIDTH)
        whole = power_of_two(longest)
        middle = whole * 3 // 4
        width = middle if longest <= middle and middle > 4 * _WIDTH else whole
        return min(width, self._longest)

    def _call(self, program: Callable, *args: Any) -> Any:
        if self._programs.is_new(program, *args):
            self._before(True)
            begin = time.perf_counter()
            self._programs.compile(program, *args)
            self._compiling += time.perf_counter() - begin
        return self._programs.call(program, *args)

    def _clock(self) -> float:
        """Seconds; stands still while a program is compiled."""
        return time.perf_counter() - self._compiling

    # -------------------------------------------------------------- reading inputs

    def _refill(self) -> None:
        """Gives free slots to the next examples."""
        free = [slot for slot, index in enumerate(self._members) if index is None]
        most = self._quantum()
        while free and self._is_waiting():
            if not self._ready:
                self._read()
            count = min(most, len(free), len(self._ready))
            self._insert([self._ready.popleft() for _ in range(count)], free[:count], most)
            free = free[count:]

    def _quantum(self) -> int:
        """How many slots are refilled together."""
        return max(1, len(self._members) // _REFILLS)

    def _read(self) -> None:
        """Reads a batch of the next examples in packed rows."""
        self._before(False)
        rows = self._shards * -(-_rows_at_once() // self._shards)
        most = rows * packing.USUAL
        lengths = list(map(self._length, itertools.islice(self._queue, most)))
        size = packing.best_size(lengths, rows, self._total, self._left)
        places = packing.fill(lengths, rows, size)
        indices = [self._queue.popleft() for _ in places]
        inputs = [self._inputs[index] for index in indices]
        packed = packing.pack(inputs, places, rows, size, self._start)
        begin = self._clock()
        self._packed = jax.block_until_ready(self._call(self._programs.read, self._params, packed))
        taken = sum(lengths[: len(places)])
        self._left -= taken
        seconds_per_token = (self._clock() - begin) / taken / self._each
        for index, (row, offset) in zip(indices, places, strict=True):
            for answer in range(index * self._each, (index + 1) * self._each):
                self._ready.append(_Read(answer, row, offset))
                self._seconds[answer] += seconds_per_token * self._length(index)
        self._counts.prefill_useful += sum(len(ids) + self._start for ids in inputs)
        self._counts.prefill_computed += rows * size

    def _insert(self, reads: Sequence[_Read], free: Sequence[int], most: int) -> None:
        """Puts inputs that were read into free slots."""
        rows, offsets, lengths, first = np.zeros((4, most), np.int32)
        to = np.full(most, len(self._members), np.int32)  # past the last slot: nowhere
        tokens = np.zeros((most, self._width), np.int32)
        keys = None if self._keys is None else np.zeros((most, 2), np.uint32)
        for place, (read, slot) in enumerate(zip(reads, free, strict=True)):
            ids = self._input(read.answer)
            rows[place], offsets[place], to[place] = read.row, read.offset, slot
            lengths[place] = len(ids) + self._start
            first[place] = ids[-1] if self._start and len(ids) else 0
            tokens[place, : len(ids)] = ids
            self._members[slot] = read.answer
            if keys is not None:
                keys[place] = self._keys[read.answer]
        arrivals = slots.Arrivals(rows, offsets, lengths, to)
        args = self._state, self._packed, arrivals, tokens, first, keys
        self._state = self._call(self._programs.insert, *args)

    # -------------------------------------------------------------- decoding

    def _decode(self) -> Iterator[tuple[int, Generation, float]]:
        """Decodes until enough rows have ended, and yields those."""
        live, count = self._live(), len(self._members)
        if self._is_waiting():
            enough = self._quantum()
        else:
            enough = count - self._fewer(count) if self._fewer(count) < count else count
        args = self._programs.run, self._params, self._state, np.int32(enough)
        begin = self._clock()
        steps, self._state = self._call(*args)
        steps, has_ended = hosts.to_host((steps, self._state.decoding.has_ended))
        ended = [slot for slot in live if has_ended[slot]]
        made = hosts.to_host(self._state.decoding.answers) if ended else None
        self._seconds[[self._members[slot] for slot in live]] += (self._clock() - begin) / len(live)
        self._counts.loops += 1
        self._counts.decode_computed += int(steps) * count
        for slot in ended:
            number, self._members[slot] = self._members[slot], None
            answer = jax.tree.map(lambda leaf, slot=slot: leaf[slot], made)
            self._counts.decode_useful += int(answer.lengths)
            yield number, answer, float(self._seconds[number])

    def _fewer(self, count: int) -> int:
        """The number of slots after `count`, when no example is left for them."""
        count //= self._shards
        return self._shards * max(1, count // 2 if count > _FEW else count // 4)

    def _shrink(self) -> None:
        """Leaves out places that no input needs, and in the end slots that stay empty."""
        live, count, width = self._live(), len(self._members), self._width
        if self._is_waiting():
            left = [self._members[slot] for slot in live]
            left += [read.answer for read in itertools.islice(self._ready, 1)]
            longest = [len(self._inputs[index]) for index in itertools.islice(self._queue, 1)]
            width = self._width_for([len(self._input(answer)) for answer in left] + longest)
        else:
            while len(live) <= self._fewer(count) < count:
                count = self._fewer(count)
        if (count, width) == (len(self._members), self._width):
            return
        kept = live + [slot for slot, index in enumerate(self._members) if index is None]
        kept = np.array(kept[:count], np.int32)
        self._state = self._call(self._programs.select, self._state, kept, width)
        self._members = [self._members[slot] for slot in kept]
        self._width = width


def _rows_at_once() -> int:
    """Packed rows that are read together: as few as keep a device busy."""
    return 1 if jax.default_backend() == "cpu" else 4
