"""What one node has heard of the others: who lives, what they have, and who has died since.

    ApplyChange (views.py) -> StandingsChange: what is to be told, in its order

What is always true
1. Of each life of another node it is told once that it has begun and once that it has ended: also
   if what was heard between is missing, for the node lives anew, or is not known any more.
2. A view stays known while its node lives: a control service that was started again has not heard
   it yet.
3. Nothing is told of the node itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from weft._ids import NodeId
from weft._machines.members import MemberFacts
from weft._machines.membership import MemberStanding
from weft._machines.placement import NodeView

if TYPE_CHECKING:
    from weft._machines.views import ApplyChange


class StandingsChange(msgspec.Struct, frozen=True):
    """What has changed of other nodes."""

    views: tuple[NodeView, ...]
    gone: tuple[NodeId, ...]
    died: tuple[MemberFacts, ...]
    """The lives that have ended, with the cause; also those that were over when first heard of."""
    joined: tuple[MemberFacts, ...]
    """The lives that have begun."""


class Standings:
    """The nodes of the cluster as one of them sees it."""

    def __init__(self, me: NodeId) -> None:
        self._me = me
        self.members: dict[NodeId, MemberStanding] = {}
        """This node too, and the dead that are remembered."""

    def change(self, change: ApplyChange[NodeId, MemberStanding]) -> StandingsChange:
        """Take what was heard; return what is new in it."""
        views: list[NodeView] = []
        died: list[MemberFacts] = []
        joined: list[MemberFacts] = []
        strange: list[MemberFacts] = []
        for node_id, standing in change.changed.items():
            old = self.members.get(node_id)
            if old is None and standing.is_dead:
                strange.append(standing.facts)
            has_lived = old is not None and not old.is_dead
            is_same = old is not None and old.facts.incarnation == standing.facts.incarnation
            if old is not None and has_lived and (standing.is_dead or not is_same):
                died.append(standing.facts if is_same else _ended(old, "it has registered anew"))
            if not standing.is_dead:
                if not (has_lived and is_same):
                    joined.append(standing.facts)
                if standing.view is not None:
                    views.append(standing.view)
            view = standing.view
            if view is None and is_same and old is not None and not standing.is_dead:
                view = old.view
            self.members[node_id] = MemberStanding(standing.facts, view)
        for node_id in change.gone:
            old = self.members.pop(node_id)
            if not old.is_dead:
                died.append(_ended(old, "it is no member any more"))
        if strange:
            # Its processes may have called before anything was heard of it.
            died += [each for each in strange if self.is_dead_at(each.address.partition("/")[0])]
        return StandingsChange(
            views=tuple(view for view in views if view.node_id != self._me),
            gone=tuple(facts.node_id for facts in died if facts.node_id != self._me),
            died=tuple(facts for facts in died if facts.node_id != self._me),
            joined=tuple(facts for facts in joined if facts.node_id != self._me),
        )

    def address_of(self, node_id: NodeId) -> str | None:
        """Return the address of a living node's daemon; None: there is no such node."""
        standing = self.members.get(node_id)
        return None if standing is None or standing.is_dead else standing.facts.address

    def is_dead_at(self, node: str) -> bool:
        """Tell whether the node that was last known at HOST:PORT is dead."""
        return self.dead_at(node) is not None

    def dead_at(self, node: str) -> MemberFacts | None:
        """Return the dead node that was last known at HOST:PORT; None: one lives there, or none."""
        there = [
            standing
            for standing in self.members.values()
            if standing.facts.address.partition("/")[0] == node
        ]
        if not all(standing.is_dead for standing in there):
            return None
        dead = (standing.facts for standing in there)
        return max(dead, key=lambda facts: facts.incarnation, default=None)


def _ended(standing: MemberStanding, cause: str) -> MemberFacts:
    return msgspec.structs.replace(standing.facts, life="dead", cause=cause)
