"""The data that a router was fitted on: a fingerprint, and hashes of the examples' ids."""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Real, UInt64

from cascade_jax.deferral.guarantees import splits
from cascade_jax.deferral.scores.answer_tokens import AnswerTokens


def fingerprint(
    answers: AnswerTokens,
    student_quality: Real[np.ndarray, " examples"],
    teacher_quality: Real[np.ndarray, " examples"],
) -> str:
    """64 hexadecimal digits of a router's training data: ids, log-probs, and both qualities.

    The order of examples that have ids does not matter, so that records have the same fingerprint
    after they were put in the order of others. Log-probs count in float32, as records hold them.
    """
    order = np.arange(answers.num_examples)
    hashed = hashlib.sha256(b"cascade_jax answers 1")
    if answers.example_ids is not None:
        ids = np.array([str(name) for name in answers.example_ids], dtype=object)
        order = np.argsort(ids, kind="stable")
        for name in ids[order]:
            hashed.update(str(name).encode() + b"\0")
    ordered = answers.take(order)
    hashed.update(ordered.lengths.astype("<i8").tobytes())
    hashed.update(ordered.log_probs.astype("<f4").tobytes())
    for quality in (student_quality, teacher_quality):
        hashed.update(np.asarray(quality).astype("<f8")[order].tobytes())
    return hashed.hexdigest()


def id_hashes(
    example_ids: Sequence[str] | np.ndarray | None, version: int = 2
) -> UInt64[np.ndarray, " ids"]:
    """`splits.id_hash` of each id as a number, sorted; none without ids.

    Two of a million different ids share one with a chance of 3 in 100 million. Router files of
    version 1 hold another hash of them.
    """
    ids = [] if example_ids is None else [str(name) for name in example_ids]
    hashes = [int(splits.id_hash(name), 16) for name in ids]
    if version == 1:
        digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids]
        hashes = [int.from_bytes(digest, "little") for digest in digests]
    return np.sort(np.array(hashes, np.uint64))
