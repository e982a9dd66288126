"""Tasks out of what processes have told, where their answers overlap."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from weft._wire.codec import pack
from weft._wire.records import (
    BegunTask,
    OpenTask,
    ProcessTold,
    SessionSnapshot,
    TasksTold,
    What,
    pack_columns,
)
from weft.util.state import _filters
from weft.util.state._tasks import NodeTasks, TaskTable
from weft.util.state.common import TaskState

WHAT = What("f", "f", b"", b"", b"w" * 16, 7, 0, False, ())
OWNER = b"o" * 16
IDS = [bytes([number]) * 16 for number in range(4)]


def batch(*ids: bytes) -> bytes:
    rows = [(one, 1.0, 2.0, 3.0, ()) for one in ids]
    return pack_columns(OWNER, zip(*rows, strict=True), {}, lambda _: WHAT)


def table(late: int) -> TaskTable:
    told = TasksTold([OpenTask(one, WHAT, 1.0, "sent") for one in IDS[2:]], [])
    snapshot = SessionSnapshot(
        [ProcessTold(OWNER, 7, "driver", pack(told))],
        batches=[batch(*IDS[:2]), batch(IDS[2])],
        late=late,
    )
    return TaskTable([NodeTasks("here", snapshot)], {})


def test_task_that_ended_while_others_were_asked_is_listed_once() -> None:
    found, total = table(late=1).select([], 10)
    assert total == len(IDS)
    assert [(task.task_id[:2], task.state) for task in found] == [
        ("03", "SUBMITTED_TO_WORKER"),
        ("02", "FINISHED"),
        ("01", "FINISHED"),
        ("00", "FINISHED"),
    ]
    assert sum(table(late=1).summary([]).summary["f"].state_counts.values()) == len(IDS)


def test_tasks_of_several_nodes_are_listed_the_newest_first() -> None:
    def told_at(node: str, *ended: float) -> NodeTasks:
        rows = [(bytes([int(at)]) * 16, 0.5, 0.6, at, ()) for at in ended]
        batches = [pack_columns(OWNER, zip(row, strict=True), {}, far) for row in rows]
        return NodeTasks(node, SessionSnapshot([], batches=batches, dropped=1))

    def far(_: object) -> What:
        return msgspec.structs.replace(WHAT, node="10.0.0.9:7")

    nodes = [told_at("a", 1.0, 4.0), told_at("b", 2.0, 3.0, 5.0)]
    listed, total = TaskTable(nodes, {"10.0.0.9:7": "c"}).select([], 4)
    assert total == 5
    assert [task.end_time_ms for task in listed] == [5000, 4000, 3000, 2000]
    assert {task.node_id for task in listed} == {"c"}
    assert TaskTable(nodes, {}).dropped == 2
    found = TaskTable(nodes, {}).find((b"\x03" * 16).hex())
    assert found is not None
    assert found.node_id == ""  # That node is forgotten.


def test_task_runs_where_another_node_says_that_it_does() -> None:
    job = b"j" * 16
    opened = TasksTold([OpenTask(one, WHAT, 1.0, "sent") for one in IDS[:3]], [], job)
    begun = TasksTold([], [BegunTask(IDS[0], 2.0, is_waiting=False)])
    there = SessionSnapshot(
        [ProcessTold(b"w" * 16, 8, "worker", pack(begun))], [(b"v" * 16, 9, IDS[1])]
    )
    here = SessionSnapshot([ProcessTold(OWNER, 7, "driver", pack(opened))])
    live = TaskTable([NodeTasks("here", here), NodeTasks("there", there)], {}).live
    assert [task.state for task in live] == ["RUNNING", "RUNNING", "SUBMITTED_TO_WORKER"]
    assert {task.job_id for task in live} == {job.hex()}


def test_task_that_runs_again_is_listed_beside_what_it_was() -> None:
    assert [task.state for task in table(late=0).live] == ["SUBMITTED_TO_WORKER"] * 2


# ------------------------------------------------------------------ filters, against a plain way

SECONDS = st.integers(1, 5).map(float)
NEVER = 0.0
"""When a task began that did not."""
ERRORS = st.sampled_from([None, ("KeyError", "a"), ("ValueError", "b")])
ROWS = st.lists(
    st.tuples(SECONDS, st.just(NEVER) | SECONDS, SECONDS, ERRORS, st.sampled_from("fg")),
    max_size=12,
)
FIELDS = {
    "creation_time_ms": st.integers(0, 6).map(lambda at_s: at_s * 1000),
    "start_time_ms": st.one_of(st.none(), st.integers(0, 6).map(lambda at_s: at_s * 1000)),
    "task_id": st.integers(0, 12).map(lambda number: bytes([number] * 16).hex()),
    "error_type": st.sampled_from([None, "KeyError", "ValueError"]),
    "error_message": st.sampled_from([None, "a", "b"]),
    "name": st.sampled_from("fgh"),
    "state": st.sampled_from(["FINISHED", "failed"]),
}
FILTERS = st.one_of(
    *(
        st.tuples(st.just(key), st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), values)
        for key, values in FIELDS.items()
    ),
    *(
        st.tuples(st.just(key), st.just("in"), st.lists(values, max_size=3))
        for key, values in FIELDS.items()
    ),
)


def what_of(key: tuple[Any, ...]) -> What:
    name, has_failed = key
    return What(name, name, b"", b"", b"w" * 16, 7, 0, has_failed, ())


def ended(rows: list[Any], rows_in_a_batch: int) -> TaskTable:
    batches = []
    for begin in range(0, len(rows), rows_in_a_batch):
        some = rows[begin : begin + rows_in_a_batch]
        packed = [
            (bytes([begin + index]) * 16, *times, (name, error is not None))
            for index, (*times, error, name) in enumerate(some)
        ]
        errors = {index: row[3] for index, row in enumerate(some) if row[3] is not None}
        batches.append(pack_columns(OWNER, zip(*packed, strict=True), errors, what_of))
    return TaskTable([NodeTasks("", SessionSnapshot([], batches=batches))], {})


@given(ROWS, st.integers(1, 4), st.lists(FILTERS, max_size=3), st.integers(1, 12))
def test_filters_find_what_a_look_at_every_record_finds(
    rows: list[Any], rows_in_a_batch: int, filters: list[Any], limit: int
) -> None:
    table = ended(rows, rows_in_a_batch)
    wanted = _filters.tests(filters, TaskState)
    every, _ = table.select([], len(rows) or 1)
    plainly = _filters.select(every, wanted)
    assert table.select(wanted, limit) == (plainly[:limit], len(plainly))
