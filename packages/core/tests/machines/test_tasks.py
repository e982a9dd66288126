from __future__ import annotations

from collections import Counter, deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from msgspec import structs

from weft._ids import TaskId, WorkerId
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
from weft._machines.tasks import (
    LINGER_S,
    MOST_WANTED,
    PIPELINE_S,
    PIPELINE_TASKS,
    YIELD_DEVICES_S,
    YIELD_S,
    AskAbort,
    Effect,
    Event,
    ForgetPool,
    GivenBack,
    GiveUpLease,
    Lease,
    LeaseGranted,
    LeaseLost,
    LeaseMissed,
    LeasePaused,
    LeaseRefused,
    Moved,
    Reclaimed,
    Resubmitted,
    Send,
    Submitted,
    Task,
    Tasks,
    Want,
    WorkerEnded,
)
from weft._wire.messages import Certificate

W, V = WorkerId(b"w" * 16), WorkerId(b"v" * 16)
QUICK, MIDDLING = b"quick", b"middling"
CERTIFICATE = Certificate(b"", 1, -9, 0, 0, "f", "", "")
SPARED = structs.replace(CERTIFICATE, retry="free")
UNSEEN = structs.replace(CERTIFICATE, is_seen=False)
HOPELESS = structs.replace(CERTIFICATE, retry="never")
NOT_THERE = TaskId(bytes(16))


class Desk:
    """A Tasks whose invariants are checked after every event."""

    def __init__(self) -> None:
        self.machine = Tasks()
        self.now = 100.0
        self.made = 0

    def __call__(self, *events: Event) -> list[Effect]:
        effects: list[Effect] = []
        for event in events:
            effects = self.machine.handle(event, self.now)
            self.machine.check()
            self.compare()
        return effects

    def compare(self) -> None:
        """Check that the lease is found that a look at all of them would find."""
        for pool in self.machine.pools.values():
            for most in (1, 2, PIPELINE_TASKS):
                fit = [
                    lease
                    for lease in pool.leases.values()
                    if len(lease.tasks) < most and lease.takes_more(self.now)
                ]
                best = min(fit, key=lambda lease: len(lease.tasks), default=None)
                assert pool.by_load.find(most, self.now) is best

    def task(
        self,
        function: bytes = b"f",
        *,
        retries: int = 0,
        timeout_s: float = 0.0,
        waits: bool = False,
        shape: int = 0,
        spreads: bool = False,
    ) -> Task:
        self.made += 1
        task_id = TaskId(self.made.to_bytes(16, "big"))
        facts: dict[str, Any] = {"retries": retries, "timeout_s": timeout_s, "spreads": spreads}
        task = Task(task_id, "f", function, note=None, **facts)
        task.shape = shape
        if waits:
            task.state = "waiting"
        return task

    def submit(self, function: bytes = b"f", **options: Any) -> Task:
        task = self.task(function, **options)
        self(Submitted(task))
        return task

    def sent(self, function: bytes = b"f", *, worker: WorkerId = W, **options: Any) -> Task:
        """Submit a task and have it sent to a new lease."""
        task = self.submit(function, **options)
        self(LeaseGranted(0, worker, False))
        assert task.worker == worker
        return task

    def learn(self, function: bytes, duration_s: float) -> None:
        """Have a worker idle that ran the function once."""
        task = self.sent(function)
        self(finished(task, duration_s=duration_s))


@pytest.fixture
def desk() -> Desk:
    return Desk()


def finished(task: Task, *, retriable: bool = False, duration_s: float = 1.0) -> Answered:
    return Answered(task.id, duration_s, retriable)


def begun(task: Task) -> tuple[TaskId, int]:
    return task.id, task.attempt


# ------------------------------------------------------------------ towards a worker


@pytest.mark.parametrize("duration_s", [1.0, PIPELINE_S / 10])
def test_a_thousand_workers_are_not_looked_through_for_each_task(
    monkeypatch: pytest.MonkeyPatch, duration_s: float
) -> None:
    looks = 0
    real = Lease.takes_more

    def counting(self: Lease, now: float) -> bool:
        nonlocal looks
        looks += 1
        return real(self, now)

    monkeypatch.setattr(Lease, "takes_more", counting)
    machine, tasks = Tasks(), 10_000
    ran: deque[TaskId] = deque()

    def tell(event: Event) -> None:
        ran.extend(each.task.id for each in machine.handle(event, 0.0) if isinstance(each, Send))

    for number in range(tasks):
        task_id = TaskId(number.to_bytes(16, "big"))
        tell(Submitted(Task(task_id, "f", b"f", retries=0, timeout_s=0.0, note=None)))
    for number in range(1000):
        tell(LeaseGranted(0, WorkerId(number.to_bytes(16, "big")), False))
    while ran:
        tell(Answered(ran.popleft(), duration_s, False))
    assert not machine.attempts.open
    assert looks < 4 * tasks


def test_lease_for_a_task_that_spreads_is_returned_with_it(desk: Desk) -> None:
    task = desk.sent(spreads=True)
    assert desk(finished(task)) == [Complete(task), GiveUpLease(W), ForgetPool(0)]
    other = desk.submit(spreads=True, shape=1)
    desk(CancelAsked(other.id, False))
    late = desk.submit(spreads=True, shape=2)
    desk(LeaseGranted(2, W, False), finished(late))
    assert not desk.machine.pools


def test_first_task_wants_a_worker_and_is_sent_when_there_is_one(desk: Desk) -> None:
    task = desk.task()
    assert desk(Submitted(task)) == [Want(0, 1)]
    assert desk(LeaseGranted(0, W, False)) == [Send(W, task), Want(0, 0)]


def test_answer_completes_a_task_and_its_worker_takes_the_next(desk: Desk) -> None:
    task = desk.sent()
    assert desk(finished(task)) == [Complete(task)]
    following = desk.task()
    assert desk(Submitted(following)) == [Send(W, following)]


@pytest.mark.parametrize("retries", [1, -1])
def test_task_that_has_ended_is_run_again_as_a_retry(desk: Desk, retries: int) -> None:
    task = desk.sent(retries=retries)
    desk(finished(task))
    assert desk(Resubmitted(task)) == []
    assert (task.state, task.attempt, task.retries) == ("waiting", 1, min(retries, 0))
    assert desk(ArgumentsReady(task.id)) == [Send(W, task)]
    assert desk(finished(task)) == [Complete(task)]


