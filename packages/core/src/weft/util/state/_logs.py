"""What workers wrote: files in their node's session directory.

Those of the node that is asked are read here, those of another one by its daemon.
"""

from __future__ import annotations

import codecs
import os
import re
from fnmatch import fnmatch
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from weft._launch import LOG_FILE
from weft._node.log_files import LogPart, LogPlace, path_of
from weft._runtime.tools import Tool
from weft._wire.codec import unpack
from weft.exceptions import SessionError
from weft.util.state._listing import Session
from weft.util.state._sources import name_of
from weft.util.state.common import DEFAULT_TIMEOUT_S
from weft.util.state.exception import ServerUnavailable, StateApiException

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from pathlib import Path
    from typing import BinaryIO, Self

DEFAULT_TAIL = 1000
_SUFFIXES = ("out", "err")
# ECMA-48, sections 5.3 to 5.6: a control sequence, a string up to its terminator (xterm also ends
# one with BEL), or one character more.
_CODE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-OQ-WYZ\\`-~])"
)
_CODE_CHARACTERS = 1000
_UNFINISHED_CODE = re.compile(
    rf"\x1b(?:\[[ -?]*|[\]PX^_][^\x07\x1b]{{0,{_CODE_CHARACTERS}}}\x1b?|[ -/]*)\Z"
)


class LogFile:
    """A file that the daemon appends to, and the one before it. Who has read closes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self._before = path.with_name(f"{path.name}.1")
        self._file: BinaryIO | None = None
        """Stays readable when the daemon begins another one, and when the session ends."""

    def tail(self, lines: int) -> bytes:
        """Return the last lines; -1: all that there are. `more` goes on from there."""
        self._file = _open(self.path)
        before = _open(self._before)
        whole = b""
        if before is not None:
            with before:
                # The daemon may have begun another one in this moment.
                if self._file is None or not _is_same(before, self._file):
                    whole = before.read()
        if self._file is not None:
            whole += self._file.read()
        if lines < 0:
            return whole
        return b"".join(whole.splitlines(keepends=True)[-lines:]) if lines else b""

    def more(self) -> bytes:
        """Return what was written since the last look."""
        newest = _open(self.path)
        rest = b"" if self._file is None else self._file.read()
        if newest is None:
            return rest
        if self._file is not None and _is_same(newest, self._file):
            newest.close()
            return rest
        self.close()
        self._file = newest
        return rest + newest.read()

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Let go of the file."""
        self.close()


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except OSError:
        return None


def _is_same(one: BinaryIO, other: BinaryIO) -> bool:
    return os.path.sameopenfile(one.fileno(), other.fileno())


class NodeLog:
    """A log file of another node, which that node's daemon reads."""

    def __init__(self, session: Session, node_id: str, name: str) -> None:
        self.node_id = node_id
        self.name = name
        self._session = session
        self._place = LogPlace()

    def tail(self, lines: int) -> bytes:
        """Return the last lines; -1: all that there are. `more` goes on from there."""
        return self._take(self._session.ask_node(self.node_id, "log_tail", [self.name, lines]))

    def more(self) -> bytes:
        """Return what was written since the last look."""
        parts: list[bytes] = []
        while True:
            question = [self.name, self._place]
            part = self._take(self._session.ask_node(self.node_id, "log_more", question))
            if not part:
                return b"".join(parts)
            parts.append(part)

    def _take(self, body: bytes) -> bytes:
        data, self._place = unpack(body, LogPart)
        return data

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: it holds nothing."""


Log = LogFile | NodeLog

# ------------------------------------------------------------------ which file


class LogSource(NamedTuple):
    """Where a session's log files are."""

    session: Session
    directory: str
    node_id: str
    """Of the node that is asked."""

    def log(self, node_id: str, name: str) -> Log:
        """Return a file of a node."""
        if node_id != self.node_id:
            return NodeLog(self.session, node_id, name)
        path = path_of(self.directory, name)
        if path is None:
            raise StateApiException(f"there is no log {name!r}")
        return LogFile(path)

    def worker_log(self, worker: WorkerPlace, suffix: str) -> Log:
        """Return the file that a worker's stdout (out) or stderr (err) is kept in."""
        return self.log(worker.node_id, f"worker-{worker.worker_id}.{suffix}")


class WorkerPlace(NamedTuple):
    """A worker, and its node."""

    node_id: str
    worker_id: str


def log_source(session: Session) -> LogSource:
    """Return where a session's log files are. StateApiException: it keeps none."""
    facts = session.ask("session")
    if not facts["session_dir"]:
        raise StateApiException("the inline engine keeps no logs: what runs prints here")
    return LogSource(session, facts["session_dir"], facts["node_id"])


def find_worker(
    session: Session,
    *,
    pid: int | None = None,
    actor_id: str | None = None,
    task_id: str | None = None,
    node_id: str | None = None,
) -> WorkerPlace:
    """Return the worker that is meant. StateApiException: none is known, or several."""
    if task_id is not None:
        task = session.tasks().find(task_id)
        if task is None or task.worker_id is None:
            raise StateApiException(f"no worker is known that has run task {task_id}")
        return WorkerPlace(task.node_id, task.worker_id)
    if actor_id is not None:
        for actor in session.actors():
            if actor.actor_id == actor_id and actor.worker_id and actor.node_id:
                return WorkerPlace(actor.node_id, actor.worker_id)
        for task in session.tasks().of_actor(actor_id):
            if task.worker_id:
                return WorkerPlace(task.node_id, task.worker_id)
        raise StateApiException(f"no worker is known that has been actor {actor_id}")
    found = [
        WorkerPlace(worker.node_id, worker.worker_id)
        for worker in session.workers()
        if worker.pid == pid
        and worker.worker_type == "WORKER"
        and node_id in (None, worker.node_id)
    ]
    if not found:
        raise StateApiException(f"no worker {pid} is known")
    # Of one node the first lives, or is the newest; each node counts its processes for itself.
    nodes = sorted({place.node_id for place in found})
    if len(nodes) > 1:
        raise StateApiException(
            f"worker {pid} is on several nodes: {', '.join(nodes)}; say which node is meant"
        )
    return found[0]


def find_node(session: Session, node_id: str | None, node_ip: str | None) -> str | None:
    """Return the id of the node that is meant; None: none was named. StateApiException: unknown."""
    if node_id is None and node_ip is None:
        return None
    for node in session.ask("nodes"):
        if node_id in (None, node["NodeID"]) and node_ip in (
            None, node["NodeManagerAddress"], node["Address"],
        ):  # fmt: skip
            return str(node["NodeID"])
    raise StateApiException(f"there is no node {node_id or node_ip}")


# ------------------------------------------------------------------ public functions


def list_logs(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    glob_filter: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_S,
) -> dict[str, list[str]]:
    """Return the names of all nodes' log files. Blocks as list_tasks does.

    Args:
        address: Of the session; see this module.
        node_id: Of one node only.
        node_ip: Likewise, by its IP address, or HOST:PORT where that is one of several.
        glob_filter: Only names that it matches, as a shell's pattern.
        timeout: Seconds that the session's daemon may take.

    Returns:
        Names by kind: worker_out, worker_err and daemon. What has written nothing has no file.

    Raises:
        ServerUnavailable: There is no session, or several, or its daemon does not answer.
        StateApiException: The session keeps no logs.
    """
    session = Session(address, timeout)
    log_source(session)
    names = sorted({name for _, name in _files(session, find_node(session, node_id, node_ip))})
    found: dict[str, list[str]] = {"worker_out": [], "worker_err": [], "daemon": []}
    for name in names:
        kind = "worker_err" if ".err" in name else "worker_out"
        found["daemon" if name == LOG_FILE else kind].append(name)
    return {
        kind: [name for name in group if glob_filter is None or fnmatch(name, glob_filter)]
        for kind, group in found.items()
    }


def _files(session: Session, node_id: str | None) -> list[tuple[str, str]]:
    """Return (node, name) of each log file."""
    if node_id is not None:
        names = msgspec.msgpack.decode(session.ask_node(node_id, "log_sizes"))
        return [(node_id, name) for name in names]
    return [
        (reply.node_id, name)
        for reply in session.ask_nodes("log_sizes", about="logs")
        for name in msgspec.msgpack.decode(reply.bodies[0])
    ]


def get_log(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    filename: str | None = None,
    actor_id: str | None = None,
    task_id: str | None = None,
    pid: int | None = None,
    follow: bool = False,
    tail: int = DEFAULT_TAIL,
    timeout: float = DEFAULT_TIMEOUT_S,
    suffix: str = "out",
    encoding: str = "utf-8",
    errors: str = "replace",
    filter_ansi_code: bool = False,
) -> Generator[str, None, None]:
    """Yield what a worker wrote: of a session that lives, for it takes its files with it.

    A worker's log is all that the process wrote, not only what one task did. It is bounded: of old
    lines the oldest go.

    Args:
        address: Of the session; see this module.
        node_id: The node whose file `filename` is, or whose worker `pid`.
        node_ip: Likewise, by its IP address, or HOST:PORT where that is one of several.
        filename: A name of list_logs. Of the daemons' own logs, that of the node that is asked.
        actor_id: The worker that is this actor, or was it last.
        task_id: The worker that ran this task.
        pid: The worker of this process id.
        follow: Go on with what is written, until the worker has ended, or the session.
        tail: How many of the last lines are the first; -1: all that are kept.
        timeout: Seconds that the session's daemon may take.
        suffix: out or err: stdout or stderr.
        encoding: Of the text.
        errors: What becomes of bytes that are none, as of bytes.decode.
        filter_ansi_code: Leave out what a terminal would obey, such as colours.

    Raises:
        ServerUnavailable: There is no session, or several, or its daemon does not answer.
        StateApiException: There is no such file or worker.
    """
    if suffix not in _SUFFIXES:
        raise StateApiException(f"suffix is out or err, not {suffix!r}")
    session = Session(address, timeout)
    source = log_source(session)
    node = find_node(session, node_id, node_ip)
    if filename is not None:
        log = source.log(_node_with(session, node, filename, source.node_id), filename)
    elif (pid, actor_id, task_id) == (None, None, None):
        raise StateApiException("which log: give filename, pid, actor_id or task_id")
    else:
        worker = find_worker(session, pid=pid, actor_id=actor_id, task_id=task_id, node_id=node)
        log = source.worker_log(worker, suffix)
    texts = (
        follow_log(log, source.directory, tail=tail, encoding=encoding, errors=errors)
        if follow
        else read_log(log, tail=tail, encoding=encoding, errors=errors)
    )
    return without_codes(texts) if filter_ansi_code else texts


def _node_with(session: Session, node_id: str | None, filename: str, here: str) -> str:
    """Return the node that has a file; the one that is asked, if it does."""
    files = _files(session, node_id)
    having = [node for node, name in files if name == filename]
    if not having:
        known = ", ".join(sorted({name for _, name in files}))
        raise StateApiException(f"there is no log {filename!r}; there are {known}")
    return here if here in having else having[0]


def read_log(
    log: Log, *, tail: int, encoding: str = "utf-8", errors: str = "replace"
) -> Generator[str, None, None]:
    """Yield a file's last lines."""
    with log:
        text = log.tail(tail).decode(encoding, errors)
    if text:
        yield text


def follow_log(
    log: Log,
    directory: str,
    *,
    tail: int,
    encoding: str = "utf-8",
    errors: str = "replace",
) -> Generator[str, None, None]:
    """Yield a file's last lines, and what comes, as long as there is somebody who may write.

    ServerUnavailable: the session is gone before it began.
    """
    decode = codecs.getincrementaldecoder(encoding)(errors).decode
    try:
        daemon = Tool(directory, None)
    except SessionError as error:
        raise ServerUnavailable(str(error)) from None
    with daemon, log:
        # In this order: what comes in between is looked for at once.
        written, is_over = _await_more(daemon, log, -1)
        text = decode(log.tail(tail), final=is_over)
        while True:
            if text:
                yield text
            if is_over:
                return
            written, is_over = _await_more(daemon, log, written)
            text = decode(log.more(), final=is_over)


def without_codes(texts: Iterable[str]) -> Generator[str, None, None]:
    """Yield texts without a terminal's codes, of which one may begin in one and end in the next."""
    begun = ""
    for text in texts:
        whole = begun + text
        begun = ""
        unfinished = _UNFINISHED_CODE.search(whole)
        if unfinished is not None:
            begun, whole = unfinished[0], whole[: unfinished.start()]
        plain = _CODE.sub("", whole)
        if plain:
            yield plain
    if begun:
        yield begun


def _await_more(daemon: Tool, log: Log, known: int) -> tuple[int, bool]:
    """Wait until more is written than is known; return how much, and whether that is all."""
    question = [log.name, known]
    try:
        if isinstance(log, LogFile):
            return unpack(daemon.ask("log", question), tuple[int, bool])
        (reply,) = daemon.ask_nodes(["log"], question, node_id=log.node_id, is_patient=True)
    except SessionError:
        return known, True  # The session has ended.
    except ValueError as error:
        raise ServerUnavailable(str(error)) from None
    if reply.silent:
        raise ServerUnavailable(f"{name_of(reply)}: {reply.silent}")
    return unpack(reply.bodies[0], tuple[int, bool])
