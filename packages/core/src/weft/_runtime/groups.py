"""Placement groups, as a process asks its daemon for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft._machines.ownership import ObjectMade, Sealed
from weft._serialize.failures import pack_error
from weft._serialize.pickling import dumps
from weft._wire import codec
from weft._wire.messages import Answer, Ask, Failure, Inline
from weft.exceptions import TaskPlacementGroupRemoved, UnschedulableError

if TYPE_CHECKING:
    from weft._ids import ObjectId, PlacementGroupId
    from weft._refs import ObjectRef
    from weft._runtime.leasing import Leasing
    from weft._runtime.links import Links
    from weft._runtime.questions import Questions
    from weft._specs import GroupSpec


class GroupRequests:
    """What an engine does for placement groups."""

    def __init__(self, links: Links, questions: Questions, leasing: Leasing) -> None:
        self._links = links
        self._questions = questions
        self._leasing = leasing
        self.waits_for: dict[ObjectId, PlacementGroupId] = {}
        """Objects that are there once their group is."""

    def create(self, spec: GroupSpec) -> None:
        """Create a group; see Engine."""
        never = codec.unpack(self._questions.ask("create_group", spec), str)
        if never:
            raise UnschedulableError(f"this placement group can never be placed: {never}")

    def remove(self, group: PlacementGroupId, reason: str) -> None:
        """Remove a group; see Engine."""
        with self._links.guard:
            self._links.refuse_if_ended()
            # Nothing more is sent to workers that end with the group.
            self._leasing.give_up_idle()
            self._links.tell_daemon(Ask(0, "remove_group", codec.pack((group, reason))))

    def when_ready(self, group: PlacementGroupId, value: Any) -> ObjectRef[Any]:
        """Return a reference to a value that is there once the group is; see Engine."""
        data = dumps(value).pack()
        object_id = self._links.ids.task_id().object_id(1)
        objects = self._links.objects
        with self._links.guard:
            self._links.refuse_if_ended()
            objects.drain()
            objects.handle(ObjectMade(object_id))
            ref = objects.ref(objects.machine.entries[object_id])
            self.waits_for[object_id] = group
            self._questions.ask_later(
                "group_ready", group, lambda answer: self._seal(object_id, data, answer)
            )
        return ref

    def _seal(self, object_id: ObjectId, data: bytes, answer: Answer) -> None:
        """A group is ready, or never will be."""
        del self.waits_for[object_id]
        value: Inline | Failure = Inline(data)
        if answer.error:
            value = Failure(pack_error(TaskPlacementGroupRemoved(answer.error)))
        self._links.objects.handle(Sealed(object_id, value))