def test_task_that_has_ended_is_not_run_again_without_a_retry(desk: Desk) -> None:
    task = desk.sent()
    desk(finished(task))
    assert desk(Resubmitted(task)) == [Fail(task, "exhausted")]


def test_demand_doubles_with_the_queue_up_to_a_bound(desk: Desk) -> None:
    wants = [effect for _ in range(2 * MOST_WANTED) for effect in desk(Submitted(desk.task()))]
    assert wants == [Want(0, 1 << power) for power in range(MOST_WANTED.bit_length())]


def test_demand_ends_with_the_queue_also_when_all_was_granted(desk: Desk) -> None:
    task = desk.sent()
    queued = [desk.submit(), desk.submit()]
    assert desk(finished(task)) == [Complete(task), Send(W, queued[0])]
    assert desk(LeaseGranted(0, V, False)) == [Send(V, queued[1]), Want(0, 0)]


def test_function_that_was_never_timed_goes_to_idle_workers_only(desk: Desk) -> None:
    desk.sent()
    task = desk.task()
    assert desk(Submitted(task)) == [Want(0, 1)]


def test_short_tasks_queue_at_a_worker_as_deep_as_is_quick(desk: Desk) -> None:
    desk.learn(MIDDLING, PIPELINE_S / 3)
    tasks = [desk.submit(MIDDLING) for _ in range(5)]
    assert [task.state for task in tasks] == ["sent"] * 3 + ["ready"] * 2


def test_no_more_than_a_bound_of_tasks_queue_at_a_worker(desk: Desk) -> None:
    desk.learn(QUICK, 0.0)
    tasks = [desk.submit(QUICK) for _ in range(PIPELINE_TASKS + 1)]
    assert [task.state for task in tasks] == ["sent"] * PIPELINE_TASKS + ["ready"]


def test_short_task_goes_where_fewest_are(desk: Desk) -> None:
    desk.learn(QUICK, 0.0)
    first = desk.submit(QUICK)
    desk(LeaseGranted(0, V, False))
    second, third = desk.submit(QUICK), desk.submit(QUICK)
    assert [first.worker, second.worker, third.worker] == [W, V, W]
    desk(finished(second))
    assert desk.submit(QUICK).worker == V


def test_running_mean_follows_a_function_that_became_slow(desk: Desk) -> None:
    desk.learn(QUICK, 0.0)
    for _ in range(3):
        desk(finished(desk.submit(QUICK), duration_s=1.0))
    desk.submit(QUICK)
    assert desk.submit(QUICK).state == "ready"


def test_queue_goes_in_order_once_a_worker_is_free(desk: Desk) -> None:
    running = desk.sent()
    first, second = desk.submit(), desk.submit()
    assert desk(finished(running)) == [Complete(running), Send(W, first)]
    assert desk(finished(first)) == [Complete(first), Send(W, second), Want(0, 0)]


def test_shapes_do_not_share_workers(desk: Desk) -> None:
    desk.sent()
    other = desk.task(shape=1)
    assert desk(Submitted(other)) == [Want(1, 1)]
    assert desk(LeaseGranted(1, V, False)) == [Send(V, other), Want(1, 0)]


def test_worker_that_was_gone_when_granted_is_wanted_again(desk: Desk) -> None:
    desk.submit()
    assert desk(LeaseMissed(0)) == [Want(0, 1)]


# ------------------------------------------------------------------ arguments


def test_task_is_queued_when_its_arguments_are_there(desk: Desk) -> None:
    task = desk.task(waits=True)
    assert desk(Submitted(task)) == []
    assert desk(ArgumentsReady(task.id)) == [Want(0, 1)]


def test_task_ends_with_the_error_of_an_argument(desk: Desk) -> None:
    task = desk.submit(waits=True)
    assert desk(ArgumentFailed(task.id, "why")) == [Fail(task, "argument", "why"), ForgetPool(0)]
    assert desk(ArgumentsReady(task.id), ArgumentFailed(task.id, "again")) == []


def test_argument_of_a_task_that_does_not_wait_is_no_news(desk: Desk) -> None:
    task = desk.submit()
    assert desk(ArgumentsReady(task.id), ArgumentFailed(task.id, "late")) == []
    assert task.state == "ready"


# ------------------------------------------------------------------ refusals


def test_refusal_fails_all_that_is_queued_and_the_next_task_asks_anew(desk: Desk) -> None:
    tasks = [desk.submit(), desk.submit()]
    assert desk(LeaseRefused(0, "unschedulable", "needs 8 CPU")) == [
        *(Fail(task, "unschedulable", "needs 8 CPU") for task in tasks),
        ForgetPool(0),
    ]
    assert desk(Submitted(desk.task())) == [Want(0, 1)]


def test_refusal_leaves_the_tasks_that_wait_for_arguments(desk: Desk) -> None:
    waiting, queued = desk.submit(waits=True), desk.submit()
    refused = LeaseRefused(0, "environment", "no net")
    assert desk(refused) == [Fail(queued, "environment", "no net")]
    assert desk(ArgumentsReady(waiting.id)) == [Want(0, 1)]


def test_refusal_of_what_is_not_wanted_any_more_is_no_news(desk: Desk) -> None:
    task = desk.submit()
    desk(CancelAsked(task.id, False))
    assert desk(LeaseRefused(0, "environment", "no net"), LeaseMissed(0)) == []


# ------------------------------------------------------------------ retries


def test_exception_is_retried_while_retries_are_left(desk: Desk) -> None:
    task = desk.sent(retries=1)
    assert desk(finished(task, retriable=True)) == [Send(W, task)]
    assert (task.attempt, task.retries) == (1, 0)
    assert desk(finished(task, retriable=True)) == [Complete(task)]


def test_retries_without_end_are_not_counted(desk: Desk) -> None:
    task = desk.sent(retries=-1)
    for attempt in range(1, 5):
        assert desk(finished(task, retriable=True)) == [Send(W, task)]
        assert (task.attempt, task.retries) == (attempt, -1)


def test_retried_task_waits_behind_the_others(desk: Desk) -> None:
    task = desk.sent(retries=1)
    other = desk.submit()
    assert desk(finished(task, retriable=True)) == [Send(W, other)]
    assert task.state == "ready"


def test_cancelled_task_is_not_retried(desk: Desk) -> None:
    task = desk.sent(retries=1)
    desk(CancelAsked(task.id, False))
    assert desk(finished(task, retriable=True)) == [Complete(task)]


# ------------------------------------------------------------------ run again after its end


