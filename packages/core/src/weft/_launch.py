"""Start a node's daemon: its directories, its listening socket, its process.

The caller makes the session directory, binds and listens the daemon's socket, and hands the
descriptor to the new process. So a connection can be made at once, while the daemon's interpreter
still starts; nothing is polled.

    <temp root>/weft-<uid>/<session>/   0700  lock node.json sys.path daemon.log, d (the socket),
                                              metrics (a socket), <worker>.s (its socket)
                                              <worker>.page, logs/ (what workers wrote)
                                              in a cluster cluster.json, pid (the daemon's),
                                              doors (a socket), credentials/
    <store root>/weft-<uid>/<session>/  0700  lock, segments
                                              (in the other one, below `segments`, where the store
                                              root is too small)

Where objects are spilled to, the daemon makes another of these (_node/spilling.py).

What is always true
1. A session's directories appear under their final names with their locks held; the daemon, and
   nobody else, holds them until it ends. A directory whose lock is free is a leftover, and every
   new daemon removes those.
2. The daemon leads its own session of processes: a Ctrl-C on the caller's terminal does not reach
   it.
3. Only the listed descriptors pass to the daemon, and only in the child: other threads may fork
   meanwhile.

Facts about flock: the lock belongs to the open file, which parent and child share; it is free when
the last of them closes it or is gone, for whatever reason.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec

from weft import _settings
from weft._clock import wall
from weft._exits import amount
from weft._resources import JobLimits
from weft._transport.addresses import DAEMON_SOCKET, Home
from weft.exceptions import OptionError

# The kernel's bound on the path of a unix socket is 108 bytes with the closing zero.
SOCKET_PATH_BYTES = 107
_LONGEST_NAME_BYTES = 36
METRICS_SOCKET = "metrics"
LOCK = "lock"
NODE_FILE = "node.json"
CLUSTER_FILE = "cluster.json"
PID_FILE = "pid"
SYS_PATH_FILE = "sys.path"
LOG_FILE = "daemon.log"
LOGS = "logs"
LAST_LINES = 40
# With less than this shared memory is of no use. Containers give 64 MiB if nobody says otherwise.
LEAST_STORE_BYTES = 128 * 1024 * 1024


class NodeOptions(msgspec.Struct, frozen=True):
    """What a node is to be; travels to the daemon as JSON."""

    num_cpus: int | None = None
    """None: as many as this process may use."""
    num_gpus: int | None = None
    """None: as many as are found."""
    resources: dict[str, float] = {}
    labels: dict[str, str] = {}
    object_store_memory: int | None = None
    """Bytes; None: 30 % of the memory, at most nine tenths of what the store's root has free."""
    namespace: str = ""
    preload: tuple[str, ...] = ()
    """Modules that the template imports before it forks workers."""
    worker_entry: str = "weft._runtime.worker:main"
    """Called in each worker: main(worker_id, daemon_address, address)."""
    log_to_driver: bool = True
    sys_path: tuple[str, ...] = ()
    """Empty: the caller's."""
    runtime_env: str = ""
    """As canonical JSON; empty for none."""
    temp_dir: str | None = None
    logging: str = ""
    """A LoggingConfig for workers, as JSON; empty for none."""
    limits: JobLimits = JobLimits()
    """What its driver's job may take."""
    prestart: int | None = None
    """Workers to start ahead of demand; None: one a CPU."""


class ClusterFile(msgspec.Struct, frozen=True):
    """What a node of a cluster, and each process of it, has to know of that."""

    node: str
    """HOST:PORT by which other nodes reach this one."""
    credentials: str
    """The folder that holds token, certificate and key."""
    control: str
    """HOST:PORT of the head, where the control service is."""
    is_head: bool = False
    journal: str = ""
    """Of the head: where the control service keeps its journal; empty: in the session."""
    standby: bool = False
    """Of a head: another one has the control service, and this one takes over if that dies."""


def is_journal_shared(journal: str) -> bool:
    """Tell whether other heads can have the same journal, so that the control service may move."""
    return journal.startswith(("etcd:", "etcds:"))


