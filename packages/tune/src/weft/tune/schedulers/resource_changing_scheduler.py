"""Trials that are given other resources while they train.

Round a scheduler that decides who goes on stands a function that says, after each result, what the
trial shall have. If that is something else than it has, it goes on with that from where it is: it
is saved, and loaded again when there is room.

A trial's first bundle is what its own process holds; the others are for tasks and actors that it
starts. So it matters where an increase goes.

What is always true
1. What the base scheduler orders about a trial comes first: its resources are then left alone.
2. The functions here give all trials together no more than there is, less what is reserved; and
   each bundle no less than it began with.
"""

from __future__ import annotations

from math import floor, inf
from typing import TYPE_CHECKING, Any

from weft.exceptions import OptionError
from weft.lowlevel import override
from weft.tune._arguments import check_integer, check_number, check_objective
from weft.tune._readings import has_reading, read_number
from weft.tune.execution.placement_groups import PlacementGroupFactory
from weft.tune.schedulers.fifo import FIFOScheduler
from weft.tune.schedulers.orders import Order, Restart, Write
from weft.tune.schedulers.trial_scheduler import TrialScheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from weft.tune.schedulers.trial_scheduler import Verdict
    from weft.tune.views import ExperimentView, TrialView

    Amounts = Mapping[str, float]
    Allocate = Callable[
        [ExperimentView, TrialView, Mapping[str, Any], "ResourceChangingScheduler"], Any
    ]


class DistributeResources:
    """Gives each trial the same share of what there is.

    Args:
        add_bundles: Whether the increase is a bundle of its own, for what the trial starts. If not,
            its last bundle grows, which is its own process's if there is no other.
        increase_by: The step in which a trial grows: `{"CPU": 1}`. None: one of each resource that
            it has.
        increase_by_times: How many steps it may grow; -1: any number.
        reserve_resources: What is left to others: `{"CPU": 2}`.

    Raises:
        OptionError: An amount is out of its range.
    """

    def __init__(
        self,
        add_bundles: bool = False,
        increase_by: Amounts | None = None,
        increase_by_times: int = -1,
        reserve_resources: Amounts | None = None,
    ) -> None:
        name = type(self).__name__
        for resource, amount in (increase_by or {}).items():
            check_number(name, f"increase_by[{resource!r}]", amount, least=0, above=True)
        for resource, amount in (reserve_resources or {}).items():
            check_number(name, f"reserve_resources[{resource!r}]", amount, least=0)
        check_integer(name, "increase_by_times", increase_by_times, least=-1)
        self.add_bundles = add_bundles
        self._increase_by = dict(increase_by or {})
        self._times = inf if increase_by_times == -1 else increase_by_times
        self._reserved = dict(reserve_resources or {})

    def __call__(
        self,
        tune_controller: ExperimentView,
        trial: TrialView,
        result: Mapping[str, Any],
        scheduler: ResourceChangingScheduler,
    ) -> PlacementGroupFactory | None:
        """Return what the trial shall have; None: what it has."""
        base = scheduler.base_trial_resources
        sharers = [
            other.trial_id for other in tune_controller.get_trials() if other.status != "PAUSED"
        ]
        place = sharers.index(trial.trial_id)
        more: dict[str, float] = {}
        for step in self._steps(base):
            free = self._steps_free(tune_controller, base, step, len(sharers))
            # What does not divide goes to the oldest.
            share = free // len(sharers) + (place < free % len(sharers))
            self._grow(more, step, share)
        return self._increased(scheduler, more)

    def _grow(self, more: dict[str, float], step: Amounts, times: float) -> None:
        for resource, amount in step.items():
            more[resource] = more.get(resource, 0) + amount * min(times, self._times)

    def _increased(
        self, scheduler: ResourceChangingScheduler, more: Amounts
    ) -> PlacementGroupFactory:
        """Return what trials begin with, and more."""
        bundles = [dict(bundle) for bundle in scheduler.base_trial_bundles]
        if self.add_bundles:
            bundles += [dict(more)] if any(more.values()) else []
        else:
            for resource, amount in more.items():
                bundles[-1][resource] = bundles[-1].get(resource, 0) + amount
        return PlacementGroupFactory(bundles)

    def _steps(self, base: Amounts) -> list[Amounts]:
        """Return the steps in which a trial grows, one independent of the other."""
        if self._increase_by:
            return [self._increase_by]
        return [{resource: 1.0} for resource, amount in base.items() if amount]

    def _steps_free(self, view: ExperimentView, base: Amounts, step: Amounts, sharers: int) -> int:
        """Return how many steps there are besides what the trials began with."""
        free = [
            floor(
                (
                    view.total_resources.get(resource, 0)
                    - self._reserved.get(resource, 0)
                    - sharers * base.get(resource, 0)
                )
                / amount
            )
            for resource, amount in step.items()
        ]
        return max(0, min(free))


