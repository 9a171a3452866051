"""The splits of a calibration: they share no example, by id or by text; each repeat draws its own.

A certificate is about new examples, so nothing that it was chosen on may come again in the split
that it is proven on, or in the one that it is tested on: not under another id either.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from cascade_jax.short_text import cut_short

Texts = Sequence[str] | np.ndarray
_SHOWN = 5  # examples in a message
_LETTERS = 48  # of a text in a message


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """Rows of a pool in each split.

    Attributes:
      first: on which thresholds are searched and put in order.
      second: on which they are tested, and the best of the accepted ones is chosen.
      test: on which the promise is looked at; nothing depends on it.
    """

    first: Int[np.ndarray, " F"]
    second: Int[np.ndarray, " S"]
    test: Int[np.ndarray, " T"]


def check_disjoint(splits: Mapping[str, Sequence[str]]) -> None:
    """Refuses splits that share an example, or one that has an example twice.

    Two copies of an example are not independent, and one that has chosen the order of tests may not
    be tested on.

    Args:
      splits: name of the split -> ids of its examples, or `example_fingerprint` of each, which
        finds examples that are the same under two ids.

    Raises:
      ValueError: which splits, how many examples, and the first of them.
    """
    owner: dict[str, str] = {}
    shared: dict[tuple[str, str], list[str]] = {}
    for name, examples in splits.items():
        for example in examples:
            if example in owner:
                shared.setdefault((owner[example], name), []).append(str(example))
            else:
                owner[example] = name
    for (one, other), examples in shared.items():
        shown = ", ".join(map(repr, examples[:_SHOWN])) + ", …" * (len(examples) > _SHOWN)
        count, total = len(examples), len(splits[other])
        if one == other:
            raise ValueError(
                f"the split {one!r} has {count} of its {total} examples more than once: {shown}; "
                "copies are not independent, leave them out"
            )
        shared_by = f"the splits {one!r} and {other!r} share {count} of {total} examples"
        raise ValueError(f"{shared_by}: {shown}; take splits that share none")


def example_fingerprint(*texts: str) -> str:
    """32 hexadecimal digits of an example's texts: prompt and target, say."""
    hashed = hashlib.blake2b(digest_size=16)
    for text in texts:
        encoded = text.encode()
        hashed.update(len(encoded).to_bytes(8, "little") + encoded)
    return hashed.hexdigest()


def split_fingerprint(examples: Sequence[str]) -> str:
    """32 hexadecimal digits of a split: of its examples' ids or fingerprints, in any order."""
    return example_fingerprint(*sorted(map(str, examples)))


def id_hash(example_id: str) -> str:
    """16 hexadecimal digits of an example's id: enough to know it again, and not to read it."""
    return example_fingerprint(example_id)[:16]


def without_repetitions(texts: Texts) -> Int[np.ndarray, " kept"]:
    """Rows whose text has not come before: a text in two splits would be known in one of them."""
    marks = np.array([_mark(text) for text in texts])
    return np.sort(np.unique(marks, return_index=True)[1])


def text_numbers(texts: Texts) -> Int[np.ndarray, " n"]:
    """A number for each text from 0 on, the same for texts that differ in white space alone.

    A blank text is one that is not known, so it has a number of its own.

    Example: ["a b", "c", "a  b", "", ""] gives 0, 1, 0, 2, 3.
    """
    numbers: dict[object, int] = {}
    keys = (" ".join(text.split()) or row for row, text in enumerate(texts))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def fingerprint(ids: Texts, texts: Texts) -> str:
    """32 hexadecimal digits of examples, in any order."""
    return split_fingerprint(
        [f"{name} {_mark(text)}" for name, text in zip(ids, texts, strict=True)]
    )


def check_examples_disjoint(examples: Mapping[str, tuple[Texts, Texts]]) -> None:
    """Refuses splits that share an id or a text; by the name of a split, ids and texts.

    Raises:
      ValueError: which splits, how many examples, and the first of them.
    """
    check_disjoint({name: list(map(str, ids)) for name, (ids, _) in examples.items()})
    check_disjoint({name: list(map(_mark, texts)) for name, (_, texts) in examples.items()})


def _mark(text: str) -> str:
    """The beginning of a text, for messages, and a fingerprint of all of it."""
    words = " ".join(text.split())
    return f"{cut_short(words, _LETTERS)} [{example_fingerprint(words)[:16]}]"


def draw(
    calibration_rows: Sequence[int] | np.ndarray,
    test_rows: Sequence[int] | np.ndarray | None,
    sizes: tuple[int, int, int | None],
    seed: int,
) -> Splits:
    """Splits of a pool by a permutation that the seed alone decides.

    Args:
      calibration_rows: rows that the two calibration splits are drawn from.
      test_rows: rows that the test split is drawn from; None for those that the calibration leaves.
      sizes: of the first, second and test split; None for all that is left to test on.
      seed: of the permutation.

    Raises:
      ValueError: the splits are larger than the examples suffice for.
    """
    first, second, test = sizes
    rows = np.asarray(calibration_rows)
    rng = np.random.default_rng(seed)
    rows = rows[rng.permutation(len(rows))]
    rest = rows[first + second :]
    if test_rows is not None:
        rest = np.asarray(test_rows)
        rest = rest[rng.permutation(len(rest))]
    needed = first + second + (0 if test_rows is not None else max(1, test or 1))
    if len(rows) < needed or len(rest) < max(1, test or 1):
        available = f"{len(rows)} examples without repeated texts"
        if test_rows is not None:
            available += f", and {len(test_rows)} of the test split"
        raise ValueError(
            f"splits of {first} and {second} examples to calibrate on and "
            f"{'at least 1' if test is None else test} to test on do not fit into the {available}: "
            "lower FIRST_SIZE, SECOND_SIZE or TEST_SIZE, or raise CALIBRATION_LIMIT"
        )
    return Splits(rows[:first], rows[first : first + second], rest[:test])
