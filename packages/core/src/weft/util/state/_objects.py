"""Objects out of what a session's processes, and the index of its store, have told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from weft._wire.codec import unpack
from weft._wire.records import ObjectTold, SessionSnapshot
from weft.util.state.common import ObjectState, ObjectSummaries, ObjectSummaryPerKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from weft._wire.records import ProcessTold

_STATES = {
    "waiting": "PENDING_ARGS_AVAIL",
    "ready": "PENDING_NODE_ASSIGNMENT",
    "sent": "SUBMITTED_TO_WORKER",
}
_PLACES = {
    "pending": "pending",
    "inline": "heap",
    "token": "heap",
    "failed": "failed",
    "unknown": "owner",
}
_LABELS = {"token": "an actor's handle", "failed": "a failed task"}
_MEGABYTE = 1_000_000


class NodeObjects(NamedTuple):
    """What one node has told."""

    node_id: str
    told: SessionSnapshot
    segments: list[dict[str, Any]]
    """Of its store."""


def states(nodes: Sequence[NodeObjects]) -> Iterator[ObjectState]:
    """Yield the objects, as each process has told of them."""
    # An owner knows what its object is called on the node where it was made.
    segment_of = {segment["name"]: segment for node in nodes for segment in node.segments}
    for node in nodes:
        for one in node.told.told:
            if one.body is not None:
                for told in unpack(one.body, list[ObjectTold]):
                    yield _state(node.node_id, one, told, segment_of.get(told.segment, {}))


def _state(
    node_id: str, process: ProcessTold, told: ObjectTold, segment: dict[str, Any]
) -> ObjectState:
    place = _PLACES.get(told.state)
    if place is None:
        place = "disk" if segment.get("state") == "disk" else "memory"
    return ObjectState(
        object_id=told.object_id.hex(),
        object_size=told.size_bytes,
        task_status=_STATES.get(told.task_state, "NIL"),
        reference_type=_reference_type(told),
        place=place,
        call_site=segment.get("site", ""),
        label=segment.get("label", "") or told.task or _LABELS.get(told.state, ""),
        type=process.role.upper(),
        node_id=node_id,
        pid=process.pid,
        is_owner=not told.owner,
        local_references=told.local,
        argument_references=told.in_arguments,
        container_references=told.in_objects,
        borrowers=told.borrowers,
    )


def _reference_type(told: ObjectTold) -> str:
    if told.state == "token":
        return "ACTOR_HANDLE"
    if told.in_arguments:
        return "USED_BY_PENDING_TASK"
    if told.in_objects:
        return "CAPTURED_IN_OBJECT"
    return "LOCAL_REFERENCE" if told.local else "BORROWED"


def summary(objects: Iterable[ObjectState]) -> ObjectSummaries:
    """Add up what owners have, by the place that made it; where that is not known, by its label."""
    groups: dict[str, list[ObjectState]] = {}
    for each in objects:
        if each.is_owner:
            groups.setdefault(each.call_site or each.label or "unknown", []).append(each)
    rows = {key: _per_key(found) for key, found in groups.items()}
    ordered = dict(sorted(rows.items(), key=lambda item: -item[1].total_size_mb))
    return ObjectSummaries(
        summary=ordered,
        total_objects=sum(row.total_objects for row in rows.values()),
        total_size_mb=sum(row.total_size_mb for row in rows.values()),
    )


def _per_key(found: list[ObjectState]) -> ObjectSummaryPerKey:
    return ObjectSummaryPerKey(
        total_objects=len(found),
        total_size_mb=sum(each.object_size for each in found) / _MEGABYTE,
        total_num_workers=len({(each.node_id, each.pid) for each in found}),
        total_num_nodes=len({each.node_id for each in found}),
        place_counts=_tally(each.place for each in found),
        ref_type_counts=_tally(each.reference_type for each in found),
        task_state_counts=_tally(each.task_status for each in found),
    )


def _tally(words: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    return counts
