"""ASHA on a table that was worked by hand, and beside successive halving."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.exceptions import OptionError
from weft.tune.schedulers import ASHAScheduler, AsyncHyperBandScheduler
from weft.tune.testing.simulation import Simulation
from weft.tune.views import ExperimentView, TrialView

NOBODY = ExperimentView({}, {"CPU": 1.0})


def view(trial_id: str) -> TrialView:
    return TrialView(trial_id, {}, "RUNNING", {}, 0, False, {"CPU": 1.0})


def scheduler_of(**arguments: Any) -> ASHAScheduler:
    return ASHAScheduler(**{"metric": "score", "mode": "max", **arguments})


def add(scheduler: ASHAScheduler, *trial_ids: str) -> None:
    for trial_id in trial_ids:
        assert scheduler.on_trial_add(NOBODY, view(trial_id)) == ()


def report(scheduler: ASHAScheduler, trial_id: str, time: float, score: float) -> Any:
    result = {"training_iteration": time, "score": score}
    return scheduler.on_trial_result(NOBODY, view(trial_id), result)


def test_table_of_nine_trials_is_decided_as_by_hand() -> None:
    # eta = 3, r = 1, R = 9: rungs at 1 and 3. Of m scores at a rung, the top max(1, m // 3) go on.
    scheduler = scheduler_of(max_t=9, reduction_factor=3)
    add(scheduler, *"abcdefghi")
    table = [
        # trial, time, score: what is at the rung then
        ("a", 1, 0.30, "CONTINUE"),  # the first
        ("b", 1, 0.20, "STOP"),  # 2nd of 2, top 1
        ("c", 1, 0.50, "CONTINUE"),  # best of 3
        ("d", 1, 0.40, "STOP"),  # 2nd of 4, top 1
        ("a", 2, 0.10, "CONTINUE"),  # between rungs
        ("e", 1, 0.10, "STOP"),
        ("f", 1, 0.45, "CONTINUE"),  # 2nd of 6, top 2
        ("a", 3, 0.35, "CONTINUE"),  # the first at rung 3
        ("c", 3, 0.60, "CONTINUE"),
        ("f", 3, 0.59, "STOP"),  # 2nd of 3, top 1
        ("g", 1, 0.48, "CONTINUE"),  # 2nd of 7, top 2
        ("h", 1, 0.46, "STOP"),  # 3rd of 8, top 2
        ("i", 1, 0.47, "CONTINUE"),  # 3rd of 9, top 3
        ("g", 2, 0.00, "CONTINUE"),
        ("a", 8, 0.00, "CONTINUE"),
        ("a", 9, 0.00, "STOP"),  # R
        ("c", 9, 0.99, "STOP"),  # R, however good
    ]
    assert [report(scheduler, *row[:3]) for row in table] == [row[3] for row in table]
    assert "bracket 0: 9 at 1, 3 at 3" in scheduler.debug_string()


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=60), st.sampled_from([1.5, 2, 3, 4]))
def test_with_one_rung_each_verdict_is_that_of_successive_halving_among_those_that_came(
    scores: list[float], eta: float
) -> None:
    scheduler = scheduler_of(max_t=1 + 1e-9, reduction_factor=eta)
    for m, score in enumerate(scores, 1):
        add(scheduler, str(m))
        # Successive halving sorts all that are there and keeps the best m / eta; equals are kept.
        last_kept = sorted(scores[:m], reverse=True)[max(1, int(m / eta)) - 1]
        goes_on = report(scheduler, str(m), 1, score) == "CONTINUE"
        assert goes_on == (score >= last_kept)


def test_smaller_is_better_with_mode_min() -> None:
    scheduler = scheduler_of(mode="min", reduction_factor=2)
    add(scheduler, *"abc")
    assert [report(scheduler, *row) for row in [("a", 1, 5), ("b", 1, 4), ("c", 1, 6)]] == [
        "CONTINUE",
        "CONTINUE",
        "STOP",
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_has_diverged_is_worse_than_any_number(value: float) -> None:
    scheduler = scheduler_of()
    add(scheduler, "bad", "diverged", "worse")
    assert report(scheduler, "bad", 1, -1e300) == "CONTINUE"
    assert report(scheduler, "diverged", 1, value) == "STOP"


def test_rung_that_time_jumps_over_is_left_out() -> None:
    scheduler = scheduler_of(max_t=100, reduction_factor=3)
    add(scheduler, "a", "b")
    report(scheduler, "a", 10, 1.0)  # enters the rung at 9, and those at 1 and 3 not
    assert "0 at 1, 0 at 3, 1 at 9" in scheduler.debug_string()
    report(scheduler, "a", 12, 1.0)
    assert "0 at 1, 0 at 3, 1 at 9, 0 at 27" in scheduler.debug_string()


def test_trial_that_goes_back_in_time_enters_no_rung_again() -> None:
    scheduler = scheduler_of(max_t=100, reduction_factor=3)
    add(scheduler, "a")
    for time in (1, 2, 3, 1, 2, 3):
        assert report(scheduler, "a", time, 1.0) == "CONTINUE"
    assert "1 at 1, 1 at 3, 0 at 9" in scheduler.debug_string()


def test_grace_period_is_the_first_rung() -> None:
    scheduler = scheduler_of(grace_period=5, reduction_factor=2)
    add(scheduler, "a", "b")
    report(scheduler, "a", 5, 2.0)
    assert report(scheduler, "b", 4, 1.0) == "CONTINUE"
    assert report(scheduler, "b", 5, 1.0) == "STOP"


def test_nothing_ends_at_max_t_if_last_trials_are_not_stopped() -> None:
    scheduler = scheduler_of(max_t=3, stop_last_trials=False)
    add(scheduler, "a")
    assert [report(scheduler, "a", time, 1.0) for time in range(1, 9)] == ["CONTINUE"] * 8


def test_brackets_share_the_trials_so_that_each_costs_the_same() -> None:
    # Rungs 1, 3, 9 and R = 27. n_s (K + 1 - s) eta^s is the same for all s: n as 1 : 4/9 : 2/9.
    scheduler = scheduler_of(max_t=27, reduction_factor=3, brackets=3)
    add(scheduler, *map(str, range(150)))
    sizes = [bracket.size for bracket in scheduler._brackets]
    assert sizes == [90, 40, 20]


def test_trial_of_a_later_bracket_is_spared_the_first_rungs() -> None:
    scheduler = scheduler_of(max_t=27, reduction_factor=3, brackets=3)
    add(scheduler, *map(str, range(150)))
    spared = [
        trial_id
        for trial_id, (bracket, _) in scheduler._place_of.items()
        if bracket is scheduler._brackets[2]
    ]
    for number, trial_id in enumerate(spared):
        assert report(scheduler, trial_id, 8, -number) == "CONTINUE"
    assert [report(scheduler, trial_id, 9, -n) for n, trial_id in enumerate(spared)][:2] == [
        "CONTINUE",
        "STOP",
    ]


def test_ended_trials_leave_nothing_but_their_scores() -> None:
    def step(config: Any, t: int | None) -> Any:
        return (t or 0) + 1, {"score": config["level"]}

    scheduler = scheduler_of(max_t=20, reduction_factor=2)
    configs = [{"level": (7 * k) % 40} for k in range(40)]
    done = Simulation(scheduler, configs, step, slots=5).run()
    steps = sum(len(trial.results) for trial in done.trials.values())
    assert done.trials["trial-17"].time == 20  # its level is 39, the best
    assert steps < 40 * 20 / 2
    assert not scheduler._place_of


def test_failed_trial_leaves_nothing_but_its_scores() -> None:
    scheduler = scheduler_of()
    add(scheduler, "a")
    report(scheduler, "a", 1, 1.0)
    assert scheduler.on_trial_error(NOBODY, view("a")) == ()
    assert not scheduler._place_of


def test_asha_is_its_short_name() -> None:
    assert ASHAScheduler is AsyncHyperBandScheduler


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_t": 0}, "max_t of .* is a number, 1 or more: 0"),
        ({"grace_period": 0}, "grace_period of .* is a number above 0: 0"),
        ({"grace_period": 200}, "max_t of .* is a number, 200 or more: 100"),
        ({"reduction_factor": 1}, "reduction_factor of .* is a number above 1: 1"),
        ({"reduction_factor": "3"}, "reduction_factor of .*: '3'"),
        ({"max_t": math.nan}, "max_t of .*: nan"),
        ({"brackets": 0}, "brackets of .* is an integer, 1 or more: 0"),
        ({"brackets": 6}, r"brackets of .* at most 5, .* rungs \[1, 4, 16, 64\].*: 6"),
        ({"mode": "largest"}, 'mode of AsyncHyperBandScheduler is "min" or "max": \'largest\''),
        ({"metric": ""}, "metric of .* is the name of a metric: ''"),
        ({"metric": ["a", "b"]}, "metric of .* is the name of a metric: .'a', 'b'."),
        ({"time_attr": None}, "time_attr of .* is the name of a metric: None"),
    ],
)
def test_bad_argument_is_refused_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=f"^{message}$"):
        scheduler_of(**arguments)


def test_objective_is_taken_from_the_experiment_where_the_constructor_had_none() -> None:
    scheduler = ASHAScheduler(reduction_factor=2)
    assert scheduler.set_search_properties("loss", "min")
    add(scheduler, "a", "b")
    result = {"training_iteration": 1, "loss": 1.0}
    assert scheduler.on_trial_result(NOBODY, view("a"), result) == "CONTINUE"
    assert scheduler.on_trial_result(NOBODY, view("b"), {**result, "loss": 2.0}) == "STOP"


@pytest.mark.parametrize(
    ("given_to_it", "given_to_both", "missing"),
    [
        ({}, (None, None), "metric and mode"),
        ({"metric": "loss"}, (None, None), "mode"),
        ({"mode": "min"}, (None, None), "metric"),
    ],
)
def test_objective_that_nobody_gave_is_asked_for(
    given_to_it: dict[str, Any], given_to_both: tuple[None, None], missing: str
) -> None:
    scheduler = ASHAScheduler(**given_to_it)
    message = f"AsyncHyperBandScheduler needs a metric and a mode: give {missing} to TuneConfig"
    with pytest.raises(OptionError, match=message):
        scheduler.set_search_properties(*given_to_both)
    add(scheduler, "a")
    with pytest.raises(OptionError, match=message):
        report(scheduler, "a", 1, 1.0)


def test_several_objectives_are_refused() -> None:
    scheduler: Any = ASHAScheduler()
    with pytest.raises(OptionError, match=r"metric of .* is the name of a metric"):
        scheduler.set_search_properties(["loss", "size"], ["min", "min"])


def test_metric_is_found_in_nested_results() -> None:
    scheduler = scheduler_of(metric="eval/score")
    add(scheduler, "a")
    result = {"training_iteration": 1, "eval": {"score": 1.0}}
    assert scheduler.on_trial_result(NOBODY, view("a"), result) == "CONTINUE"
    with pytest.raises(OptionError, match=r"reported: eval/loss, training_iteration$"):
        scheduler.on_trial_result(
            NOBODY, view("a"), {"training_iteration": 2, "eval": {"loss": 1.0}}
        )


def test_time_that_is_no_number_is_refused_and_changes_nothing() -> None:
    scheduler = scheduler_of()
    add(scheduler, "a")
    with pytest.raises(OptionError, match="time 'training_iteration' of trial a is nan"):
        report(scheduler, "a", math.nan, 1.0)
    assert "0 at 1" in scheduler.debug_string()
