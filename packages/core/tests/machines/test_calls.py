from __future__ import annotations

from collections import Counter, deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from weft._ids import ActorId, TaskId
from weft._machines.attempts import (
    GRACE_S,
    Answered,
    ArgumentFailed,
    ArgumentsReady,
    AskCancel,
    CancelAsked,
    Complete,
    Fail,
    Kill,
    Ticked,
)
from weft._machines.calls import (
    ActorCall,
    ActorMade,
    CallMade,
    Calls,
    Connect,
    Connected,
    ConnectionLost,
    Effect,
    Event,
    HandlesGone,
    Killed,
    LivesOn,
    SendCall,
    Told,
    Watch,
)
from weft._wire.messages import ActorNews

ACTOR, OTHER = ActorId(b"a" * 16), ActorId(b"o" * 16)
NOT_THERE = TaskId(bytes(16))


def state(name: str, restarts: int = 0, actor: ActorId = ACTOR) -> ActorNews:
    address = f"life {restarts}" if name == "alive" else ""
    return ActorNews(actor, name, address, restarts, f"is {name}")


class Caller:
    """A Calls whose invariants are checked after every event."""

    def __init__(self) -> None:
        self.machine = Calls()
        self.now = 100.0
        self.made = 0

    def __call__(self, *events: Event) -> list[Effect]:
        effects: list[Effect] = []
        for event in events:
            effects = self.machine.handle(event, self.now)
            self.machine.check()
        return effects

    def call_of(
        self,
        *,
        actor: ActorId = ACTOR,
        retries: int = 0,
        timeout_s: float = 0.0,
        waits: bool = False,
    ) -> ActorCall:
        self.made += 1
        task_id = TaskId(self.made.to_bytes(16, "big"))
        call = ActorCall(task_id, actor, name="m", retries=retries, timeout_s=timeout_s, note=None)
        if waits:
            call.state = "waiting"
        return call

    def make(self, *, in_any_order: bool = False, **options: Any) -> ActorCall:
        call = self.call_of(**options)
        self(CallMade(call, in_any_order))
        return call

    def live(self, restarts: int = 0) -> list[Effect]:
        """Hear that the actor is alive, and be connected to it."""
        told = state("alive", restarts)
        return self(Told(told), Connected(ACTOR, told.address))

    def sent(self, **options: Any) -> ActorCall:
        call = self.make(**options)
        self.live()
        assert call.state == "sent"
        return call


@pytest.fixture
def caller() -> Caller:
    return Caller()


def answered(call: ActorCall, *, retriable: bool = False) -> Answered:
    return Answered(call.id, 0.0, retriable)


# ------------------------------------------------------------------ finding the actor


def test_first_call_asks_for_the_actor_and_waits_for_its_connection(caller: Caller) -> None:
    call = caller.call_of()
    assert caller(CallMade(call, False)) == [Watch(ACTOR)]
    assert caller(Told(state("pending"))) == []
    assert caller(Told(state("alive"))) == [Connect(ACTOR, "life 0")]
    assert caller(Connected(ACTOR, "life 0")) == [SendCall("life 0", call)]
    assert caller(answered(call)) == [Complete(call)]


def test_calls_to_a_connected_actor_go_at_once(caller: Caller) -> None:
    caller.sent()
    call = caller.call_of()
    assert caller(CallMade(call, False)) == [SendCall("life 0", call)]


def test_actors_are_found_one_by_one(caller: Caller) -> None:
    caller.sent()
    call = caller.call_of(actor=OTHER)
    assert caller(CallMade(call, False)) == [Watch(OTHER)]
    assert (caller.machine.pending(ACTOR), caller.machine.pending(OTHER)) == (1, 1)


def test_nothing_is_pending_at_an_actor_that_was_never_called(caller: Caller) -> None:
    assert caller.machine.pending(ACTOR) == 0


def test_same_news_of_the_actor_twice_changes_nothing(caller: Caller) -> None:
    call = caller.sent()
    assert caller(Told(state("alive"))) == []
    assert caller(answered(call)) == [Complete(call)]


