"""Stoppers: when they stop, what they refuse, and how they are joined."""

from __future__ import annotations

import math
import pickle
from datetime import timedelta
from statistics import pstdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.exceptions import OptionError
from weft.tune.stopper import (
    CombinedStopper,
    DictStopper,
    ExperimentPlateauStopper,
    FunctionStopper,
    MaximumIterationStopper,
    NoopStopper,
    Stopper,
    TimeoutStopper,
    TrialPlateauStopper,
    as_stopper,
)


def verdicts(stopper: Stopper, values: list[float], trial_id: str = "a") -> list[bool]:
    """Return what a stopper says to values of a metric `m`, one after the other."""
    return [
        stopper(trial_id, {"m": value, "training_iteration": t})
        for t, value in enumerate(values, 1)
    ]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


# ------------------------------------------------------------------ one criterion


def test_noop_stops_nothing() -> None:
    assert verdicts(NoopStopper(), [1, math.nan]) == [False, False]
    assert not NoopStopper().stop_all()


def test_maximum_iteration_stops_each_trial_at_its_iteration() -> None:
    stopper = MaximumIterationStopper(3)
    assert verdicts(stopper, [0] * 4) == [False, False, True, True]
    assert verdicts(stopper, [0] * 2, "b") == [False, False]
    assert not stopper.stop_all()


def test_trial_that_goes_back_to_a_checkpoint_has_its_iterations_still() -> None:
    stopper = MaximumIterationStopper(3)
    assert [stopper("a", {"training_iteration": t}) for t in (1, 2, 1, 2, 3)] == [
        *[False] * 4,
        True,
    ]


@pytest.mark.parametrize("timeout", [30, 30.0, timedelta(seconds=30)])
def test_timeout_ends_the_experiment_counted_from_the_first_question(timeout: Any) -> None:
    clock = Clock()
    stopper = TimeoutStopper(timeout, clock=clock)
    clock.now = 1000.0
    assert not stopper.stop_all()
    clock.now = 1029.9
    assert not stopper.stop_all()
    assert not stopper("a", {})
    clock.now = 1030.0
    assert stopper("a", {})
    assert stopper.stop_all()


def test_timeout_of_nothing_ends_at_once_and_travels() -> None:
    assert TimeoutStopper(0).stop_all()
    assert pickle.loads(pickle.dumps(TimeoutStopper(0))).stop_all()


def test_function_is_asked_with_id_and_result() -> None:
    asked = []

    def done(trial_id: str, result: Any) -> int:
        asked.append((trial_id, result))
        return result["m"] > 2

    stopper = FunctionStopper(done)
    assert stopper("a", {"m": 3}) is True
    assert stopper("b", {"m": 1}) is False
    assert asked == [("a", {"m": 3}), ("b", {"m": 1})]
    assert not stopper.stop_all()


@pytest.mark.parametrize(
    ("fn", "valid"),
    [
        (len, True),
        (lambda *a: True, True),
        (3, False),
        (NoopStopper(), False),
        (NoopStopper, False),
    ],
)
def test_function_is_what_can_be_called_and_is_no_stopper(fn: Any, valid: bool) -> None:
    assert FunctionStopper.is_valid_function(fn) is valid


def test_dictionary_stops_at_the_value_or_above_it() -> None:
    stopper = DictStopper({"m": 2})
    assert verdicts(stopper, [1.9, 2, 2.1, math.nan, -math.inf, math.inf]) == [
        False, True, True, False, False, True,
    ]  # fmt: skip


def test_any_metric_of_a_dictionary_stops() -> None:
    stopper = DictStopper({"m": 2, "eval/acc": 0.9, "done": True})
    result = {"m": 0, "eval": {"acc": 0.5}, "done": False}
    assert not stopper("a", result)
    assert stopper("a", {**result, "eval": {"acc": 0.9}})
    assert stopper("a", {**result, "done": True})


