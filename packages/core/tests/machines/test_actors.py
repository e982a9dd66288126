from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from weft._machines import actors as rules
from weft._machines.actors import (
    DEAD_KEPT,
    FIRST_DELAY_S,
    SHORT_LIFE_S,
    ActorCreated,
    ActorFacts,
    ActorLeft,
    ActorLost,
    ActorPlaced,
    ActorRefused,
    Actors,
    ActorStarted,
    ActorsTicked,
    Become,
    ClientEnded,
    ConstructorFailed,
    DropWant,
    Effect,
    EndAsked,
    Event,
    Forget,
    KillActor,
    MoveAsked,
    QuitActor,
    Reply,
    Tell,
    WantWorker,
    Watched,
)

ACTOR, OTHER = b"actor", b"other"
OWNER, FRIEND = b"owner", b"friend"
W1, W2 = b"worker 1", b"worker 2"


class Directory:
    """A directory that is checked after every event."""

    def __init__(self) -> None:
        self.actors = Actors()
        self.now = 100.0

    def tell(self, event: Event) -> list[Effect]:
        effects = self.actors.handle(event, self.now)
        self.actors.check()
        return effects

    def create(self, actor: bytes = ACTOR, client: bytes = OWNER, **facts: Any) -> list[Effect]:
        return self.tell(ActorCreated(actor, client, facts.pop("request", 0), **facts))

    def alive(self, actor: bytes = ACTOR, worker: bytes = W1, **facts: Any) -> None:
        """Create an actor and bring it up; its owner watches it."""
        self.create(actor, **facts)
        self.tell(Watched(actor, OWNER))
        self.up(actor, worker)

    def up(self, actor: bytes = ACTOR, worker: bytes = W1) -> None:
        (become,) = self.tell(ActorPlaced(actor, worker, worker.decode()))
        assert isinstance(become, Become)
        self.tell(ActorStarted(actor, worker))
        assert self.state(actor) == "alive"
        self.now += SHORT_LIFE_S

    def state(self, actor: bytes = ACTOR) -> str:
        found = self.actors.state_of(actor)
        return found[0] if found else "unknown"

    def end(self, *, graceful: bool = False, no_restart: bool = True) -> list[Effect]:
        return self.tell(EndAsked(ACTOR, graceful, no_restart, "it was killed"))


def states(effects: list[Effect], client: bytes = OWNER) -> list[str]:
    return [e.state for e in effects if isinstance(e, Tell) and e.client == client]


def cause(directory: Directory) -> str:
    found = directory.actors.state_of(ACTOR)
    assert found is not None
    return found[1]


# ------------------------------------------------------------------ creation and names


def test_created_actor_wants_a_worker_becomes_and_lives() -> None:
    directory = Directory()
    assert directory.create(request=3) == [Reply(OWNER, 3), WantWorker(ACTOR)]
    assert directory.tell(Watched(ACTOR, OWNER)) == [
        Tell(OWNER, ACTOR, "pending", "", 0, "", b"", b"")
    ]
    assert directory.tell(ActorPlaced(ACTOR, W1, "address")) == [Become(ACTOR, W1, 0)]
    assert directory.tell(ActorStarted(ACTOR, W1)) == [
        Tell(OWNER, ACTOR, "alive", "address", 0, "", b"", W1)
    ]


def test_states_of_all_are_told() -> None:
    directory = Directory()
    directory.alive()
    directory.create(OTHER)
    assert directory.actors.states() == ["alive", "pending"]


def test_facts_follow_an_actor_and_stay_when_it_is_dead() -> None:
    directory = Directory()
    assert directory.actors.facts(ACTOR) is None
    directory.create()
    assert directory.actors.facts(ACTOR) == ActorFacts("pending", b"", 0, "")
    directory.tell(ActorPlaced(ACTOR, W1, "address"))
    directory.tell(ActorStarted(ACTOR, W1))
    assert directory.actors.facts(ACTOR) == ActorFacts("alive", W1, 0, "")
    directory.tell(ActorLost(ACTOR, W1, "it was killed"))
    assert directory.actors.facts(ACTOR) == ActorFacts("dead", b"", 0, "it was killed")


