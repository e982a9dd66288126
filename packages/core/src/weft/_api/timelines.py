"""What ran when, for trace viewers: Chrome's trace events, of the records of tasks."""

from __future__ import annotations

from typing import Any

from weft._wire.codec import unpack
from weft._wire.records import NUMBER, TIME, Batch, SessionSnapshot, column


def trace_events(body: bytes) -> list[dict[str, Any]]:
    """Return one event a task that has run, the oldest first; `body`: the answer to `tasks`."""
    events = []
    for packed in unpack(body, SessionSnapshot).batches:
        batch = unpack(packed, Batch)
        rows = zip(
            column(NUMBER, batch.numbers),
            column(TIME, batch.began_at),
            column(TIME, batch.ended_at),
            strict=True,
        )
        for row, (number, began_at, ended_at) in enumerate(rows):
            if began_at:
                what = batch.whats[int(number)]
                events.append(
                    {
                        "cat": "call" if what.actor else "task",
                        "name": what.name,
                        "ph": "X",
                        "ts": began_at * 1e6,
                        "dur": (ended_at - began_at) * 1e6,
                        "pid": "weft",
                        "tid": what.pid,
                        "args": {
                            "task_id": batch.id_at(row).hex(),
                            "state": "FAILED" if what.has_failed else "FINISHED",
                        },
                    }
                )
    return events
