"""The folder of compiled programs: where it is, what is kept there, and what damage does."""

import os
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from cascade_jax.cli import compilation_cache, gin_config, run_command

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture(autouse=True)
def no_setting(monkeypatch):
    """As in a process in which nothing is set; afterwards all is as before."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    for name in SETTINGS:
        monkeypatch.delenv(name.upper(), raising=False)
    jax.config.update(SETTINGS[0], None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    jax_cache.reset_cache()


@pytest.fixture
def events(monkeypatch) -> list[str]:
    """What JAX says of its cache: "cache_hits" and "cache_misses"."""
    heard = []

    def hear(event: str, **_) -> None:
        if event.endswith(("cache_hits", "cache_misses")):
            heard.append(event.rpartition("/")[2])

    jax.monitoring.register_event_listener(hear)
    yield heard
    jax.monitoring.unregister_event_listener(hear)


def compute() -> float:
    """What a program gives that this process has to compile or load."""
    numbers = jnp.arange(4.0)
    jax.clear_caches()
    return float(jax.jit(lambda x: jnp.sum(x * 3.0))(numbers))


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*-cache"))


@pytest.mark.parametrize(
    "platform, environment, expected",
    [
        ("linux", {}, "home/.cache"),
        ("linux", {"XDG_CACHE_HOME": "/x/caches"}, "/x/caches"),
        ("darwin", {}, "home/Library/Caches"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local"),
    ],
)
def test_the_folder_is_where_the_users_caches_belong(monkeypatch, platform, environment, expected):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("home"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert compilation_cache.default_folder() == Path(expected) / "cascade_jax" / "compiled"


def test_what_was_compiled_is_kept_also_if_it_took_no_time(tmp_path, monkeypatch, events):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compilation_cache.use(None) is None
    folder = tmp_path / "cascade_jax" / "compiled"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert jax.config.jax_compilation_cache_max_size == compilation_cache.MAX_BYTES
    assert compute() == 18 and set(events) == {"cache_misses"} and entries(folder)
    events.clear()
    assert compute() == 18 and set(events) == {"cache_hits"}


def test_the_flag_wins_over_gin_and_gin_over_the_environment(tmp_path, monkeypatch, in_the_clone):
    used = []
    monkeypatch.setattr(compilation_cache, "use", used.append)
    gin = "--gin_file=gin/runs/base.gin"
    for value in ("None", "'from_gin'", "'off'"):
        gin_config.load([gin.partition("=")[2]], [f"COMPILATION_CACHE={value}"], needs_tasks=False)
        run_command._keep_compiled(None, "train")
    run_command._keep_compiled("flag", "train")
    gin_config.gin.clear_config()
    run_command._keep_compiled(None, "train")  # files that do not include ours
    assert used == [None, "from_gin", "off", "flag", None]
    monkeypatch.undo()
    theirs = str(tmp_path / "theirs")
    jax.config.update(SETTINGS[0], theirs)  # as JAX reads it from the environment
    assert compilation_cache.use(None) is None
    assert jax.config.jax_compilation_cache_dir == theirs and not os.path.exists(theirs)
    assert compilation_cache.use("off") is None
    assert jax.config.jax_compilation_cache_dir is None
    with pytest.raises(ValueError, match="COMPILATION_CACHE is 3; give a folder or 'off'"):
        compilation_cache.CompilationCache(3)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    run_command._keep_compiled(str(tmp_path / "file" / "cache"), "collect")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cascade-jax collect: compiled programs are not kept: ")
    assert "file/cache: Not a directory; --compilation_cache=FOLDER keeps" in line
    assert jax.config.jax_compilation_cache_dir is None
    assert compute() == 18


def test_what_a_killed_process_left_is_mended(tmp_path, events):
    """Half an entry goes; a whole one gets the time of its use, without which none is removed."""
    whole, half = tmp_path / "a-cache", tmp_path / "b-cache"
    whole.write_bytes(zlib.compress(b"program" * 100))
    half.write_bytes(zlib.compress(b"program" * 100)[:-9])
    (tmp_path / "c-atime").write_bytes(b"\0" * 8)
    other = tmp_path / "d-cache"
    other.write_bytes(b"\x28\xb5\x2f\xfd program")
    assert compilation_cache.use(str(tmp_path)) is None
    names = {path.name for path in tmp_path.iterdir()}
    assert names - {".lockfile"} == {"a-cache", "a-atime", "d-cache", "d-atime"}
    other.unlink()
    (tmp_path / "d-atime").unlink()
    jax.config.update(SETTINGS[1], 1)  # no entry is so small: none stays
    with pytest.warns(UserWarning, match="exceeds the maximum cache size"):
        assert compute() == 18
    jax.config.update(SETTINGS[1], whole.stat().st_size + 4000)
    jax_cache.reset_cache()
    assert compute() == 18 and not whole.exists() and entries(tmp_path)


def test_a_start_keeps_the_programs_that_were_used_last(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation_cache, "MAX_ENTRIES", 3)
    for name, second in zip("abcde", (5, 1, 4, 2, 3), strict=True):
        (tmp_path / f"{name}-cache").write_bytes(name.encode())
        (tmp_path / f"{name}-atime").write_bytes(second.to_bytes(8, "little"))
    for _ in range(2):
        assert compilation_cache.use(str(tmp_path)) is None
        assert [file.name for file in entries(tmp_path)] == ["a-cache", "c-cache", "e-cache"]
        assert len(list(tmp_path.glob("*-atime"))) == 3


def test_a_damaged_entry_is_a_warning_and_the_program_is_compiled(tmp_path):
    compilation_cache.use(str(tmp_path))
    compute()
    for path in entries(tmp_path):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.warns(UserWarning, match="Error reading persistent compilation cache entry"):
        assert compute() == 18


SHOW_DEVICE = """
import jax
from jax._src.lib import xla_client
print(xla_client.get_topology_for_devices(jax.devices()[:1]).fingerprint())
"""


@pytest.mark.medium
def test_the_key_of_a_program_holds_the_instruction_set_of_the_cpu():
    """By it machines that share a folder differ: JAX hashes this fingerprint (`cache_key.py`)."""
    fingerprints = []
    for isa in ("AVX2", "SSE4_2"):
        environment = os.environ | {"XLA_FLAGS": f"--xla_cpu_max_isa={isa}"}
        command = [sys.executable, "-c", SHOW_DEVICE]
        fingerprints.append(subprocess.check_output(command, env=environment, text=True))
    assert len(set(fingerprints)) == 2
