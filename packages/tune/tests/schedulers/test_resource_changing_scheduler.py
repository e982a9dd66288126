"""Resources are shared as they become free, and the base scheduler goes first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from weft.exceptions import OptionError
from weft.tune.execution.placement_groups import PlacementGroupFactory
from weft.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    ResourceChangingScheduler,
    TrialScheduler,
)
from weft.tune.schedulers.orders import Restart, Save, Write
from weft.tune.schedulers.resource_changing_scheduler import (
    DistributeResources,
    DistributeResourcesToTopJob,
)
from weft.tune.testing.simulation import Simulation
from weft.tune.views import ExperimentView, TrialView

if TYPE_CHECKING:
    from collections.abc import Mapping

    from weft.tune.views import Status

Amounts = dict[str, float]


def trial_of(
    trial_id: str, resources: Amounts | None = None, status: Status = "RUNNING", **result: float
) -> TrialView:
    return TrialView(trial_id, {}, status, result, 1, True, resources or {"CPU": 1.0})


def experiment(total: Amounts, *trials: TrialView) -> ExperimentView:
    return ExperimentView({trial.trial_id: trial for trial in trials}, total)


def scheduler_of(base: Amounts, allocate: Any) -> ResourceChangingScheduler:
    scheduler = ResourceChangingScheduler(None, allocate)
    first = trial_of("first", base)
    scheduler.on_trial_add(experiment(base, first), first)
    return scheduler


def shares(allocate: Any, base: Amounts, total: Amounts, n: int) -> list[Mapping[str, float]]:
    """Return what each of n equal trials is given, all bundles together."""
    scheduler = scheduler_of(base, allocate)
    trials = [trial_of(str(k), base) for k in range(n)]
    view = experiment(total, *trials)
    return [allocate(view, trial, trial.result, scheduler).required_resources for trial in trials]


@pytest.mark.parametrize(
    ("arguments", "base", "total", "expected"),
    [
        ({}, {"CPU": 1}, {"CPU": 8}, [3, 3, 2]),
        ({}, {"CPU": 1}, {"CPU": 3}, [1, 1, 1]),
        ({}, {"CPU": 2}, {"CPU": 5}, [2, 2, 2]),
        ({"increase_by": {"CPU": 2}}, {"CPU": 1}, {"CPU": 9}, [3, 3, 3]),
        ({"increase_by": {"CPU": 2}}, {"CPU": 1}, {"CPU": 8}, [3, 3, 1]),
        ({"increase_by_times": 1}, {"CPU": 1}, {"CPU": 30}, [2, 2, 2]),
        ({"reserve_resources": {"CPU": 3}}, {"CPU": 1}, {"CPU": 9}, [2, 2, 2]),
    ],
)
def test_free_resources_are_shared_evenly_and_the_oldest_have_the_rest(
    arguments: dict[str, Any], base: Amounts, total: Amounts, expected: list[float]
) -> None:
    given = shares(DistributeResources(**arguments), base, total, 3)
    assert [amounts["CPU"] for amounts in given] == expected


def test_each_resource_is_shared_by_itself_unless_they_grow_together() -> None:
    base, total = {"CPU": 1.0, "GPU": 0.5}, {"CPU": 10.0, "GPU": 3.0}
    assert shares(DistributeResources(), base, total, 2) == [
        {"CPU": 5.0, "GPU": 1.5},
        {"CPU": 5.0, "GPU": 1.5},
    ]
    together = DistributeResources(increase_by={"CPU": 1, "GPU": 1})
    assert shares(together, base, total, 2) == [{"CPU": 2.0, "GPU": 1.5}, {"CPU": 2.0, "GPU": 1.5}]


def test_all_that_is_free_goes_to_the_best() -> None:
    for mode, best in (("min", "b"), ("max", "c")):
        allocate = DistributeResourcesToTopJob(metric="loss", mode=mode)
        scheduler = scheduler_of({"CPU": 1}, allocate)
        trials = [trial_of("a", loss=2), trial_of("b", loss=1), trial_of("c", loss=3)]
        trials += [trial_of("new"), trial_of("nan", loss=float("nan"))]
        view = experiment({"CPU": 10}, *trials)
        given = {
            t.trial_id: allocate(view, t, t.result, scheduler).required_resources["CPU"]
            for t in trials
            if t.result
        }
        assert given == {"a": 1, "b": 1, "c": 1, "nan": 1, best: 6}


def test_best_is_told_by_the_objective_of_the_experiment() -> None:
    allocate = DistributeResourcesToTopJob()
    scheduler = ResourceChangingScheduler(ASHAScheduler(), allocate)
    assert scheduler.set_search_properties("loss", "min")
    assert (scheduler.metric, scheduler.mode) == ("loss", "min")
    alone = scheduler_of({"CPU": 1}, allocate)
    trial = trial_of("a", loss=1)
    with pytest.raises(OptionError, match="DistributeResourcesToTopJob needs a metric and a mode"):
        alone.on_trial_result(experiment({"CPU": 2}, trial), trial, trial.result)


def test_paused_trials_have_no_share() -> None:
    scheduler = scheduler_of({"CPU": 1}, DistributeResources())
    view = experiment({"CPU": 4}, trial_of("a"), trial_of("b", status="PAUSED"))
    order = Restart("a", "a", {}, PlacementGroupFactory([{"CPU": 4}]))
    assert scheduler.on_trial_result(view, view.trials["a"], {}) == [order]


def test_trial_that_has_its_share_goes_on() -> None:
    scheduler = scheduler_of({"CPU": 1}, DistributeResources())
    view = experiment({"CPU": 4}, trial_of("a", {"CPU": 4, "GPU": 0}))
    assert scheduler.on_trial_result(view, view.trials["a"], {}) == ()


class Ordering(TrialScheduler):
    """Orders always the same."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Any) -> Any:
        return self._answer