def test_connection_to_an_older_life_is_not_used(caller: Caller) -> None:
    caller.make()
    caller(Told(state("alive")), Told(state("restarting", 1)))
    assert caller(Connected(ACTOR, "life 0")) == []
    caller(Told(state("alive", 1)))
    assert caller(Connected(ACTOR, "life 0")) == []


# ------------------------------------------------------------------ order


def test_calls_are_sent_in_the_order_in_which_they_were_made(caller: Caller) -> None:
    calls = [caller.make() for _ in range(3)]
    assert caller.live() == [SendCall("life 0", call) for call in calls]


def test_call_that_waits_for_an_argument_holds_back_those_behind(caller: Caller) -> None:
    caller.sent()
    slow, quick = caller.make(waits=True), caller.make()
    sent = [SendCall("life 0", slow), SendCall("life 0", quick)]
    assert caller(ArgumentsReady(slow.id)) == sent


def test_call_whose_argument_failed_holds_nobody_back(caller: Caller) -> None:
    caller.sent()
    slow, quick = caller.make(waits=True), caller.make()
    assert caller(ArgumentFailed(slow.id, "why")) == [
        Fail(slow, "argument", "why"),
        SendCall("life 0", quick),
    ]
    assert caller(ArgumentsReady(slow.id), ArgumentFailed(slow.id, "late")) == []


def test_argument_of_a_call_that_does_not_wait_is_no_news(caller: Caller) -> None:
    call = caller.sent()
    assert caller(ArgumentsReady(call.id), ArgumentFailed(call.id, "late")) == []


def test_argument_can_come_before_the_actor(caller: Caller) -> None:
    slow, quick = caller.make(waits=True), caller.make()
    assert caller(ArgumentsReady(slow.id)) == []
    assert caller.live() == [SendCall("life 0", slow), SendCall("life 0", quick)]


def test_in_any_order_a_late_argument_holds_back_nobody(caller: Caller) -> None:
    slow, quick = caller.make(in_any_order=True, waits=True), caller.make()
    assert caller.live() == [SendCall("life 0", quick)]
    later = caller.call_of()
    assert caller(CallMade(later, True)) == [SendCall("life 0", later)]
    assert caller(ArgumentsReady(slow.id)) == [SendCall("life 0", slow)]


def test_in_any_order_what_is_ready_waits_for_the_connection(caller: Caller) -> None:
    calls = [caller.make(in_any_order=True, waits=True) for _ in range(3)]
    assert caller(ArgumentsReady(calls[1].id)) == []
    assert caller.live() == [SendCall("life 0", calls[1])]
    assert caller(ArgumentsReady(calls[2].id)) == [SendCall("life 0", calls[2])]


# ------------------------------------------------------------------ retries


def test_exception_is_retried_while_retries_are_left(caller: Caller) -> None:
    call = caller.sent(retries=1)
    assert caller(answered(call, retriable=True)) == [SendCall("life 0", call)]
    assert (call.attempt, call.retries) == (1, 0)
    assert caller(answered(call, retriable=True)) == [Complete(call)]


def test_retries_without_end_are_not_counted(caller: Caller) -> None:
    call = caller.sent(retries=-1)
    for attempt in range(1, 4):
        caller(answered(call, retriable=True))
        assert (call.attempt, call.retries, call.state) == (attempt, -1, "sent")


def test_cancelled_call_is_not_retried(caller: Caller) -> None:
    call = caller.sent(retries=1)
    caller(CancelAsked(call.id))
    assert caller(answered(call, retriable=True)) == [Complete(call)]


# ------------------------------------------------------------------ an actor that restarts


def test_calls_without_retries_are_not_sent_to_the_next_life(caller: Caller) -> None:
    call = caller.sent()
    assert caller(ConnectionLost(ACTOR)) == []
    assert caller(Told(state("restarting", 1))) == [Fail(call, "unavailable", "is restarting")]