def test_who_watches_before_the_creation_is_told_of_it() -> None:
    directory = Directory()
    assert directory.tell(Watched(ACTOR, FRIEND)) == []
    assert states(directory.create(), FRIEND) == ["pending"]


def test_name_is_taken_while_its_actor_lives() -> None:
    directory = Directory()
    directory.create(name="counter", namespace="here")
    reply, forget = directory.create(OTHER, name="counter", namespace="here", request=1)
    assert isinstance(reply, Reply)
    assert "the name 'counter' is taken" in reply.error
    assert forget == Forget(OTHER)
    assert directory.create(OTHER, name="counter", namespace="there", request=1)[0] == Reply(
        OWNER, 1
    )


def test_get_if_exists_answers_with_the_living_actor() -> None:
    directory = Directory()
    directory.create(name="counter")
    effects = directory.create(OTHER, name="counter", get_if_exists=True, request=2)
    assert effects == [Reply(OWNER, 2, existing=ACTOR), Forget(OTHER)]


def test_name_is_free_when_its_actor_is_dead() -> None:
    directory = Directory()
    directory.alive(name="counter", namespace="here")
    assert directory.actors.find("counter", "here") == ACTOR
    assert directory.actors.names() == [("here", "counter")]
    directory.end()
    assert directory.actors.find("counter", "here") is None
    assert directory.create(OTHER, name="counter", namespace="here", request=2)[0] == Reply(
        OWNER, 2
    )


# ------------------------------------------------------------------ ends


def test_constructor_that_fails_kills_the_actor_and_frees_the_worker() -> None:
    directory = Directory()
    directory.create(max_restarts=5)
    directory.tell(Watched(ACTOR, OWNER))
    directory.tell(ActorPlaced(ACTOR, W1, "address"))
    assert directory.tell(ConstructorFailed(ACTOR, W1, b"error")) == [
        Tell(OWNER, ACTOR, "dead", "", 0, "its constructor failed", b"error", b""),
        Forget(ACTOR),
        KillActor(W1, "its constructor failed"),
    ]


def test_late_watcher_learns_the_cause() -> None:
    directory = Directory()
    directory.alive()
    directory.tell(ActorLost(ACTOR, W1, "killed by SIGSEGV"))
    (news,) = directory.tell(Watched(ACTOR, FRIEND))
    assert isinstance(news, Tell)
    assert (news.state, news.cause) == ("dead", "killed by SIGSEGV")


def test_refused_actor_is_dead() -> None:
    directory = Directory()
    directory.create()
    directory.tell(Watched(ACTOR, OWNER))
    effects = directory.tell(ActorRefused(ACTOR, "needs CPU 9"))
    assert effects[0] == DropWant(ACTOR)
    assert states(effects) == ["dead"]
    assert cause(directory) == "needs CPU 9"
    assert directory.tell(ActorRefused(ACTOR, "again")) == []


def test_kill_is_told_at_once_and_the_late_end_of_the_worker_changes_nothing() -> None:
    directory = Directory()
    directory.alive(max_restarts=3)
    effects = directory.end()
    assert states(effects) == ["dead"]
    assert effects[-1] == KillActor(W1, "it was killed")
    assert directory.tell(ActorLost(ACTOR, W1, "killed by SIGKILL")) == []
    assert directory.end() == []
    assert cause(directory) == "it was killed"


def test_kill_with_restart_restarts() -> None:
    directory = Directory()
    directory.alive(max_restarts=1)
    assert directory.end(no_restart=False) == [KillActor(W1, "it was killed")]
    effects = directory.tell(ActorLost(ACTOR, W1, "it was killed"))
    assert states(effects) == ["restarting"]
    assert effects[-1] == WantWorker(ACTOR)
    directory.up(worker=W2)
    directory.end(no_restart=False)
    assert states(directory.tell(ActorLost(ACTOR, W2, "it was killed"))) == ["dead"]


