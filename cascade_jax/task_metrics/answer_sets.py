"""Sets of answers: F1 of the answers that a text lists against all that its question has."""

import dataclasses
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from cascade_jax.task_metrics import quality, short_answers

_BULLET = re.compile(r"^\s*(?:[-*•–]|\(?\d{1,3}[.)]|\(?[A-Za-z]\))\s+")
_COMMA = re.compile(r"[，、]|,(?!\d{3}\b)")  # not that of 1,000
_AND = re.compile(r"\s+(?:and|&)\s+")
_LEADING_AND = re.compile(r"^\s*(?:and|&)\s+")


@dataclasses.dataclass(frozen=True)
class SetF1:
    """F1 of the set of answers that a prediction lists, against the set of right answers.

    ``F1 = 2 |common| / (|target| + |prediction|)``, a mean over examples; beside it the means of
    precision and recall. Two empty sets agree fully.

    Here a target that is a list holds answers that must all be named, where for other metrics any
    of them is right. One of them may be a list itself: other spellings of one answer. A target
    that is a text is read as a prediction is:

    - Every line is an answer if there are several, its bullet or number aside; else semicolons part
      answers if there are any; else commas and the word "and" do.
    - What is a right answer as it stands is not parted: "Romeo and Juliet".
    - Answers are compared by `normalize`, and those that it makes alike are one.

    Example: target ["red", ["gray", "grey"], "blue"], prediction "Blue, red and green": 2 of 3 are
    named and 2 of 3 are right, F1 = 2 * 2 / 6 = 0.667.

    Attributes:
      normalize: what is compared of an answer, SQuAD's by default. Of an answer that it leaves
        nothing of, "A" say, the lower-cased text is.

    Reference: Yang et al. 2024, "MAQA: Evaluating Uncertainty Quantification in LLMs Regarding Data
    Uncertainty", reports recall and F1 of sets of answers. How it parts a text into answers and
    when it takes two for the same is unverified: these rules are ours.
    """

    normalize: Callable[[str], str] = short_answers.normalize_squad

    def __call__(self, targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        """Means over examples of F1, which measures single examples, precision and recall.

        Raises:
          ValueError: unequal or empty lists, an empty target list, or something that is not text.
        """
        quality.check_pairs(targets, predictions)
        pairs = zip(targets, predictions, strict=True)
        counts = [self._counts(i, *pair) for i, pair in enumerate(pairs)]
        common, right, named = np.array(counts, np.float64).T
        ratios = {
            "set_f1": (2 * common, right + named),
            "set_precision": (common, named),
            "set_recall": (common, right),
        }
        are_empty = (right + named) == 0
        return {
            name: float(np.mean(np.where(are_empty, 1.0, upper / np.maximum(lower, 1.0))))
            for name, (upper, lower) in ratios.items()
        }

    def _counts(self, i: int, target: Any, prediction: Any) -> tuple[int, int, int]:
        """Sizes of the common set, the target and the prediction."""
        target, prediction = quality.value_of(target), quality.value_of(prediction)
        _check_text(prediction, "prediction", i)
        number_of: dict[str, int] = {}  # of an answer, by each of its spellings
        if isinstance(target, str):
            answers = self.listed(target)
        else:
            answers = quality.references_of(target)
        for answer in answers:
            spellings = quality.references_of(answer)
            for spelling in spellings:
                _check_text(spelling, "target", i)
            keys = list(filter(None, map(self._key, spellings)))
            number = next((number_of[key] for key in keys if key in number_of), len(number_of))
            number_of |= dict.fromkeys(keys, number)
        named = set(map(self._key, self.listed(prediction, number_of)))
        hits = {number_of[key] for key in named if key in number_of}
        wrong = {key for key in named if key not in number_of}
        return len(hits), len(set(number_of.values())), len(hits) + len(wrong)

    def listed(self, text: str, whole: Collection[str] = ()) -> list[str]:
        """The answers that a text lists.

        Args:
          text: "red, green and blue", or a list with a line for each.
          whole: normalised answers that are not parted.
        """
        if self._key(text) in whole:
            return [text.strip()]
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) > 1:
            parts = [_BULLET.sub("", line) for line in lines]
        elif ";" in text:
            parts = [_LEADING_AND.sub("", part) for part in text.split(";")]
        else:
            pieces = _COMMA.split(_BULLET.sub("", text))
            parts = []
            for piece in (_LEADING_AND.sub("", piece) for piece in pieces):
                parts += [piece] if self._key(piece) in whole else _AND.split(piece)
        return [part.strip() for part in parts if self._key(part)]

    def _key(self, text: str) -> str:
        is_nothing = not any(map(str.isalnum, text))
        return self.normalize(text) or ("" if is_nothing else text.strip().casefold())


def _check_text(text: Any, kind: str, i: int) -> None:
    if not isinstance(text, str):
        raise ValueError(f"{kind} of example {i} is {text!r} ({type(text).__name__}); must be text")
