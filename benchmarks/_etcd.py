"""An etcd of a benchmark's own: Debian's etcd-server, in a folder of its own."""

from __future__ import annotations

import http.client
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START_S = 20.0


@contextmanager
def etcd(folder: Path) -> Iterator[str]:
    """Have an etcd for the time of a block; give its HOST:PORT."""
    program = shutil.which("etcd")
    if program is None:
        raise SystemExit("there is no etcd here: Debian's etcd-server has it")
    client, peer = (f"127.0.0.1:{port}" for port in free_ports(2))
    command = [
        program, "--name=bench", f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls=http://{client}", f"--advertise-client-urls=http://{client}",
        f"--listen-peer-urls=http://{peer}", f"--initial-advertise-peer-urls=http://{peer}",
        f"--initial-cluster=bench=http://{peer}",
    ]  # fmt: skip
    with (folder / "etcd.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            until = time.monotonic() + START_S
            while not is_well(client):
                assert process.poll() is None, "etcd has ended"
                assert time.monotonic() < until, "etcd does not start"
                time.sleep(0.02)
            yield client
        finally:
            process.kill()
            process.wait()


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def is_well(address: str) -> bool:
    connection = http.client.HTTPConnection(address, timeout=1)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()