class NodeFile(msgspec.Struct, frozen=True):
    """What the daemon reads when it starts."""

    options: NodeOptions
    session: str
    session_dir: str
    store_dir: str
    address: str
    parent_pid: int
    """Of the process with which the daemon ends; 0: in a cluster it ends when it is told to."""
    lifeline_pid: int
    """Of a process with which the daemon ends, though that is no driver of its; 0: none."""
    listen_fd: int
    lock_fds: tuple[int, int]
    with_site: bool
    """The caller's interpreter has run `site`: so is that of the workers to."""
    metrics_fds: tuple[int, ...] = ()
    """A socket that listens on a port, if WEFT_METRICS_PORT asks for one."""
    cluster: ClusterFile | None = None
    """None: a machine alone."""
    gate_fds: tuple[int, ...] = ()
    """A socket that listens on the node's port, in a cluster."""

    @property
    def home(self) -> Home:
        """Where processes of this node are found."""
        return home_of(self.session_dir, self.cluster)


def home_of(session_dir: str, cluster: ClusterFile | None) -> Home:
    """Return where processes of a node are found."""
    return Home(session_dir, cluster.node if cluster is not None else "")


def read_cluster(session_dir: str) -> ClusterFile | None:
    """Return what processes of a node know of its cluster; None: a machine alone."""
    try:
        return msgspec.json.decode(Path(session_dir, CLUSTER_FILE).read_bytes(), type=ClusterFile)
    except FileNotFoundError:
        return None


class DaemonProcess:
    """A child process of this process."""

    __slots__ = ("_exit_code", "pid")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._exit_code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code (negative: the signal), or None while it lives. Does not block."""
        if self._exit_code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                # Not ours any more: this process was forked, or SIGCHLD is ignored.
                self._exit_code = 0
            else:
                if pid:
                    self._exit_code = os.waitstatus_to_exitcode(status)
        return self._exit_code

    def wait(self, timeout_s: float) -> int | None:
        """Wait for its end; None: time is up."""
        if self.poll() is None:
            try:
                pidfd = os.pidfd_open(self.pid)
            except ProcessLookupError:
                return self.poll()
            try:
                waiter = select.poll()
                waiter.register(pidfd, select.POLLIN)
                waiter.poll(max(0.0, timeout_s) * 1000)
            finally:
                os.close(pidfd)
        return self.poll()

    def kill(self) -> None:
        """Kill it, if it lives."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class Started(NamedTuple):
    """A daemon that is starting; `address` takes connections already."""

    session: str
    session_dir: str
    store_dir: str
    address: str
    process: DaemonProcess
    warning: str
    """What the user should know, in a line; empty for nothing."""

    def last_words(self) -> str:
        """Return the end of the daemon's log, for an error message; empty if that is gone."""
        return last_words(self.session_dir)


def last_words(session_dir: str) -> str:
    """Return the end of the log of a session's daemon; empty if that is gone."""
    try:
        lines = Path(session_dir, LOG_FILE).read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-LAST_LINES:]).strip()


class ClaimedSession(NamedTuple):
    """A session's directory, locked for the daemon that is to come."""

    name: str
    directory: str
    lock_fd: int


def claim_session(node: NodeOptions) -> ClaimedSession:
    """Make a session's directory. OSError: it cannot be made."""
    name = f"{int(wall()):x}-{os.getpid():x}-{os.urandom(3).hex()}"
    root = _session_root(node)
    claimed = ClaimedSession(name, *make_session_dir(root, name))
    if node.temp_dir is not None and root != session_root():
        # Where programs and commands look for it.
        Path(_own_root(), name).symlink_to(claimed.directory)
    return claimed


def start_daemon(
    *,
    node: NodeOptions,
    cluster: ClusterFile | None = None,
    gate_fds: tuple[int, ...] = (),
    claimed: ClaimedSession | None = None,
    lifeline_pid: int = 0,
) -> Started:
    """Start a node's daemon; do not wait for it.

    Args:
        node: What it is to be.
        cluster: What it is a part of; None: it belongs to this process, and ends with it.
        gate_fds: In a cluster: the socket that listens on the node's port. It stays the caller's.
        claimed: The session, if it is claimed already; the daemon's from here on.
        lifeline_pid: In a cluster: a process with which the node ends; 0: none.

    Raises:
        OSError: A directory cannot be made; then nothing was started.
        OptionError: Nobody can listen on WEFT_METRICS_PORT; then nothing was started.
    """
    metrics_fds = _listen_for_metrics()
    try:
        fds = (metrics_fds, gate_fds)
        return _start(claimed or claim_session(node), node, fds, cluster, lifeline_pid)
    finally:
        for fd in metrics_fds:
            os.close(fd)


