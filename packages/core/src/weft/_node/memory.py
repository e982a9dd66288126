"""The node's shared memory: the shell round the machine of segments.

It sends what the machine tells processes, removes files, and lets the spiller write and restore.
What a machine's effect leads to is told to it at once: nothing here waits.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from weft import _settings
from weft._clock import monotonic
from weft._machines.segments import (
    SPILL_FILE,
    VACANT_FILE,
    ClientBack,
    ClientLost,
    ClientSaid,
    CopiesDropped,
    CopyNoted,
    DiskFull,
    Effect,
    Event,
    FilesGone,
    LendFile,
    LendOnDisk,
    RoomAsked,
    Segments,
    SegmentsTicked,
    SweepFiles,
    TellClient,
    UnlinkSegments,
    VacateFiles,
)
from weft._node import host
from weft._node.spilling import Spiller
from weft._store.opens import Opens
from weft._store.spill import is_url
from weft._wire.messages import (
    Discard,
    Loan,
    Restore,
    Restored,
    SegmentsMade,
    SegmentsOpened,
    Spill,
    Unlink,
    Unspill,
)
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._launch import NodeFile
    from weft._machines.segments import ClientMessage
    from weft._node.clients import Clients
    from weft._transport.sockets import Poller
    from weft._transport.timers import Timers
    from weft._wire.messages import Message

# So much of a disk is not for objects: other programs need some. The smaller of the two counts.
DISK_KEPT_SHARE = 0.05
DISK_KEPT_BYTES = 2 << 30


def disk_room(state: os.statvfs_result) -> tuple[int, int]:
    """Return how many bytes of a disk objects may take now, and how many are kept for others."""
    kept = min(int(state.f_blocks * state.f_frsize * DISK_KEPT_SHARE), DISK_KEPT_BYTES)
    return max(0, state.f_bavail * state.f_frsize - kept), kept


class NodeMemory:
    """Who has how much of it, and what of it is on disk."""

    def __init__(
        self, node: NodeFile, budget_bytes: int, clients: Clients, poller: Poller, timers: Timers
    ) -> None:
        self._clients = clients
        self._timers = timers
        self._store_dir = Path(node.store_dir)
        where = _settings.SPILL.value() or host.disk_root()
        self._spiller = Spiller(
            poller,
            session_dir=node.session_dir,
            store_dir=node.store_dir,
            where=where,
            answered=self._tell,
        )
        self._is_local = not is_url(where)
        self._disk_dir = self._spiller.place if self._is_local else f"{node.session_dir}/disk"
        """Where processes make segments that have no room in memory."""
        self.machine = Segments(budget_bytes, self._disk_dir, is_remote=not self._is_local)
        self._opens = Opens(Path(node.session_dir))
        self._here = b""
        """Under which the daemon itself is a process that has segments; empty: it is none."""
        self._heard: Callable[[Message], None]
        self._copies_dropped: Callable[[list[str], str], None]
        self._copy_asked: dict[tuple[bytes, int], str] = {}
        """By (process, request): which copy was restored for it."""
        self._checks = _settings.CHECK.value()
        self._effects: deque[Effect] = deque()
        self._is_settling = False

    # -------------------------------------------------------------- what happens

    def met(self, client: bytes) -> int:
        """A process has connected; return where it counts the segments that it opens."""
        return self._opens.met(client)

    def said(self, client: bytes, message: ClientMessage) -> None:
        """A process has sent a message. ProtocolError: it says what cannot be."""
        if isinstance(message, SegmentsOpened):
            self._opens.told(client, len(message.names))
        if isinstance(message, SegmentsMade):
            _check_names(client, message)
        if isinstance(message, Restore | Discard) and not self._knows(message):
            # What a dead worker's answer brought may be known sooner than what it told the daemon:
            # read that first.
            self._timers.call_next(lambda: self._tell(ClientSaid(client, message)))
        else:
            self._tell(ClientSaid(client, message))

    def _knows(self, message: Restore | Discard) -> bool:
        names = [message.name] if isinstance(message, Restore) else message.segments
        return all(map(self.machine.knows, names))

    def lost(self, client: bytes) -> None:
        """A process has ended, or had opened nothing; and all that it sent was told."""
        self._opens.lost(client)
        for key in [key for key in self._copy_asked if key[0] == client]:
            del self._copy_asked[key]
        self._tell(ClientLost(client))

    def back(self, client: bytes) -> None:
        """A process of another node is not dead, if it was taken for that."""
        self._tell(ClientBack(client))

    def discard_of(self, owners: set[bytes]) -> None:
        """These processes, which live on, need none of what is here."""
        segments = self.machine.list_segments()
        self.said_here(Discard([each.name for each in segments if each.owner in owners]))

    def free(self, size_bytes: int) -> None:
        """Let so much become free: others need it."""
        self._tell(RoomAsked(size_bytes))

    @property
    def is_writing(self) -> bool:
        """Whether objects are being written to disk."""
        return self._spiller.is_writing

    def wake_at(self) -> float | None:
        """Return when `tick` is due, in seconds; None: never."""
        return self.machine.wake_at()

    def tick(self) -> None:
        """Tell the machine of the time if that has come."""
        at = self.machine.wake_at()
        if at is not None and at <= monotonic():
            self._tell(SegmentsTicked())

    def remove_leftovers(self) -> None:
        """Have removed what dead sessions have spilled."""
        self._spiller.remove_leftovers()

    def close(self) -> None:
        """Remove what was spilled. Blocks until that is done."""
        self._spiller.close()

    def _tell(self, event: Event) -> None:
        self._effects += self.machine.handle(event, monotonic())
        if self._checks:
            self.machine.check()
        # The spiller may answer before it returns: what that leads to comes after what is here.
        if not self._is_settling:
            self._is_settling = True
            try:
                while self._effects:
                    self._do(self._effects.popleft())
            finally:
                self._is_settling = False

    # -------------------------------------------------------------- copies of other nodes' objects

    def serve(
        self,
        here: bytes,
        *,
        heard: Callable[[Message], None],
        dropped: Callable[[list[str], str], None],
    ) -> None:
        """Let the daemon have segments as a process of this id has.

        Args:
            here: The id.
            heard: Is told what a process is told.
            dropped: Is told which copies are gone, and why.
        """
        self._here, self._heard, self._copies_dropped = here, heard, dropped

    def said_here(self, message: ClientMessage) -> None:
        """The daemon says what a process would say."""
        if isinstance(message, Restore):
            # Its name may stand for an earlier object still, until what has arrived is read.
            self._timers.call_next(lambda: self._tell(ClientSaid(self._here, message)))
        else:
            self._tell(ClientSaid(self._here, message))

    def note_copy(self, name: str, *, is_elsewhere: bool) -> None:
        """Say whether the object of a segment is kept by another node."""
        self._tell(CopyNoted(name, is_elsewhere))

    def restore_copy(self, client: bytes, request: int, name: str) -> None:
        """Let a process open a copy, as if it had asked for it."""
        self._copy_asked[client, request] = name
        self._tell(ClientSaid(client, Restore(request, name)))

    def _tell_client(self, client: bytes, message: Message) -> None:
        if client == self._here:
            self._heard(message)
            return
        self._clients.send_to(client, message)
        if self._copy_asked and isinstance(message, Restored):
            name = self._copy_asked.pop((client, message.request), "")
            if name and message.error:
                # Who asked asks for another.
                self._tell(ClientSaid(client, Discard([name])))
                self._copies_dropped([name], message.error)

    # -------------------------------------------------------------- effects

    def _do(self, effect: Effect) -> None:
        match effect:
            case TellClient(client, message):
                self._tell_client(client, message)
            case LendOnDisk():
                self._lend_on_disk(effect)
            case UnlinkSegments(names):
                for name in names:
                    self._remove(name)
            case CopiesDropped(names):
                self._copies_dropped(names, "there was no room for it any more")
            case VacateFiles(name_of):
                self._vacate(name_of)
            case LendFile():
                self._lend_file(effect)
            case SweepFiles(client):
                self._sweep(client)
            case Spill():
                self._spiller.spill(effect)
            case Unspill():
                if effect.directory:
                    Path(effect.directory).mkdir(mode=0o700, exist_ok=True)
                self._spiller.unspill(effect)
            case Unlink(files):
                self._unlink_files(files)
            case _:
                assert_never(effect)

    def _vacate(self, name_of: dict[str, str]) -> None:
        gone: list[str] = []
        for other, name in name_of.items():
            try:
                (self._store_dir / name).rename(self._store_dir / other)
            except FileNotFoundError:
                gone.append(other)
        if not self._opens.are_all_told():
            gone = list(name_of)
            for other in gone:
                _unlink(self._store_dir / other)
        if gone:
            self._tell(FilesGone(gone))

    def _remove(self, name: str) -> None:
        path = self._store_dir / name
        if name.startswith(VACANT_FILE):
            # Nobody views it; but a process that did may have it mapped for what comes next.
            _cut(path)
        _unlink(path)

    def _lend_file(self, loan: LendFile) -> None:
        # A name that is swept with the process.
        name = f"{loan.client.hex()}-{loan.name.lstrip('.')}"
        with contextlib.suppress(FileNotFoundError):
            (self._store_dir / loan.name).rename(self._store_dir / name)
        self._tell_client(loan.client, Loan(loan.request, loan.size_bytes, file=name))

    def _lend_on_disk(self, wish: LendOnDisk) -> None:
        try:
            if self._is_local:
                self._spiller.directory()
            else:
                Path(self._disk_dir).mkdir(mode=0o700, exist_ok=True)
            state = os.statvfs(self._disk_dir)
        except OSError as error:
            disk = f"{self._disk_dir} cannot be used ({error})"
            self._tell(DiskFull(wish.client, wish.request, wish.size_bytes, disk))
            return
        free, kept = disk_room(state)
        if wish.size_bytes <= free:
            self._tell_client(wish.client, Loan(wish.request, 0, directory=self._disk_dir))
        else:
            disk = f"{self._disk_dir} has {free} free beside {kept} that are kept for others"
            self._tell(DiskFull(wish.client, wish.request, wish.size_bytes, disk))

    def _unlink_files(self, files: list[str]) -> None:
        """Remove files of several objects, and of single ones that processes have made."""
        spilled = [name for name in files if name.startswith(SPILL_FILE)]
        if spilled:
            self._spiller.unlink(spilled)
        for name in set(files).difference(spilled):
            _unlink(Path(self._disk_dir, name))

    def _sweep(self, client: bytes) -> None:
        """Remove the files of a process that has ended, those that hold no object."""
        prefix = f"{client.hex()}-"
        for directory in (self._store_dir, Path(self._disk_dir)):
            with contextlib.suppress(FileNotFoundError):
                for path in directory.iterdir():
                    if path.name.startswith(prefix) and not self.machine.knows(path.name):
                        _cut(path)
                        _unlink(path)


def _check_names(client: bytes, message: SegmentsMade) -> None:
    """See to it that no name leads out of the directory, or to another process's segment."""
    for made in message.segments:
        if not re.fullmatch(rf"{client.hex()}-\d+", made.name):
            raise ProtocolError(f"{made.name!r} is not the name of a segment of who made it")


def _cut(path: Path) -> None:
    """Let the memory of a file go, whoever has it mapped."""
    with contextlib.suppress(FileNotFoundError):
        os.truncate(path, 0)


def _unlink(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
