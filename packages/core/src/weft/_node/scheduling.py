"""Where demands go: on a machine alone straight to the queue of leases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from weft._clock import monotonic
from weft._override import override

if TYPE_CHECKING:
    from collections.abc import Mapping

    from weft._machines import leases as lease_rules
    from weft._machines.placement import NodeView
    from weft._machines.spillover import At
    from weft._node.demands import Demands
    from weft._node.rules import Rules
    from weft._specs import Shape

NOTHING_THERE: Final[Mapping[str, int]] = {}


class Scheduling(Protocol):
    """Where demands of this node's clients go."""

    def demanded(
        self, demand: lease_rules.Demanded, hops: int, bytes_at: Mapping[str, int] = NOTHING_THERE
    ) -> None:
        """A client wants workers, having been sent on so many times.

        `bytes_at`: how many bytes of the arguments nodes have, by HOST:PORT.
        """
        ...

    def granted(self, grant: lease_rules.Grant) -> None:
        """A worker is being found for a client."""
        ...

    def bound(self, grant: lease_rules.Grant) -> None:
        """A client has its worker."""
        ...

    def gone(self, client: bytes, key: int | None = None) -> None:
        """A client has ended, or one demand of its is refused."""
        ...

    def tick(self) -> None:
        """Do what is due, and note what has changed here."""
        ...

    def wake_at(self) -> float | None:
        """Return when `tick` is due, in seconds; None: when something has happened."""
        ...

    def explain(self, shape: Shape) -> str:
        """Say what demands of a shape wait for."""
        ...

    def waiting(self) -> dict[At, tuple[Shape, int]]:
        """Return (shape, workers) of each demand that waits here."""
        ...

    def nodes(self) -> list[tuple[NodeView, str]]:
        """Return the nodes, as they are known here, and where their daemons are."""
        ...


class AloneScheduling(Scheduling):
    """There is no other node."""

    def __init__(self, rules: Rules, demands: Demands) -> None:
        self._rules = rules
        self._demands = demands

    @override
    def demanded(
        self, demand: lease_rules.Demanded, hops: int, bytes_at: Mapping[str, int] = NOTHING_THERE
    ) -> None:
        self._demands.add(demand)

    @override
    def granted(self, grant: lease_rules.Grant) -> None:
        pass

    @override
    def bound(self, grant: lease_rules.Grant) -> None:
        pass

    @override
    def gone(self, client: bytes, key: int | None = None) -> None:
        pass

    @override
    def tick(self) -> None:
        pass

    @override
    def wake_at(self) -> float | None:
        return None

    @override
    def explain(self, shape: Shape) -> str:
        return self._demands.explain(shape, monotonic())

    @override
    def waiting(self) -> dict[At, tuple[Shape, int]]:
        return queued(self._rules)

    @override
    def nodes(self) -> list[tuple[NodeView, str]]:
        return [(self._rules.view(), "")]


def queued(rules: Rules) -> dict[At, tuple[Shape, int]]:
    """Return (shape, workers) of each demand in the queue of leases."""
    return {
        (client, key): (shape, workers) for client, key, shape, workers in rules.leases.waiting()
    }