def test_graceful_end_waits_for_the_worker_and_does_not_restart() -> None:
    directory = Directory()
    directory.alive(max_restarts=3)
    assert directory.end(graceful=True) == [QuitActor(W1)]
    assert directory.state() == "alive"
    assert "ending: it was killed" in directory.actors.explain(ACTOR, 0)
    assert states(directory.tell(ActorLost(ACTOR, W1, "exited with code 0"))) == ["dead"]
    assert cause(directory) == "it was killed"


def test_graceful_end_of_an_actor_in_its_constructor() -> None:
    directory = Directory()
    directory.create()
    directory.tell(ActorPlaced(ACTOR, W1, "address"))
    directory.end(graceful=True)
    assert directory.tell(ActorStarted(ACTOR, W1)) == []
    directory.tell(ActorLost(ACTOR, W1, "exited"))
    assert directory.state() == "dead"


def test_end_of_a_waiting_actor_drops_its_place() -> None:
    directory = Directory()
    directory.create()
    effects = directory.end(graceful=True)
    assert effects == [DropWant(ACTOR), Forget(ACTOR)]
    assert directory.tell(ActorPlaced(ACTOR, W1, "late")) == [KillActor(W1, "it was killed")]


def test_kill_with_restart_of_a_waiting_actor_does_nothing() -> None:
    directory = Directory()
    directory.create()
    assert directory.end(no_restart=False) == []


def test_end_that_comes_before_the_creation_is_kept() -> None:
    directory = Directory()
    assert directory.end(no_restart=False) == []
    assert directory.end() == []
    assert states(directory.tell(Watched(ACTOR, OWNER))) == ["dead"]
    effects = directory.create()
    assert directory.state() == "dead"
    assert not any(isinstance(effect, WantWorker) for effect in effects)


def test_actor_that_leaves_is_not_restarted() -> None:
    directory = Directory()
    directory.alive(max_restarts=3)
    directory.tell(ActorLeft(ACTOR, W1, "exit_actor was called"))
    directory.tell(ActorLeft(ACTOR, W1, "again"))
    directory.tell(ActorLost(ACTOR, W1, "exited with code 0"))
    assert cause(directory) == "exit_actor was called"


@pytest.mark.parametrize(
    "event",
    [
        ActorStarted(ACTOR, W2),
        ConstructorFailed(ACTOR, W2, b"error"),
        ActorLost(ACTOR, W2, "gone"),
        ActorLeft(ACTOR, W2, "left"),
        ActorStarted(b"nobody", W2),
    ],
)
def test_news_of_another_worker_changes_nothing(event: Event) -> None:
    directory = Directory()
    directory.alive(max_restarts=1)
    assert directory.tell(event) == []
    assert directory.state() == "alive"


# ------------------------------------------------------------------ restarts


def test_lost_actor_restarts_until_its_limit() -> None:
    directory = Directory()
    directory.alive(max_restarts=1)
    effects = directory.tell(ActorLost(ACTOR, W1, "killed by SIGKILL"))
    assert effects == [
        Tell(OWNER, ACTOR, "restarting", "", 1, "killed by SIGKILL", b"", b""),
        WantWorker(ACTOR),
    ]
    directory.up(worker=W2)
    assert states(directory.tell(ActorLost(ACTOR, W2, "killed again"))) == ["dead"]


def test_actor_without_limit_restarts_for_ever() -> None:
    directory = Directory()
    directory.alive(max_restarts=-1)
    for _ in range(20):
        directory.tell(ActorLost(ACTOR, W1, "killed"))
        directory.up()


def test_actor_that_keeps_dying_young_waits_ever_longer() -> None:
    directory = Directory()
    directory.create(max_restarts=-1)
    waits = []
    for _ in range(6):
        directory.tell(ActorPlaced(ACTOR, W1, "address"))
        effects = directory.tell(ActorLost(ACTOR, W1, "killed"))
        at = directory.actors.wake_at()
        if at is None:
            assert WantWorker(ACTOR) in effects
            continue
        waits.append(at - directory.now)
        assert "it keeps dying young" in directory.actors.explain(ACTOR, directory.now)
        assert directory.tell(ActorsTicked()) == []
        directory.now = at
        assert directory.tell(ActorsTicked()) == [WantWorker(ACTOR)]
        assert directory.actors.wake_at() is None
    assert waits == pytest.approx([FIRST_DELAY_S * 2**n for n in range(5)])


