"""A journal in a file of SQLite's: the default, for a control service with a disk of its own.

    batches    one row an `append`: its lines, with a checksum
    snapshot   one row: what stands for the batches before
    life       one row: how often the journal was opened

Facts about SQLite
- With a write-ahead log and synchronous FULL, a commit is one write and one sync of the log, and
  what was committed is there after a loss of power. What was not is found out by checksums when the
  log is read again, so a torn end of the log is never half a commit.
- In exclusive locking mode a lock of the kernel's holds the file for one process, and falls with
  it; and there is no shared memory file beside it.
- A commit that finds the disk full (SQLITE_FULL) is rolled back whole.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import TYPE_CHECKING

from weft._control.base import (
    FORMAT,
    CommandJournal,
    JournalError,
    JournalFullError,
    JournalTakenError,
    Opened,
    pack,
    seal,
    unpack,
    unseal,
)
from weft._override import override

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TABLES = """
    CREATE TABLE batches (number INTEGER PRIMARY KEY, record BLOB NOT NULL);
    CREATE TABLE snapshot (record BLOB NOT NULL);
    CREATE TABLE life (number INTEGER NOT NULL);
    INSERT INTO life VALUES (0);
"""


class SqliteJournal(CommandJournal):
    """A hold of the journal in a file, which is made at the first time, for its user alone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None

    @override
    def open(self, wait_s: float = 0.0) -> Opened:
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            reason = f"the journal {self._path} cannot be opened: {error.strerror}"
            raise JournalError(f"{reason}; give a file that is yours to write") from None
        database = sqlite3.connect(
            self._path, timeout=wait_s, isolation_level=None, check_same_thread=False
        )
        try:
            opened = self._read(database)
        except BaseException:
            database.close()
            raise
        self._database = database
        return opened

    def _read(self, database: sqlite3.Connection) -> Opened:
        with self._told():
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            with _transaction(database):
                self._make(database)
                database.execute("UPDATE life SET number = number + 1")
                (number,) = database.execute("SELECT number FROM life").fetchone()
            found = database.execute("SELECT record FROM snapshot").fetchone()
            rows = database.execute("SELECT number, record FROM batches ORDER BY number")
            lines = [
                line
                for row, record in rows
                for line in unpack(record, f"record {row} of {self._path}")
            ]
        snapshot = unseal(found[0], f"the snapshot in {self._path}") if found else None
        return Opened(number, snapshot, lines)

    def _make(self, database: sqlite3.Connection) -> None:
        """Make the tables, if there are none."""
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in filter(str.strip, TABLES.split(";")):
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {FORMAT}")
        elif version != FORMAT:
            raise JournalError(
                f"{self._path} has format {version}, and this release reads {FORMAT}: use the "
                "release that wrote it, or another file"
            )

    @override
    def append(self, lines: list[bytes]) -> None:
        # A transaction by itself: each statement more would let other threads have their turn.
        with self._told():
            self._opened().execute("INSERT INTO batches (record) VALUES (?)", (pack(lines),))

    @override
    def replace(self, snapshot: bytes) -> None:
        with self._told(), _transaction(self._opened()) as database:
            database.execute("DELETE FROM batches")
            database.execute("DELETE FROM snapshot")
            database.execute("INSERT INTO snapshot VALUES (?)", (seal(snapshot),))

    @override
    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            raise JournalError(f"the journal in {self._path} is not open")
        return self._database

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Say in our words how SQLite failed."""
        try:
            yield
        except sqlite3.Error as error:
            # Of an extended code the last byte says the kind.
            kind = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            text = f"the journal in {self._path}: {error}"
            if kind == sqlite3.SQLITE_BUSY:
                text = f"another control service has the journal in {self._path}"
                raise JournalTakenError(text) from None
            if kind == sqlite3.SQLITE_FULL:
                raise JournalFullError(f"{text}; make room") from None
            raise JournalError(text) from error


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Do all of it, or nothing."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield database
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
