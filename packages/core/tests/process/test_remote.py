"""Programs on machines without a node: how they come, are cut off, sleep, and go."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import operator
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs

import weft
from weft._engine import current
from weft._node.finding import is_foreign
from weft._options import init_options
from weft._runtime import peers, remote, remote_contents, road
from weft._runtime.remote import join_remotely
from weft._serialize import pickling
from weft._transport.arrivals import Arrivals
from weft._transport.join import JoinString
from weft._wire import remote as wire
from weft._wire.remote import Releases
from weft._wire.version import WIRE, check_hello
from weft.cluster_utils import Cluster
from weft.exceptions import (
    ActorDiedError,
    AuthenticationError,
    EnvSetupError,
    GetTimeoutError,
    OptionError,
    OtherPythonError,
    SessionError,
)
from weft.job_config import JobConfig
from weft.util.state import list_jobs, list_objects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow
WAIT_S = 30.0


class Router:
    """What stands between a program and the head: it passes bytes on, and can be cut."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.is_cut = False
        self.passed = 0
        """Connections."""
        self.most_bytes = sys.maxsize
        """It cuts a connection that has brought so many."""
        self.passed_bytes = 0
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listening.getsockname()[1]
        self.other: dict[socket.socket, socket.socket] = {}
        self.wake_here, self.wake_there = socket.socketpair()
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listening, selectors.EVENT_READ)
        self.selector.register(self.wake_there, selectors.EVENT_READ)
        self.calls: list[Callable[[], None]] = []
        self.is_over = False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        while not self.is_over:
            for key, _ in self.selector.select():
                sock: Any = key.fileobj
                if sock is self.wake_there:
                    sock.recv(4096)
                    while self.calls:
                        self.calls.pop(0)()
                elif sock is self.listening:
                    self.take(sock.accept()[0])
                elif sock in self.other:
                    self.pass_on(sock)
        for sock in (*self.other, self.listening, self.wake_here, self.wake_there):
            sock.close()
        self.selector.close()

    def take(self, here: socket.socket) -> None:
        if self.is_cut:
            here.close()
            return
        self.passed += 1
        there = socket.create_connection(self.target)
        self.other[here], self.other[there] = there, here
        for sock in (here, there):
            self.selector.register(sock, selectors.EVENT_READ)

    def pass_on(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(1 << 16)
            if data:
                self.other[sock].sendall(data)
                self.passed_bytes += len(data)
                if self.passed_bytes < self.most_bytes:
                    return
                self.passed_bytes = 0
        except OSError:
            pass
        self.end(sock)

    def end(self, sock: socket.socket) -> None:
        for each in (sock, self.other.pop(sock)):
            self.other.pop(each, None)
            self.selector.unregister(each)
            each.close()

    def do(self, call: Callable[[], None]) -> None:
        done = threading.Event()
        self.calls += [call, done.set]
        self.wake_here.send(b"x")
        assert done.wait(WAIT_S)

    def cut(self, *, is_cut: bool = True) -> None:
        """End all connections; let none pass until it is whole again."""

        def now() -> None:
            self.is_cut = is_cut
            while self.other:
                self.end(next(iter(self.other)))

        self.do(now)

    def mend(self) -> None:
        def now() -> None:
            self.is_cut = False

        self.do(now)

    def close(self) -> None:
        self.is_over = True
        self.wake_here.send(b"x")
        self.thread.join()


@pytest.fixture
def cluster(roots: tuple[Path, Path]) -> Iterator[Cluster]:
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 2}) as found:
        yield found


@pytest.fixture
def router(cluster: Cluster) -> Iterator[Router]:
    join = JoinString.parse(cluster.address)
    found = Router((join.host, join.port))
    yield found
    found.close()


@pytest.fixture
def address(cluster: Cluster, router: Router) -> str:
    """The join string as it is behind the router: no node of this machine has it."""
    join = JoinString.parse(cluster.address)
    return structs.replace(join, host="localhost", port=router.port).format()


@pytest.fixture
def program(address: str) -> Iterator[None]:
    with weft.init(address=address):
        yield


def wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def deputies(cluster: Cluster) -> list[int]:
    """The processes that are deputies on the head."""
    found: list[int] = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (place / "cmdline").read_bytes().split(b"\0")
            if b"_node.deputy" in words and os.fsencode(cluster.head_node.session_dir) in words:
                found.append(int(place.name))
    return found


@weft.remote
def double(value: int) -> int:
    return 2 * value


@weft.remote
def fill(size_bytes: int) -> bytes:
    return b"x" * size_bytes


@weft.remote
class Count:
    def __init__(self, calls: int = 0) -> None:
        self.calls = calls

    @weft.method
    def add(self) -> int:
        self.calls += 1
        return self.calls


