"""The template: a process of one thread that has imported what workers need and forks them.

It is forked from the daemon before that has any state, so the two share the pages of the
interpreter and of the wire format; one that takes the place of another is a fresh interpreter. It
reads Fork (one packet each, with the descriptors of the
worker's stdout and stderr) and answers Forked; when a worker ends it answers Reaped.

What is always true
1. It has one thread of its own, and never imports grpc or opens a device.
2. Every worker leads a process group and dies with the template; the template dies with the daemon.
3. What is left of a worker's process group is killed before the worker is reaped, while its number
   cannot be taken.

Facts about fork: the child has the parent's signal handlers, wakeup descriptor, open files and
buffered output. `random` gives itself a new seed in the child; numpy's global generator does not.
`gc.freeze` moves all objects to a generation that no collection visits, so their pages stay shared.

Facts about oom_score_adj: everybody may raise it, to lower it takes a privilege. Children inherit
it.

Facts about PR_SET_PDEATHSIG: the signal comes when the parent's thread ends that forked; the
setting is not inherited by children, and the parent may have died before it was made.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import faulthandler
import gc
import importlib
import importlib.util
import os
import resource
import select
import signal
import site
import socket
import sys
import threading
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from weft import _settings
from weft._env import activation
from weft._env.spec import BUILT, FAILED_SUFFIX
from weft._launch import NODE_FILE, SYS_PATH_FILE, NodeFile
from weft._transport import outside
from weft._wire.codec import decode, encode
from weft._wire.frame import HEADER_BYTES
from weft._wire.messages import Fork, Forked, Message, Preload, Reaped

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PR_SET_PDEATHSIG = 1
# A Fork carries a worker's environment variables; a packet cannot be larger than the socket's
# buffer.
PACKET_BYTES = 256 * 1024
# In thousandths of the memory that there is: so much more than it does a worker seems to take.
OOM_SCORE = 500
# Of what a worker says of an environment that it could not enter.
FAILED_CHARACTERS = 32 * 1024
# What every worker of a cluster imports: that its driver has a job makes an environment.
_IN_CLUSTERS = ("weft._env.cache", "weft._runtime.copies")
# What an interpreter that a worker executes runs: modules are found where the driver finds them,
# after its own.
_RESUME = """
import sys
with open(sys.argv[1], encoding="utf-8", errors="surrogateescape") as file:
    sys.path[:] = dict.fromkeys(place for place in [*sys.path, *file.read().split(chr(0))] if place)
from weft._node.template import resume
resume(*sys.argv[2:])
"""


def serve(sock: socket.socket, daemon_pid: int, node: NodeFile) -> NoReturn:
    """Run the template; also the life of every worker that it forks. Never returns."""
    die_with_parent(daemon_pid)
    if node.with_site:
        run_site()
    run_package()
    resolve(node.options.worker_entry)
    if node.cluster is not None:
        outside.prepare(node.cluster.credentials)
        preload(_IN_CLUSTERS)
    if not _settings.are_threads_set():
        # Each of as many workers as there are CPUs would otherwise start as many threads.
        _settings.set_threads(1)
    preload(node.options.preload)
    fork, fds = _Template(sock).run()
    # From here on this process is a worker; the template's frames are gone.
    address = f"{node.session_dir}/{fork.worker_id.hex()}.s"
    _live(fork, fds, node.address, address, node.options.worker_entry)


def run(session_dir: str, fd: str, daemon_pid: str) -> NoReturn:
    """Be a template that takes the place of another one."""
    node = msgspec.json.decode(Path(session_dir, NODE_FILE).read_bytes(), type=NodeFile)
    serve(socket.socket(fileno=int(fd)), int(daemon_pid), node)


def die_with_parent(parent_pid: int) -> None:
    """Let the kernel kill this process when its parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def run_site() -> None:
    """Do what an interpreter does as it starts: `site`'s names, import hooks of `.pth` files."""
    known = list(sys.path)
    site.main()
    sys.path[:] = known


def run_package() -> None:
    """Run the `__init__` of the package, which the process began without (see __main__.py)."""
    package = sys.modules["weft"]
    if package.__spec__ is not None:
        return
    places = list(package.__path__)
    spec = importlib.util.spec_from_file_location(
        "weft", f"{places[0]}/__init__.py", submodule_search_locations=places
    )
    assert spec is not None
    assert spec.loader is not None
    package.__spec__, package.__loader__ = spec, spec.loader
    package.__file__, package.__package__ = spec.origin, "weft"
    spec.loader.exec_module(package)


