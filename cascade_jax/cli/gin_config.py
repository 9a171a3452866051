"""From the command line to a built config: flags, gin files, bindings, and checks on all of them.

Every command is configured by one frozen dataclass, its root. An experiment's gin file may bind the
roots of several commands. Gin itself ignores a macro that nothing reads and a binding in a scope
that nothing enters; here both are refused, as long as no command's root reaches them.
"""

import contextlib
import difflib
import logging
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import absl.logging
import gin
from absl import flags
from gin import config as gin_config

from cascade_jax.cli import main, many_hosts
from cascade_jax.files import write_text
from cascade_jax.names import did_you_mean

_MACRO = "gin.macro"
_QUOTES = "a string needs quotes, and on a command line quotes inside quotes: \"'text'\""


class UsageError(ValueError):
    """What the user gave can't be used; the message says what, where and what is allowed."""


def run(command: ModuleType, argv: list[str]) -> int:
    """Parses the arguments of a command, builds its config and runs it.

    Args:
      command: a module of this package with HELP, CONFIG and run; one without gin files has HELP,
        FLAG_HELP, parse and run instead.
      argv: the arguments after the command's name.

    Returns:
      The exit status: 0; 2 for bad usage or input (one line on standard error); 75 for a run that
      was asked to stop and 76 for one whose hosts were lost (see `parallel/hosts.py`); 130 for
      Ctrl-C.
    """
    name = command.__name__.rpartition(".")[2].removesuffix("_checkpoint")
    name = name.replace("_", "-")
    if {"-h", "--help"} & set(argv):
        flag_help = getattr(command, "FLAG_HELP", _FLAG_HELP)
        flag_help += many_hosts.flag_help(command)
        print(f"cascade-jax {name}\n\n{command.HELP}\n{flag_help}", end="")
        return 0
    with many_hosts.ending_together() as end:
        end.status, end.message = _run(command, name, argv)
    return end.status


def _run(command: ModuleType, name: str, argv: list[str]) -> tuple[int, str]:
    """The exit status, and what was printed on standard error."""
    verbose, config = "--traceback" in argv, None
    if not verbose:
        _hide_background_errors()
    try:
        argv = [arg for arg in argv if arg != "--traceback"]
        argv, where = many_hosts.flags(command, argv)
        config = parse(command.CONFIG, argv) if _takes_gin(command) else command.parse(argv)
        many_hosts.meet(command, where, f"cascade-jax {name}")
        # A long command may be killed: its configs are written first, but not over those of another
        # run, which its check refuses.
        check = getattr(command, "check", None)
        if check is not None:
            check(config)
            _write_configs(config)
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
        text = f"{_one_line(error)}{_where(error, config)}"
    else:
        return 0, ""
    print(f"cascade-jax {name}: {text}", file=sys.stderr, flush=True)
    return status, text


def _takes_gin(command: ModuleType) -> bool:
    return hasattr(command, "CONFIG")


_FLAG_HELP = """\
flags:
  --gin_file=FILE        a gin file; may be given several times, later ones win. gin/... is found in
                         the current folder, in a clone, and in the installed package
  --gin.MACRO=VALUE      sets a macro, e.g. --gin.STUDENT_STEPS=500 --gin.DATA_DIR="'/data'"
  --gin.X.PARAMETER=VALUE  sets a parameter, e.g. --gin.mesh.MeshConfig.tensor=2
  --traceback            shows where an error arose instead of one line
"""


def _hide_background_errors() -> None:
    """Keeps threads that write a checkpoint from printing the error that is reported anyway.

    On a full disk Orbax, asyncio and TensorStore would show a traceback for every parameter, some
    of them when the process ends.
    """
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    shown = sys.unraisablehook
    if shown.__module__ == __name__:
        return

    def unraisablehook(unraisable) -> None:
        # From TensorStore's callbacks, after Orbax gave up.
        if str(unraisable.exc_value) != "Event loop is closed":
            shown(unraisable)

    sys.unraisablehook = unraisablehook


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    # Gin's and Python's inner wording: the class is not the user's, the scope is.
    text = re.sub(r" In call to configurable '\w+' \(<class '[^']*'>\)", "", text)
    text = re.sub(r" No values supplied by Gin or caller.*Caller supplied values.*\]", "", text)
    text = text.replace(".__init__() missing", "() misses")
    return re.sub(r"malformed node or string[^>]*> ?", "", text)


def _where(error: Exception, config: Any) -> str:
    """The output folder, for a failed write (disk full, say) that names no file."""
    folder = getattr(config, "output_dir", None)
    nameless = isinstance(error, OSError) and error.errno and error.filename is None
    return f", while writing to {folder}" if nameless and folder else ""


