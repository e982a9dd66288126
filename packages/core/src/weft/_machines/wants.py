"""Where the workers for actors are looked for, that a node was asked to find: a daemon's part.

    control orders -> here -> AskHere -> FoundHere -> ReportFound
                        ^        |
                        |        +-> WantSpilled -> there: AskThere -> SettledThere
                        +-- pause <-- DaemonLost -----+
    a daemon asks  -> guest -> AskHere -> FoundHere -> ReportFound, which is told to who asked
                                  |
                                  +-> WantSpilled -> SendBack to who asked: it asks there itself

As for tasks, who is sent on asks the other node itself; for an actor that is the daemon which the
control service has asked. So each want is in one other node's hands at most, and is asked for
again here if that node is lost.

What is always true
1. A want that control has ordered is looked for here or at one other node, until it is found,
   dropped or settled; or it waits `PAUSE_S` after that node was lost.
2. A want of another daemon ends with the connection to it.
3. Whoever has found a worker, or that there can be none, reports it as found for the node that
   control has asked. What is superfluous of that control refuses (directory.py).
4. What another daemon says counts for the want that it was asked for, as its number shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, assert_never

import msgspec

from weft._specs import Shape

if TYPE_CHECKING:
    from collections.abc import Iterable

PAUSE_S = 0.2
"""Before a want is looked for anew: a node that is dead is known to be so only after a while."""


# ------------------------------------------------------------------ events


class WantOrdered(msgspec.Struct, frozen=True):
    """Control wants a worker for an actor."""

    actor: bytes
    shape: Shape
    name: str


class WantAsked(msgspec.Struct, frozen=True):
    """Another daemon wants one: control has asked `asked`, which is its node."""

    actor: bytes
    shape: Shape
    name: str
    asker: str
    """Its address."""
    asked: bytes
    number: int
    hops: int


class WantDropped(msgspec.Struct, frozen=True):
    """Control wants none any more."""

    actor: bytes


class WantTakenBack(msgspec.Struct, frozen=True):
    """The daemon that has asked wants none any more."""

    actor: bytes
    asker: str
    number: int


class WantSpilled(msgspec.Struct, frozen=True):
    """This node sends a want on."""

    actor: bytes
    target: str
    """The address of that node's daemon."""
    hops: int


class SentBack(msgspec.Struct, frozen=True):
    """Another daemon sends a want on that it was asked for."""

    actor: bytes
    source: str
    number: int
    target: str
    hops: int


class FoundHere(msgspec.Struct, frozen=True):
    """There is a worker for it on this node; or there can be none anywhere."""

    actor: bytes


class SettledThere(msgspec.Struct, frozen=True):
    """Control has taken the report of another daemon."""

    actor: bytes
    source: str
    number: int


class DaemonLost(msgspec.Struct, frozen=True):
    """Another daemon that may have been asked is dead or cannot be reached."""

    address: str


class AskerLost(msgspec.Struct, frozen=True):
    """Another daemon that has asked is gone, or its connection is; it asks again elsewhere."""

    asker: str


class WantsTicked(msgspec.Struct, frozen=True):
    """Time has passed."""


class AllOver(msgspec.Struct, frozen=True):
    """The node's life as a member is over: nothing is wanted of it."""


Event: TypeAlias = (
    WantOrdered
    | WantAsked
    | WantDropped
    | WantTakenBack
    | WantSpilled
    | SentBack
    | FoundHere
    | SettledThere
    | DaemonLost
    | AskerLost
    | WantsTicked
    | AllOver
)


# ------------------------------------------------------------------ effects


class AskHere(msgspec.Struct, frozen=True):
    """Put it in this node's queue, in place of what is there for the actor."""

    actor: bytes
    shape: Shape
    name: str
    hops: int


class StopHere(msgspec.Struct, frozen=True):
    """Take it out of this node's queue."""

    actor: bytes
    shape: Shape


