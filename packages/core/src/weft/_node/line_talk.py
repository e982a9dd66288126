"""What a node is asked to do with bundles and says of them, as it is on the line to control."""

from __future__ import annotations

from typing import TypeAlias

from weft._ids import PlacementGroupId
from weft._machines.reservations import (
    CommitAsked,
    ReleaseAsked,
    ReserveAsked,
    TellCommitted,
    TellRefused,
    TellReserved,
)
from weft._resources import Resources
from weft._wire.lines import (
    CommitOrder,
    ReleaseOrder,
    ReserveOrder,
    SayCommitted,
    SayRefused,
    SayReserved,
)

BundlesTold: TypeAlias = TellReserved | TellRefused | TellCommitted


def asked_of(
    order: ReserveOrder | CommitOrder | ReleaseOrder, control: int
) -> ReserveAsked | CommitAsked | ReleaseAsked:
    """Read what a node is to do with bundles. `control`: the number of who says so."""
    group = PlacementGroupId(order.group)
    match order:
        case ReserveOrder():
            return ReserveAsked(
                control,
                group,
                order.attempt,
                {index: Resources.of_units(units) for index, units in order.bundles.items()},
                order.size,
                order.patience_s,
                order.job,
                order.commits,
            )
        case CommitOrder():
            return CommitAsked(control, group, order.attempt)
        case _:
            return ReleaseAsked(control, group, order.attempt, order.reason)


def said_of(told: BundlesTold) -> SayReserved | SayRefused | SayCommitted:
    """Return what a node says of bundles."""
    group = bytes(told.group)
    match told:
        case TellReserved():
            return SayReserved(group, told.attempt)
        case TellRefused(reason=reason):
            return SayRefused(group, told.attempt, reason)
        case _:
            return SayCommitted(group, told.attempt)