def run_again(desk: Desk, *, retries: int) -> tuple[Task, list[Effect]]:
    """Have a task end whose cancellation came too late, and run it for a result that was lost."""
    task = desk.sent(retries=retries)
    desk(CancelAsked(task.id, False), finished(task))
    return task, desk(Resubmitted(task))


def test_task_that_is_run_again_takes_a_retry_and_waits_for_its_arguments(desk: Desk) -> None:
    task, effects = run_again(desk, retries=1)
    assert effects == []
    assert desk(ArgumentsReady(task.id)) == [Send(W, task)]
    assert (task.attempt, task.retries, task.cancelled) == (1, 0, False)
    assert desk(finished(task)) == [Complete(task)]


def test_task_without_end_of_retries_is_run_again_any_number_of_times(desk: Desk) -> None:
    task, _ = run_again(desk, retries=-1)
    for attempt in (1, 2, 3):
        assert desk(ArgumentsReady(task.id)) == [Send(W, task)]
        assert (task.attempt, task.retries) == (attempt, -1)
        assert desk(finished(task)) == [Complete(task)]
        assert desk(Resubmitted(task)) == []


def test_task_without_retries_is_not_run_again(desk: Desk) -> None:
    task, effects = run_again(desk, retries=0)
    assert effects == [Fail(task, "exhausted")]


# ------------------------------------------------------------------ given back


def test_tasks_that_are_given_back_go_elsewhere_in_their_order(desk: Desk) -> None:
    desk.learn(QUICK, 0.0)
    running, first, second = (desk.submit(QUICK) for _ in range(3))
    assert desk(GivenBack(W, [first.id, second.id], busy=True)) == [Want(0, 2)]
    assert desk(LeaseGranted(0, V, False)) == [Send(V, first), Send(V, second), Want(0, 0)]
    assert running.worker == W


def test_worker_that_gave_tasks_back_gets_more_after_its_answer(desk: Desk) -> None:
    desk.learn(QUICK, 0.0)
    running, given = desk.submit(QUICK), desk.submit(QUICK)
    desk(GivenBack(W, [given.id], busy=True))
    assert given.state == "ready"
    assert desk(finished(running)) == [Complete(running), Send(W, given), Want(0, 0)]


def test_worker_that_gave_everything_back_is_not_busy(desk: Desk) -> None:
    task = desk.sent()
    assert desk(GivenBack(W, [task.id], busy=True)) == [Send(W, task)]


def test_worker_that_gave_back_in_two_parts_is_not_busy_either(desk: Desk) -> None:
    desk.learn(QUICK, 0.0)
    first, second = desk.submit(QUICK), desk.submit(QUICK)
    desk(GivenBack(W, [second.id], busy=True))
    assert desk(GivenBack(W, [first.id], busy=False)) == [
        Send(W, first),
        Send(W, second),
        Want(0, 0),
    ]


def test_worker_without_work_after_giving_back_rests(desk: Desk) -> None:
    task = desk.sent()
    desk(CancelAsked(task.id, False))
    assert desk(GivenBack(W, [task.id], busy=False)) == [Fail(task, "cancelled")]
    assert desk.machine.next_deadline == desk.now + LINGER_S


def test_giving_back_what_is_not_there_changes_nothing(desk: Desk) -> None:
    task = desk.sent()
    assert desk(GivenBack(V, [task.id], busy=True)) == []
    assert desk(GivenBack(W, [NOT_THERE], busy=False)) == []
    assert task.worker == W


def test_given_back_task_that_was_cancelled_meanwhile_ends(desk: Desk) -> None:
    desk.learn(QUICK, 0.0)
    desk.submit(QUICK)
    task = desk.submit(QUICK)
    assert desk(CancelAsked(task.id, False)) == [AskCancel(task)]
    assert desk(GivenBack(W, [task.id], busy=True)) == [Fail(task, "cancelled")]


def test_given_back_task_that_ran_out_of_time_meanwhile_ends(desk: Desk) -> None:
    task = desk.sent(timeout_s=1.0)
    desk.now += 1.0
    desk(Ticked())
    assert desk(GivenBack(W, [task.id], busy=False)) == [Fail(task, "timeout")]


# ------------------------------------------------------------------ lost workers


def test_lost_worker_gets_nothing_more(desk: Desk) -> None:
    task = desk.sent()
    desk(finished(task), LeaseLost(W))
    assert desk.machine.next_deadline is None
    assert desk(Submitted(desk.task())) == [Want(0, 1)]


def test_started_task_without_retries_ends_with_the_certificate(desk: Desk) -> None:
    task = desk.sent()
    desk(LeaseLost(W))
    assert desk(WorkerEnded(W, begun(task), CERTIFICATE)) == [
        Fail(task, "died", CERTIFICATE),
        ForgetPool(0),
    ]


def test_started_task_with_retries_is_sent_again(desk: Desk) -> None:
    task = desk.sent(retries=1)
    desk(LeaseLost(W))
    assert desk(WorkerEnded(W, begun(task), CERTIFICATE)) == [Want(0, 1)]
    assert (task.attempt, task.retries) == (1, 0)
    assert desk(LeaseGranted(0, V, False)) == [Send(V, task), Want(0, 0)]


def test_task_that_was_not_started_costs_no_retry(desk: Desk) -> None:
    desk.learn(QUICK, 0.0)
    started, waiting = desk.submit(QUICK), desk.submit(QUICK)
    desk(LeaseLost(W))
    assert desk(WorkerEnded(W, begun(started), CERTIFICATE)) == [
        Fail(started, "died", CERTIFICATE),
        Want(0, 1),
    ]
    assert (waiting.state, waiting.attempt) == ("ready", 0)


def test_tasks_before_the_last_started_one_were_started_too(desk: Desk) -> None:
    desk.learn(QUICK, 0.0)
    first = desk.submit(QUICK)
    second, third = desk.submit(QUICK, retries=1), desk.submit(QUICK)
    desk(LeaseLost(W))
    desk(WorkerEnded(W, begun(second), CERTIFICATE))
    assert (first.state, second.attempt, third.attempt) == ("done", 1, 0)
    desk(LeaseGranted(0, V, False))
    assert [*desk.machine.leases[V].tasks.values()] == [second, third]


