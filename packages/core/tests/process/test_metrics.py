"""Metrics of real sessions: what processes that come and go have counted, and who may read it."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import sys
import time
from collections import defaultdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

import weft
from weft.util.metrics import Counter, Gauge, Histogram, export

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from weft import ClientContext

pytestmark = pytest.mark.slow
names = map("process_metric_{}".format, count())
WAIT_S = 20.0


@pytest.fixture
def name() -> str:
    return next(names)


@pytest.fixture
def session() -> Iterator[ClientContext]:
    with weft.init(num_cpus=2, resources={"gate": 1}) as context:
        yield context


Told = dict[tuple[str, tuple[str, ...]], float]


def told(text: str = "", parse: Any = parser) -> Told:
    """Return what is told: (name, values of its labels in the order of their names) -> value."""
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in parse.text_string_to_metric_families(text or export())
        for sample in family.samples
    }


def soon(is_so: Callable[[Told], bool]) -> Told:
    """Ask until it is so: processes end, and workers come, in their own time."""
    until = time.monotonic() + WAIT_S
    while not is_so(found := told()):
        assert time.monotonic() < until, found
    return found


# ------------------------------------------------------------------ processes come and go


@weft.remote(num_cpus=0)
class Counting:
    def __init__(self, name: str) -> None:
        self.counter = Counter(name)
        self.gauge = Gauge(f"{name}_gauge")
        self.histogram = Histogram(f"{name}_histogram", boundaries=[1])

    def add(self, amount: float) -> int:
        self.counter.inc(amount)
        self.gauge.set(amount)
        self.histogram.observe(amount)
        return os.getpid()

    def add_and_leave(self, amount: float) -> None:
        self.add(amount)
        weft.actor.exit_actor()

    def add_and_die(self, amount: float) -> None:
        self.add(amount)
        os.kill(os.getpid(), signal.SIGKILL)


def test_killed_worker_loses_what_it_counted_since_the_last_scrape_and_no_more(
    session: ClientContext, name: str
) -> None:
    first, second = Counting.remote(name), Counting.remote(name)
    weft.get([first.add.remote(5), second.add.remote(3)])
    assert told()[f"{name}_total", ()] == 8
    weft.get(first.add.remote(0.5))
    assert told()[f"{name}_gauge", ()] == 0.5
    with pytest.raises(weft.exceptions.ActorDiedError):
        weft.get(first.add_and_die.remote(100))
    found = told()
    assert found[f"{name}_total", ()] == 8.5
    assert found[f"{name}_gauge", ()] == 3, "of those that live"
    assert found[f"{name}_histogram_count", ()] == 3
    assert found[f"{name}_histogram_sum", ()] == 8.5
    weft.kill(second)
    found = soon(lambda found: (f"{name}_gauge", ()) not in found)
    assert found[f"{name}_total", ()] == 8.5
    assert found[f"{name}_histogram_bucket", ("1.0",)] == 1


def test_worker_that_ends_by_itself_loses_nothing(session: ClientContext, name: str) -> None:
    actor = Counting.remote(name)
    with pytest.raises(weft.exceptions.ActorDiedError):
        weft.get(actor.add_and_leave.remote(7))
    found = soon(lambda found: (f"{name}_gauge", ()) not in found)
    assert found[f"{name}_total", ()] == 7


def test_workers_for_one_task_each_lose_nothing(session: ClientContext, name: str) -> None:
    @weft.remote(max_calls=1)
    def once() -> None:
        Counter(name).inc()

    weft.get([once.remote() for _ in range(10)])
    soon(lambda found: found[f"{name}_total", ()] == 10)


def test_exit_hooks_may_count(session: ClientContext, name: str) -> None:
    @weft.remote(max_calls=1)
    def once() -> None:
        import atexit  # noqa: PLC0415 - in the worker

        counter = Counter(name)
        atexit.register(counter.inc)

    weft.get(once.remote())
    soon(lambda found: found.get((f"{name}_total", ())) == 1)


def test_process_that_does_not_answer_stands_with_its_last_numbers(
    session: ClientContext, name: str
) -> None:
    busy, other = Counting.remote(name), Counting.remote(name)
    pid, _ = weft.get([busy.add.remote(5), other.add.remote(1)])
    assert told()[f"{name}_total", ()] == 6
    os.kill(pid, signal.SIGSTOP)
    try:
        weft.get(other.add.remote(2))
        began = time.monotonic()
        found = told()
        assert time.monotonic() - began >= 0.9, "it was waited for"
    finally:
        os.kill(pid, signal.SIGCONT)
    assert found[f"{name}_total", ()] == 8
    assert found["weft_process_resident_memory_bytes", ("worker",)] > 0
    weft.get(busy.add.remote(10))
    assert told()[f"{name}_total", ()] == 18


def test_metric_that_is_declared_otherwise_elsewhere_is_left_out_and_told(
    session: ClientContext, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    counter = Counter(name)
    counter.inc(3)
    told()

    @weft.remote
    def other() -> None:
        Gauge(name).set(1)

    weft.get([other.remote() for _ in range(4)])
    for _ in range(3):
        assert told()[f"{name}_total", ()] == 3
        assert (name, ()) not in told()
    weft.shutdown()  # which shows all that was written
    err = capfd.readouterr().err
    assert err.count("left out of the metrics") == 1
    assert f"{name!r}" in err


def test_what_a_preloaded_module_counts_is_not_told_for_each_worker(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(tmp_path, "counts_early.py").write_text(
        f"from weft.util.metrics import Counter\ncounter = Counter({name!r})\ncounter.inc(1000)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    @weft.remote
    def task() -> None:
        sys.modules["counts_early"].counter.inc()

    with weft.init(num_cpus=2, preload=["counts_early"]):
        weft.get([task.remote() for _ in range(5)])
        assert told()[f"{name}_total", ()] == 5


def test_metrics_outlive_a_session_and_need_none(name: str) -> None:
    counter = Counter(name)
    counter.inc()
    with pytest.raises(weft.exceptions.SessionError):
        export()
    for amount in (2, 3):
        with weft.init(num_cpus=1):
            counter.inc()
            assert told()[f"{name}_total", ()] == amount


# ------------------------------------------------------------------ the runtime's own


def test_runtime_tells_of_tasks_actors_workers_and_objects(session: ClientContext) -> None:
    @weft.remote(num_cpus=0)
    class Gate:
        async def wait(self) -> None:
            import asyncio  # noqa: PLC0415 - in the worker

            await asyncio.Event().wait()

        def fail(self) -> None:
            raise ArithmeticError

    @weft.remote
    def take(value: object) -> None: ...

    gate = Gate.remote()
    weft.get(take.remote(1))
    refs = [gate.fail.remote(), take.remote(gate.wait.remote())]
    with pytest.raises(ArithmeticError):
        weft.get(refs[0])
    held = take.options(resources={"gate": 1}).remote(gate.wait.remote())
    found = soon(lambda found: found["weft_actors", ("alive",)] == 1)
    assert found["weft_tasks", ("call", "sent")] == 2
    assert found["weft_tasks", ("task", "waiting")] == 2
    assert found["weft_tasks_ended_total", ("call", "failed")] == 1
    assert found["weft_tasks_ended_total", ("task", "ok")] == 1
    assert found["weft_objects", ("owner",)] >= 4
    assert found["weft_resources", ("gate", "free")] == 1
    assert sum(found["weft_workers", (s,)] for s in ("idle", "leased", "starting", "ending")) >= 1
    assert found["weft_leases", ("bound",)] >= 1
    assert found["weft_workers_wanted", ()] == 0
    del held


def test_runtime_tells_who_waits_for_what(session: ClientContext) -> None:
    @weft.remote(resources={"gate": 1})
    def block() -> None:
        time.sleep(1000)

    refs = [block.remote(), block.remote()]
    found = soon(lambda found: found["weft_tasks", ("task", "sent")] == 1)
    assert found["weft_tasks", ("task", "ready")] == 1
    assert found["weft_workers_wanted", ()] == 1
    assert found["weft_resources", ("gate", "used")] == 1
    for ref in refs:
        weft.cancel(ref, force=True)
    soon(lambda found: found["weft_tasks_ended_total", ("task", "failed")] == 2)


def test_runtime_tells_of_memory_processors_and_traffic(session: ClientContext) -> None:
    @weft.remote
    def work() -> int:
        until = time.process_time() + 0.1
        while time.process_time() < until:
            pass
        return os.getpid()

    ref = weft.put(bytes(8 << 20))
    cpu = "weft_process_cpu_seconds_total", ("worker",)
    traffic = "weft_read_bytes_total", ("worker",)
    before = soon(lambda found: cpu in found and traffic in found)
    assert before["weft_store_memory_bytes", ()] >= 8 << 20
    pids = set(weft.get([work.remote() for _ in range(2)]))
    found = told()
    for process in ("daemon", "driver", "template", "worker"):
        assert found["weft_process_resident_memory_bytes", (process,)] > 1 << 20
        assert found["weft_process_cpu_seconds_total", (process,)] > 0
    assert found[cpu] > before[cpu] + 0.15
    for way in ("read", "sent"):
        for unit in ("bytes", "messages"):
            for process in ("daemon", "driver", "worker"):
                key = f"weft_{way}_{unit}_total", (process,)
                assert found[key] > before[key] > 0
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    resident = "weft_process_resident_memory_bytes", ("worker",)
    after = soon(lambda now: now.get(resident, 0.0) != found[resident])
    assert after[cpu] >= found[cpu], "of workers that are gone it is kept"
    del ref


def test_names_are_as_prometheus_advises(session: ClientContext) -> None:
    families = {
        family.name: family
        for family in parser.text_string_to_metric_families(export())
        if family.name.startswith("weft_")
    }
    assert len(families) >= 14
    for family in families.values():
        assert family.documentation.endswith(".")
        unit = family.name.rpartition("_")[2]
        assert ("emory" in family.name) <= (unit == "bytes")
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
            assert sample.labels.keys() <= {
                "function",
                "limit",
                "step",
                "state",
                "kind",
                "outcome",
                "process",
                "resource",
                "role",
            }


# ------------------------------------------------------------------ who reads


class UnixConnection(http.client.HTTPConnection):
    """As curl --unix-socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=WAIT_S)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WAIT_S)
        self.sock.connect(self.path)


