"""Where hosts meet and how they differ; several processes are in tests/multihost."""

import jax
import numpy as np
import pytest

from cascade_jax.cli import evaluate, gin_config, many_hosts, run_command, train
from cascade_jax.parallel import address as addresses
from cascade_jax.parallel import hosts


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for variable in addresses.VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def test_flags_come_before_the_environment(monkeypatch):
    assert addresses.address(None, None, None) is None
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "10.0.0.2:8476")
    assert addresses.address(None, None, None) is None  # a cluster may set it and tell the rest
    monkeypatch.setenv("JAX_NUM_PROCESSES", "4")
    monkeypatch.setenv("JAX_PROCESS_ID", "2")
    assert addresses.address(None, None, None) == addresses.Address("10.0.0.2:8476", 4, 2)
    assert addresses.address("h:1", None, "3") == addresses.Address("h:1", 4, 3)
    assert addresses.address(None, "1", None).processes == 1


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("h:1", None, None), r"--processes \(or JAX_NUM_PROCESSES\) and --process \(or"),
        ((None, "2", "0"), r"--coordinator \(or JAX_COORDINATOR_ADDRESS\) is missing"),
        (("h", "2", "0"), "coordinator is 'h'; must be HOST:PORT"),
        (("h:p", "2", "0"), "coordinator is 'h:p'; must be HOST:PORT"),
        (("h:1", "two", "0"), "--processes is 'two'; must be a number"),
        (("h:1", "2", "2"), "process is 2; must be from 0 to 1, as there are 2 processes"),
        (("h:1", "0", "0"), "processes is 0; must be at least 1"),
    ],
)
def test_addresses_that_are_refused(arguments, said):
    with pytest.raises(addresses.HostsError, match=said):
        addresses.address(*arguments)


def test_what_differs():
    first = hosts.flat({"runs": [{"seed": 0, "lengths": (4, 8)}], "old": None})
    other = hosts.flat({"runs": [{"seed": 1, "lengths": (4, 8, 9)}]})
    assert first == {"runs.0.seed": 0, "runs.0.lengths.0": 4, "runs.0.lengths.1": 8, "old": None}
    assert hosts.differences(first, first) == []
    assert hosts.differences(first, other) == [
        "old is missing",
        "runs.0.lengths.2 is there, on host 0 not",
        "runs.0.seed is 1, on host 0 it is 0",
    ]


def test_a_process_that_is_alone_has_nothing_to_agree_on():
    assert hosts.is_first() and not hosts.connected()
    hosts.initialize(addresses.Address("localhost:0", 1, 0))
    jax.devices()
    hosts.initialize()  # a later command of this process
    hosts.assert_equal_across_hosts("configs", {"seed": 0})
    hosts.shutdown(2, "an error")
    assert not hosts.connected()
    array = jax.numpy.arange(8.0)
    np.testing.assert_array_equal(hosts.to_host({"a": array})["a"], np.arange(8.0))


def test_flags_of_commands_that_many_hosts_do():
    argv = ["--gin_file=x", "--coordinator=h:1", "--processes=2", "--process=1", "--gin.process=3"]
    values = run_command.flags_of(train).parse(gin_config.with_bindings(argv))
    assert (values.gin_file, values.bindings) == (["x"], ["process=3"])
    assert (values.coordinator, values.processes, values.process) == ("h:1", "2", "1")
    with pytest.raises(gin_config.UsageError, match="no flag --coordinator"):
        run_command.flags_of(evaluate).parse(argv[:2])
    assert "--coordinator" in run_command.flags_of(train).format_help()


def test_statuses_of_errors():
    assert many_hosts.status_of(hosts.Stopped("asked")) == hosts.STOPPED_STATUS == 75
    assert many_hosts.status_of(addresses.LostHostError("gone")) == hosts.LOST_STATUS == 76
    # Alone, no error means that a host was lost.
    assert many_hosts.status_of(RuntimeError("UNAVAILABLE: Gloo")) is None
