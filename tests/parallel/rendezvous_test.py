"""Processes that wait for each other, here as threads; the command is in tests/multihost."""

import contextlib
import socket
import threading
import time
from concurrent import futures

import pytest

from cascade_jax.parallel import address as addresses
from cascade_jax.parallel import rendezvous
from cascade_jax.parallel.address import Address, HostsError, LostHostError
from tests.support.processes import free_port


class Party:
    """Processes of one run, each a thread."""

    def __init__(self, count: int):
        self.place, self.count = f"localhost:{free_port()}", count
        self.texts = {}  # process -> what it waited for
        self._threads = futures.ThreadPoolExecutor(8)

    def come(self, process: int, seconds: float = 20, count: int | None = None) -> futures.Future:
        texts = self.texts.setdefault(process, [])
        where = Address(self.place, count or self.count, process)
        wait = rendezvous.wait_for_all
        return self._threads.submit(wait, where, seconds, lambda text, left: texts.append(text))

    def when(self, process: int, text: str) -> None:
        """Waits until a process waits for `text`."""
        end = time.monotonic() + 20
        while not any(text in line for line in list(self.texts.get(process, ()))):
            assert time.monotonic() < end, self.texts
            time.sleep(0.01)


def test_all_wait_for_the_last_one_and_the_port_is_free_afterwards():
    party = Party(3)
    first, other = party.come(0), party.come(2)
    party.when(0, "1 of 3 processes (process 1)")
    party.when(2, "1 of 3 processes (process 1)")
    assert not first.done() and not other.done()
    late = party.come(1)
    for process in (first, other, late):
        process.result(20)
    with socket.create_server(("", int(party.place.split(":")[1]))):
        pass


def test_process_0_may_come_last():
    party = Party(2)
    other = party.come(1)
    party.when(1, f"process 0 at {party.place}: Connection refused")
    party.come(0).result(20)
    other.result(20)


def test_who_does_not_come_is_said_by_all_within_the_time():
    party = Party(4)
    begin = time.monotonic()
    waiting = [party.come(i, 1.5 if i == 0 else 20) for i in (0, 1, 3)]
    for process in waiting:
        with pytest.raises(LostHostError) as error:
            process.result(20)
        said = f"1 of 4 processes (process 2) did not come to {party.place} within 2 s"
        assert said in str(error.value) and "--processes=1 to run alone" in str(error.value)
        assert error.value.exit_status == 76
    assert time.monotonic() - begin < 15


@pytest.mark.parametrize("place", ["localhost", "no-such-host.invalid"])
def test_a_process_0_that_does_not_come(place):
    where = Address(f"{place}:{free_port()}", 2, 1)
    texts = []
    with pytest.raises(
        LostHostError, match="process 0 did not come to .* within 0 s .*: .+; start"
    ):
        rendezvous.wait_for_all(where, 0.3, lambda text, left: texts.append(text))
    assert texts[0] == f"process 0 at {where.coordinator}"


def test_one_that_goes_away_is_waited_for_again():
    party = Party(3)
    first = party.come(0)
    party.when(0, "2 of 3")
    with pytest.raises(LostHostError):
        party.come(1, 0.5).result(20)
    party.when(0, "2 of 3 processes (processes 1, 2), of which 1 came and went away,")
    again = [party.come(1), party.come(2)]
    for process in (first, *again):
        process.result(20)


def test_two_processes_of_one_number_and_of_different_counts_are_refused():
    party = Party(3)
    ends = [party.come(0), party.come(1), party.come(1)]
    for process in ends:
        with pytest.raises(HostsError, match="process 1 is there twice, on .* and on .*--process"):
            process.result(20)
    party = Party(3)
    ends = [party.come(0), party.come(1, count=2)]
    for process in ends:
        with pytest.raises(HostsError, match="process 1 on .* is one of 2 processes, process 0 on"):
            process.result(20)


def greeted(party: Party, **changes) -> socket.socket:
    """A connection that has greeted as process 1 of this host and then says nothing."""
    fields = {"process": 1, "processes": party.count, "host": socket.gethostname(), "token": "old"}
    connection = socket.create_connection(("localhost", int(party.place.split(":")[1])))
    connection.sendall(rendezvous._line(**fields | changes))
    return connection


def test_a_host_that_lost_power_and_started_again_takes_its_old_place():
    party = Party(3)
    first = party.come(0)
    party.when(0, "2 of 3")
    with greeted(party), greeted(party) as old:  # the same process, connected again
        party.when(0, "1 of 3 processes (process 2)")
        again = party.come(1)
        party.when(1, "1 of 3 processes (process 2)")
        with contextlib.suppress(ConnectionError):
            while old.recv(4096):
                pass
        for process in (party.come(2), again, first):
            process.result(20)


def test_two_hosts_with_one_number_are_refused():
    party = Party(3)
    first = party.come(0)
    party.when(0, "2 of 3")
    with greeted(party, host="elsewhere"):
        party.when(0, "1 of 3 processes (process 2)")
        for process in (party.come(1), first):
            with pytest.raises(HostsError, match="process 1 is there twice, on elsewhere and on"):
                process.result(20)