class DistributeResourcesToTopJob(DistributeResources):
    """Gives all that is free to the trial that is the best.

    Args:
        add_bundles: As DistributeResources.
        increase_by: As DistributeResources.
        increase_by_times: As DistributeResources.
        reserve_resources: As DistributeResources.
        metric: What is compared. None: as the base scheduler.
        mode: "min" or "max". None: as the base scheduler.

    Raises:
        OptionError: An argument is out of its range, or there is no metric.
    """

    def __init__(
        self,
        add_bundles: bool = False,
        increase_by: Amounts | None = None,
        increase_by_times: int = -1,
        reserve_resources: Amounts | None = None,
        metric: str | None = None,
        mode: str | None = None,
    ) -> None:
        super().__init__(add_bundles, increase_by, increase_by_times, reserve_resources)
        check_objective(type(self).__name__, metric, mode)
        self.metric = metric
        self.mode = mode

    @override
    def __call__(
        self,
        tune_controller: ExperimentView,
        trial: TrialView,
        result: Mapping[str, Any],
        scheduler: ResourceChangingScheduler,
    ) -> PlacementGroupFactory | None:
        name = type(self).__name__
        metric, mode = self.metric or scheduler.metric, self.mode or scheduler.mode
        if metric is None or mode is None:
            raise OptionError(f"{name} needs a metric and a mode: give them to it or to TuneConfig")
        sign = 1 if mode == "max" else -1
        read_number(result, metric, reader=name, trial_id=trial.trial_id)
        trials = [other for other in tune_controller.get_trials() if other.status != "PAUSED"]
        scores = {
            other.trial_id: sign
            * read_number(other.result, metric, reader=name, trial_id=other.trial_id)
            for other in trials
            if has_reading(other.result, metric)
        }
        # NaN is not above anything.
        best = max(scores, key=lambda id_: scores[id_] if abs(scores[id_]) < inf else -inf)
        base = scheduler.base_trial_resources
        more: dict[str, float] = {}
        if best == trial.trial_id:
            for step in self._steps(base):
                free = self._steps_free(tune_controller, base, step, len(trials))
                self._grow(more, step, free)
        return self._increased(scheduler, more)


_EVENLY = DistributeResources()