def test_all_that_was_sent_to_a_worker_whose_end_nobody_saw_may_have_been_started(
    desk: Desk,
) -> None:
    desk.learn(QUICK, 0.0)
    first, second = desk.submit(QUICK), desk.submit(QUICK, retries=1)
    third = desk.submit(QUICK)
    desk(LeaseLost(W))
    assert desk(WorkerEnded(W, begun(first), UNSEEN)) == [
        Fail(third, "died", UNSEEN),
        Fail(first, "died", UNSEEN),
        Want(0, 1),
    ]
    assert (second.state, second.attempt, second.retries) == ("ready", 1, 0)


def test_worker_that_died_before_it_started_anything_costs_nothing(desk: Desk) -> None:
    task = desk.sent()
    desk(LeaseLost(W))
    assert desk(WorkerEnded(W, None, CERTIFICATE)) == [Want(0, 1)]
    assert task.attempt == 0


def test_worker_that_died_before_it_began_the_next_attempt_costs_nothing(desk: Desk) -> None:
    task = desk.sent(retries=2)
    first = begun(task)
    assert desk(finished(task, retriable=True)) == [Send(W, task)]
    desk(LeaseLost(W), WorkerEnded(W, first, CERTIFICATE))
    assert (task.state, task.attempt, task.retries) == ("ready", 1, 1)


def test_worker_that_died_after_its_last_answer_costs_nothing(desk: Desk) -> None:
    answered = desk.sent(QUICK)
    desk(finished(answered, duration_s=0.0))
    task = desk.submit(QUICK)
    desk(LeaseLost(W), WorkerEnded(W, begun(answered), CERTIFICATE))
    assert (task.state, task.attempt) == ("ready", 0)


@pytest.mark.parametrize("was_started", [True, False])
def test_cancelled_task_of_a_lost_worker_ends(desk: Desk, was_started: bool) -> None:
    task = desk.sent(retries=3)
    desk(CancelAsked(task.id, False), LeaseLost(W))
    began = begun(task) if was_started else None
    assert desk(WorkerEnded(W, began, CERTIFICATE)) == [
        Fail(task, "cancelled", CERTIFICATE),
        ForgetPool(0),
    ]


@pytest.mark.parametrize("was_started", [True, False])
def test_task_out_of_time_of_a_lost_worker_ends(desk: Desk, was_started: bool) -> None:
    task = desk.sent(retries=3, timeout_s=1.0)
    desk.now += 1.0
    desk(Ticked(), LeaseLost(W))
    began = begun(task) if was_started else None
    assert desk(WorkerEnded(W, began, CERTIFICATE)) == [
        Fail(task, "timeout", CERTIFICATE),
        ForgetPool(0),
    ]


def test_task_whose_worker_was_ended_to_make_room_is_sent_again_and_loses_no_attempt(
    desk: Desk,
) -> None:
    task = desk.sent(retries=1)
    for attempt in range(1, 4):
        desk(LeaseLost(W), WorkerEnded(W, begun(task), SPARED))
        assert (task.attempt, task.retries, task.displaced) == (attempt, 1, attempt)
        desk(LeaseGranted(0, W, False))
    desk(LeaseLost(W), WorkerEnded(W, begun(task), CERTIFICATE))
    assert (task.attempt, task.retries) == (4, 0)
    desk(LeaseGranted(0, W, False))
    # Its last attempt is as good as any other.
    desk(LeaseLost(W), WorkerEnded(W, begun(task), SPARED))
    assert (task.state, task.attempt) == ("ready", 5)


@pytest.mark.parametrize("ending", ["cancelled", "once"])
def test_task_that_may_not_be_run_again_ends_also_with_a_worker_that_made_room(
    desk: Desk, ending: str
) -> None:
    task = desk.sent(retries=0 if ending == "once" else 3)
    if ending == "cancelled":
        desk(CancelAsked(task.id, False))
    desk(LeaseLost(W))
    kind = "died" if ending == "once" else "cancelled"
    assert desk(WorkerEnded(W, begun(task), SPARED)) == [Fail(task, kind, SPARED), ForgetPool(0)]


def test_task_that_would_end_the_same_way_again_is_not_retried_but_those_before_it_are(
    desk: Desk,
) -> None:
    desk.learn(QUICK, 0.0)
    first, second = desk.submit(QUICK, retries=1), desk.submit(QUICK, retries=1)
    desk(LeaseLost(W))
    assert desk(WorkerEnded(W, begun(second), HOPELESS)) == [
        Fail(second, "died", HOPELESS),
        Want(0, 1),
    ]
    assert (first.state, first.retries) == ("ready", 0)


def test_end_of_a_worker_that_is_not_leased_is_no_news(desk: Desk) -> None:
    assert desk(WorkerEnded(W, None, CERTIFICATE)) == []


def test_answer_that_came_before_the_loss_is_taken(desk: Desk) -> None:
    task = desk.sent()
    desk(LeaseLost(W))
    assert desk(finished(task)) == [Complete(task)]
    assert desk(WorkerEnded(W, begun(task), CERTIFICATE)) == [ForgetPool(0)]


# ------------------------------------------------------------------ idle workers


def test_idle_worker_is_returned_after_a_while(desk: Desk) -> None:
    desk(finished(desk.sent()))
    assert desk.machine.next_deadline == desk.now + LINGER_S
    assert desk(Ticked()) == []
    desk.now += LINGER_S
    assert desk(Ticked()) == [GiveUpLease(W), ForgetPool(0)]
    assert desk.machine.next_deadline is None


def test_worker_that_others_wait_for_is_returned_at_once(desk: Desk) -> None:
    task = desk.submit()
    desk(LeaseGranted(0, W, True))
    assert desk(finished(task)) == [Complete(task), GiveUpLease(W), ForgetPool(0)]


def test_worker_that_comes_too_late_rests_or_is_returned(desk: Desk) -> None:
    desk.submit(waits=True)
    assert desk(LeaseGranted(0, W, False)) == []
    assert desk(LeaseGranted(0, V, True)) == [GiveUpLease(V)]


def test_idle_workers_are_returned_when_others_wait(desk: Desk) -> None:
    busy = desk.sent()
    desk(finished(desk.sent(worker=V)))
    assert desk(Reclaimed()) == [GiveUpLease(V)]
    assert desk(finished(busy)) == [Complete(busy), GiveUpLease(W), ForgetPool(0)]


