"""Modules of tasks that gin files import, and TensorFlow, for commands that need neither yet."""

import importlib.abc
import importlib.machinery
import sys
from types import ModuleType


class TaskModulesSkipped(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """While it is entered, modules of the package `tasks` are found but not run."""

    def __init__(self):
        self._skipped = []
        self._is_read = False  # whether something in one of them was looked up

    def may_explain(self, error: Exception) -> bool:
        """Whether a gin file may be refused only because the modules were not run."""
        is_unknown = "No configurable matching" in str(error)  # they may register some
        return self._is_read or (is_unknown and bool(self._skipped))

    def __enter__(self) -> "TaskModulesSkipped":
        sys.meta_path.insert(0, self)
        return self

    def __exit__(self, *error) -> None:
        sys.meta_path.remove(self)
        for name in self._skipped:
            del sys.modules[name]
            parent, _, child = name.rpartition(".")
            if parent in sys.modules:
                delattr(sys.modules[parent], child)

    def find_spec(self, name: str, path, target=None) -> importlib.machinery.ModuleSpec | None:
        """The module's own spec with this loader."""
        if not name.startswith("tasks."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None:
            spec.loader = self
        return spec

    def exec_module(self, module: ModuleType) -> None:
        """Runs nothing."""
        self._skipped.append(module.__name__)
        module.__getattr__ = self._missing

    def _missing(self, name: str):
        self._is_read = self._is_read or not name.startswith("__")
        raise AttributeError(name)


class TensorFlowNeededError(BaseException):
    """Something imports TensorFlow; no Exception, so that no module goes on without it."""


class TensorFlowRefused(importlib.abc.MetaPathFinder):
    """While it is entered, importing TensorFlow or seqio raises TensorFlowNeededError."""

    def __enter__(self) -> None:
        sys.meta_path.insert(0, self)

    def __exit__(self, *error) -> None:
        sys.meta_path.remove(self)

    def find_spec(self, name: str, path, target=None) -> None:
        """Leaves all other modules to the other finders."""
        if name in ("tensorflow", "seqio"):
            raise TensorFlowNeededError(name)
