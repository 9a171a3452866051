"""WMT22 translation between English and Japanese, Russian and Chinese, in six directions.

TFDS does not have it: rows come from a data folder wmt22_translate__<pair>, which
tasks/wmt22_folder.py can write. Its files and the task's splits:

| file | split | holds |
|---|---|---|
| train.jsonl | train | training text |
| validation.jsonl | validation, newstest2021 | the WMT21 test set: the paper's evaluation sizes |
| test.jsonl | generaltest2022 | the general test set of WMT22 |
| newstest2020.jsonl | newstest2020 | the WMT20 test set, to choose or calibrate on |

A row has a field for each language, and may have a list of "references", its translation first;
BLEU takes all of them (tasks/wmt22_folder.py writes one unless asked for all). The paper
tunes the large model on all directions and the small one on three, but does not say which.
"""

import seqio
import tensorflow as tf

from cascade_jax.data import jsonl, sources
from cascade_jax.task_metrics import translation
from tasks.registration import add_mixtures, add_task, references_as_target, rows_in_train
from tasks.wmt22_folder import PAIRS, languages_of

LANGUAGES = {"en": "English", "ja": "Japanese", "ru": "Russian", "zh": "Chinese"}
SPLITS = {
    "train": "train",
    "validation": "validation",
    "newstest2020": "newstest2020",
    "newstest2021": "validation",
    "generaltest2022": "test",
}

_REFERENCES = "references"


class TranslationSource(sources.TfdsOrJsonlSource):
    """Rows of one direction; a row without "references" has its translation for one.

    Either all rows of a file have references or none has.
    """

    def __init__(self, pair: str):
        """Args: pair: one of PAIRS, else ValueError."""
        self.languages = languages_of(pair)
        super().__init__(
            f"wmt22_translate/{pair}",
            {language: str for language in self.languages} | {_REFERENCES: list[str]},
            SPLITS,
            is_in_tfds=False,
            blank_texts=False,
        )

    def rows(self, split: str) -> sources.Rows:
        """Reads the split's file; needs a data folder."""
        path = self._split_file(split)
        with open(path, "rb") as lines:
            has_references = any(b'"references"' in line for line in lines)
        fields = self.fields
        if not has_references:
            fields = {language: str for language in self.languages}
        rows = jsonl.read_jsonl(path, fields, blank_texts=False)
        return [{_REFERENCES: [row[self.languages[1]]]} | row for row in rows]


def translation_task(pair: str) -> str:
    """Registers the task of a direction, "en-ja", and gives back its name.

    Example: {"en": "Good morning.", "ja": "おはよう。"} becomes "translate English to Japanese:
    Good morning." and "おはよう。".

    Raises:
      ValueError: not one of the six (lists them, and the nearest).
    """
    source, target = languages_of(pair)
    prefix = f"translate {LANGUAGES[source]} to {LANGUAGES[target]}: "

    def to_text(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        texts = {"inputs": prefix + row[source], "targets": row[target]}
        return texts | {_REFERENCES: row[_REFERENCES]}

    return add_task(
        f"cascade_wmt22_{source}_{target}_v1",
        TranslationSource(pair),
        [seqio.map_over_dataset(to_text)],
        [translation.Bleu.for_language(target), translation.Chrf()],
        references_as_target,
        suite="wmt22",
        kind="translation",
    )


TASKS = tuple(map(translation_task, PAIRS))

add_mixtures("wmt22", TASKS, rows_in_train)
