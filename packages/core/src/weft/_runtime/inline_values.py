"""Values of the inline engine: cells that hold them, and how callers wait for them.

A cell is what an ObjectRef's `_entry` is here. It stays as long as a reference to it does, so
nothing is counted: Python does. Values pass through the serializer as between processes, so that
nobody can change what another one holds; numbers, strings and the like are kept as they are, since
they cannot be changed.

What is always true
1. A cell goes from PENDING to one of the other states once, under the lock, and its waiters are
   called once, outside. One that is freed by hand goes to FAILED then; who reads without the lock
   reads the content first.
2. A cell holds the references that lie inside its value or error.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from weft._clock import monotonic
from weft._ids import IdSource, ObjectId
from weft._refs import ObjectRef
from weft._runtime.inline_threads import InlineThreads
from weft._serialize.failures import pack_error, unpack_failure
from weft._serialize.pickling import Serialized, dumps, unpack
from weft.exceptions import ObjectLostError, SessionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weft._ids import TaskId
    from weft._runtime.inline import InlineEngine
    from weft._runtime.inline_calls import InlineCall

PENDING, PLAIN, PACKED, FAILED = range(4)
ADDRESS: Final = "inline"
_UNCHANGEABLE: Final = frozenset({int, float, str, bytes, bool, complex, type(None)})


class Cell:
    """One value that is there, or to come."""

    __slots__ = ("__weakref__", "call", "content", "drive", "refs", "state", "waiters")

    def __init__(self) -> None:
        self.state = PENDING
        self.content: Any = None
        """The value (PLAIN), its packed form (PACKED), or the error, Serialized (FAILED)."""
        self.refs: Sequence[ObjectRef[Any]] = ()
        self.waiters: list[Callable[[], object]] = []
        self.call: InlineCall | None = None
        """What makes the value, while it is pending."""
        self.drive: Callable[[], None] | None = None
        """Makes the value, in the thread that wants it, where nobody else would."""


class Token:
    """What an actor's handles share: it is gone when the last of them is."""

    __slots__ = ("__weakref__", "_dropped", "actor")

    def __init__(self, actor: Any, dropped: Callable[[Any], None]) -> None:
        self.actor = actor
        self._dropped = dropped

    def __del__(self) -> None:
        # Only notes it: this may run in the middle of anything.
        self._dropped(self.actor)


