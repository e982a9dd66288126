"""What processes tell of their tasks, objects and threads, for who looks at a session.

A task that has ended is a row: when it was made, when it ran, what it was. Rows go to the daemon
in batches, by columns, where what many rows have in common stands once. So a million of them take
some 40 MB, nobody opens a batch until somebody asks, and who asks looks at what rows have in common
before it looks at any row.
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING, Any

import msgspec

from weft._wire.codec import pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_ID_BYTES = 16
NUMBER, TIME = "H", "d"
"""Types of the columns, as of `array` and `struct`; one machine writes and reads them."""


class What(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What tasks can have in common."""

    name: str
    function: str
    actor: bytes
    """Whose call it is; empty: of none. The creation of an actor has the actor's id as its own."""
    parent: bytes
    """The task that submitted it; empty: none."""
    worker: bytes
    """Who ran it, or was to; empty: nobody."""
    pid: int
    attempt: int
    has_failed: bool
    amounts: tuple[tuple[str, int], ...]
    """Of resources, in units."""
    site: str = ""
    """File and line of the call, if it is known."""
    node: str = ""
    """HOST:PORT of the node of who ran it; empty: that of the process that had submitted it."""


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """Rows by columns. Times are wall clock, in seconds."""

    owner: bytes
    """Worker id of the process that had submitted them."""
    whats: list[What]
    numbers: bytes
    """Of each row: which of `whats` it is."""
    ids: bytes
    made_at: bytes
    began_at: bytes
    """0: it never began."""
    ended_at: bytes
    errors: dict[int, tuple[str, str]]
    """By row: (type, message)."""
    job: bytes = b""
    """Of the process that had submitted them."""

    def row_of(self, task_id: bytes) -> int | None:
        """Return which row a task is, if it is here."""
        if len(task_id) != _ID_BYTES:
            return None
        at = self.ids.find(task_id)
        while at >= 0 and at % _ID_BYTES:
            at = self.ids.find(task_id, at + 1)
        return at // _ID_BYTES if at >= 0 else None

    def id_at(self, row: int) -> bytes:
        """Return a row's task."""
        return self.ids[row * _ID_BYTES : (row + 1) * _ID_BYTES]


Row = tuple[bytes, float, float, float, tuple[object, ...]]
"""(task id, made, began, ended, what: the fields of What, or anything that stands for them)."""
OWN_FIELDS = 4
"""How many of these a row does not share."""


def pack_columns(
    owner: bytes,
    columns: Iterable[Iterable[Any]],
    errors: Mapping[int, tuple[str, str]],
    what_of: Callable[[tuple[Any, ...]], What],
    *,
    job: bytes = b"",
) -> bytes:
    """Return a packed Batch of some rows, by the columns of Row: fewer than 65,536 rows."""
    ids, made, began, ended, keys = columns
    number_of: dict[tuple[Any, ...], int] = {}
    numbers = [number_of.setdefault(key, len(number_of)) for key in keys]
    size = len(numbers)
    return pack(
        Batch(
            owner,
            [what_of(key) for key in number_of],
            struct.pack(f"{size}{NUMBER}", *numbers),
            b"".join(ids),
            struct.pack(f"{size}{TIME}", *made),
            struct.pack(f"{size}{TIME}", *began),
            struct.pack(f"{size}{TIME}", *ended),
            dict(errors),
            job,
        )
    )


def column(kind: str, data: bytes) -> array[int] | array[float]:
    """Return a column of a batch."""
    values = array(kind)
    values.frombytes(data)
    return values


# ------------------------------------------------------------------ what is now


class OpenTask(msgspec.Struct, frozen=True, array_like=True):
    """A task or call that has not ended, as the process sees it that submitted it."""

    task_id: bytes
    what: What
    made_at: float
    state: str
    """waiting (for arguments), ready (for a worker or an actor) or sent."""


class BegunTask(msgspec.Struct, frozen=True, array_like=True):
    """A task or call that runs in the process that tells."""

    task_id: bytes
    began_at: float
    is_waiting: bool
    """For what others make."""


class TasksTold(msgspec.Struct, frozen=True, array_like=True):
    """The answer to Inspect of tasks."""

    open: list[OpenTask]
    begun: list[BegunTask]
    job: bytes = b""
    """Of the process that tells."""


class ObjectTold(msgspec.Struct, frozen=True, array_like=True):
    """An object of which the process that tells is the owner, or a borrower."""

    object_id: bytes
    owner: str
    """Address of the owner; empty: who tells."""
    state: str
    """pending, inline, shared, failed, token (of an actor) or unknown (a borrower's, not
    fetched)."""
    size_bytes: int
    segment: str
    """Of a shared one."""
    local: int
    """References and views in the process; those that arguments hold are among them."""
    in_arguments: int
    """References that tasks which have not ended need."""
    in_objects: int
    """Objects of the process that contain it."""
    borrowers: int
    task: str
    """Name of the task that makes it, while that has not ended."""
    task_state: str


class ThreadTold(msgspec.Struct, frozen=True, array_like=True):
    """A thread of the process that tells, and where it is."""

    ident: int
    name: str
    task: str
    """What runs in it; empty if it is not known."""
    frames: list[tuple[str, int, str, str]]
    """(file, line, function, text), outermost first."""


class ProcessTold(msgspec.Struct, frozen=True, array_like=True):
    """What one process has answered."""

    worker: bytes
    pid: int
    role: str
    body: bytes | None
    """None: it did not answer in time."""


class SessionSnapshot(msgspec.Struct, frozen=True, array_like=True):
    """What a session's processes have told, as the daemon hands it over."""

    told: list[ProcessTold]
    running: list[tuple[bytes, int, bytes]] = []
    """(worker id, pid, task id) by the workers' pages: known also of one that does not answer."""
    batches: list[bytes] = []
    """Of tasks, the oldest first: packed, each a Batch."""
    late: int = 0
    """How many of these came after the first process had answered: what others have told as open
    may be among them."""
    dropped: int = 0
    """Records that there was no room for any more."""
