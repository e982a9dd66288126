from __future__ import annotations

import math
from random import Random
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from weft.lowlevel import Resources
from weft.tune._checkpoints import Keeping
from weft.tune._records import (
    Abandoned,
    Advance,
    AskSearcher,
    Begin,
    Closed,
    ConfigSuggested,
    DiscardCheckpoint,
    Effect,
    Event,
    Failed,
    Halt,
    Interrupted,
    JournalEntry,
    Left,
    Note,
    NothingEver,
    NothingNow,
    Paused,
    Record,
    Release,
    Reported,
    Reset,
    Resumed,
    Revived,
    Saved,
    SaveTrial,
    Spent,
    Stopped,
    Store,
    TellPause,
    TellSearcher,
    TrialEnded,
)
from weft.tune._trial_runs import Limits, Reservation
from weft.tune._trials import Trials
from weft.tune._values import encode
from weft.tune.execution.placement_groups import PlacementGroupFactory
from weft.tune.schedulers import TrialScheduler
from weft.tune.schedulers.orders import Order, Pause, Restart, Resume, Save, Stop, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from weft.tune.views import ExperimentView, TrialView

ONE = Reservation.of([{"CPU": 1}])


class Ordered(TrialScheduler):
    """Orders what the test says, at the next call; notes the calls."""

    def __init__(self) -> None:
        self.at_result: list[Any] = []
        self.at_end: list[Order] = []
        self.at_idle: list[Order] = []
        self.calls: list[tuple[str, str]] = []

    def on_trial_add(self, tune_controller: ExperimentView, trial: TrialView) -> Sequence[Order]:
        self.calls.append(("add", trial.trial_id))
        return ()

    def on_trial_result(
        self, tune_controller: ExperimentView, trial: TrialView, result: Mapping[str, Any]
    ) -> Any:
        assert trial.trial_id in tune_controller.trials
        self.calls.append(("result", trial.trial_id))
        return self.at_result.pop(0) if self.at_result else "CONTINUE"

    def on_trial_complete(
        self, tune_controller: ExperimentView, trial: TrialView, result: Mapping[str, Any]
    ) -> Sequence[Order]:
        assert trial.trial_id not in tune_controller.trials
        self.calls.append(("complete", trial.trial_id))
        orders, self.at_end = self.at_end, []
        return orders

    def on_trial_error(self, tune_controller: ExperimentView, trial: TrialView) -> Sequence[Order]:
        self.calls.append(("error", trial.trial_id))
        orders, self.at_end = self.at_end, []
        return orders

    def on_idle(self, tune_controller: ExperimentView) -> Sequence[Order]:
        self.calls.append(("idle", ""))
        orders, self.at_idle = self.at_idle, []
        return orders


def result(**metrics: Any) -> msgspec.Raw:
    return msgspec.Raw(encode(metrics))


