"""The journal of an experiment: one record a line, only ever appended to.

The first line is the header, each other a `JournalEntry`: an event and what was decided at it. On
a local disk it is one file, written record by record; a killed driver loses nothing, for what was
written is the kernel's. Elsewhere it is a directory of numbered segments, each of which is written
again with more in it until it is full; a killed driver loses what came after the last `flush`, a
second or so.

What is always true
1. One process at a time has it open for writing: the file is locked; elsewhere a lease says who,
   and is renewed while the process lives.
2. What was read was written whole: a last record that is torn is dropped, and overwritten.

What it does not do: it does not survive a loss of power to the last record.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from weft.tune._records import JournalEntry
from weft.tune._storage import writing
from weft.tune.error import ExperimentInUseError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from weft.tune._storage import LocalStorage, RemoteStorage, Storage

logger = logging.getLogger("weft.tune")

VERSION = 1
FILE = "journal.jsonl"
SEGMENTS = "journal"
_LEASE = "journal.lease"
# Large enough that a year has few of them, small enough to be written again every second.
SEGMENT_BYTES = 256 * 1024
FLUSH_S = 1.0
# A driver that hangs, or a clock that is off, by less does not lose its lease.
LEASE_S = 60.0
_RENEW_S = 15.0

_encoder = msgspec.json.Encoder()


class Header(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an experiment is, as it was begun."""

    experiment: str
    trainable: str
    prefix: str
    """With which the trials' ids begin."""
    seed: int = 0
    """Of the search."""
    metric: str | list[str] | None = None
    mode: str | list[str] | None = None
    parameters: list[str] = []
    """The names at the top of the search space."""
    begun_at: float = 0.0
    journal: int = VERSION


class Journal(Protocol):
    """Open for writing."""

    def begin(self, header: Header) -> None:
        """Write the first record."""
        ...

    def append(self, entry: JournalEntry) -> None:
        """Write a record. StorageError: it could not be written."""
        ...

    def flush(self) -> None:
        """Write what is not yet written, if it is time."""
        ...

    def close(self) -> None:
        """Write everything, and let another process have it. Idempotent."""
        ...


class Past:
    """What a journal holds.

    Attributes:
        header: None: nothing was ever written.
    """

    def __init__(self, header: Header | None, lines: list[bytes]) -> None:
        self.header = header
        self._lines = lines

    def __len__(self) -> int:
        return len(self._lines)

    def entries(self) -> Iterator[JournalEntry]:
        """Yield the records, the oldest first. StorageError: one cannot be read."""
        decoder = msgspec.json.Decoder(JournalEntry)
        for number, line in enumerate(self._lines, 2):
            try:
                yield decoder.decode(line)
            except msgspec.MsgspecError as error:
                raise StorageError(
                    f"line {number} of the journal cannot be read: {error}"
                ) from None


def read(storage: Storage) -> Past:
    """Return what an experiment's journal holds; it may be open elsewhere."""
    past, _, _ = _parse(_content(storage), storage.path)
    return past


def is_there(storage: Storage) -> bool:
    """Tell whether an experiment was begun here."""
    return (FILE if storage.is_local else SEGMENTS) in storage.names()


def open_journal(storage: Storage) -> tuple[Journal, Past]:
    """Open an experiment's journal for writing.

    Raises:
        ExperimentInUseError: Another process has it open.
        StorageError: The storage cannot be written, or the journal cannot be read.
    """
    with writing(storage):
        if storage.is_local:
            return FileJournal.open(storage)
        return SegmentJournal.open(storage)


def _content(storage: Storage) -> bytes:
    if storage.is_local:
        try:
            return storage.read(FILE)
        except FileNotFoundError:
            return b""
    segments = storage.join(SEGMENTS)
    return b"".join(segments.read(name) for name in segments.names())


def _parse(content: bytes, where: str) -> tuple[Past, int, int]:
    """Return what is there, how many bytes of it are whole, and how many are not."""
    whole = content.rfind(b"\n") + 1
    lines = content[:whole].splitlines()
    if lines and not _is_json(lines[-1]):
        whole -= len(lines.pop()) + 1
    torn = len(content) - whole
    if torn:
        logger.warning("the last record of the journal in %s is torn: it is dropped", where)
    if not lines:
        return Past(None, []), 0, torn
    try:
        header = msgspec.json.decode(lines[0], type=Header)
    except msgspec.MsgspecError as error:
        raise StorageError(f"the journal in {where} cannot be read: {error}") from None
    if header.journal != VERSION:
        raise StorageError(
            f"the journal in {where} is of version {header.journal}, and this is {VERSION}: "
            "continue it with the version of weft-tune that wrote it"
        )
    return Past(header, lines[1:]), whole, torn


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except msgspec.MsgspecError:
        return False
    return True