def test_worker_that_others_have_waited_for_takes_no_more_tasks(desk: Desk) -> None:
    first = desk.sent()
    second, third, fourth = desk.submit(), desk.submit(), desk.submit()
    desk(Reclaimed())
    desk.now += YIELD_S / 2
    desk(Reclaimed())
    assert desk(finished(first)) == [Complete(first), Send(W, second)]
    desk.now += YIELD_S / 2
    assert desk(finished(second)) == [Complete(second), GiveUpLease(W)]
    assert desk(LeaseGranted(0, V, False)) == [Send(V, third)]
    desk.now += YIELD_S
    assert desk(finished(third)) == [Complete(third), Send(V, fourth), Want(0, 0)]


def test_worker_that_others_wait_for_already_is_kept_as_long(desk: Desk) -> None:
    first, second, third = desk.submit(), desk.submit(), desk.submit()
    assert desk(LeaseGranted(0, W, True)) == [Send(W, first)]
    desk.now += YIELD_S - 0.1
    assert desk(finished(first)) == [Complete(first), Send(W, second)]
    desk.now += 0.1
    assert desk(finished(second)) == [Complete(second), GiveUpLease(W)]
    assert third.state == "ready"


def test_worker_that_has_to_yield_is_sent_nothing_ahead(desk: Desk) -> None:
    desk.learn(QUICK, 0.0001)
    running = desk.submit(QUICK)
    ahead = desk.task(QUICK)
    assert desk(Submitted(ahead)) == [Send(W, ahead)]
    desk(Reclaimed())
    desk.now += YIELD_S
    assert desk(Submitted(desk.task(QUICK))) == [Want(0, 1)]
    assert desk(finished(running)) == [Complete(running)]
    assert desk(finished(ahead)) == [Complete(ahead), GiveUpLease(W)]


def test_worker_with_devices_is_kept_for_longer(desk: Desk) -> None:
    first, second, _ = desk.submit(), desk.submit(), desk.submit()
    desk(LeaseGranted(0, W, True, has_devices=True))
    desk.now += YIELD_DEVICES_S - 0.1
    assert desk(finished(first)) == [Complete(first), Send(W, second)]
    desk.now += 0.1
    assert desk(finished(second)) == [Complete(second), GiveUpLease(W)]


def test_idle_workers_can_be_returned_without_anybody_waiting(desk: Desk) -> None:
    busy = desk.sent()
    desk(finished(desk.sent(worker=V)))
    assert desk(Reclaimed(others_wait=False)) == [GiveUpLease(V)]
    assert desk(finished(busy)) == [Complete(busy)]


# ------------------------------------------------------------------ cancelling


def test_waiting_or_queued_task_is_cancelled_at_once(desk: Desk) -> None:
    waiting, queued = desk.submit(waits=1), desk.submit()
    assert desk(CancelAsked(waiting.id, False)) == [Fail(waiting, "cancelled")]
    assert desk(CancelAsked(queued.id, True)) == [
        Want(0, 0),
        Fail(queued, "cancelled"),
        ForgetPool(0),
    ]
    assert desk(CancelAsked(queued.id, True)) == []


def test_sent_task_is_asked_to_stop_and_ends_with_its_answer(desk: Desk) -> None:
    task = desk.sent()
    assert desk(CancelAsked(task.id, False)) == [AskCancel(task)]
    assert desk(finished(task)) == [Complete(task)]


def test_forced_cancel_leaves_it_to_the_worker_which_task_it_ends_with(desk: Desk) -> None:
    desk.learn(QUICK, 0.0)
    first, behind = desk.submit(QUICK), desk.submit(QUICK)
    assert desk(CancelAsked(behind.id, True)) == [AskAbort(behind)]
    assert desk.machine.next_deadline is None
    assert desk(finished(first)) == [Complete(first)]
    assert desk(CancelAsked(behind.id, True)) == [AskAbort(behind)]


def test_worker_that_does_not_end_with_a_task_that_was_cancelled_by_force_is_ended(
    desk: Desk,
) -> None:
    task = desk.sent()
    assert desk(CancelAsked(task.id, True)) == [AskAbort(task)]
    assert desk.machine.next_deadline == desk.now + GRACE_S
    desk.now += GRACE_S
    assert desk(Ticked()) == [Kill(task, "f was cancelled with force")]
    assert desk(LeaseLost(W), WorkerEnded(W, begun(task), CERTIFICATE)) == [
        Fail(task, "cancelled", CERTIFICATE),
        ForgetPool(0),
    ]


def test_task_that_ends_before_a_forced_cancel_comes_ends_with_its_answer(desk: Desk) -> None:
    task = desk.sent()
    desk(CancelAsked(task.id, True))
    assert desk(finished(task)) == [Complete(task)]
    desk.now += GRACE_S
    assert desk(Ticked()) == [GiveUpLease(W), ForgetPool(0)]


def test_tasks_behind_one_that_was_cancelled_by_force_are_sent_again_and_lose_no_attempt(
    desk: Desk,
) -> None:
    desk.learn(QUICK, 0.0)
    cancelled, behind = desk.submit(QUICK), desk.submit(QUICK)
    desk(CancelAsked(cancelled.id, True), LeaseLost(W))
    assert desk(WorkerEnded(W, begun(cancelled), CERTIFICATE)) == [
        Fail(cancelled, "cancelled", CERTIFICATE),
        Want(0, 1),
    ]
    assert desk(LeaseGranted(0, V, False)) == [Send(V, behind), Want(0, 0)]
    assert behind.attempt == 0


def test_forced_cancel_does_not_kill_what_is_dead(desk: Desk) -> None:
    task = desk.sent()
    desk(LeaseLost(W))
    assert desk(CancelAsked(task.id, True)) == [AskAbort(task)]
    assert desk.machine.next_deadline is None


# ------------------------------------------------------------------ time limits


def test_task_over_its_limit_is_asked_to_stop_and_then_ended(desk: Desk) -> None:
    task = desk.sent(timeout_s=2.0)
    assert desk.machine.next_deadline == desk.now + 2.0
    desk.now += 2.0
    assert desk(Ticked()) == [AskCancel(task)]
    assert desk.machine.next_deadline == desk.now + GRACE_S
    desk.now += GRACE_S
    (kill,) = desk(Ticked())
    assert isinstance(kill, Kill)
    assert kill.reason == "f ran over its time limit of 2 s"
    assert desk.machine.next_deadline is None


def test_answer_after_the_limit_is_a_timeout(desk: Desk) -> None:
    task = desk.sent(timeout_s=1.0, retries=1)
    desk.now += 1.0
    desk(Ticked())
    assert desk(finished(task, retriable=True)) == [Fail(task, "timeout")]


