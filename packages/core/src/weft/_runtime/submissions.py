"""What tasks and calls have in common.

The objects that they return, the arguments that they wait for, their end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from weft._machines.ownership import ObjectMade, Sealed
from weft._refs import ObjectRef, ObjectRefGenerator
from weft._runtime.arguments import NO_ARGUMENTS, Arguments
from weft._runtime.running import Running, running
from weft._serialize.failures import unpack_failure
from weft._wire.messages import Failure, Held, Shared

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weft._ids import ObjectId, TaskId
    from weft._runtime.links import Links
    from weft._runtime.streams import Stream, Streams
    from weft._wire.messages import Value

# A stream's consumer that is slower than its task holds so many items at most.
STREAM_ITEMS = 1000
_LARGE_ARGUMENTS = 0xFFFF_FFFF
"""Index of the object that is a task's own arguments, where those are large."""


class Submission:
    """What the shell knows of one task or call. It becomes one Run or Call for each attempt."""

    __slots__ = (
        "arguments",
        "backpressure",
        "code",
        "depth",
        "group",
        "is_dynamic",
        "max_calls",
        "method",
        "name",
        "num_returns",
        "parent",
        "retry_on",
        "returns",
        "stream",
        "task_id",
        "token",
        "values",
    )

    def __init__(
        self, task_id: TaskId, name: str, arguments: Arguments, num_returns: int | str
    ) -> None:
        self.task_id = task_id
        self.name = name
        self.arguments = arguments
        """Holds the references that the task needs, until it ends."""
        self.is_dynamic = num_returns == "dynamic"
        self.num_returns = (
            num_returns if isinstance(num_returns, int) else 1 if self.is_dynamic else -1
        )
        """-1: a stream."""
        self.returns: list[ObjectId] = []
        self.values: list[Value] = []
        """The answer, when it is there."""
        self.stream: Stream | None = None
        self.code: tuple[bytes, str, bytes] = (b"", "", b"")
        """Of a task: the function's id, name and pickle."""
        self.method = ""
        """Of a call."""
        self.group = ""
        self.token: ObjectRef[Any] | None = None
        """The called actor's: it lives while calls are on their way."""
        self.retry_on: bool | tuple[type[BaseException], ...] = False
        self.backpressure = 0
        self.max_calls = 0
        self.depth = 0
        """How many tasks are above it."""
        self.parent: Running | None = None
        """The task that submitted it."""


class Submissions:
    """Prepares and ends them. The loop's guard is held in every method."""

    def __init__(self, links: Links, streams: Streams) -> None:
        self._links = links
        self._objects = links.objects
        self._streams = streams

    def prepare(self, note: Submission) -> list[ObjectRef[Any]] | ObjectRefGenerator[Any]:
        """Make the objects that a submission will return, and the references to them."""
        task_id = note.task_id
        objects = self._objects
        objects.drain()
        parent = running.get()
        if parent is not None:
            note.parent = parent
            note.depth = parent.depth + 1
            if parent.children is None:
                parent.children = set()
            parent.children.add(task_id)
        if note.arguments.large is not None:
            self.own_large_arguments(note)
        entries = objects.machine.entries
        refs: list[ObjectRef[Any]] = []
        # A stream has one object of its own: its end.
        for index in range(1, abs(note.num_returns) + 1):
            object_id = task_id.object_id(index)
            objects.handle(ObjectMade(object_id))
            note.returns.append(object_id)
            refs.append(objects.ref(entries[object_id]))
        if note.num_returns >= 0:
            return refs
        stream = note.stream = self._streams.open(task_id, note.backpressure or STREAM_ITEMS)
        return ObjectRefGenerator(task_id, objects.engine, refs[0], stream)

    def own_large_arguments(self, note: Submission) -> None:
        """Keep arguments that are too large for a message as an object, while they are needed."""
        arguments = note.arguments
        assert arguments.large is not None
        object_id = note.task_id.object_id(_LARGE_ARGUMENTS)
        self._objects.handle(ObjectMade(object_id))
        self._objects.handle(Sealed(object_id, arguments.large))
        holder = self._objects.ref(self._objects.machine.entries[object_id])
        note.arguments = msgspec.structs.replace(arguments, inner=[*arguments.inner, holder])

    def await_arguments(self, deps: Sequence[ObjectRef[Any]], ready: Callable[[], None]) -> int:
        """Call `ready` once for each argument that is still to come; return how many those are."""
        waits = 0
        for ref in deps:
            entry = ref._entry
            if entry.value is None and self._objects.when_sealed(entry, lambda _entry: ready()):
                waits += 1
        return waits

    def dependencies(self, note: Submission) -> tuple[list[Value], list[Held]] | Failure:
        """Return the arguments' values and whose they are, or the error of one of them."""
        values: list[Value] = []
        owners: list[Held] = []
        for ref in note.arguments.deps:
            value = ref._entry.value
            if type(value) is Failure:
                return value
            values.append(value)
            owners.append(Held(ref._id, ref._owner))
        if note.arguments.large is not None:
            owners.append(Held(note.task_id.object_id(_LARGE_ARGUMENTS), self._links.address))
        return values, owners

    def end(self, note: Submission) -> None:
        """A task or call has its answer: seal what it returns."""
        objects = self._objects
        stream = note.stream
        values = note.values
        if stream is not None:
            self._streams.end(stream, note.returns[0], values)
        else:
            # A task that returns nothing has one failure all the same, for nobody.
            for object_id, value in zip(note.returns, values, strict=False):
                objects.handle(Sealed(object_id, value))
        self._forget(note)

    def fail(self, note: Submission, failure: Failure) -> None:
        """A task or call ends without an answer, or with one that came too late."""
        for value in note.values:
            if isinstance(value, Shared):
                self._objects.recycle(value)
        note.values = [failure] * len(note.returns)
        self.end(note)

    def _forget(self, note: Submission) -> None:
        note.arguments = NO_ARGUMENTS
        note.token = None
        if note.parent is not None and note.parent.children is not None:
            note.parent.children.discard(note.task_id)

    def is_retriable(self, note: Submission) -> bool:
        """Tell whether the answer is an exception that the user wants retried."""
        values = note.values
        if not note.retry_on or not values or not isinstance(values[0], Failure):
            return False
        if isinstance(note.retry_on, bool):
            return True
        return isinstance(unpack_failure(values[0].error), note.retry_on)
