"""Splits must share no example: neither two calibration splits, nor one of them and the test."""

import hashlib
from collections.abc import Mapping, Sequence

_SHOWN = 5


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
        if one == other:
            raise ValueError(
                f"the split {one!r} has {len(examples)} of its {len(splits[one])} examples more "
                f"than once: {shown}; copies are not independent, leave them out"
            )
        raise ValueError(
            f"the splits {one!r} and {other!r} share {len(examples)} of {len(splits[other])} "
            f"examples: {shown}; take splits that share none"
        )


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
