"""Every suite: importing this module registers all tasks and mixtures of this package."""

from tasks import (
    c4,
    demo,
    flan2021,
    local_multitask,
    mathematics,
    reasoning,
    short_multitask,
    summarization,
    superglue,
    wmt22,
)

__all__ = [
    "c4",
    "demo",
    "flan2021",
    "local_multitask",
    "mathematics",
    "reasoning",
    "short_multitask",
    "summarization",
    "superglue",
    "wmt22",
]