class AskThere(msgspec.Struct, frozen=True):
    """Ask another daemon."""

    address: str
    actor: bytes
    shape: Shape
    name: str
    number: int
    hops: int


class TakeBack(msgspec.Struct, frozen=True):
    """Tell another daemon that was asked that nothing is wanted."""

    address: str
    actor: bytes
    number: int


class SendBack(msgspec.Struct, frozen=True):
    """Tell the daemon that has asked where to ask."""

    address: str
    actor: bytes
    number: int
    target: str
    hops: int


class ReportFound(msgspec.Struct, frozen=True):
    """Tell control what was found; and when it knows, the daemon that has asked, if one has."""

    actor: bytes
    asked: bytes
    asker: str
    """Empty: control has asked this node."""
    number: int


Effect: TypeAlias = AskHere | StopHere | AskThere | TakeBack | SendBack | ReportFound


# ------------------------------------------------------------------ state


class _Want:
    """A worker that somebody wants for an actor."""

    __slots__ = ("actor", "again_at", "asked", "asker", "at", "hops", "name", "number", "shape")

    def __init__(
        self, event: WantOrdered | WantAsked, asker: str, asked: bytes, number: int, hops: int
    ) -> None:
        self.actor = event.actor
        self.shape = event.shape
        self.name = event.name
        self.asker = asker
        """Empty: control."""
        self.asked = asked
        self.number = number
        self.hops = hops
        self.at: str | None = ""
        """The daemon that looks for it, empty for this one; None: none does, until `again_at`."""
        self.again_at = 0.0