@weft.remote(num_returns="streaming")
def numbers(count: int) -> Iterator[int]:
    yield from range(count)


def engine() -> Any:
    return current.engine


def test_items_of_a_stream_that_have_come_are_fetched_together(
    program: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    nexts = wire.Nexts

    def counted(request: int, task_id: bytes) -> wire.Nexts:
        asked.append(request)
        return nexts(request, task_id)

    monkeypatch.setattr(wire, "Nexts", counted)
    generator = numbers.remote(100)
    weft.get(generator.completed())
    assert [weft.get(ref) for ref in generator] == list(range(100))
    assert len(asked) == 2, "the items, and the end"
    asked.clear()
    slow = numbers.options(_generator_backpressure_num_objects=1).remote(5)
    assert [weft.get(ref) for ref in slow] == list(range(5))
    assert len(asked) == 6, "one after the other"


def test_program_without_a_node_of_the_cluster_joins_from_afar(
    cluster: Cluster, address: str
) -> None:
    assert is_foreign(address)
    assert not is_foreign(cluster.address)
    with weft.init(address=address) as context:
        assert context["engine"] == "remote"
        assert context["node_id"] == cluster.head_node.node_id
        assert weft.get([double.remote(double.remote(number)) for number in range(10)]) == [
            4 * number for number in range(10)
        ]
    wait_until(lambda: not deputies(cluster))


def test_nothing_but_one_connection_is_kept(router: Router, program: None) -> None:
    counter = Count.remote()
    assert weft.get([counter.add.remote() for _ in range(100)])[-1] == 100
    pids = {os.getpid()}
    listening = [
        line
        for pid in pids
        for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
        if f":{router.port:04X} " in line and line.split()[3] == "01"
    ]
    assert len(listening) == 2  # Both ends of it are here.


def test_what_was_said_while_the_connection_was_cut_is_done_once(
    router: Router, program: None
) -> None:
    counter = Count.remote()
    assert weft.get(counter.add.remote()) == 1
    for number in range(5):
        router.cut()
        calls = [counter.add.remote() for _ in range(20)]
        router.mend()
        assert weft.get(calls, timeout=WAIT_S) == [2 + 20 * number + index for index in range(20)]


def test_value_arrives_whole_though_the_connection_breaks_on_the_way(
    router: Router, program: None
) -> None:
    value = os.urandom(20 * 1024 * 1024)
    passed = router.passed
    router.most_bytes = 4 * 1024 * 1024
    ref = weft.put(value)
    assert weft.get(ref) == value
    assert router.passed - passed > 8


def test_hundred_mebibytes_go_there_and_back(program: None) -> None:
    value = b"x" * (100 * 1024 * 1024)
    assert weft.get(weft.put(value)) == value


def test_what_the_job_may_take_goes_along(address: str) -> None:
    config = JobConfig(quota={"CPU": 1}, weight=3, priority=-1)
    with weft.init(address=address, job_config=config):
        (facts,) = list_jobs()
        assert facts.job_id == weft.get_runtime_context().get_job_id()
        assert (facts.quota, facts.weight, facts.priority) == ({"CPU": 1}, 3, -1)


def test_program_that_was_cut_off_for_too_long_is_told_so(
    cluster: Cluster, router: Router, address: str
) -> None:
    begun = join_remotely(init_options({"address": address}), patience_s=1.0)
    current.engine = begun
    try:
        ref = Count.remote().add.remote()
        assert weft.get(ref) == 1
        pending = double.remote(1)
        router.cut()
        with pytest.raises(SessionError, match="was not reached for"):
            weft.get(pending, timeout=WAIT_S)
        with pytest.raises(SessionError, match="was not reached for"):
            double.remote(1)
        wait_until(lambda: not deputies(cluster))
    finally:
        weft.shutdown()


def test_connection_that_says_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch, router: Router, address: str
) -> None:
    monkeypatch.setattr(road, "SIGN_S", 0.2)
    with weft.init(address=address):
        passed = router.passed
        held = threading.Event()
        router.calls.append(lambda: held.wait(2.0) and None)
        router.wake_here.send(b"x")
        ref = double.remote(4)
        held.wait(1.0)  # Silent, and not cut.
        held.set()
        assert weft.get(ref, timeout=WAIT_S) == 8
        wait_until(lambda: router.passed > passed)


def test_goodbye_of_a_program_that_is_cut_off_waits_for_nobody(
    monkeypatch: pytest.MonkeyPatch, router: Router, address: str
) -> None:
    monkeypatch.setattr(remote, "END_S", 1000.0)
    monkeypatch.setattr(road, "SIGN_S", 1000.0)
    with weft.init(address=address):
        assert weft.get(double.remote(1)) == 2
        router.cut()