class Stage:
    """Trials that are checked after every event, and what was written of them."""

    def __init__(
        self,
        cpus: int = 2,
        criterion: Callable[[str, Mapping[str, Any]], bool] | None = None,
        **limits: Any,
    ) -> None:
        self.scheduler = Ordered()
        self.limits = Limits(**limits)
        self.cpus = cpus
        self.criterion = criterion
        self.trials = self._fresh()
        self.journal: list[JournalEntry] = []
        self.told: list[tuple[str, str | None]] = []
        self.resting: set[str] = set()
        """The trials that the searcher knows to be paused."""
        self._see(self.trials.begin())

    def _fresh(self) -> Trials:
        total = Resources({"CPU": self.cpus})
        return Trials(self.scheduler, self.criterion, total, default=ONE, limits=self.limits)

    def _see(self, effects: list[Effect]) -> list[Effect]:
        self.trials.check()
        assert not any(isinstance(effect, Record) for effect in effects[1:])
        for effect in effects:
            if isinstance(effect, Record):
                # What is written can be read.
                text = msgspec.json.encode(effect.entry)
                self.journal.append(msgspec.json.decode(text, type=JournalEntry))
            elif isinstance(effect, TellSearcher | TellPause):
                self._hear(effect)
        hidden = Record | TellSearcher | TellPause | Note
        return [effect for effect in effects if not isinstance(effect, hidden)]

    def _hear(self, effect: TellSearcher | TellPause) -> None:
        """Be the searcher."""
        if isinstance(effect, TellSearcher):
            self.told.append((effect.trial.trial_id, effect.outcome))
            if effect.outcome is not None:
                self.resting.discard(effect.trial.trial_id)
        elif effect.is_paused:
            assert effect.trial_id not in self.resting
            self.resting.add(effect.trial_id)
        else:
            self.resting.remove(effect.trial_id)

    def tell(self, event: Event) -> list[Effect]:
        return self._see(self.trials.handle(event))

    def suggest(self, trial_id: str, **resources: float) -> list[Effect]:
        return self.tell(ConfigSuggested(trial_id, result(x=1), [resources] if resources else []))

    def report(self, trial_id: str, value: float = 0.0, **more: Any) -> list[Effect]:
        iteration = self.trials.run_of[trial_id].iterations + 1
        return self.tell(
            Reported(trial_id, result(loss=value, training_iteration=iteration), **more)
        )

    def status(self, trial_id: str) -> str:
        return self.trials.run_of[trial_id].status

    def killed(self) -> list[Effect]:
        """The driver is killed, and another continues."""
        self.scheduler = Ordered()
        self.trials = self._fresh()
        self.told, self.resting = [], set()
        for entry in self.journal:
            for effect in self.trials.replay(entry):
                if not isinstance(effect, DiscardCheckpoint):
                    self._hear(effect)
        return self._see(self.trials.begin())


def begun(effects: list[Effect]) -> list[str]:
    return [effect.trial_id for effect in effects if isinstance(effect, Begin)]


@pytest.fixture
def two() -> Stage:
    """Two trials that run; there is no third."""
    stage = Stage(max_trials=2)
    assert begun(stage.suggest("a")) == ["a"]
    assert begun(stage.suggest("b")) == ["b"]
    return stage


def test_configurations_are_asked_for_while_there_is_room() -> None:
    stage = Stage(cpus=2)
    assert stage.suggest("a") == [
        Begin("a", encode({"x": 1}), ONE, "", 0, 0.0),
        AskSearcher(),
    ]
    assert begun(stage.suggest("b")) == ["b"]
    assert stage.report("a") == [Advance("a")]
    assert stage.tell(TrialEnded("a")) == [AskSearcher()]


def test_concurrency_can_be_less_than_there_is_room_for() -> None:
    stage = Stage(cpus=8, max_concurrent=1)
    assert AskSearcher() not in stage.suggest("a")
    assert stage.tell(TrialEnded("a")) == [AskSearcher()]


def test_trial_that_needs_more_waits_and_nothing_is_asked_meanwhile() -> None:
    stage = Stage(cpus=2)
    stage.suggest("a")
    assert stage.suggest("b", CPU=2) == []
    assert begun(stage.tell(TrialEnded("a"))) == ["b"]


def test_searcher_without_a_configuration_is_asked_after_the_next_result() -> None:
    stage = Stage(cpus=2)
    stage.suggest("a")
    assert stage.tell(NothingNow()) == []
    assert stage.report("a") == [Advance("a"), AskSearcher()]


def test_searcher_that_has_finished_is_not_asked_again() -> None:
    stage = Stage(cpus=2)
    stage.suggest("a")
    stage.tell(NothingEver())
    assert stage.tell(TrialEnded("a")) == []
    assert stage.trials.is_over()


def test_searcher_that_waits_for_nothing_is_known() -> None:
    stage = Stage()
    stage.tell(NothingNow())
    assert stage.trials.is_stuck()


def test_result_of_a_trial_that_is_done_ends_it(two: Stage) -> None:
    assert two.report("a", done=True) == []
    assert two.status("a") == "TERMINATED"
    assert two.told == [("a", None), ("a", "completed")]
    assert two.scheduler.calls[-1] == ("complete", "a")


