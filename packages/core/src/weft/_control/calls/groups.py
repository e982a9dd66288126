"""The service PlacementGroups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from weft._control.calls.desk import an_id, an_id_or_none, invalid, missing
from weft._ids import JobId, PlacementGroupId
from weft._machines.bundle_plans import BundleSpec, Strategy
from weft._machines.bundles import GroupCreated, GroupFacts, GroupRemoved
from weft._resources import Resources
from weft._specs import GroupSpec, Shape
from weft._transport.control import messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from weft._control.calls.desk import Desk
    from weft._machines.groups import Groups

BUNDLES = 10_000
"""Of one group."""
_STRATEGIES: dict[str, Strategy] = {name: name for name in get_args(Strategy)}


class GroupCalls:
    """Answers what is asked of placement groups."""

    def __init__(self, desk: Desk, groups: Groups) -> None:
        self._desk = desk
        self._groups = groups

    async def create(self, request: messages.CreateGroupRequest, _: Any) -> messages.Done:
        """Create a group; it is ready later."""
        await self._desk.do(created_of(_spec_of(request)), request.header)
        return messages.Done()

    async def remove(self, request: messages.RemoveGroupRequest, _: Any) -> messages.Done:
        """Remove a group; one that is not there is removed already."""
        await self._desk.do(removal_of(_group_id(request.group_id)), request.header)
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
            topology=created.topology,
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


def created_of(spec: GroupSpec) -> GroupCreated:
    """Return the command that creates a group. RefusedError: it makes no sense."""
    strategy = _STRATEGIES.get(spec.strategy)
    if strategy is None:
        raise invalid(f"strategy {spec.strategy!r}: it is one of {', '.join(_STRATEGIES)}")
    if len(spec.bundles) > BUNDLES:
        raise invalid(f"a group of {len(spec.bundles)} bundles: {BUNDLES} are the most")
    return GroupCreated(
        spec.group_id,
        tuple(
            BundleSpec(Resources.of_units(dict(each.amounts)), tuple(sorted(each.labels)))
            for each in spec.bundles
        ),
        strategy,
        b"" if spec.is_detached else bytes(spec.job_id),
        spec.name,
        spec.namespace,
        spec.topology,
    )


def _spec_of(request: messages.CreateGroupRequest) -> GroupSpec:
    return GroupSpec(
        _group_id(request.group_id),
        tuple(
            Shape(tuple(sorted(each.amounts.items())), labels=tuple(each.labels.items()))
            for each in request.bundles
        ),
        request.strategy,
        JobId(an_id_or_none(request.job_id, "job")),
        request.name,
        request.namespace,
        request.is_detached,
        request.topology,
    )


def removal_of(group: PlacementGroupId) -> GroupRemoved:
    """Return the command that removes a group."""
    return GroupRemoved(group, "it was removed")


def _state(state: str) -> messages.GroupState:
    found: messages.GroupState = messages.GroupState.Value(f"GROUP_{state.upper()}")
    return found


def _group_id(value: bytes) -> PlacementGroupId:
    return PlacementGroupId(an_id(value, "placement group"))