class Wants:
    """What is wanted of one node for actors."""

    def __init__(self, node_id: bytes, address: str) -> None:
        """`address`: of this daemon."""
        self._node_id = node_id
        self._address = address
        self._wants_of: dict[bytes, dict[str, _Want]] = {}
        """By actor and asker: what was asked by a node that is gone may still be on its way."""
        self._paused: dict[tuple[bytes, str], _Want] = {}
        """Those that nobody looks for, in the order in which somebody will again."""
        self._numbers = 0

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take an event; return what to do, in order."""
        want: _Want | None
        match event:
            case WantOrdered():
                self._numbers += 1
                return self._begin(_Want(event, "", self._node_id, self._numbers, 0))
            case WantAsked(asker=asker, asked=asked, number=number, hops=hops):
                return self._begin(_Want(event, asker, asked, number, hops))
            case WantDropped(actor):
                return self._stop(self._find(actor, ""))
            case WantTakenBack(actor, asker, number):
                want = self._find(actor, asker)
                return self._stop(want) if want is not None and want.number == number else []
            case WantSpilled(actor, target, hops):
                return self._sent_to(actor, target, hops)
            case SentBack(actor, source, number, target, hops):
                want = self._there(actor, source, number)
                return [] if want is None else self._go_on(want, target, hops)
            case FoundHere(actor):
                return self._found(actor)
            case SettledThere(actor, source, number):
                want = self._there(actor, source, number)
                if want is not None:
                    self._forget(want)
                return []
            case DaemonLost(address):
                self._daemon_lost(address, now)
                return []
            case AskerLost(asker):
                return self._stop_all(want for want in self._all() if want.asker == asker)
            case WantsTicked():
                return self._ticked(now)
            case AllOver():
                return self._stop_all(self._all())
            case _:
                assert_never(event)

    def _find(self, actor: bytes, asker: str) -> _Want | None:
        return self._wants_of.get(actor, {}).get(asker)

    def _there(self, actor: bytes, source: str, number: int) -> _Want | None:
        """Return what another daemon was asked for."""
        want = self._find(actor, "")
        is_it = want is not None and (want.at, want.number) == (source, number)
        return want if is_it else None

    def _all(self) -> list[_Want]:
        return [want for wants in self._wants_of.values() for want in wants.values()]

    def _here(self, actor: bytes) -> list[_Want]:
        """Return what is looked for here: what control has ordered comes first, then the last."""
        wants = list(self._wants_of.get(actor, {}).values())
        here = [want for want in reversed(wants) if want.at == ""]
        return sorted(here, key=lambda want: want.asker != "")

    def _begin(self, want: _Want) -> list[Effect]:
        stopped = self._stop(self._find(want.actor, want.asker))
        self._wants_of.setdefault(want.actor, {})[want.asker] = want
        return [*stopped, _ask_here(want)]

    def _forget(self, want: _Want) -> None:
        self._paused.pop((want.actor, want.asker), None)
        wants = self._wants_of[want.actor]
        del wants[want.asker]
        if not wants:
            del self._wants_of[want.actor]

    def _stop(self, want: _Want | None) -> list[Effect]:
        """Want something no more."""
        if want is None:
            return []
        self._forget(want)
        if want.at:
            return [TakeBack(want.at, want.actor, want.number)]
        if want.at is None or self._here(want.actor):
            return []
        return [StopHere(want.actor, want.shape)]

    def _stop_all(self, wants: Iterable[_Want]) -> list[Effect]:
        return [effect for want in list(wants) for effect in self._stop(want)]

    def _sent_to(self, actor: bytes, target: str, hops: int) -> list[Effect]:
        effects: list[Effect] = []
        for want in self._here(actor):
            if want.asker:
                self._forget(want)
                effects.append(SendBack(want.asker, actor, want.number, target, hops))
            else:
                effects += self._go_on(want, target, hops)
        return effects

    def _go_on(self, want: _Want, target: str, hops: int) -> list[Effect]:
        """Look for it where it was sent."""
        want.hops = hops
        if target == self._address:
            want.at = ""
            return [_ask_here(want)]
        want.at = target
        return [AskThere(target, want.actor, want.shape, want.name, want.number, hops)]

    def _found(self, actor: bytes) -> list[Effect]:
        """Give it to one; the others that want it are late, or want another."""
        if not (here := self._here(actor)):
            return []
        first, *others = here
        self._forget(first)
        report = ReportFound(actor, first.asked, first.asker, first.number)
        return [report, *(_ask_here(want) for want in others[:1])]

    def _daemon_lost(self, address: str, now: float) -> None:
        for want in self._all():
            if want.at == address:
                want.at = None
                want.again_at = now + PAUSE_S
                self._paused[want.actor, want.asker] = want

    def _ticked(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for at, want in list(self._paused.items()):
            if want.again_at > now:
                break
            del self._paused[at]
            want.at, want.hops = "", 0
            effects.append(_ask_here(want))
        return effects

    def wake_at(self) -> float | None:
        """Return when `WantsTicked` is due, in seconds; None: never."""
        return next((want.again_at for want in self._paused.values()), None)

    # -------------------------------------------------------------- questions

    def where(self, actor: bytes) -> str | None:
        """Return which daemon looks for a worker, empty for this one; None: nothing is wanted."""
        wants = [want.at or "" for want in self._wants_of.get(actor, {}).values()]
        return max(wants, default=None)

    def shape_of(self, actor: bytes) -> Shape | None:
        """Return what is wanted for an actor; None: nothing."""
        wants = self._wants_of.get(actor)
        return next(iter(wants.values())).shape if wants else None

    def check(self) -> None:
        """Assert what is always true."""
        assert all(self._wants_of.values()), 1
        paused = [want for want in self._all() if want.at is None]
        assert sorted(map(id, paused)) == sorted(map(id, self._paused.values())), 1
        times = [want.again_at for want in self._paused.values()]
        assert times == sorted(times), 1
        for want in self._all():
            assert want.at == "" or not want.asker, 1
            assert want.at != self._address, 1


def _ask_here(want: _Want) -> AskHere:
    return AskHere(want.actor, want.shape, want.name, want.hops)
