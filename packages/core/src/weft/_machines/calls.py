"""The calls that a process makes to actors.

In order per caller, resolved once, retried only as allowed.

    call:    waiting (arguments) -> ready -> sent -> done
    actor:   pending -> alive <-> restarting -> dead

What is always true
1. Calls to one actor are sent in the order in which they were made: one that waits for its
   arguments holds back those behind it (an actor created to run out of order is the exception).
2. A call is sent to one incarnation of the actor at a time; without retries left it is sent at most
   once.
3. Nothing is sent unless the directory said that the actor is alive at an address and the
   connection stands.
4. Every call ends in exactly one Complete or Fail.
5. An actor that is dead is forgotten, but by its maker, while there are handles of it anywhere.
   Who calls it all the same asks the directory again.

`next_deadline` says when `Ticked` is due.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any, Literal, assert_never

import msgspec

from weft._ids import ActorId, TaskId
from weft._machines.attempts import (
    Answered,
    ArgumentFailed,
    ArgumentsReady,
    AskCancel,
    Attempted,
    AttemptEvent,
    Attempts,
    CancelAsked,
    Complete,
    Fail,
    FailKind,
    Kill,
    Ticked,
)
from weft._wire.messages import ActorNews


class ActorCall(Attempted):
    """One call."""

    __slots__ = ("actor",)

    def __init__(
        self,
        task_id: TaskId,
        actor: ActorId,
        *,
        name: str,
        retries: int,
        timeout_s: float,
        note: Any,
    ) -> None:
        super().__init__(task_id, name, retries=retries, timeout_s=timeout_s, note=note)
        self.actor = actor


class Callee:
    """An actor as this caller knows it."""

    __slots__ = (
        "address",
        "connected",
        "in_any_order",
        "kept",
        "queue",
        "restarts",
        "sent",
        "state",
        "told",
    )

    def __init__(self, *, in_any_order: bool) -> None:
        self.state: Literal["pending", "alive", "restarting", "dead"] = "pending"
        self.address = ""
        self.restarts = 0
        self.connected = False
        self.queue: deque[ActorCall] = deque()
        self.sent: OrderedDict[TaskId, ActorCall] = OrderedDict()
        self.in_any_order = in_any_order
        self.kept = False
        """It was made here, and there are handles of it."""
        self.told: ActorNews | None = None
        """The directory's last word."""


# ------------------------------------------------------------------ events


class ActorMade(msgspec.Struct, frozen=True):
    """This process makes an actor."""

    actor: ActorId
    in_any_order: bool


class HandlesGone(msgspec.Struct, frozen=True):
    """The last handle of an actor that was made here is gone."""

    actor: ActorId


class CallMade(msgspec.Struct, frozen=True):
    """A method was called."""

    call: ActorCall
    in_any_order: bool


class Told(msgspec.Struct, frozen=True):
    """The directory says where the actor is in its life."""

    state: ActorNews


class Connected(msgspec.Struct, frozen=True):
    """The connection to the actor's address stands."""

    actor: ActorId
    address: str


class ConnectionLost(msgspec.Struct, frozen=True):
    """The connection broke; the directory will say what became of the actor."""

    actor: ActorId


class LivesOn(msgspec.Struct, frozen=True):
    """The connection broke alone: the process at this address is there as before."""

    actor: ActorId
    address: str


class Killed(msgspec.Struct, frozen=True):
    """This process has asked the directory to end the actor."""

    actor: ActorId


Event = (
    AttemptEvent
    | ActorMade
    | HandlesGone
    | CallMade
    | Told
    | Connected
    | ConnectionLost
    | LivesOn
    | Killed
)

# ------------------------------------------------------------------ effects


class Watch(msgspec.Struct, frozen=True):
    """Ask the directory about the actor, now and at every change."""

    actor: ActorId


class Connect(msgspec.Struct, frozen=True):
    """Connect to the actor."""

    actor: ActorId
    address: str


class SendCall(msgspec.Struct, frozen=True):
    """Send the call."""

    address: str
    call: ActorCall


OwnEffect = Watch | Connect | SendCall | Kill[ActorCall]
Effect = OwnEffect | AskCancel[ActorCall] | Complete[ActorCall] | Fail[ActorCall]