def parse(root: str, argv: Iterable[str]) -> Any:
    """Builds the config of one command from its arguments.

    Args:
      root: importable name of its dataclass.
      argv: `--gin_file=...` and `--gin....=...` arguments.

    Raises:
      UsageError: for an unknown flag, macro or parameter, a macro without a value, a file that is
        not there.
      ValueError: from the dataclasses, for values that are not allowed.
    """
    files, bindings = _split_flags(argv)
    mentioned = load(files, bindings)
    if root not in {selector for _, selector in gin_config._CONFIG}:
        raise UsageError(f"the gin files bind nothing of {root}, which this command needs")
    check_leftovers(mentioned)
    check_required(root)
    try:
        return gin.get_configurable(root)()
    except TypeError as error:
        raise UsageError(
            f"the gin files leave out a value or give one of another type: {_one_line(error)}"
        ) from error


def _split_flags(argv: Iterable[str]) -> tuple[list[str], list[str]]:
    """Parses flags with absl; `--gin.NAME=VALUE` is turned into a gin binding first."""
    values = flags.FlagValues()
    flags.DEFINE_multi_string("gin_file", [], "A gin file.", flag_values=values)
    flags.DEFINE_multi_string("gin_bindings", [], "A gin binding.", flag_values=values)
    rewritten = ["cascade-jax"]
    for arg in argv:
        if arg.startswith("--gin."):
            key, equals, value = arg.removeprefix("--gin.").partition("=")
            if not equals:
                raise UsageError(f"{arg}: write --gin.{key}=VALUE")
            arg = f"--gin_bindings={key}={value}"
        rewritten.append(arg)
    try:
        rest = values(rewritten)[1:]
    except flags.Error as error:
        raise UsageError(f"{error}; see --help") from error
    if rest:
        raise UsageError(f"argument {rest[0]!r} is not a flag; see --help")
    if not values.gin_file:
        raise UsageError("give at least one --gin_file; see --help for an example")
    return values.gin_file, values.gin_bindings


def search_paths() -> list[Path]:
    """Folders in which `gin/...` is looked up: here, the clone, the installed package."""
    package = Path(main.__file__).parents[1]
    return [Path.cwd(), package.parent, package / "installed"]