class InlineValues:
    """The cells of one engine. Every method may be called from any thread."""

    def __init__(self, engine: InlineEngine) -> None:
        self.lock = threading.RLock()
        self.closed = False
        self.engine = engine
        self.threads = InlineThreads()
        self._ids = IdSource()
        # Cells, and actors' tokens, whose references are inside a value: to find them again when it
        # is read.
        self._travelled: WeakValueDictionary[bytes, Any] = WeakValueDictionary()

    # -------------------------------------------------------------- making

    def task_id(self) -> TaskId:
        """Return an id for a task or a `put`."""
        return self._ids.task_id()

    def ref(self, object_id: ObjectId, entry: Any) -> ObjectRef[Any]:
        """Return a reference to a cell, or to an actor's token."""
        return ObjectRef(object_id, self.engine, ADDRESS, entry)

    def pack(self, value: Any) -> tuple[int, Any, Sequence[ObjectRef[Any]]]:
        """Return what a cell is to hold for a value. PicklingError."""
        if type(value) in _UNCHANGEABLE:
            return PLAIN, value, ()
        serialized = dumps(value)
        for ref in serialized.refs:
            self._travelled[ref._id] = ref._entry
        return PACKED, serialized.pack(), serialized.refs

    def rebuild_ref(self, object_id: bytes, owner: str) -> ObjectRef[Any]:
        """Make the reference that was found inside a value."""
        entry = self._travelled.get(object_id)
        if entry is None:
            raise ObjectLostError(object_ref_hex=object_id.hex(), owner_address=owner)
        return ObjectRef(ObjectId(object_id), self.engine, ADDRESS, entry)

    def note_travel(self, refs: Sequence[ObjectRef[Any]]) -> None:
        """These references are inside packed arguments, or a packed error."""
        for ref in refs:
            self._travelled[ref._id] = ref._entry

    # -------------------------------------------------------------- settling

    def settle(
        self, cell: Cell, state: int, content: Any, refs: Sequence[ObjectRef[Any]] = ()
    ) -> None:
        """Give a cell its value; nothing happens if it has one."""
        with self.lock:
            if cell.state != PENDING:
                return
            cell.content = content
            cell.refs = refs
            cell.state = state
            cell.call = cell.drive = None
            waiters, cell.waiters = cell.waiters, []
        for waiter in waiters:
            waiter()

    def fail(self, cells: Sequence[Cell], error: BaseException) -> None:
        """Let cells end in an error of Weft's own."""
        failure = self.pack_error(error)
        for cell in cells:
            self.settle(cell, FAILED, failure)

    def free(self, cell: Cell, error: BaseException) -> None:
        """Let a cell end in an error, even if it has a value."""
        failure = self.pack_error(error)
        self.settle(cell, FAILED, failure)
        with self.lock:
            cell.state = FAILED
            cell.content = failure
            cell.refs = ()

    def pack_error(self, error: BaseException) -> Serialized:
        """Return an error of Weft's own as cells hold it."""
        met: list[ObjectRef[Any]] = []
        return self.failure(pack_error(error, met=met), met)

    def failure(self, packed: bytes, met: list[ObjectRef[Any]]) -> Serialized:
        """Return a packed error as cells hold it: with the references inside."""
        self.note_travel(met)
        return Serialized(packed, refs=met)

    # -------------------------------------------------------------- reading and waiting

    def load(self, cell: Cell) -> Any:
        """Return a settled cell's value, a copy of its own; or raise its error."""
        content, state = cell.content, cell.state
        if state == PLAIN:
            return content
        if state == PACKED:
            return unpack(content)
        with self.lock:
            # It may have been freed between these two.
            failure = cell.content
        raise unpack_failure(failure.inband) from None

    def cell_of(self, ref: ObjectRef[Any]) -> Cell:
        """Return a reference's cell.

        SessionError if it belongs to another session, or this one is over.
        """
        if ref._engine is not self.engine:
            raise SessionError(f"{ref!r} belongs to a session that has ended")
        if self.closed:
            raise SessionError("the session has ended: call weft.init() for a new one")
        cell: Cell = ref._entry
        return cell

    def when_settled(self, cell: Cell, callback: Callable[[], object]) -> bool:
        """Have `callback` called, once, when the cell is settled.

        True if it is already: then it was not called.
        """
        with self.lock:
            if cell.state != PENDING:
                return True
            cell.waiters.append(callback)
            return False

    def await_cell(self, cell: Cell, deadline: float | None) -> bool:
        """Wait until a cell is settled.

        False when time is up first. WeftError if it never can be.
        """
        if cell.state != PENDING:
            return True
        drive = cell.drive
        if drive is not None and (deadline is None or deadline > monotonic()):
            drive()
        event = threading.Event()
        if self.when_settled(cell, event.set):
            return True
        if deadline is None and cell.call is not None:
            cell.call.refuse_deadlock()
        try:
            return event.wait(None if deadline is None else max(0.0, deadline - monotonic()))
        finally:
            with self.lock:
                if event.set in cell.waiters:
                    cell.waiters.remove(event.set)

    def await_some(self, cells: Sequence[Cell], number: int, deadline: float | None) -> None:
        """Wait until `number` of the cells are settled, or time is up."""
        settled = threading.Semaphore(0)
        waiting: list[Cell] = []
        missing = number
        is_polling = deadline is not None and deadline <= monotonic()
        for cell in cells:
            if cell.drive is not None and not is_polling:
                cell.drive()
            if self.when_settled(cell, settled.release):
                missing -= 1
            else:
                waiting.append(cell)
        try:
            while missing > 0:
                left_s = None if deadline is None else deadline - monotonic()
                if (left_s is not None and left_s <= 0) or not settled.acquire(timeout=left_s):
                    return
                missing -= 1
        finally:
            with self.lock:
                for cell in waiting:
                    if settled.release in cell.waiters:
                        cell.waiters.remove(settled.release)