def test_kill_of_an_actor_that_waits_to_restart_ends_it() -> None:
    directory = Directory()
    directory.create(max_restarts=-1)
    for _ in range(2):
        directory.tell(ActorPlaced(ACTOR, W1, "address"))
        directory.tell(ActorLost(ACTOR, W1, "killed"))
    directory.end()
    assert directory.actors.wake_at() is None


# ------------------------------------------------------------------ clients


def test_actors_end_with_their_owner_but_not_detached_ones() -> None:
    directory = Directory()
    directory.alive(max_restarts=3)
    directory.alive(OTHER, W2, is_detached=True)
    effects = directory.tell(ClientEnded(OWNER))
    assert effects == [Forget(ACTOR), KillActor(W1, "the process that created it has ended")]
    assert directory.state(OTHER) == "alive"


def test_actor_without_a_worker_ends_with_its_owner_too() -> None:
    directory = Directory()
    directory.create()
    assert directory.tell(ClientEnded(OWNER)) == [DropWant(ACTOR), Forget(ACTOR)]


def test_client_that_is_gone_is_told_nothing() -> None:
    directory = Directory()
    directory.tell(Watched(ACTOR, FRIEND))
    directory.tell(Watched(ACTOR, W2))
    directory.tell(ClientEnded(W2))
    directory.tell(ClientEnded(FRIEND))
    assert directory.create() == [WantWorker(ACTOR)]
    directory.tell(Watched(ACTOR, FRIEND))
    directory.tell(ClientEnded(FRIEND))
    assert states(directory.end(), FRIEND) == []


# ------------------------------------------------------------------ what is remembered and told


def test_dead_actors_are_forgotten_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "DEAD_KEPT", 3)
    directory = Directory()
    for number in range(5):
        directory.create(bytes([number]))
        directory.tell(
            EndAsked(bytes([number]), graceful=False, no_restart=True, reason="it was killed")
        )
        directory.tell(
            EndAsked(bytes([9, number]), graceful=False, no_restart=True, reason="early")
        )
    assert directory.state(bytes([1])) == "unknown"
    assert directory.state(bytes([4])) == "dead"
    directory.create(bytes([9, 0]))
    assert directory.state(bytes([9, 0])) == "pending", "its early end was forgotten too"
    assert DEAD_KEPT > 100


def test_actor_that_is_ended_and_never_created_is_dead_for_who_watches_it() -> None:
    directory = Directory()
    directory.tell(Watched(ACTOR, FRIEND))
    ended = directory.end()
    assert (states(ended, FRIEND), ended[0].cause) == (["dead"], "it was killed")
    assert states(directory.tell(Watched(ACTOR, W2)), W2) == ["dead"]
    news = directory.actors.news(ACTOR)
    assert news is not None
    assert (news.state, news.cause) == ("dead", "it was killed")
    assert directory.actors.explain(ACTOR, 0) == "dead: it was killed; it was never created"
    assert directory.end() == [], "nobody waits for it any more"
    assert states(directory.create()) == [], "who watched has heard it"
    assert directory.state() == "dead"


def test_errors_of_dead_actors_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "DEAD_BYTES", 1000)
    directory = Directory()
    for number in range(6):
        actor = bytes([number])
        directory.create(actor)
        directory.tell(ActorPlaced(actor, W1, "address"))
        directory.tell(ConstructorFailed(actor, W1, b"x" * 300))
    assert [directory.state(bytes([number])) for number in range(6)] == ["unknown"] * 3 + [
        "dead"
    ] * 3
    directory.create(b"large")
    directory.tell(ActorPlaced(b"large", W1, "address"))
    directory.tell(ConstructorFailed(b"large", W1, b"x" * 5000))
    assert directory.state(b"large") == "dead", "the newest is there however large it is"
    assert directory.state(bytes([5])) == "unknown"


