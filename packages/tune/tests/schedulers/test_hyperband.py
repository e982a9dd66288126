"""HyperBand's brackets are those of its paper, and halve as successive halving does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.exceptions import OptionError
from weft.tune.schedulers import HyperBandForBOHB, HyperBandScheduler
from weft.tune.schedulers.hyperband import bracket_table
from weft.tune.schedulers.orders import Resume, Stop
from weft.tune.testing.simulation import Simulation

OBJECTIVE = {"metric": "score", "mode": "max"}


def level(config: Any, t: int | None) -> Any:
    """Report the configuration's level, for ever."""
    return (t or 0) + 1, {"score": config["level"]}


def levels(n: int) -> list[dict[str, int]]:
    """Return levels 0 to n - 1 in some order."""
    return [{"level": (k * 29) % n} for k in range(n)]


def test_brackets_are_table_1_of_the_paper() -> None:
    assert bracket_table(81, 3) == [
        [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        [(27, 3), (9, 9), (3, 27), (1, 81)],
        [(9, 9), (3, 27), (1, 81)],
        [(6, 27), (2, 81)],
        [(5, 81)],
    ]


@given(st.floats(1, 1000), st.floats(1.1, 10))
def test_each_bracket_ends_at_the_whole_budget_with_one_trial_at_least(
    R: float,  # noqa: N803 - the paper's
    eta: float,
) -> None:
    for rungs in bracket_table(R, eta):
        assert rungs[-1][1] == R
        assert rungs[0][1] >= 1
        assert min(n for n, _ in rungs) >= 1
        assert sorted(rungs, key=lambda rung: -rung[0]) == rungs


def test_trials_fill_the_brackets_in_order_and_each_halves_as_the_table_says() -> None:
    scheduler = HyperBandScheduler(**OBJECTIVE)
    done = Simulation(scheduler, levels(128), level, slots=7).run()
    trials = list(done.trials.values())
    first = 0
    for rungs in bracket_table(81, 3):
        bracket = trials[first : first + rungs[0][0]]
        first += len(bracket)
        for n, resource in rungs:
            assert sum(trial.time >= resource for trial in bracket) == n
        # Levels do not change, so the best of the bracket are those that came farthest.
        best = sorted(bracket, key=lambda trial: -trial.config["level"])
        assert [trial.time for trial in best] == sorted(
            (trial.time for trial in bracket), reverse=True
        )
    assert first == 128
    assert scheduler.state() == {"num_brackets": 5, "num_stopped": 128 - 1 - 1 - 1 - 2 - 5}


def test_after_the_last_bracket_comes_the_first_again() -> None:
    scheduler = HyperBandScheduler(**OBJECTIVE, max_t=3)  # brackets of 3 and of 2
    done = Simulation(scheduler, levels(8), level, slots=8).run()
    assert sorted(trial.time for trial in list(done.trials.values())[5:]) == [1, 1, 3]
    assert scheduler.state()["num_brackets"] == 3


def test_paused_trials_take_no_slot_while_their_bracket_fills() -> None:
    scheduler = HyperBandScheduler(**OBJECTIVE, max_t=9)
    done = Simulation(scheduler, levels(9), level, slots=1).run()
    assert sorted(trial.time for trial in done.trials.values()) == [1] * 6 + [3, 3, 9]


def test_unfilled_bracket_goes_on_when_nothing_else_can() -> None:
    scheduler = HyperBandScheduler(**OBJECTIVE, max_t=9)
    done = Simulation(scheduler, levels(6), level, slots=3).run()
    assert sorted(trial.time for trial in done.trials.values()) == [1, 1, 1, 1, 3, 9]
    assert any(call.method == "on_idle" for call in done.calls)


def test_searcher_that_waits_for_results_gets_them() -> None:
    # Only four may live at once: no bracket of nine would ever be full.
    scheduler = HyperBandForBOHB(**OBJECTIVE, max_t=9)
    done = Simulation(scheduler, levels(20), level, slots=4, max_live=4).run()
    assert len(done.trials) == 20
    assert max(trial.time for trial in done.trials.values()) == 9


@pytest.mark.parametrize("how", ["on_trial_complete", "on_trial_error"])
def test_bracket_that_waits_for_one_trial_goes_on_when_that_ends(how: str) -> None:
    scheduler = HyperBandScheduler(**OBJECTIVE, max_t=3)
    simulation = Simulation(scheduler, levels(3), level, slots=3)
    simulation._fill()
    a, b, c = simulation.trials.values()
    result = {"training_iteration": 1, "score": 1.0}
    experiment = simulation.view()
    views = [experiment.trials[trial.trial_id] for trial in (a, b, c)]
    assert scheduler.on_trial_result(experiment, views[0], result) == "PAUSE"
    assert scheduler.on_trial_result(experiment, views[1], {**result, "score": 2.0}) == "PAUSE"
    rest = ({},) if how == "on_trial_complete" else ()
    assert getattr(scheduler, how)(experiment, views[2], *rest) == [
        Stop(a.trial_id),
        Resume(b.trial_id),
    ]


def test_last_to_come_goes_on_without_a_resume_if_it_is_good() -> None:
    scheduler = HyperBandScheduler(**OBJECTIVE, max_t=3)
    simulation = Simulation(scheduler, levels(3), level, slots=3)
    simulation._fill()
    experiment = simulation.view()
    views = list(experiment.trials.values())
    for score, trial in enumerate(views[:2]):
        scheduler.on_trial_result(experiment, trial, {"training_iteration": 1, "score": score})
    answer = scheduler.on_trial_result(experiment, views[2], {"training_iteration": 1, "score": 9})
    assert answer == [Stop("trial-1"), Stop("trial-0")]


def test_trials_go_on_after_their_budget_if_last_trials_are_not_stopped() -> None:
    def ten_steps(config: Any, t: int | None) -> Any:
        return level(config, t) if (t or 0) < 10 else None

    scheduler = HyperBandScheduler(**OBJECTIVE, max_t=3, stop_last_trials=False)
    done = Simulation(scheduler, levels(5), ten_steps, slots=2).run()
    assert sorted(trial.time for trial in done.trials.values()) == [1, 1, 10, 10, 10]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_t": 0.5}, "max_t of HyperBandScheduler is a number, 1 or more: 0.5"),
        ({"reduction_factor": 1}, "reduction_factor of HyperBandScheduler .* above 1: 1"),
    ],
)
def test_bad_argument_is_refused_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        HyperBandScheduler(**OBJECTIVE, **arguments)


def test_state_is_said_in_words() -> None:
    scheduler = HyperBandScheduler(**OBJECTIVE, max_t=3)
    assert scheduler.debug_string() == "HyperBandScheduler: 0 stopped early; brackets: none"
    Simulation(scheduler, levels(2), level)._fill()
    assert "s=1 has 2 before 1" in scheduler.debug_string()
