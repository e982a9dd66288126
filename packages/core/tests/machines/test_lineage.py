"""Losses and recoveries in one process's table: a shell that runs tasks stands round it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from weft._ids import IdSource, ObjectId, TaskId
from weft._machines.lineage import Lineage
from weft._machines.ownership import (
    Adopted,
    Counted,
    Discarded,
    Effect,
    Entry,
    Event,
    FreeAsked,
    Lent,
    ObjectMade,
    Ownership,
    Ready,
    Recycled,
    Registered,
    Released,
    Requested,
    Returned,
    RunAgain,
    Sealed,
    SegmentGone,
    SendBorrowed,
    SendFetch,
    SendGone,
    SendValue,
    TaskEnded,
    Unrecoverable,
    Wanted,
    Yielding,
)
from weft._wire.messages import Failure, Held, Inline, Shared, Value

HERE = ""
OWN = "own"
RECORD = 10


class Job:
    """A task of the model: it can be run any number of times."""

    def __init__(self, task_id: TaskId, args: list[ObjectId], forms: list[str]) -> None:
        self.task_id = task_id
        self.args = args
        self.forms = forms
        self.runs = 0


class World:
    """A table, the tasks round it, and the segments that there are."""

    def __init__(self, limit_bytes: int = 1_000_000) -> None:
        self.machine = Ownership(limit_bytes)
        self.ids = IdSource()
        self.jobs: dict[TaskId, Job] = {}
        self.segments: dict[str, bool] = {}
        """By name: whether it holds bytes."""
        self.made = 0
        self.refs: dict[ObjectId, int] = {}
        self.answers: list[tuple[str, ObjectId, Value]] = []
        self.started: list[tuple[Job, Lineage]] = []
        """Run again, and not ended."""
        self.pending: list[Lineage] = []

    def tell(self, event: Event) -> list[Effect]:
        effects = self.machine.handle(event)
        self.machine.check()
        for effect in effects:
            match effect:
                case Recycled() | Discarded():
                    assert effect.value.segment in self.segments, "given back twice"
                    del self.segments[effect.value.segment]
                case RunAgain():
                    self.begin_again(effect.lineage)
                case Unrecoverable():
                    self.tell(Sealed(effect.entry.id, Failure(effect.why.encode())))
                case SendValue():
                    self.answers.append((effect.peer, effect.object_id, effect.value))
        return effects

    # -------------------------------------------------------------- what users do

    def put(self, form: str = "shared", held: list[ObjectId] | None = None) -> ObjectId:
        object_id = self.ids.task_id().object_id(1)
        self.tell(ObjectMade(object_id))
        self.refs[object_id] = 1
        self.tell(Sealed(object_id, self.value(form, held or [])))
        return object_id

    def run(self, args: list[ObjectId], forms: list[str]) -> list[ObjectId]:
        """Run a task to its end."""
        task_id = self.ids.task_id()
        job = self.jobs[task_id] = Job(task_id, args, forms)
        made = [task_id.object_id(index + 1) for index in range(len(forms))]
        for object_id in made:
            self.tell(ObjectMade(object_id))
            self.refs[object_id] = 1
        for object_id in args:
            self.tell(Counted(object_id))
        lineage = Lineage(task_id)
        lineage.mentions = list(args)
        lineage.size_bytes = RECORD
        lineage.note = job
        self.finish(job, lineage, made)
        return made

    def finish(self, job: Job, lineage: Lineage, made: list[ObjectId]) -> None:
        job.runs += 1
        for object_id, form in zip(made, job.forms, strict=True):
            self.tell(Sealed(object_id, self.value(form, [])))
        self.tell(TaskEnded(lineage, made))
        self.tell(Released(job.args))

    def begin_again(self, lineage: Lineage) -> None:
        job: Job = lineage.note
        for object_id in job.args:
            self.tell(Counted(object_id))
            self.tell(Wanted(object_id))
        self.started.append((job, lineage))

    def end_one(self, index: int = 0) -> bool:
        """End the first task from `index` on whose arguments are there; return whether."""
        entries = self.machine.entries
        for place in [*range(index, len(self.started)), *range(min(index, len(self.started)))]:
            job, lineage = self.started[place]
            values = [entries[object_id].value for object_id in job.args]
            failed = [value for value in values if isinstance(value, Failure)]
            if failed:
                del self.started[place]
                self.tell(TaskEnded(lineage, failure=failed[0].error.decode()))
                self.tell(Released(job.args))
                return True
            if all(values):
                del self.started[place]
                made = [job.task_id.object_id(n + 1) for n in range(len(job.forms))]
                self.finish(job, lineage, made)
                return True
        return False

    def settle(self) -> None:
        while self.end_one():
            pass
        assert not self.started, "tasks wait for each other"

    def value(self, form: str, held: list[ObjectId]) -> Value:
        inside = [Held(object_id, OWN) for object_id in held]
        if form == "inline":
            return Inline(b"x", inside)
        self.made += 1
        name = f"s{self.made}"
        self.segments[name] = True
        return Shared(name, 1, OWN, inside)

    def drop(self, *object_ids: ObjectId) -> None:
        for object_id in object_ids:
            self.refs[object_id] -= 1
        self.tell(Released(object_ids))

    def lose(self, object_id: ObjectId) -> str:
        value = self[object_id].value
        assert isinstance(value, Shared)
        self.segments[value.segment] = False
        return value.segment

    def find_loss(self, object_id: ObjectId, segment: str) -> None:
        self.tell(SegmentGone(object_id, segment, "its file is gone"))

    def __getitem__(self, object_id: ObjectId) -> Entry:
        return self.machine.entries[object_id]

    def words(self, object_id: ObjectId) -> str:
        value = self[object_id].value
        assert isinstance(value, Failure), value
        return value.error.decode()


@pytest.fixture
def world() -> World:
    return World()


# ------------------------------------------------------------------ one loss


def test_lost_result_is_unknown_until_its_task_was_run_again(world: World) -> None:
    (a,) = world.run([], ["shared"])
    segment = world.lose(a)
    world.find_loss(a, segment)
    assert world[a].value is None
    world.settle()
    value = world[a].value
    assert isinstance(value, Shared)
    assert value.segment != segment


def test_loss_that_is_told_twice_runs_its_task_once(world: World) -> None:
    (a,) = world.run([], ["shared"])
    segment = world.lose(a)
    world.find_loss(a, segment)
    world.find_loss(a, segment)
    world.settle()
    world.find_loss(a, segment)
    assert world.jobs[a.task_id()].runs == 2


def test_borrower_that_asks_meanwhile_is_answered_with_the_new_value(world: World) -> None:
    (a,) = world.run([], ["shared"])
    world.find_loss(a, world.lose(a))
    world.tell(Requested(a, "p"))
    assert world.answers == []
    world.settle()
    assert world.answers == [("p", a, world[a].value)]


def test_results_that_are_not_lost_keep_their_values(world: World) -> None:
    a, b, c = world.run([], ["shared", "shared", "inline"])
    before = world[a].value, world[c].value
    world.find_loss(b, world.lose(b))
    world.settle()
    assert (world[a].value, world[c].value) == before
    assert len(world.segments) == 2


def test_value_that_was_put_cannot_be_made_again(world: World) -> None:
    a = world.put()
    world.find_loss(a, world.lose(a))
    assert "put" in world.words(a)


def test_task_that_cannot_be_run_again_says_why(world: World) -> None:
    task_id = world.ids.task_id()
    a = task_id.object_id(1)
    lineage = Lineage(task_id)
    lineage.why_not = "never again"
    world.tell(ObjectMade(a))
    world.tell(Sealed(a, world.value("shared", [])))
    world.tell(TaskEnded(lineage, [a]))
    world.find_loss(a, world.lose(a))
    assert world.words(a) == "never again"
    assert not world.machine.lineages.kept


def test_result_that_does_not_come_again_fails(world: World) -> None:
    (a,) = world.run([], ["shared"])
    world.find_loss(a, world.lose(a))
    ((_, lineage),) = world.started
    world.tell(TaskEnded(lineage))
    assert world.words(a) == "its task did not make it again"


def test_result_lost_again_while_its_task_runs_is_made_by_a_further_run(world: World) -> None:
    a, b = world.run([], ["shared", "shared"])
    world.find_loss(a, world.lose(a))
    ((_, lineage),) = world.started
    world.tell(Sealed(a, world.value("shared", [])))
    world.find_loss(a, world.lose(a))
    world.started.clear()
    world.tell(TaskEnded(lineage))
    assert [again for _, again in world.started] == [lineage]
    world.settle()
    assert isinstance(world[a].value, Shared)
    assert isinstance(world[b].value, Shared)


def test_result_that_is_small_the_second_time_needs_no_lineage(world: World) -> None:
    (a,) = world.run([], ["shared"])
    world.find_loss(a, world.lose(a))
    world.jobs[a.task_id()].forms = ["inline"]
    world.settle()
    assert isinstance(world[a].value, Inline)
    assert not world.machine.lineages.kept


def test_shadow_that_is_wanted_again_while_its_stream_runs_is_made_by_a_further_run(
    world: World,
) -> None:
    a, b = world.run([], ["shared", "shared"])
    world.run([a], ["shared"])
    world.drop(a)
    world.find_loss(b, world.lose(b))
    ((_, lineage),) = world.started
    # Its item comes while nobody needs it; then somebody does.
    world.tell(Sealed(a, world.value("shared", [])))
    world.tell(Counted(a))
    world.tell(Wanted(a))
    world.tell(Sealed(b, world.value("shared", [])))
    world.started.clear()
    world.tell(TaskEnded(lineage))
    assert [again for _, again in world.started] == [lineage]
    world.settle()
    assert isinstance(world[a].value, Shared)


def test_item_that_is_lost_before_its_task_ends_waits_for_the_end(world: World) -> None:
    task_id = world.ids.task_id()
    a = task_id.object_id(2)
    lineage = Lineage(task_id)
    lineage.note = Job(task_id, [], [])
    lineage.size_bytes = RECORD
    world.tell(ObjectMade(a))
    world.tell(Sealed(a, world.value("shared", [])))
    world.tell(Yielding(a, lineage))
    world.find_loss(a, world.lose(a))
    assert world.started == []
    world.tell(TaskEnded(lineage))
    assert len(world.started) == 1


def test_results_that_are_lost_together_are_made_by_one_run(world: World) -> None:
    a, b = world.run([], ["shared", "shared"])
    world.find_loss(a, world.lose(a))
    world.find_loss(b, world.lose(b))
    assert len(world.started) == 1
    world.settle()
    assert isinstance(world[b].value, Shared)
    assert world.jobs[a.task_id()].runs == 2


def test_object_that_two_tasks_mention_stays_until_both_are_forgotten(world: World) -> None:
    (a,) = world.run([], ["shared"])
    (b,), (c,) = world.run([a], ["shared"]), world.run([a], ["shared"])
    world.drop(a)
    world.drop(b)
    assert a in world.machine.entries
    world.drop(c)
    assert not world.machine.entries


def test_result_that_is_freed_by_hand_is_not_made_again(world: World) -> None:
    a, b = world.run([], ["shared", "shared"])
    world.tell(FreeAsked(a, Failure(b"freed")))
    world.tell(Wanted(a))
    assert not world.started
    assert world.words(a) == "freed"
    world.find_loss(b, world.lose(b))
    world.settle()
    assert isinstance(world[b].value, Shared)
    assert world.words(a) == "freed"
    assert len(world.segments) == 1


def test_result_that_is_freed_by_hand_while_it_is_made_again_is_given_back(world: World) -> None:
    (a,) = world.run([], ["shared"])
    world.find_loss(a, world.lose(a))
    world.tell(FreeAsked(a, Failure(b"freed")))
    world.settle()
    assert world.words(a) == "freed"
    assert not world.segments
    assert not world.machine.lineages.kept


def test_what_needs_an_argument_that_was_freed_by_hand_cannot_be_made_again(world: World) -> None:
    a = world.put()
    (b,) = world.run([a], ["shared"])
    world.tell(FreeAsked(a, Failure(b"freed")))
    world.find_loss(b, world.lose(b))
    world.settle()
    assert world.words(b) == "freed"


# ------------------------------------------------------------------ borrowed objects


def test_borrower_tells_the_owner_of_a_loss_and_asks_again() -> None:
    machine = Ownership(0)
    a = IdSource().task_id().object_id(1)
    machine.handle(Adopted(a, "owner", None, False))
    machine.handle(Registered([a], [], Failure(b"")))
    machine.handle(Sealed(a, Shared("s", 1, "owner")))
    assert machine.handle(SegmentGone(a, "s", "why")) == [
        SendGone("owner", a, "s", "why"),
        SendFetch("owner", a),
    ]
    assert machine.handle(SegmentGone(a, "s", "why")) == []
    assert machine.handle(Wanted(a)) == []
    assert machine.handle(Sealed(a, Shared("t", 1, "owner"))) == [Ready(machine.entries[a])]


def test_loss_of_an_unknown_object_is_nobodys(world: World) -> None:
    assert world.tell(SegmentGone(world.ids.task_id().object_id(1), "s", "why")) == []


# ------------------------------------------------------------------ shadows


def test_argument_that_nobody_needs_gives_up_its_value_and_is_made_again(world: World) -> None:
    (a,) = world.run([], ["shared"])
    (b,) = world.run([a], ["shared"])
    world.drop(a)
    assert world[a].value is None
    assert len(world.segments) == 1
    world.find_loss(b, world.lose(b))
    world.settle()
    assert isinstance(world[b].value, Shared)
    assert world.jobs[a.task_id()].runs == 2
    assert world[a].value is None
    world.drop(b)
    assert not world.machine.entries
    assert not world.machine.lineages.kept
    assert not world.segments


def test_argument_that_was_dropped_before_it_was_made_is_made_again(world: World) -> None:
    task_id = world.ids.task_id()
    a = task_id.object_id(1)
    world.tell(ObjectMade(a))
    world.refs[a] = 1
    (b,) = world.run([a], ["shared"])
    world.drop(a)
    assert a in world.machine.entries
    job = world.jobs[task_id] = Job(task_id, [], ["shared"])
    lineage = Lineage(task_id)
    lineage.note, lineage.size_bytes = job, RECORD
    world.finish(job, lineage, [a])
    assert len(world.segments) == 1
    world.find_loss(b, world.lose(b))
    world.settle()
    assert isinstance(world[b].value, Shared)
    world.drop(b)
    assert not world.machine.entries


def test_small_argument_that_nobody_needs_keeps_its_value(world: World) -> None:
    a = world.put("inline")
    (b,) = world.run([a], ["shared"])
    world.drop(a)
    assert isinstance(world[a].value, Inline)
    world.drop(b)
    assert not world.machine.entries


def test_argument_that_was_put_and_freed_is_named_in_the_failure(world: World) -> None:
    a = world.put()
    (b,) = world.run([a], ["shared"])
    world.drop(a)
    world.find_loss(b, world.lose(b))
    world.settle()
    assert "put" in world.words(b)


def test_borrower_that_holds_an_argument_keeps_its_value(world: World) -> None:
    (a,) = world.run([], ["shared"])
    (b,) = world.run([a], ["shared"])
    assert world.tell(Lent("p", [a])) == [SendBorrowed("p", [a], [])]
    world.drop(a)
    assert isinstance(world[a].value, Shared)
    world.tell(Returned("p", [a]))
    assert world[a].value is None
    world.drop(b)
    assert not world.machine.entries


def test_small_argument_with_references_inside_does_not_keep_their_objects(world: World) -> None:
    inner = world.put()
    outer = world.put("inline", [inner])
    (b,) = world.run([outer], ["shared"])
    world.drop(inner)
    world.drop(outer)
    assert inner not in world.machine.entries
    assert world[outer].value is None
    world.drop(b)


@pytest.mark.parametrize("length", [2, 20_000])
def test_long_chain_is_forgotten_and_recovered_without_a_deep_stack(length: int) -> None:
    world = World(10**9)
    world.machine.check = lambda: None  # type: ignore[method-assign]  # once is enough here
    (last,) = world.run([], ["shared"])
    for _ in range(length - 1):
        (after,) = world.run([last], ["shared"])
        world.drop(last)
        last = after
    assert len(world.segments) == 1
    del world.machine.check  # type: ignore[method-assign]
    world.drop(last)
    assert not world.machine.entries


# ------------------------------------------------------------------ the bound


def test_oldest_lineage_goes_first_and_its_results_say_so() -> None:
    world = World(3 * RECORD)
    made = [world.run([], ["shared"])[0] for _ in range(5)]
    assert [bool(world[a].lineage.why_not) for a in made] == [True, True, False, False, False]  # type: ignore[union-attr]  # each has one
    world.find_loss(made[0], world.lose(made[0]))
    assert f"more than {3 * RECORD} bytes" in world.words(made[0])


def test_lineage_that_is_larger_than_the_bound_is_not_kept() -> None:
    world = World(RECORD - 1)
    (a,) = world.run([], ["shared"])
    assert not world.machine.lineages.kept
    world.drop(a)
    assert not world.machine.entries


def test_what_a_forgotten_lineage_mentioned_goes() -> None:
    world = World(RECORD)
    a = world.put("inline")
    (b,) = world.run([a], ["shared"])
    world.drop(a)
    assert a in world.machine.entries
    (c,) = world.run([], ["shared"])
    assert a not in world.machine.entries
    world.drop(b, c)


def test_code_of_a_function_counts_once() -> None:
    world = World(100)
    lineages = world.machine.lineages
    made = []
    for number in range(3):
        lineage = Lineage(world.ids.task_id())
        lineage.function, lineage.code_bytes, lineage.size_bytes = b"f", 50, 10 + number
        made.append(lineage)
        lineages.keep(lineage)
    assert lineages.total_bytes == 83
    for lineage in made:
        lineages.forget(lineage, "")
    assert lineages.total_bytes == 0
    assert lineages.forget(made[0], "") == ()


# ------------------------------------------------------------------ any order


class Losses(RuleBasedStateMachine):
    """Tasks on tasks whose results are lost in any order, within a bound that is sometimes small.

    What is held is there in the end, or its failure says why not; what is not held is nowhere.
    """

    def __init__(self) -> None:
        super().__init__()
        self.world = World(10**6)

    def held(self) -> list[ObjectId]:
        return sorted(key for key, count in self.world.refs.items() if count > 0)

    @rule(form=st.sampled_from(["shared", "inline"]))
    def put(self, form: str) -> None:
        self.world.put(form)

    @rule(data=st.data(), forms=st.lists(st.sampled_from(["shared", "inline"]), max_size=3))
    def run(self, data: st.DataObject, forms: list[str]) -> None:
        entries = self.world.machine.entries
        able = [key for key in self.held() if isinstance(entries[key].value, Inline | Shared)]
        args = data.draw(st.lists(st.sampled_from(able), max_size=3)) if able else []
        self.world.run(args, ["shared", *forms])

    @rule(data=st.data())
    @precondition(lambda self: self.held())
    def drop(self, data: st.DataObject) -> None:
        self.world.drop(data.draw(st.sampled_from(self.held())))

    @rule(data=st.data(), times=st.integers(1, 2))
    def lose(self, data: st.DataObject, times: int) -> None:
        entries = self.world.machine.entries
        able = [key for key in self.held() if isinstance(entries[key].value, Shared)]
        if able:
            object_id = data.draw(st.sampled_from(able))
            segment = self.world.lose(object_id)
            for _ in range(times):
                self.world.find_loss(object_id, segment)

    @rule(index=st.integers(0, 5))
    def end(self, index: int) -> None:
        self.world.end_one(index)

    @rule(limit=st.sampled_from([0, RECORD, 5 * RECORD, 10**6]))
    def bound(self, limit: int) -> None:
        if self.world.machine.lineages.total_bytes <= limit:
            self.world.machine.lineages.limit_bytes = limit

    @invariant()
    def what_is_held_is_in_the_table(self) -> None:
        for object_id in self.held():
            assert object_id in self.world.machine.entries

    def teardown(self) -> None:
        world = self.world
        world.settle()
        for object_id in self.held():
            value = world[object_id].value
            assert value is not None, "a reader would wait for ever"
            if isinstance(value, Shared):
                assert world.segments[value.segment]
        world.drop(*(key for key in self.held() for _ in range(world.refs[key])))
        assert not world.machine.entries
        assert not world.machine.lineages.kept
        assert not world.machine.lineages.total_bytes
        assert not world.segments


TestLosses = Losses.TestCase
TestLosses.settings = settings(stateful_step_count=40)


# ------------------------------------------------------------------ fail the k-th effect


class Worn(World):
    """A world that loses the k-th segment that is made, k = 1, 2, ..., when its task has ended."""

    def __init__(self, lose_at: int) -> None:
        super().__init__()
        self.lose_at = lose_at
        self.sealed = 0
        self.doomed: ObjectId | None = None

    def tell(self, event: Event) -> list[Effect]:
        effects = super().tell(event)
        if isinstance(event, Sealed) and isinstance(event.value, Shared):
            self.sealed += 1
            if self.sealed == self.lose_at:
                self.doomed = event.object_id
        elif isinstance(event, TaskEnded) and self.doomed is not None:
            object_id, self.doomed = self.doomed, None
            entry = self.machine.entries.get(object_id)
            if entry is not None and isinstance(entry.value, Shared):
                self.find_loss(object_id, self.lose(object_id))
        return effects


@given(st.lists(st.lists(st.integers(0, 100), max_size=2), min_size=1, max_size=6), st.data())
def test_a_loss_at_any_place_of_a_program_is_recovered(
    shape: list[list[int]], data: st.DataObject
) -> None:
    lose_at = 0
    # What is dropped at once becomes a shadow.
    dropped = data.draw(st.sets(st.integers(0, len(shape) - 1)))
    while True:
        lose_at += 1
        world = Worn(lose_at)
        made: list[Any] = []
        held: list[Any] = []
        for number, picks in enumerate(shape):
            world.settle()
            args = [held[pick % len(held)] for pick in picks] if held else []
            results = world.run(args, ["shared", "shared"])
            made += results
            held += results
            if number in dropped:
                world.drop(results[0])
                held.remove(results[0])
        world.settle()
        for object_id in held:
            world.find_loss(object_id, world.lose(object_id))
        world.settle()
        assert all(isinstance(world[object_id].value, Shared) for object_id in held)
        world.drop(*held)
        assert not world.machine.entries
        assert not world.segments
        if lose_at > world.sealed:
            break
