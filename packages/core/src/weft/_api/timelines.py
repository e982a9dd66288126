"""What ran when, for trace viewers: Chrome's trace events, of the records of tasks.

A node is a process of the trace, and a worker of it a thread. Times are of the worker's own clock:
between nodes they are as right as the clocks are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft._wire.codec import unpack
from weft._wire.records import NUMBER, TIME, Batch, SessionSnapshot, column

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from weft._specs import NodeReply

ALONE = "weft"


def trace_events(replies: Sequence[NodeReply]) -> list[dict[str, Any]]:
    """Return one event a task that has run, node by node the oldest first.

    `replies`: of all nodes to `tasks`. Those that are silent are left out.
    """
    events = [
        event
        for reply in replies
        if not reply.silent
        for packed in unpack(reply.bodies[0], SessionSnapshot).batches
        for event in _events(unpack(packed, Batch), reply.address)
    ]
    nodes = dict.fromkeys(event["pid"] for event in events)
    if list(nodes) in ([], [ALONE]):
        return events
    # A viewer wants a number, and shows the name that goes with it.
    number_of = {node: number for number, node in enumerate(nodes, 1)}
    for event in events:
        event["pid"] = number_of[event["pid"]]
    return [
        {"ph": "M", "name": "process_name", "pid": number, "args": {"name": f"node {node}"}}
        for node, number in number_of.items()
    ] + events


def _events(batch: Batch, told_by: str) -> Iterator[dict[str, Any]]:
    rows = zip(
        column(NUMBER, batch.numbers),
        column(TIME, batch.began_at),
        column(TIME, batch.ended_at),
        strict=True,
    )
    for row, (number, began_at, ended_at) in enumerate(rows):
        if began_at:
            what = batch.whats[int(number)]
            yield {
                "cat": "call" if what.actor else "task",
                "name": what.name,
                "ph": "X",
                "ts": began_at * 1e6,
                "dur": (ended_at - began_at) * 1e6,
                "pid": what.node or told_by or ALONE,
                "tid": what.pid,
                "args": {
                    "task_id": batch.id_at(row).hex(),
                    "state": "FAILED" if what.has_failed else "FINISHED",
                },
            }
