"""The directory of actors: names, states, restarts, and who may call whom.

    ActorCreated -> pending -> alive -> dead
                       ^ |       |        ^
                       | +-------+--------+  ended, constructor failed, owner gone, no restart left
                       +---- restarting <-+   its worker died and restarts are left

The shell finds a worker for an actor (WantWorker -> ActorPlaced), makes it the actor (Become ->
ActorStarted or ConstructorFailed) and says when that worker is gone (ActorLost).

What is always true
1. A name in a namespace belongs to at most one actor that is not dead.
2. An actor has a worker only while it is pending or restarting (being constructed) or alive.
3. Restarts never exceed the limit that the actor was created with (-1: none). Those that move it
   from a node that is emptied are no failures, and do not count.
4. A dead actor stays dead. The newest dead ones are remembered, so that late watchers learn the
   cause: `DEAD_KEPT` of them, or as many as have errors and causes of `DEAD_BYTES` together.
5. Every change of state is told to all who watch, in order, each once.

An answer to the creator comes before any other effect of the creation.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, assert_never

import msgspec

# What `why` and late callers can still learn; each takes about 1 KiB, and what its error says.
DEAD_KEPT = 10_000
DEAD_BYTES = 8 * 1024 * 1024
# An actor that dies within this time of its start is not restarted at once: each such death in a
# row doubles the wait.
SHORT_LIFE_S = 1.0
FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 10.0

State = Literal["pending", "alive", "restarting", "dead"]


# ------------------------------------------------------------------ events


class ActorCreated(msgspec.Struct, frozen=True):
    """A client asks for an actor."""

    actor: bytes
    client: bytes
    request: int
    """Answered if it is not 0."""
    name: str = ""
    namespace: str = ""
    is_detached: bool = False
    get_if_exists: bool = False
    max_restarts: int = 0
    """-1: no limit."""


class ActorPlaced(msgspec.Struct, frozen=True):
    """A worker was found."""

    actor: bytes
    worker: bytes
    address: str


class ActorStarted(msgspec.Struct, frozen=True):
    """The constructor has returned."""

    actor: bytes
    worker: bytes


class ConstructorFailed(msgspec.Struct, frozen=True):
    """The constructor has raised."""

    actor: bytes
    worker: bytes
    error: bytes


class ActorLost(msgspec.Struct, frozen=True):
    """The actor's worker is gone. `cause`: how it ended, in words."""

    actor: bytes
    worker: bytes
    cause: str


class ActorLeft(msgspec.Struct, frozen=True):
    """The actor is ending itself: the end of its worker is no failure."""

    actor: bytes
    worker: bytes
    reason: str


class ActorRefused(msgspec.Struct, frozen=True):
    """No worker can ever be had for the actor."""

    actor: bytes
    reason: str
    kind: str = "unschedulable"
    """Or environment, or placement_group: then it may have one, which ends."""


class EndAsked(msgspec.Struct, frozen=True):
    """Someone wants an actor to end. `graceful`: after the calls that it has."""

    actor: bytes
    graceful: bool
    no_restart: bool
    reason: str


class MoveAsked(msgspec.Struct, frozen=True):
    """The actor's node is to be emptied: it is to live elsewhere, if it may restart."""

    actor: bytes
    cause: str


class Watched(msgspec.Struct, frozen=True):
    """A client wants to know an actor's states, from the present one on."""

    actor: bytes
    client: bytes


class ClientEnded(msgspec.Struct, frozen=True):
    """A client is gone: it watches nothing, and the actors that it owns end."""

    client: bytes


class ActorsTicked(msgspec.Struct, frozen=True):
    """Time has passed."""


Event = (
    ActorCreated
    | ActorPlaced
    | ActorStarted
    | ConstructorFailed
    | ActorLost
    | ActorLeft
    | ActorRefused
    | EndAsked
    | MoveAsked
    | Watched
    | ClientEnded
    | ActorsTicked
)


# ------------------------------------------------------------------ effects


class Reply(msgspec.Struct, frozen=True):
    """Answer the creator: created, the name belongs to `existing` (get_if_exists), or an error."""

    client: bytes
    request: int
    existing: bytes = b""
    error: str = ""


class WantWorker(msgspec.Struct, frozen=True):
    """Put the actor in the node's queue."""

    actor: bytes


class DropWant(msgspec.Struct, frozen=True):
    """The actor needs no worker any more; one that it was given is dealt with by Quit or Kill."""

    actor: bytes


class Become(msgspec.Struct, frozen=True):
    """Make the worker this actor."""

    actor: bytes
    worker: bytes
    restarts: int


