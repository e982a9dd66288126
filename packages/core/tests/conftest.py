"""For every test: nothing is left behind, and hypothesis runs as it should here and in CI.

A test, a module and the whole run each compare what the process has before and after: threads,
descriptors, children, sessions' directories. While a session of Weft runs that an outer scope
started, what is its own comes and goes: threads, sockets, its loops' pollers, segments of shared
memory. So only the scope that is wider than the session sees those.
"""

from __future__ import annotations

import gc
import http.client
import os
import shutil
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import hypothesis
import psutil
import pytest

from weft import _engine, _settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Their asserts say what was compared, as a test's own do.
pytest.register_assert_rewrite("weft.testing")

# What ends by itself (a thread that was told to, a child that was killed) gets so long to do it.
END_S = 5.0

# How fast a test is depends on what else the machine does.
NOT_TIMED: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [hypothesis.HealthCheck.too_slow],
}
hypothesis.settings.register_profile("local", max_examples=50, **NOT_TIMED)
hypothesis.settings.register_profile(
    "ci", max_examples=100, database=None, derandomize=True, print_blob=True, **NOT_TIMED
)
hypothesis.settings.register_profile("thorough", max_examples=5000, **NOT_TIMED)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite",
        action="store_true",
        help="record what golden tests compare with; review the difference",
    )


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    """Whether goldens are recorded rather than compared with."""
    return bool(request.config.getoption("--rewrite"))


class Belongings(NamedTuple):
    """What a process has."""

    threads: frozenset[threading.Thread]
    children: frozenset[int]
    descriptors: frozenset[tuple[int, str]]
    """Number, and what it stands for."""
    directories: frozenset[str]
    """Of this process's sessions."""

    @classmethod
    def now(cls) -> Belongings:
        return cls(frozenset(threading.enumerate()), _children(), _descriptors(), _directories())

    def more_than(self, before: Belongings, *, in_session: bool) -> list[str]:
        """Describe what is here and was not; nothing that a running session has for itself."""
        return [
            *(
                f"thread {thread.name}"
                for thread in self.threads - before.threads
                if not (in_session and thread.name.startswith("weft"))
            ),
            *(f"process {_describe(pid)}" for pid in self.children - before.children),
            *(
                f"descriptor {fd}: {target}"
                for fd, target in sorted(self.descriptors - before.descriptors)
                if not (in_session and _is_of_session(target))
            ),
            *sorted(self.directories - before.directories),
        ]


def _children() -> frozenset[int]:
    try:
        # Quick where there are none: the usual case.
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return frozenset()
    return frozenset(child.pid for child in psutil.Process().children() if not _is_tracker(child))


def _is_tracker(child: psutil.Process) -> bool:
    """Tell whether this is multiprocessing's helper, which stays until this process ends."""
    try:
        return "multiprocessing.resource_tracker" in " ".join(child.cmdline())
    except psutil.Error:
        return False


def _describe(pid: int) -> str:
    try:
        child = psutil.Process(pid)
        return f"{pid} ({child.status()}): {' '.join(child.cmdline())}"
    except psutil.Error:
        return str(pid)


def _descriptors() -> frozenset[tuple[int, str]]:
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - for every test, so as quick as can be
        if int(name) < 3:
            continue  # pytest's own capturing changes what those stand for
        try:
            target = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115 - likewise
        except FileNotFoundError:
            continue  # of the listing itself
        if "/matplotlib/mpl-data/fonts/" not in target:  # It keeps those that it has drawn with.
            found.add((int(name), target))
    return frozenset(found)


def _is_of_session(target: str) -> bool:
    """Tell whether a session that runs in this process may have opened this for itself."""
    store = f"{_settings.STORE_ROOT.value()}/weft-{os.getuid()}/"
    return target.startswith(("socket:", "anon_inode:[eventpoll]", "anon_inode:[eventfd]")) or (
        target.startswith(store) and f"-{os.getpid():x}-" in target
    )