def test_metric_of_a_dictionary_that_was_not_reported_is_named_beside_those_that_were() -> None:
    stopper = DictStopper({"loss": 2, "acuracy": 1})
    message = r"stop looks at 'acuracy', which trial a did not report; it reported: accuracy, loss$"
    with pytest.raises(OptionError, match=message):
        stopper("a", {"loss": 5, "accuracy": 0})
    with pytest.raises(OptionError, match=r"it reported: nothing$"):
        stopper("a", {})


def test_long_results_are_named_in_part() -> None:
    with pytest.raises(OptionError, match=r"m00, m01, .*, m19 and 10 more$"):
        DictStopper({"x": 1})("a", {f"m{k:02}": k for k in range(30)})


@pytest.mark.parametrize("value", ["high", "0.5", None, [1, 2], 10**400])
def test_metric_that_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(OptionError, match="'m', for which trial a reported no number but"):
        DictStopper({"m": 1})("a", {"m": value})


# ------------------------------------------------------------------ plateaus


def test_trial_stops_when_its_last_results_are_alike() -> None:
    stopper = TrialPlateauStopper("m", std=0.1, num_results=3, grace_period=2)
    assert verdicts(stopper, [0, 5, 9, 9.1, 9.05]) == [False, False, False, False, True]
    # The other trial has results of its own.
    assert verdicts(stopper, [9, 9], "b") == [False, False]


def test_trial_is_spared_for_its_grace_period() -> None:
    stopper = TrialPlateauStopper("m", num_results=2, grace_period=4)
    assert verdicts(stopper, [1, 1, 1, 1]) == [False, False, False, True]


@pytest.mark.parametrize(
    ("mode", "threshold", "expected"),
    [("min", 0.5, [False, True]), ("max", 0.5, [True, False]), (None, None, [True, True])],
)
def test_plateau_counts_only_beyond_the_threshold(
    mode: str | None, threshold: float | None, expected: list[bool]
) -> None:
    stops = []
    for level in (1.0, 0.1):
        stopper = TrialPlateauStopper(
            "m", num_results=2, grace_period=0, metric_threshold=threshold, mode=mode
        )
        stops.append(verdicts(stopper, [level, level])[-1])
    assert stops == expected


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_has_diverged_is_no_plateau(value: float) -> None:
    stopper = TrialPlateauStopper("m", num_results=2, grace_period=0)
    assert verdicts(stopper, [value, value, value, 1, 1]) == [False] * 4 + [True]


@given(st.lists(st.floats(-10, 10), max_size=30), st.integers(1, 5), st.integers(0, 6))
def test_trial_plateau_is_what_its_first_sentence_says(
    values: list[float], num_results: int, grace_period: int
) -> None:
    stopper = TrialPlateauStopper("m", 2.0, num_results, grace_period)
    for seen, value in enumerate(values, 1):
        last = values[:seen][-num_results:]
        expected = seen >= grace_period and len(last) == num_results and pstdev(last) <= 2.0
        assert stopper("a", {"m": value}) == expected
        if expected:
            return  # it has ended


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_experiment_ends_when_its_best_values_are_alike(mode: str, sign: int) -> None:
    stopper = ExperimentPlateauStopper("m", std=0.1, top=2, mode=mode)
    values = [sign * value for value in (5, 3, 1, 9, 1.05)]
    assert verdicts(stopper, values) == [False, False, False, False, True]
    assert stopper.has_plateaued()
    assert stopper.stop_all()


def test_patience_counts_results_after_the_plateau_was_reached() -> None:
    stopper = ExperimentPlateauStopper("m", std=0.1, top=2, patience=2)
    assert verdicts(stopper, [1, 1, 5]) == [False, False, False]  # reached; 1 later
    assert stopper.has_plateaued()
    assert not stopper.stop_all()
    assert verdicts(stopper, [0]) == [False]  # better: none any more
    assert not stopper.has_plateaued()
    assert verdicts(stopper, [0, 7, 7]) == [False, False, True]


def test_what_has_diverged_is_not_among_the_best() -> None:
    stopper = ExperimentPlateauStopper("m", top=2)
    assert verdicts(stopper, [-math.inf, -math.inf, math.nan, 1, 1]) == [False] * 4 + [True]


