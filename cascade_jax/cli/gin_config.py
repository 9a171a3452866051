"""From gin files and bindings to a built config, with checks on all of them.

Every command is configured by one frozen dataclass, its root. An experiment's gin file may bind the
roots of several commands. Gin itself ignores a macro that nothing reads and a binding in a scope
that nothing enters; here both are refused, as long as no command's root reaches them.
"""

import argparse
import contextlib
import dataclasses
import importlib.util  # noqa: F401  gin uses it to look for a file, and imports importlib alone
import inspect
import os
import re
import sys
import tokenize
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gin
from gin import config as gin_config

from cascade_jax.cli import commands, gin_text
from cascade_jax.cli.flags import Config, Flags, UsageError, at_least, flag
from cascade_jax.cli.task_modules import (
    TaskModulesSkipped,
    TensorFlowNeededError,
    TensorFlowRefused,
)
from cascade_jax.names import did_you_mean

_MACRO = "gin.macro"
# Read by every command that compiles.
_CACHE = "cascade_jax.cli.compilation_cache.CompilationCache"
_REFUSED = (
    SyntaxError, tokenize.TokenError, ValueError, OSError, ImportError, AttributeError, NameError,
)  # fmt: skip
_QUOTES = "a string needs quotes, and on a command line quotes inside quotes: \"'text'\""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GinFlags:
    """The gin files and bindings of a command line."""

    gin_file: list[str] | None = flag(
        "FILE",
        "a gin file; may be given several times, later ones win. gin/... is searched in the "
        "current folder, in a clone, and in the installed package",
        None,
        action="append",
    )
    bindings: list[str] | None = flag(
        "VALUE",
        "sets a macro, e.g. --gin.STUDENT_STEPS=500 --gin.DATA_DIR=\"'/data'\"; or a parameter, "
        "e.g. --gin.mesh.MeshConfig.tensor=2",
        None,
        action="append",
        name="gin.MACRO",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LimitFlag:
    """The flag of commands that may be tried on some rows; it sets the macro of their LIMIT."""

    limit: int | None = flag(
        "ROWS", "the first rows of each task only, to try it out", None, type=at_least(1)
    )


def with_bindings(argv: Iterable[str]) -> list[str]:
    """Arguments in which each `--gin.NAME=VALUE` is a value of the one flag `--gin.MACRO`."""
    words = []
    for word in argv:
        if word.startswith("--gin."):
            if "=" not in word:
                raise UsageError(f"{word}: write {word}=VALUE")
            word = f"--gin.MACRO={word.removeprefix('--gin.')}"
        words.append(word)
    return words


def one_line(error: Exception) -> str:
    """The message of an error in one line, without Gin's and Python's inner wording."""
    text = " ".join(str(error).split()) or type(error).__name__
    # The class is not the user's wording, the scope is.
    text = re.sub(r" In call to configurable '\w+' \(<class '[^']*'>\)", "", text)
    text = re.sub(r" No values supplied by Gin or caller.*Caller supplied values.*\]", "", text)
    text = text.replace(".__init__() missing", "() misses")
    return re.sub(r"malformed node or string[^>]*> ?", "", text)


def parse(root: str, argv: Iterable[str]) -> Any:
    """`build` from the arguments `--gin_file=...` and `--gin....=...`."""
    return build(root, Flags("").add(GinFlags).parse(with_bindings(argv)))


def build(root: str, values: argparse.Namespace, needs_tasks: bool = True) -> Any:
    """Builds the config of one command.

    Args:
      root: importable name of its dataclass.
      values: of `GinFlags`.
      needs_tasks: whether the modules of tasks that the gin files import are run.

    Raises:
      UsageError: an unknown macro or parameter, a macro without a value, a missing file.
      ValueError: from the dataclasses, for values that are not allowed.
    """
    if not values.gin_file:
        raise UsageError("give at least one --gin_file; see --help for an example")
    if needs_tasks and "tensorflow" not in sys.modules:
        # What can be refused without TensorFlow does not wait for it, which takes seconds.
        with contextlib.suppress(TensorFlowNeededError), TensorFlowRefused():
            build(root, values, needs_tasks=False)
    mentioned = load(values.gin_file, values.bindings or (), needs_tasks)
    if root not in _bound():
        raise UsageError(f"the gin files bind nothing of {root}, which this command needs")
    check_leftovers(mentioned)
    check_required(root)
    try:
        return gin.get_configurable(root)()
    except RecursionError as error:
        raise UsageError("the macros or references of the gin files read each other") from error
    except TypeError as error:
        raise UsageError(
            f"the gin files leave out a value or give one of another type: {one_line(error)}"
        ) from error


def setting(config_class: type[Config]) -> Config:
    """A config that is no command's root, as the gin files bind it; its defaults if they do not."""
    selector = f"{config_class.__module__}.{config_class.__qualname__}"
    return gin.get_configurable(selector)() if selector in _bound() else config_class()


def search_paths() -> list[Path]:
    """Folders in which `gin/...` is looked up: here, the clone, the installed package."""
    package = Path(__file__).parents[1]
    return list(dict.fromkeys([Path.cwd(), package.parent, package / "installed"]))


def add_current_folder() -> None:
    """Lets a user's own module of the current folder be imported."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def load(files: Iterable[str], bindings: Iterable[str] = (), needs_tasks: bool = True) -> set[str]:
    """Parses gin files and bindings into gin's global config.

    Args:
      files: gin files; later ones win.
      bindings: of the command line.
      needs_tasks: False to look for the modules of the package `tasks` that the files import, but
        not to run them: they import TensorFlow, which takes seconds.

    Returns:
      The macros that some line of the files reads as %NAME, even if a later line replaces it.

    Raises:
      UsageError: a file that is missing or does not parse, an unknown name, an unknown macro among
        the bindings.
    """
    add_current_folder()
    files = list(files)
    for file in files:  # before anything slow is imported
        if not any(os.path.isfile(folder / file) for folder in search_paths()):
            raise UsageError(_no_such_file(file))
    if not needs_tasks:
        skipped = TaskModulesSkipped()
        try:
            with skipped:
                return _load(files, bindings)
        except UsageError as error:
            if not skipped.may_explain(error):
                raise
    with native_messages_hidden():
        # Keeps TensorFlow off the devices before a module of tasks makes a tensor.
        importlib.import_module("cascade_jax.data.lean_tensorflow")
    return _load(files, bindings)


def _load(files: Iterable[str], bindings: Iterable[str]) -> set[str]:
    gin.clear_config(clear_constants=True)
    gin_text.forget()
    gin_config._LOCATION_PREFIXES[:] = ["", *map(str, search_paths())]
    gin_config._FILE_READERS[:] = [(gin_text.opened, os.path.isfile)]
    with native_messages_hidden():
        try:
            parsed = [gin.parse_config_file(file) for file in files]
        except _REFUSED as error:
            raise UsageError(_file_error(error)) from error
        _check_known_macros(bindings)
        for binding in bindings:
            gin_text.check_binding(binding)
        for binding in bindings:
            try:
                _parse_binding(binding)
            except _REFUSED as error:
                raise UsageError(f"--gin.{binding}: {_binding_error(error)}") from error
    return set().union(*map(_macros_read, parsed))


def _file_error(error: Exception) -> str:
    """Gin's message about a file, without the list of all folders twice."""
    if match := re.match(r"Unable to open file: (.+?)\. Searched config paths", str(error)):
        including = re.search(r'In file "(.+?)", line (\d+)', str(error))
        return _no_such_file(
            match[1], f" (included by {including[1]}:{including[2]})" if including else ""
        )
    return one_line(error)


def _no_such_file(name: str, where: str = "") -> str:
    return f"no gin file {name}{where}; looked in {', '.join(map(str, search_paths()))}"


def _binding_error(error: Exception) -> str:
    """Gin's message about a binding of the command line, which is named before it."""
    text = re.sub(r"\s*In bindings string line \d+.*", "", one_line(error))
    if match := re.match(r"Configurable '([\w.]+)' doesn't have a parameter named '(\w+)'", text):
        wrapped = gin_config._REGISTRY.get_match(match[1]).wrapped
        text = text.rstrip(".") + did_you_mean(match[2], inspect.signature(wrapped).parameters)
    return text


def _parse_binding(binding: str) -> None:
    """Parses a binding of the command line, which may name all that is in the files' imports.

    By itself gin knows only those names of a module that the files mention: not `scores.Sum` where
    they say `@scores.Average()`.
    """
    try:
        gin.parse_config(binding)
    except ValueError as error:
        if "No configurable matching" not in str(error):
            raise
        imports = {statement.format() for statement in gin_config._IMPORTS}
        dynamic = "from __gin__ import dynamic_registration"  # comes first
        try:
            gin.parse_config([dynamic, *sorted(imports - {dynamic}), binding])
        except AttributeError as second:  # a module that is imported has no such name
            raise _no_such_name(second) from None
        except (SyntaxError, ValueError, NameError):
            raise error from None


def _no_such_name(error: AttributeError) -> AttributeError:
    """Gin's error without the module's path, with the nearest name that the module has."""
    match = re.search(r"selector ([\w.]+); <module '([\w.]+)'", str(error))
    if not match:
        return error
    selector, module = match.groups()
    name = selector.rpartition(".")[2]
    public = [known for known in vars(sys.modules[module]) if not known.startswith("_")]
    return AttributeError(f"{module} has no {name}{did_you_mean(name, public)} (in @{selector})")


def _macros_read(parsed) -> set[str]:
    """Names after a % in a parsed file and all that it includes."""
    candidates = (folder / parsed.filename for folder in search_paths())
    file = next(file for file in candidates if file.exists())
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    names = set(re.findall(r"%([\w/]+)", " ".join(line.partition("#")[0] for line in lines)))
    return names.union(*map(_macros_read, parsed.includes))


@contextlib.contextmanager
def native_messages_hidden():
    """Hides what is printed on file descriptor 2; exceptions pass as usual.

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
    known = _macros()
    for binding in bindings:
        name = binding.partition("=")[0].strip()
        if name and "." not in name and "/" not in name and name not in known:
            hint = did_you_mean(name, known, cutoff=0.5)
            files = f"the files have {', '.join(known)}" if known else "the files set no macro"
            raise UsageError(f"--gin.{name}: unknown gin macro {name!r}{hint} ({files})")


def _macros() -> list[str]:
    """Names of all macros that are set."""
    return sorted(scope for scope, selector in _bindings() if selector == _MACRO)


def _bindings() -> dict[tuple[str, str], dict[str, Any]]:
    """All bindings: (scope, selector) to values by parameter. Gin publishes them only as text."""
    return gin_config._CONFIG


def _bound() -> set[str]:
    return {selector for _, selector in _bindings()}


def _reached(roots: Iterable[str]) -> set[tuple[str, str, str]]:
    """All (scope, selector, parameter) bindings that building the roots reads."""
    bindings = _bindings()
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
            for reference in gin_config.iterate_references(value):
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
    modules = [commands.module_of(name) for name in commands.COMMANDS]
    roots = {module.CONFIG for module in modules if hasattr(module, "CONFIG")} | {_CACHE}
    used = _reached(roots & _bound())
    for (scope, selector), parameters in sorted(_bindings().items()):
        for parameter in parameters:
            if (scope, selector, parameter) in used or (selector == _MACRO and scope in mentioned):
                continue
            if selector == _MACRO:
                names = sorted({s for s, kind, _ in used if kind == _MACRO})
                hint = did_you_mean(scope, names, cutoff=0.5)
                prefix, _, name = scope.rpartition("/")
                place = gin_text.place_of(prefix, name, "")
                raise UsageError(f"{place}gin macro {scope!r} is set but nothing reads it{hint}")
            short = ".".join(selector.split(".")[-2:])
            scopes = sorted({s for s, kind, _ in used if kind == selector and s})
            hint = f" (scopes in use: {', '.join(scopes)})" if scopes else ""
            where = f"{scope}/{short}" if scope else short
            where = f"{gin_text.place_of(scope, selector, parameter)}gin binding {where}"
            raise UsageError(f"{where}.{parameter} is set but nothing reads it{hint}")


def check_required(root: str) -> None:
    """Refuses a config in which a macro or parameter that `root` reads is not set or REQUIRED."""
    known = _macros()
    for scope, selector, parameter in sorted(_reached([root])):
        value = _bindings()[(scope, selector)][parameter]
        for reference in gin_config.iterate_references(value):
            name = "/".join(reference.scopes)
            if reference.configurable.selector == _MACRO and name not in known:
                reader = scope if selector == _MACRO else f"{selector}.{parameter}"
                hint = did_you_mean(name, known, cutoff=0.5)
                raise UsageError(f"{reader} is %{name}, and no macro of that name is set{hint}")
        if "gin.REQUIRED" in repr(value):
            if selector == _MACRO:
                raise UsageError(
                    f"gin macro {scope} has no value; give it: --gin.{scope}=VALUE ({_QUOTES})"
                )
            raise UsageError(f"gin parameter {selector}.{parameter} is required and has no value")