def test_calls_with_retries_go_to_the_next_life_before_the_others(caller: Caller) -> None:
    first, second = caller.make(retries=1), caller.make(retries=1)
    caller.live()
    caller(ConnectionLost(ACTOR))
    third = caller.make()
    caller(Told(state("restarting", 1)))
    assert caller.live(1) == [SendCall("life 1", call) for call in (first, second, third)]


def test_restart_may_show_only_in_the_next_life(caller: Caller) -> None:
    call = caller.sent()
    assert caller(ConnectionLost(ACTOR), Told(state("alive", 1))) == [
        Fail(call, "unavailable", "is alive"),
        Connect(ACTOR, "life 1"),
    ]


def test_calls_wait_while_the_connection_is_lost(caller: Caller) -> None:
    caller.sent()
    call = caller.call_of()
    assert caller(ConnectionLost(ACTOR), CallMade(call, False)) == []


def test_actor_that_lives_on_is_connected_to_again(caller: Caller) -> None:
    once, again = caller.make(), caller.make(retries=1)
    caller.live()
    caller(ConnectionLost(ACTOR))
    assert caller.machine.is_cut_off(ACTOR, "life 0")
    third = caller.make()
    assert caller(LivesOn(ACTOR, "life 0")) == [
        Fail(once, "unavailable", "the connection to it broke"),
        Connect(ACTOR, "life 0"),
    ]
    assert caller(Connected(ACTOR, "life 0")) == [
        SendCall("life 0", again),
        SendCall("life 0", third),
    ]


def test_that_an_earlier_life_goes_on_is_no_news(caller: Caller) -> None:
    caller.sent()
    assert caller(LivesOn(ACTOR, "life 0")) == []
    caller(ConnectionLost(ACTOR), Told(state("restarting", 1)))
    assert caller(LivesOn(ACTOR, "life 0")) == []
    assert not caller.machine.is_cut_off(ACTOR, "life 0")
    assert not caller.machine.is_cut_off(OTHER, "life 0")


def test_cancelled_and_late_calls_are_not_sent_to_the_next_life(caller: Caller) -> None:
    cancelled, late = caller.make(retries=1), caller.make(retries=1, timeout_s=1.0)
    caller.live()
    caller(CancelAsked(cancelled.id))
    caller.now += 1.0
    caller(Ticked())
    assert caller(Told(state("restarting", 1))) == [
        Fail(late, "timeout", "is restarting"),
        Fail(cancelled, "cancelled", "is restarting"),
    ]


def test_answer_of_an_ended_life_is_taken_if_it_comes_after_that_news(caller: Caller) -> None:
    call = caller.sent(retries=1)
    caller(Told(state("restarting", 1)))
    assert caller(answered(call)) == [Complete(call)]
    assert caller.live(1) == []


def test_retriable_answer_of_an_ended_life_costs_one_retry_only(caller: Caller) -> None:
    call = caller.sent(retries=2)
    caller(Told(state("restarting", 1)))
    assert caller(answered(call, retriable=True)) == []
    assert (call.attempt, call.retries) == (1, 1)
    assert caller.live(1) == [SendCall("life 1", call)]


def test_answer_to_a_call_that_was_never_sent_raises(caller: Caller) -> None:
    call = caller.make()
    with pytest.raises(KeyError):
        caller(answered(call))
    assert caller.live() == [SendCall("life 0", call)]


# ------------------------------------------------------------------ an actor that dies


def test_all_calls_of_a_dead_actor_fail_with_what_the_directory_said(caller: Caller) -> None:
    sent = caller.sent()
    waiting, ready = caller.make(waits=True), caller.make()
    dead = state("dead")
    assert caller(Told(dead)) == [Fail(call, "died", dead) for call in (sent, waiting, ready)]


def test_actor_that_is_dead_is_forgotten_and_asked_for_again_by_who_calls_it(
    caller: Caller,
) -> None:
    caller(answered(caller.sent()), Told(state("dead")))
    assert not caller.machine.callees
    later = caller.call_of()
    assert caller(CallMade(later, False)) == [Watch(ACTOR)]
    assert caller(Told(state("dead"))) == [Fail(later, "died", state("dead"))]
    assert not caller.machine.callees


