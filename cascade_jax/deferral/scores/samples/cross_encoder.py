"""Similarity by a classifier of transformers that reads both texts: the extra transformers."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from scipy import special

from cascade_jax import checks
from cascade_jax.names import check_choice

ENTAILMENT, NO_CONTRADICTION, GRADED = "entailment", "no contradiction", "graded"
# What each class adds to the similarity.
_WEIGHTS = {
    ENTAILMENT: {"entailment": 1.0},
    NO_CONTRADICTION: {"entailment": 1.0, "neutral": 1.0},
    GRADED: {"entailment": 1.0, "neutral": 0.5},
}


@dataclasses.dataclass(frozen=True)
class CrossEncoder:
    """Similarity by a model of entailment (NLI), or of one output, in a local folder.

    The mean over both orders of the texts of ``sum_c w_c softmax(logits / temperature)_c``, c the
    classes entailment, neutral and contradiction; of a model with one output, that of its sigmoid.
    Runs on torch, on a GPU where it sees one. Nothing is downloaded.

    Attributes:
      path: folder with the model's config.json, weights and tokenizer, as transformers saves them.
      form: "entailment" (w = 1, 0, 0), "no contradiction" (1, 1, 0) or "graded" (1, 0.5, 0).
      temperature: of the softmax; 3 in Lin, Trivedi and Sun 2023.
      batch_size: pairs at once.
      truncate: whether texts that are too long for the model are cut, the longer of two first;
        otherwise they are refused.

    Reference: Lin, Trivedi and Sun 2023, Generating with Confidence (entailment and no
    contradiction); Nikitin et al. 2024, Kernel Language Entropy (graded); Duan et al. 2023, SAR
    (one output).
    """

    path: str
    form: str = ENTAILMENT
    temperature: float = 1.0
    batch_size: int = 32
    truncate: bool = False
    is_symmetric: ClassVar[bool] = True
    is_model: ClassVar[bool] = True

    def __post_init__(self):
        checks.require(bool(self.path), "path", self.path, "a folder of transformers")
        check_choice("form", self.form, tuple(_WEIGHTS))
        checks.positive("temperature", self.temperature)
        checks.whole_number("batch_size", self.batch_size, 1)
        checks.true_or_false("truncate", self.truncate)

    @property
    def name(self) -> str:
        return f"{self.form} by {Path(self.path).name}"

    def __call__(self, first: str, second: str) -> float:
        return float(self.many([(first, second)])[0])

    def many(self, pairs: Sequence[tuple[str, str]]) -> Float[np.ndarray, " pairs"]:
        """Similarity of each pair.

        Raises:
          FileNotFoundError: no such model.
          ImportError: torch or transformers is not installed.
          ValueError: a model of other classes, or texts that are too long for it.
        """
        both = [*pairs, *((second, first) for first, second in pairs)]
        order = sorted(range(len(both)), key=lambda i: len(both[i][0]) + len(both[i][1]))
        values = np.empty(len(both))
        for start in range(0, len(both), self.batch_size):
            rows = order[start : start + self.batch_size]
            values[rows] = self._similarity(self._logits([both[i] for i in rows]))
        return values.reshape(2, -1).mean(axis=0)

    def _similarity(self, logits: Float[np.ndarray, "rows C"]) -> Float[np.ndarray, " rows"]:
        if logits.shape[1] == 1:
            return special.expit(logits[:, 0])
        logits = logits / self.temperature
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shares @ self._weights() / shares.sum(axis=1)

    def _weights(self) -> Float[np.ndarray, " C"]:
        """What each of the model's classes adds to the similarity."""
        labels = _load(self.path)[1].config.id2label
        names = [str(labels[i]).lower() for i in range(len(labels))]
        weights = _WEIGHTS[self.form]
        if lacking := [name for name in weights if name not in names]:
            raise ValueError(
                f"{self.path}: the model has the classes {names}; {self.form!r} needs "
                f"{' and '.join(map(repr, lacking))}"
            )
        return np.array([weights.get(name, 0.0) for name in names])

    def _logits(self, pairs: Sequence[tuple[str, str]]) -> Float[np.ndarray, "rows C"]:
        import torch

        tokenizer, model = _load(self.path)
        most = min(tokenizer.model_max_length, _positions(model.config))
        options = {}
        if self.truncate and most < checks.LARGEST:
            options = {"max_length": most, "truncation": "longest_first"}
        firsts, seconds = map(list, zip(*pairs, strict=True))
        inputs = tokenizer(firsts, seconds, padding=True, return_tensors="pt", **options)
        length = inputs["input_ids"].shape[1]
        if length > most:
            raise ValueError(
                f"{self.path} reads {most} tokens, and two answers have {length} together; give "
                "truncate = True to cut them"
            )
        with torch.no_grad():
            logits = model(**inputs.to(model.device)).logits
        return logits.double().cpu().numpy()


def _positions(config: Any) -> int | float:
    """How many tokens a model can read; infinite where it doesn't say."""
    positions = getattr(config, "max_position_embeddings", None) or math.inf
    # RoBERTa and its kin number positions from the padding's id on.
    return positions - (config.pad_token_id + 1) * ("roberta" in config.model_type)


@functools.lru_cache(2)
def _load(path: str) -> tuple[Any, Any]:
    """(tokenizer, model) of a folder."""
    if not (Path(path) / "config.json").is_file():
        raise FileNotFoundError(f"{path}: no folder of transformers, it has no config.json")
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ImportError(
            f"a similarity by a cross-encoder needs {error.name}, which is not installed: pip "
            "install 'cascade-jax[transformers]'"
        ) from error
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        path, local_files_only=True
    )
    return tokenizer, model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
