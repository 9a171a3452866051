"""The index of a shard of a teacher cache: keys of its examples, their tokens, and checksums."""

import dataclasses
from pathlib import Path

import numpy as np

from cascade_jax import array_file, json_file, json_text
from cascade_jax.data.example_keys import KEY_BYTES


@dataclasses.dataclass(frozen=True)
class ShardFacts:
    """Figures of a shard.

    Attributes:
      fingerprint: digest of the cache that it is of.
      bytes: of its records.
      examples, tokens: how many it has.
      right: tokens on which the teacher is right.
      log_probs: sum of the labels'.
    """

    fingerprint: str
    bytes: int
    examples: int
    tokens: int
    right: int
    log_probs: float


@dataclasses.dataclass(frozen=True)
class Index:
    """The index of a shard: keys and numbers of tokens of its examples, and where records begin."""

    facts: ShardFacts
    keys: np.ndarray
    tokens: np.ndarray
    first: np.ndarray
    sums: np.ndarray | None  # None in files of earlier versions


def read(path: Path) -> Index:
    """Reads an index; raises ValueError if it is not whole, or its parts do not fit together."""
    arrays, source = array_file.read(path, path.name), path.name
    text = str(array_file.checked(arrays, "facts", "U", (), source))
    facts = json_file.from_values(json_text.parse(text, source), ShardFacts, source)
    keys = array_file.checked(arrays, "keys", "u", (None, KEY_BYTES), source).astype(np.uint8)
    tokens = array_file.checked(arrays, "tokens", "u", (len(keys),), source)
    first = array_file.checked(arrays, "first", "u", (None,), source).astype(np.int64)
    rises = len(first) and first[0] == 0 and first[-1] == len(keys) and np.all(np.diff(first) > 0)
    if not rises or (facts.examples, facts.tokens) != (len(keys), int(tokens.sum())):
        raise ValueError(f"{source}: its numbers of examples, tokens and records contradict")
    sums = None
    if "sums" in arrays:
        sums = array_file.checked(arrays, "sums", "u", (len(first) - 1,), source)
    return Index(facts, keys, tokens, first, sums)