def test_the_whole_time_limit_is_said():
    where = Address(f"localhost:{free_port()}", 2, 0)
    with pytest.raises(LostHostError, match=r"within 300 s \(--wait_seconds\)"):
        rendezvous.wait_for_all(where, 0.1, lambda *_: None, 300)


def test_strangers_do_not_count(monkeypatch):
    monkeypatch.setattr(rendezvous, "_ANSWER_SECONDS", 0.5)
    party = Party(2)
    first = party.come(0)
    party.when(0, "1 of 2")
    port = int(party.place.split(":")[1])
    with contextlib.ExitStack() as stack:
        for text in (
            b"",
            b"GET / HTTP/1.1\r\n\r\n",
            b'{"process": 1, "processes": 2}\n',
            b"[" * 70_000,
        ):
            stranger = stack.enter_context(socket.create_connection(("localhost", port)))
            with contextlib.suppress(OSError):
                stranger.sendall(text)
        stranger = stack.enter_context(socket.create_connection(("localhost", port)))
        stranger.settimeout(20)
        assert stranger.recv(1) == b""  # closed, for it said nothing
        assert not first.done()
    party.come(1).result(20)
    first.result(20)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\x12\x04"])
def test_another_program_at_the_port_is_named(answer):
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    connection.sendall(answer)
                    connection.close()

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(
            LostHostError, match="within 1 s .*: (another program answers|Connection)"
        ):
            rendezvous.wait_for_all(Address(f"localhost:{port}", 2, 1), 1, lambda *_: None)


def test_a_port_that_is_taken_is_refused(monkeypatch):
    monkeypatch.setattr(rendezvous, "_ANSWER_SECONDS", 0.3)
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            HostsError, match=rf"can't listen at \[::\]:{port} .*another one on all"
        ):
            rendezvous.wait_for_all(Address(f"localhost:{port}", 2, 0), 20, lambda *_: None)


def test_port_0_is_for_one_process_alone():
    with pytest.raises(HostsError, match="'h:0'; the port must be from 1 to 65535"):
        Address("h:0", 2, 0)
    Address("localhost:0", 1, 0)


def test_lines_while_it_waits(capsys):
    remind = rendezvous.Reminder(first=0.05, every=100)
    remind("process 0 at h:1", 299.4)
    time.sleep(0.06)
    for left in (298.6, 298.5):
        remind("process 0 at h:1", left)
    assert capsys.readouterr().out == "waiting for process 0 at h:1; gives up in 299 s\n"
    many = rendezvous._listed(range(1, 20), 20)
    assert many == "19 of 20 processes (processes 1, 2, 3, 4, 5, 6, 7, 8 and 11 more)"


SLURM = {
    "SLURM_JOB_ID": "12",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NODELIST": "node[07-10]",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}


@pytest.fixture
def environment(monkeypatch):
    for name in (*SLURM, *OPEN_MPI, *addresses.VARIABLES):
        monkeypatch.delenv(name, raising=False)
    return lambda variables: [monkeypatch.setenv(*item) for item in variables.items()]


def asked(seconds=0.0):
    return addresses.cluster_address(seconds, lambda text, left: None)


def test_the_address_that_a_cluster_gives(environment):
    assert asked() is None
    environment(SLURM)
    assert asked() == Address("node07:61452", 4, 2, (0,))
    environment({"JAX_COORDINATOR_ADDRESS": "10.0.0.2:8476"})
    assert asked() == Address("10.0.0.2:8476", 4, 2, (0,))


def test_the_address_that_open_mpi_gives(environment):
    environment(OPEN_MPI)
    where = asked()
    assert (where.host, where.processes, where.process) == ("10.96.0.1", 2, 1)
    assert where.local_device_ids == (1,)


@pytest.mark.parametrize(
    "variables, said",
    [
        ({**SLURM, "SLURM_NTASKS": "four"}, r"can't be read: .*'four'.*--processes=1 to run alone"),
        ({**SLURM, "SLURM_PROCID": "4"}, "process is 4; must be from 0 to 3"),
        ({**OPEN_MPI, "OMPI_MCA_orte_hnp_uri": "12.0;"}, "can't be read: .*coordinator IP address"),
        ({"OMPI_MCA_orte_hnp_uri": OPEN_MPI["OMPI_MCA_orte_hnp_uri"]}, "can't be read: KeyError"),
        ({"JAX_COORDINATOR_ADDRESS": "h:1"}, "no cluster says how many processes there are"),
    ],
)
def test_clusters_that_contradict_themselves_are_refused(environment, variables, said):
    environment(variables)
    with pytest.raises(HostsError, match=said):
        asked()


def test_a_name_that_no_name_service_knows_yet_is_asked_for_again(environment, monkeypatch):
    answers = [None, None, Address("worker-0:8482", 4, 1)]

    def ask():
        answer = answers.pop(0)
        if answer is None:
            raise RuntimeError("Failed to recognize coordinator address worker-0")
        return answer

    monkeypatch.setattr(addresses, "_ask_cluster", ask)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    texts = []
    where = addresses.cluster_address(20, lambda text, left: texts.append(text))
    assert where.coordinator == "worker-0:8482"
    assert texts == ["process 0: Failed to recognize coordinator address worker-0"] * 2
    answers[:] = [None]
    with pytest.raises(LostHostError, match="process 0 did not come within 0 s.*worker-0"):
        asked()