def test_limit_begins_anew_with_a_retry(desk: Desk) -> None:
    task = desk.sent(timeout_s=1.0, retries=1)
    desk.now += 0.9
    desk(finished(task, retriable=True))
    assert desk.machine.next_deadline == desk.now + 1.0


def test_task_with_a_limit_shares_its_worker_with_none(desk: Desk) -> None:
    desk.learn(QUICK, 0.0)
    desk.submit(QUICK)
    assert desk.submit(QUICK, timeout_s=1.0).state == "ready"
    desk(LeaseGranted(0, V, False))
    desk(*[Submitted(desk.task(QUICK)) for _ in range(3)])
    assert len(desk.machine.leases[V].tasks) == 1


@pytest.mark.parametrize("by_force", [True, False])
def test_worker_that_is_to_be_ended_gets_no_other_task(desk: Desk, by_force: bool) -> None:
    task = desk.sent(QUICK, timeout_s=0.0 if by_force else 1.0)
    if by_force:
        desk(CancelAsked(task.id, True))
    else:
        desk.now += 1.0
        desk(Ticked())
    desk.now += GRACE_S
    desk(Ticked())
    desk(finished(task))
    later = desk.submit(QUICK)
    assert later.state == "ready"
    assert desk(LeaseLost(W), WorkerEnded(W, begun(task), CERTIFICATE)) == []
    assert desk(LeaseGranted(0, V, False)) == [Send(V, later), Want(0, 0)]


# ------------------------------------------------------------------ pools that come and go


def test_pool_is_forgotten_when_its_last_lease_is_gone_and_nothing_waits(desk: Desk) -> None:
    task = desk.sent()
    waiting = desk.submit(waits=True)
    assert desk(LeaseLost(W), WorkerEnded(W, begun(task), CERTIFICATE)) == [
        Fail(task, "died", CERTIFICATE)
    ]
    assert desk(CancelAsked(waiting.id, False)) == [Fail(waiting, "cancelled"), ForgetPool(0)]
    assert not desk.machine.pools


def test_what_was_learned_of_a_function_is_forgotten_with_its_pool(desk: Desk) -> None:
    desk.learn(QUICK, 0.0)
    desk(Reclaimed(others_wait=False))
    desk.sent(QUICK, worker=V)
    assert desk.submit(QUICK).state == "ready"


# ------------------------------------------------------------------ impossible events, and check


@pytest.mark.parametrize(
    "event",
    [
        Answered(NOT_THERE, 0.0, False),
        LeaseGranted(7, V, False),
        LeaseLost(V),
    ],
)
def test_impossible_event_raises_and_changes_nothing(desk: Desk, event: Event) -> None:
    task = desk.sent()
    with pytest.raises(KeyError):
        desk(event)
    desk.machine.check()
    assert task.state == "sent"


def test_answer_to_a_task_that_nobody_has_raises(desk: Desk) -> None:
    task = desk.submit()
    with pytest.raises(KeyError):
        desk(finished(task))
    assert desk(LeaseGranted(0, W, False)) == [Send(W, task), Want(0, 0)]


def test_check_finds_a_task_in_two_places(desk: Desk) -> None:
    task = desk.sent()
    desk.machine.pools[0].queue.append(task)
    with pytest.raises(AssertionError, match="1, "):
        desk.machine.check()


def test_check_finds_a_demand_without_tasks(desk: Desk) -> None:
    desk.sent()
    desk.machine.pools[0].wanted = 1
    with pytest.raises(AssertionError, match="4, "):
        desk.machine.check()


# ------------------------------------------------------------------ workers that are stopped


def test_stopped_worker_gets_nothing_until_it_goes_on(desk: Desk) -> None:
    desk(finished(desk.sent()))
    desk(LeasePaused(W, True))
    task = desk.task()
    assert desk(Submitted(task)) == [Want(0, 1)]
    assert desk(LeasePaused(W, False)) == [Send(W, task), Want(0, 0)]


def test_pause_of_a_worker_that_is_not_leased_is_no_news(desk: Desk) -> None:
    assert desk(LeasePaused(W, True)) == []


def test_task_on_a_stopped_worker_is_cancelled_with_its_process(desk: Desk) -> None:
    task = desk.sent(retries=3)
    desk(LeasePaused(W, True))
    assert desk(CancelAsked(task.id)) == [AskAbort(task)]
    desk.now += GRACE_S
    assert desk(Ticked()) == [Kill(task, "f was cancelled with force")]


# ------------------------------------------------------------------ tasks that need another worker


def test_tasks_that_are_moved_are_wanted_workers_for_in_their_order(desk: Desk) -> None:
    first, second, other = desk.submit(), desk.submit(), desk.submit()
    assert desk(Moved([first, second], 1)) == [Want(1, 2)]
    assert desk(Moved([other], 1)) == [Want(0, 0), ForgetPool(0), Want(1, 4)]
    assert desk(LeaseGranted(1, W, False)) == [Send(W, first)]
    assert [*desk.machine.pools[1].queue] == [second, other]


def test_moved_task_waits_for_its_arguments_on(desk: Desk) -> None:
    task = desk.submit(waits=True)
    assert desk(Moved([task], 1)) == [ForgetPool(0)]
    assert desk(ArgumentsReady(task.id)) == [Want(1, 1)]
    assert desk(CancelAsked(task.id)) == [Want(1, 0), Fail(task, "cancelled"), ForgetPool(1)]


def test_moved_task_that_is_with_a_worker_ends_there(desk: Desk) -> None:
    task = desk.sent()
    assert desk(Moved([task], 1)) == []
    assert desk(finished(task)) == [Complete(task), ForgetPool(1)]


@pytest.mark.parametrize("way", ["retried", "lost", "given back"])
def test_moved_task_that_comes_back_from_a_worker_goes_where_it_belongs(
    desk: Desk, way: str
) -> None:
    if way == "given back":
        desk.learn(QUICK, 0.0)
        desk.submit(QUICK)
        task = desk.submit(QUICK)
    else:
        task = desk.sent(retries=1)
    desk(Moved([task], 1), Moved([task], 2))
    assert list(desk.machine.pools) == [0, 2]
    match way:
        case "retried":
            desk(finished(task, retriable=True))
        case "lost":
            desk(LeaseLost(W), WorkerEnded(W, begun(task), SPARED))
        case _:
            desk(GivenBack(W, [task.id], False))
    assert [*desk.machine.pools[2].queue] == [task]
    assert desk(LeaseGranted(2, V, False))[0] == Send(V, task)


# ------------------------------------------------------------------ a daemon and workers


