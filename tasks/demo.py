"""Seven small text tasks made by a program, of graded difficulty; downloads nothing.

| task | input -> target | who can |
|---|---|---|
| demo_last_v1 | "last cafe" -> "e" | a tiny model, at once |
| demo_reverse_v1 | "turn cafeg" -> "gefac" | a tiny model, later |
| demo_lookup_v1 | "get b a7 b3" -> "3" | the large model; the tiny one guesses between the values |
| demo_add_v1 | "add 27 48" -> "75" | the large model; the tiny one in part |
| demo_capital_v1 | "capital qwz" -> "ja" | has to be remembered: 500 names |
| demo_code_v1 | "code bxo" -> "cd" | has to be remembered: 1000 names |
| demo_toss_v1 | "toss fhgj" -> "fx" | nobody: the second letter is a fair draw from w, x, y, z |

All but the remembered tasks are never asked in validation or test what train has: the input's
checksum says which split it belongs to. The remembered ones ask for the same names everywhere,
drawn with unequal frequency. No input is twice in a held-out split, since rows that repeat each
other would count as independent in an interval; so lookup and add, which have 1,200 and 2,500
inputs in all, come to fewer than 300 rows there. All texts fit input_length 16 and target_length 8
under the byte vocabulary, EOS included.
"""

import functools
import string
import zlib
from collections.abc import Callable

import numpy as np

from cascade_jax.data.sources import GeneratedSource
from cascade_jax.task_metrics import quality
from tasks.registration import add_mixture, add_task

MIXTURE = "demo_mixture_v1"
SEED = 2024
SPLIT_ROWS = {"train": 20000, "validation": 300, "test": 300}  # held out: at most

# Of the inputs that are not to be remembered, one tenth each is kept for validation and test.
_HELD_OUT = {"validation": 0, "test": 1}
_BUCKETS = 10
_MOST_DRAWS = 100  # of 300 rows or more: an input of 2,500 is never drawn in 6 of a million cases
_LETTERS = "abcdefghij"
_COIN = "wxyz"

Pair = tuple[str, str]
Maker = Callable[[np.random.Generator, int], list[Pair]]


def _words(rng: np.random.Generator, count: int, shortest: int, longest: int) -> list[str]:
    letters = rng.integers(len(_LETTERS), size=(count, longest))
    lengths = rng.integers(shortest, longest + 1, size=count)
    return [
        "".join(_LETTERS[i] for i in row[:length])
        for row, length in zip(letters.tolist(), lengths.tolist(), strict=True)
    ]


def _last(rng: np.random.Generator, count: int) -> list[Pair]:
    return [(f"last {word}", word[-1]) for word in _words(rng, count, 3, 6)]


def _reverse(rng: np.random.Generator, count: int) -> list[Pair]:
    return [(f"turn {word}", word[::-1]) for word in _words(rng, count, 5, 7)]


def _lookup(rng: np.random.Generator, count: int) -> list[Pair]:
    first = rng.integers(3, size=count)
    second = (first + rng.integers(1, 3, size=count)) % 3  # never the first key
    columns = (first, second, *rng.integers(10, size=(2, count)), rng.integers(2, size=count))
    pairs = []
    for a, b, value_a, value_b, asked in zip(*(c.tolist() for c in columns), strict=True):
        a, b = _LETTERS[a], _LETTERS[b]
        text = f"get {(a, b)[asked]} {a}{value_a} {b}{value_b}"
        pairs.append((text, str((value_a, value_b)[asked])))
    return pairs


def _add(rng: np.random.Generator, count: int) -> list[Pair]:
    numbers = rng.integers(10, 60, size=(count, 2)).tolist()
    return [(f"add {a} {b}", str(a + b)) for a, b in numbers]


@functools.cache
def _facts(noun: str, size: int) -> list[Pair]:
    """`size` different names of three letters, each with a fixed answer of two."""
    rng = np.random.default_rng([SEED, zlib.crc32(noun.encode())])
    numbers = rng.choice(26**3, size=size, replace=False)
    letters = string.ascii_lowercase
    names = [letters[n // 676] + letters[n // 26 % 26] + letters[n % 26] for n in numbers.tolist()]
    answers = _words(rng, size, 2, 2)
    return [(f"{noun} {name}", answer) for name, answer in zip(names, answers, strict=True)]


def _remembered(noun: str, size: int) -> Maker:
    def make(rng: np.random.Generator, count: int) -> list[Pair]:
        facts = _facts(noun, size)
        frequency = 1.0 / np.sqrt(np.arange(1, size + 1))  # the first is asked most often
        drawn = rng.choice(size, size=count, p=frequency / frequency.sum())
        return [facts[i] for i in drawn.tolist()]

    return make


def _toss(rng: np.random.Generator, count: int) -> list[Pair]:
    words = _words(rng, count, 4, 4)
    coins = rng.integers(len(_COIN), size=count).tolist()
    return [(f"toss {word}", word[0] + _COIN[i]) for word, i in zip(words, coins, strict=True)]


def _belongs(text: str, split: str) -> bool:
    bucket = zlib.crc32(text.encode()) % _BUCKETS
    if split in _HELD_OUT:
        return bucket == _HELD_OUT[split]
    return bucket not in _HELD_OUT.values()


def make_rows(name: str, split: str, seed: int = SEED) -> list[dict[str, str]]:
    """The rows of one split, the same at every call; inputs of a held-out split are distinct.

    Args:
      name: "last", "reverse", "lookup", "add", "capital", "code" or "toss".
      split: "train", "validation" or "test".
      seed: another one draws other rows (the facts to remember stay).
    """
    make, is_remembered = _MAKERS[name]
    num_rows = SPLIT_ROWS[split]
    rng = np.random.default_rng([seed, zlib.crc32(f"{name}/{split}".encode())])
    pairs: list[Pair] = []
    asked: set[str] = set()
    for _ in range(_MOST_DRAWS):
        for text, answer in make(rng, num_rows):
            # To pass over what was drawn before is to draw without replacement.
            again = split in _HELD_OUT and text in asked
            if not again and (is_remembered or _belongs(text, split)):
                pairs.append((text, answer))
                asked.add(text)
        if len(pairs) >= num_rows:
            break
    return [{"inputs": text, "targets": answer} for text, answer in pairs[:num_rows]]


_MAKERS: dict[str, tuple[Maker, bool]] = {  # name -> maker, is it to be remembered
    "last": (_last, False),
    "reverse": (_reverse, False),
    "lookup": (_lookup, False),
    "add": (_add, False),
    "capital": (_remembered("capital", 500), True),
    "code": (_remembered("code", 1000), True),
    "toss": (_toss, False),
}


def _source(name: str) -> GeneratedSource:
    fields = {"inputs": str, "targets": str}
    return GeneratedSource(functools.partial(make_rows, name), tuple(SPLIT_ROWS), fields)


TASKS = tuple(
    add_task(
        f"demo_{name}_v1", _source(name), [], [quality.accuracy], suite="demo", kind="short_answer"
    )
    for name in _MAKERS
)
add_mixture(MIXTURE, TASKS, 1.0)
