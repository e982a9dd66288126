"""What this process tells of itself when somebody looks at the session. Inside the guard."""

from __future__ import annotations

import linecache
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING

from weft._clock import monotonic, wall
from weft._ids import ActorId
from weft._runtime.recorder import what_now
from weft._wire.codec import pack
from weft._wire.messages import Failure, Inline, Inspected, Shared
from weft._wire.records import BegunTask, ObjectTold, OpenTask, TasksTold, ThreadTold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

    from weft._machines.attempts import Attempted
    from weft._machines.ownership import Entry
    from weft._runtime.peers import Peer
    from weft._runtime.running import Running
    from weft._runtime.runtime import Runtime
    from weft._runtime.submissions import Submission
    from weft._wire.messages import Inspect

MAX_FRAMES = 100


class Inspection:
    """Answers Inspect."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.running: Callable[[], Iterable[Running]] = lambda: ()
        """What runs in this process."""

    def on_inspect(self, peer: Peer, message: Inspect) -> None:
        tell = {"tasks": self._tasks, "objects": self._objects, "stacks": self._stacks}
        told = tell[message.what]()
        # What the daemon knows of segments is as new as the answer.
        self._runtime.objects.send_news()
        self._runtime.peers.send(peer, Inspected(message.request, pack(told)))

    # -------------------------------------------------------------- tasks

    def _tasks(self) -> TasksTold:
        self._runtime.recorder.send()
        elapsed_s = wall() - monotonic()
        begun = [
            BegunTask(
                now.task_id,
                now.began + elapsed_s,
                is_waiting=any(entry.value is None for entry in now.waits),
            )
            for now in self.running()
        ]
        opened = [_open_task(task) for task in self._open()]
        opened += [
            OpenTask(note.task_id, what_now(note, 0), note.made_at, "ready")
            for note in self._runtime.calling.creations()
        ]
        return TasksTold(opened, begun, self._runtime.job())

    def _open(self) -> Iterator[Attempted]:
        yield from self._runtime.leasing.tasks.open.values()
        yield from self._runtime.calling.calls.open.values()

    # -------------------------------------------------------------- objects

    def _objects(self) -> list[ObjectTold]:
        objects = self._runtime.objects
        objects.drain()
        entries = objects.machine.entries
        makers = {task.id: task for task in self._open()}
        in_arguments = Counter(
            ref._id
            for note in (
                *(task.note for task in makers.values()),
                *self._runtime.calling.makings(),
            )
            for ref in (*note.arguments.deps, *note.arguments.inner)
        )
        in_objects = Counter(
            held.object_id
            for entry in entries.values()
            if not entry.owner and entry.value is not None
            for held in entry.value.held
        )
        return [
            _object(
                entry,
                makers.get(entry.id.task_id()),
                in_arguments[entry.id],
                in_objects[entry.id],
                is_token=ActorId(entry.id) in self._runtime.calling.machine.callees,
            )
            for entry in entries.values()
        ]

    # -------------------------------------------------------------- stacks

    def _stacks(self) -> list[ThreadTold]:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        task_in = {now.thread: now.name or now.function for now in self.running()}
        return [
            ThreadTold(ident, names.get(ident, ""), task_in.get(ident, ""), frames_of(frame))
            for ident, frame in sys._current_frames().items()
        ]


def _open_task(task: Attempted) -> OpenTask:
    note: Submission = task.note
    return OpenTask(task.id, what_now(note, task.attempt), note.made_at, task.state)


def _object(
    entry: Entry, task: Attempted | None, in_arguments: int, in_objects: int, *, is_token: bool
) -> ObjectTold:
    value = entry.value
    segment, size_bytes = "", 0
    match value:
        case None:
            state = "unknown" if entry.owner else "pending"
        case Inline(data):
            state, size_bytes = "inline", len(data)
        case Shared(segment, size_bytes):
            state = "shared"
        case Failure(error):
            state, size_bytes = "failed", len(error)
    return ObjectTold(
        object_id=entry.id,
        owner=entry.owner,
        state="token" if is_token else state,
        size_bytes=size_bytes,
        segment=segment,
        local=entry.local,
        in_arguments=in_arguments,
        in_objects=in_objects,
        borrowers=len(entry.borrowers or ()),
        task=task.name if task is not None else "",
        task_state=task.state if task is not None else "",
    )


def frames_of(frame: FrameType | None) -> list[tuple[str, int, str, str]]:
    """Return (file, line, function, text) of a frame and those that called it, outermost first."""
    found: list[tuple[str, int, str, str]] = []
    while frame is not None and len(found) < MAX_FRAMES:
        code = frame.f_code
        line = frame.f_lineno or 0
        text = linecache.getline(code.co_filename, line, frame.f_globals).strip()
        found.append((code.co_filename, line, code.co_qualname, text))
        frame = frame.f_back
    return found[::-1]
