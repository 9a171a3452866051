"""Modules of tasks that gin files import, for commands that need no tasks."""

import importlib.abc
import importlib.machinery
import sys
from types import ModuleType


class TaskModulesSkipped(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """While it is entered, modules of the package `tasks` are found but not run."""

    def __init__(self):
        self._skipped = []

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