def preload(names: Sequence[str]) -> None:
    """Import what workers need. A module that fails is told by the task that imports it."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:  # noqa: BLE001 - user code
            print(f"weft: preload={name!r} failed", file=sys.stderr)  # noqa: T201
            traceback.print_exc()


def resolve(entry: str) -> Callable[..., Any]:
    """Return the function that `module:name` names."""
    module, _, name = entry.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


class _Template:
    """The loop of the template."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._wake_in, self._wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> tuple[Fork, list[int]]:
        """Serve until the daemon is gone; return only in a forked worker."""
        signal.signal(signal.SIGCHLD, _ignore)
        signal.set_wakeup_fd(self._wake_out, warn_on_full_buffer=False)
        gc.collect()
        gc.freeze()
        waiter = select.poll()
        waiter.register(self._sock, select.POLLIN)
        waiter.register(self._wake_in, select.POLLIN)
        while True:
            for fd, _ in waiter.poll():
                if fd == self._wake_in:
                    os.read(self._wake_in, 4096)
                    self._reap()
                else:
                    forked = self._receive()
                    if forked is not None:
                        return forked

    def _receive(self) -> tuple[Fork, list[int]] | None:
        packet, fds, _, _ = socket.recv_fds(self._sock, PACKET_BYTES, 2)
        if not packet:
            os._exit(0)
        for message in decode(packet[HEADER_BYTES:]):
            match message:
                case Fork():
                    if self._fork(message):
                        return message, fds
                case Preload(modules):
                    preload(modules)
                    gc.collect()
                    gc.freeze()
                case _:
                    raise TypeError(f"the template does not understand {message!r}")
        for fd in fds:
            os.close(fd)
        return None

    def _fork(self, fork: Fork) -> bool:
        """Fork; True in the child."""
        sys.stdout.flush()
        sys.stderr.flush()
        template_pid = os.getpid()
        pid = os.fork()
        if pid:
            self._tell(Forked(fork.worker_id, pid))
            return False
        os.setpgid(0, 0)
        die_with_parent(template_pid)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._sock.close()
        os.close(self._wake_in)
        os.close(self._wake_out)
        return True

    def _reap(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            pid = ended.si_pid
            # It may have led no group, or the group may be gone.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            limit_bytes, _ = resource.prlimit(pid, resource.RLIMIT_AS)
            _, status, usage = os.wait4(pid, 0)
            self._tell(Reaped(pid, status, usage.ru_maxrss * 1024, limit_bytes))

    def _tell(self, message: Message) -> None:
        try:
            self._sock.send(encode([message]))
        except OSError:
            os._exit(0)


def _ignore(signal_number: int, frame: object) -> None:
    """Do nothing: the signal's arrival is read from the wakeup descriptor."""


def be_killed_first() -> None:
    """Let the kernel, where memory runs out, choose this process before the driver and the daemon.

    What a worker does can be done again. But a process that itself takes half of the memory more
    is chosen all the same.
    """
    place = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):  # There is none, or it is not for us to change.
        if int(place.read_text()) < OOM_SCORE:
            place.write_text(str(OOM_SCORE))


def _live(fork: Fork, fds: list[int], daemon_address: str, address: str, entry: str) -> NoReturn:
    """Be a worker, from its first moment to its exit."""
    for fd, target in zip(fds, (1, 2), strict=True):
        os.dup2(fd, target)
        os.close(fd)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    reseed = getattr(sys.modules.get("numpy.random"), "seed", None)
    if reseed is not None:
        reseed()
    be_killed_first()
    _work(fork, daemon_address, address, entry, is_fresh=False)


def resume(worker_id: str, daemon_address: str, address: str, entry: str, setup: str) -> NoReturn:
    """Go on being a worker, in an interpreter that it has executed for its environment."""
    fork = Fork(bytes.fromhex(worker_id), {BUILT: setup})
    _work(fork, daemon_address, address, entry, is_fresh=True)


def _execute(
    interpreter: list[str], fork: Fork, daemon_address: str, address: str, entry: str, setup: str
) -> None:
    """Become another interpreter: the process, its number and its pipes stay. Never returns."""
    path_file = str(Path(address).with_name(SYS_PATH_FILE))
    words = (path_file, fork.worker_id.hex(), daemon_address, address, entry, setup)
    command = [*interpreter, "-c", _RESUME, *words]
    activation.attempt(
        f"interpreter={interpreter[0]!r}", partial(os.execvp, interpreter[0], command)
    )


def _work(fork: Fork, daemon_address: str, address: str, entry: str, *, is_fresh: bool) -> NoReturn:
    """Enter the environment and run the worker, to the end of the process."""
    code = 0
    try:
        faulthandler.enable()
        interpreter, setup = activation.enter(fork.env, is_fresh=is_fresh)
        if interpreter:
            _execute(interpreter, fork, daemon_address, address, entry, setup)
        resolve(entry)(fork.worker_id, daemon_address, address)
        threading._shutdown()  # type: ignore[attr-defined] # as the interpreter's own exit does
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except activation.EntryError as error:
        # The daemon tells it to those who wait for such a worker. Printed, it would come once for
        # each worker that tries.
        words = str(error)[:FAILED_CHARACTERS]
        Path(address).with_suffix(FAILED_SUFFIX).write_text(words, errors="backslashreplace")
        code = 1
    except BaseException:  # noqa: BLE001 - the outermost frame of the process
        traceback.print_exc()
        code = 1
    finally:
        try:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