def test_maker_remembers_how_an_actor_ended_while_there_are_handles(caller: Caller) -> None:
    assert caller(ActorMade(ACTOR, False)) == [Watch(ACTOR)]
    dead = state("dead")
    caller(Told(dead))
    call = caller.call_of()
    assert caller(CallMade(call, False)) == [Fail(call, "died", dead)]
    caller(HandlesGone(ACTOR))
    assert not caller.machine.callees


def test_first_word_of_an_actors_death_is_the_last(caller: Caller) -> None:
    caller(ActorMade(ACTOR, False))
    first = state("dead")
    caller(Told(first), Told(state("alive", 1)), Told(state("dead", 1)))
    call = caller.call_of()
    assert caller(CallMade(call, False)) == [Fail(call, "died", first)]


def test_actor_whose_handles_are_gone_is_forgotten_when_it_is_dead(caller: Caller) -> None:
    caller(ActorMade(ACTOR, False), HandlesGone(ACTOR))
    caller.live()
    assert ACTOR in caller.machine.callees
    caller(Told(state("dead")))
    assert not caller.machine.callees


def test_stopped_calls_of_a_dead_actor_fail_as_such(caller: Caller) -> None:
    cancelled, late = caller.make(), caller.make(timeout_s=1.0)
    caller.live()
    caller(CancelAsked(cancelled.id))
    caller.now += 1.0
    caller(Ticked())
    dead = state("dead")
    assert caller(Told(dead)) == [
        Fail(cancelled, "cancelled", dead),
        Fail(late, "timeout", dead),
    ]


# ------------------------------------------------------------------ an actor that this process ends


def test_calls_after_a_kill_are_for_the_next_life(caller: Caller) -> None:
    lost, retried = caller.make(), caller.make(retries=1)
    caller.live()
    assert caller(Killed(ACTOR)) == []
    after = caller.make()
    assert caller(Told(state("alive"))) == []
    restarting = state("restarting")
    assert caller(Told(restarting)) == [Fail(lost, "unavailable", restarting.cause)]
    assert caller.live(1) == [SendCall("life 1", retried), SendCall("life 1", after)]


def test_calls_of_a_killed_actor_that_stays_dead_fail_as_of_a_dead_one(caller: Caller) -> None:
    lost = caller.make()
    caller.live()
    caller(Killed(ACTOR))
    dead = state("dead")
    assert caller(Told(dead)) == [Fail(lost, "died", dead)]


def test_killing_what_does_not_live_changes_nothing(caller: Caller) -> None:
    call = caller.make()
    assert caller(Killed(ACTOR)) == []
    assert caller.live() == [SendCall("life 0", call)]


# ------------------------------------------------------------------ cancelling and time limits


def test_call_that_was_not_sent_is_cancelled_at_once(caller: Caller) -> None:
    caller.sent()
    slow, quick = caller.make(waits=True), caller.make()
    failed = Fail(slow, "cancelled")
    assert caller(CancelAsked(slow.id)) == [failed, SendCall("life 0", quick)]
    assert caller(CancelAsked(slow.id)) == []


def test_call_that_was_sent_is_asked_to_stop_and_ends_with_its_answer(caller: Caller) -> None:
    call = caller.sent()
    assert caller(CancelAsked(call.id)) == [AskCancel(call)]
    assert caller(answered(call)) == [Complete(call)]


def test_call_over_its_limit_is_asked_to_stop_and_then_its_actor_is_ended(caller: Caller) -> None:
    call = caller.sent(timeout_s=2.0)
    assert caller.machine.next_deadline == caller.now + 2.0
    caller.now += 2.0
    assert caller(Ticked()) == [AskCancel(call)]
    assert caller.machine.next_deadline == caller.now + GRACE_S
    caller.now += GRACE_S
    assert caller(Ticked()) == [Kill(call, "m ran over its time limit of 2 s")]
    assert caller.machine.next_deadline is None
    assert caller(Ticked()) == []