def tables_of(machine: Tasks) -> dict[str, Any]:
    """All that the machine keeps, by name."""
    own = {name: table for name, table in vars(machine).items() if name != "attempts"}
    return {**own, **vars(machine.attempts)}


class Worker:
    """What a leased process does: takes what is sent, runs one task after the other, answers."""

    def __init__(self, key: int) -> None:
        self.key = key
        self.inbox: deque[tuple[str, Task]] = deque()
        self.outbox: deque[Event] = deque()
        """What it tells the owner."""
        self.queue: list[Task] = []
        self.running: Task | None = None
        self.began: tuple[TaskId, int] | None = None
        self.is_dead = False
        self.is_lost = False
        """The owner knows of the death."""
        self.certificate = CERTIFICATE


class Owning(RuleBasedStateMachine):
    """An owner, a daemon and workers; each link keeps its order, any link may be slow."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Tasks()
        self.now = 0.0
        self.tasks: list[Task] = []
        self.starts: Counter[TaskId] = Counter()
        self.most_starts: dict[TaskId, float] = {}
        self.ends: Counter[TaskId] = Counter()
        self.stopped: set[TaskId] = set()
        """Cancelled by the user."""
        self.doomed: set[WorkerId | None] = set()
        self.to_daemon: deque[Any] = deque()
        self.from_daemon: deque[Event] = deque()
        self.demand: Counter[int] = Counter()
        self.workers: dict[WorkerId, Worker] = {}
        self.returned: set[WorkerId] = set()
        self.made = 0

    def tell(self, event: Event) -> None:
        for effect in self.machine.handle(event, self.now):
            match effect:
                case Send(worker=worker, task=task):
                    assert task.id not in self.stopped, "sent although it was cancelled"
                    assert task.id not in self.ends
                    assert worker not in self.doomed, "sent to a worker that is to be ended"
                    self.workers[worker].inbox.append(("run", task))
                case AskCancel(task=task):
                    self.workers[task.worker].inbox.append(("cancel", task))
                case AskAbort(task=task):
                    self.workers[task.worker].inbox.append(("abort", task))
                case Complete(task=task) | Fail(task=task):
                    self.ends[task.id] += 1
                    assert self.ends[task.id] == 1, "ended twice"
                case Kill(task=task):
                    self.doomed.add(task.worker)
                    self.to_daemon.append(("kill", task.worker))
                case ForgetPool(key=key):
                    assert key not in self.machine.pools
                case Want() | GiveUpLease():
                    self.to_daemon.append(effect)
        self.machine.check()
        for task in self.machine.attempts.open.values():
            assert task.attempt <= self.starts[task.id], "an attempt that was not begun is counted"

    def some_id(self) -> bytes:
        self.made += 1
        return self.made.to_bytes(16, "big")

    # -------------------------------------------------------------- the user

    @rule(
        function=st.sampled_from([b"f", b"g"]),
        shape=st.sampled_from([0, 0, 1]),
        retries=st.sampled_from([0, 0, 1, -1]),
        timeout_s=st.sampled_from([0.0, 0.0, 0.0, 2.0]),
        waits=st.sampled_from([False, False, True]),
    )
    def submit(
        self, function: bytes, shape: int, retries: int, timeout_s: float, waits: bool
    ) -> None:
        task_id = TaskId(self.some_id())
        task = Task(task_id, "f", function, retries=retries, timeout_s=timeout_s, note=None)
        task.shape = shape
        if waits:
            task.state = "waiting"
        self.tasks.append(task)
        self.most_starts[task_id] = float("inf") if retries < 0 else retries + 1
        self.tell(Submitted(task))

    @rule(data=st.data(), fails=st.booleans())
    @precondition(lambda self: any(task.state == "waiting" for task in self.tasks))
    def bring_arguments(self, data: st.DataObject, fails: bool) -> None:
        waiting = [task for task in self.tasks if task.state == "waiting"]
        task = data.draw(st.sampled_from(waiting))
        self.tell(ArgumentFailed(task.id, "") if fails else ArgumentsReady(task.id))

    @rule(data=st.data(), force=st.booleans())
    @precondition(lambda self: self.machine.attempts.open)
    def cancel(self, data: st.DataObject, force: bool) -> None:
        task = data.draw(st.sampled_from(list(self.machine.attempts.open.values())))
        self.tell(CancelAsked(task.id, force))
        self.stopped.add(task.id)

    @rule(pause_s=st.sampled_from([0.1, 1.0]))
    def let_time_pass(self, pause_s: float) -> None:
        self.now += pause_s
        self.tick()

    def tick(self) -> None:
        deadline = self.machine.next_deadline
        if deadline is not None and deadline <= self.now:
            self.tell(Ticked())

    # -------------------------------------------------------------- the daemon

    @rule()
    @precondition(lambda self: self.to_daemon)
    def daemon_reads(self) -> None:
        match self.to_daemon.popleft():
            case Want(key=key, workers=workers):
                self.demand[key] = workers
            case GiveUpLease(worker=worker):
                assert worker not in self.returned
                self.returned.add(worker)
            case ("kill", worker):
                self.die(worker)

    @rule(key=st.sampled_from([0, 1]), contended=st.booleans())
    @precondition(lambda self: +self.demand)
    def grant(self, key: int, contended: bool) -> None:
        if self.demand[key] > 0:
            self.demand[key] -= 1
            worker = WorkerId(self.some_id())
            self.workers[worker] = Worker(key)
            self.from_daemon.append(LeaseGranted(key, worker, contended))

    @rule(kind=st.sampled_from(["environment", "environment", "environment", "unschedulable"]))
    @precondition(lambda self: self.demand[1] > 0)
    def refuse(self, kind: str) -> None:
        self.demand[1] = 0
        self.from_daemon.append(LeaseRefused(1, kind, "no"))

    @rule()
    @precondition(lambda self: self.demand[0] > 0)
    def grant_a_worker_that_is_gone(self) -> None:
        self.demand[0] -= 1
        self.from_daemon.append(LeaseMissed(0))

    @rule()
    def reclaim(self) -> None:
        self.from_daemon.append(Reclaimed())

    @rule()
    @precondition(lambda self: self.from_daemon)
    def owner_reads_from_the_daemon(self) -> None:
        event = self.from_daemon.popleft()
        if isinstance(event, LeaseGranted) and event.key not in self.machine.pools:
            # As the shell does, which has no use for it any more.
            self.returned.add(event.worker)
            event = LeaseMissed(event.key)
        if isinstance(event, WorkerEnded) and event.certificate is SPARED:
            for task in self.machine.leases[event.worker].tasks.values():
                self.most_starts[task.id] += task.may_repeat
        self.tell(event)

    # -------------------------------------------------------------- workers

    def living(self) -> list[WorkerId]:
        return [worker_id for worker_id, worker in self.workers.items() if not worker.is_dead]

    @rule(data=st.data())
    @precondition(lambda self: any(worker.inbox for worker in self.workers.values()))
    def worker_reads(self, data: st.DataObject) -> None:
        readers = [key for key, worker in self.workers.items() if worker.inbox]
        self.read_as(data.draw(st.sampled_from(readers)))

    def read_as(self, worker_id: WorkerId) -> None:
        worker = self.workers[worker_id]
        what, task = worker.inbox.popleft()
        if worker.is_dead:
            return
        if what == "run":
            worker.queue.append(task)
        elif task in worker.queue:
            worker.queue.remove(task)
            worker.outbox.append(Answered(task.id, 0.0, False))
        elif what == "abort" and worker.running is task:
            self.die(worker_id)

    @rule(data=st.data())
    @precondition(lambda self: self.living())
    def worker_starts_a_task(self, data: st.DataObject) -> None:
        self.start(self.workers[data.draw(st.sampled_from(self.living()))])

    def start(self, worker: Worker) -> None:
        if worker.queue and worker.running is None:
            worker.running = task = worker.queue.pop(0)
            worker.began = begun(task)
            self.starts[task.id] += 1
            assert self.starts[task.id] <= self.most_starts[task.id], "started too often"

    @rule(data=st.data(), retriable=st.booleans(), duration_s=st.sampled_from([0.0, 0.002, 1.0]))
    @precondition(lambda self: self.living())
    def worker_answers(self, data: st.DataObject, retriable: bool, duration_s: float) -> None:
        self.answer(data.draw(st.sampled_from(self.living())), retriable, duration_s)

    def answer(self, worker_id: WorkerId, retriable: bool, duration_s: float) -> None:
        worker = self.workers[worker_id]
        if worker.running is not None:
            task, worker.running = worker.running, None
            worker.outbox.append(Answered(task.id, duration_s, retriable))

    @rule(data=st.data())
    @precondition(lambda self: self.living())
    def worker_gives_back(self, data: st.DataObject) -> None:
        worker_id = data.draw(st.sampled_from(self.living()))
        worker = self.workers[worker_id]
        if worker.queue:
            given = [task.id for task in worker.queue]
            worker.queue.clear()
            worker.outbox.append(GivenBack(worker_id, given, worker.running is not None))

    @rule(data=st.data())
    @precondition(lambda self: self.living())
    def worker_dies(self, data: st.DataObject) -> None:
        self.die(data.draw(st.sampled_from(self.living())))

    @rule(data=st.data())
    @precondition(lambda self: self.living())
    def worker_makes_room(self, data: st.DataObject) -> None:
        worker_id = data.draw(st.sampled_from(self.living()))
        self.workers[worker_id].certificate = SPARED
        self.die(worker_id)

    @rule(data=st.data(), paused=st.booleans())
    @precondition(lambda self: self.workers)
    def worker_is_paused(self, data: st.DataObject, paused: bool) -> None:
        worker_id = data.draw(st.sampled_from(list(self.workers)))
        self.from_daemon.append(LeasePaused(worker_id, paused))

    @rule(function=st.sampled_from([b"f", b"g"]), key=st.sampled_from([0, 1]))
    def function_is_learned(self, function: bytes, key: int) -> None:
        tasks = [t for t in self.machine.attempts.open.values() if t.function == function]
        moved = [task for task in tasks if task.shape != key]
        if moved:
            self.tell(Moved(moved, key))

    def die(self, worker_id: WorkerId) -> None:
        worker = self.workers[worker_id]
        if not worker.is_dead:
            worker.is_dead = True
            # What it wrote arrives; what it had not read is lost.
            worker.inbox.clear()

    @rule(data=st.data())
    @precondition(lambda self: any(self.is_news(key) for key in self.workers))
    def owner_reads_from_a_worker(self, data: st.DataObject) -> None:
        self.read_from(data.draw(st.sampled_from([k for k in self.workers if self.is_news(k)])))

    def is_news(self, worker_id: WorkerId) -> bool:
        worker = self.workers[worker_id]
        leased = worker_id in self.machine.leases
        return leased and (bool(worker.outbox) or (worker.is_dead and not worker.is_lost))

    def read_from(self, worker_id: WorkerId) -> None:
        worker = self.workers[worker_id]
        if worker.outbox:
            self.tell(worker.outbox.popleft())
        else:
            worker.is_lost = True
            self.tell(LeaseLost(worker_id))
            self.from_daemon.append(WorkerEnded(worker_id, worker.began, worker.certificate))

    # -------------------------------------------------------------- all of it

    @rule()
    def flow(self) -> None:
        """Everything that is on its way arrives, and workers start what they have."""
        while self.to_daemon:
            self.daemon_reads()
        for key in +self.demand:
            self.grant(key, contended=False)
        while self.from_daemon:
            self.owner_reads_from_the_daemon()
        for worker_id, worker in self.workers.items():
            while worker.inbox:
                self.read_as(worker_id)
            if not worker.is_dead:
                self.start(worker)
            while self.is_news(worker_id):
                self.read_from(worker_id)

    def teardown(self) -> None:
        """All goes on until nothing happens: every task has ended once, nothing is leased."""
        for _ in range(1000):
            if not self.go_on():
                break
        assert [task.id for task in self.tasks if task.id not in self.ends] == []
        assert not any(tables_of(self.machine).values())
        assert not +self.demand
        living = {worker_id for worker_id, worker in self.workers.items() if not worker.is_dead}
        assert living <= self.returned

    def go_on(self) -> bool:
        self.from_daemon.extend(LeasePaused(worker_id, False) for worker_id in self.workers)
        for task in self.tasks:
            if task.state == "waiting":
                self.tell(ArgumentsReady(task.id))
        self.flow()
        for worker_id in self.living():
            self.answer(worker_id, retriable=False, duration_s=0.0)
        self.now += 0.3
        self.tick()
        left = (*tables_of(self.machine).values(), self.to_daemon, +self.demand, self.from_daemon)
        return any(left)


TestOwning = Owning.TestCase
TestOwning.settings = settings(stateful_step_count=60)
