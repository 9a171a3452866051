"""The splits of a calibration: disjoint by example id and by text, drawn anew in every repeat.

A certificate speaks of new examples, so nothing that it was chosen on may come again in the split
that it is proven on, or in the one that it is tested on: not under another id either.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from cascade_jax.deferral.guarantees import splits

Texts = Sequence[str] | np.ndarray
_SHOWN = 48  # letters of a text in a message


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """Rows of a pool.

    Attributes:
      first: on which thresholds are searched and put in order.
      second: on which they are tested, and the best of the accepted ones is chosen.
      test: on which the promise is looked at; nothing depends on it.
    """

    first: Int[np.ndarray, " F"]
    second: Int[np.ndarray, " S"]
    test: Int[np.ndarray, " T"]


def without_repetitions(texts: Texts) -> Int[np.ndarray, " kept"]:
    """Rows whose text has not come before: a text in two splits would be known in one of them."""
    marks = np.array([_mark(text) for text in texts])
    return np.sort(np.unique(marks, return_index=True)[1])


def fingerprint(ids: Texts, texts: Texts) -> str:
    """Of a set of examples; their order does not matter."""
    return splits.split_fingerprint(
        [f"{name} {_mark(text)}" for name, text in zip(ids, texts, strict=True)]
    )


def check_disjoint(examples: Mapping[str, tuple[Texts, Texts]]) -> None:
    """Refuses splits that share an id or a text.

    Args:
      examples: by the name of a split, ids and texts.

    Raises:
      ValueError: which splits, how many examples, and the first of them.
    """
    splits.check_disjoint({name: list(map(str, ids)) for name, (ids, _) in examples.items()})
    splits.check_disjoint({name: list(map(_mark, texts)) for name, (_, texts) in examples.items()})


def _mark(text: str) -> str:
    """The beginning of a text, for who reads a message, and a fingerprint of all of it."""
    words = " ".join(text.split())
    shown = words if len(words) <= _SHOWN else words[: _SHOWN - 3] + "..."
    return f"{shown} [{splits.example_fingerprint(words)[:16]}]"


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
      ValueError: more examples wanted than there are.
    """
    first, second, test = sizes
    rows = np.asarray(calibration_rows)
    rng = np.random.default_rng(seed)
    rows = rows[rng.permutation(len(rows))]
    rest = rows[first + second :]
    if test_rows is not None:
        rest = np.asarray(test_rows)
        rest = rest[rng.permutation(len(rest))]
    wanted = first + second + (0 if test_rows is not None else max(1, test or 1))
    if len(rows) < wanted or len(rest) < max(1, test or 1):
        available = f"{len(rows)} examples without repeated texts"
        if test_rows is not None:
            available += f", and {len(test_rows)} of the test split"
        raise ValueError(
            f"splits of {first} and {second} examples to calibrate on and "
            f"{'at least 1' if test is None else test} to test on do not fit into the {available}: "
            "lower FIRST_SIZE, SECOND_SIZE or TEST_SIZE, or raise CALIBRATION_LIMIT"
        )
    return Splits(rows[:first], rows[first : first + second], rest[:test])
