"""The service PlacementGroups."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, get_args

from weft._control.calls.desk import RefusedError, an_id, an_id_or_none, invalid, missing
from weft._ids import PlacementGroupId
from weft._machines.bundle_plans import BundleSpec, Strategy
from weft._machines.bundles import GroupCreated, GroupFacts, GroupRemoved
from weft._resources import Resources
from weft._transport.control import messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from weft._control.bells import Listener
    from weft._control.calls.desk import Desk
    from weft._machines.groups import Groups
    from weft._machines.rulings import Ruling

BUNDLES = 10_000
"""Of one group."""
_SAID = ("said", b"")
"""Rung when a command was answered, and when nothing more is asked."""
_WAITS, _MISSING = "waits", "missing"
_STRATEGIES: dict[str, Strategy] = {name: name for name in get_args(Strategy)}


class GroupCalls:
    """Answers what is asked of placement groups."""

    def __init__(self, desk: Desk, groups: Groups) -> None:
        self._desk = desk
        self._groups = groups

    async def create(self, request: messages.CreateGroupRequest, _: Any) -> messages.Done:
        """Create a group; it is ready later."""
        await self._desk.do(_creation(request), request.header)
        return messages.Done()

    async def remove(self, request: messages.RemoveGroupRequest, _: Any) -> messages.Done:
        """Remove a group; one that is not there is removed already."""
        await self._desk.do(_removal(request), request.header)
        return messages.Done()

    async def get(self, request: messages.GetGroupRequest, _: Any) -> messages.PlacementGroup:
        """Return in what state a group is."""
        self._desk.read()
        return self._message(self._find(request))

    async def list(self, _: messages.ListGroupsRequest, __: Any) -> messages.ListGroupsAnswer:
        """Return all groups that are remembered."""
        self._desk.read()
        found = (self._groups.facts(group) for group in self._groups.groups())
        return messages.ListGroupsAnswer(groups=[self._message(each) for each in found if each])

    async def watch(
        self, request: messages.GetGroupRequest, _: Any
    ) -> AsyncIterator[messages.PlacementGroup]:
        """Yield a group as it is, then at each change until it is removed."""
        self._desk.read()
        group = self._find(request).created.group
        with self._desk.bells.listen() as listener:
            listener.follow([("group", group)])
            while True:
                await listener.wait_rung()
                self._desk.read()
                facts = self._groups.facts(group)
                if facts is None:
                    return  # It was removed so long ago that it is forgotten.
                yield self._message(facts)
                if facts.state == "removed":
                    return

    async def follow(
        self, requests: AsyncIterator[messages.GroupRequests], _: Any
    ) -> AsyncIterator[messages.GroupNews]:
        """Do what is asked, in order, and tell of the groups that are followed."""
        with self._desk.bells.listen() as listener:
            following = _Following(self._desk, self._groups, listener)
            reader = asyncio.create_task(following.read(requests))
            reader.add_done_callback(lambda _: listener.ring(_SAID))
            try:
                while not reader.done():
                    rung = await listener.wait_rung()
                    self._desk.read()
                    news = following.news(rung)
                    if news.answers or news.changes:
                        yield news
                reader.result()
            finally:
                if not reader.cancel() and not reader.cancelled():
                    reader.exception()  # It was told, or nobody is there to be told.

    def _find(self, request: messages.GetGroupRequest) -> GroupFacts:
        if request.WhichOneof("which") == "name":
            name = request.name
            group = self._groups.named(name.name, name.namespace)
            what = f"named {name.name!r} is in namespace {name.namespace!r}"
        else:
            group = _group_id(request.group_id)
            what = f"{group.hex()} is known here"
        facts = self._groups.facts(group) if group else None
        if facts is None:
            raise missing(f"no placement group {what}")
        return facts

    def _message(self, facts: GroupFacts) -> messages.PlacementGroup:
        created, now = facts.created, self._desk.service.now
        waits = facts.state not in ("ready", "removed")
        return messages.PlacementGroup(
            group_id=created.group,
            name=created.name,
            namespace=created.namespace,
            strategy=created.strategy,
            state=_state(facts.state),
            bundles=[
                messages.Bundle(
                    amounts=spec.amounts,
                    labels=dict(spec.labels),
                    node_id=facts.places.get(index, b""),
                )
                for index, spec in enumerate(created.bundles)
            ],
            reason=self._groups.explain(created.group, now) if waits else facts.reason,
            job_id=created.owner,
        )


class _Following:
    """What is asked on one stream."""

    def __init__(self, desk: Desk, groups: Groups, listener: Listener) -> None:
        self._desk = desk
        self._groups = groups
        self._listener = listener
        self._answers: list[messages.GroupAnswer] = []
        self._told: dict[PlacementGroupId, str] = {}
        """By group: what was told of it last."""

    async def read(self, requests: AsyncIterator[messages.GroupRequests]) -> None:
        """Do what is asked."""
        async for together in requests:
            for request in together.requests:
                self._take(request)

    def _take(self, request: messages.GroupRequest) -> None:
        match request.WhichOneof("what"):
            case "create":
                group = PlacementGroupId(request.create.group_id)
                self._do(request.create, _creation, lambda: self._follow(group, _WAITS))
            case "remove":
                self._do(request.remove, _removal, lambda: None)
            case _:
                self._follow(_group_id(request.follow), "")

    def _do(self, asked: Any, command: Callable[[Any], Any], done: Callable[[], None]) -> None:
        number = asked.header.id.number

        def answered(ruling: asyncio.Future[Ruling]) -> None:
            if ruling.exception() is None:  # Else the service has ended, and so does the stream.
                if not ruling.result().code:
                    done()
                self._answer(number, ruling.result().reason)

        try:
            self._desk.begin(command(asked), asked.header).add_done_callback(answered)
        except RefusedError as refused:
            self._answer(number, refused.answer.reason)

    def _answer(self, number: int, refusal: str) -> None:
        self._answers.append(messages.GroupAnswer(number=number, refusal=refusal))
        self._listener.ring(_SAID)

    def _follow(self, group: PlacementGroupId, told: str) -> None:
        self._told[group] = told
        try:
            self._listener.follow([("group", group)])
        except ValueError as error:
            raise invalid(str(error)) from None

    def news(self, rung: list[Any]) -> messages.GroupNews:
        """Return what there is to be told."""
        changes = [self._change(key[1]) for key in rung if key is not _SAID]
        answers, self._answers = self._answers, []
        return messages.GroupNews(answers=answers, changes=[each for each in changes if each])

    def _change(self, group: PlacementGroupId) -> messages.GroupChange | None:
        facts = self._groups.facts(group)
        state = facts.state if facts is not None else _MISSING
        now = _WAITS if state not in (_MISSING, "ready", "removed") else state
        if self._told.get(group) == now:
            return None
        self._told[group] = now
        change = messages.GroupChange(group_id=group)
        if facts is not None:
            change.state = _state(state)
        if facts is None or state == "removed":
            change.reason = facts.reason if facts is not None else ""
            del self._told[group]
            self._listener.leave([("group", group)])
        return change


def _creation(request: messages.CreateGroupRequest) -> GroupCreated:
    strategy = _STRATEGIES.get(request.strategy)
    if strategy is None:
        raise invalid(f"strategy {request.strategy!r}: it is one of {', '.join(_STRATEGIES)}")
    if len(request.bundles) > BUNDLES:
        raise invalid(f"a group of {len(request.bundles)} bundles: {BUNDLES} are the most")
    job = an_id_or_none(request.job_id, "job")
    return GroupCreated(
        _group_id(request.group_id),
        tuple(
            BundleSpec(Resources.of_units(each.amounts), tuple(sorted(each.labels.items())))
            for each in request.bundles
        ),
        strategy,
        b"" if request.is_detached else job,
        request.name,
        request.namespace,
    )


def _removal(request: messages.RemoveGroupRequest) -> GroupRemoved:
    return GroupRemoved(_group_id(request.group_id), "it was removed")


def _state(state: str) -> messages.GroupState:
    found: messages.GroupState = messages.GroupState.Value(f"GROUP_{state.upper()}")
    return found


def _group_id(value: bytes) -> PlacementGroupId:
    return PlacementGroupId(an_id(value, "placement group"))
