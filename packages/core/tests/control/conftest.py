"""A real etcd for the tests that need one."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START_S = 20.0
QUOTA_BYTES = 48 * 1024 * 1024


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
            f"--initial-cluster=test={peer_url}", f"--quota-backend-bytes={QUOTA_BYTES}",
            "--heartbeat-interval=50", "--election-timeout=250",
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=self._log, stderr=self._log)
        until = time.monotonic() + START_S
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