def test_explanations() -> None:
    directory = Directory()
    assert directory.actors.explain(ACTOR, 0) == "no such actor is known here"
    directory.create(max_restarts=2)
    assert directory.actors.explain(ACTOR, 0) == "", "it waits for a worker"
    directory.tell(ActorPlaced(ACTOR, W1, "address"))
    assert directory.actors.explain(ACTOR, directory.now + 2) == "its constructor has run for 2.0 s"
    directory.tell(ActorStarted(ACTOR, W1))
    assert directory.actors.explain(ACTOR, 0) == "alive; restarted 0 times of 2"
    directory.now += 5
    directory.tell(ActorLost(ACTOR, W1, "killed"))
    directory.tell(ActorPlaced(ACTOR, W2, "address"))
    assert directory.actors.explain(ACTOR, directory.now).startswith(
        "restarting (killed); its constr"
    )
    directory.end()
    assert directory.actors.explain(ACTOR, 0) == "dead: it was killed; restarted 1 times of 2"
    directory.create(OTHER, max_restarts=-1)
    directory.up(OTHER)
    assert directory.actors.explain(OTHER, 0) == "alive; restarted 0 times"


def test_actor_that_is_moved_restarts_after_its_calls_and_that_does_not_count() -> None:
    directory = Directory()
    directory.alive(max_restarts=1)
    assert directory.tell(MoveAsked(ACTOR, "its node is drained")) == [QuitActor(W1)]
    assert directory.tell(MoveAsked(ACTOR, "again")) == [], "it moves already"
    assert directory.state() == "alive", "it has calls"
    words = "alive; restarted 0 times of 1; it moves: its node is drained"
    assert directory.actors.explain(ACTOR, 0) == words
    lost = directory.tell(ActorLost(ACTOR, W1, "exited with code 0"))
    assert states(lost) == ["restarting"]
    assert lost[-1] == WantWorker(ACTOR)
    assert cause(directory) == "its node is drained"
    directory.up(worker=W2)
    assert directory.actors.explain(ACTOR, 0) == "alive; restarted 0 times of 1, moved 1 times"
    directory.tell(ActorLost(ACTOR, W2, "killed"))
    directory.up()
    directory.tell(ActorLost(ACTOR, W1, "killed"))
    assert directory.state() == "dead", "one restart was left, and is used up"


def test_actor_that_is_moved_again_and_again_is_not_held_to_die_young() -> None:
    directory = Directory()
    directory.alive(max_restarts=1)
    for worker in (W1, W2, W1, W2):
        directory.tell(MoveAsked(ACTOR, "its node is drained"))
        assert directory.tell(ActorLost(ACTOR, worker, ""))[-1] == WantWorker(ACTOR)
        (become,) = directory.tell(ActorPlaced(ACTOR, W2 if worker == W1 else W1, "address"))
        assert isinstance(become, Become)


@pytest.mark.parametrize("facts", [{}, {"max_restarts": 0}])
def test_actor_that_may_not_restart_stays_where_it_is(facts: dict[str, int]) -> None:
    directory = Directory()
    directory.alive(**facts)
    assert directory.tell(MoveAsked(ACTOR, "its node is drained")) == []


def test_actor_that_ends_or_has_no_worker_is_not_moved() -> None:
    directory = Directory()
    directory.create(max_restarts=-1)
    assert directory.tell(MoveAsked(ACTOR, "its node is drained")) == []
    directory.up()
    directory.end(graceful=True)
    assert directory.tell(MoveAsked(ACTOR, "its node is drained")) == []
    directory.tell(ActorLost(ACTOR, W1, ""))
    assert directory.tell(MoveAsked(ACTOR, "its node is drained")) == []
    directory.alive(OTHER, W2, max_restarts=-1)
    directory.tell(MoveAsked(OTHER, "its node is drained"))
    directory.tell(EndAsked(OTHER, graceful=False, no_restart=True, reason="it was killed"))
    assert directory.state(OTHER) == "dead"