# ------------------------------------------------------------------ several


def test_combined_stops_when_any_does_and_all_see_each_result() -> None:
    plateau = TrialPlateauStopper("m", num_results=3, grace_period=0)
    stopper = CombinedStopper(MaximumIterationStopper(2), plateau)
    assert verdicts(stopper, [1, 1]) == [False, True]
    assert stopper("a", {"m": 1, "training_iteration": 1})  # the plateau's third result
    assert not stopper.stop_all()


def test_stoppers_are_joined_by_a_bar() -> None:
    clock = Clock()
    stopper = MaximumIterationStopper(2) | TimeoutStopper(1, clock=clock) | NoopStopper()
    assert verdicts(stopper, [0, 0]) == [False, True]
    assert not stopper.stop_all()
    clock.now += 1
    assert stopper.stop_all()


def test_what_users_write_as_stop_is_a_stopper() -> None:
    noop = NoopStopper()
    assert as_stopper(noop) is noop
    assert type(as_stopper(None)) is NoopStopper
    assert type(as_stopper({})) is NoopStopper
    assert type(as_stopper([])) is NoopStopper
    assert type(as_stopper({"m": 1})) is DictStopper
    assert type(as_stopper(lambda trial_id, result: True)) is FunctionStopper
    combined = as_stopper([{"m": 3}, lambda trial_id, result: result["m"] < 0])
    assert verdicts(combined, [-1, 0, 3]) == [True, False, True]


# ------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaximumIterationStopper(0), "max_iter of .* is an integer, 1 or more: 0"),
        (lambda: MaximumIterationStopper(2.5), "max_iter of .* is an integer, 1 or more: 2.5"),
        (lambda: MaximumIterationStopper(True), "max_iter of .*: True"),
        (lambda: TimeoutStopper(-1), "timeout of TimeoutStopper is a number, 0 or more: -1"),
        (lambda: TimeoutStopper("1h"), "timeout of TimeoutStopper is a number.*: '1h'"),
        (lambda: TimeoutStopper(math.nan), "timeout of TimeoutStopper is a number.*: nan"),
        (lambda: FunctionStopper(3), "takes a function of a trial's id and a result: 3"),
        (lambda: DictStopper({}), "DictStopper needs one metric or more"),
        (lambda: DictStopper({3: 1}), "key of stop is the name of a metric: 3"),
        (lambda: DictStopper({"m": "1"}), "m of stop is a number: '1'"),
        (lambda: DictStopper({"m": math.nan}), "m of stop is a number: nan"),
        (lambda: TrialPlateauStopper(3), "metric of TrialPlateauStopper is the name"),
        (lambda: TrialPlateauStopper("m", std=-1), "std of .* is a number, 0 or more: -1"),
        (lambda: TrialPlateauStopper("m", num_results=0), "num_results of .*: 0"),
        (lambda: TrialPlateauStopper("m", grace_period=-1), "grace_period of .*: -1"),
        (lambda: TrialPlateauStopper("m", metric_threshold=1), 'mode of .* "min" or "max": None'),
        (lambda: ExperimentPlateauStopper(""), "metric of ExperimentPlateauStopper"),
        (lambda: ExperimentPlateauStopper("m", std=-1), "std of .*: -1"),
        (lambda: ExperimentPlateauStopper("m", top=0), "top of .*: 0"),
        (lambda: ExperimentPlateauStopper("m", mode="up"), "mode of .*: 'up'"),
        (lambda: ExperimentPlateauStopper("m", patience=-1), "patience of .*: -1"),
        (CombinedStopper, "CombinedStopper needs one stopper or more"),
        (lambda: CombinedStopper({"m": 1}), "joins stoppers, and this is none: {'m': 1}"),
        (lambda: as_stopper(3), "stop is a dictionary of values by metric, a function, or a stop"),
    ],
)
def test_bad_argument_is_refused_in_one_line(make: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