class ResourceChangingScheduler(TrialScheduler):
    """Gives trials other resources while they train, and lets another scheduler decide the rest.

    Args:
        base_scheduler: Decides who goes on. None: FIFOScheduler().
        resources_allocation_function: Is called after each result with a view of the experiment,
            the trial, the result and this scheduler; returns a PlacementGroupFactory, amounts
            (`{"CPU": 2}`: of several bundles the first stays as it is), or None for no change.
            None: there is no function.

    Raises:
        OptionError: An argument is of another type.
    """

    def __init__(
        self,
        base_scheduler: TrialScheduler | None = None,
        resources_allocation_function: Allocate | None = _EVENLY,
    ) -> None:
        base: Any = FIFOScheduler() if base_scheduler is None else base_scheduler
        if not isinstance(base, TrialScheduler):
            raise OptionError(f"base_scheduler is a TrialScheduler: {base_scheduler!r}")
        if resources_allocation_function is not None and not callable(
            resources_allocation_function
        ):
            raise OptionError(
                "resources_allocation_function is called with (tune_controller, trial, result, "
                f"scheduler): {resources_allocation_function!r}"
            )
        self._base = base
        self._allocate = resources_allocation_function
        self._base_resources: dict[str, float] | None = None
        self._base_bundles: Sequence[Amounts] = ()
        self.metric: str | None = None
        self.mode: str | None = None

    @property
    def base_trial_resources(self) -> Mapping[str, float]:
        """What the first trial began with; empty before there is one."""
        return self._base_resources or {}

    @property
    def base_trial_bundles(self) -> Sequence[Mapping[str, float]]:
        """The same, bundle by bundle."""
        return self._base_bundles

    @override
    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        took = self._base.set_search_properties(metric, mode, **spec)
        self.metric = getattr(self._base, "metric", None) or metric
        self.mode = getattr(self._base, "mode", None) or mode
        return took

    @override
    def on_trial_add(
        self, tune_controller: ExperimentView, trial: TrialView, **kwargs: Any
    ) -> Sequence[Order]:
        if self._base_resources is None:
            self._base_resources = dict(trial.resources)
            self._base_bundles = trial.bundles or [trial.resources]
        return self._base.on_trial_add(tune_controller, trial, **kwargs)

    @override
    def on_trial_result(
        self, tune_controller: ExperimentView, trial: TrialView, result: Mapping[str, Any]
    ) -> Verdict | Sequence[Order]:
        answer = self._base.on_trial_result(tune_controller, trial, result)
        if isinstance(answer, str):
            if answer != self.CONTINUE:
                return answer
            orders: Sequence[Order] = ()
        else:
            orders = answer
        named = {None if isinstance(order, Write) else order.trial_id for order in orders}
        if trial.trial_id in named:
            return orders
        amounts = self.reallocate_trial_resources_if_needed(tune_controller, trial, result)
        if amounts is None:
            return orders
        return [*orders, self.set_trial_resources(trial, amounts)]

    @override
    def on_trial_complete(
        self,
        tune_controller: ExperimentView,
        trial: TrialView,
        result: Mapping[str, Any],
        **kwargs: Any,
    ) -> Sequence[Order]:
        return self._base.on_trial_complete(tune_controller, trial, result, **kwargs)

    @override
    def on_trial_error(
        self, tune_controller: ExperimentView, trial: TrialView, **kwargs: Any
    ) -> Sequence[Order]:
        return self._base.on_trial_error(tune_controller, trial, **kwargs)

    @override
    def on_idle(self, tune_controller: ExperimentView) -> Sequence[Order]:
        return self._base.on_idle(tune_controller)

    def reallocate_trial_resources_if_needed(
        self, tune_controller: ExperimentView, trial: TrialView, result: Mapping[str, Any]
    ) -> Mapping[str, float] | PlacementGroupFactory | None:
        """Return what the trial shall have, if that is not what it has.

        Raises:
            OptionError: The function returned no amounts, or nothing but zeros.
        """
        if self._allocate is None:
            return None
        answer: Any = self._allocate(tune_controller, trial, result, self)
        if answer is None:
            return None
        try:
            amounts: dict[str, float] = dict(getattr(answer, "required_resources", answer))
        except (TypeError, ValueError):
            raise OptionError(
                f"resources_allocation_function returns amounts by resource, or None: {answer!r}"
            ) from None
        for resource, amount in amounts.items():
            check_number("resources_allocation_function", f"its {resource!r}", amount, least=0)
        wanted = _without_zeros(amounts)
        if not wanted:
            raise OptionError(f"resources_allocation_function leaves {trial.trial_id} nothing")
        if isinstance(answer, PlacementGroupFactory):
            present = [_without_zeros(bundle) for bundle in trial.bundles or [trial.resources]]
            return None if answer.bundles == present else answer
        return None if wanted == _without_zeros(trial.resources) else wanted

    def set_trial_resources(
        self, trial: TrialView, new_resources: Mapping[str, float] | PlacementGroupFactory
    ) -> Restart:
        """Return the order with which a trial goes on with other resources."""
        return Restart(trial.trial_id, trial.trial_id, trial.config, new_resources)

    @override
    def debug_string(self) -> str:
        return f"{type(self).__name__} round {self._base.debug_string()}"


def _without_zeros(amounts: Amounts) -> dict[str, float]:
    return {resource: amount for resource, amount in amounts.items() if amount}