def _directories() -> frozenset[str]:
    mark = f"-{os.getpid():x}-"
    user = f"weft-{os.getuid()}"
    return frozenset(
        entry.path
        for root in (_settings.temp_root(), _settings.STORE_ROOT.value())
        if os.path.isdir(f"{root}/{user}")  # noqa: PTH112 - for every test, so as quick as can be
        for entry in os.scandir(f"{root}/{user}")
        if mark in entry.name
    )


def check_nothing_left(before: Belongings, what: str, *, in_session: bool) -> None:
    """Fail if the process has more than before, once what is about to end has ended."""
    if not Belongings.now().more_than(before, in_session=in_session):
        return
    gc.collect()
    for thread in set(threading.enumerate()) - before.threads:
        if not (in_session and thread.name.startswith("weft")):
            thread.join(END_S)
    left = Belongings.now().more_than(before, in_session=in_session)
    if left:
        pytest.fail(f"{what} left behind: {'; '.join(left)}", pytrace=False)


@pytest.fixture(autouse=True, scope="session")
def _run_leaves_nothing() -> Iterator[None]:
    before = Belongings.now()
    yield
    check_nothing_left(before, "the run", in_session=False)


@pytest.fixture(autouse=True, scope="module")
def _module_leaves_nothing(_run_leaves_nothing: None) -> Iterator[None]:
    before, session = Belongings.now(), _engine.current.engine
    yield
    if _engine.current.engine is session:
        check_nothing_left(before, "the module", in_session=session is not None)


@pytest.fixture(autouse=True)
def _test_leaves_nothing(_module_leaves_nothing: None) -> Iterator[None]:
    before, session = Belongings.now(), _engine.current.engine
    yield
    if session is not None and _engine.current.engine is not session:
        return  # it ended the session that it was given: the module's check sees what is left
    check_nothing_left(before, "the test", in_session=session is not None)


# ------------------------------------------------------------------ a real etcd

ETCD_START_S = 20.0
ETCD_QUOTA_BYTES = 48 * 1024 * 1024


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Etcd:
    """One etcd, in a folder of its own; it can be stopped for a while."""

    def __init__(self, binary: str, folder: Path) -> None:
        client, peer = free_ports(2)
        self.url = f"http://127.0.0.1:{client}"
        self.host = f"127.0.0.1:{client}"
        self._log = (folder / "log").open("ab")
        peer_url = f"http://127.0.0.1:{peer}"
        self._command = [
            binary, "--name=test", f"--data-dir={folder / 'data'}", "--logger=zap",
            f"--listen-client-urls={self.url}", f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls={peer_url}", f"--initial-advertise-peer-urls={peer_url}",
            f"--initial-cluster=test={peer_url}", f"--quota-backend-bytes={ETCD_QUOTA_BYTES}",
            "--heartbeat-interval=50", "--election-timeout=250",
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=self._log, stderr=self._log)
        until = time.monotonic() + ETCD_START_S
        while not self._is_well():
            assert self._process.poll() is None, "etcd has ended"
            assert time.monotonic() < until, "etcd does not start"
            time.sleep(0.02)

    def _is_well(self) -> bool:
        connection = http.client.HTTPConnection(self.host, timeout=1)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.client.OK
        except OSError:
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        self._log.close()


def etcd_program() -> str:
    """Return the program; without it the test is skipped, but not in CI."""
    found = shutil.which("etcd")
    if found is None:
        assert not os.environ.get("CI"), "CI tests with etcd: .ci/etcd installs it"
        pytest.skip("there is no etcd here: .ci/etcd installs it")
    return found


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """A real etcd for a module's tests."""
    server = Etcd(etcd_program(), tmp_path_factory.mktemp("etcd"))
    yield server
    server.close()


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[Etcd]:
    """A real etcd for a test that stops it."""
    folder = tmp_path / "etcd"
    folder.mkdir()
    server = Etcd(etcd_program(), folder)
    yield server
    server.close()