class Calls:
    """The actors that this process calls, and its calls."""

    def __init__(self) -> None:
        self.attempts: Attempts[ActorCall] = Attempts()
        self.callees: dict[ActorId, Callee] = {}

    @property
    def next_deadline(self) -> float | None:
        """When `Ticked` is due; None: never, as things are."""
        return self.attempts.next_deadline

    def pending(self, actor: ActorId) -> int:
        """How many calls to the actor have not ended."""
        callee = self.callees.get(actor)
        return 0 if callee is None else len(callee.queue) + len(callee.sent)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take an event at time `now` (seconds, monotonic); return what to do, in order."""
        effects: list[Effect] = []
        match event:
            case CallMade():
                self._made(event, now, effects)
            case Answered():
                self._answered(event, now, effects)
            case ArgumentsReady():
                call = self.attempts.waiting(event.task_id)
                if call is not None:
                    call.state = "ready"
                    self._became_ready(call, now, effects)
            case ArgumentFailed():
                call = self.attempts.waiting(event.task_id)
                if call is not None:
                    self._fail_unsent(call, "argument", event.error, now, effects)
            case ActorMade():
                callee = self.callees[event.actor] = Callee(in_any_order=event.in_any_order)
                callee.kept = True
                effects.append(Watch(event.actor))
            case HandlesGone():
                self.callees[event.actor].kept = False
                self._forget_if_over(event.actor)
            case Told():
                self._told(event.state, now, effects)
            case Connected():
                callee = self.callees[event.actor]
                if callee.state == "alive" and callee.address == event.address:
                    callee.connected = True
                    self._send_ready(callee, now, effects)
            case ConnectionLost():
                self.callees[event.actor].connected = False
            case LivesOn():
                self._lives_on(event, effects)
            case Killed():
                self._killed(event)
            case CancelAsked():
                self._cancel(event, now, effects)
            case Ticked():
                effects.extend(self.attempts.tick(now))
            case _:
                assert_never(event)
        return effects

    # -------------------------------------------------------------- calls

    def _made(self, event: CallMade, now: float, effects: list[Effect]) -> None:
        call = event.call
        callee = self.callees.get(call.actor)
        if callee is None:
            callee = self.callees[call.actor] = Callee(in_any_order=event.in_any_order)
            effects.append(Watch(call.actor))
        self.attempts.open[call.id] = call
        if callee.state == "dead":
            effects.append(self.attempts.fail(call, "died", callee.told))
            return
        is_next = callee.in_any_order or not callee.queue
        if callee.connected and is_next and call.state == "ready":
            self._send(callee, call, now, effects)
            return
        callee.queue.append(call)

    def _became_ready(self, call: ActorCall, now: float, effects: list[Effect]) -> None:
        callee = self.callees[call.actor]
        if callee.connected and callee.in_any_order:
            callee.queue.remove(call)
            self._send(callee, call, now, effects)
        else:
            self._advance(callee, now, effects)

    def _advance(self, callee: Callee, now: float, effects: list[Effect]) -> None:
        """Send from the queue's front, as far as calls are ready."""
        queue = callee.queue
        while callee.connected and queue and queue[0].state == "ready":
            self._send(callee, queue.popleft(), now, effects)

    def _send_ready(self, callee: Callee, now: float, effects: list[Effect]) -> None:
        """Send what may be sent on a connection that stands newly."""
        if callee.in_any_order:
            calls = callee.queue
            callee.queue = deque(call for call in calls if call.state == "waiting")
            for call in calls:
                if call.state == "ready":
                    self._send(callee, call, now, effects)
        else:
            self._advance(callee, now, effects)

    def _send(self, callee: Callee, call: ActorCall, now: float, effects: list[Effect]) -> None:
        self.attempts.send(call, now)
        callee.sent[call.id] = call
        effects.append(SendCall(callee.address, call))

    def _answered(self, event: Answered, now: float, effects: list[Effect]) -> None:
        call = self.attempts.open[event.task_id]
        callee = self.callees[call.actor]
        if callee.sent.pop(event.task_id, None) is None:
            # The answer of an incarnation that is gone, which the directory's word has overtaken.
            if call.state != "ready" or not call.attempt:
                raise KeyError(event.task_id)
            if event.retriable:
                return
            callee.queue.remove(call)
        if event.retriable and self.attempts.try_again(call):
            callee.queue.appendleft(call)
            self._advance(callee, now, effects)
            return
        effects.append(self.attempts.answer(call))

    # -------------------------------------------------------------- the actor's life

    def _told(self, told: ActorNews, now: float, effects: list[Effect]) -> None:
        actor = ActorId(told.actor_id)
        callee = self.callees[actor]
        if callee.state == "dead":
            # Its maker may know more of its end than the directory.
            return
        callee.told = told
        if told.state == "alive":
            if (
                callee.state == "alive"
                and callee.address == told.address
                and callee.restarts == told.restarts
            ):
                return
            if callee.state == "restarting" and told.restarts <= callee.restarts:
                # News of the life that this process has asked to end.
                return
            self._take_back(callee, told.cause, effects)
            callee.state, callee.address, callee.restarts = "alive", told.address, told.restarts
            callee.connected = False
            effects.append(Connect(actor, told.address))
        elif told.state == "dead":
            callee.state = "dead"
            callee.connected = False
            effects.extend(
                self.attempts.fail(call, "died", told)
                for call in (*callee.sent.values(), *callee.queue)
            )
            callee.sent.clear()
            callee.queue.clear()
            self._forget_if_over(actor)
        else:
            self._take_back(callee, told.cause, effects)
            callee.state = "restarting" if told.state == "restarting" else "pending"
            callee.connected = False

    def _lives_on(self, event: LivesOn, effects: list[Effect]) -> None:
        """Connect again. What had been sent may have run, and its answer is lost."""
        if self.is_cut_off(event.actor, event.address):
            callee = self.callees[event.actor]
            self._take_back(callee, "the connection to it broke", effects)
            effects.append(Connect(event.actor, event.address))

    def is_cut_off(self, actor: ActorId, address: str) -> bool:
        """Tell whether an actor lives at an address, as far as is known, without a connection."""
        callee = self.callees.get(actor)
        if callee is None or callee.connected:
            return False
        return (callee.state, callee.address) == ("alive", address)

    def _killed(self, event: Killed) -> None:
        """Send no more to this life; the directory will say what becomes of the calls it has."""
        callee = self.callees[event.actor]
        if callee.state == "alive":
            callee.state = "restarting"
            callee.connected = False

    def _take_back(self, callee: Callee, cause: str, effects: list[Effect]) -> None:
        """The incarnation that had these calls is gone.

        Retry those that may be, in order, before the others.
        """
        sent = list(callee.sent.values())
        callee.sent.clear()
        for call in reversed(sent):
            if self.attempts.try_again(call):
                callee.queue.appendleft(call)
            else:
                effects.append(self.attempts.fail(call, "unavailable", cause))

    def _forget_if_over(self, actor: ActorId) -> None:
        callee = self.callees[actor]
        if callee.state == "dead" and not callee.kept:
            del self.callees[actor]

    def _cancel(self, event: CancelAsked, now: float, effects: list[Effect]) -> None:
        call = self.attempts.open.get(event.task_id)
        if call is None:
            return
        if call.state == "sent":
            call.cancelled = True
            effects.append(AskCancel(call))
        else:
            self._fail_unsent(call, "cancelled", None, now, effects)

    def _fail_unsent(
        self, call: ActorCall, kind: FailKind, detail: Any, now: float, effects: list[Effect]
    ) -> None:
        callee = self.callees[call.actor]
        callee.queue.remove(call)
        effects.append(self.attempts.fail(call, kind, detail))
        self._advance(callee, now, effects)

    def check(self) -> None:
        """Assert what is always true, by its number above."""
        self.attempts.check()
        calls = self.attempts.open
        for actor, callee in self.callees.items():
            assert callee.connected <= (callee.state == "alive"), 3
            assert callee.state != "dead" or callee.kept, (5, actor)
            for call in callee.queue:
                assert call.state in ("waiting", "ready") and calls[call.id] is call, (
                    4,
                    call.id,
                )
            for call in callee.sent.values():
                assert call.state == "sent" and calls[call.id] is call, (4, call.id)
            held_back = list(callee.queue) if callee.in_any_order else list(callee.queue)[:1]
            assert not callee.connected or all(call.state == "waiting" for call in held_back), 1
