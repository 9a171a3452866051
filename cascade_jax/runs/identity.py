"""The identity of a command's config and code, which must be the same on all hosts."""

import hashlib
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import cascade_jax
from cascade_jax.runs import run_folder

_PLACES = ("data_dir", "vocabulary", "cache_dir", "teacher_cache")
_LIBRARIES = ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "seqio", "tensorflow")


def config_identity(config: Any) -> dict[str, Any]:
    """A command's config as JSON values, but for places that may differ by host.

    What lies in these places is compared by its fingerprints, once it is read.
    """
    return _without_places(run_folder.describe(config))


def _without_places(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_places(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _without_places(item) for key, item in value.items() if key not in _PLACES}


def code_identity() -> dict[str, Any]:
    """Versions of Python and the libraries, and a hash of every file of cascade_jax and the tasks.

    The tasks are those modules named `tasks` or `tasks.…` that have been imported.
    """
    versions = {"python": platform.python_version(), "cascade_jax": cascade_jax.__version__}
    for library in _LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            versions[library] = None
    root = Path(cascade_jax.__file__).parent
    for file in sorted(root.rglob("*.py")):
        versions[f"cascade_jax/{file.relative_to(root)}"] = _hash(file)
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.partition(".")[0] == "tasks" and file:
            versions[name] = _hash(Path(file))
    return versions


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]