class FileJournal:
    """A file of this machine."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self._path = path

    @classmethod
    def open(cls, storage: LocalStorage | Storage) -> tuple[Self, Past]:
        """Lock the file, drop what is torn, and return what it holds."""
        path = Path(storage.path, FILE)
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ExperimentInUseError(
                    f"another process runs the experiment in {storage.path}: "
                    "wait for it, or give another name"
                ) from None
            past, whole, torn = _parse(path.read_bytes(), storage.path)
            if torn:
                os.ftruncate(fd, whole)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, path), past

    def begin(self, header: Header) -> None:
        """Write the first record."""
        self._write(_encoder.encode(header) + b"\n")

    def append(self, entry: JournalEntry) -> None:
        """Write a record."""
        self._write(_encoder.encode(entry) + b"\n")

    def _write(self, line: bytes) -> None:
        try:
            written = os.write(self._fd, line)
            while written < len(line):
                line = line[written:]
                written = os.write(self._fd, line)
        except OSError as error:
            raise StorageError(f"the journal {self._path} cannot be written: {error}") from error

    def flush(self) -> None:
        """Nothing: every record is written."""

    def close(self) -> None:
        """Let another process have it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _WriterLease(msgspec.Struct, frozen=True):
    """Who writes."""

    owner: str
    host: str
    pid: int
    at: float
    """Unix time at which it was last renewed."""


class SegmentJournal:
    """A directory of segments, on a file system that cannot append."""

    def __init__(self, storage: Storage, number: int, owner: str) -> None:
        self._storage = storage
        self._number = number
        self._segment = bytearray()
        self._is_written = True
        self._flushed_at = self._renewed_at = time.monotonic()
        self._owner = owner
        self._is_open = True

    @classmethod
    def open(cls, storage: RemoteStorage | Storage) -> tuple[Self, Past]:
        """Take the lease, drop what is torn, and return what the segments hold."""
        owner = uuid.uuid4().hex
        _take_lease(storage, owner)
        segments = storage.join(SEGMENTS)
        names = segments.names()
        content = b"".join(segments.read(name) for name in names)
        past, whole, torn = _parse(content, storage.path)
        number = 1 + max((int(name.partition(".")[0]) for name in names), default=0)
        journal = cls(storage, number, owner)
        if torn:
            # Segments appear whole, so only a copy by hand can be torn: the rest is written anew.
            for name in names:
                segments.remove(name)
            journal._put(content[:whole])
        return journal, past

    def begin(self, header: Header) -> None:
        """Write the first record."""
        self._put(_encoder.encode(header) + b"\n")
        self._write()

    def append(self, entry: JournalEntry) -> None:
        """Put a record down; `flush` writes it."""
        self._put(_encoder.encode(entry) + b"\n")

    def _put(self, line: bytes) -> None:
        self._segment += line
        self._is_written = False

    def flush(self) -> None:
        """Write what is not yet written, if it is time; renew the lease."""
        now = time.monotonic()
        if not self._is_written and now - self._flushed_at >= FLUSH_S:
            self._write()
        if now - self._renewed_at >= _RENEW_S:
            self._renewed_at = now
            with writing(self._storage):
                _renew_lease(self._storage, self._owner)

    def _write(self) -> None:
        name = f"{SEGMENTS}/{self._number:08d}.jsonl"
        with writing(self._storage):
            self._storage.write(name, bytes(self._segment))
        self._is_written = True
        self._flushed_at = time.monotonic()
        if len(self._segment) >= SEGMENT_BYTES:
            self._number += 1
            self._segment.clear()

    def close(self) -> None:
        """Write everything, and give the lease back."""
        if self._is_open:
            self._is_open = False
            if not self._is_written:
                self._write()
            with writing(self._storage):
                self._storage.remove(_LEASE)


def _take_lease(storage: Storage, owner: str) -> None:
    found = _lease(storage)
    if found is not None and 0 <= time.time() - found.at < LEASE_S:
        raise ExperimentInUseError(
            f"process {found.pid} on {found.host} runs the experiment in {storage!r}: wait for it, "
            f"or give another name; if it was killed, its lease ends in {LEASE_S:g} s"
        )
    _renew_lease(storage, owner)
    found = _lease(storage)
    if found is None or found.owner != owner:
        raise ExperimentInUseError(f"another process began the experiment in {storage!r} just now")


def _lease(storage: Storage) -> _WriterLease | None:
    try:
        return msgspec.json.decode(storage.read(_LEASE), type=_WriterLease)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def _renew_lease(storage: Storage, owner: str) -> None:
    lease = _WriterLease(owner, socket.gethostname(), os.getpid(), time.time())
    storage.write(_LEASE, _encoder.encode(lease))
