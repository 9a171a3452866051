"""The list of tasks that `cascade-jax tasks` prints; imports no TensorFlow."""

import collections
import os
import sys
from collections.abc import Sequence

from cascade_jax.data.browse import tasks as browse
from cascade_jax.text_table import columns

_STYLES = {"bold": "1", "dim": "2", "cut": "9;31", "available": "32", "missing": "33"}


class Paint:
    """Colours text ("always"), leaves it ("never"), or does what suits the output ("auto")."""

    def __init__(self, color: str):
        terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        suits = terminal and not os.environ.get("NO_COLOR")
        self.on = color == "always" or (color == "auto" and suits)

    def __call__(self, style: str, text: str) -> str:
        """The text in a style of _STYLES."""
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self.on and text else text


def count(number: int, noun: str) -> str:
    """`1 task`, `2 tasks`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def task_table(tasks: Sequence[browse.TaskFacts], paint: Paint) -> str:
    """The list of tasks, which come by suite."""
    head = ("task", "kind", "metrics", "source", "data")
    rows = [(f.name, f.kind, ", ".join(f.metrics), f.source, f.data) for f in tasks]
    first, *lines = columns([head, *rows])
    shown = [paint("bold", f"  {first}")]
    suites = collections.Counter(facts.suite for facts in tasks)
    before = None
    for facts, line in zip(tasks, lines, strict=True):
        if facts.suite != before:
            before = facts.suite
            shown += ["", paint("bold", f"{before} ({suites[before]})")]
        style = "available" if browse.is_available(facts) else "missing"
        shown.append(f"  {line.removesuffix(facts.data)}{paint(style, facts.data)}")
    total = f"{count(len(tasks), 'task')} in {count(len(suites), 'suite')}"
    available = sum(map(browse.is_available, tasks))
    return "\n".join([*shown, "", f"{total}; {available} with data on this machine"])
