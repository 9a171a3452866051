"""Whether the likeliest tokens at a place are spelled as the answer's own."""

import dataclasses
import functools
import re
import string
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from cascade_jax import checks
from cascade_jax.collection.probes.base import Probe
from cascade_jax.models.config import ModelConfig

_NAME = re.compile(r"<[^<>\s]+>")  # of a special token


@dataclasses.dataclass(frozen=True)
class SurfaceForms(Probe):
    """log of the share, among the likeliest tokens at a place, of those spelled as the answer's.

    ``log(sum of p over those of its surface form / sum of p over all)``, over the TOP_K likeliest
    tokens and the answer's own. It takes no FLOPs.

    Example: " Paris" 0.5, "paris" 0.2, "Rome" 0.1, the answer " Paris": log(0.7 / 0.8).

    Reference: `scores.SurfaceFormCcp`.
    """

    columns: ClassVar[tuple[str, ...]] = ("surface_log_probs",)

    def check(self, config: ModelConfig, top_k: int, samples: int) -> None:
        checks.require(top_k >= 2, "TOP_K", top_k, "2 or more for SurfaceForms, which reads them")


def surface_form(piece: str) -> str:
    """A token's letters and digits, without case and the spaces and punctuation around them.

    Of punctuation alone it is that, and of a special token its name.

    Example: "▁Paris," -> "paris"; "▁." -> "."; "</s>" -> "</s>".
    """
    if _NAME.fullmatch(piece):
        return piece
    text = piece.replace("▁", " ").casefold()
    return text.strip(string.punctuation + string.whitespace) or text.strip() or text


def log_shares(
    tokens: Sequence[Int[np.ndarray, " _"]],
    log_probs: Sequence[Float[np.ndarray, " _"]],
    top_ids: Sequence[Int[np.ndarray, "_ K"]],
    top_log_probs: Sequence[Float[np.ndarray, "_ K"]],
    piece_of: Callable[[int], str],
) -> Iterator[Float[np.ndarray, " _"]]:
    """The column of each answer, float32, at most 0.

    Args:
      tokens, log_probs, top_ids, top_log_probs: of each answer, as records hold them.
      piece_of: the text of an id.
    """
    numbers: dict[str, int] = {}

    @functools.cache
    def form(token: int) -> int:
        return numbers.setdefault(surface_form(piece_of(token)), len(numbers))

    forms = np.vectorize(form, otypes=[np.int64])
    for own, own_log_probs, ids, logs in zip(
        tokens, log_probs, top_ids, top_log_probs, strict=True
    ):
        is_same = forms(ids) == forms(own)[:, None] if len(own) else np.zeros(ids.shape, bool)
        is_listed = np.any(ids == own[:, None], axis=1)
        beside = np.where(is_listed, -np.inf, own_log_probs.astype(np.float64))
        logs = logs.astype(np.float64)
        same = np.logaddexp(np.logaddexp.reduce(np.where(is_same, logs, -np.inf), axis=1), beside)
        share = same - np.logaddexp(np.logaddexp.reduce(logs, axis=1), beside)
        yield np.minimum(share, 0.0).astype(np.float32)