def get(
    connection: http.client.HTTPConnection, path: str = "/metrics", **headers: str
) -> tuple[int, str, str]:
    """Return (status, type, text)."""
    connection.request("GET", path, headers=headers)
    with connection.getresponse() as response:
        text = response.read().decode()
        found = response.status, response.headers["Content-Type"], text
    connection.close()
    return found


def socket_of(session: ClientContext) -> UnixConnection:
    return UnixConnection(f"{session['session_dir']}/metrics")


def test_socket_of_the_session_tells_all(session: ClientContext, name: str) -> None:
    Counter(name).inc(2)
    status, kind, text = get(socket_of(session))
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert told(text)[f"{name}_total", ()] == 2
    # Workers come meanwhile, and with them labels.
    assert {key[0] for key in told(text)} == {key[0] for key in told()}


def test_socket_tells_openmetrics_if_that_is_accepted(session: ClientContext, name: str) -> None:
    Counter(name).inc(2)
    accepts = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
    status, kind, text = get(socket_of(session), Accept=accepts)
    assert (status, kind) == (200, "application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert told(text, openmetrics_parser)[f"{name}_total", ()] == 2


def test_socket_is_for_this_user_alone(session: ClientContext) -> None:
    assert Path(session["session_dir"], "metrics").stat().st_mode & 0o777 == 0o600


def test_bad_requests_and_idle_readers_leave_the_session_as_it_is(
    session: ClientContext, name: str
) -> None:
    idle = [socket_of(session) for _ in range(5)]
    for connection in idle:
        connection.connect()
    assert get(socket_of(session), "/other")[0] == 404
    garbage = socket_of(session)
    garbage.connect()
    garbage.sock.sendall(os.urandom(100) + b"\r\n\r\n" * 3000)
    assert garbage.sock.recv(100).startswith(b"HTTP/1.1 4")
    garbage.close()
    assert get(socket_of(session))[0] == 200
    assert weft.get(weft.remote(lambda: 1).remote()) == 1
    for connection in idle:
        connection.close()


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        number: int = free.getsockname()[1]
    monkeypatch.setenv("WEFT_METRICS_PORT", str(number))
    return number


def listening(port: int) -> set[str]:
    """Return the addresses, as the kernel writes them, at which this port listens."""
    found = defaultdict(set)
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        address, _, number = local.rpartition(":")
        if state == "0A":
            found[int(number, 16)].add(address)
    return found[port]


def test_port_is_opened_if_asked_for_and_closed_with_the_session(port: int, name: str) -> None:
    for _ in range(2):
        with weft.init(num_cpus=1) as session:
            Counter(name).inc()
            assert listening(port) == {"0100007F"}, "127.0.0.1 alone"
            status, _, text = get(http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S))
            assert status == 200
            # A worker may have come in between.
            names = {key[0] for key in told(text)}
            assert names <= {key[0] for key in told(get(socket_of(session))[2])}
        assert listening(port) == set()


def test_host_of_the_port_can_be_set(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_METRICS_HOST", "127.0.0.2")
    with weft.init(num_cpus=1):
        assert listening(port) == {"0200007F"}
        assert get(http.client.HTTPConnection("127.0.0.2", port, timeout=WAIT_S))[0] == 200


def test_port_in_use_is_told_by_init_and_nothing_is_started(port: int) -> None:
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(weft.exceptions.OptionError, match=f"WEFT_METRICS_PORT={port}.*in use"),
    ):
        weft.init(num_cpus=1)
    with weft.init(num_cpus=1):
        assert listening(port)


@pytest.mark.parametrize(
    ("setting", "value", "word"),
    [
        ("WEFT_METRICS_PORT", "many", "many"),
        ("WEFT_METRICS_PORT", "65536", "65535"),
        ("WEFT_METRICS_HOST", "256.0.0.1", "256.0.0.1"),
    ],
)
def test_setting_that_means_nothing_is_told_by_init(
    port: int, setting: str, value: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(setting, value)
    with pytest.raises(ValueError, match=f"WEFT_METRICS_PORT.*{word}"):
        weft.init(num_cpus=1)
