"""Settings of every test: 8 virtual CPU devices, cheap compiling, strict shapes."""

import gc
import os
import resource
import tempfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# Nearly all of the tests' time is compiling; their programs run for milliseconds. Without LLVM's
# optimisations and with the older emitters of fusions, a training step takes 2 CPU seconds to
# compile and not 7. What XLA_FLAGS already holds comes last and wins; child processes inherit all.
_FLAGS = (
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_use_fusion_emitters=false",
)
os.environ["XLA_FLAGS"] = " ".join([*_FLAGS, os.environ.get("XLA_FLAGS", "")]).strip()
# XLA sizes its thread pool by this. Collectives of 8 devices on 2 cores can otherwise wait for each
# other until the rendezvous times out and ends the process.
os.environ.setdefault("NPROC", "64")
# Two workers on two cores: a pool of threads in each would wait for the other's.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests start processes of their own that compile the same steps.
_CACHE = Path(tempfile.gettempdir()) / f"cascade_jax_test_cache_{os.getuid()}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

# Shapes in the signatures of array code are checked at every call of every test.
_CHECKED = ("losses.terms", "losses.alpha", "numerics", "deferral", "evaluation")
jaxtyping.install_import_hook([f"cascade_jax.{part}" for part in _CHECKED], "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples in every run: a test that fails is one that the change has broken. None fails by
# being slow. Many and random examples: `pytest --hypothesis-profile=thorough`.
hypothesis.settings.register_profile("same", derandomize=True, max_examples=25, deadline=None)
hypothesis.settings.register_profile("thorough", max_examples=500, deadline=None)
hypothesis.settings.load_profile("same")

ROOT = Path(__file__).parents[1]


def pytest_collection_finish() -> None:
    """What is imported stays: the garbage collector need not look through it again and again.

    This takes a tenth off the suite's CPU time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="session")
def repository() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def trained_pair(tmp_path_factory, repository) -> Path:
    """The runs of tests/support/pair.py; copy them before you change them."""
    from tests.support import pair

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        return pair.made_once(tmp_path_factory, "trained_pair", pair.train)


@pytest.fixture
def in_the_clone(monkeypatch, repository):
    """The clone as current folder, where gin files are found; gin is empty again afterwards."""
    import gin

    monkeypatch.chdir(repository)
    yield
    gin.clear_config(clear_constants=True)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """A folder of real data; the tests that want it are skipped where there is none."""
    folder = Path(os.environ.get("CASCADE_JAX_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}; name one in CASCADE_JAX_TEST_DATA")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with medium or slow tests first, so that no worker ends with a long one."""
    long_files = {item.path for item in items if item.get_closest_marker("medium")}
    items.sort(key=lambda item: item.path not in long_files)


@pytest.fixture(autouse=True, scope="module")
def memory_is_given_back():
    """Drops compiled programs, which JAX keeps, after a file that leaves more than 2 GB."""
    yield
    if memory() > 2e9:
        jax.clear_caches()


def memory() -> int:
    """Bytes of memory that this process has now; 0 where Linux's /proc is missing."""
    file = Path("/proc/self/statm")
    return int(file.read_text().split()[1]) * resource.getpagesize() if file.exists() else 0
