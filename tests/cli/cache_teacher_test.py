"""`cascade-jax cache-teacher` and `train` with its cache: what is missing is said in one line."""

import gin
import pytest

from cascade_jax.cli.main import main

DEMO = "--gin_file=gin/experiments/demo.gin"


@pytest.fixture
def refused(monkeypatch, repository, capfd, tmp_path):
    monkeypatch.chdir(repository)

    def refused(name: str, *argv: str) -> str:
        output = f"--gin.OUTPUT_DIR='{tmp_path}/out'"
        assert main([name, DEMO, output, *argv]) == 2
        (line,) = [text for text in capfd.readouterr().err.splitlines() if "%|" not in text]
        return line

    yield refused
    gin.clear_config(clear_constants=True)


def test_a_cache_needs_a_folder(refused):
    line = refused("cache-teacher")
    assert "folder of the teacher cache is None; must be a path, e.g. --gin.TEACHER_CACHE" in line


def test_a_cache_needs_a_trained_teacher(refused, tmp_path):
    line = refused("cache-teacher", f"--gin.TEACHER_CACHE='{tmp_path}/cache'")
    assert f"{tmp_path}/out/teacher holds no complete checkpoint; train that run first" in line
    assert not list((tmp_path / "cache").glob("*.json"))


def test_training_needs_the_cache_that_it_is_given(refused, tmp_path):
    cache = f"--gin.TEACHER_CACHE='{tmp_path}/cache'"
    line = refused("train", "--gin.ONLY='cat_xent'", cache)
    assert f"run 'cat_xent': teacher cache {tmp_path}/cache is not there; make it: " in line
    assert "`cascade-jax cache-teacher` with the gin files and flags of this run" in line
    assert not (tmp_path / "out").exists()


def test_limit_is_the_macro_of_the_command(refused, tmp_path):
    cache = f"--gin.TEACHER_CACHE='{tmp_path}/cache'"
    assert "limit is 7; must be" not in refused("cache-teacher", cache, "--limit=7")
    assert gin.query_parameter("CACHE_LIMIT/gin.macro.value") == 7
    refused("collect", "--limit", "5")
    assert gin.query_parameter("COLLECT_LIMIT/gin.macro.value") == 5
    assert "--limit: '0' is not an integer of at least 1" in refused("collect", "--limit=0")


def test_a_misspelt_dtype(refused, tmp_path):
    cache = f"--gin.TEACHER_CACHE='{tmp_path}/cache'"
    assert "did you mean 'uint8'" in refused("cache-teacher", cache, "--gin.CACHE_DTYPE='unit8'")
