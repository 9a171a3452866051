"""FLAN 2021's entailment cluster: does one text follow from another?

Mind that the builders' label orders differ: of CB it is entailment, contradiction, neutral; of the
others with three classes entailment, neutral, contradiction; of WNLI not_entailment, entailment.
"""

import functools

from cascade_jax.task_metrics.classes import MeanClassF1
from tasks.flan2021.classes import NO_YES, YES_NO, class_task, same
from tasks.flan2021.flan_task import FlanTask, capped, held_out, own_validation

_ANLI = ("Yes", "It's impossible to say", "No")
_CB = ("Yes", "No", "It's impossible to say")
_MNLI = ("yes", "it is not possible to tell", "no")

_task = functools.partial(class_task, "entailment")
_PAIR = same("premise", "hypothesis")
_QNLI = same("question", "sentence")
_WNLI = same("sentence1", "sentence2")


def _anli(number: int, splits: dict[str, str], *train_examples: int) -> FlanTask:
    name, builder = f"anli_r{number}", f"anli/r{number}:0.1.0"
    rows = (same("context", "hypothesis"), _ANLI, splits, *train_examples)
    return _task(name, builder, *rows, patterns="anli")


def _mnli(kind: str) -> FlanTask:
    """Both train on the same rows; only those of "test" differ."""
    rows = (_PAIR, _MNLI, capped(f"validation_{kind}"))
    return _task(f"mnli_{kind}", "glue/mnli:2.0.0", *rows, patterns="mnli")


TASKS: tuple[FlanTask, ...] = (
    _anli(1, own_validation("train"), 16946),
    _anli(2, own_validation()),
    _anli(3, own_validation()),
    _task("cb", "super_glue/cb:1.0.2", _PAIR, _CB, held_out(50), 200, metrics=[MeanClassF1(_CB)]),
    _task("rte", "super_glue/rte:1.0.2", _PAIR, YES_NO, held_out(200), 2290),
    _mnli("matched"),
    _mnli("mismatched"),
    _task("qnli", "glue/qnli:2.0.0", _QNLI, YES_NO, capped()),
    _task("wnli", "glue/wnli:2.0.0", _WNLI, NO_YES, held_out(30), 605),
    _task(
        "snli",
        "snli:1.1.0",
        _PAIR,
        _MNLI,
        own_validation(),
        label_type=range(-1, 3),
        keep=lambda row: row["label"] >= 0,  # -1: the annotators did not agree
    ),
)
