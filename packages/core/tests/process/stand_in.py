"""A worker for the daemon's tests: it does what the name of a Run says, and is an actor that is
always ready.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import weft
from weft._transport.sockets import Poller, SocketConnection, SocketListener, connect
from weft._wire.messages import (
    ActorExit,
    ActorReady,
    BecomeActor,
    Blocked,
    Call,
    Done,
    Hello,
    Message,
    Quit,
    Run,
    Unblocked,
)
from weft._wire.version import WIRE

if TYPE_CHECKING:
    import socket


class StandIn:
    def __init__(self, worker_id: bytes, daemon_address: str, address: str) -> None:
        self.worker_id = worker_id
        self.page = Path(address[:-2] + ".page").open("r+b", buffering=0)  # noqa: SIM115
        self.poller = Poller()
        self.listener = SocketListener(self.poller, Path(address), self.accepted)
        self.actor = b""
        self.ends = False
        self.daemon = self.connection(connect(daemon_address))
        self.say(self.daemon, Hello(WIRE, worker_id, address, os.getpid(), "worker"))

    def connection(self, sock: socket.socket) -> SocketConnection:
        return SocketConnection(self.poller, sock, self.receive, self.lost)

    def accepted(self, sock: socket.socket) -> None:
        self.connection(sock)

    def say(self, connection: SocketConnection, message: Message) -> None:
        connection.queue(message)
        connection.flush()

    def lost(self, connection: SocketConnection, reason: str) -> None:
        if connection is self.daemon:
            self.ends = True

    def receive(self, connection: SocketConnection, messages: list[Message]) -> None:
        for message in messages:
            match message:
                case Quit():
                    self.ends = True
                case BecomeActor(meta):
                    self.actor = meta.actor_id
                    failed = b"no" if message.options.get("fails") else b""
                    self.say(self.daemon, ActorReady(self.actor, failed))
                case Run(task_id) | Call(task_id):
                    name = message.name
                    label = name.encode()
                    attempt = message.attempt.to_bytes(4, "little")
                    self.page.seek(0)
                    length = len(label).to_bytes(2, "little")
                    self.page.write(task_id + attempt + length + b"\0" + label)
                    self.do(*name.split(":", 1))
                    self.page.seek(20)
                    self.page.write(bytes(2))
                    self.say(connection, Done(task_id, [], 0.0, 0.0))

    def do(self, what: str, argument: str = "") -> None:
        match what:
            case "print":
                print(argument)
            case "lines":
                for index in range(int(argument)):
                    print(f"line {index}")
            case "error":
                print(argument, file=sys.stderr, flush=True)
            case "signal":
                os.kill(os.getpid(), int(argument))
            case "signal_loudly":
                print("last words", file=sys.stderr, flush=True)
                os.kill(os.getpid(), int(argument))
            case "exit":
                os._exit(int(argument))
            case "leave":
                self.say(self.daemon, ActorExit(self.actor, argument))
                self.ends = True
            case "heir":
                # Out of the worker's group, and with all that the worker had open.
                ready, tell = os.pipe()
                if (child := os.fork()) == 0:
                    os.setsid()
                    os.write(tell, b"!")
                    time.sleep(1000)
                os.read(ready, 1)
                Path(argument).write_text(str(child))
                self.say(self.daemon, ActorExit(self.actor, "it leaves an heir"))
                os._exit(4)
            case "child":
                child = subprocess.Popen(["sleep", "1000"])
                Path(argument).write_text(str(child.pid))
            case "stray":
                subprocess.Popen(["sh", "-c", "sleep 0.4; echo late"], start_new_session=True)
                os._exit(0)
            case "blocked":
                self.say(self.daemon, Blocked())
            case "unblocked":
                self.say(self.daemon, Unblocked())
            case "package":
                print(weft.__name__, weft.__file__, weft.__spec__, weft.remote)
            case "env":
                print(os.environ.get(argument))
            case "fault":
                signal.signal(signal.SIGSEGV, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hang":
                while True:
                    time.sleep(1000)


def main(worker_id: bytes, daemon_address: str, address: str) -> None:
    worker = StandIn(worker_id, daemon_address, address)
    while not worker.ends:
        worker.poller.poll(None)


def dies_at_start(worker_id: bytes, daemon_address: str, address: str) -> None:
    print("cannot start", file=sys.stderr)
    os._exit(7)
