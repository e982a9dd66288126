"""The placement groups of a cluster, as one of its nodes sees them: control has them.

    create, remove, ready -> group_line.py -> Answer
    what is told of all   -> PlacementGroups, through the link -> Answer
    control's orders      -> reserving.py -> what it reports
    a demand for a group  -> group_line.py, until that is removed: then who waits is refused

What is always true
1. Each question is answered once, unless the link is closed.
2. A group that something here has asked for is followed until it is removed.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any

from weft._ids import PlacementGroupId
from weft._machines.bundles import removed_in_words
from weft._machines.leases import GroupGone
from weft._machines.placement import group_of
from weft._node.control_link import patience_of
from weft._node.group_line import GroupLine
from weft._node.groups import NodeGroups
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
    from weft._wire.lines import GroupChanged

REMOVED_KEPT = 1_000
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
        self._line = GroupLine(link, self._changed)
        self._ready: set[PlacementGroupId] = set()
        """Of those that are followed."""
        self._waiting: dict[PlacementGroupId, list[tuple[bytes, int]]] = {}
        """By group: (client, request) of those that want to know when it is ready."""
        self._gone: OrderedDict[PlacementGroupId, str] = OrderedDict()
        """Why those are not there that were asked for."""

    # -------------------------------------------------------------- what clients ask

    @override
    def ask(self, client: Client, request: int, what: str, body: bytes) -> None:
        answer = partial(self._answer, client.worker_id, request)
        match what:
            case "create_group":
                created = partial(self._created, client.worker_id, request)
                self._line.create(unpack(body, GroupSpec).group_id, body, created)
            case "remove_group":
                group, reason = unpack(body, tuple[PlacementGroupId, str])
                # Whoever removes it lets nobody in afterwards, though control hears of it later.
                self._is_gone(group, removed_in_words(group, reason))
                self._line.remove(group)
            case "groups":
                told = partial(answer, lambda found: pack([*map(_describe, found.groups)]))
                self._ask(client, "list", messages.ListGroupsRequest(), told)
            case "why_group":
                asked = messages.GetGroupRequest(group_id=unpack(body, PlacementGroupId))
                self._ask(client, "get", asked, partial(answer, _in_words))
            case _:
                self._ask_ready(client, request, unpack(body, PlacementGroupId))

    def _ask(self, client: Client, method: str, request: Any, then: Callable[[Any], None]) -> None:
        """Ask once what was said before is done."""
        timeout_s = patience_of(client)
        self._line.after(
            lambda: self._link.call(_SERVICE, method, request, then, timeout_s=timeout_s)
        )

    def _created(self, client: bytes, request: int, refusal: str) -> None:
        self._clients.send_to(client, Answer(request, b"" if refusal else pack(""), refusal))

    def _ask_ready(self, client: Client, request: int, group: PlacementGroupId) -> None:
        if group in self._ready or group in self._gone:
            self._clients.send(client, Answer(request, b"", self._gone.get(group, "")))
        else:
            self._waiting.setdefault(group, []).append((client.worker_id, request))
            self._line.follow(group)

    def _answer(
        self, client: bytes, request: int, read: Callable[[Any], bytes], answer: Any
    ) -> None:
        body, error = b"", ""
        try:
            body = read(_checked(answer))
        except ValueError as refused:
            error = str(refused)
        self._clients.send_to(client, Answer(request, body, error))

    @override
    def forget(self, client: bytes) -> None:
        for group, asks in list(self._waiting.items()):
            self._waiting[group] = [ask for ask in asks if ask[0] != client]

    @override
    def fenced(self) -> None:
        self._line.fenced()
        super().fenced()

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
        self._line.follow(group)
        return ""

    @override
    def state_of(self, shape: Shape) -> str:
        return ""

    def _changed(self, change: GroupChanged) -> None:
        group = PlacementGroupId(change.group)
        self._ready.discard(group)
        match change.state:
            case "ready":
                self._ready.add(group)
                self._answer_waiting(group, "")
            case "removed":
                self._is_gone(group, removed_in_words(group, change.reason))
            case "missing":
                self._is_gone(group, f"no placement group {group.hex()} is known here")
            case _:
                pass

    def _answer_waiting(self, group: PlacementGroupId, error: str) -> None:
        for client, request in self._waiting.pop(group, ()):
            self._clients.send_to(client, Answer(request, b"", error))

    def _is_gone(self, group: PlacementGroupId, reason: str) -> None:
        """Refuse all that waits for a group, and what comes for it later."""
        if group in self._gone:
            return
        self._gone[group] = reason
        if len(self._gone) > REMOVED_KEPT:
            self._gone.popitem(last=False)
        self._answer_waiting(group, reason)
        self._rules.tell_leases(GroupGone(group, reason))
        self._ended(group, reason)

    # -------------------------------------------------------------- time

    @override
    def wake_at(self) -> float | None:
        return self.reserving.wake_at()

    @override
    def tick(self) -> None:
        self.reserving.tick()


def _checked(answer: Any) -> Any:
    """Return an answer. ValueError: it is an error."""
    if isinstance(answer, GetTimeoutError):
        raise ValueError(str(answer))  # noqa: TRY004 - as of any question
    if isinstance(answer, RpcError | AuthenticationError):
        raise ValueError(str(answer).removeprefix(_SERVICE).partition(": ")[2] or str(answer))  # noqa: TRY004 - as of any question
    return answer


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
        "topology": found.topology,
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