def test_answer_after_the_limit_is_a_timeout(caller: Caller) -> None:
    call = caller.sent(timeout_s=1.0, retries=1)
    caller.now += 1.0
    caller(Ticked())
    assert caller(answered(call, retriable=True)) == [Fail(call, "timeout")]


def test_limit_begins_when_the_call_is_sent(caller: Caller) -> None:
    caller.make(timeout_s=1.0)
    assert caller.machine.next_deadline is None
    caller.now += 5.0
    caller.live()
    assert caller.machine.next_deadline == caller.now + 1.0


# ------------------------------------------------------------------ impossible events, and check


@pytest.mark.parametrize(
    "event",
    [
        Answered(NOT_THERE, 0.0, False),
        Told(state("alive", actor=OTHER)),
        Connected(OTHER, ""),
        ConnectionLost(OTHER),
        Killed(OTHER),
        HandlesGone(OTHER),
    ],
)
def test_impossible_event_raises_and_changes_nothing(caller: Caller, event: Event) -> None:
    call = caller.sent()
    with pytest.raises(KeyError):
        caller(event)
    caller.machine.check()
    assert call.state == "sent"


def test_check_finds_a_call_that_is_held_back_for_nothing(caller: Caller) -> None:
    caller.sent()
    call = caller.make(waits=True)
    call.state = "ready"
    with pytest.raises(AssertionError):
        caller.machine.check()


# ------------------------------------------------------------------ a directory and an actor


def tables_of(machine: Calls) -> dict[str, Any]:
    """All that the machine keeps, by name."""
    own = {name: table for name, table in vars(machine).items() if name != "attempts"}
    return {**own, **vars(machine.attempts)}


class Life:
    """One incarnation of the actor: what it has got and not answered, and its connection."""

    def __init__(self, restarts: int) -> None:
        self.restarts = restarts
        self.inbox: deque[tuple[str, ActorCall]] = deque()
        self.outbox: deque[Answered] = deque()
        self.running: list[ActorCall] = []
        self.is_dead = False
        self.is_connected = False
        """The caller holds a connection to it, or has not heard of its end."""


