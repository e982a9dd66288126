"""Runtime environments: made ready before a demand takes anything from the node.

An environment that only sets variables is ready at once. Any other is built by a process of its own, so that the daemon
never waits: `python -m weft._env.build` gets the environment as JSON on its command line and prints what to set in the
worker, as a JSON object of strings, on stdout. If it fails, the last lines of its stderr are the reason.

What is always true
1. An environment is built by at most one process at a time; all who want it wait for that one.
2. A failure is told to those who waited, and forgotten: the next demand tries again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import msgspec

from weft._node.output import Outputs, Pipe
from weft._transport.sockets import Poller

BUILDER = ("-m", "weft._env.build")
Prepared = Callable[[str], None]
"""Called with the reason of the failure, empty if the environment is ready."""


class _Spec(msgspec.Struct, forbid_unknown_fields=True):
    """An environment that only sets variables."""

    env_vars: dict[str, str] = {}


class _Build:
    __slots__ = ("err", "out", "pid", "pidfd", "printed", "waiting")

    def __init__(self, outputs: Outputs) -> None:
        self.pid = 0
        self.pidfd = -1
        self.printed = bytearray()
        self.out = Pipe(outputs, self.printed.extend)
        self.err = Pipe(outputs, lambda data: None)
        self.waiting: list[Prepared] = []


class Environments:
    """The environments of one node."""

    def __init__(self, poller: Poller, outputs: Outputs, builder: tuple[str, ...] = BUILDER) -> None:
        self._poller = poller
        self._outputs = outputs
        self._builder = builder
        self._variables_of: dict[str, dict[str, str]] = {"": {}}
        self._build_of: dict[str, _Build] = {}

    def variables(self, env: str) -> dict[str, str]:
        """Return what a worker of a ready environment gets."""
        return self._variables_of[env]

    def is_ready(self, env: str) -> bool:
        """Tell whether workers can start in it now."""
        if env not in self._variables_of:
            try:
                self._variables_of[env] = msgspec.json.decode(env, type=_Spec).env_vars
            except msgspec.MsgspecError:
                return False
        return True

    def prepare(self, env: str, prepared: Prepared) -> None:
        """Call back when the environment is ready or has failed."""
        build = self._build_of.get(env)
        if build is None:
            build = self._build_of[env] = _Build(self._outputs)
            self._start(env, build)
        build.waiting.append(prepared)

    def _start(self, env: str, build: _Build) -> None:
        out_fd, err_fd = build.out.open(), build.err.open()
        build.pid = os.posix_spawn(
            sys.executable,
            [sys.executable, *self._builder, env],
            {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            file_actions=[(os.POSIX_SPAWN_DUP2, out_fd, 1), (os.POSIX_SPAWN_DUP2, err_fd, 2)],
            setpgroup=0,
        )
        os.close(out_fd)
        os.close(err_fd)
        build.pidfd = os.pidfd_open(build.pid)
        self._poller.add(build.pidfd, lambda _: self._ended(env, build))

    def _ended(self, env: str, build: _Build) -> None:
        self._poller.remove(build.pidfd)
        os.close(build.pidfd)
        _, status = os.waitpid(build.pid, 0)
        for pipe in (build.out, build.err):
            pipe.drain()
            pipe.close()
        del self._build_of[env]
        reason = build.err.tail.text() if status else ""
        if not status:
            try:
                self._variables_of[env] = msgspec.json.decode(build.printed, type=dict[str, str])
            except msgspec.MsgspecError as error:
                reason = f"its builder answered what cannot be read: {error}"
        elif not reason:
            reason = f"its builder ended with code {os.waitstatus_to_exitcode(status)}"
        for prepared in build.waiting:
            prepared(reason)

    def pids(self) -> list[int]:
        """Return the builders that run; each leads a process group."""
        return [build.pid for build in self._build_of.values()]
