"""`cascade-jax tasks`."""

import importlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from absl import flags

DEFAULT_IMPORTS = ("tasks.all",)
LONGEST_READING = 20_000  # rows whose lengths are taken, unless --rows says otherwise

HELP = """\
Shows the registered tasks and whether their data is here; of one task, its rows as the model gets
them, and how long they are. Needs no gin file and downloads nothing.

example:
  cascade-jax tasks
  cascade-jax tasks --suite superglue --data_dir /path/to/data
  cascade-jax tasks demo_lookup_v1 --input_length 16 --target_length 8
  cascade-jax tasks demo_mixture_v1
  cascade-jax tasks demo_mixture_v1 --lengths --target_length 8
  cascade-jax tasks my_task_v1 --import my_tasks
"""
FLAG_HELP = f"""\
flags:
  --data_dir FOLDER      reads <task>/<split>.jsonl there instead of TFDS
  --import MODULE        registers the tasks; may be given several times; {DEFAULT_IMPORTS[0]} if
                         not given. A module of the current folder will do
  --suite NAME           the tasks of one suite only
  --mixtures             the mixtures instead of the tasks
  --split NAME           of the rows; validation if not given, else test, else train
  --vocabulary MODEL     a SentencePiece .model, a tokenizer.json, or byte; else the task's own
  --input_length N, --target_length N
                         positions, end of sequence included; nothing is cut if not given
  --examples N           rows to show; 3 if not given
  --tokens N             tokens of each text to show; 48 if not given
  --lengths              percentiles of the lengths, and what the two lengths cut off
  --rows N               of --lengths; {LONGEST_READING} if not given
  --download             lets TFDS download what is not here
  --color auto|always|never
  --traceback            shows where an error arose instead of one line
"""


@dataclass(frozen=True)
class TasksConfig:
    """What the flags say; see FLAG_HELP."""

    name: str | None
    modules: tuple[str, ...]
    data_dir: str | None
    suite: str | None
    mixtures: bool
    split: str | None
    vocabulary: str | None
    input_length: int | None
    target_length: int | None
    examples: int
    tokens: int
    lengths: bool
    rows: int
    download: bool
    color: str

    def __post_init__(self):
        """Raises ValueError for flags that do not go together."""
        if self.name is None and self.lengths:
            raise ValueError("--lengths needs the name of a task or mixture")
        if self.name is not None and (self.suite or self.mixtures):
            given = "--suite" if self.suite else "--mixtures"
            raise ValueError(f"{given} lists; leave it out to see {self.name!r}")
        if self.suite and self.mixtures:
            raise ValueError("--suite and --mixtures list different things; give one of them")


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    for name in ("data_dir", "suite", "split", "vocabulary"):
        flags.DEFINE_string(name, None, "See FLAG_HELP.", flag_values=values)
    for name in ("mixtures", "lengths", "download"):
        flags.DEFINE_boolean(name, False, "See FLAG_HELP.", flag_values=values)
    for name, default, least in (
        ("input_length", None, 2),
        ("target_length", None, 2),
        ("examples", 3, 1),
        ("tokens", 48, 1),
        ("rows", LONGEST_READING, 1),
    ):
        flags.DEFINE_integer(name, default, "See FLAG_HELP.", least, flag_values=values)
    flags.DEFINE_multi_string("import", [], "See FLAG_HELP.", flag_values=values)
    colors = ["auto", "always", "never"]
    flags.DEFINE_enum("color", "auto", colors, "See FLAG_HELP.", flag_values=values)
    return values


def parse(argv: Iterable[str]) -> TasksConfig:
    """The config of the arguments after the command's name.

    Raises:
      ValueError: an unknown flag, a value that is not allowed, flags that do not go together.
    """
    values = _flags()
    try:
        names = values(["cascade-jax tasks", *argv])[1:]
    except flags.Error as error:
        raise ValueError(f"{error}; see --help") from error
    if len(names) > 1:
        raise ValueError(f"{len(names)} names ({' '.join(names)}); give one task or mixture")
    given = values.flag_values_dict()
    modules = tuple(given.pop("import")) or DEFAULT_IMPORTS
    return TasksConfig(name=names[0] if names else None, modules=modules, **given)


def run(config: TasksConfig) -> None:
    """Runs the command on its config.

    Raises:
      ValueError: a module, name, suite, split or length that will not do.
      OSError: data or a vocabulary that is not there.
    """
    _register(config.modules)
    from cascade_jax.cli import task_pages
    from cascade_jax.data import sources

    sources.set_data_dir(config.data_dir)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # texts of any language, any terminal
    try:
        for page in task_pages.pages(config):
            print(page, flush=True)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _register(modules: Iterable[str]) -> None:
    """Imports the modules that register tasks, also from the current folder."""
    from cascade_jax.cli import gin_config

    gin_config.add_current_folder()
    with gin_config.native_messages_hidden():
        # Keeps TensorFlow from the devices, as for training, before a first row is read.
        importlib.import_module("cascade_jax.data.pipeline")
        for module in modules:
            try:
                importlib.import_module(module)
            except ImportError as error:
                here = f"(current folder: {os.getcwd()})"
                raise ValueError(f"--import {module}: {error} {here}") from error
