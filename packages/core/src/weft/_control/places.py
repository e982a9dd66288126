"""Where a control service is, and where it finds its journal."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from weft._control.etcd import EtcdJournal
from weft._control.memory import MemoryJournal
from weft._control.sqlite import SqliteJournal
from weft._launch import SOCKET_PATH_BYTES
from weft._transport.addresses import CONTROL_SOCKET
from weft.exceptions import OptionError

if TYPE_CHECKING:
    from weft._control.base import CommandJournal

JOURNAL = "journal.db"
LEASE = "lease"


def open_journal(url: str, session_dir: Path) -> CommandJournal:
    """Return the journal that a URL names; it is not opened yet.

        (empty)                          SQLite, in the session's folder
        sqlite:PATH                      SQLite, in a file that outlives the session
        etcd://HOST:PORT,.../PREFIX      etcd; etcds for TLS
        memory:                          none: what is known ends with the process

    Raises:
        OptionError: It names none.
    """
    parts = urlsplit(url)
    match parts.scheme:
        case "":
            if not url:
                return SqliteJournal(session_dir / JOURNAL)
        case "sqlite":
            if parts.path:
                return SqliteJournal(Path(parts.path))
        case "memory":
            return MemoryJournal()
        case "etcd" | "etcds":
            prefix = parts.path.strip("/")
            hosts = [host for host in parts.netloc.split(",") if host]
            if prefix and hosts:
                scheme = "https" if parts.scheme == "etcds" else "http"
                endpoints = [f"{scheme}://{host}" for host in hosts]
                return EtcdJournal(endpoints, prefix, lease_file=session_dir / LEASE)
        case _:
            pass
    raise OptionError(f"journal {url!r}: give sqlite:PATH, etcd://HOST:PORT,.../PREFIX or memory:")


def check_folder(session_dir: Path) -> None:
    """Make sure that the socket can be there, and nobody else can reach it.

    Raises:
        OptionError: It cannot, or somebody could.
    """
    socket = session_dir / CONTROL_SOCKET
    length = len(os.fsencode(socket))
    if length > SOCKET_PATH_BYTES:
        raise OptionError(
            f"{socket} has {length} bytes, and the path of a socket has at most "
            f"{SOCKET_PATH_BYTES}: choose a shorter folder"
        )
    status = session_dir.stat()
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise OptionError(
            f"{session_dir} is open to others (mode {stat.S_IMODE(status.st_mode):o}, user "
            f"{status.st_uid}): make it yours with mode 700"
        )
