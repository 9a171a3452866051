"""Metrics of short answers: SQuAD and TriviaQA.

They are means over examples, so they are split between the models of a cascade as they are.
"""

import re
import string
from collections.abc import Callable, Sequence
from typing import Any

from cascade_jax.task_metrics import quality, words

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_SQUAD_MARKS = str.maketrans("", "", string.punctuation)
_TRIVIA_QA_MARKS = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`", " "))


def _without_articles(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text).split())


def normalize_squad(text: str) -> str:
    """Lower case, no ASCII punctuation, no English articles, single spaces.

    Example: "The  U.S. Army" -> "us army".

    Reference: Rajpurkar et al. 2016, "SQuAD", section 6.1.
    """
    return _without_articles(text.lower().translate(_SQUAD_MARKS))


def normalize_trivia_qa(text: str) -> str:
    """As SQuAD, but punctuation, underscores and curved quotes become spaces.

    Example: "The U.S._Army’s" -> "u s army s".

    Reference: Joshi et al. 2017, "TriviaQA", section 6.1.
    """
    return _without_articles(text.lower().translate(_TRIVIA_QA_MARKS))


def _em_and_f1(
    normalize: Callable[[str], str],
    targets: Sequence[Any],
    predictions: Sequence[Any],
    tokenize: str | None,
) -> dict[str, float]:
    def exact(target: str, prediction: str) -> float:
        return float(normalize(target) == normalize(prediction))

    def f1(target: str, prediction: str) -> float:
        texts = normalize(target), normalize(prediction)
        return quality.bag_f1(*(words.split(text, tokenize) for text in texts))

    return {
        "em": quality.mean_of_best(exact, targets, predictions),
        quality.named("f1", tokenize): quality.mean_of_best(f1, targets, predictions),
    }


@words.by_words
def squad(
    targets: Sequence[Any], predictions: Sequence[Any], tokenize: str | None = None
) -> dict[str, float]:
    """Exact match and word F1 after SQuAD's normalisation, best reference each; ReCoRD's too.

    Means over examples; exact match, the first, is the per-example quality. Words of F1 are what
    white space parts, or what a tokenizer of `words.TOKENIZERS` makes of the text (f1_zh). An
    answer of articles and marks only is empty, and two empty ones agree in both figures (as in
    SQuAD 2.0).

    Targets of ReCoRD are lists of all answers of the query.

    Example: target ["The Nile", "Nile river"], prediction "river Nile": em 0, f1 1.

    Reference: Rajpurkar et al. 2016, section 6.1; Zhang et al. 2018, "ReCoRD", section 5.
    """
    return _em_and_f1(normalize_squad, targets, predictions, tokenize)


@words.by_words
def trivia_qa(
    targets: Sequence[Any], predictions: Sequence[Any], tokenize: str | None = None
) -> dict[str, float]:
    """Exact match and word F1 after TriviaQA's normalisation, best reference each.

    Means over examples; exact match, the first, is the per-example quality. Words of F1 as of
    `squad`.

    Example: target ["Jaws_(film)", "jaws"], prediction "The Jaws!": em 1, f1 1.

    Reference: Joshi et al. 2017, section 6.1.
    """
    return _em_and_f1(normalize_trivia_qa, targets, predictions, tokenize)