def test_criterion_ends_a_trial_and_the_scheduler_is_not_asked() -> None:
    stage = Stage(criterion=lambda trial_id, result: result["loss"] > 1)
    stage.suggest("a")
    assert stage.report("a", 1) == [Advance("a")]
    assert stage.report("a", 2) == [Release("a", save=False)]
    assert stage.scheduler.calls == [("add", "a"), ("result", "a"), ("complete", "a")]
    assert stage.told[-1] == ("a", "completed")


def test_stop_ends_a_trial_at_its_report(two: Stage) -> None:
    two.scheduler.at_result = ["STOP"]
    assert two.report("a") == [Release("a", save=False)]
    assert two.told[-1] == ("a", "stopped")
    assert two.journal[-1].decided == [Stopped("a")]
    assert two.tell(Left("a")) == []


def test_stop_ends_a_trial_that_is_in_the_middle_of_a_step(two: Stage) -> None:
    two.scheduler.at_result = [[Stop("b")]]
    assert two.report("a") == [Release("b", save=False), Advance("a")]
    assert two.status("b") == "TERMINATED"


def test_trial_is_saved_at_its_end_if_that_is_wanted() -> None:
    stage = Stage(checkpoint_at_end=True)
    stage.suggest("a")
    stage.scheduler.at_result = ["STOP"]
    assert stage.report("a") == [Release("a", save=True)]
    stage.tell(Left("a", "last"))
    assert [kept.name for kept in stage.trials.run_of["a"].checkpoints] == ["last"]


def test_paused_trial_is_saved_gives_its_room_up_and_returns_before_fresh_ones() -> None:
    stage = Stage(cpus=1)
    stage.suggest("a")
    stage.scheduler.at_result = ["PAUSE", [Resume("a")]]
    assert stage.report("a") == [Release("a", save=True)]
    assert stage.tell(Left("a", "c0")) == [AskSearcher()]
    stage.suggest("b")
    assert stage.report("b") == [Advance("b")]
    assert stage.status("a") == "PENDING"
    assert stage.tell(TrialEnded("b")) == [
        Begin("a", encode({"x": 1}), ONE, "a/c0", 1, 0.0),
    ]


def test_pause_of_a_trial_in_the_middle_of_a_step_waits_for_its_report(two: Stage) -> None:
    two.scheduler.at_result = [[Pause("b")]]
    assert two.report("a") == [Advance("a")]
    assert two.journal[-1].decided == []
    assert two.report("b") == [Release("b", save=True)]
    assert two.journal[-1].decided == [Paused("b")]
    two.scheduler.at_result = [[Resume("b")]]
    two.report("a")
    assert begun(two.tell(Left("b"))) == ["b"]
    assert two.report("b") == [Advance("b")]


def test_pausing_a_paused_trial_or_resuming_a_running_one_does_nothing(two: Stage) -> None:
    two.scheduler.at_result = [[Pause("a"), Pause("a")], [Resume("b")]]
    two.report("a")
    assert two.journal[-1].decided == [Paused("a")]
    assert two.report("b") == [Advance("b")]


def test_searcher_hears_that_a_trial_rests_and_is_asked_again() -> None:
    stage = Stage(cpus=1)
    stage.suggest("a")
    stage.tell(NothingNow())
    stage.scheduler.at_result = ["PAUSE"]
    stage.report("a")
    assert stage.resting == {"a"}
    assert stage.tell(Left("a")) == [AskSearcher()]
    stage.tell(NothingNow())
    assert stage.status("a") == "RUNNING", "nothing else could"
    assert stage.resting == set()


def test_paused_trial_that_is_stopped_has_ended_for_the_searcher(two: Stage) -> None:
    two.scheduler.at_result = ["PAUSE", [Stop("a")]]
    two.report("a")
    two.report("b")
    assert ("a", "stopped") in two.told
    assert two.resting == set()


