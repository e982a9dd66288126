"""Tasks out of what a session's processes have told.

A million records are quick to search, since what they have in common is looked at first, and only
records that are wanted are made.
"""

from __future__ import annotations

from collections import Counter
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from weft._resources import UNITS
from weft._wire.codec import unpack
from weft._wire.records import NUMBER, TIME, Batch, SessionSnapshot, TasksTold, column
from weft.util.state._filters import Test, select
from weft.util.state.common import (
    TaskState,
    TaskSummaries,
    TaskSummaryPerFuncOrClassName,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from weft._wire.records import BegunTask, OpenTask, What

_STATES = {
    "waiting": "PENDING_ARGS_AVAIL",
    "ready": "PENDING_NODE_ASSIGNMENT",
    "sent": "SUBMITTED_TO_WORKER",
}
_CREATION = ".__init__"
_TIMES = {
    "creation_time_ms": "made_at",
    "start_time_ms": "began_at",
    "end_time_ms": "ended_at",
}
_OF_A_ROW = {"task_id", "error_type", "error_message", *_TIMES}


class NodeTasks(NamedTuple):
    """What the processes of one node have told."""

    node_id: str
    told: SessionSnapshot


class _Submitter(NamedTuple):
    """Where a process is that has submitted tasks, and whose it is."""

    node_id: str
    job: bytes


class TaskTable:
    """The tasks of a session, at one moment."""

    def __init__(self, nodes: Sequence[NodeTasks], node_of: Mapping[str, str]) -> None:
        """`node_of`: the nodes' ids by their addresses."""
        self.dropped = sum(node.told.dropped for node in nodes)
        self._nodes = nodes
        self._node_of = node_of
        self.live = list(self._live())
        """Those that have not ended."""

    def batches(self) -> Iterator[tuple[_Submitter, Batch]]:
        """Yield the records of those that have ended, with whose they are; the newest first."""
        return merge(*map(_batches, self._nodes), key=_newest_first)

    # -------------------------------------------------------------- those that live

    def _live(self) -> Iterator[TaskState]:
        told_by = [
            (node, unpack(one.body, TasksTold))
            for node in self._nodes
            for one in node.told.told
            if one.body is not None
        ]
        # Who runs a task may be on another node than who has submitted it.
        begun = {task.task_id: task for _, body in told_by for task in body.begun}
        on_pages = {task_id for node in self._nodes for _, _, task_id in node.told.running}
        ended = {task_id for node in self._nodes for task_id in _late_ids(node)}
        for node, body in told_by:
            source = _Submitter(node.node_id, body.job)
            for task in body.open:
                if task.task_id in ended:
                    continue
                is_running = task.task_id in on_pages
                yield self._open(source, task, begun.get(task.task_id), is_running=is_running)

    def _open(
        self, source: _Submitter, task: OpenTask, begun: BegunTask | None, *, is_running: bool
    ) -> TaskState:
        state = _STATES[task.state]
        if begun is not None:
            state = "RUNNING_IN_GET" if begun.is_waiting else "RUNNING"
        elif is_running and task.state == "sent":
            state = "RUNNING"
        return TaskState(
            task_id=task.task_id.hex(),
            state=state,
            creation_time_ms=_ms(task.made_at),
            start_time_ms=_ms(begun.began_at) if begun is not None else None,
            required_resources=_amounts(task.what),
            **self._common(source, task.what),
        )

    # -------------------------------------------------------------- those that have ended

    def _common(self, source: _Submitter, what: What) -> dict[str, Any]:
        """Return the fields that tasks have in common, but for the state."""
        return {
            "attempt_number": what.attempt,
            "name": what.name,
            "type": _type(what),
            "func_or_class_name": what.function,
            "job_id": source.job.hex(),
            "node_id": self._node_of.get(what.node, "") if what.node else source.node_id,
            "actor_id": what.actor.hex() or None,
            "parent_task_id": what.parent.hex() or None,
            "worker_id": what.worker.hex() if what.pid else None,
            "worker_pid": what.pid or None,
            "call_site": what.site or None,
        }

    def find(self, task_id: str) -> TaskState | None:
        """Return a task."""
        for task in self.live:
            if task.task_id == task_id:
                return task
        try:
            wanted = bytes.fromhex(task_id)
        except ValueError:
            return None
        for source, batch in self.batches():
            row = batch.row_of(wanted)
            if row is not None:
                return next(self._made(source, batch, [row]))
        return None

    def of_actor(self, actor_id: str) -> list[TaskState]:
        """Return the newest of an actor's calls."""
        return self.select([Test("actor_id", actor_id.__eq__)], 100)[0]

    def select(self, wanted: Sequence[Test], limit: int) -> tuple[list[TaskState], int]:
        """Return the newest of the tasks that pass all tests, and how many do."""
        live = select(self.live, wanted)
        found = live[:limit]
        total = len(live)
        for source, batch in self.batches():
            rows = self._rows(source, batch, wanted)
            total += len(rows)
            found += self._made(source, batch, islice(reversed(rows), limit - len(found)))
        return found, total

    def _rows(self, source: _Submitter, batch: Batch, wanted: Sequence[Test]) -> Sequence[int]:
        common = [test for test in wanted if test.key not in _OF_A_ROW]
        fitting = set()
        for number, what in enumerate(batch.whats):
            fields = {
                **self._common(source, what),
                "state": _end(what),
                "required_resources": _amounts(what),
            }
            if all(test.passes(fields[test.key]) for test in common):
                fitting.add(number)
        if not fitting:
            return ()
        rows: Sequence[int] = range(len(batch.ids) // 16)
        if len(fitting) < len(batch.whats):
            numbers = column(NUMBER, batch.numbers)
            rows = [row for row, number in enumerate(numbers) if number in fitting]
        for test in wanted:
            if rows and test.key in _OF_A_ROW:
                rows = _passing(batch, rows, test)
        return rows

    def _made(self, source: _Submitter, batch: Batch, rows: Any) -> Iterator[TaskState]:
        numbers = column(NUMBER, batch.numbers)
        made, began, ended = (
            column(TIME, times) for times in (batch.made_at, batch.began_at, batch.ended_at)
        )
        for row in rows:
            what = batch.whats[int(numbers[row])]
            error = batch.errors.get(row)
            yield TaskState(
                task_id=batch.id_at(row).hex(),
                state=_end(what),
                creation_time_ms=_ms(made[row]),
                start_time_ms=_ms(began[row]) if began[row] else None,
                end_time_ms=_ms(ended[row]),
                error_type=error[0] if error else None,
                error_message=error[1] if error else None,
                required_resources=_amounts(what),
                **self._common(source, what),
            )

    # -------------------------------------------------------------- in numbers

    def summary(self, wanted: Sequence[Test]) -> TaskSummaries:
        """Count those that pass all tests, by function and state."""
        counts: dict[tuple[str, str], Counter[str]] = {}
        for task in select(self.live, wanted):
            key = (task.func_or_class_name, task.type)
            counts.setdefault(key, Counter())[task.state] += 1
        for source, batch in self.batches():
            numbers = column(NUMBER, batch.numbers)
            rows = self._rows(source, batch, wanted)
            found = numbers if len(rows) == len(numbers) else [numbers[row] for row in rows]
            for number, tasks in Counter(found).items():
                what = batch.whats[int(number)]
                counts.setdefault((what.function, _type(what)), Counter())[_end(what)] += tasks
        total = Counter(dict.fromkeys(("NORMAL_TASK", "ACTOR_TASK", "ACTOR_CREATION_TASK"), 0))
        for (_, kind), states in counts.items():
            total[kind] += states.total()
        return TaskSummaries(
            summary={
                function: TaskSummaryPerFuncOrClassName(
                    func_or_class_name=function, type=kind, state_counts=dict(states)
                )
                for (function, kind), states in sorted(
                    counts.items(), key=lambda item: -item[1].total()
                )
            },
            total_tasks=total["NORMAL_TASK"],
            total_actor_tasks=total["ACTOR_TASK"],
            total_actor_scheduled=total["ACTOR_CREATION_TASK"],
            dropped=self.dropped,
        )


def _batches(node: NodeTasks) -> Iterator[tuple[_Submitter, Batch]]:
    for body in reversed(node.told.batches):
        batch = unpack(body, Batch)
        yield _Submitter(node.node_id, batch.job), batch


def _newest_first(batch: tuple[_Submitter, Batch]) -> float:
    return -column(TIME, batch[1].ended_at)[-1]


def _late_ids(node: NodeTasks) -> Iterator[bytes]:
    """Yield what has ended since the first process of a node has told what was open."""
    for _, batch in islice(_batches(node), node.told.late):
        yield from (batch.id_at(row) for row in range(len(batch.ids) // 16))


def _passing(batch: Batch, rows: Sequence[int], test: Test) -> Sequence[int]:
    """Return those rows that pass a test of what each has for itself."""
    if test.key == "task_id":
        return [row for row in rows if test.passes(batch.id_at(row).hex())]
    if test.key in _TIMES:
        return _passing_times(column(TIME, getattr(batch, _TIMES[test.key])), rows, test)
    part = ("error_type", "error_message").index(test.key)
    if test.passes(None):
        errors = batch.errors
        return [row for row in rows if test.passes(errors[row][part] if row in errors else None)]
    failed = [row for row, error in batch.errors.items() if test.passes(error[part])]
    return sorted(set(rows).intersection(failed)) if failed else ()


def _passing_times(times: Sequence[float], rows: Sequence[int], test: Test) -> Sequence[int]:
    """As `_passing`, of a column of times. What is 0 never was."""
    if test.is_range and (first := min(times)):
        # Most batches are on one side of a time.
        ends = {test.passes(_ms(first)), test.passes(_ms(max(times)))}
        if len(ends) == 1:
            return rows if ends.pop() else ()
    passes = test.passes
    return [row for row in rows if passes(_ms(at) if (at := times[row]) else None)]


def _type(what: What) -> str:
    if not what.actor:
        return "NORMAL_TASK"
    return "ACTOR_CREATION_TASK" if what.function.endswith(_CREATION) else "ACTOR_TASK"


def _end(what: What) -> str:
    return "FAILED" if what.has_failed else "FINISHED"


def _amounts(what: What) -> dict[str, float]:
    return {name: amount / UNITS for name, amount in what.amounts}


def _ms(at_s: float) -> float:
    return round(at_s * 1000, 3)
