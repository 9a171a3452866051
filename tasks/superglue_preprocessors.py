"""From SuperGLUE's fields to T5's texts and targets.

Rows come with one more field, `is_training`: ReCoRD and WSC read differently in training than in
evaluation, and seqio does not pass the split to preprocessors.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

NO_ANSWER = "<unk>"  # T5's target of a row without a label or an answer
TRUE_FALSE = ("False", "True")  # in the order of the builder's labels

Row = Mapping[str, Any]

_DETERMINERS = frozenset(
    "a an few her his each every many much my our some that the their these this those which whose"
    " your".split()
)


def labelled(prefix: str, fields: Sequence[str], classes: Sequence[str]) -> list[Callable]:
    """Preprocessors of a task whose answer is the name of a class.

    Example: ``labelled("rte", ["hypothesis", "premise"], ["entailment", "not_entailment"])`` makes
    of {"premise": "It rains.", "hypothesis": "It is wet.", "label": 0} the input
    "rte hypothesis: It is wet. premise: It rains." and the target "entailment".

    Args:
      prefix: first word of the input.
      fields: in this order, each after its name and a colon.
      classes: target of label 0, of label 1, ...
    """
    return [seqio.map_over_dataset(lambda row: _labelled_row(row, prefix, fields, classes))]


def _labelled_row(row: Row, prefix: str, fields: Sequence[str], classes: Sequence[str]) -> Row:
    inputs = tf.strings.join([prefix, *(part for f in fields for part in (f"{f}:", row[f]))], " ")
    return {"inputs": inputs} | _class(row["label"], classes)


def _class(label: tf.Tensor, classes: Sequence[str]) -> Row:
    """The target and, for rank classification, all that it could be."""
    options = tf.constant(classes)
    return {"targets": tf.gather(options, label), "options": options}


def multirc() -> list[Callable]:
    """Preprocessors of MultiRC: as `labelled`, without tags, and with the question's number.

    Example: {"paragraph": "<b>Sent 1: </b>Ann ran.<br><b>Sent 2: </b>Ben sat.", "question": "Who
    ran?", "answer": "Ann", "label": 1, "idx": {"question": 7}} becomes "multirc question: Who ran?
    answer: Ann paragraph: Sent 1: Ann ran. Sent 2: Ben sat." and "True", with "idx/question" 7:
    the answers to one question are those with the same number.
    """

    def to_text(row: Row) -> Row:
        texts = _labelled_row(row, "multirc", ["question", "answer", "paragraph"], TRUE_FALSE)
        inputs = tf.strings.regex_replace(texts["inputs"], "<br>", " ")
        inputs = tf.strings.regex_replace(inputs, "</?b>", "")
        return texts | {"inputs": inputs, "idx/question": row["idx"]["question"]}

    return [seqio.map_over_dataset(to_text)]


def with_question(output: str, example=None, is_target: bool = False, **_unused) -> Any:
    """seqio postprocessor of MultiRC: a target is an answer and its question, the group."""
    if not is_target or example is None:
        return output
    return {"group": int(example["idx/question"]), "value": output}


def record() -> list[Callable]:
    """Preprocessors of ReCoRD: in training an example per answer, in evaluation one per query.

    A highlight's mark ends the sentence before it. In evaluation the target is the first answer,
    and all stand in "references" (see `registration.references_as_target`).

    Example: {"query": "@placeholder can fly.", "passage": "Birds fly\\n@highlight\\nPigs do not",
    "entities": ["Birds", "Pigs"], "answers": ["Birds", "The birds"]} becomes "record query:
    @placeholder can fly. entities: Birds, Pigs passage: Birds fly. Pigs do not" with the target
    "Birds", in training also once more with "The birds".
    """

    def to_texts(row: Row) -> tf.data.Dataset:
        answers = row["answers"]
        answers = tf.cond(tf.size(answers) > 0, lambda: answers, lambda: tf.constant([NO_ANSWER]))
        texts = {"inputs": _record_inputs(row), "references": answers, "options": row["entities"]}
        targets = tf.cond(row["is_training"], lambda: answers, lambda: answers[:1])
        return tf.data.Dataset.from_tensor_slices(targets).map(lambda t: texts | {"targets": t})

    return [lambda rows: rows.flat_map(to_texts)]


def _record_inputs(row: Row) -> tf.Tensor:
    marked = tf.strings.regex_replace(row["passage"], r"([.?!\"'])\n@highlight\n", r"\1 ")
    passage = tf.strings.regex_replace(marked, r"\n@highlight\n", ". ")
    entities = tf.strings.reduce_join(row["entities"], separator=", ")
    parts = ["record query:", row["query"], "entities:", entities, "passage:", passage]
    return tf.strings.join(parts, " ")


def wsc_referent() -> list[Callable]:
    """Preprocessors of T5's first form of WSC: the pronoun in asterisks, the target a referent.

    In training only rows whose referent is the right one are kept; in evaluation all are, and
    "label" says which (see `is_wsc_referent`).

    Example: {"text": "Ann asked Tom if he had eaten.", "span1_text": "Tom", "span1_index": 2,
    "span2_text": "he", "span2_index": 4, "label": 1} becomes "wsc: Ann asked Tom if *he* had
    eaten." and "Tom".
    """

    def is_kept(row: Row) -> tf.Tensor:
        return tf.logical_or(tf.logical_not(row["is_training"]), row["label"] == 1)

    def to_text(row: Row) -> Row:
        text = _mark_pronoun(row["text"], row["span2_text"], row["span2_index"])
        referent = fixed_span(row["text"], row["span1_text"])
        return {"inputs": "wsc: " + text, "targets": referent, "label": row["label"]}

    return [lambda rows: rows.filter(is_kept), seqio.map_over_dataset(to_text)]


def wsc_spans() -> list[Callable]:
    """Preprocessors of T5's second form of WSC: both spans marked, the target False or True.

    Example: the row of `wsc_referent` becomes "wsc text: Ann asked * Tom * if # he # had eaten."
    and "True".
    """

    def to_text(row: Row) -> Row:
        text, spans = row["text"], [fixed_span(row["text"], row[f"span{n}_text"]) for n in (1, 2)]
        text = _mark_spans(text, spans, [row["span1_index"], row["span2_index"]])
        return {"inputs": "wsc text: " + text} | _class(row["label"], TRUE_FALSE)

    return [seqio.map_over_dataset(to_text)]


def fixed_span(text: tf.Tensor, span: tf.Tensor) -> tf.Tensor:
    """A WSC span as it stands in its text, as the builder's wsc.fixed has it.

    Examples: in "I put the cake away", "The cake" is "the cake"; line breaks become spaces, and
    full stops at the end go. A span whose parts stand apart ("Kamenev and Zinoviev"), which no such
    change puts into the text, stays as it is.
    """
    tidy = tf.strings.regex_replace(tf.strings.regex_replace(span, r"\n", " "), r"\.+$", "")
    first, rest = tf.strings.substr(tidy, 0, 1), tf.strings.regex_replace(tidy, r"^(?s:.)", "")
    candidates = [span, tidy, tf.strings.lower(first) + rest, tf.strings.upper(first) + rest]
    chosen = span
    for candidate in reversed(candidates):
        is_there = tf.strings.regex_full_match(text, r"(?s).*\Q" + candidate + r"\E.*")
        chosen = tf.where(is_there, candidate, chosen)
    return chosen


def _start(text: tf.Tensor, span: tf.Tensor, word_index: tf.Tensor) -> tf.Tensor:
    """Bytes before a span that starts at a word, or, if not there, after it; -1 if nowhere."""
    words = r"(?s)^((?:\S+\s+){" + tf.strings.as_string(word_index) + r"}(?:|.*?\W))"
    before = tf.strings.regex_replace(text, words + r"\Q" + span + r"\E(?:\W.*)?$", r"\1")
    return tf.where(before == text, -1, tf.strings.length(before))


def _cut(text: tf.Tensor, start: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Texts before, inside and after a span."""
    end = start + size
    after = tf.strings.substr(text, end, tf.strings.length(text) - end)
    return tf.strings.substr(text, 0, start), tf.strings.substr(text, start, size), after


def _mark_pronoun(text: tf.Tensor, pronoun: tf.Tensor, word_index: tf.Tensor) -> tf.Tensor:
    """The text with *pronoun*; as in T5, a space parts it from punctuation that follows."""
    start = _start(text, pronoun, word_index)

    def mark() -> tf.Tensor:
        before, inside, after = _cut(text, start, tf.strings.length(pronoun))
        after = tf.strings.regex_replace(after, r"^(\S)", r" \1")
        return tf.strings.strip(before + "*" + inside + "*" + after)

    return tf.cond(start < 0, lambda: text, mark)


def _mark_spans(
    text: tf.Tensor, spans: Sequence[tf.Tensor], word_indices: Sequence[tf.Tensor]
) -> tf.Tensor:
    """The text with * span1 * and # span2 #, each only if it exists."""
    first, second = (_start(text, s, i) for s, i in zip(spans, word_indices, strict=True))
    sizes = [tf.strings.length(span) for span in spans]

    def mark(text: tf.Tensor, start: tf.Tensor, size: tf.Tensor, sign: str) -> tf.Tensor:
        before, inside, after = _cut(text, start, size)
        return before + f"{sign} " + inside + f" {sign}" + after

    marked = tf.cond(first < 0, lambda: text, lambda: mark(text, first, sizes[0], "*"))
    # "* " stands before the second span if the first starts no later, " *" too if it has ended.
    opened = tf.logical_and(first >= 0, first <= second)
    closed = tf.logical_and(opened, first + sizes[0] <= second)
    moved = second + 2 * tf.cast(opened, tf.int32) + 2 * tf.cast(closed, tf.int32)
    return tf.cond(second < 0, lambda: marked, lambda: mark(marked, moved, sizes[1], "#"))


def _content_words(text: str) -> set[str]:
    return {word for word in text.lower().split() if word not in _DETERMINERS}


def is_wsc_referent(output: str, example=None, is_target: bool = False, **_unused) -> str:
    """seqio postprocessor of `wsc_referent`: True or False, whether the answer is the referent.

    It is if its words, determiners and case aside, are a subset or a superset of the referent's,
    and both or neither have an apostrophe ("Bob" is not "Bob's hat"). The target is the label. An
    answer without words is neither, so never right.

    Example: for the referent "the old dog", "Old dog", "a dog" and "My old brown dog" are "True",
    "the cat" is "False", "the" is "".
    """
    if example is None:
        return output
    if is_target:
        return TRUE_FALSE[int(example["label"])]
    referent = example["targets_pretokenized"].decode("utf-8")
    answered, expected = _content_words(output), _content_words(referent)
    if not answered:
        return ""
    is_same = ("'" in output) == ("'" in referent) and (
        answered <= expected or expected <= answered
    )
    return TRUE_FALSE[is_same]