def test_scheduler_is_asked_when_only_paused_trials_are_left(two: Stage) -> None:
    two.scheduler.at_result = ["PAUSE", "PAUSE"]
    two.scheduler.at_idle = [Stop("a"), Resume("b")]
    two.report("a")
    two.report("b")
    two.tell(Left("a"))
    assert begun(two.tell(Left("b"))) == ["b"]
    assert two.status("a") == "TERMINATED"


def test_oldest_paused_trial_goes_on_if_the_scheduler_has_no_answer(two: Stage) -> None:
    two.scheduler.at_result = ["PAUSE", "PAUSE"]
    two.report("b")
    two.report("a")
    two.tell(Left("a"))
    assert begun(two.tell(Left("b"))) == ["b"]
    assert Resumed("b") in two.journal[-1].decided


def test_restart_from_another_trial_begins_from_its_last_checkpoint(two: Stage) -> None:
    two.report("b", checkpoint="b0")
    two.scheduler.at_result = [[Restart("a", "b", {"x": 2})]]
    assert two.report("a") == [Release("a", save=False)]
    assert two.tell(Left("a")) == [Begin("a", encode({"x": 2}), ONE, "b/b0", 1, 0.0)]


def test_restart_of_a_trial_in_the_middle_of_a_step_ends_that(two: Stage) -> None:
    two.scheduler.at_result = [[Restart("b", "a", {"x": 2})]]
    assert two.report("a", checkpoint="a0") == [Release("b", save=False), Advance("a")]
    assert two.tell(Left("b")) == [Begin("b", encode({"x": 2}), ONE, "a/a0", 1, 0.0)]


def test_restart_from_a_trial_without_a_checkpoint_begins_anew(two: Stage) -> None:
    two.report("a", checkpoint="a0")
    two.scheduler.at_result = [[Restart("a", "b", {"x": 2})]]
    two.report("a")
    assert two.tell(Left("a")) == [Begin("a", encode({"x": 2}), ONE, "", 0, 0.0)]


def test_restart_from_itself_saves_first_and_may_take_other_resources() -> None:
    stage = Stage(cpus=4, max_trials=1)
    stage.suggest("a")
    stage.scheduler.at_result = [[Restart("a", "a", {"x": 1}, {"CPU": 4})]]
    assert stage.report("a") == [Release("a", save=True)]
    assert stage.tell(Left("a", "a0")) == [
        Begin("a", encode({"x": 1}), Reservation.of([{"CPU": 4}]), "a/a0", 1, 0.0)
    ]


BUNDLES = [{"CPU": 1.0}, {"CPU": 2.0}]


def test_all_bundles_of_a_trial_count_while_it_is_on_a_runner() -> None:
    stage = Stage(cpus=4)
    effects = stage.tell(ConfigSuggested("a", result(x=1), BUNDLES))
    assert effects == [
        Begin("a", encode({"x": 1}), Reservation.of(BUNDLES), "", 0, 0.0), AskSearcher(),
    ]  # fmt: skip
    assert stage.tell(ConfigSuggested("b", result(x=1), BUNDLES)) == []
    view = stage.trials.view(stage.trials.run_of["a"])
    assert (view.resources, view.bundles) == ({"CPU": 3.0}, BUNDLES)
    assert begun(stage.tell(TrialEnded("a"))) == ["b"]


@pytest.mark.parametrize(
    ("ordered", "come"),
    [
        ({"CPU": 4}, [{"CPU": 1}, {"CPU": 3}]),
        ({"CPU": 1.5}, [{"CPU": 1}, {"CPU": 0.5}]),
        ({"CPU": 0.5}, [{"CPU": 0.5}]),
        (PlacementGroupFactory([{"CPU": 2}, {"CPU": 2}]), [{"CPU": 2}, {"CPU": 2}]),
        (None, BUNDLES),
    ],
)
def test_restart_with_other_amounts_leaves_the_trials_own_bundle(ordered: Any, come: Any) -> None:
    stage = Stage(cpus=4)
    stage.tell(ConfigSuggested("a", result(x=1), BUNDLES))
    stage.tell(NothingEver())
    stage.scheduler.at_result = [[Restart("a", "a", {"x": 1}, ordered)]]
    stage.report("a")
    for again in (False, True):
        if again:
            stage.killed()
        else:
            stage.tell(Left("a"))
        assert stage.trials.run_of["a"].reserved == Reservation.of(come)


