"""What the inline engine tells when somebody looks at its session."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any

from weft._clock import wall
from weft._lazy import lazy
from weft._runtime.inline_calls import here

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from weft._ids import JobId, WorkerId
    from weft._runtime import inspection
    from weft._runtime.inline_actors import InlineActor
    from weft._runtime.inline_calls import InlineCall
    from weft._wire import codec, records
    from weft._wire.records import ProcessTold, Row, What
else:
    # Nobody waits for them at the beginning of a program.
    inspection = lazy("weft._runtime.inspection")
    codec = lazy("weft._wire.codec")
    records = lazy("weft._wire.records")

# How many ended tasks are remembered.
RECORDS = 20_000
BATCH_ROWS = 1000


class InlineRecords:
    """What became of an inline session's tasks, and what runs now."""

    def __init__(self, me: WorkerId, job: JobId) -> None:
        self._me = me
        self._job = job
        self._ended: deque[tuple[Row, tuple[str, str] | None]] = deque(maxlen=RECORDS)
        self._count = 0
        self.began_at = wall()

    def add(self, call: InlineCall) -> None:
        """A call has ended."""
        row = (call.task_id, call.made_at, call.began_at, call.ended_at, _key(call))
        self._count += 1
        self._ended.append((row, call.error))

    def tasks(self) -> bytes:
        """Return the answer to `tasks`: the ended, and those that the calling code is part of."""
        running = list(here.get().ancestors()) if here.get() is not None else []  # type: ignore[union-attr]  # it is not None
        told = records.TasksTold(
            [
                records.OpenTask(call.task_id, _what(_key(call)), call.made_at, "sent")
                for call in running
            ],
            [records.BegunTask(call.task_id, call.began_at, is_waiting=False) for call in running],
            self._job,
        )
        ended = list(self._ended)
        batches = [self._batch(some) for some in _batched(ended)]
        return codec.pack(
            records.SessionSnapshot(
                [self._told(told)], batches=batches, dropped=self._count - len(ended)
            )
        )

    def _batch(self, some: list[tuple[Row, tuple[str, str] | None]]) -> bytes:
        errors = {index: error for index, (_, error) in enumerate(some) if error is not None}
        columns = zip(*(row for row, _ in some), strict=True)
        return records.pack_columns(self._me, columns, errors, _what, job=self._job)

    def _told(self, body: object) -> ProcessTold:
        return records.ProcessTold(self._me, os.getpid(), "driver", codec.pack(body))

    def stacks(self) -> bytes:
        """Return the answer to `stacks`."""
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        threads = [
            records.ThreadTold(ident, names.get(ident, ""), "", inspection.frames_of(frame))
            for ident, frame in sys._current_frames().items()
        ]
        return codec.pack(records.SessionSnapshot([self._told(threads)]))


def _batched(
    rows: list[tuple[Row, tuple[str, str] | None]],
) -> Iterator[list[tuple[Row, tuple[str, str] | None]]]:
    left = iter(rows)
    while some := list(islice(left, BATCH_ROWS)):
        yield some


def _key(call: InlineCall) -> tuple[Any, ...]:
    return (
        call.name,
        call.function_name,
        call.actor.meta.actor_id if call.actor is not None else b"",
        call.parent.task_id if call.parent is not None else b"",
        max(0, call.attempts - 1),
        call.error is not None,
        call.shape.amounts if call.shape is not None else (),
        call.site,
    )


def _what(key: tuple[Any, ...]) -> What:
    name, function, actor, parent, attempt, has_failed, amounts, site = key
    return records.What(
        name, function, actor, parent, b"", os.getpid(), attempt, has_failed, amounts, site
    )


def describe_actors(actors: Iterable[InlineActor]) -> list[dict[str, Any]]:
    """Return the answer to `actors`."""
    return [
        {
            "actor_id": bytes(actor.meta.actor_id),
            "class_name": actor.meta.class_name,
            "name": actor.meta.name,
            "namespace": actor.meta.namespace,
            "is_detached": actor.options.lifetime == "detached",
            "amounts": actor.shape.amounts,
            "state": actor.state,
            "worker": b"",
            "pid": os.getpid() if actor.state == "alive" else 0,
            "restarts": actor.restarts,
            "cause": str(actor.cause or ""),
        }
        for actor in actors
    ]
