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
4. Every call ends in exactly one Completed or Failed.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any, Literal, assert_never

import msgspec

from weft._ids import ActorId, TaskId
from weft._wire.messages import ActorState

# As for tasks: a call that ran over its limit is asked to stop, then its actor's process is ended.
GRACE_S = 0.5


class ActorCall:
    """One call. `note` is the shell's."""

    __slots__ = (
        "actor",
        "attempt",
        "cancelled",
        "deadline",
        "id",
        "name",
        "note",
        "retries",
        "state",
        "timed_out",
        "timeout_s",
        "waits",
    )

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
        self.id = task_id
        self.actor = actor
        self.name = name
        self.retries = retries
        """Attempts left after this one; -1: no end."""
        self.waits = 0
        self.timeout_s = timeout_s
        self.state: Literal["waiting", "ready", "sent", "done"] = "ready"
        self.attempt = 0
        self.cancelled = False
        self.deadline = 0.0
        self.timed_out = False
        self.note = note


class Callee:
    """An actor as this caller knows it."""

    __slots__ = (
        "address",
        "connected",
        "in_any_order",
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
        self.told: ActorState | None = None
        """The directory's last word."""


# ------------------------------------------------------------------ events


class CallMade(msgspec.Struct, frozen=True):
    """A method was called."""

    call: ActorCall
    in_any_order: bool


class CallArgumentReady(msgspec.Struct, frozen=True):
    """One more argument of a waiting call is there."""

    task_id: TaskId


class CallArgumentFailed(msgspec.Struct, frozen=True):
    """An argument ended in an error: the call cannot run."""

    task_id: TaskId
    error: Any


class Told(msgspec.Struct, frozen=True):
    """The directory says where the actor is in its life."""

    state: ActorState


class Connected(msgspec.Struct, frozen=True):
    """The connection to the actor's address stands."""

    actor: ActorId
    address: str


class ConnectionLost(msgspec.Struct, frozen=True):
    """The connection broke; the directory will say what became of the actor."""

    actor: ActorId


class Answered(msgspec.Struct, frozen=True):
    """The actor answered. `retriable`: with an exception that the call wants retried."""

    actor: ActorId
    task_id: TaskId
    retriable: bool


class Killed(msgspec.Struct, frozen=True):
    """This process has asked the directory to end the actor."""

    actor: ActorId


class CallCancelAsked(msgspec.Struct, frozen=True):
    """The user cancels a call."""

    task_id: TaskId


class CallsTicked(msgspec.Struct, frozen=True):
    """`next_deadline` has come."""


Event = (
    CallMade | Answered | CallArgumentReady | CallArgumentFailed | Told | Connected
    | ConnectionLost | Killed | CallCancelAsked | CallsTicked
)  # fmt: skip

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


class Completed(msgspec.Struct, frozen=True):
    """The actor's answer is the call's end."""

    call: ActorCall


class Failed(msgspec.Struct, frozen=True):
    """The call ends without an answer."""

    call: ActorCall
    kind: Literal["died", "unavailable", "cancelled", "timeout", "argument"]
    detail: Any = None


class AskCallCancel(msgspec.Struct, frozen=True):
    """Ask the actor to stop the call."""

    address: str
    call: ActorCall


class KillCallee(msgspec.Struct, frozen=True):
    """End the actor's process: a call of it would not stop."""

    actor: ActorId
    reason: str


Effect = Watch | Connect | SendCall | Completed | Failed | AskCallCancel | KillCallee


class Calls:
    """The actors that this process calls, and its calls."""

    def __init__(self) -> None:
        self.callees: dict[ActorId, Callee] = {}
        self.calls: dict[TaskId, ActorCall] = {}
        self._timed: dict[TaskId, ActorCall] = {}

    @property
    def next_deadline(self) -> float | None:
        """When `CallsTicked` is due; None: never, as things are."""
        return min((call.deadline for call in self._timed.values()), default=None)

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
            case CallArgumentReady():
                call = self.calls.get(event.task_id)
                if call is not None and call.state == "waiting":
                    call.waits -= 1
                    if not call.waits:
                        call.state = "ready"
                        self._became_ready(call, now, effects)
            case CallArgumentFailed():
                call = self.calls.get(event.task_id)
                if call is not None and call.state == "waiting":
                    callee = self.callees[call.actor]
                    callee.queue.remove(call)
                    self._fail(call, "argument", event.error, effects)
                    self._advance(callee, now, effects)
            case Told():
                self._told(event.state, now, effects)
            case Connected():
                callee = self.callees[event.actor]
                if callee.state == "alive" and callee.address == event.address:
                    callee.connected = True
                    self._send_ready(callee, now, effects)
            case ConnectionLost():
                self.callees[event.actor].connected = False
            case Killed():
                self._killed(event)
            case CallCancelAsked():
                self._cancel(event, now, effects)
            case CallsTicked():
                self._tick(now, effects)
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
        self.calls[call.id] = call
        if callee.state == "dead":
            self._fail(call, "died", callee.told, effects)
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
        call.state = "sent"
        callee.sent[call.id] = call
        if call.timeout_s:
            call.deadline = now + call.timeout_s
            self._timed[call.id] = call
        effects.append(SendCall(callee.address, call))

    def _answered(self, event: Answered, now: float, effects: list[Effect]) -> None:
        callee = self.callees[event.actor]
        call = self.calls[event.task_id]
        if callee.sent.pop(event.task_id, None) is None:
            # The answer of an incarnation that is gone, which the directory's word has overtaken.
            if call.state != "ready" or not call.attempt:
                raise KeyError(event.task_id)
            if event.retriable:
                return
            callee.queue.remove(call)
        if event.retriable and call.retries and not call.cancelled and not call.timed_out:
            self._again(call)
            callee.queue.appendleft(call)
            self._advance(callee, now, effects)
            return
        self._end(call)
        effects.append(Failed(call, "timeout") if call.timed_out else Completed(call))

    def _again(self, call: ActorCall) -> None:
        self._timed.pop(call.id, None)
        call.state = "ready"
        call.attempt += 1
        if call.retries > 0:
            call.retries -= 1

    def _end(self, call: ActorCall) -> None:
        self._timed.pop(call.id, None)
        call.state = "done"
        del self.calls[call.id]

    def _fail(
        self,
        call: ActorCall,
        kind: Literal["died", "unavailable", "cancelled", "timeout", "argument"],
        detail: Any,
        effects: list[Effect],
    ) -> None:
        self._end(call)
        effects.append(Failed(call, kind, detail))

    # -------------------------------------------------------------- the actor's life

    def _told(self, told: ActorState, now: float, effects: list[Effect]) -> None:
        actor = ActorId(told.actor_id)
        callee = self.callees[actor]
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
            for call in (*callee.sent.values(), *callee.queue):
                kind: Literal["timeout", "cancelled", "died"] = (
                    "timeout" if call.timed_out else "cancelled" if call.cancelled else "died"
                )
                self._fail(call, kind, told, effects)
            callee.sent.clear()
            callee.queue.clear()
        else:
            self._take_back(callee, told.cause, effects)
            callee.state = "restarting" if told.state == "restarting" else "pending"
            callee.connected = False

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
            if call.timed_out:
                self._fail(call, "timeout", cause, effects)
            elif call.cancelled:
                self._fail(call, "cancelled", cause, effects)
            elif call.retries:
                self._again(call)
                callee.queue.appendleft(call)
            else:
                self._fail(call, "unavailable", cause, effects)

    def _cancel(self, event: CallCancelAsked, now: float, effects: list[Effect]) -> None:
        call = self.calls.get(event.task_id)
        if call is None:
            return
        callee = self.callees[call.actor]
        if call.state == "sent":
            call.cancelled = True
            effects.append(AskCallCancel(callee.address, call))
            return
        callee.queue.remove(call)
        self._fail(call, "cancelled", None, effects)
        self._advance(callee, now, effects)

    def _tick(self, now: float, effects: list[Effect]) -> None:
        for call in [call for call in self._timed.values() if call.deadline <= now]:
            if call.timed_out:
                del self._timed[call.id]
                effects.append(
                    KillCallee(
                        call.actor, f"{call.name} ran over its time limit of {call.timeout_s:g} s"
                    )
                )
            else:
                call.timed_out = True
                call.deadline = now + GRACE_S
                effects.append(AskCallCancel(self.callees[call.actor].address, call))

    def check(self) -> None:
        """Assert what is always true, by its number above."""
        for callee in self.callees.values():
            assert callee.connected <= (callee.state == "alive"), 3
            for call in callee.queue:
                assert call.state in ("waiting", "ready") and self.calls[call.id] is call, (
                    4,
                    call.id,
                )
            for call in callee.sent.values():
                assert call.state == "sent" and self.calls[call.id] is call, (4, call.id)
            held_back = list(callee.queue) if callee.in_any_order else list(callee.queue)[:1]
            assert not callee.connected or all(call.state == "waiting" for call in held_back), 1