def test_restart_from_itself_in_the_middle_of_a_step_waits_for_its_report(two: Stage) -> None:
    two.scheduler.at_result = [[Restart("b", "b", {"x": 5})]]
    assert two.report("a") == [Advance("a")]
    assert two.report("b") == [Release("b", save=True)]


def test_checkpoint_that_a_restarted_trial_began_from_is_kept_until_it_has_its_own() -> None:
    stage = Stage(max_trials=2, keeping=Keeping(1))
    stage.suggest("a")
    stage.suggest("b")
    stage.report("b", checkpoint="b0")
    stage.scheduler.at_result = [[Restart("a", "b", {"x": 2})]]
    stage.report("a")
    stage.tell(Left("a"))
    assert stage.report("b", checkpoint="b1") == [Advance("b")]
    assert stage.report("a", checkpoint="a0") == [DiscardCheckpoint("b", "b0"), Advance("a")]


def test_checkpoint_that_an_ended_trial_had_begun_from_is_discarded() -> None:
    stage = Stage(max_trials=2, keeping=Keeping(1))
    stage.suggest("a")
    stage.suggest("b")
    stage.report("b", checkpoint="b0")
    stage.scheduler.at_result = [[Restart("a", "b", {"x": 2})]]
    stage.report("a")
    stage.tell(Left("a"))
    stage.report("b", checkpoint="b1")
    assert DiscardCheckpoint("b", "b0") in stage.tell(TrialEnded("a"))


def test_save_has_a_trial_saved_at_its_next_report(two: Stage) -> None:
    two.scheduler.at_result = [[Save("a"), Save("b")]]
    assert two.report("a") == [SaveTrial("a")]
    assert two.tell(Saved("a", "a0")) == [Advance("a")]
    assert two.report("b") == [SaveTrial("b")]
    assert two.tell(Saved("b", "")) == [Advance("b")]
    assert not two.trials.run_of["b"].checkpoints


def test_file_of_the_scheduler_is_stored(two: Stage) -> None:
    two.scheduler.at_result = [[Write("policy.txt", "x")]]
    assert two.report("a") == [Store("policy.txt", "x"), Advance("a")]


def test_order_for_a_trial_that_has_ended_is_passed_over(two: Stage) -> None:
    two.tell(TrialEnded("b"))
    two.scheduler.at_result = [[Resume("b")]]
    assert two.report("a") == [Advance("a")]


def test_order_for_a_trial_that_never_was_is_an_error(two: Stage) -> None:
    two.scheduler.at_result = [[Stop("zz")]]
    with pytest.raises(ValueError, match="no such trial"):
        two.trials.handle(Reported("a", result(loss=1)))


def test_order_for_more_than_there_is_is_an_error(two: Stage) -> None:
    two.scheduler.at_result = [[Restart("a", "a", {"x": 1}, {"CPU": 1, "GPU": 2})]]
    with pytest.raises(ValueError, match=r"Restart.*: \{GPU: 2\} more is needed"):
        two.report("a")


def test_unknown_verdict_is_an_error(two: Stage) -> None:
    two.scheduler.at_result = ["NOOP"]
    with pytest.raises(ValueError, match="give CONTINUE, PAUSE, STOP"):
        two.trials.handle(Reported("a", result(loss=1)))


def test_orders_at_the_end_of_a_trial_are_done_too(two: Stage) -> None:
    two.scheduler.at_end = [Stop("b")]
    assert two.tell(TrialEnded("a")) == [Release("b", save=False)]
    assert two.told == [("a", "completed"), ("b", "stopped")]


