"""A journal in etcd: replicated, and held by a lease, so that a standby can take over.

    PREFIX/head         who has the journal: its number; it goes when its lease does
    PREFIX/number       how often the journal was taken
    PREFIX/log/N        one key an `append`: its lines, with a checksum
    PREFIX/snapshot     which snapshot stands: its id, how many pieces, the first N behind it
    PREFIX/pieces/ID/P  a piece of a snapshot

Every write is a transaction that compares PREFIX/head with what it was when the journal was taken.
So one that was late, and whose lease is over, changes nothing: etcd's own order is the fence. Hence
too a write may be sent again, to the same member of etcd or to another, when no answer came.

The lease is kept from a thread. It counts from before the request that renewed it was sent, so
`held_until` is over before etcd gives the journal to another, if clocks run at about the same pace.

A process that is started in the place of one that died need not wait for that one's lease: its id
is in a file, whose lock says that nobody has it any more, and so it is ended at once.

What it does not do: it compacts nothing. etcd keeps what was overwritten until it is told to forget
it: start it with --auto-compaction-mode=revision --auto-compaction-retention=1000, or the like.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from typing import TYPE_CHECKING, Any

import msgspec

from weft._clock import monotonic
from weft._control.base import (
    BATCH_BYTES,
    CommandJournal,
    JournalError,
    JournalLostError,
    JournalTakenError,
    Opened,
    pack,
    seal,
    unpack,
    unseal,
)
from weft._control.etcd_gateway import EtcdGateway, compare_created, delete, put
from weft._override import override

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LEASE_S = 3
RENEWALS = 3
"""How often a lease is renewed in its time: two in a row may fail."""
PAGE = 64
"""Keys that are read at once."""
LOOK_AGAIN_S = 1.0
"""Who waits is told of the end of a lease; it looks by itself where etcd was not well meanwhile."""


class _Standing(msgspec.Struct, frozen=True, array_like=True):
    """The value of PREFIX/snapshot."""

    id: int = 0
    pieces: int = 0
    first: int = 1


class EtcdJournal(CommandJournal):
    """A hold of the journal under a prefix.

    Args:
        endpoints: `http://HOST:PORT` of the members of etcd.
        prefix: What all keys begin with, without a slash at the end.
        lease_s: How long a holder that is silent keeps others out.
        lease_file: Where the id of the lease is kept for who comes next in this place.
    """

    def __init__(
        self,
        endpoints: list[str],
        prefix: str,
        *,
        lease_s: int = LEASE_S,
        lease_file: Path | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._prefix = prefix
        self._lease_s = lease_s
        self._renew_s = lease_s / RENEWALS
        self._etcd = EtcdGateway(endpoints, timeout_s=lease_s)
        self._lease_file = lease_file
        self._lease_fd = -1
        """Of the file, locked; -1: there is none."""
        self._lease = 0
        self._created = 0
        """The revision at which PREFIX/head is ours; 0: it is not."""
        self._held_until = float("-inf")
        self._keeper: threading.Thread | None = None
        self._over = threading.Event()
        self._next = 1
        """The N of the next append."""
        self._standing = _Standing()

    # -------------------------------------------------------------- taking it

    @override
    def open(self, wait_s: float = 0.0) -> Opened:
        self._end_last()
        try:
            self._lease = self._granted()
        except BaseException:
            self._let_file_go()
            raise
        self._over.clear()
        self._keeper = threading.Thread(target=self._keep, name="weft-etcd-lease", daemon=True)
        self._keeper.start()
        try:
            number = self._taken(monotonic() + wait_s)
            return Opened(number, self._read_snapshot(), self._read_log())
        except BaseException:
            self.close()
            raise

    def _end_last(self) -> None:
        """End the lease of who was in this place before, and is dead."""
        if self._lease_file is None:
            return
        self._lease_fd = os.open(self._lease_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lease_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._let_file_go()
            raise self._taken_by_another() from None
        last = os.pread(self._lease_fd, 32, 0)
        if last.isdigit():
            with contextlib.suppress(JournalError):  # It has ended, or will.
                self._etcd.call("lease/revoke", {"ID": int(last)})

    def _granted(self) -> int:
        """Return a new lease."""
        asked_at = monotonic()
        answer = self._etcd.call("lease/grant", {"TTL": self._lease_s})
        self._held_until = asked_at + float(answer["TTL"])
        lease = int(answer["ID"])
        if self._lease_fd >= 0:
            os.ftruncate(self._lease_fd, 0)
            os.pwrite(self._lease_fd, str(lease).encode(), 0)
        return lease

    def _taken_by_another(self) -> JournalTakenError:
        return JournalTakenError(f"another control service has the journal {self._prefix} in etcd")

    def _taken(self, until: float) -> int:
        """Return our number once PREFIX/head is ours."""
        while True:
            number = self._last_number() + 1
            answer = self._etcd.call("kv/txn", self._taking(number))
            if answer.get("succeeded"):
                self._created = int(answer["header"]["revision"])
                return number
            left_s = until - monotonic()
            if left_s <= 0:
                raise self._taken_by_another()
            revision = int(answer["header"]["revision"])
            self._etcd.wait_deleted(self._key("head"), revision, min(left_s, LOOK_AGAIN_S))

    def _taking(self, number: int) -> dict[str, Any]:
        value = str(number).encode()
        return {
            "compare": [compare_created(self._key("head"), 0)],
            "success": [
                put(self._key("head"), value, lease=self._lease),
                put(self._key("number"), value),
            ],
        }

    def _last_number(self) -> int:
        found = self._etcd.range(self._key("number"))
        return int(found[0][1]) if found else 0

    # -------------------------------------------------------------- reading it

    def _read_snapshot(self) -> bytes | None:
        found = self._etcd.range(self._key("snapshot"))
        if not found:
            return None
        self._standing = msgspec.msgpack.decode(found[0][1], type=_Standing)
        self._next = self._standing.first
        pieces = [
            value
            for _, value in self._pages(f"pieces/{self._standing.id:016x}/", self._standing.pieces)
        ]
        return unseal(b"".join(pieces), f"the snapshot of {self._prefix} in etcd")

    def _read_log(self) -> list[bytes]:
        lines: list[bytes] = []
        for key, record in self._pages("log/", None):
            what = f"record {key.decode()} in etcd"
            number = int(key.rpartition(b"/")[2], 16)
            if number != self._next:
                raise JournalError(f"{what} follows a gap: restore the journal from a copy")
            self._next += 1
            lines += unpack(record, what)
        return lines

    def _pages(self, folder: str, most: int | None) -> Iterator[tuple[bytes, bytes]]:
        """Yield the keys below a folder and their values, in order, at most so many."""
        first, end = self._key(folder), self._key(folder[:-1] + "0")  # "0" follows "/"
        while most is None or most > 0:
            found = self._etcd.range(first, end, PAGE if most is None else min(PAGE, most))
            yield from found
            if len(found) < PAGE:
                return
            first = found[-1][0] + b"\0"
            most = None if most is None else most - len(found)

    # -------------------------------------------------------------- writing it

    @override
    def append(self, lines: list[bytes]) -> None:
        self._write([put(self._log_key(self._next), pack(lines))])
        self._next += 1

    @override
    def replace(self, snapshot: bytes) -> None:
        sealed = seal(snapshot)
        pieces = [sealed[at : at + BATCH_BYTES] for at in range(0, len(sealed), BATCH_BYTES)]
        standing = _Standing(self._standing.id + 1, len(pieces), self._next)
        folder = f"pieces/{standing.id:016x}"
        for number, piece in enumerate(pieces):
            self._write([put(self._key(f"{folder}/{number:08x}"), piece)])
        self._write(
            [
                put(self._key("snapshot"), msgspec.msgpack.encode(standing)),
                delete(self._key("log/"), self._log_key(self._next)),
                delete(self._key("pieces/"), self._key(folder)),
            ]
        )
        self._standing = standing

    def _write(self, requests: list[dict[str, Any]]) -> None:
        if monotonic() >= self._held_until or not self._created:
            raise self._lost()
        body = {
            "compare": [compare_created(self._key("head"), self._created)],
            "success": requests,
        }
        answer = self._etcd.call("kv/txn", body, until=self._held_until)
        if not answer.get("succeeded"):
            raise self._lost()

    def _lost(self) -> JournalLostError:
        return JournalLostError(f"the lease of {self._prefix} in etcd is over, or was never had")

    # -------------------------------------------------------------- keeping it

    @override
    def held_until(self) -> float:
        return self._held_until

    def _keep(self) -> None:
        etcd = EtcdGateway(self._endpoints, timeout_s=self._renew_s)
        with contextlib.closing(etcd):
            while not self._over.wait(self._renew_s) and monotonic() < self._held_until:
                self._renew(etcd)

    def _renew(self, etcd: EtcdGateway) -> None:
        asked_at = monotonic()
        try:
            answer = etcd.call("lease/keepalive", {"ID": self._lease})
        except JournalError:
            return  # There is time for another try, until `held_until`.
        left_s = float(answer["result"].get("TTL", 0))
        self._held_until = asked_at + left_s if left_s else float("-inf")

    @override
    def close(self) -> None:
        self._over.set()
        if self._keeper is not None:
            self._keeper.join()
            self._keeper = None
        if self._lease:
            with contextlib.suppress(JournalError):  # Then it ends by itself.
                self._etcd.call("lease/revoke", {"ID": self._lease})
        self._lease = self._created = 0
        self._held_until = float("-inf")
        self._let_file_go()
        self._etcd.close()

    def _let_file_go(self) -> None:
        if self._lease_fd >= 0:
            os.close(self._lease_fd)
            self._lease_fd = -1

    # -------------------------------------------------------------- names

    def _key(self, path: str) -> bytes:
        return f"{self._prefix}/{path}".encode()

    def _log_key(self, number: int) -> bytes:
        return self._key(f"log/{number:016x}")
