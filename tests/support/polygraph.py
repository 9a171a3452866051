"""Estimators of lm-polygraph 0.7.0, imported without the libraries that its packages ask for.

Each estimator is NumPy on a dict of statistics. The package's `__init__` files import openai, spacy
and others, so bare modules stand in for the packages on the way to an estimator's file, and for the
one helper, which only logs that an estimator is made.
"""

import importlib
import importlib.metadata
import sys
import types

import pytest

VERSION = "0.7.0"


def _is_installed() -> bool:
    try:
        return importlib.metadata.version("lm-polygraph") == VERSION
    except importlib.metadata.PackageNotFoundError:
        return False


needs_polygraph = pytest.mark.skipif(
    not _is_installed(),
    reason=f"beside the extra peers: pip install --no-deps lm-polygraph=={VERSION}",
)


def estimator(file: str, name: str, **settings):
    """An estimator out of a file of `lm_polygraph.estimators`."""
    root = str(importlib.metadata.distribution("lm-polygraph").locate_file("lm_polygraph"))
    for package in ("lm_polygraph", "lm_polygraph.estimators", "lm_polygraph.utils"):
        if package not in sys.modules:
            module = types.ModuleType(package)
            module.__path__ = ["/".join([root, *package.split(".")[1:]])]
            sys.modules[package] = module
    common = types.ModuleType("lm_polygraph.utils.common")
    common.polygraph_module_init = lambda function: function
    sys.modules.setdefault("lm_polygraph.utils.common", common)
    module = importlib.import_module(f"lm_polygraph.estimators.{file}")
    return getattr(module, name)(**settings)
