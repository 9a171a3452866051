"""Words of a text, by tokenizers of sacrebleu, and texts whose words a metric can not tell apart.

A metric of words (BLEU, ROUGE, F1 of words) is blind to a language without spaces between words,
unless it is given a tokenizer for it: a sentence is one word then, right as a whole or wrong.
"""

import dataclasses
import functools
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cascade_jax.names import check_choice, did_you_mean
from cascade_jax.short_text import cut_short

# sacrebleu's others (spm, flores200) load a model from elsewhere when first used.
TOKENIZERS = ("13a", "intl", "zh", "ja-mecab", "char", "none")
LANGUAGE_TOKENIZERS = {
    **dict.fromkeys(
        "af ar az be bg bn bs ca cs cy da de el en eo es et eu fa fi fr ga gl gu ha he hi hr hu hy "
        "id ig is it ka kk kn ko ky lb lt lv mk ml mn mr ms mt nb ne nl nn no pa pl ps pt ro ru si "
        "sk sl so sq sr sv sw ta te tg tl tr uk ur uz vi xh yo zu".split(),
        "13a",  # Korean too: sacrebleu's own tokenizer of it needs a dictionary beside it
    ),
    "ja": "ja-mecab",
    **dict.fromkeys(("yue", "zh"), "zh"),
    # Without spaces, and sacrebleu has no words of them that need no download.
    **dict.fromkeys(("bo", "dz", "km", "lo", "my", "th"), "char"),
}  # fmt: skip
LATIN = "a-z"  # for `words_by`: the metric sees the letters a to z and digits only

# Scripts without spaces between words: the suggested tokenizer, the most letters that one word has
# on average, and the letters.
_SCRIPTS = {
    "Chinese characters": ("zh", 4, "\u3005-\u3007\u3100-\u312f\u3400-\u4dbf\u4e00-\u9fff"
                           "\uf900-\ufaff\U00020000-\U000323af"),
    "kana": ("ja-mecab", 4, "\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9d"),
    "Thai": ("char", 12, "\u0e01-\u0e5b"),
    "Lao": ("char", 12, "\u0e80-\u0eff"),
    "Tibetan": ("char", 12, "\u0f00-\u0fff"),
    "Burmese": ("char", 12, "\u1000-\u109f\ua9e0-\ua9fe\uaa60-\uaa7f"),
    "Khmer": ("char", 12, "\u1780-\u17ff"),
}  # fmt: skip
_SPLIT_BY = {"zh": ["Chinese characters"], "ja-mecab": ["Chinese characters", "kana"]}
_SPLIT_BY["char"] = list(_SCRIPTS)
_LATIN_WORD = re.compile(r"[a-z0-9]", re.IGNORECASE)
_SHOWN = 40


def tokenizer_of(language: str) -> str:
    """sacrebleu's tokenizer for texts of a language ("zh", "ja", "pt-BR").

    Raises:
      ValueError: a language that is not in the table; name a tokenizer to the metric then.
    """
    check_choice("language", _primary(language), sorted(LANGUAGE_TOKENIZERS))
    return LANGUAGE_TOKENIZERS[_primary(language)]


def _primary(language: str) -> str:
    """The language of a tag (BCP 47): "zh" of "zh-Hans", "pt" of "pt_BR"."""
    return re.split("[-_]", language)[0].lower()


def tokenizer(name: str) -> str:
    """One of TOKENIZERS, by its own name or by that of a language.

    Raises:
      ValueError: neither; lists both, with the nearest.
    """
    if name in TOKENIZERS:
        return name
    if _primary(name) not in LANGUAGE_TOKENIZERS:
        known = [*TOKENIZERS, *sorted(LANGUAGE_TOKENIZERS)]
        raise ValueError(
            f"tokenizer is {name!r}; must be one of {', '.join(TOKENIZERS)}, or a language of "
            f"{', '.join(sorted(LANGUAGE_TOKENIZERS))}{did_you_mean(name, known)}"
        )
    return LANGUAGE_TOKENIZERS[_primary(name)]


def check_installed(tokenize: str | None) -> None:
    """Raises what the first use would: an ImportError if the tokenizer's extra is missing.

    Not done when a metric is built, so that tasks into Japanese register without it.
    """
    missing = [name for name in ("MeCab", "ipadic") if importlib.util.find_spec(name) is None]
    if tokenize == "ja-mecab" and missing:
        raise ImportError(
            f"tokenize 'ja-mecab' needs {' and '.join(missing)}, which are not installed: "
            "pip install 'cascade-jax[ja]'"
        )


@functools.cache
def _sacrebleu_tokenizer(tokenize: str) -> Callable[[str], str]:
    import sacrebleu

    check_choice("tokenize", tokenize, TOKENIZERS)
    check_installed(tokenize)
    return sacrebleu.BLEU(tokenize=tokenize, force=True).tokenizer


def split(text: str, tokenize: str | None = None) -> list[str]:
    """Words of a text: by one of TOKENIZERS, or what white space parts.

    Example: "我去 Rome" by "zh": ["我", "去", "Rome"].
    """
    return (_sacrebleu_tokenizer(tokenize)(text) if tokenize else text).split()


