"""Hosts that do not come: status 76 and one line, never an abort."""

import os
import subprocess
import sys
import time

import gin
import pytest

from cascade_jax.cli.main import main
from cascade_jax.parallel.address import LOST_STATUS
from tests.support import processes

SLURM = {"SLURM_JOB_ID": "12", "SLURM_STEP_NODELIST": "localhost", "SLURM_LOCALID": "0"}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}


def environment(kind: str, count: int, process: int) -> dict[str, str]:
    """Of one process under Slurm or Open MPI."""
    if kind == "slurm":
        return SLURM | {"SLURM_NTASKS": str(count), "SLURM_PROCID": str(process)}
    counts = {"OMPI_COMM_WORLD_SIZE": str(count), "OMPI_COMM_WORLD_RANK": str(process)}
    return OPEN_MPI | counts


@pytest.mark.parametrize("process", [0, 1])
def test_the_command_ends_with_its_status_and_a_line(tmp_path, monkeypatch, capfd, process):
    file = processes.write_gin(tmp_path, "out", 6, 3)
    place = f"localhost:{processes.free_port()}"
    flags = [f"--coordinator={place}", "--processes=2", f"--process={process}", "--wait_seconds=1"]
    monkeypatch.chdir(processes.ROOT)
    try:
        assert main(["train", f"--gin_file={file}", *flags]) == LOST_STATUS
    finally:
        gin.clear_config(clear_constants=True)
    output, errors = capfd.readouterr()
    assert f"process {process} of 2 meets the others at {place}\n" in output
    (line,) = errors.splitlines()
    missing = "1 of 2 processes (process 1)" if process == 0 else "process 0"
    assert line.startswith(f"cascade-jax train: {missing} did not come to {place} within 1 s")
    assert not (tmp_path / "out").exists()


CONNECT = """
import os, sys
from cascade_jax.parallel import address, hosts
hosts._CONNECT_SECONDS = 2
if len(sys.argv) > 1:  # dies when all have come
    hosts._connect = lambda *arguments: os._exit(9)
try:
    hosts.initialize(None, "cascade-jax train", int(os.environ["LIMIT"]))
except address.LostHostError as error:
    print(error)
    sys.exit(error.exit_status)
print("all are there", flush=True)
hosts.shutdown(0)
"""


def start(variables: dict[str, str], limit: int, *arguments: str) -> subprocess.Popen:
    """One process whose address comes from its environment."""
    port = {"JAX_COORDINATOR_PORT": str(variables.pop("port"))}
    return subprocess.Popen(
        [sys.executable, "-c", CONNECT, *arguments],
        cwd=processes.ROOT,
        env=os.environ | variables | port | {"LIMIT": str(limit)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen) -> tuple[int, list[str]]:
    text = process.communicate(timeout=120)[0]
    return process.returncode, text.splitlines()


@pytest.mark.medium
@pytest.mark.parametrize("kind, process", [("slurm", 0), ("open_mpi", 1)])
def test_a_cluster_whose_other_processes_do_not_come(kind, process):
    port = processes.free_port()
    status, lines = ended(start(environment(kind, 3, process) | {"port": port}, 1))
    assert status == LOST_STATUS, lines
    host = "localhost" if kind == "slurm" else "127.0.0.1"
    assert lines[0] == f"process {process} of 3 meets the others at {host}:{port}"
    missing = "2 of 3 processes (processes 1, 2)" if process == 0 else "process 0"
    assert lines[1].startswith(f"{missing} did not come to {host}:{port} within 1 s")
    assert len(lines) == 2


@pytest.mark.medium
def test_a_process_that_comes_late_and_one_that_dies_as_all_have_come():
    port = {"port": processes.free_port()}
    first = start(environment("slurm", 2, 0) | port, 100)
    time.sleep(1)
    second = start(environment("slurm", 2, 1) | port, 100)
    for process in (first, second):
        status, lines = ended(process)
        assert (status, lines[-1]) == (0, "all are there")

    first = start(environment("slurm", 2, 0) | port, 100)
    second = start(environment("slurm", 2, 1) | port, 100, "dies")
    assert ended(second)[0] == 9
    status, lines = ended(first)
    assert status == LOST_STATUS
    assert len(lines) == 2  # no stack
    assert "ends, since another host died before all were connected; start the same" in lines[1]