def test_many_large_values_come_at_once(program: None) -> None:
    refs = [fill.remote(200_000 + number) for number in range(100)]
    assert [len(value) for value in weft.get(refs)] == [200_000 + number for number in range(100)]


def test_program_that_sleeps_while_it_is_cut_off_goes_on_where_it_was(
    router: Router, address: str
) -> None:
    code = """
import os, signal, sys, weft
weft.init(address=sys.argv[1])
@weft.remote
class Count:
    def __init__(self):
        self.calls = 0
    def add(self):
        self.calls += 1
        return self.calls
counter = Count.remote()
print(weft.get(counter.add.remote()), flush=True)
ref = counter.add.remote()
os.kill(os.getpid(), signal.SIGSTOP)
print(weft.get(ref), weft.get(counter.add.remote()), flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, address],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        router.cut(is_cut=False)
        process.send_signal(signal.SIGCONT)
        assert process.stdout.readline() == "2 3\n"
        assert process.wait(WAIT_S) == 0


def test_deputy_that_is_killed_is_told_in_a_line_at_once(
    monkeypatch: pytest.MonkeyPatch, cluster: Cluster, address: str
) -> None:
    # Nothing but the loss itself wakes who waits.
    monkeypatch.setattr(road, "SIGN_S", 1000.0)
    monkeypatch.setattr(road, "Arrivals", partial(Arrivals, patience_s=1000.0))
    with weft.init(address=address):
        ref = weft.put(1)
        (pid,) = deputies(cluster)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(SessionError, match=r"the driver for this program on .* is gone"):
            weft.get(double.remote(ref))


def test_program_that_is_killed_ends_when_its_deputy_has_lost_patience(
    cluster: Cluster, address: str
) -> None:
    code = """
