"""Runs one command: its help, its config, its exit status, and one line for an error."""

import dataclasses
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import absl.logging
import gin

from cascade_jax import files
from cascade_jax.cli import compilation_cache, freed_memory, gin_config, many_hosts
from cascade_jax.cli.flags import Flags, flag, parse
from cascade_jax.cli.task_modules import TaskModulesSkipped


def run(command: ModuleType, argv: list[str]) -> int:
    """Parses the arguments of a command, builds its config and runs it.

    Args:
      command: a module of this package with HELP and run; CONFIG, the root that gin files bind
        (and NEEDS_TASKS = False where the tasks that they import need not be registered,
        RUNS_MODELS = True where it compiles programs, on one host or many, LIMIT, the macro that
        its flag --limit sets), or FLAGS, a dataclass of flags, or functions flags and parse of its
        own.
      argv: the arguments after the command's name.

    Returns:
      The exit status: 0; 2 for bad usage or input (one line on standard error); 75 for a run that
      was asked to stop and 76 for one whose hosts were lost (see `parallel/hosts.py`); 130 for
      Ctrl-C.
    """
    name = command.__name__.rpartition(".")[2].removesuffix("_checkpoint")
    name = name.replace("_", "-")
    if {"-h", "--help"} & set(argv):
        print(f"cascade-jax {name}\n\n{flags_of(command).add(_CommonFlags).format_help()}", end="")
        return 0
    with many_hosts.ending_together() as end:
        end.status, end.message = _run(command, name, argv)
    return end.status


@dataclasses.dataclass(frozen=True)
class _CommonFlags:
    traceback: bool = flag(None, "shows where an error arose instead of one line")


def flags_of(command: ModuleType) -> Flags:
    """The flags of a command, without those that all have."""
    if hasattr(command, "flags"):
        return command.flags()
    flags = Flags(command.HELP)
    if hasattr(command, "FLAGS"):
        return flags.add(command.FLAGS)
    flags.add(gin_config.GinFlags)
    if hasattr(command, "LIMIT"):
        flags.add(gin_config.LimitFlag)
    if _runs_models(command):
        flags.add(many_hosts.HostFlags).add(compilation_cache.CacheFlags)
        flags.add(freed_memory.FreedMemoryFlag)
    return flags


def _runs_models(command: ModuleType) -> bool:
    return getattr(command, "RUNS_MODELS", False)


def _run(command: ModuleType, name: str, argv: list[str]) -> tuple[int, str]:
    """The exit status, and what was printed on standard error."""
    verbose, config, keeps_memory = "--traceback" in argv, None, False
    if not verbose:
        _hide_background_errors()
    try:
        argv = [arg for arg in argv if arg != "--traceback"]
        if hasattr(command, "parse"):
            config = command.parse(argv)
        elif hasattr(command, "FLAGS"):
            config = parse(command.FLAGS, argv)
        else:
            values = flags_of(command).parse(gin_config.with_bindings(argv))
            if getattr(values, "limit", None) is not None:
                values.bindings = [*(values.bindings or ()), f"{command.LIMIT}={values.limit}"]
            needs_tasks = getattr(command, "NEEDS_TASKS", True)
            config = gin_config.build(command.CONFIG, values, needs_tasks)
            keeps_memory = _runs_models(command) and values.freed_memory == freed_memory.KEEP
            if keeps_memory:
                freed_memory.keep()
            if _runs_models(command):
                _keep_compiled(values.compilation_cache, name)
                many_hosts.meet(values, f"cascade-jax {name}")
        # A long command may be killed: its configs are written first, but not over those of another
        # run, which its check refuses.
        check = getattr(command, "check", None)
        if check is not None:
            check(config)
            _write_configs(config)
        if keeps_memory:
            freed_memory.keep_on_cpu_alone()
        command.run(config)
        if check is None:
            _write_configs(config)
    except KeyboardInterrupt:
        if verbose:
            raise
        status, text = 130, "interrupted; the same command goes on from what is complete"
    except Exception as error:
        status = many_hosts.status_of(error)
        if status is None and isinstance(error, ValueError | OSError | FloatingPointError):
            status = 2
        if status is None or (verbose and status == 2):
            raise
        text = f"{gin_config.one_line(error)}{_where(error, config)}{_remedy(error)}"
    else:
        return 0, ""
    print(f"cascade-jax {name}: {text}", file=sys.stderr, flush=True)
    return status, text


def _keep_compiled(flag_value: str | None, name: str) -> None:
    """Turns the compilation cache on; where that fails, says so and goes on."""
    folder = flag_value or gin_config.setting(compilation_cache.CompilationCache).folder
    problem = compilation_cache.use(folder)
    if problem is not None:
        print(f"cascade-jax {name}: {problem}", file=sys.stderr, flush=True)


def _hide_background_errors() -> None:
    """Keeps libraries from printing what users can't act on, and errors that are reported anyway.

    On a full disk Orbax, asyncio and TensorStore would show a traceback for every parameter, some
    of them when the process ends.
    """
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # AutoGraph's warnings
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    shown = sys.unraisablehook
    if shown.__module__ == __name__:
        return

    def unraisablehook(unraisable) -> None:
        # From TensorStore's callbacks, after Orbax gave up.
        if str(unraisable.exc_value) != "Event loop is closed":
            shown(unraisable)

    sys.unraisablehook = unraisablehook


def _where(error: Exception, config: Any) -> str:
    """The output folder, for a failed write (disk full, say) that names no file."""
    folder = getattr(config, "output_dir", None)
    nameless = isinstance(error, OSError) and error.errno and error.filename is None
    return f", while writing to {folder}" if nameless and folder else ""


def _remedy(error: Exception) -> str:
    help_text = files.remedy(error) if isinstance(error, OSError) else None
    return f"; {help_text}" if help_text else ""


def _write_configs(config: Any) -> None:
    """Writes config.gin (as given) and operative_config.gin (as used) beside what is made."""
    if not many_hosts.is_first():
        return
    output_dir = getattr(config, "output_dir", None)
    folders = getattr(config, "run_folders", [output_dir] if output_dir else [])
    with TaskModulesSkipped():  # gin imports what its files import, to write their names
        texts = {"config.gin": gin.config_str(), "operative_config.gin": gin.operative_config_str()}
    for folder in folders:
        for name, text in texts.items():
            file = Path(folder) / name
            if not file.exists() or file.read_bytes() != text.encode():  # it may be read-only
                files.write_text(file, text)