def test_trial_that_fails_is_tried_again_from_its_last_checkpoint() -> None:
    stage = Stage(max_trials=1, max_failures=1)
    stage.suggest("a")
    stage.report("a", checkpoint="a0")
    assert stage.tell(Failed("a", "no")) == [Begin("a", encode({"x": 1}), ONE, "a/a0", 1, 0.0)]
    assert stage.told[-1] == ("a", None)
    assert stage.tell(Failed("a", "no")) == []
    assert stage.told[-1] == ("a", "failed")
    assert stage.status("a") == "ERROR"
    assert stage.scheduler.calls[-1] == ("error", "a")


def test_trial_may_fail_any_number_of_times() -> None:
    stage = Stage(max_failures=-1)
    stage.suggest("a")
    for _ in range(10):
        assert begun(stage.tell(Failed("a", "no"))) == ["a"]


def test_failure_halts_the_run_if_that_is_wanted() -> None:
    stage = Stage(fail_fast=True)
    stage.suggest("a")
    assert Halt("a") in stage.tell(Failed("a", "no"))


def test_everything_ends_when_the_experiment_is_closed(two: Stage) -> None:
    assert two.tell(Closed("time")) == [Release("a", save=False), Release("b", save=False)]
    assert two.trials.is_over()
    assert two.killed() == []
    assert two.trials.is_over()


def test_what_is_spent_of_the_time_budget_is_written_and_changes_nothing(two: Stage) -> None:
    assert two.tell(Spent(7.5)) == []
    assert two.journal[-1].event == Spent(7.5)
    two.killed()
    assert begun(two.trials.begin()) == []


def test_interrupted_trials_leave_at_their_next_report_and_nothing_begins(two: Stage) -> None:
    assert two.trials.held() == 2
    assert two.tell(Interrupted()) == []
    assert two.report("a") == [Release("a", save=True)]
    assert two.tell(Left("a", "a0")) == []
    assert two.tell(TrialEnded("b")) == []
    assert two.trials.held() == 0
    assert begun(two.killed()) == ["a"]


def test_failed_trial_is_revived_and_the_searcher_hears_nothing_of_it() -> None:
    stage = Stage(max_trials=2)
    stage.suggest("a")
    stage.suggest("b")
    stage.report("a", checkpoint="a0")
    stage.tell(Failed("a", "no"))
    stage.tell(Failed("b", "no"))
    told = len(stage.told)
    assert stage.tell(Revived("a", fresh=False)) == [
        Begin("a", encode({"x": 1}), ONE, "a/a0", 1, 0.0)
    ]
    assert stage.tell(Revived("b", fresh=True)) == [Begin("b", encode({"x": 1}), ONE, "", 0, 0.0)]
    stage.scheduler.at_result = ["PAUSE"]
    stage.report("b")
    stage.tell(Left("b"))
    assert stage.status("b") == "PAUSED"
    assert stage.resting == set()
    assert begun(stage.tell(TrialEnded("a"))) == ["b"]
    assert len(stage.told) == told


def test_trials_of_the_past_are_reset_or_abandoned_before_anything_begins(two: Stage) -> None:
    two.report("a", checkpoint="a0")
    two.trials = two._fresh()
    for entry in two.journal:
        two.trials.replay(entry)
    assert two.tell(Reset("a")) == []
    assert two.tell(Abandoned("b")) == []
    assert two._see(two.trials.begin()) == [Begin("a", encode({"x": 1}), ONE, "", 0, 0.0)]
    assert two.status("b") == "TERMINATED"


@pytest.mark.parametrize(
    "event",
    [
        ConfigSuggested("a", result(x=1)),
        TrialEnded("c"),
        Reported("c", result(x=1)),
        Saved("c", "x"),
        Failed("c", "no"),
        Left("c"),
        Revived("a", fresh=True),
        Reset("c"),
        Abandoned("c"),
    ],
)
def test_impossible_event_is_refused_and_changes_nothing(two: Stage, event: Event) -> None:
    stage = Stage(cpus=3, max_trials=3)
    for trial_id in "abc":
        stage.suggest(trial_id)
    stage.tell(TrialEnded("c"))
    before = msgspec.json.encode(stage.journal)
    with pytest.raises(ValueError, match="trial"):
        stage.tell(event)
    stage.trials.check()
    assert msgspec.json.encode(stage.journal) == before