@pytest.mark.parametrize("answer", ["STOP", "PAUSE", [Save("a")]])
def test_what_the_base_scheduler_orders_about_the_trial_comes_first(answer: Any) -> None:
    scheduler = ResourceChangingScheduler(Ordering(answer))
    view = experiment({"CPU": 4}, trial_of("a"))
    scheduler.on_trial_add(view, view.trials["a"])
    assert scheduler.on_trial_result(view, view.trials["a"], {}) == answer


def test_what_the_base_scheduler_orders_about_others_is_done_as_well() -> None:
    others = [Save("b"), Write("file", "text")]
    scheduler = ResourceChangingScheduler(Ordering(others))
    view = experiment({"CPU": 4}, trial_of("a"))
    scheduler.on_trial_add(view, view.trials["a"])
    answer = scheduler.on_trial_result(view, view.trials["a"], {})
    assert answer == [
        *others,
        Restart("a", "a", {}, PlacementGroupFactory([{"CPU": 4}])),
    ]


def test_trials_grow_as_others_end_and_together_never_have_more_than_there_is() -> None:
    def step(config: Any, t: int | None) -> Any:
        t = (t or 0) + 1
        return (t, {}) if t <= config["steps"] else None

    scheduler = ResourceChangingScheduler()
    configs = [{"steps": steps} for steps in (5, 10, 20, 40)]
    done = Simulation(scheduler, configs, step, slots=4).run()
    assert done.trials["trial-3"].resources == {"CPU": 4}
    assert [trial.time for trial in done.trials.values()] == [5, 10, 20, 40]


@pytest.mark.parametrize(
    ("add_bundles", "bundles", "grown"),
    [
        (False, [{"CPU": 1}], [{"CPU": 4}]),
        (True, [{"CPU": 1}], [{"CPU": 1}, {"CPU": 3}]),
        (False, [{}, {"CPU": 1}], [{}, {"CPU": 4}]),
        (True, [{"CPU": 0.5}, {"CPU": 0.5}], [{"CPU": 0.5}, {"CPU": 0.5}, {"CPU": 3}]),
    ],
)
def test_increase_is_a_bundle_of_its_own_or_goes_to_the_last(
    add_bundles: bool, bundles: list[Amounts], grown: list[Amounts]
) -> None:
    scheduler = ResourceChangingScheduler(None, DistributeResources(add_bundles))
    trial = TrialView("a", {}, "RUNNING", {}, 1, True, {"CPU": 1.0}, bundles)
    view = experiment({"CPU": 4}, trial)
    scheduler.on_trial_add(view, trial)
    (order,) = scheduler.on_trial_result(view, trial, {})
    assert order == Restart("a", "a", {}, PlacementGroupFactory(grown))
    has_it = TrialView("a", {}, "RUNNING", {}, 1, True, {"CPU": 4.0}, grown)
    assert scheduler.on_trial_result(experiment({"CPU": 4}, has_it), has_it, {}) == ()


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (3, "returns amounts by resource, or None: 3"),
        ({"CPU": -1}, "its 'CPU' of resources_allocation_function is a number, 0 or more: -1"),
        ({"CPU": 0}, "leaves a nothing"),
    ],
)
def test_function_that_returns_no_amounts_is_told_so(returned: Any, message: str) -> None:
    scheduler = scheduler_of({"CPU": 1}, lambda *arguments: returned)
    view = experiment({"CPU": 4}, trial_of("a"))
    with pytest.raises(OptionError, match=message):
        scheduler.on_trial_result(view, view.trials["a"], {})


def test_function_may_return_what_has_required_resources_or_nothing() -> None:
    bundles = SimpleNamespace(required_resources={"CPU": 3.0})
    view = experiment({"CPU": 4}, trial_of("a"))
    trial = view.trials["a"]
    for returned, answer in [(bundles, [Restart("a", "a", {}, {"CPU": 3.0})]), (None, ())]:
        scheduler = scheduler_of({"CPU": 1}, lambda *arguments, returned=returned: returned)
        assert scheduler.on_trial_result(view, trial, {}) == answer
    assert ResourceChangingScheduler(None, None).on_trial_result(view, trial, {}) == ()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResourceChangingScheduler("asha"), "base_scheduler is a TrialScheduler: 'asha'"),
        (lambda: ResourceChangingScheduler(None, 3), "resources_allocation_function is called"),
        (lambda: DistributeResources(increase_by={"CPU": 0}), r"increase_by\['CPU'\] of .*: 0"),
        (lambda: DistributeResources(reserve_resources={"CPU": -1}), "reserve_resources.*: -1"),
        (lambda: DistributeResources(increase_by_times=-2), "increase_by_times of .*: -2"),
        (lambda: DistributeResourcesToTopJob(metric=3), "metric of DistributeResourcesToTopJob"),
        (lambda: DistributeResourcesToTopJob(mode="up"), "mode of DistributeResourcesToTopJob"),
    ],
)
def test_bad_argument_is_refused_in_one_line(make: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()


def test_its_state_is_that_of_the_base_scheduler() -> None:
    scheduler = ResourceChangingScheduler(FIFOScheduler())
    assert scheduler.debug_string() == "ResourceChangingScheduler round FIFOScheduler"
    assert not scheduler.supports_buffered_results
    assert not scheduler.base_trial_resources
    view = experiment({"CPU": 4}, trial_of("a"))
    assert scheduler.on_trial_complete(view, view.trials["a"], {}) == ()
    assert scheduler.on_trial_error(view, view.trials["a"]) == ()
    assert scheduler.on_idle(view) == ()
