"""A driver that starts a session and is then killed: run by test_node.py as a program."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from weft._launch import NodeOptions, caller_path, start_daemon
from weft._specs import Shape
from weft._transport.sockets import Poller, SocketConnection, connect
from weft._wire.messages import Demand, Granted, Hello, Message, Run
from weft._wire.version import WIRE


def main() -> None:
    started = start_daemon(
        node=NodeOptions(
            num_cpus=2, worker_entry="stand_in:main", sys_path=(sys.argv[1], *caller_path())
        )
    )
    poller = Poller()
    inbox: list[Message] = []
    daemon = SocketConnection(
        poller,
        connect(started.address),
        lambda _, messages: inbox.extend(messages),
        lambda *_: None,
    )

    def say(connection: SocketConnection, message: Message) -> None:
        connection.queue(message)
        connection.flush()

    say(daemon, Hello(WIRE, b"d" * 16, "", os.getpid(), "driver"))
    say(daemon, Demand(1, Shape(), 2, 0))
    while sum(isinstance(message, Granted) for message in inbox) < 2:
        poller.poll(1)
    granted = [message for message in inbox if isinstance(message, Granted)]
    for number, lease in enumerate(granted):
        worker = SocketConnection(poller, connect(lease.address), lambda *_: None, lambda *_: None)
        say(worker, Run(b"t" * 16, b"f" * 16, b"", name=f"child:{sys.argv[2]}.{number}"))
        say(worker, Run(b"t" * 16, b"f" * 16, b"", name="hang"))
    # A child that holds every connection open must not keep the session alive.
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    found = subprocess.run(
        ["ps", "-o", "pid=", "-s", str(started.process.pid)],
        capture_output=True,
        text=True,
        check=True,
    )
    print(child, started.process.pid, *found.stdout.split(), flush=True)
    time.sleep(60)


if __name__ == "__main__":
    main()