def test_views_show_what_a_trial_is_and_stay(two: Stage) -> None:
    two.report("a", 3, checkpoint="a0")
    view = two.trials.view(two.trials.run_of["a"])
    assert view.config == {"x": 1}
    assert view.result["loss"] == 3
    assert (view.iterations, view.has_checkpoint, view.resources) == (1, True, {"CPU": 1.0})
    two.report("a", 4)
    assert view.result["loss"] == 3


def test_what_is_lacking_for_a_request_is_said() -> None:
    trials = Stage(cpus=2).trials
    assert trials.lacking(Resources({"CPU": 1})) == Resources()
    lacking = trials.lacking(Resources({"CPU": 3, "GPU": 1}))
    assert lacking == Resources({"CPU": 1, "GPU": 1})


# ------------------------------------------------------------------ stories


class Story:
    """A run in which everything that can happen does, as chance has it."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.stage = Stage(
            cpus=random.randint(1, 4),
            max_trials=random.randint(1, 6),
            max_concurrent=random.choice([None, 1, 2, 3]),
            max_failures=random.choice([0, 1, -1]),
            checkpoint_at_end=random.random() < 0.5,
            keeping=Keeping(random.choice([None, 1, 1, 2]), random.choice([None, "loss"])),
        )
        self.last: dict[str, str] = {}
        """Name of the newest checkpoint of a trial."""
        self.calls: dict[str, str] = {}
        """What the runner of a trial is doing."""
        self.files: set[tuple[str, str]] = set()
        self.made = 0

    def do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case AskSearcher():
                    self.ask()
                case Begin(trial_id, _, _, checkpoint):
                    if checkpoint:
                        source, _, name = checkpoint.partition("/")
                        assert (source, name) in self.files
                        assert source != trial_id or name == self.last[trial_id]
                    assert trial_id not in self.calls
                    self.calls[trial_id] = "step"
                case Advance(trial_id):
                    self.calls[trial_id] = "step"
                case SaveTrial(trial_id):
                    self.calls[trial_id] = "snapshot"
                case Release(trial_id, save):
                    self.calls[trial_id] = "save" if save else "leave"
                case DiscardCheckpoint(trial_id, name):
                    self.files.remove((trial_id, name))
                case _:
                    pass

    def ask(self) -> None:
        answer = self.random.choice(["trial"] * 8 + ["now", "ever"])
        if answer == "trial" or (answer == "now" and not self.calls):
            trial_id = f"t{len(self.stage.trials.run_of)}"
            cpus = self.random.randint(1, self.stage.cpus)
            event: Event = ConfigSuggested(
                trial_id, result(x=0), [] if cpus == 1 else [{"CPU": cpus}]
            )
        else:
            event = NothingNow() if answer == "now" else NothingEver()
        self.do(self.stage.tell(event))

    def orders(self) -> Any:
        word = self.random.choice(["CONTINUE", "CONTINUE", "PAUSE", "orders", "orders", "STOP"])
        return self.some_orders() if word == "orders" else word

    def some_orders(self) -> list[Order]:
        known = list(self.stage.trials.run_of)
        return [self.order(self.random.choice(known)) for _ in range(self.random.randint(0, 3))]

    def order(self, trial_id: str) -> Order:
        source = self.random.choice(list(self.stage.trials.run_of))
        return self.random.choice(
            [
                Pause(trial_id),
                Resume(trial_id),
                Save(trial_id),
                Restart(trial_id, source, {"x": self.random.random()}),
                Restart(trial_id, source, {"x": self.random.random()}, {"CPU": 1}),
                Restart(trial_id, source, {"x": 0.0}, PlacementGroupFactory([{}, {"CPU": 1}])),
                *([Stop(trial_id)] if self.random.random() < 0.2 else []),
            ]
        )

    def checkpoint(self, trial_id: str) -> str:
        if self.random.random() < 0.3:
            return ""
        self.made += 1
        name = f"c{self.made}"
        self.files.add((trial_id, name))
        self.last[trial_id] = name
        return name

    def step(self) -> None:
        """One of the runners answers."""
        random, stage = self.random, self.stage
        trial_id = random.choice(sorted(self.calls))
        doing = self.calls.pop(trial_id)
        stage.scheduler.at_result = [self.orders()]
        stage.scheduler.at_end = self.some_orders()
        stage.scheduler.at_idle = self.some_orders()
        if doing in {"save", "leave"}:
            saved = self.checkpoint(trial_id) if doing == "save" else ""
            self.do(stage.tell(Left(trial_id, saved)))
        elif doing == "snapshot":
            self.do(stage.tell(Saved(trial_id, self.checkpoint(trial_id))))
        else:
            self.do(stage.tell(self.end_of_step(trial_id)))

    def end_of_step(self, trial_id: str) -> Event:
        what = self.random.choice(["report"] * 9 + ["done", "end", "fail"])
        if what == "fail":
            return Failed(trial_id, "no")
        if what == "end":
            return TrialEnded(trial_id)
        value = result(loss=self.random.randint(0, 9))
        return Reported(trial_id, value, self.checkpoint(trial_id), done=what == "done")

    def kill(self) -> None:
        """The driver is killed: what was not written is forgotten."""
        self.calls = {}
        self.do(self.stage.killed())

    def known(self) -> set[tuple[str, str]]:
        """The checkpoints that the machine knows of."""
        runs = self.stage.trials.run_of.values()
        return {(run.id, kept.name) for run in runs for kept in run.checkpoints}


@given(st.integers(0, 2**32))
def test_every_story_ends_and_is_the_same_when_it_is_told_again(seed: int) -> None:
    for part in range(20):
        tell_story(Random(f"{seed}/{part}"))


def tell_story(random: Random) -> None:
    story = Story(random)
    story.do([AskSearcher()])
    for _ in range(80):
        if random.random() < 0.05:
            story.kill()
        if not story.calls:
            break  # all have ended, or the searcher has no more
        story.step()
        assert story.files == story.known()
        paused = {run.id for run in story.stage.trials.live() if run.status == "PAUSED"}
        assert story.stage.resting == paused
    assert story.calls or not story.stage.trials.live()
    live = story.stage.trials
    again = story.stage._fresh()
    for entry in story.stage.journal:
        again.replay(entry)
    for trial_id, run in live.run_of.items():
        other = again.run_of[trial_id]
        assert (other.config, other.result, other.failures) == (
            run.config, run.result, run.failures
        )  # fmt: skip
        assert other.checkpoints == run.checkpoints
        assert other.has_ended == run.has_ended
        assert other.origin == run.origin
        assert (other.status == "PAUSED") == (run.status == "PAUSED")
    outcomes: dict[str, int] = {}
    for trial_id, outcome in story.stage.told:
        assert trial_id not in outcomes, "told after its end"
        if outcome is not None:
            outcomes[trial_id] = 1
    ended = {trial_id for trial_id, run in live.run_of.items() if run.has_ended}
    assert set(outcomes) == ended
    # A time budget ends whatever is left.
    story.do(story.stage.tell(Closed("time")))
    assert live.is_over()


def test_checkpoints_are_worth_what_their_metric_says() -> None:
    keeping = Keeping(2, "eval/acc", "min")
    assert keeping.score({"eval": {"acc": 0.5}}) == -0.5
    assert keeping.score({"eval/acc": 3}) == -3
    assert Keeping(2, "acc").score({"acc": 2}) == 2
    for worthless in ({}, {"acc": "high"}, {"acc": float("nan")}, {"acc": True}):
        assert Keeping(2, "acc").score(worthless) == -math.inf