def _start(
    claimed: ClaimedSession,
    node: NodeOptions,
    listening: tuple[tuple[int, ...], tuple[int, ...]],
    cluster: ClusterFile | None,
    lifeline_pid: int,
) -> Started:
    metrics_fds, gate_fds = listening
    session, session_dir, session_lock = claimed
    store_dir, store_lock, warning = _make_store_dir(node, session_dir)
    address = f"{session_dir}/{DAEMON_SOCKET}"
    log_flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    log_fd = _above_stdio(os.open(f"{session_dir}/{LOG_FILE}", log_flags, 0o600))
    listen_fd = _above_stdio(_listen(address))
    fds = (listen_fd, session_lock, store_lock)
    try:
        sys_path = node.sys_path or caller_path()
        Path(session_dir, SYS_PATH_FILE).write_text("\0".join(sys_path), "utf-8", "surrogateescape")
        file = NodeFile(
            options=node,
            session=session,
            session_dir=session_dir,
            store_dir=store_dir,
            address=address,
            parent_pid=os.getpid() if cluster is None else 0,
            lifeline_pid=lifeline_pid,
            listen_fd=listen_fd,
            lock_fds=(session_lock, store_lock),
            with_site=not sys.flags.no_site,
            metrics_fds=metrics_fds,
            cluster=cluster,
            gate_fds=gate_fds,
        )
        if cluster is not None:
            Path(session_dir, CLUSTER_FILE).write_bytes(msgspec.json.encode(cluster))
        Path(session_dir, NODE_FILE).write_bytes(msgspec.json.encode(file))
        pid = spawn(
            "_node.boot", session_dir, fds=(*fds, *metrics_fds, *gate_fds), output_fd=log_fd
        )
        if cluster is not None:
            Path(session_dir, PID_FILE).write_text(str(pid), "ascii")
    finally:
        for fd in (log_fd, *fds):
            os.close(fd)
    return Started(session, session_dir, store_dir, address, DaemonProcess(pid), warning)


def _make_store_dir(node: NodeOptions, session_dir: str) -> tuple[str, int, str]:
    """Make the directory of segments; return its path, its lock, and what to tell the user."""
    root = _settings.STORE_ROOT.value()
    parent = user_root(root)
    free_bytes, wanted_bytes = room_bytes(parent), node.object_store_memory
    if free_bytes >= (LEAST_STORE_BYTES if wanted_bytes is None else wanted_bytes):
        return *make_session_dir(parent, Path(session_dir).name), ""
    store_dir, lock = make_session_dir(session_dir, "segments")
    wanted = (
        f"the {amount(LEAST_STORE_BYTES)} that it should have"
        if wanted_bytes is None
        else f"the {amount(wanted_bytes)} of object_store_memory"
    )
    warning = (
        f"{root} has {amount(free_bytes)} free, less than {wanted}: objects are kept on disk, "
        f"in {store_dir}, which is slower; start the container with more (--shm-size), pass a "
        f"smaller object_store_memory, or set {_settings.STORE_ROOT.name}"
    )
    return store_dir, lock, warning


def room_bytes(directory: str) -> int:
    """Return how much there is room for in a directory."""
    state = os.statvfs(directory)
    return state.f_bavail * state.f_frsize


def user_root(parent: str, name: str = "weft") -> str:
    """Return this user's directory under `parent`. PermissionError: it is someone else's."""
    root = f"{parent}/{name}-{os.getuid()}"
    Path(root).mkdir(mode=0o700, parents=True, exist_ok=True)
    status = os.lstat(root)
    if status.st_uid != os.getuid() or Path(root).is_symlink():
        raise PermissionError(f"{root} belongs to another user: set {_settings.TEMP_DIR.name}")
    if status.st_mode & 0o077:
        Path(root).chmod(0o700)
    return root