class Tell(msgspec.Struct, frozen=True):
    """Tell a client where an actor is in its life."""

    client: bytes
    actor: bytes
    state: State
    address: str
    restarts: int
    cause: str
    error: bytes
    worker: bytes
    refused: str = ""
    """Why there is no worker for it; empty if that is not the cause."""


class QuitActor(msgspec.Struct, frozen=True):
    """Ask the worker to end after the calls that it has."""

    worker: bytes


class KillActor(msgspec.Struct, frozen=True):
    """End the worker at once."""

    worker: bytes
    reason: str


class Forget(msgspec.Struct, frozen=True):
    """What the shell keeps to start the actor again is not needed any more."""

    actor: bytes


Effect = Reply | WantWorker | DropWant | Become | Tell | QuitActor | KillActor | Forget


# ------------------------------------------------------------------ state


class ActorFacts(msgspec.Struct, frozen=True):
    """Where an actor is in its life, for people."""

    state: State
    worker: bytes
    restarts: int
    cause: str


class ActorRecord(msgspec.Struct, eq=False):
    """One actor. Only its machine changes it."""

    id: bytes
    name: tuple[str, str] | None
    """(namespace, name)."""
    owner: bytes
    """Empty: detached."""
    max_restarts: int
    state: State = "pending"
    worker: bytes = b""
    address: str = ""
    restarts: int = 0
    cause: str = ""
    error: bytes = b""
    refused: str = ""
    ending: str = ""
    """Why it is being ended for good; empty if it is not."""
    moving: str = ""
    """Why it is to live elsewhere; empty if it is not."""
    moves: int = 0
    """So many of the restarts count for nothing."""
    watchers: dict[bytes, None] = {}
    started_at: float = 0.0
    short_lives: int = 0
    restart_at: float | None = None


class ActorsImage(msgspec.Struct, frozen=True):
    """All that a directory remembers."""

    actors: list[ActorRecord]
    dead: list[bytes]
    """The one that died first comes first."""
    waiting_by_actor: dict[bytes, dict[bytes, None]]
    ended_early: list[tuple[bytes, str]]
    restarting: list[bytes]
    """In the order in which they will want a worker, should they be due together."""


