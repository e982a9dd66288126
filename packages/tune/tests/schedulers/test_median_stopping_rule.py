"""The median stopping rule on a table, and its two ways of pausing."""

from __future__ import annotations

import math
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.exceptions import OptionError
from weft.tune.schedulers import MedianStoppingRule
from weft.tune.schedulers.orders import Pause, Resume, Stop
from weft.tune.testing.simulation import Simulation
from weft.tune.views import ExperimentView, TrialView

if TYPE_CHECKING:
    from weft.tune.views import Status

ALONE = ExperimentView({}, {"CPU": 1.0})


def view(trial_id: str, status: Status = "RUNNING") -> TrialView:
    return TrialView(trial_id, {}, status, {}, 0, False, {"CPU": 1.0})


def rule_of(trials: str = "", **arguments: Any) -> MedianStoppingRule:
    rule = MedianStoppingRule(
        **{"time_attr": "t", "metric": "score", "mode": "max", "grace_period": 1, **arguments}
    )
    for trial_id in trials:
        rule.on_trial_add(ALONE, view(trial_id))
    return rule


def report(
    rule: MedianStoppingRule, trial_id: str, t: float, score: float, waiting: str = ""
) -> Any:
    trials = {other: view(other, "PENDING") for other in waiting}
    experiment = ExperimentView(trials, {"CPU": 1.0})
    return rule.on_trial_result(experiment, view(trial_id), {"t": t, "score": score})


def test_table_is_decided_as_by_hand() -> None:
    rule = rule_of("abcde")
    # Running averages:      t=1   t=2   t=3
    for scores in [("a", 4.0, 2.0, 3.0),  # 4, 3, 3
                   ("b", 1.0, 3.0, 8.0),  # 1, 2, 4
                   ("c", 6.0, 6.0, 0.0)]:  # 6, 6, 4  # fmt: skip
        for t, score in enumerate(scores[1:], 1):
            assert report(rule, scores[0], t, score) == []
    # Of the others, the median of averages is 4 at t=1, 3 at t=2, 4 at t=3.
    assert report(rule, "d", 1, 4.0) == []  # best 4 is not worse than 4
    assert report(rule, "d", 2, 0.0) == []  # best 4
    assert report(rule, "e", 1, 3.0) == [Stop("e")]  # medians of 4, 1, 6 and 4: 4
    assert report(rule, "d", 3, 3.9) == []  # its best is still 4
    assert rule.debug_string() == "MedianStoppingRule: 1 stopped below the median of 5"


@given(st.lists(st.lists(st.floats(-5, 5), min_size=1, max_size=6), min_size=4, max_size=8))
def test_verdicts_are_those_of_the_paper_sentence_by_sentence(curves: list[list[float]]) -> None:
    trials = [chr(ord("a") + k) for k in range(len(curves))]
    rule = rule_of("".join(trials))
    seen: dict[str, list[float]] = {trial: [] for trial in trials}
    for trial, curve in zip(trials, curves, strict=True):
        for s, score in enumerate(curve, 1):
            seen[trial].append(score)
            averages = [
                fmean(scores[:s])
                for other, scores in seen.items()
                if other != trial and len(scores) >= s
            ]
            answer = report(rule, trial, s, score)
            if len(averages) < 3:
                assert answer == []
            elif not math.isclose(max(seen[trial]), median(averages), abs_tol=1e-9):
                assert (answer == [Stop(trial)]) == (max(seen[trial]) < median(averages))


def test_grace_period_spares_and_does_not_count() -> None:
    rule = rule_of("abcd", grace_period=2)
    for trial_id in "abc":
        report(rule, trial_id, 1, 100.0)
        report(rule, trial_id, 2, 1.0)
    assert report(rule, "d", 1, 0.0) == []
    assert report(rule, "d", 2, 0.9) == [Stop("d")]
    assert report(rule_of("a"), "a", 1, 0.0) == []