def session_root() -> str:
    """Return where this user's sessions are that were given no directory; it may not exist."""
    parent = str(Path(_settings.temp_root()).absolute())
    return f"{parent if _is_short(parent) else '/tmp'}/weft-{os.getuid()}"  # noqa: S108 - short, and there on every Linux


def _is_short(parent: str) -> bool:
    """Tell whether sockets of sessions under this directory have names that the kernel takes."""
    root = f"{parent}/weft-{os.getuid()}"
    longest = len(os.fsencode(root)) + 2 + _LONGEST_NAME_BYTES + len(f"/{'0' * 32}.s")
    return longest <= SOCKET_PATH_BYTES


def caller_path() -> tuple[str, ...]:
    """Return where this process finds modules, for a process of ours."""
    here = str(Path.cwd())
    return tuple(dict.fromkeys(entry or here for entry in sys.path))


def _own_root() -> str:
    return user_root(str(Path(session_root()).parent))


def _session_root(node: NodeOptions) -> str:
    if node.temp_dir is None:
        return _own_root()
    parent = str(Path(node.temp_dir).absolute())
    if not _is_short(parent):
        raise OSError(f"{parent} is too long for unix sockets: choose a shorter directory")
    return user_root(parent)


def make_session_dir(root: str, session: str) -> tuple[str, int]:
    """Make a session's directory and lock it; it appears locked. Return its path and the lock."""
    unborn = f"{root}/.{session}"
    Path(unborn).mkdir(mode=0o700, exist_ok=True)
    lock_fd = _above_stdio(os.open(f"{unborn}/{LOCK}", os.O_RDWR | os.O_CREAT, 0o600))
    fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    path = f"{root}/{session}"
    Path(unborn).rename(path)
    return path, lock_fd


def _listen(address: str) -> int:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(address)
    Path(address).chmod(0o600)
    listener.listen(1024)
    return listener.detach()


def _listen_for_metrics() -> tuple[int, ...]:
    """Return a socket on the port that WEFT_METRICS_PORT asks for; nothing if it asks for none."""
    port, host = _settings.METRICS_PORT.value(), _settings.METRICS_HOST.value()
    if not port:
        return ()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        why = "it is in use" if error.errno == errno.EADDRINUSE else error
        raise OptionError(
            f"{_settings.METRICS_PORT.name}={port}: metrics cannot be told at {host}, port {port}: "
            f"{why}. Give another, or none: they are always at the session's socket "
            f"{METRICS_SOCKET!r}"
        ) from None
    return (_above_stdio(listener.detach()),)


def _above_stdio(fd: int) -> int:
    """Move a descriptor out of the way of the child's stdin, stdout and stderr.

    A program that has closed its own gets their numbers for the next files that it opens.
    """
    if fd > 2:
        return fd
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return moved


def spawn(
    module: str, session_dir: str, *arguments: str, fds: tuple[int, ...], output_fd: int
) -> int:
    """Start `run(session_dir, *arguments)` of a module of Weft in a fresh interpreter.

    It gets `fds` under the same numbers, and writes to `output_fd`. Returns its process id.
    """
    main = str(Path(__file__).with_name("_node") / "__main__.py")
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, output_fd, 1),
        (os.POSIX_SPAWN_DUP2, output_fd, 2),
        # A descriptor that is copied to itself loses close-on-exec, in the child alone.
        *((os.POSIX_SPAWN_DUP2, fd, fd) for fd in fds),
    ]
    return os.posix_spawn(
        sys.executable,
        # No site: the search path is known, so the interpreter starts in 6 ms instead of 9.
        [sys.executable, *_interpreter_flags(), "-S", "-P", main, module, session_dir, *arguments],
        _settings.for_children(),
        file_actions=actions,
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD),
    )


def _interpreter_flags() -> list[str]:
    """Return the options of this interpreter that workers should have too."""
    flags = ["-" + "O" * sys.flags.optimize] if sys.flags.optimize else []
    if sys.flags.dont_write_bytecode:
        flags.append("-B")
    if sys.flags.dev_mode:
        flags += ["-X", "dev"]
    elif sys.flags.utf8_mode:
        flags += ["-X", "utf8"]
    for option in sys.warnoptions:
        flags += ["-W", option]
    return flags