import os, signal, sys, weft
from weft._options import init_options
from weft._runtime.remote import join_remotely
join_remotely(init_options({"address": sys.argv[1]}), patience_s=1.0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run(
        [sys.executable, "-c", code, address],
        check=False,
        timeout=WAIT_S,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert deputies(cluster)
    wait_until(lambda: not deputies(cluster))


def test_interrupt_ends_a_get_and_nothing_else(address: str) -> None:
    code = """
import sys, time, weft
@weft.remote
def sleep():
    time.sleep(60)
with weft.init(address=sys.argv[1]):
    ref = sleep.remote()
    try:
        print("waits", flush=True)
        weft.get(ref)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    weft.cancel(ref, force=True)
    print(weft.get(weft.put(3)), flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, address],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        assert process.stdout.readline() == "3\n"
        assert process.wait(WAIT_S) == 0


def test_release_too_far_from_the_heads_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr(peers, "WIRE", WIRE + 2)
    monkeypatch.setattr(road, "check_hello", lambda hello: check_hello(hello, WIRE + 2))
    with pytest.raises(SessionError, match=r"speaks wire version 1, this process 3"):
        weft.init(address=address)
    assert not weft.is_initialized()


def test_code_by_value_of_another_python_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, program: None
) -> None:
    monkeypatch.setattr(pickling, "PYTHON", "3.99")
    ref = weft.remote(lambda: 1).remote()
    with pytest.raises(OtherPythonError, match=r"comes by value from Python 3\.99"):
        weft.get(ref)
    assert weft.get(weft.remote(operator.add).remote(2, 3)) == 5


def test_head_that_is_not_there_is_told_in_a_line(cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    nobody = structs.replace(JoinString.parse(cluster.address), port=port).format()
    with pytest.raises(SessionError, match=f"no head answers at .*:{port}: Connection refused"):
        weft.init(address=nobody)
    nowhere = structs.replace(JoinString.parse(cluster.address), host="no.such.invalid").format()
    with pytest.raises(SessionError, match=r"at no\.such\.invalid:\d+: (Name|Temporary)"):
        weft.init(address=nowhere)
    assert not weft.is_initialized()


def test_no_address_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEFT_ADDRESS", raising=False)
    with pytest.raises(OptionError, match="engine='remote' of init needs address="):
        weft.init(engine="remote")


def test_wrong_token_and_wrong_cluster_are_told_in_a_line(address: str) -> None:
    join = JoinString.parse(address)
    with pytest.raises(AuthenticationError, match="token"):
        weft.init(address=structs.replace(join, token=bytes(16)).format())
    with pytest.raises(AuthenticationError, match="another cluster"):
        weft.init(address=structs.replace(join, fingerprint=bytes(32)).format())
    assert not weft.is_initialized()


def test_workers_print_at_the_program(address: str, capfd: pytest.CaptureFixture[str]) -> None:
    @weft.remote
    def say() -> None:
        print("said by a worker")
        print("and this to stderr", file=sys.stderr)

    with weft.init(address=address):
        weft.get(say.remote())
    out, err = capfd.readouterr()
    assert "said by a worker\n" in out
    assert "and this to stderr\n" in err


def test_references_that_a_program_drops_are_dropped_by_its_deputy(program: None) -> None:
    refs = [weft.put(b"x" * 200_000) for _ in range(5)]
    nested = weft.put([refs[0]])
    kept = refs.pop()
    del refs
    assert weft.get(weft.get(nested)[0]) == b"x" * 200_000
    table = engine()._objects.entries
    wait_until(lambda: set(table) == {bytes(nested._id), bytes(kept._id)})
    # That one of them lies inside another keeps it, though the program has dropped it.
    wait_until(lambda: len(list_objects()) == 3)


def test_values_are_awaited(program: None) -> None:
    async def all_of_them() -> list[int]:
        return await asyncio.gather(*[double.remote(number) for number in range(5)])

    assert asyncio.run(all_of_them()) == [0, 2, 4, 6, 8]


def test_get_that_is_too_late_says_how_many_are_missing(program: None) -> None:
    @weft.remote
    def sleep() -> None:
        time.sleep(WAIT_S)

    ref = sleep.remote()
    with pytest.raises(GetTimeoutError) as late:
        weft.get([ref, double.remote(1)], timeout=0.5)
    assert late.value.waiting in {1, 2}
    weft.cancel(ref, force=True)


@weft.remote
def look_around() -> tuple[str, int, str]:
    here = import_module("of_the_program").NAME
    return here, Path("data").stat().st_size, str(Path.cwd())


@pytest.fixture
def project(
    roots: tuple[Path, Path], address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A directory on the machine of a program, whose temporary directory is not the head's."""
    found = tmp_path / "project"
    found.mkdir()
    (found / "of_the_program.py").write_text("NAME = __name__\n")
    (found / "data").write_bytes(os.urandom(3_000_000))
    monkeypatch.setenv("WEFT_TEMP_DIR", str(tmp_path))
    yield found
    shutil.rmtree(roots[0] / f"weft-env-{os.getuid()}")


def test_files_of_an_environment_go_along(
    roots: tuple[Path, Path], address: str, project: Path
) -> None:
    with weft.init(address=address, runtime_env={"working_dir": str(project)}):
        project.rename(project.with_name("moved"))
        name, size_bytes, cwd = weft.get(look_around.remote(), timeout=WAIT_S)
        assert (name, size_bytes) == ("of_the_program", 3_000_000)
        assert Path(cwd).is_relative_to(roots[0])


def test_files_that_cannot_go_along_are_told_by_the_call_that_needs_them(
    monkeypatch: pytest.MonkeyPatch, project: Path, program: None
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "data")

    there = look_around.options(runtime_env={"working_dir": str(project)})
    with monkeypatch.context() as patch:
        patch.setattr(remote_contents, "give", refuse)
        with pytest.raises(EnvSetupError, match="the program: Permission denied: data"):
            there.remote()
    assert weft.get(there.remote(), timeout=WAIT_S)[:2] == ("of_the_program", 3_000_000)


def test_large_value_that_cannot_come_in_time_is_told_so(router: Router, program: None) -> None:
    ref = weft.put(b"x" * 1_000_000)
    router.cut()
    with pytest.raises(GetTimeoutError) as late:
        weft.get(ref, timeout=0)
    assert late.value.waiting == 1
    router.mend()
    assert len(weft.get(ref, timeout=WAIT_S)) == 1_000_000


@weft.remote
def call_add(count: Any) -> int:
    return weft.get(count.add.remote(), timeout=WAIT_S)


def test_actor_that_cannot_be_created_says_why_to_whoever_calls_it(program: None) -> None:
    lost = weft.put(1)
    with engine()._guard:
        engine()._talk.say(Releases([(bytes(lost._id), 1)], []))
    count = Count.remote(lost)
    why = f"{lost.hex()} is lost"
    for called in (count.add.remote(), call_add.remote(count)):
        with pytest.raises(ActorDiedError, match=why):
            weft.get(called, timeout=WAIT_S)


def test_two_programs_find_each_others_detached_actors(cluster: Cluster, address: str) -> None:
    with weft.init(address=address, namespace="both"):
        counter = Count.options(name="kept", lifetime="detached").remote()
        assert weft.get(counter.add.remote()) == 1
    with weft.init(address=cluster.address, namespace="both"):
        assert weft.get(weft.get_actor("kept").add.remote()) == 2
    with weft.init(address=address, namespace="both"):
        assert weft.get(weft.get_actor("kept").add.remote()) == 3
        weft.kill(weft.get_actor("kept"))
