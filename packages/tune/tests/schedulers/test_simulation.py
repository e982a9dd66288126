"""The simulation tells schedulers that do not keep to what is expected of them."""

from __future__ import annotations

from typing import Any

import pytest

from weft.tune.schedulers import FIFOScheduler, TrialScheduler
from weft.tune.schedulers.orders import Pause, Restart, Resume, Save, Stop, Write
from weft.tune.testing.simulation import Simulation, SimulationError, answers_again


class Scripted(TrialScheduler):
    """Answers its results with what it was given, one after the other."""

    def __init__(self, *answers: Any, idle: Any = ()) -> None:
        self.answers = list(answers)
        self.idle = idle

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Any) -> Any:
        return self.answers.pop(0) if self.answers else self.CONTINUE

    def on_idle(self, tune_controller: Any) -> Any:
        return self.idle


def ten(config: Any, t: int | None) -> Any:
    t = (t or 0) + 1
    return (t, {"t": t}) if t <= 10 else None


def simulate(scheduler: TrialScheduler, n: int = 1, **arguments: Any) -> Simulation:
    return Simulation(scheduler, [{"k": k} for k in range(n)], ten, **arguments).run()


def test_trials_that_are_left_alone_run_to_their_end() -> None:
    done = simulate(FIFOScheduler(), 5, slots=2)
    assert [trial.outcome for trial in done.trials.values()] == ["completed"] * 5
    assert [trial.result["training_iteration"] for trial in done.trials.values()] == [10] * 5


@pytest.mark.parametrize(
    "answer",
    [
        "GO",
        [Stop("trial-0"), Stop("trial-0")],
        [Stop("trial-7")],
        [Stop("trial-0"), Save("trial-0")],
        [Resume("trial-0")],
        [Pause("trial-0"), Pause("trial-0")],
        [Restart("trial-0", "trial-7", {})],
    ],
)
def test_order_that_cannot_be_is_an_error(answer: Any) -> None:
    with pytest.raises(SimulationError):
        simulate(Scripted(answer))


def test_copy_of_a_trial_that_was_never_saved_is_an_error() -> None:
    with pytest.raises(SimulationError, match="the source has no checkpoint"):
        simulate(Scripted([Restart("trial-0", "trial-1", {})]), 2, seed=1, at_once=True)


def test_more_resources_than_there_are_is_an_error() -> None:
    with pytest.raises(SimulationError, match="more than there is"):
        simulate(Scripted([Restart("trial-0", "trial-0", {}, {"CPU": 9})]))


def test_orders_that_start_nobody_for_ever_are_an_error() -> None:
    with pytest.raises(SimulationError, match="idle for ever"):
        simulate(Scripted("PAUSE", idle=[Write("file", "text")]))


def test_trials_that_never_end_are_an_error() -> None:
    with pytest.raises(SimulationError, match="run for ever"):
        Simulation(FIFOScheduler(), [{}], lambda config, t: (1, {}), max_steps=50).run()


def test_oldest_goes_on_when_nothing_is_ordered() -> None:
    done = simulate(Scripted("PAUSE", "PAUSE"), 2, slots=1)
    assert [trial.time for trial in done.trials.values()] == [10, 10]


def test_paused_trial_goes_on_from_where_it_is_if_it_can_be_saved() -> None:
    assert len(simulate(Scripted("CONTINUE", "PAUSE")).trials["trial-0"].results) == 10
    assert len(simulate(Scripted("CONTINUE", "PAUSE"), saves=False).trials["trial-0"].results) == 12


def test_failed_trial_is_tried_again_from_its_checkpoint_and_then_given_up() -> None:
    done = simulate(Scripted(), 30, failing=0.1, seed=3)
    outcomes = {trial.outcome for trial in done.trials.values()}
    assert outcomes == {"completed", "failed"}
    assert {trial.failures for trial in done.trials.values()} == {0, 1, 2}
    assert any(call.method == "on_trial_error" for call in done.calls)


def test_no_more_live_than_allowed() -> None:
    done = simulate(Scripted(), 9, slots=5, max_live=2)
    assert max(len(call.arguments[0].trials) for call in done.calls) == 2


def test_calls_can_be_made_again() -> None:
    done = simulate(Scripted("CONTINUE", "PAUSE", [Write("file", "text")]), 3)
    assert done.files == {"file": "text"}
    again = answers_again(done.calls, Scripted("CONTINUE", "PAUSE", [Write("file", "text")]))
    assert again == [call.answer for call in done.calls]
    assert answers_again(done.calls, Scripted()) != again
