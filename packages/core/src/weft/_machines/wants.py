"""Where the workers for actors are looked for, that a node was asked to find: a daemon's part.

    control orders -> here -> AskHere -> FoundHere -> Report
                        ^        |
                        |        +-> SentTo -> there: AskThere -> SettledThere
                        +-- pause <-- DaemonLost -----+
    a daemon asks  -> guest -> AskHere -> FoundHere -> Report, which is told to who asked
                                  |
                                  +-> SentTo -> SendBack to who asked: it asks there itself

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

from typing import TypeAlias, assert_never

import msgspec

from weft._specs import Shape

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


class SentTo(msgspec.Struct, frozen=True):
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
    | SentTo
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


class Report(msgspec.Struct, frozen=True):
    """Tell control what was found; and when it knows, the daemon that has asked, if one has."""

    actor: bytes
    asked: bytes
    asker: str
    """Empty: control has asked this node."""
    number: int


Effect: TypeAlias = AskHere | StopHere | AskThere | TakeBack | SendBack | Report


# ------------------------------------------------------------------ state


class _Want:
    """A worker that is wanted for an actor."""

    __slots__ = ("again_at", "asked", "asker", "at", "name", "number", "shape")

    def __init__(self, shape: Shape, name: str, asked: bytes, asker: str, number: int) -> None:
        self.shape = shape
        self.name = name
        self.asked = asked
        self.asker = asker
        """Empty: control."""
        self.number = number
        self.at = ""
        """The daemon that looks for it; empty: this one, or none."""
        self.again_at: float | None = None
        """When it is looked for again; None: it is looked for."""


class Wants:
    """What is wanted of one node for actors."""

    def __init__(self, node_id: bytes, address: str) -> None:
        """`address`: of this daemon."""
        self._node_id = node_id
        self._address = address
        self._want_of: dict[bytes, _Want] = {}
        self._numbers = 0

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take an event; return what to do, in order."""
        match event:
            case WantOrdered(actor, shape, name):
                stopped = self._stop(actor)
                self._numbers += 1
                self._want_of[actor] = _Want(shape, name, self._node_id, "", self._numbers)
                return [*stopped, AskHere(actor, shape, name, 0)]
            case WantAsked(actor, shape, name, asker, asked, number, hops):
                stopped = self._stop(actor)
                self._want_of[actor] = _Want(shape, name, asked, asker, number)
                return [*stopped, AskHere(actor, shape, name, hops)]
            case WantDropped(actor):
                want = self._want_of.get(actor)
                return self._stop(actor) if want is not None and not want.asker else []
            case WantTakenBack(actor, asker, number):
                want = self._want_of.get(actor)
                is_it = want is not None and (want.asker, want.number) == (asker, number)
                return self._stop(actor) if is_it else []
            case SentTo(actor, target, hops):
                return self._sent_to(actor, target, hops)
            case SentBack(actor, source, number, target, hops):
                want = self._there(actor, source, number)
                return [] if want is None else self._go_on(actor, want, target, hops)
            case FoundHere(actor):
                want = self._want_of.pop(actor, None)
                return [] if want is None else [Report(actor, want.asked, want.asker, want.number)]
            case SettledThere(actor, source, number):
                if self._there(actor, source, number) is not None:
                    del self._want_of[actor]
                return []
            case DaemonLost(address):
                self._daemon_lost(address, now)
                return []
            case AskerLost(asker):
                lost = [each for each, want in self._want_of.items() if want.asker == asker]
                return self._stop_all(lost)
            case WantsTicked():
                return self._ticked(now)
            case AllOver():
                return self._stop_all(list(self._want_of))
            case _:
                assert_never(event)

    def _there(self, actor: bytes, source: str, number: int) -> _Want | None:
        """Return what another daemon was asked for."""
        want = self._want_of.get(actor)
        is_it = want is not None and (want.at, want.number) == (source, number)
        return want if is_it else None

    def _stop(self, actor: bytes) -> list[Effect]:
        """Want nothing any more."""
        want = self._want_of.pop(actor, None)
        if want is None or want.again_at is not None:
            return []
        if want.at:
            return [TakeBack(want.at, actor, want.number)]
        return [StopHere(actor, want.shape)]

    def _sent_to(self, actor: bytes, target: str, hops: int) -> list[Effect]:
        want = self._want_of.get(actor)
        if want is None:
            return []
        if want.asker:
            del self._want_of[actor]
            return [SendBack(want.asker, actor, want.number, target, hops)]
        return self._go_on(actor, want, target, hops)

    def _go_on(self, actor: bytes, want: _Want, target: str, hops: int) -> list[Effect]:
        """Look for it where it was sent."""
        if target == self._address:
            want.at = ""
            return [AskHere(actor, want.shape, want.name, hops)]
        want.at = target
        return [AskThere(target, actor, want.shape, want.name, want.number, hops)]

    def _stop_all(self, actors: list[bytes]) -> list[Effect]:
        return [effect for actor in actors for effect in self._stop(actor)]

    def _daemon_lost(self, address: str, now: float) -> None:
        for want in self._want_of.values():
            if address and want.at == address:
                want.at = ""
                want.again_at = now + PAUSE_S

    def _ticked(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for actor, want in self._want_of.items():
            if want.again_at is not None and want.again_at <= now:
                want.again_at = None
                effects.append(AskHere(actor, want.shape, want.name, 0))
        return effects

    def wake_at(self) -> float | None:
        """Return when `WantsTicked` is due, in seconds; None: never."""
        times = [at for want in self._want_of.values() if (at := want.again_at) is not None]
        return min(times, default=None)

    # -------------------------------------------------------------- questions

    def where(self, actor: bytes) -> str | None:
        """Return which daemon looks for a worker, empty for this one; None: nothing is wanted."""
        want = self._want_of.get(actor)
        return None if want is None else want.at

    def shape_of(self, actor: bytes) -> Shape | None:
        """Return what is wanted for an actor; None: nothing."""
        want = self._want_of.get(actor)
        return None if want is None else want.shape

    def check(self) -> None:
        """Assert what is always true."""
        for want in self._want_of.values():
            assert not (want.asker and (want.at or want.again_at is not None)), 1
            assert want.again_at is None or not want.at, 1
            assert want.at != self._address, 1