class Actors:
    """The actors of one node, or of a cluster."""

    def __init__(self) -> None:
        self._actor_of: dict[bytes, ActorRecord] = {}
        self._actor_by_name: dict[tuple[str, str], ActorRecord] = {}
        self._dead: OrderedDict[bytes, None] = OrderedDict()
        self._dead_bytes = 0
        """What the dead ones' errors and causes take."""
        self._waiting_by_actor: dict[bytes, dict[bytes, None]] = {}
        """Who watches actors that are not created yet: a handle may travel faster than the
        creation.
        """
        self._ended_early: OrderedDict[bytes, str] = OrderedDict()
        """Actors that were ended before their creation arrived, if it does; and why."""
        self._restarting: dict[bytes, ActorRecord] = {}
        """Those that wait for `restart_at`."""

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take an event; return what to do, in order."""
        effects: list[Effect] = []
        match event:
            case ActorCreated():
                self._created(event, effects)
            case ActorPlaced(actor, worker, address):
                self._placed(self._actor_of[actor], worker, address, now, effects)
            case ActorStarted(actor, worker):
                self._started(self._having(actor, worker), effects)
            case ConstructorFailed(actor, worker, error):
                self._constructor_failed(self._having(actor, worker), error, effects)
            case ActorLost(actor, worker, cause):
                self._lost(self._having(actor, worker), cause, now, effects)
            case ActorLeft(actor, worker, reason):
                self._left(self._having(actor, worker), reason)
            case ActorRefused(actor, reason, kind):
                self._actor_of[actor].refused = kind
                self._refused(self._actor_of[actor], reason, effects)
            case EndAsked(actor, graceful, no_restart, reason):
                self._end_asked(actor, reason, effects, graceful=graceful, no_restart=no_restart)
            case MoveAsked(actor, cause):
                self._move_asked(self._actor_of[actor], cause, effects)
            case Watched(actor, client):
                self._watched(actor, client, effects)
            case ClientEnded(client):
                self._client_ended(client, effects)
            case ActorsTicked():
                self._ticked(now, effects)
            case _:
                assert_never(event)
        return effects

    def wake_at(self) -> float | None:
        """Return when `ActorsTicked` is due, in seconds; None: never."""
        times = [at for a in self._restarting.values() if (at := a.restart_at) is not None]
        return min(times, default=None)

    # -------------------------------------------------------------- life

    def _created(self, event: ActorCreated, effects: list[Effect]) -> None:
        name = (event.namespace, event.name)
        existing = self._actor_by_name.get(name) if event.name else None
        if existing is not None:
            error = (
                ""
                if event.get_if_exists
                else f"the name {event.name!r} is taken in namespace {event.namespace!r}: "
                "choose another, or pass get_if_exists=True"
            )
            effects += self._reply(event, existing=b"" if error else existing.id, error=error)
            effects.append(Forget(event.actor))
            return
        actor = ActorRecord(
            id=event.actor,
            name=name if event.name else None,
            owner=b"" if event.is_detached else event.client,
            max_restarts=event.max_restarts,
        )
        self._actor_of[actor.id] = actor
        if actor.name is not None:
            self._actor_by_name[actor.name] = actor
        effects += self._reply(event)
        actor.watchers = self._waiting_by_actor.pop(actor.id, {})
        early = self._ended_early.pop(actor.id, None)
        if early is not None:
            self._die(actor, early, effects)
            return
        self._tell(actor, effects)
        effects.append(WantWorker(actor.id))

    @staticmethod
    def _reply(event: ActorCreated, *, existing: bytes = b"", error: str = "") -> list[Effect]:
        return [Reply(event.client, event.request, existing, error)] if event.request else []

    def _placed(
        self, actor: ActorRecord, worker: bytes, address: str, now: float, effects: list[Effect]
    ) -> None:
        if actor.state == "dead":
            effects.append(KillActor(worker, actor.cause))
            return
        actor.worker, actor.address, actor.started_at = worker, address, now
        effects.append(Become(actor.id, worker, actor.restarts))

    def _started(self, actor: ActorRecord | None, effects: list[Effect]) -> None:
        if actor is not None and not actor.ending:
            actor.state = "alive"
            self._tell(actor, effects)

    def _constructor_failed(
        self, actor: ActorRecord | None, error: bytes, effects: list[Effect]
    ) -> None:
        if actor is not None:
            actor.error = error
            self._stop(actor, "its constructor failed", effects)

    def _refused(self, actor: ActorRecord, reason: str, effects: list[Effect]) -> None:
        if actor.state != "dead":
            self._stop(actor, reason, effects)

    def _left(self, actor: ActorRecord | None, reason: str) -> None:
        if actor is not None and not actor.ending:
            actor.ending = reason

    def _lost(
        self, actor: ActorRecord | None, cause: str, now: float, effects: list[Effect]
    ) -> None:
        if actor is None:
            return
        actor.worker, actor.address = b"", ""
        if actor.ending:
            self._die(actor, actor.ending, effects)
        elif actor.moving:
            moving, actor.moving = actor.moving, ""
            actor.moves += 1
            self._restart(actor, moving, now, effects)
        elif actor.restarts - actor.moves == actor.max_restarts:
            self._die(actor, cause, effects)
        else:
            is_short = now - actor.started_at < SHORT_LIFE_S
            actor.short_lives = actor.short_lives + 1 if is_short else 0
            self._restart(actor, cause, now, effects)

    def _restart(self, actor: ActorRecord, cause: str, now: float, effects: list[Effect]) -> None:
        actor.restarts += 1
        actor.state, actor.cause = "restarting", cause
        self._tell(actor, effects)
        if actor.short_lives > 1:
            delay_s = FIRST_DELAY_S * 2 ** min(actor.short_lives - 2, 10)
            actor.restart_at = now + min(delay_s, LONGEST_DELAY_S)
            self._restarting[actor.id] = actor
        else:
            effects.append(WantWorker(actor.id))

    def _ticked(self, now: float, effects: list[Effect]) -> None:
        for actor in list(self._restarting.values()):
            if actor.restart_at is not None and actor.restart_at <= now:
                self._forget_restart(actor)
                effects.append(WantWorker(actor.id))

    def _forget_restart(self, actor: ActorRecord) -> None:
        actor.restart_at = None
        self._restarting.pop(actor.id, None)

    def _end_asked(
        self,
        actor_id: bytes,
        reason: str,
        effects: list[Effect],
        *,
        graceful: bool,
        no_restart: bool,
    ) -> None:
        actor = self._actor_of.get(actor_id)
        if actor is None:
            if no_restart:
                self._end_early(actor_id, reason, effects)
            return
        if actor.state == "dead":
            return
        if not actor.worker:
            if no_restart:
                self._die(actor, reason, effects)
        elif graceful:
            actor.ending = actor.ending or reason
            effects.append(QuitActor(actor.worker))
        elif no_restart:
            self._stop(actor, reason, effects)
        else:
            effects.append(KillActor(actor.worker, reason))

    def _end_early(self, actor_id: bytes, reason: str, effects: list[Effect]) -> None:
        """An actor is dead though nothing else is known of it, nor may ever be."""
        self._ended_early[actor_id] = reason
        if len(self._ended_early) > DEAD_KEPT:
            self._ended_early.popitem(last=False)
        clients = self._waiting_by_actor.pop(actor_id, ())
        effects.extend(_early_news(actor_id, client, reason) for client in clients)

    @staticmethod
    def _move_asked(actor: ActorRecord, cause: str, effects: list[Effect]) -> None:
        if actor.worker and actor.max_restarts and not actor.ending and not actor.moving:
            actor.moving = cause
            effects.append(QuitActor(actor.worker))

    def _stop(self, actor: ActorRecord, reason: str, effects: list[Effect]) -> None:
        """End an actor for good, at once: callers need not wait for the process."""
        worker = actor.worker
        self._die(actor, actor.ending or reason, effects)
        if worker:
            effects.append(KillActor(worker, reason))

    def _die(self, actor: ActorRecord, cause: str, effects: list[Effect]) -> None:
        if not actor.worker:
            effects.append(DropWant(actor.id))
        self._forget_restart(actor)
        actor.state, actor.cause, actor.worker, actor.address = "dead", cause, b"", ""
        actor.moving = ""
        if actor.name is not None:
            del self._actor_by_name[actor.name]
        self._tell(actor, effects)
        actor.watchers.clear()
        effects.append(Forget(actor.id))
        self._dead[actor.id] = None
        self._dead_bytes += _words_bytes(actor)
        # The newest is remembered in any case: it has yet to be asked about.
        while len(self._dead) > DEAD_KEPT or (
            self._dead_bytes > DEAD_BYTES and len(self._dead) > 1
        ):
            oldest, _ = self._dead.popitem(last=False)
            self._dead_bytes -= _words_bytes(self._actor_of.pop(oldest))

    # -------------------------------------------------------------- who watches

    def _watched(self, actor_id: bytes, client: bytes, effects: list[Effect]) -> None:
        actor = self._actor_of.get(actor_id)
        if actor_id in self._ended_early:
            effects.append(_early_news(actor_id, client, self._ended_early[actor_id]))
            return
        if actor is None:
            self._waiting_by_actor.setdefault(actor_id, {})[client] = None
            return
        if actor.state != "dead":
            actor.watchers[client] = None
        effects.append(self._news(actor, client))

    def _client_ended(self, client: bytes, effects: list[Effect]) -> None:
        for actor_id in [a for a, clients in self._waiting_by_actor.items() if client in clients]:
            del self._waiting_by_actor[actor_id][client]
            if not self._waiting_by_actor[actor_id]:
                del self._waiting_by_actor[actor_id]
        for actor in list(self._actor_of.values()):
            actor.watchers.pop(client, None)
            if actor.owner == client and actor.state != "dead":
                self._stop(actor, "the process that created it has ended", effects)

    def _tell(self, actor: ActorRecord, effects: list[Effect]) -> None:
        effects.extend(self._news(actor, client) for client in actor.watchers)

    @staticmethod
    def _news(actor: ActorRecord, client: bytes) -> Tell:
        is_alive = actor.state == "alive"
        return Tell(
            client,
            actor.id,
            actor.state,
            actor.address if is_alive else "",
            actor.restarts,
            actor.cause,
            actor.error,
            actor.worker if is_alive else b"",
            actor.refused,
        )

    def _having(self, actor_id: bytes, worker: bytes) -> ActorRecord | None:
        """Return the actor if this worker is it; news of an earlier life is late."""
        actor = self._actor_of.get(actor_id)
        return actor if actor is not None and actor.worker == worker else None

    # -------------------------------------------------------------- questions

    def find(self, name: str, namespace: str) -> bytes | None:
        """Return the living actor of this name."""
        actor = self._actor_by_name.get((namespace, name))
        return actor.id if actor else None

    def names(self) -> list[tuple[str, str]]:
        """Return (namespace, name) of the living named actors."""
        return sorted(self._actor_by_name)

    def state_of(self, actor_id: bytes) -> tuple[State, str, bytes] | None:
        """Return (state, cause, worker) of an actor that is remembered."""
        actor = self._actor_of.get(actor_id)
        return (actor.state, actor.cause, actor.worker) if actor else None

    def states(self) -> list[State]:
        """Return the state of each actor that is remembered."""
        return [actor.state for actor in self._actor_of.values()]

    def facts(self, actor_id: bytes) -> ActorFacts | None:
        """Return what is known of an actor that is remembered."""
        actor = self._actor_of.get(actor_id)
        if actor is None:
            return None
        return ActorFacts(actor.state, actor.worker, actor.restarts, actor.cause)

    def news(self, actor_id: bytes) -> Tell | None:
        """Return what who watches an actor was told last; None: it is not remembered."""
        if actor_id in self._ended_early:
            return _early_news(actor_id, b"", self._ended_early[actor_id])
        actor = self._actor_of.get(actor_id)
        return self._news(actor, b"") if actor else None

    def explain(self, actor_id: bytes, now: float) -> str:
        """Say where an actor is in its life, and why. Empty while it waits for a worker."""
        if actor_id in self._ended_early:
            return f"dead: {self._ended_early[actor_id]}; it was never created"
        actor = self._actor_of.get(actor_id)
        if actor is None:
            return "no such actor is known here"
        restarts = f"restarted {actor.restarts - actor.moves} times"
        if actor.max_restarts >= 0:
            restarts += f" of {actor.max_restarts}"
        if actor.moves:
            restarts += f", moved {actor.moves} times"
        if actor.state == "dead":
            return f"dead: {actor.cause}; {restarts}"
        if actor.state == "alive":
            words = f"alive; {restarts}"
            words += f"; it moves: {actor.moving}" if actor.moving else ""
            return words + (f"; ending: {actor.ending}" if actor.ending else "")
        before = f"restarting ({actor.cause}); " if actor.state == "restarting" else ""
        if actor.worker:
            return f"{before}its constructor has run for {now - actor.started_at:.1f} s"
        if actor.restart_at is not None:
            wait_s = max(0.0, actor.restart_at - now)
            return f"{before}it keeps dying young: next start in {wait_s:.1f} s; {restarts}"
        return ""

    # -------------------------------------------------------------- snapshots

    def image(self) -> ActorsImage:
        """Return all that is remembered; it changes with the next event, so encode it at once."""
        return ActorsImage(
            list(self._actor_of.values()),
            list(self._dead),
            self._waiting_by_actor,
            list(self._ended_early.items()),
            list(self._restarting),
        )

    def restore(self, image: ActorsImage) -> None:
        """Remember what an image says, and nothing else."""
        self._actor_of = {actor.id: actor for actor in image.actors}
        self._dead = OrderedDict.fromkeys(image.dead)
        self._dead_bytes = sum(_words_bytes(self._actor_of[actor]) for actor in image.dead)
        self._actor_by_name = {a.name: a for a in image.actors if a.name and a.state != "dead"}
        self._waiting_by_actor = image.waiting_by_actor
        self._ended_early = OrderedDict(image.ended_early)
        self._restarting = {actor: self._actor_of[actor] for actor in image.restarting}

    def check(self) -> None:
        """Assert what is always true."""
        living = [a for a in self._actor_of.values() if a.state != "dead"]
        assert {a.name: a for a in living if a.name} == self._actor_by_name, 1
        dead = [a for a in self._actor_of.values() if a.state == "dead"]
        assert not any(a.worker for a in dead), 2
        assert all(a.worker for a in living if a.state == "alive"), 2
        counted = [(a.restarts - a.moves, a.max_restarts) for a in living]
        assert all(
            restarts >= 0 and (most < 0 or restarts <= most) for restarts, most in counted
        ), 3
        assert all(a.worker and a.max_restarts for a in living if a.moving), 3
        assert not any(a.moving for a in dead), 3
        assert sorted(a.id for a in dead) == sorted(self._dead), 4
        assert len(dead) <= DEAD_KEPT, 4
        assert sum(map(_words_bytes, dead)) == self._dead_bytes, 4
        assert self._dead_bytes <= DEAD_BYTES or len(dead) == 1, 4
        assert not any(a.watchers for a in dead), 5
        known = self._actor_of.keys() | self._ended_early.keys()
        assert not self._waiting_by_actor.keys() & known, 5
        assert all(a.restart_at is not None and not a.worker for a in self._restarting.values()), 2


def _early_news(actor: bytes, client: bytes, reason: str) -> Tell:
    return Tell(client, actor, "dead", "", 0, reason, b"", b"")


def _words_bytes(actor: ActorRecord) -> int:
    return len(actor.error) + len(actor.cause)
