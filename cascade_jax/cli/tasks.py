"""`cascade-jax tasks`: lists tasks, shows rows of one, measures their lengths."""

import importlib
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cascade_jax.cli.flags import UsageError, arguments, at_least, choice, flag

DEFAULT_IMPORTS = ("tasks.all",)
_COLORED = "colours; auto: in a terminal, unless NO_COLOR is set"
_POSITIONS = "positions, end of sequence included; nothing is cut without it"

HELP = """\
Lists the registered tasks and whether their data is on this machine; of one task, shows its rows as
the model gets them, and how long they are. Needs no gin file and downloads nothing.

example:
  cascade-jax tasks
  cascade-jax tasks --suite superglue --data_dir /path/to/data
  cascade-jax tasks demo_lookup_v1 --input_length 16 --target_length 8
  cascade-jax tasks demo_mixture_v1
  cascade-jax tasks demo_mixture_v1 --lengths --target_length 8
  cascade-jax tasks my_task_v1 --import my_tasks
"""


@dataclass(frozen=True, kw_only=True)
class TasksConfig:
    """The values of the flags."""

    names: list[str] = arguments("NAME", "a task or mixture; all are listed without one")
    data_dir: str | None = flag("FOLDER", "reads <task>/<split>.jsonl there instead of TFDS", None)
    modules: list[str] | None = flag(
        "MODULE",
        f"registers the tasks; may be given several times; {DEFAULT_IMPORTS[0]} without it. A "
        "module of the current folder will do",
        None,
        action="append",
        name="import",
    )
    suite: str | None = flag("NAME", "the tasks of one suite only", None)
    mixtures: bool = flag(None, "the mixtures instead of the tasks")
    split: str | None = flag("NAME", "of the rows: validation, else test, else train", None)
    vocabulary: str | None = flag(
        "MODEL", "a SentencePiece .model, a tokenizer.json, or byte; else the task's own", None
    )
    input_length: int | None = flag("N", _POSITIONS, None, type=at_least(2))
    target_length: int | None = flag("N", _POSITIONS, None, type=at_least(2))
    examples: int = flag("N", "rows to show", 3, type=at_least(1))
    tokens: int = flag("N", "tokens of each text to show", 48, type=at_least(1))
    lengths: bool = flag(None, "percentiles of the lengths, and what the two lengths cut off")
    rows: int = flag("N", "of --lengths", 20_000, type=at_least(1))
    download: bool = flag(None, "lets TFDS download missing data")
    color: str = choice(_COLORED, "auto", "always", "never")

    @property
    def name(self) -> str | None:
        """The task or mixture to show; None to list them."""
        return self.names[0] if self.names else None

    def __post_init__(self):
        """Raises UsageError for flags that do not go together."""
        if len(self.names) > 1:
            listed = " ".join(self.names)
            raise UsageError(f"{len(self.names)} names ({listed}); give one task or mixture")
        if self.name is None and self.lengths:
            raise UsageError("--lengths needs the name of a task or mixture")
        if self.name is not None and (self.suite or self.mixtures):
            flag = "--suite" if self.suite else "--mixtures"
            raise UsageError(f"{flag} lists; leave it out to see {self.name!r}")
        if self.suite and self.mixtures:
            raise UsageError("--suite and --mixtures list different things; give one of them")


FLAGS = TasksConfig


def run(config: TasksConfig) -> None:
    """Runs the command on its config.

    Raises:
      ValueError: a module, name, suite, split or length that will not do.
      OSError: data or a vocabulary that is not there.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # texts of any language, any terminal
    pages = _list(config) or _pages(config)
    try:
        for page in pages:
            print(page, flush=True)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _list(config: TasksConfig) -> list[str] | None:
    """The list of tasks out of a file; None where it is not enough, or older than the tasks."""
    from cascade_jax.cli import gin_config
    from cascade_jax.cli.task_table import Paint, task_table
    from cascade_jax.data.browse import task_list, tasks

    gin_config.add_current_folder()
    if config.name is not None or config.mixtures or config.modules:
        return None
    data_dir = Path(config.data_dir) if config.data_dir else None
    (module,) = DEFAULT_IMPORTS
    facts = task_list.read(module, data_dir)
    if facts is None:
        return None
    return [task_table(tasks.select_suite(facts, config.suite), Paint(config.color))]


def _pages(config: TasksConfig) -> Iterator[str]:
    _register(config.modules or DEFAULT_IMPORTS)
    from cascade_jax.cli import task_pages
    from cascade_jax.data import sources

    sources.set_data_dir(config.data_dir)
    return task_pages.pages(config)


def _register(modules: Iterable[str]) -> None:
    """Imports the modules that register tasks, also from the current folder."""
    from cascade_jax.cli import gin_config

    gin_config.add_current_folder()
    with gin_config.native_messages_hidden():
        # Keeps TensorFlow off the devices, as for training, before a first row is read.
        importlib.import_module("cascade_jax.data.lean_tensorflow")
        for module in modules:
            try:
                importlib.import_module(module)
            except ImportError as error:
                folder = f"(current folder: {os.getcwd()})"
                raise ValueError(f"--import {module}: {error} {folder}") from error
