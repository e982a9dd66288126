"""The bundles that this node has reserved: who asks for them is told what becomes of that."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeAlias, assert_never

from msgspec import structs

from weft import _settings
from weft._machines.leases import AmountsDropped, AmountsWanted, BundleClosed, BundleOpened
from weft._machines.reservations import (
    AmountsGranted,
    BundleEnded,
    DropAmounts,
    EndBundle,
    OpenBundle,
    Reservations,
    ReservationsTicked,
    TellCommitted,
    TellRefused,
    TellReserved,
    WantAmounts,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._machines.bundles import HeldBundles
    from weft._machines.open_bundles import BundleKey
    from weft._machines.placement import NodeView
    from weft._machines.reservations import ReservationEffect, ReservationEvent
    from weft._node.facts import NodeFacts
    from weft._node.rules import Rules

Report: TypeAlias = TellReserved | TellRefused | TellCommitted


class Reserving:
    """The shell round the machine of reservations: it joins it with the queue of leases."""

    def __init__(self, facts: NodeFacts, rules: Rules, report: Callable[[Report], None]) -> None:
        """`report`: told what control has to know."""
        self._total = facts.total
        self._rules = rules
        self._report = report
        self._machine = Reservations(facts.total)
        self._checks = _settings.CHECK.value()
        self._effects: deque[ReservationEffect] = deque()
        self._shown = facts.view()
        self._seen: NodeView | None = None
        """What was free when it was that."""

    def tell(self, event: ReservationEvent) -> None:
        """Tell the machine what has happened, and do what it says."""
        self._seen = None
        is_outermost = not self._effects
        self._effects += self._machine.handle(event, self._rules.now())
        if self._checks:
            self._machine.check()
        while is_outermost and self._effects:
            # It is taken off when it is done: who is told may tell more meanwhile.
            self._do(self._effects[0])
            self._effects.popleft()

    def lent(self, bundle: BundleKey) -> None:
        """The node's amounts for a bundle are taken."""
        self.tell(AmountsGranted(bundle))

    def emptied(self, bundle: BundleKey) -> None:
        """Nothing runs any more in a bundle that was to end."""
        self.tell(BundleEnded(bundle))

    def _do(self, effect: ReservationEffect) -> None:
        match effect:
            case WantAmounts(bundle, amounts, job):
                self._rules.tell_leases(AmountsWanted(bundle, amounts, job))
            case DropAmounts(bundle):
                self._rules.tell_leases(AmountsDropped(bundle))
            case OpenBundle(bundle, size):
                self._rules.tell_leases(BundleOpened(bundle, size))
            case EndBundle(bundle, reason):
                self._rules.tell_leases(BundleClosed(bundle, reason))
            case TellReserved() | TellRefused() | TellCommitted():
                self._report(effect)
            case _:
                assert_never(effect)

    def wake_at(self) -> float | None:
        """Return when `tick` is due, in seconds; None: never."""
        return self._machine.wake_at()

    def tick(self) -> None:
        """Tell the machine if its time has come, after what was lent meanwhile."""
        if self._is_due():
            self._rules.later(self._tick)

    def _tick(self) -> None:
        if self._is_due():
            leases = self._rules.leases
            self.tell(ReservationsTicked(leases.free, self._total - leases.lasting))

    def _is_due(self) -> bool:
        at = self._machine.wake_at()
        return at is not None and at <= self._rules.now()

    def held(self) -> tuple[HeldBundles, ...]:
        """Return what control is told when it is heard again."""
        return self._machine.held()

    def shown(self, view: NodeView) -> NodeView:
        """Return what the node has, together with its bundles."""
        if view is not self._seen:
            self._seen = view
            bundles = self._machine.views(self._rules.leases.bundles.free_in)
            self._shown = structs.replace(view, bundles=bundles)
        return self._shown

    def check(self) -> None:
        """Assert what is always true."""
        self._machine.check()