def test_diverged_trial_is_stopped_and_misleads_nobody() -> None:
    rule = rule_of("abcd")
    report(rule, "a", 1, math.nan)
    report(rule, "b", 1, 1.0)
    report(rule, "c", 1, 2.0)
    assert report(rule, "d", 1, 1.0) == []
    assert report(rule, "d", 2, 1.0) == []
    rule = rule_of("abcd")
    for trial_id in "abc":
        report(rule, trial_id, 1, -1e9)
    assert report(rule, "d", 1, math.inf) == [Stop("d")]


def test_trial_that_goes_back_in_time_is_seen_as_if_it_had_not_been_beyond() -> None:
    rule = rule_of("abcd", min_samples_required=1)
    for t, score in [(1, 1.0), (2, 100.0), (2, 3.0)]:
        report(rule, "a", t, score)
    assert report(rule, "b", 1, 1.0) == []
    assert report(rule, "b", 2, 2.0) == []  # the average of a is 2, not 50.5


def test_trials_are_paused_and_not_stopped_without_hard_stop() -> None:
    rule = rule_of("abcd", hard_stop=False)
    for trial_id in "abc":
        report(rule, trial_id, 1, 2.0)
    assert report(rule, "d", 1, 1.0) == [Pause("d")]
    assert rule.on_idle(ALONE) == [Resume("d")]
    assert report(rule, "d", 2, 0.0) == []  # it is not judged again
    assert rule.on_idle(ALONE) == []


def test_trial_yields_after_its_slice_to_those_that_wait() -> None:
    rule = rule_of("ab", min_time_slice=3)
    assert [report(rule, "a", t, 1.0, waiting="b") for t in (1, 2, 3)] == [[], [], []]
    assert report(rule, "a", 4, 1.0, waiting="b") == "PAUSE"
    # b runs, nobody waits: a asks for room again, and waits.
    assert report(rule, "b", 1, 1.0) == [Resume("a")]
    assert report(rule, "b", 3, 1.0, waiting="a") == []
    assert report(rule, "b", 4, 1.0, waiting="a") == "PAUSE"
    assert rule.on_idle(ALONE) == [Resume("b")]


def test_trial_that_began_anew_after_it_yielded_does_not_yield_again() -> None:
    rule = rule_of("ab", min_time_slice=3)
    report(rule, "a", 1, 1.0)
    assert report(rule, "a", 4, 1.0, waiting="b") == "PAUSE"
    assert [report(rule, "a", t, 1.0, waiting="b") for t in range(1, 9)] == [[]] * 8


def test_ended_trials_are_not_resumed() -> None:
    rule = rule_of("abcd", hard_stop=False)
    for trial_id in "abc":
        report(rule, trial_id, 1, 2.0)
    report(rule, "d", 1, 1.0)
    assert rule.on_trial_complete(ALONE, view("d"), {}) == ()
    assert rule.on_trial_error(ALONE, view("a")) == ()
    assert rule.on_idle(ALONE) == []


def test_worst_of_flat_curves_are_stopped_early_and_the_best_is_not() -> None:
    def step(config: Any, t: int | None) -> Any:
        t = (t or 0) + 1
        return (t, {"score": config["level"]}) if t <= 30 else None

    rule = MedianStoppingRule("training_iteration", "score", "max", grace_period=3)
    configs = [{"level": (k * 7) % 20} for k in range(20)]
    done = Simulation(rule, configs, step, slots=20).run()
    stopped = {t.config["level"] for t in done.trials.values() if t.outcome == "stopped"}
    assert stopped > set(range(8))
    assert 19 not in stopped


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grace_period": -1}, "grace_period of MedianStoppingRule is a number, 0 or more: -1"),
        ({"min_samples_required": 0}, "min_samples_required of .* an integer, 1 or more: 0"),
        ({"min_time_slice": -1}, "min_time_slice of .*: -1"),
    ],
)
def test_bad_argument_is_refused_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        rule_of(**arguments)
