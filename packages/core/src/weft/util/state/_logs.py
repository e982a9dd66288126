"""What workers wrote: files in the session's directory, which who asks reads himself."""

from __future__ import annotations

import codecs
import os
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from weft._launch import LOG_FILE, LOGS
from weft._runtime.tools import Tool
from weft._wire.codec import unpack
from weft.exceptions import SessionError
from weft.util.state._listing import Session
from weft.util.state.common import DEFAULT_TIMEOUT_S
from weft.util.state.exception import ServerUnavailable, StateApiException

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
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


# ------------------------------------------------------------------ which file


def log_directory(session: Session) -> Path:
    """Return where a session's log files are. StateApiException: it keeps none."""
    directory = session.ask("session")["session_dir"]
    if not directory:
        raise StateApiException("the inline engine keeps no logs: what runs prints here")
    return Path(directory)


def find_worker(
    session: Session,
    *,
    pid: int | None = None,
    actor_id: str | None = None,
    task_id: str | None = None,
) -> str:
    """Return the id of the worker that is meant. StateApiException: none is known."""
    if task_id is not None:
        task = session.tasks().find(task_id)
        if task is None or task.worker_id is None:
            raise StateApiException(f"no worker is known that has run task {task_id}")
        return task.worker_id
    if actor_id is not None:
        for actor in session.actors():
            if actor.actor_id == actor_id and actor.worker_id:
                return actor.worker_id
        for task in session.tasks().of_actor(actor_id):
            if task.worker_id:
                return task.worker_id
        raise StateApiException(f"no worker is known that has been actor {actor_id}")
    for worker in session.workers():
        if worker.pid == pid and worker.worker_type == "WORKER":
            return worker.worker_id
    raise StateApiException(f"no worker {pid} is known")


def worker_log(directory: Path, worker_id: str, suffix: str) -> LogFile:
    """Return the file that a worker's stdout (out) or stderr (err) is kept in."""
    return LogFile(directory / LOGS / f"worker-{worker_id}.{suffix}")


# ------------------------------------------------------------------ public functions


def list_logs(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    glob_filter: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_S,
) -> dict[str, list[str]]:
    """Return the names of a session's log files. Blocks as list_tasks does.

    Args:
        address: Of the session; see this module.
        node_id: One machine has one node.
        node_ip: As above.
        glob_filter: Only names that it matches, as a shell's pattern.
        timeout: Seconds that the session's daemon may take.

    Returns:
        Names by kind: worker_out, worker_err and daemon. What has written nothing has no file.

    Raises:
        ServerUnavailable: There is no session, or several, or its daemon does not answer.
        StateApiException: The session keeps no logs.
    """
    directory = log_directory(Session(address, timeout))
    logs = directory / LOGS
    names = sorted(path.name for path in logs.iterdir()) if logs.is_dir() else []
    found: dict[str, list[str]] = {"worker_out": [], "worker_err": [], "daemon": [LOG_FILE]}
    for name in names:
        found["worker_err" if ".err" in name else "worker_out"].append(name)
    return {
        kind: [name for name in group if glob_filter is None or fnmatch(name, glob_filter)]
        for kind, group in found.items()
    }


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
        node_id: One machine has one node.
        node_ip: As above.
        filename: A name of list_logs.
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
    directory = log_directory(session)
    if filename is not None:
        known = [name for group in list_logs(address, timeout=timeout).values() for name in group]
        if filename not in known:
            raise StateApiException(f"there is no log {filename!r}; there are {', '.join(known)}")
        log = LogFile(directory / ("" if filename == LOG_FILE else LOGS) / filename)
    elif (pid, actor_id, task_id) == (None, None, None):
        raise StateApiException("which log: give filename, pid, actor_id or task_id")
    else:
        worker = find_worker(session, pid=pid, actor_id=actor_id, task_id=task_id)
        log = worker_log(directory, worker, suffix)
    texts = (
        follow_log(log, directory, tail=tail, encoding=encoding, errors=errors)
        if follow
        else read_log(log, tail=tail, encoding=encoding, errors=errors)
    )
    return without_codes(texts) if filter_ansi_code else texts


def read_log(
    log: LogFile, *, tail: int, encoding: str = "utf-8", errors: str = "replace"
) -> Generator[str, None, None]:
    """Yield a file's last lines."""
    with log:
        text = log.tail(tail).decode(encoding, errors)
    if text:
        yield text


def follow_log(
    log: LogFile,
    directory: Path,
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
        daemon = Tool(str(directory), None)
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


def _await_more(daemon: Tool, log: LogFile, known: int) -> tuple[int, bool]:
    """Wait until more is written than is known; return how much, and whether that is all."""
    try:
        return unpack(daemon.ask("log", [log.path.name, known]), tuple[int, bool])
    except SessionError:
        return known, True  # The session has ended.
