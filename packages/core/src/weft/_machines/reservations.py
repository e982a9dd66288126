"""The bundles of one node: what it has reserved for placement groups, and lets tasks into.

    ReserveAsked -> asked -> reserved -> open -> ending -> gone
                      |  |      |         |
                 refused |   released     |
                         +----------------+ if no other node has to reserve

A bundle's amounts are taken from the node as an actor's are: they are wanted (WantAmounts), and the
queue of leases grants them before any task (AmountsGranted). What is not granted within `WAIT_S` is
refused, for the rest of the group is held on other nodes meanwhile, or another node has it free.
With patience it waits longer, for tasks to end, and is refused at once if they are not all that it
waits for. An open bundle is a small node inside the node, with amounts and devices of its own
(open_bundles.py).

What is always true
1. The bundles of one group and attempt are reserved all or none, and answered once: reserved or
   refused. To be asked again is answered again.
2. Every amount that was wanted is dropped, once, after all that ran in the bundle has ended.
3. Tasks go only into open bundles.
4. Who speaks with a smaller number than another control service before is not heard.

When the link to control breaks, what was asked and not answered is dropped: control asks again if
it wants it still. What is held, control is told when the link is there again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, assert_never

import msgspec

from weft._ids import PlacementGroupId
from weft._machines.bundles import HeldBundles
from weft._machines.open_bundles import BundleKey
from weft._machines.placement import BundleView, lacking
from weft._machines.stock import NOTHING
from weft._resources import Resources

if TYPE_CHECKING:
    from collections.abc import Callable

# Longer than idle leases take to be returned by who was asked for them.
WAIT_S = 0.5

Step: TypeAlias = Literal["asked", "reserved", "open", "ending"]


# ------------------------------------------------------------------ events


class ReserveAsked(msgspec.Struct, frozen=True):
    """Control wants these bundles."""

    control: int
    """The number of the control service that speaks."""
    group: PlacementGroupId
    attempt: int
    bundles: dict[int, Resources]
    size: int
    """How many bundles the group has."""
    patience_s: float = 0.0
    """So long they may wait for tasks to end."""
    job: bytes = b""
    """The job that they count for; empty: none."""
    commits: bool = False
    """No other node has to reserve first."""


class CommitAsked(msgspec.Struct, frozen=True):
    """All nodes have reserved."""

    control: int
    group: PlacementGroupId
    attempt: int


class ReleaseAsked(msgspec.Struct, frozen=True):
    """Control does not want them any more."""

    control: int
    group: PlacementGroupId
    attempt: int
    reason: str = ""


class AmountsGranted(msgspec.Struct, frozen=True):
    """What `WantAmounts` wanted is taken from the node."""

    bundle: BundleKey


class BundleEnded(msgspec.Struct, frozen=True):
    """Nothing runs any more in a bundle that was to end."""

    bundle: BundleKey


class ControlUnlinked(msgspec.Struct, frozen=True):
    """The link to the control service is broken."""


class NodeFenced(msgspec.Struct, frozen=True):
    """The node was declared dead: all of its bundles end."""


class ReservationsTicked(msgspec.Struct, frozen=True):
    """`wake_at` has come; this is free, and this when all tasks that run have ended."""

    free: Resources
    free_later: Resources


ReservationEvent = (
    ReserveAsked
    | CommitAsked
    | ReleaseAsked
    | AmountsGranted
    | BundleEnded
    | ControlUnlinked
    | NodeFenced
    | ReservationsTicked
)


# ------------------------------------------------------------------ effects


class WantAmounts(msgspec.Struct, frozen=True):
    """Take these from the node, as for an actor, then say AmountsGranted."""

    bundle: BundleKey
    amounts: Resources
    job: bytes = b""


class DropAmounts(msgspec.Struct, frozen=True):
    """They are not wanted any more; if they were granted, give them back."""

    bundle: BundleKey


class OpenBundle(msgspec.Struct, frozen=True):
    """Let tasks in."""

    bundle: BundleKey
    size: int
    """How many bundles the group has."""


class EndBundle(msgspec.Struct, frozen=True):
    """Let no task in, end all that run in it, then say BundleEnded."""

    bundle: BundleKey
    reason: str


class TellReserved(msgspec.Struct, frozen=True):
    """Tell control that all of them are reserved."""

    group: PlacementGroupId
    attempt: int


class TellRefused(msgspec.Struct, frozen=True):
    """Tell control that none of them is."""

    group: PlacementGroupId
    attempt: int
    reason: str


class TellCommitted(msgspec.Struct, frozen=True):
    """Tell control that tasks may come into what it wanted committed at once."""

    group: PlacementGroupId
    attempt: int


ReservationEffect = (
    WantAmounts | DropAmounts | OpenBundle | EndBundle | TellReserved | TellRefused | TellCommitted
)


# ------------------------------------------------------------------ state


class _Reservation:
    __slots__ = (
        "attempt",
        "bundles",
        "commits",
        "granted",
        "group",
        "patient_until",
        "refuse_at",
        "size",
        "step",
    )

    def __init__(self, event: ReserveAsked, now: float) -> None:
        self.group = event.group
        self.attempt = event.attempt
        self.bundles = dict(event.bundles)
        """Of these, what is not dropped yet."""
        self.size = event.size
        self.patient_until = now + event.patience_s
        self.step: Step = "asked"
        self.commits = event.commits
        self.granted: set[int] = set()
        self.refuse_at = now if event.patience_s else now + WAIT_S

    def key(self, index: int) -> BundleKey:
        return BundleKey(self.group, self.attempt, index)


class Reservations:
    """The bundles of one node."""

    def __init__(self, total: Resources) -> None:
        self._total = total
        self._control = 0
        self._at: dict[tuple[PlacementGroupId, int], _Reservation] = {}
        """By group and attempt."""

    def handle(self, event: ReservationEvent, now: float) -> list[ReservationEffect]:
        """Take an event; return what to do, in order."""
        effects: list[ReservationEffect] = []
        match event:
            case ReserveAsked() | CommitAsked() | ReleaseAsked():
                if event.control >= self._control:
                    self._control = event.control
                    self._asked(event, now, effects)
            case AmountsGranted(bundle):
                self._granted(bundle, effects)
            case BundleEnded(bundle):
                self._bundle_ended(bundle, effects)
            case ControlUnlinked():
                for each in [each for each in self._at.values() if each.step == "asked"]:
                    self._drop(each, effects)
            case NodeFenced():
                for each in list(self._at.values()):
                    self._release(each, "its node was declared dead", effects)
            case ReservationsTicked():
                self._tick(event, now, effects)
            case _:
                assert_never(event)
        return effects

    def wake_at(self) -> float | None:
        """Return when `ReservationsTicked` is due, in seconds; None: never."""
        return min((e.refuse_at for e in self._at.values() if e.step == "asked"), default=None)

    # -------------------------------------------------------------- what control asks

    def _asked(
        self,
        event: ReserveAsked | CommitAsked | ReleaseAsked,
        now: float,
        effects: list[ReservationEffect],
    ) -> None:
        known = self._at.get((event.group, event.attempt))
        match event:
            case ReserveAsked():
                if known is None:
                    self._reserve(event, now, effects)
                elif known.step == "open":
                    effects.append(TellCommitted(event.group, event.attempt))
                elif known.step == "reserved":
                    effects.append(TellReserved(event.group, event.attempt))
            case CommitAsked():
                if known is not None and known.step == "reserved":
                    self._open(known, effects)
            case ReleaseAsked(reason=reason):
                if known is not None:
                    self._release(known, reason, effects)
            case _:
                assert_never(event)

    def _reserve(self, event: ReserveAsked, now: float, effects: list[ReservationEffect]) -> None:
        together = sum(event.bundles.values(), NOTHING)
        if not together.fits(self._total):
            reason = lacking(together, self._total, "")
            effects.append(TellRefused(event.group, event.attempt, reason))
            return
        reservation = self._at[event.group, event.attempt] = _Reservation(event, now)
        for index, amounts in event.bundles.items():
            effects.append(WantAmounts(reservation.key(index), amounts, event.job))

    def _open(self, reservation: _Reservation, effects: list[ReservationEffect]) -> None:
        reservation.step = "open"
        effects.extend(
            OpenBundle(reservation.key(i), reservation.size) for i in reservation.bundles
        )

    def _release(
        self, reservation: _Reservation, reason: str, effects: list[ReservationEffect]
    ) -> None:
        match reservation.step:
            case "asked" | "reserved":
                self._drop(reservation, effects)
            case "open":
                reservation.step = "ending"
                effects.extend(EndBundle(reservation.key(i), reason) for i in reservation.bundles)
            case "ending":
                pass
            case _:
                assert_never(reservation.step)

    def _drop(self, reservation: _Reservation, effects: list[ReservationEffect]) -> None:
        del self._at[reservation.group, reservation.attempt]
        effects.extend(DropAmounts(reservation.key(index)) for index in reservation.bundles)

    # -------------------------------------------------------------- what the node has

    def _granted(self, bundle: BundleKey, effects: list[ReservationEffect]) -> None:
        reservation = self._at.get((bundle.group, bundle.attempt))
        if reservation is None:
            return  # It was dropped while the word of this was on its way; with it, what was lent.
        reservation.granted.add(bundle.index)
        if reservation.granted == reservation.bundles.keys():
            reservation.step = "reserved"
            if reservation.commits:
                self._open(reservation, effects)
                effects.append(TellCommitted(bundle.group, bundle.attempt))
            else:
                effects.append(TellReserved(bundle.group, bundle.attempt))

    def _bundle_ended(self, bundle: BundleKey, effects: list[ReservationEffect]) -> None:
        reservation = self._at[bundle.group, bundle.attempt]
        assert reservation.step == "ending", bundle
        del reservation.bundles[bundle.index]
        effects.append(DropAmounts(bundle))
        if not reservation.bundles:
            del self._at[bundle.group, bundle.attempt]

    def _tick(
        self, event: ReservationsTicked, now: float, effects: list[ReservationEffect]
    ) -> None:
        for reservation in list(self._at.values()):
            if reservation.step == "asked" and reservation.refuse_at <= now:
                left = reservation.bundles.keys() - reservation.granted
                together = sum((reservation.bundles[index] for index in left), NOTHING)
                if now < reservation.patient_until and together.fits(event.free_later):
                    reservation.refuse_at = min(now + WAIT_S, reservation.patient_until)
                    continue
                short = lacking(together, event.free, "free")
                reason = short or "it is kept for others, or in parts"
                self._drop(reservation, effects)
                effects.append(TellRefused(reservation.group, reservation.attempt, reason))

    # -------------------------------------------------------------- questions

    def held(self) -> tuple[HeldBundles, ...]:
        """Return what control is told when the link is there again."""
        return tuple(
            HeldBundles(each.group, each.attempt, tuple(sorted(each.bundles)), each.step == "open")
            for each in self._at.values()
            if each.step in ("reserved", "open")
        )

    def views(
        self, free_in: Callable[[BundleKey], Resources]
    ) -> dict[PlacementGroupId, dict[int, BundleView]]:
        """Return what bundles take of the node, as its view shows them.

        Those are shown, too, that are not open yet or not any more: in them nothing is free.
        `free_in`: of an open bundle.
        """
        views: dict[PlacementGroupId, dict[int, BundleView]] = {}
        for each in self._at.values():
            for index in each.granted & each.bundles.keys():
                free = free_in(each.key(index)) if each.step == "open" else NOTHING
                view = BundleView(each.bundles[index], free, each.size, each.attempt)
                views.setdefault(each.group, {})[index] = view
        return views

    def check(self) -> None:
        """Assert what is always true."""
        for (group, attempt), each in self._at.items():
            assert (group, attempt) == (each.group, each.attempt), 1
            is_granted = each.granted >= each.bundles.keys()
            assert is_granted is (each.step != "asked"), 1
            assert each.bundles, 2
