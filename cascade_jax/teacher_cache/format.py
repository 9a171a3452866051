"""The facts that a teacher cache holds for each target token, and their encoding as bytes.

| of each target token | bytes |
|---|---|
| is no teacher logit larger than the label's? | 1/8 |
| log-prob of the label, unless `label_log_probs` is False | 4, 2 or 1 |
| ids of the k likeliest tokens | 2 k, or 4 k for more than 65,536 ids |
| their log-probs | 4 k, 2 k or k |
| log of what they leave to the other tokens, if there are others | 4, 2 or 1 |

Rounded log-probs are multiples of a step: a log-prob of at least the floor is off by at most half a
step, one below is taken for the floor.

| dtype | step | largest error | floor: probabilities below this count as this |
|---|---|---|---|
| float32 | – | 0 | none |
| uint16 | 32 / 65535 | 0.00025 nats | e^-32 = 1.3e-14 |
| uint8 | 16 / 255 | 0.032 nats | e^-16 = 1.2e-7 |
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from cascade_jax import checks
from cascade_jax.names import check_choice

FLOORS = {"float32": None, "uint16": 32.0, "uint8": 16.0}
MORE_NEED = {  # of a loss, see `variants.Loss.teacher_need`
    "most likely token": "the teacher's most likely token",
    "distribution": "the teacher's distribution",
}


@dataclasses.dataclass(frozen=True)
class TokenFacts:
    """A teacher's outputs for T target tokens; None for those that the cache does not hold.

    Attributes:
      label_is_best: whether no token has a larger teacher logit than the label.
      label_log_probs: of the label, in nats.
      ids, log_probs: of the k likeliest tokens, the likeliest first.
      log_tail: log of what the k leave to the other tokens; None where there are no others.
    """

    label_is_best: Bool[np.ndarray, " T"]
    label_log_probs: Float[np.ndarray, " T"] | None = None
    ids: Int[np.ndarray, "T k"] | None = None
    log_probs: Float[np.ndarray, "T k"] | None = None
    log_tail: Float[np.ndarray, " T"] | None = None

    def __getitem__(self, tokens) -> "TokenFacts":
        columns = (getattr(self, field.name) for field in dataclasses.fields(self))
        return TokenFacts(*(None if column is None else column[tokens] for column in columns))


@dataclasses.dataclass(frozen=True)
class Holding:
    """Which facts a cache holds, and in which dtype.

    Attributes:
      vocab_size: number of token ids of the teacher.
      top_k: so many of the likeliest tokens; 0 for none.
      dtype: of log-probs, see the head of this file.
      label_log_probs: whether those of the labels are held.
    """

    vocab_size: int
    top_k: int = 0
    dtype: str = "float32"
    label_log_probs: bool = True

    def __post_init__(self):
        is_count = type(self.top_k) is int and 0 <= self.top_k <= self.vocab_size
        counts = f"0 (none) to {self.vocab_size}, the vocabulary of the teacher"
        checks.require(is_count, "top_k", self.top_k, counts)
        check_choice("dtype", self.dtype, FLOORS)
        is_bool = type(self.label_log_probs) is bool
        checks.require(is_bool, "label_log_probs", self.label_log_probs, "True or False")

    @property
    def has_tail(self) -> bool:
        """Whether there are tokens besides the top k."""
        return 0 < self.top_k < self.vocab_size

    @property
    def _step(self) -> float:
        return FLOORS[self.dtype] / np.iinfo(self.dtype).max

    def lacks(self, need: str) -> str | None:
        """What a loss with this `teacher_need` lacks, in words; None if nothing."""
        return MORE_NEED.get(need) if self.top_k == 0 else None

    def num_bytes(self, tokens: int) -> int:
        """Length of `encode`'s result."""
        parts = self._parts(tokens)
        return -(-tokens // 8) + sum(np.dtype(kind).itemsize * n for kind, n in parts.values())

    def _parts(self, tokens: int) -> dict[str, tuple[str, int]]:
        """After the bits: (dtype, count) of what follows, in order."""
        kind = self.dtype if FLOORS[self.dtype] else "<f4"
        kind = {"uint16": "<u2", "uint8": "u1"}.get(kind, kind)
        parts = {"label_log_probs": (kind, tokens)} if self.label_log_probs else {}
        if self.top_k:
            ids = "<u2" if self.vocab_size <= 1 << 16 else "<u4"
            parts["ids"] = (ids, tokens * self.top_k)
            parts["log_probs"] = (kind, tokens * self.top_k)
        if self.has_tail:
            parts["log_tail"] = (kind, tokens)
        return parts

    def encode(self, facts: TokenFacts) -> bytes:
        """Facts of consecutive tokens as bytes."""
        tokens = len(facts.label_is_best)
        parts = [np.packbits(facts.label_is_best).tobytes()]
        for name, (kind, _) in self._parts(tokens).items():
            values = getattr(facts, name)
            codes = values if name == "ids" else self._rounded(values)
            parts.append(np.ascontiguousarray(codes).astype(kind).tobytes())
        return b"".join(parts)

    def decode(self, record: bytes, tokens: int) -> TokenFacts:
        """The inverse of `encode`, up to the rounding; log-probs stay codes until `unrounded`."""
        bits = np.frombuffer(record, np.uint8, -(-tokens // 8))
        columns = {"label_is_best": np.unpackbits(bits, count=tokens).astype(bool)}
        start = len(bits)
        for name, (kind, count) in self._parts(tokens).items():
            values = np.frombuffer(record, kind, count, offset=start)
            wide = name in ("ids", "log_probs")
            columns[name] = values.reshape(tokens, self.top_k) if wide else values
            start += values.nbytes
        return TokenFacts(**columns)

    def unrounded(self, codes: np.ndarray) -> Float[np.ndarray, "..."]:
        """Log-probs, float32, of what `decode` gives."""
        if FLOORS[self.dtype] is None:
            return codes
        values = np.arange(np.iinfo(self.dtype).max + 1) * -self._step
        return values.astype(np.float32)[codes]

    def _rounded(self, log_probs: np.ndarray) -> np.ndarray:
        if FLOORS[self.dtype] is None:
            return log_probs
        steps = np.rint(np.asarray(log_probs, np.float64) / -self._step)
        return np.clip(steps, 0, np.iinfo(self.dtype).max)