class Calling(RuleBasedStateMachine):
    """A caller, the directory, and an actor that restarts and dies.

    News of the actor and its answers overtake each other.
    """

    IN_ANY_ORDER = False

    def __init__(self) -> None:
        super().__init__()
        self.machine = Calls()
        self.now = 0.0
        self.calls: list[ActorCall] = []
        self.most_sends: dict[TaskId, float] = {}
        self.sends: Counter[TaskId] = Counter()
        self.ends: Counter[TaskId] = Counter()
        self.first_sends: list[TaskId] = []
        self.lives = [Life(0)]
        self.news: deque[ActorNews] = deque()
        self.directory = "pending"
        self.is_watched = False
        self.has_handles = False
        """Of the actor, if the caller made it."""
        self.is_over = False
        self.connects: deque[str] = deque()
        self.checks: deque[Life] = deque()
        """Lives to which the connection broke: their daemon is asked."""

    def tell(self, event: Event) -> None:
        for effect in self.machine.handle(event, self.now):
            match effect:
                case Watch():
                    self.is_watched = self.directory != "dead"
                    self.news.append(state(self.directory, self.lives[-1].restarts))
                case Connect(address=address):
                    self.connects.append(address)
                case SendCall(address=address, call=call):
                    self.send(address, call)
                case AskCancel(task=call):
                    address = self.machine.callees[ACTOR].address
                    self.life_at(address).inbox.append(("cancel", call))
                case Complete(task=call) | Fail(task=call):
                    self.ends[call.id] += 1
                    assert self.ends[call.id] == 1, "ended twice"
                case Kill():
                    self.restart()
        self.machine.check()

    def send(self, address: str, call: ActorCall) -> None:
        assert call.id not in self.ends
        assert self.life_at(address).is_connected
        self.sends[call.id] += 1
        assert self.sends[call.id] <= self.most_sends[call.id], "sent too often"
        if self.sends[call.id] == 1:
            self.first_sends.append(call.id)
        self.life_at(address).inbox.append(("call", call))

    def life_at(self, address: str) -> Life:
        return self.lives[int(address.removeprefix("life "))]

    def say(self, name: str) -> None:
        self.directory = name
        if self.is_watched:
            self.news.append(state(name, self.lives[-1].restarts))

    # -------------------------------------------------------------- the user

    @rule()
    @precondition(lambda self: not self.calls and not self.machine.callees)
    def create(self) -> None:
        """The caller is the actor's maker."""
        self.has_handles = True
        self.tell(ActorMade(ACTOR, self.IN_ANY_ORDER))

    @rule()
    @precondition(lambda self: self.has_handles and not self.machine.attempts.open)
    def drop_handles(self) -> None:
        self.has_handles = False
        self.tell(HandlesGone(ACTOR))

    @rule(
        retries=st.sampled_from([0, 0, 1, -1]),
        timeout_s=st.sampled_from([0.0, 0.0, 2.0]),
        waits=st.sampled_from([False, False, True]),
    )
    def make(self, retries: int, timeout_s: float, waits: bool) -> None:
        task_id = TaskId((len(self.calls) + 1).to_bytes(16, "big"))
        call = ActorCall(task_id, ACTOR, name="m", retries=retries, timeout_s=timeout_s, note=None)
        if waits:
            call.state = "waiting"
        self.calls.append(call)
        self.most_sends[task_id] = float("inf") if retries < 0 else retries + 1
        self.tell(CallMade(call, self.IN_ANY_ORDER))

    @rule(data=st.data(), fails=st.sampled_from([False, False, True]))
    @precondition(lambda self: any(call.state == "waiting" for call in self.calls))
    def bring_arguments(self, data: st.DataObject, fails: bool) -> None:
        waiting = [call for call in self.calls if call.state == "waiting"]
        call = data.draw(st.sampled_from(waiting))
        self.tell(ArgumentFailed(call.id, "") if fails else ArgumentsReady(call.id))

    @rule(data=st.data())
    @precondition(lambda self: self.machine.attempts.open)
    def cancel(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(list(self.machine.attempts.open.values())))
        self.tell(CancelAsked(call.id))

    @rule()
    @precondition(lambda self: self.machine.callees)
    def kill(self) -> None:
        self.restart()
        if ACTOR in self.machine.callees:
            self.tell(Killed(ACTOR))

    @rule(pause_s=st.sampled_from([0.1, 1.0]))
    def let_time_pass(self, pause_s: float) -> None:
        self.now += pause_s
        deadline = self.machine.next_deadline
        if deadline is not None and deadline <= self.now:
            self.tell(Ticked())

    # -------------------------------------------------------------- the directory

    @rule()
    def actor_is_ready(self) -> None:
        if not self.lives[-1].is_dead:
            self.say("alive")

    @rule()
    @precondition(lambda self: not self.is_over)
    def restart(self) -> None:
        if not self.is_over:
            self.lives[-1].is_dead = True
            self.lives.append(Life(len(self.lives)))
            self.say("restarting")

    @rule()
    @precondition(lambda self: not self.is_over and len(self.lives) > 2)
    def die(self) -> None:
        self.lives[-1].is_dead = self.is_over = True
        self.say("dead")

    @rule()
    @precondition(lambda self: self.news)
    def caller_hears_news(self) -> None:
        told = self.news.popleft()
        # As the shell does: what is forgotten is no news.
        if ACTOR in self.machine.callees:
            self.tell(Told(told))

    @rule()
    @precondition(lambda self: self.connects)
    def caller_connects(self) -> None:
        address = self.connects.popleft()
        life = self.life_at(address)
        if not life.is_dead:
            life.is_connected = True
            self.tell(Connected(ACTOR, address))

    # -------------------------------------------------------------- the actor

    def connected(self) -> list[Life]:
        return [life for life in self.lives if life.is_connected]

    @rule(data=st.data())
    @precondition(lambda self: self.connected())
    def actor_reads(self, data: st.DataObject) -> None:
        self.read_as(data.draw(st.sampled_from(self.connected())))

    def read_as(self, life: Life) -> None:
        while life.inbox:
            what, call = life.inbox.popleft()
            if what == "call" and not life.is_dead:
                life.running.append(call)

    @rule(data=st.data(), retriable=st.booleans())
    @precondition(lambda self: any(life.running for life in self.lives if not life.is_dead))
    def actor_answers(self, data: st.DataObject, retriable: bool) -> None:
        life = next(life for life in self.lives if life.running and not life.is_dead)
        call = data.draw(st.sampled_from(life.running))
        life.running.remove(call)
        life.outbox.append(Answered(call.id, 0.0, retriable))

    @rule(data=st.data())
    @precondition(lambda self: any(life.outbox or life.is_dead for life in self.connected()))
    def caller_reads(self, data: st.DataObject) -> None:
        lives = [life for life in self.connected() if life.outbox or life.is_dead]
        self.read_from(data.draw(st.sampled_from(lives)))

    def read_from(self, life: Life) -> None:
        if life.outbox:
            answer = life.outbox.popleft()
            if answer.task_id in self.machine.attempts.open:
                self.tell(answer)
            return
        self.lose_connection(life)

    @rule()
    @precondition(lambda self: self.lives[-1].is_connected)
    def connection_breaks(self) -> None:
        """What is on it is lost; the actor goes on."""
        life = self.lives[-1]
        life.inbox.clear()
        life.outbox.clear()
        life.running.clear()
        self.lose_connection(life)
        self.checks.append(life)

    @rule()
    @precondition(lambda self: self.checks)
    def daemon_answers(self) -> None:
        life = self.checks.popleft()
        if not life.is_dead:
            self.tell(LivesOn(ACTOR, f"life {life.restarts}"))

    def lose_connection(self, life: Life) -> None:
        life.is_connected = False
        callee = self.machine.callees.get(ACTOR)
        # The shell tells the loss of the connection that it uses for the actor.
        if callee is not None and callee.address == f"life {life.restarts}":
            self.tell(ConnectionLost(ACTOR))

    # -------------------------------------------------------------- the end

    @rule()
    def flow(self) -> None:
        """The actor is found, and reads what was sent."""
        if not self.is_over:
            self.say("alive")
        while self.news:
            self.caller_hears_news()
        while self.checks:
            self.daemon_answers()
        while self.connects:
            self.caller_connects()
        for life in self.connected():
            self.read_as(life)

    def teardown(self) -> None:
        """All goes on until nothing happens: every call has ended once, in order."""
        for _ in range(100):
            self.go_on()
            if not self.machine.attempts.open:
                break
        assert [call.id for call in self.calls if call.id not in self.ends] == []
        assert self.machine.pending(ACTOR) == 0
        assert self.machine.next_deadline is None
        self.forget_the_actor()
        assert not any(tables_of(self.machine).values())
        if not self.IN_ANY_ORDER:
            assert self.first_sends == sorted(self.first_sends)

    def forget_the_actor(self) -> None:
        if self.has_handles:
            self.drop_handles()
        if not self.is_over:
            self.die()
        while self.news:
            self.caller_hears_news()

    def go_on(self) -> None:
        for call in self.calls:
            if call.state == "waiting":
                self.tell(ArgumentsReady(call.id))
        self.flow()
        for life in self.lives:
            for call in life.running if not life.is_dead else ():
                life.outbox.append(Answered(call.id, 0.0, False))
            life.running.clear()
            while life.outbox or (life.is_connected and life.is_dead):
                self.read_from(life)


class CallingInAnyOrder(Calling):
    IN_ANY_ORDER = True


TestCalling = Calling.TestCase
TestCalling.settings = settings(stateful_step_count=60)
TestCallingInAnyOrder = CallingInAnyOrder.TestCase
TestCallingInAnyOrder.settings = settings(stateful_step_count=60)
