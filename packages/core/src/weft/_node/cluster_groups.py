"""The placement groups of a cluster, as one of its nodes sees them: control has them.

    a client's question   -> PlacementGroups, through the link -> Answer
    control's orders      -> reserving.py -> what it reports
    a demand for a group  -> PlacementGroups.Wait, until that is removed: then who waits is refused

What is always true
1. Each question is answered once, unless the link is closed.
2. A group that something here has asked for is followed until it is removed.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any

from weft._ids import PlacementGroupId
from weft._machines.leases import GroupGone
from weft._machines.placement import group_of
from weft._node.groups import NodeGroups, removed_in_words
from weft._node.reserving import Reserving
from weft._override import override
from weft._specs import GroupSpec
from weft._transport.control import messages
from weft._wire.codec import pack, unpack
from weft._wire.messages import Answer
from weft.exceptions import AuthenticationError, GetTimeoutError, RpcError

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._node.clients import Client, Clients
    from weft._node.control_link import ControlLink
    from weft._node.facts import NodeFacts
    from weft._node.rules import Rules
    from weft._specs import Shape

REMOVED_KEPT = 1_000
FOREVER = float("inf")
_SERVICE = "PlacementGroups"


class ClusterGroups(NodeGroups):
    """Asks control."""

    def __init__(
        self,
        facts: NodeFacts,
        rules: Rules,
        clients: Clients,
        link: ControlLink,
        ended: Callable[[PlacementGroupId, str], None],
    ) -> None:
        """`ended(group, reason)`: whoever waits for it waits in vain."""
        self._rules = rules
        self._clients = clients
        self._link = link
        self._ended = ended
        self.reserving = Reserving(facts, rules, link.report)
        self._followed: set[PlacementGroupId] = set()
        self._gone: OrderedDict[PlacementGroupId, str] = OrderedDict()
        """Why those are not there that were asked for."""

    # -------------------------------------------------------------- what clients ask

    @override
    def ask(self, client: Client, request: int, what: str, body: bytes) -> None:
        answer = partial(self._answer, client.worker_id, request)
        # What a client says is done in the order in which it said it; but one that has no name
        # waits for nothing.
        lane = (_SERVICE, client.worker_id)
        match what:
            case "create_group":
                spec = unpack(body, GroupSpec)
                made = partial(answer, lambda _: pack(""))
                order = lane if spec.name else None
                self._link.call(_SERVICE, "create", _message_of(spec), made, lane=order)
            case "remove_group":
                group, reason = unpack(body, tuple[PlacementGroupId, str])
                # Whoever removes it lets nobody in afterwards, though control hears of it later.
                self._is_gone(group, removed_in_words(group, reason))
                self._remove(group, lane)
            case "groups":
                told = partial(answer, lambda found: pack([*map(_describe, found.groups)]))
                self._link.call(_SERVICE, "list", messages.ListGroupsRequest(), told, lane=lane)
            case "why_group":
                asked = messages.GetGroupRequest(group_id=unpack(body, PlacementGroupId))
                self._link.call(_SERVICE, "get", asked, partial(answer, _in_words), lane=lane)
            case _:
                group = unpack(body, PlacementGroupId)
                if group in self._gone:
                    self._clients.send(client, Answer(request, b"", self._gone[group]))
                else:
                    self._wait(group, partial(answer, _check_ready), until_removed=False)

    def _answer(
        self, client: bytes, request: int, read: Callable[[Any], bytes], answer: Any
    ) -> None:
        body, error = b"", ""
        try:
            body = read(_checked(answer))
        except ValueError as refused:
            error = str(refused)
        self._clients.send_to(client, Answer(request, body, error))

    def _remove(self, group: PlacementGroupId, lane: object) -> None:
        removed = messages.RemoveGroupRequest(group_id=group)
        self._link.call(_SERVICE, "remove", removed, lane=lane, timeout_s=FOREVER)

    def _wait(
        self, group: PlacementGroupId, then: Callable[[Any], None], *, until_removed: bool
    ) -> None:
        asked = messages.WaitGroupRequest(group_id=group, until_removed=until_removed)
        self._link.call(_SERVICE, "wait", asked, then, timeout_s=FOREVER)

    @override
    def forget(self, client: bytes) -> None:
        pass  # What is answered to it is sent to nobody.

    @override
    def job_ended(self, job_id: bytes) -> None:
        pass  # Control hears of it from its jobs.

    # -------------------------------------------------------------- who demands what

    @override
    def refusal(self, shape: Shape) -> str:
        group = group_of(shape)
        if group is None:
            return ""
        if group in self._gone:
            return self._gone[group]
        if group not in self._followed:
            self._followed.add(group)
            self._wait(group, partial(self._was_removed, group), until_removed=True)
        return ""

    @override
    def state_of(self, shape: Shape) -> str:
        return ""

    def _was_removed(self, group: PlacementGroupId, answer: Any) -> None:
        self._followed.discard(group)
        try:
            reason = removed_in_words(group, _checked(answer).reason)
        except ValueError as refused:
            reason = str(refused)
        self._is_gone(group, reason)

    def _is_gone(self, group: PlacementGroupId, reason: str) -> None:
        """Refuse all that waits for a group, and what comes for it later."""
        if group in self._gone:
            return
        self._gone[group] = reason
        if len(self._gone) > REMOVED_KEPT:
            self._gone.popitem(last=False)
        self._rules.tell_leases(GroupGone(group, reason))
        self._ended(group, reason)

    # -------------------------------------------------------------- time

    @override
    def wake_at(self) -> float | None:
        return self.reserving.wake_at()

    @override
    def tick(self) -> None:
        self.reserving.tick()


def _message_of(spec: GroupSpec) -> messages.CreateGroupRequest:
    return messages.CreateGroupRequest(
        header=messages.Header(),
        group_id=spec.group_id,
        name=spec.name,
        namespace=spec.namespace,
        strategy=spec.strategy,
        bundles=[
            messages.Bundle(amounts=dict(bundle.amounts), labels=dict(bundle.labels))
            for bundle in spec.bundles
        ],
        job_id=spec.job_id,
        is_detached=spec.is_detached,
    )


def _checked(answer: Any) -> Any:
    """Return an answer. ValueError: it is an error."""
    if isinstance(answer, RpcError | GetTimeoutError | AuthenticationError):
        raise ValueError(str(answer).removeprefix(_SERVICE).partition(": ")[2] or str(answer))  # noqa: TRY004 - as of any question
    return answer


def _check_ready(found: messages.PlacementGroup) -> bytes:
    if found.state == messages.GROUP_REMOVED:
        raise ValueError(removed_in_words(PlacementGroupId(found.group_id), found.reason))
    return b""


def _state(found: messages.PlacementGroup) -> str:
    name: str = messages.GroupState.Name(found.state)
    return name.removeprefix("GROUP_").lower()


def _in_words(found: messages.PlacementGroup) -> bytes:
    state = _state(found)
    words = f"{state}: {found.reason}" if state == "removed" else found.reason or state
    return words.encode()


def _describe(found: messages.PlacementGroup) -> dict[str, Any]:
    return {
        "group_id": found.group_id.hex(),
        "name": found.name,
        "namespace": found.namespace,
        "strategy": found.strategy,
        "state": _state(found),
        "reason": found.reason,
        "is_detached": not found.job_id,
        "job_id": found.job_id.hex(),
        "bundles": [
            {
                "amounts": dict(bundle.amounts),
                "labels": dict(bundle.labels),
                "node_id": bundle.node_id.hex(),
            }
            for bundle in found.bundles
        ],
    }