class ActorStories(RuleBasedStateMachine):
    """Any order of events: one living actor a name, states as drawn, dead stays dead."""

    ALLOWED = (
        ("new", "pending"), ("new", "dead"), ("pending", "alive"), ("pending", "dead"),
        ("pending", "restarting"), ("alive", "restarting"), ("alive", "dead"),
        ("restarting", "alive"), ("restarting", "dead"), ("restarting", "restarting"),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.directory = Directory()
        self.wanting: dict[bytes, None] = {}
        self.worker_of: dict[bytes, bytes] = {}
        self.state_of: dict[bytes, str] = {}
        self.numbers = 0

    def tell(self, event: Event) -> None:
        for effect in self.directory.tell(event):
            match effect:
                case WantWorker(actor):
                    assert actor not in self.wanting
                    self.wanting[actor] = None
                case DropWant(actor):
                    self.wanting.pop(actor, None)
                case Tell(client, actor, state):
                    if client == OWNER:
                        assert (self.state_of[actor], state) in self.ALLOWED
                        self.state_of[actor] = state
                case Become(actor, worker):
                    assert self.worker_of[actor] == worker
                case _:
                    pass

    @rule(name=st.sampled_from(["", "x", "y"]), restarts=st.integers(-1, 2), detached=st.booleans())
    def creates(self, name: str, restarts: int, detached: bool) -> None:
        self.numbers += 1
        actor = self.numbers.to_bytes(4, "big")
        self.state_of[actor] = "new"
        self.tell(Watched(actor, OWNER))
        self.tell(
            ActorCreated(actor, FRIEND, 1, name=name, is_detached=detached, max_restarts=restarts)
        )

    @precondition(lambda self: self.wanting)
    @rule(data=st.data())
    def places(self, data: st.DataObject) -> None:
        actor = data.draw(st.sampled_from(sorted(self.wanting)))
        del self.wanting[actor]
        self.numbers += 1
        self.worker_of[actor] = self.numbers.to_bytes(4, "big")
        self.tell(ActorPlaced(actor, self.worker_of[actor], "address"))

    @precondition(lambda self: self.worker_of)
    @rule(data=st.data(), what=st.sampled_from(["starts", "fails", "leaves", "dies", "dies"]))
    def goes_on(self, data: st.DataObject, what: str) -> None:
        actor = data.draw(st.sampled_from(sorted(self.worker_of)))
        worker = self.worker_of[actor]
        match what:
            case "starts":
                if self.state_of[actor] != "alive":
                    self.tell(ActorStarted(actor, worker))
            case "fails":
                self.tell(ConstructorFailed(actor, worker, b"error"))
            case "leaves":
                self.tell(ActorLeft(actor, worker, "left"))
            case "dies":
                del self.worker_of[actor]
                self.tell(ActorLost(actor, worker, "died"))

    @precondition(lambda self: self.state_of)
    @rule(data=st.data(), graceful=st.booleans(), no_restart=st.booleans())
    def ends(self, data: st.DataObject, graceful: bool, no_restart: bool) -> None:
        actor = data.draw(st.sampled_from(sorted(self.state_of)))
        self.tell(EndAsked(actor, graceful, no_restart, "asked"))

    @precondition(lambda self: self.worker_of)
    @rule(data=st.data())
    def is_moved(self, data: st.DataObject) -> None:
        actor = data.draw(st.sampled_from(sorted(self.worker_of)))
        self.tell(MoveAsked(actor, "its node is drained"))

    @rule()
    def owner_goes(self) -> None:
        self.tell(ClientEnded(FRIEND))

    @rule(seconds=st.floats(0, 5))
    def waits(self, seconds: float) -> None:
        self.directory.now += seconds
        self.tell(ActorsTicked())


TestActorStories = ActorStories.TestCase
TestActorStories.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, database=None
)