def add_current_folder() -> None:
    """Lets a user's own module of the current folder be imported."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def load(files: Iterable[str], bindings: Iterable[str] = ()) -> set[str]:
    """Parses gin files and bindings into gin's global config.

    Returns:
      The macros that some line of the files reads as %NAME, even if a later line replaces it.

    Raises:
      UsageError: for a file that is not there or does not parse, an unknown name, an unknown macro
        among the bindings.
    """
    gin.clear_config(clear_constants=True)
    for folder in search_paths():
        gin.add_config_file_search_path(str(folder))
    add_current_folder()
    try:
        with native_messages_hidden():
            parsed = [gin.parse_config_file(file) for file in files]
            _check_known_macros(bindings)
            _parse_bindings(list(bindings))
    except (SyntaxError, ValueError, OSError, ImportError, AttributeError, NameError) as error:
        unquoted = "Failed to parse token" in str(error)
        hint = f"; {_QUOTES}" if unquoted else ""
        raise UsageError(_one_line(error) + hint) from error
    return set().union(*map(_macros_read, parsed))


def _parse_bindings(bindings: list[str]) -> None:
    """Parses bindings of the command line, which may name all that is in the files' imports.

    By itself gin knows only those names of a module that the files mention: not `scores.Sum` where
    they say `@scores.Average()`.
    """
    try:
        gin.parse_config(bindings)
    except ValueError as error:
        if "No configurable matching" not in str(error):
            raise
        imports = {statement.format() for statement in gin_config._IMPORTS}
        dynamic = "from __gin__ import dynamic_registration"  # comes first
        try:
            gin.parse_config([dynamic, *sorted(imports - {dynamic}), *bindings])
        except AttributeError as second:  # a module that is imported has no such name
            raise _no_such_name(second) from None
        except (SyntaxError, ValueError, NameError):
            raise error from None


def _no_such_name(error: AttributeError) -> AttributeError:
    """Gin's error without the module's path, with the nearest name that the module has."""
    found = re.search(r"selector ([\w.]+); <module '([\w.]+)'", str(error))
    if not found:
        return error
    selector, module = found.groups()
    name = selector.rpartition(".")[2]
    public = [known for known in vars(sys.modules[module]) if not known.startswith("_")]
    return AttributeError(f"{module} has no {name}{did_you_mean(name, public)} (in @{selector})")


def _macros_read(parsed) -> set[str]:
    """Names after a % in a parsed file and all that it includes."""
    found = [next(f for f in (p / parsed.filename for p in search_paths()) if f.exists())]
    lines = found[0].read_text().splitlines()
    names = set(re.findall(r"%([\w/]+)", " ".join(line.partition("#")[0] for line in lines)))
    return names.union(*map(_macros_read, parsed.includes))


@contextlib.contextmanager
def native_messages_hidden():
    """Hides what is printed on file descriptor 2; exceptions come through as ever.

    Gin files import TensorFlow, which greets with lines about devices that only JAX will use.
    """
    sys.stderr.flush()
    real = os.dup(2)
    try:
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(real, 2)
        os.close(real)


def _check_known_macros(bindings: Iterable[str]) -> None:
    """A macro on the command line must be one that the gin files have."""
    known = sorted(scope for scope, selector in gin_config._CONFIG if selector == _MACRO)
    for binding in bindings:
        name = binding.partition("=")[0].strip()
        if "." not in name and "/" not in name and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UsageError(f"unknown gin macro {name!r}: {hint}the files have {', '.join(known)}")


def _references(value: Any) -> Iterable[gin_config.ConfigurableReference]:
    return gin_config.iterate_references(value)


def _reached(roots: Iterable[str]) -> set[tuple[str, str, str]]:
    """All (scope, selector, parameter) bindings that building the roots reads."""
    bindings = gin_config._CONFIG
    used, seen = set(), set()
    queue = [((), root) for root in roots]
    while queue:
        scopes, selector = queue.pop()
        if (scopes, selector) in seen:
            continue
        seen.add((scopes, selector))
        # Gin applies the bindings of every prefix of the active scopes, the longest last.
        prefixes = ["/".join(scopes[:n]) for n in range(len(scopes) + 1)]
        applied = {}
        for prefix in prefixes:
            for parameter, value in bindings.get((prefix, selector), {}).items():
                used.add((prefix, selector, parameter))
                applied[parameter] = value
        for value in applied.values():
            for reference in _references(value):
                inner = tuple(reference.scopes) or scopes  # a scope of its own replaces ours
                queue.append((inner, reference.configurable.selector))
    return used


def check_leftovers(mentioned: Iterable[str] = ()) -> None:
    """Refuses a macro or binding that no command of this experiment reads.

    Args:
      mentioned: macros that the files read somewhere, be it in a line that was overridden.

    Raises:
      UsageError: names it, and the nearest name that is read.
    """
    commands = [main.module_of(name) for name in main.COMMANDS]
    roots = [command.CONFIG for command in commands if _takes_gin(command)]
    bound = {selector for _, selector in gin_config._CONFIG}
    used = _reached(root for root in roots if root in bound)
    for (scope, selector), parameters in sorted(gin_config._CONFIG.items()):
        for parameter in parameters:
            if (scope, selector, parameter) in used or (selector == _MACRO and scope in mentioned):
                continue
            if selector == _MACRO:
                names = sorted({s for s, kind, _ in used if kind == _MACRO})
                hint = did_you_mean(scope, names, cutoff=0.5)
                raise UsageError(f"gin macro {scope!r} is set but nothing reads it{hint}")
            short = ".".join(selector.split(".")[-2:])
            scopes = sorted({s for s, kind, _ in used if kind == selector and s})
            hint = f" (scopes in use: {', '.join(scopes)})" if scopes else ""
            where = f"{scope}/{short}" if scope else short
            raise UsageError(f"gin binding {where}.{parameter} is set but nothing reads it{hint}")


def check_required(root: str) -> None:
    """Refuses a config in which a macro or parameter that `root` reads is still REQUIRED."""
    for scope, selector, parameter in sorted(_reached([root])):
        value = gin_config._CONFIG[(scope, selector)][parameter]
        if "gin.REQUIRED" in repr(value):
            if selector == _MACRO:
                raise UsageError(
                    f"gin macro {scope} has no value; give it: --gin.{scope}=VALUE ({_QUOTES})"
                )
            raise UsageError(f"gin parameter {selector}.{parameter} is required and has no value")


def _write_configs(config: Any) -> None:
    """Writes config.gin (as given) and operative_config.gin (as used) beside what is made."""
    if not many_hosts.is_first():
        return
    output_dir = getattr(config, "output_dir", None)
    folders = getattr(config, "run_folders", [output_dir] if output_dir else [])
    for folder in folders:
        write_text(Path(folder) / "config.gin", gin.config_str())
        write_text(Path(folder) / "operative_config.gin", gin.operative_config_str())
