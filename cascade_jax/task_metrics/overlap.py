"""Word overlap with the reference: ROUGE and word edit distance."""

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from cascade_jax import checks
from cascade_jax.names import check_choice
from cascade_jax.task_metrics import quality, words

ROUGE_VARIANTS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


@functools.cache
def _scorer(variants: tuple[str, ...], use_stemmer: bool, tokenize: str | None):
    from rouge_score import rouge_scorer

    tokenizer = quality.RougeTokenizer(tokenize) if tokenize else None
    return rouge_scorer.RougeScorer(list(variants), use_stemmer=use_stemmer, tokenizer=tokenizer)


@dataclasses.dataclass(frozen=True)
class Rouge:
    """ROUGE F1 by rouge-score, a mean over examples; for English, unless it is given a tokenizer.

    Words are runs of the letters a to z and digits after lower-casing: a text in another script is
    empty, and an empty text scores 0. By a tokenizer they are what `words.split` makes of the
    lower-cased text, and the figures are named after it (rouge1_zh). The best reference counts, for
    each variant by itself.

    Example: target "the cat sat", prediction "the cat ran": {"rouge1": 2 / 3, "rouge2": 1 / 2,
    "rougeL": 2 / 3}.

    Attributes:
      variants: of rouge1, rouge2 (words, pairs of words), rougeL (longest common subsequence) and
        rougeLsum (the same by sentences, one a line). The first is the per-example quality.
      use_stemmer: whether words are cut to their stems first (Porter).
      tokenize: one of `words.TOKENIZERS`; None for rouge-score's own words.

    Reference: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries".
    """

    variants: Sequence[str] = ("rouge1", "rouge2", "rougeL")
    use_stemmer: bool = False
    tokenize: str | None = None

    def __post_init__(self):
        if self.tokenize is not None:
            check_choice("tokenize", self.tokenize, words.TOKENIZERS)
            checks.require(not self.use_stemmer, "use_stemmer", True, "False with a tokenizer")
        known = not isinstance(self.variants, str) and set(self.variants) <= set(ROUGE_VARIANTS)
        if not known or not self.variants:
            raise ValueError(f"variants are {self.variants!r}; must be of {ROUGE_VARIANTS}")

    @property
    def words_by(self) -> str:
        """For `words.unread`."""
        return self.tokenize or words.LATIN

    def __call__(self, targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        scorer = _scorer(tuple(self.variants), self.use_stemmer, self.tokenize)
        scores = [
            scorer.score_multi(references, prediction)
            for references, prediction in quality.text_pairs(targets, predictions)
        ]
        return {
            quality.named(variant, self.tokenize): float(
                np.mean([score[variant].fmeasure for score in scores])
            )
            for variant in self.variants
        }


_WORD = re.compile(r"\w+|[^\w\s]")


@dataclasses.dataclass(frozen=True)
class WordEditDistance:
    """Words to insert, delete or replace: least, most, mean, median and sum over the examples.

    A word is a run of letters, digits and underscores; every mark of punctuation is one too, so
    that restoring punctuation is measured. The nearest reference counts.
    A corpus metric, in words; each example by itself has 1 - distance / (words of the longer text).

    Example: target "I see, yes.", prediction "I see yes!": a comma is missing, a mark is another:
    distance 2 of 5, similarity 0.6.

    Attributes:
      lowercase: whether case is ignored. False measures restored case too.

    Reference: Levenshtein 1966, over words.
    """

    lowercase: bool = False

    words_by = "none"  # for `words.unread`

    def _words(self, text: str) -> list[str]:
        return _WORD.findall(text.lower() if self.lowercase else text)

    def _distance(self, target: str, prediction: str) -> int:
        import editdistance

        return editdistance.eval(self._words(target), self._words(prediction))

    def _similarity(self, target: str, prediction: str) -> float:
        longest = max(len(self._words(target)), len(self._words(prediction)))
        return 1.0 - self._distance(target, prediction) / longest if longest else 1.0

    def __call__(self, targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        distances = [
            min(self._distance(reference, prediction) for reference in references)
            for references, prediction in quality.text_pairs(targets, predictions)
        ]
        figures = {"min": np.min, "max": np.max, "mean": np.mean, "median": np.median}
        values = {f"{name}_edit": float(fn(distances)) for name, fn in figures.items()}
        return values | {"sum_edit": float(np.sum(distances))}

    def per_example(self, targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        """Mean similarity, the most similar reference of each example."""
        return {"edit_similarity": quality.mean_of_best(self._similarity, targets, predictions)}
