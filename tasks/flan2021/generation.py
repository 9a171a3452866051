"""FLAN 2021's data sets with a text as answer that is neither a summary nor a translation.

Sentences out of data (ROUGE against the best of all reference texts), texts with their case,
punctuation or spaces restored (edit distance over words), and linear equations (accuracy).
"""

from collections.abc import Callable, Mapping

import tensorflow as tf

from cascade_jax.data.sources import FieldType
from cascade_jax.task_metrics import quality
from cascade_jax.task_metrics.overlap import WordEditDistance
from tasks.flan2021.flan_task import FlanTask, Row, capped
from tasks.flan2021.summarization import ROUGE, renamed
from tasks.registration import references_as_target

_REFERENCES = {"target": str, "references": list[str]}

# ------------------------------------------------------------------ rows


def _joined(texts: tf.Tensor, separator: str) -> tf.Tensor:
    return tf.strings.reduce_join(texts, separator=separator)


def _with_references(row: Row) -> Row:
    """The target, and all right texts: the references (none in training) and the target."""
    target = row["target"]
    return {"target": target, "references": tf.concat([row["references"], [target]], 0)}


def _concepts(row: Row) -> Row:
    """Concepts in one line, and by lines: ["dog", "run"] -> "dog, run" and "dog\\nrun"."""
    concepts = row["concepts"]
    by_lines = {"concepts_newline": _joined(concepts, "\n")}
    return {"concepts": _joined(concepts, ", ")} | by_lines | _with_references(row)


def _dart(row: Row) -> Row:
    """Triples in one line, without cells such as [TITLE], and by lines as they are.

    Example: ["[TITLE] YEAR 2008", "Ann AGE 7"] -> tripleset " YEAR 2008; Ann AGE 7",
    tripleset_newline "[TITLE] YEAR 2008\\nAnn AGE 7".
    """
    triples = row["tripleset"]
    tripleset = tf.strings.regex_replace(_joined(triples, "; "), r"\[.*?\]", "")
    by_lines = {"tripleset_newline": _joined(triples, "\n")}
    return {"tripleset": tripleset} | by_lines | _with_references(row)


def _meaning(row: Row) -> Row:
    """Brackets of the meaning become equals signs, as FLAN has them.

    Example: "name[Zizzi], area[riverside]" -> meaning_representation
    "name = Zizzi, area = riverside".
    """
    meaning = tf.strings.regex_replace(row["meaning_representation"], r"\[", " = ")
    meaning = tf.strings.regex_replace(meaning, r"\]", "")
    return {"meaning_representation": meaning} | _with_references(row)


def _web_triples(row: Row) -> Row:
    """All triples in one line, without underscores and bars.

    Example: ["Ann_Lee | age | 7", "Ann_Lee | eats | figs"] -> input_string
    "Ann Lee, age, 7; Ann Lee, eats, figs".
    """
    triples = tf.strings.regex_replace(_joined(row["input"], "; "), "_", " ")
    triples = tf.strings.regex_replace(triples, r" \| ", ", ")
    return {"input_string": triples} | _with_references(row)


def _lower(text: tf.Tensor) -> tf.Tensor:
    return tf.strings.lower(text, encoding="utf-8")


def _without_marks(text: tf.Tensor) -> tf.Tensor:
    # Letters of every script stay. FLAN's pattern knows the ASCII ones only and drops the others.
    return tf.strings.regex_replace(text, r"[^\pL\pM\pN_\s]", "")


def _without_spaces(text: tf.Tensor) -> tf.Tensor:
    return tf.strings.regex_replace(text, " ", "")


# ------------------------------------------------------------------ structure to text


def _from_data(name: str, fields: Mapping[str, FieldType], texts: Callable[[Row], Row]) -> FlanTask:
    return FlanTask(
        name=name,
        cluster="structure_to_text",
        tfds_name=f"gem/{name}:1.1.0",
        fields={**fields, **_REFERENCES},
        kind="generation",
        texts=texts,
        metric_fns=[ROUGE],
        splits=capped(),
        postprocess_fn=references_as_target,
        blank_texts=("references",),
    )


_STRUCTURE_TO_TEXT = (
    _from_data("web_nlg_en", {"input": list[str]}, _web_triples),
    _from_data("common_gen", {"concepts": list[str]}, _concepts),
    _from_data("e2e_nlg", {"meaning_representation": str}, _meaning),
    _from_data("dart", {"tripleset": list[str]}, _dart),
)

# ------------------------------------------------------------------ text formatting


def _restoring(
    name: str,
    first: int,
    field: str,
    spoil: Callable[[tf.Tensor], tf.Tensor],
    keep_unchanged: bool = False,
) -> FlanTask:
    """A task that asks for a web page's sentence as it was before something was taken from it.

    Args:
      first: row of ParaCrawl where its 30,000 training rows begin; 200 for validation follow.
      field: name of the spoilt text.
      spoil: what takes it away.
      keep_unchanged: whether sentences stay in that have nothing to take away.
    """

    def is_changed(row: Row) -> tf.Tensor:
        return spoil(row["en"]) != row["en"]

    end = first + 30000
    return FlanTask(
        name=name,
        cluster="text_formatting",
        tfds_name="para_crawl/enda:1.2.0",
        fields={"en": str},
        kind="generation",
        texts=lambda row: {field: spoil(row["en"]), "answer": row["en"]},
        metric_fns=[WordEditDistance()],
        splits={
            "train": f"train[{first or ''}:{end}]",
            "validation": f"train[{end}:{end + 200}]",
            "test": "train[-3000:]",
        },
        keep=None if keep_unchanged else is_changed,
    )


_TEXT_FORMATTING = (
    _restoring("true_case", 0, "lower", _lower),
    _restoring("fix_punct", 30200, "no_punct", _without_marks),
    _restoring("word_segment", 60400, "no_space", _without_spaces, keep_unchanged=True),
)

# ------------------------------------------------------------------ math

_MATH = FlanTask(
    name="math_dataset",
    cluster="math",
    tfds_name="math_dataset/algebra__linear_1d:1.0.0",
    fields={"question": str, "answer": str},
    kind="short_answer",
    texts=renamed(question="question", answer="answer"),
    metric_fns=[quality.accuracy],
    splits=capped("test"),
)

TASKS: tuple[FlanTask, ...] = (*_STRUCTURE_TO_TEXT, *_TEXT_FORMATTING, _MATH)
