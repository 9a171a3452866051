"""Suite and kind of each task, which seqio's registry does not keep."""

from dataclasses import dataclass

from cascade_jax.names import check_choice

KINDS = (
    "classification",  # the answer is one of the task's classes
    "multiple_choice",  # one of the options that the row brings
    "short_answer",
    "translation",
    "summarization",
    "generation",  # any other text
    "language_modeling",  # no question, no answer
)
WITH_OPTIONS = ("classification", "multiple_choice")


@dataclass(frozen=True)
class TaskCard:
    """Facts of a task beside what seqio registers.

    Attributes:
      suite: the benchmark it belongs to, "superglue".
      kind: one of KINDS. Rows of those in WITH_OPTIONS have a list of texts, "options".
    """

    suite: str
    kind: str

    def __post_init__(self):
        check_choice("kind", self.kind, KINDS)


_cards: dict[str, TaskCard] = {}


def add_card(task_name: str, card: TaskCard) -> None:
    """Notes what a registered task is."""
    _cards[task_name] = card


def card_of(task_name: str) -> TaskCard | None:
    """The card of a task; None for one that was registered with seqio alone."""
    return _cards.get(task_name)
