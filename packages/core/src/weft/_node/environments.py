"""Runtime environments: made ready before a demand takes anything from the node.

An environment that only sets variables is ready at once. Any other is built by a process of its
own, so that the daemon never waits: it prints what to set in the worker, as a JSON object of
strings, on stdout. If it fails, the last lines of its stderr are the reason (`_env/build.py`).

It is forked from the daemon. In a cluster that has other threads, so there it is a fresh
interpreter (`_runtime/builder.py`), which takes a tenth of a second longer, and asks other nodes
for what this one has not.

What is always true
1. An environment is built by at most one process at a time; all who want it wait for that one.
2. A failure is told to those who waited, and forgotten: the next demand tries again.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec

from weft._env.jobs import JobEnvironment
from weft._env.spec import PLAIN, decode
from weft._launch import spawn
from weft._lazy import lazy
from weft._node.output import Outputs, Pipe

if TYPE_CHECKING:
    from weft._env import build
    from weft._transport.sockets import Poller
else:
    build = lazy("weft._env.build")

# A worker gets its variables in one packet.
PLAIN_BYTES = 32 * 1024
Builder = Callable[[str, str], int]
"""Runs in a process of its own: builder(env, session_dir) returns the exit code."""
Prepared = Callable[[str], None]
"""Called with the reason of the failure, empty if the environment is ready."""


class _Spec(msgspec.Struct, forbid_unknown_fields=True):
    """An environment that only sets variables."""

    env_vars: dict[str, str] = {}
    job: JobEnvironment | None = None


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

    def __init__(
        self,
        poller: Poller,
        outputs: Outputs,
        session_dir: str,
        builder: Builder | None = None,
        *,
        may_fork: bool = True,
    ) -> None:
        """`may_fork`: this process has one thread."""
        self._may_fork = may_fork
        self._poller = poller
        self._outputs = outputs
        self._session_dir = session_dir
        self._builder = builder
        self._variables_of: dict[str, dict[str, str]] = {"": {}}
        """Of those that were built, and of none."""
        self._build_of: dict[str, _Build] = {}

    def variables(self, env: str) -> dict[str, str]:
        """Return what a worker of a ready environment gets."""
        built = self._variables_of.get(env)
        if built is not None:
            return built
        plain = _plain_variables(env)
        assert plain is not None, "it was built, or needs no building"
        return plain

    def is_ready(self, env: str) -> bool:
        """Tell whether workers can start in it now."""
        return env in self._variables_of or _plain_variables(env) is not None

    def prepare(self, env: str, prepared: Prepared) -> None:
        """Call back when the environment is ready or has failed."""
        made = self._build_of.get(env)
        if made is None:
            made = self._build_of[env] = _Build(self._outputs)
            self._start(env, made)
        made.waiting.append(prepared)

    def prepare_early(self, env: str, prepared: Prepared) -> None:
        """Prepare the session's own environment ahead of demand, unless it says not to."""
        if self.is_ready(env):
            prepared("")
        elif decode(env).get("config", {}).get("eager_install", True):
            self.prepare(env, prepared)

    def _start(self, env: str, made: _Build) -> None:
        fds = (made.out.open(), made.err.open())
        if self._may_fork:
            made.pid = os.fork()
            if not made.pid:
                _be_builder(self._builder or build.main, env, self._session_dir, fds)
            os.setpgid(made.pid, made.pid)
        else:
            made.pid = _spawn_builder(env, self._session_dir, fds)
        for fd in fds:
            os.close(fd)
        made.pidfd = os.pidfd_open(made.pid)
        self._poller.add(made.pidfd, lambda _: self._ended(env, made))

    def _ended(self, env: str, made: _Build) -> None:
        self._poller.remove(made.pidfd)
        os.close(made.pidfd)
        _, status = os.waitpid(made.pid, 0)
        for pipe in (made.out, made.err):
            pipe.drain()
            pipe.close()
        del self._build_of[env]
        reason = made.err.tail.text() if status else ""
        if not status:
            try:
                self._variables_of[env] = msgspec.json.decode(made.printed, type=dict[str, str])
            except msgspec.MsgspecError as error:
                reason = f"its builder answered what cannot be read: {error}"
        elif not reason:
            reason = f"its builder ended with code {os.waitstatus_to_exitcode(status)}"
        for prepared in made.waiting:
            prepared(reason)

    def pids(self) -> list[int]:
        """Return the builders that run; each leads a process group."""
        return [made.pid for made in self._build_of.values()]


def _plain_variables(env: str) -> dict[str, str] | None:
    """Return the variables of an environment that has nothing else; None: it has.

    Nothing is kept of these: a program may have as many as it has tasks.
    """
    if len(env) > PLAIN_BYTES:
        return None
    try:
        return {**msgspec.json.decode(env, type=_Spec).env_vars, PLAIN: env}
    except msgspec.MsgspecError:
        return None


def _spawn_builder(env: str, session_dir: str, fds: tuple[int, int]) -> int:
    """Start a builder that shares nothing with this process; return its process id."""
    # Not among its arguments: they can be seen by others, and are limited.
    path = Path(session_dir, f"env-{os.urandom(8).hex()}")
    path.write_text(env, "utf-8")
    words = ("_runtime.builder", session_dir, path.name, *map(str, fds))
    return spawn(*words, fds=fds, output_fd=fds[1])


def _be_builder(builder: Builder, env: str, session_dir: str, fds: tuple[int, int]) -> NoReturn:
    """Build, in the daemon's child."""
    code = 1
    try:
        os.setpgid(0, 0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for fd, target in zip(fds, (1, 2), strict=True):
            os.dup2(fd, target)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        code = builder(env, session_dir)
    except BaseException:  # noqa: BLE001 - the outermost frame of the process
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)