def by_words(metric_fn: Callable) -> Callable:
    """Decorates a metric of words, which takes `tokenize`, so that `unread` knows it."""
    metric_fn.words_by = "none"
    return metric_fn


def _words_by(metric_fn: Any) -> str | None:
    """How a metric parts words: one of TOKENIZERS or LATIN; None if it reads none."""
    tokenize = None
    while isinstance(metric_fn, functools.partial):
        tokenize = tokenize or metric_fn.keywords.get("tokenize")
        metric_fn = metric_fn.func
    words_by = getattr(metric_fn, "words_by", None)
    return words_by and (tokenize or words_by)


@dataclasses.dataclass(frozen=True)
class Unread:
    """Targets whose words a metric can not tell apart.

    Attributes:
      count, total: of targets.
      why: what is wrong with the first, in words.
      tokenizer: what would tell its words apart.
      metric: the metric's name.
    """

    count: int
    total: int
    why: str
    tokenizer: str

    metric: str

    @property
    def is_most(self) -> bool:
        """Whether it is more than half of the targets."""
        return 2 * self.count > self.total

    @property
    def text(self) -> str:
        """All of it in words."""
        counts = f"{self.count:,} of {self.total:,}"
        return f"{self.metric} can't tell apart the words of {counts} {self.why}"

    @property
    def advice(self) -> str:
        """The text, and what would help."""
        return f"{self.text}; a tokenizer such as {self.tokenizer!r} would"


def with_tokenizer(metric_fn: Callable, name: str) -> Callable:
    """A metric of words by another tokenizer, named as in `tokenizer`.

    Raises:
      ValueError: an unknown tokenizer, or a metric that takes none.
    """
    tokenize = tokenizer(name)
    if dataclasses.is_dataclass(metric_fn) and hasattr(metric_fn, "tokenize"):
        return dataclasses.replace(metric_fn, tokenize=tokenize)
    if isinstance(metric_fn, functools.partial) or getattr(metric_fn, "words_by", None) is None:
        raise ValueError(f"{_name_of(metric_fn)} takes no tokenizer, as it is no metric of words")
    return functools.partial(metric_fn, tokenize=tokenize)


def _name_of(metric_fn: Any) -> str:
    while isinstance(metric_fn, functools.partial):
        metric_fn = metric_fn.func
    own = getattr(metric_fn, "name", None) or getattr(metric_fn, "__name__", None)
    return own or type(metric_fn).__name__


def unread(metric_fn: Any, targets: Sequence[Any]) -> Unread | None:
    """Which of the targets a metric is blind to; None if it is to none.

    Args:
      metric_fn: any metric; of those not of words nothing is known.
      targets: texts or lists of texts; what is no text is passed over.
    """
    words_by = _words_by(metric_fn)
    if words_by is None:
        return None
    reasons = []
    for target in targets:
        value = target.get("value") if isinstance(target, dict) else target
        several = isinstance(value, list | tuple | set | frozenset)
        texts = [text for text in (value if several else [value]) if isinstance(text, str)]
        reason = next(filter(None, (_reason(text, words_by) for text in texts)), None)
        reasons += [reason] if reason else []
    if not reasons:
        return None
    return Unread(len(reasons), len(targets), *reasons[0], _name_of(metric_fn))


def _reason(text: str, words_by: str) -> tuple[str, str] | None:
    """Why the words of a text can't be told apart, and the tokenizer that can; None if they can."""
    shown = repr(cut_short(text, _SHOWN))
    counts = {name: _letters(text, name) for name in _SCRIPTS}
    if words_by == LATIN:
        if _LATIN_WORD.search(text) or not any(map(str.isalnum, text)):
            return None
        why = f"targets, of which it reads no letter but a to z (the first is {shown})"
        return why, _suggested(counts)
    left = {name: n for name, n in counts.items() if name not in _SPLIT_BY.get(words_by, ())}
    letters = sum(left.values())
    if not letters or 2 * letters < sum(map(str.isalnum, text)):
        return None
    script = max(left, key=left.get)
    runs = sum(any(_letters(part, name) for name in _SCRIPTS) for part in text.split())
    if letters <= _SCRIPTS[script][1] * runs and (runs > 1 or letters == 1):
        return None
    why = f"targets by the tokenizer {words_by!r}, since texts in {script} have no spaces between"
    return f"{why} them (the first is {shown})", _suggested(counts)


def _suggested(counts: Mapping[str, int]) -> str:
    """The tokenizer to suggest, from the number of letters of each script."""
    if not any(counts.values()):
        return "13a"
    return _SCRIPTS["kana" if counts["kana"] else max(counts, key=counts.get)][0]


def _letters(text: str, script: str) -> int:
    return len(_pattern(script).findall(text))


@functools.cache
def _pattern(script: str) -> re.Pattern:
    return re.compile(f"[{_SCRIPTS[script][2]}]")
