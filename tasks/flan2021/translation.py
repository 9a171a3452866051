"""FLAN 2021's eight translation data sets: ParaCrawl en-es, WMT14 en-fr and six pairs of WMT16.

Texts are FLAN's: `sent1` in `lang1`, always English, and `sent2` in `lang2`; languages stand in the
prompts by name. Like FLAN's templates, prompts go both ways. Neither FLAN nor the paper says which
direction its BLEU is of: the canonical prompt, which evaluation uses, translates into English.
In both directions BLEU splits words as for the target language, here always 13a.
"""

from collections.abc import Mapping

from cascade_jax.task_metrics.translation import Bleu, Chrf
from cascade_jax.task_metrics.words import tokenizer_of
from tasks.flan2021.flan_task import FlanTask, Row, own_validation
from tasks.registration import MANUAL_FOLDER

LANGUAGES = {"cs": "Czech", "de": "German", "es": "Spanish", "fi": "Finnish"} | {
    "fr": "French", "ro": "Romanian", "ru": "Russian", "tr": "Turkish"
}  # fmt: skip


def _bleu(language: str) -> Bleu:
    """The BLEU that suits both directions of a pair with English.

    Raises:
      ValueError: the two languages want different tokenizers.
    """
    if tokenizer_of(language) != tokenizer_of("en"):
        raise ValueError(
            f"BLEU into {language!r} takes the tokenizer {tokenizer_of(language)!r}, into 'en' "
            f"{tokenizer_of('en')!r}: prompts of one task can't go both ways"
        )
    return Bleu.for_language("en")


def _task(
    name: str,
    tfds_name: str,
    language: str,
    splits: Mapping[str, str] | None = None,
    patterns: str = "wmt16_translate",
    manual: str | None = None,
) -> FlanTask:
    """A task of one language beside English.

    Example: German; {"en": "Good day.", "de": "Guten Tag."} becomes by the first prompt
    "Translate this German text into English: Guten Tag." and "Good day.".
    """

    def texts(row: Row) -> Row:
        english = {"lang1": "English", "sent1": row["en"]}
        return english | {"lang2": LANGUAGES[language], "sent2": row[language]}

    return FlanTask(
        name=name,
        cluster="translation",
        tfds_name=tfds_name,
        fields={"en": str, language: str},
        kind="translation",
        texts=texts,
        metric_fns=[_bleu(language), Chrf()],
        splits=splits or own_validation(),
        patterns=patterns,
        manual=manual,
    )


def _wmt16(language: str, manual: str | None = None) -> FlanTask:
    name = f"wmt16_translate_{language}en"
    return _task(name, f"wmt16_translate/{language}-en:1.0.0", language, manual=manual)


def _put(file: str, corpus: str, url: str) -> str:
    return f"get {file} ({corpus}, {url}) and put it into {MANUAL_FOLDER}"


_PARA_CRAWL_SPLITS = {
    "train": "train[:30000]",
    "validation": "train[-1200:-1000]",
    "test": "train[-1000:]",
}

TASKS: tuple[FlanTask, ...] = (
    _task(
        "para_crawl_enes", "para_crawl/enes:1.2.0", "es", _PARA_CRAWL_SPLITS, patterns="para_crawl"
    ),
    _task("wmt14_enfr", "wmt14_translate/fr-en:1.0.0", "fr", patterns="wmt14_enfr"),
    _wmt16("de"),
    _wmt16("tr"),
    _wmt16(
        "cs",
        _put(
            "czeng16pre.deduped-ignoring-sections.txt.gz",
            "CzEng 1.6pre, after registration",
            "http://ufal.mff.cuni.cz/czeng/czeng16pre",
        ),
    ),
    _wmt16("fi"),
    _wmt16("ro"),
    _wmt16(
        "ru",
        _put("1mcorpus.zip", "Yandex's corpus of 1M pairs", "https://translate.yandex.ru/corpus"),
    ),
)
