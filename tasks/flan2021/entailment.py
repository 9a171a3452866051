"""FLAN 2021's entailment cluster: does one text follow from another?

Mind that the builders' label orders differ: of CB it is entailment, contradiction, neutral; of the
others with three classes entailment, neutral, contradiction; of WNLI not_entailment, entailment.
"""

from cascade_jax.task_metrics import classes
from tasks.flan2021.classes import NO_YES, YES_NO, class_task, same
from tasks.flan2021.flan_task import FlanTask, capped, held_out, own_validation

_ANLI = ("Yes", "It's impossible to say", "No")
_CB = ("Yes", "No", "It's impossible to say")
_MNLI = ("yes", "it is not possible to tell", "no")

_CLUSTER = "entailment"
_PAIR = same("premise", "hypothesis")


def _prompts(premise: str = "premise") -> tuple[str, ...]:
    return (
        f"{{{premise}}}\n\nDoes it follow that: {{hypothesis}}\n\n{{options_}}",
        f"Premise: {{{premise}}}\nClaim: {{hypothesis}}\nDoes the premise prove the claim?\n"
        "{options_}",
        f"Someone writes: {{{premise}}}\n\nIs the following then so, too? {{hypothesis}}\n\n"
        "{options_}",
    )


_QNLI_PROMPTS = (
    "Question: {question}\nSentence: {sentence}\nIs the answer to be found in the sentence?\n"
    "{options_}",
    "{sentence}\n\nKnowing only this, could one answer: {question}\n\n{options_}",
    "Someone asks: {question}\nSomeone replies: {sentence}\nIs the question settled by that?\n"
    "{options_}",
)
_WNLI_PROMPTS = (
    "{sentence1}\n\nDoes it follow that: {sentence2}\n\n{options_}",
    "First: {sentence1}\nSecond: {sentence2}\nMust the second be so when the first is?\n{options_}",
    "A story says: {sentence1}\n\nAccording to the story: {sentence2}\nIs that right?\n\n"
    "{options_}",
)


def _anli(number: int, train: str, train_examples: int) -> FlanTask:
    name, builder = f"anli_r{number}", f"anli/r{number}:0.1.0"
    texts, splits = same("context", "hypothesis"), own_validation(train)
    rows = (splits, train_examples, _prompts("context"))
    return class_task(name, _CLUSTER, builder, texts, _ANLI, *rows, patterns="anli")


def _mnli(kind: str) -> FlanTask:
    """Both train on the same rows; only those of "test" differ."""
    name, builder = f"mnli_{kind}", "glue/mnli:2.0.0"
    rows = (capped(f"validation_{kind}"), 30000, _prompts())
    return class_task(name, _CLUSTER, builder, _PAIR, _MNLI, *rows, patterns="mnli")


def _cb() -> FlanTask:
    name, builder, mean_f1 = "cb", "super_glue/cb:1.0.2", classes.MeanClassF1(_CB)
    return class_task(name, _CLUSTER, builder, _PAIR, _CB, held_out(50), 200, _prompts(), mean_f1)


def _rte() -> FlanTask:
    rows = (held_out(200), 2290, _prompts())
    return class_task("rte", _CLUSTER, "super_glue/rte:1.0.2", _PAIR, YES_NO, *rows)


def _qnli() -> FlanTask:
    texts = same("question", "sentence")
    rows = (capped(), 30000, _QNLI_PROMPTS)
    return class_task("qnli", _CLUSTER, "glue/qnli:2.0.0", texts, YES_NO, *rows)


def _wnli() -> FlanTask:
    texts = same("sentence1", "sentence2")
    rows = (held_out(30), 605, _WNLI_PROMPTS)
    return class_task("wnli", _CLUSTER, "glue/wnli:2.0.0", texts, NO_YES, *rows)


def _snli() -> FlanTask:
    return class_task(
        "snli",
        _CLUSTER,
        "snli:1.1.0",
        _PAIR,
        _MNLI,
        own_validation(),
        30000,
        _prompts(),
        label_type=range(-1, 3),
        keep=lambda row: row["label"] >= 0,  # -1: the annotators did not agree
    )


TASKS: tuple[FlanTask, ...] = (
    _anli(1, "train", 16946),
    _anli(2, "train[:30000]", 30000),
    _anli(3, "train[:30000]", 30000),
    _cb(),
    _rte(),
    _mnli("matched"),
    _mnli("mismatched"),
    _qnli(),
    _wnli(),
    _snli(),
)
