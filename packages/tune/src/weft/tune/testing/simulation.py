"""An experiment on paper: it runs a scheduler on trials that are a function each.

    def step(config, state):  # from one state to the next, and what is reported; None: the end
        t = (state or 0) + 1
        return (t, {"loss": config["lr"] / t}) if t <= 100 else None

    done = Simulation(ASHAScheduler(metric="loss", mode="min"), configs, step, slots=4).run()
    done.trials["trial-0"].outcome

There are no processes, no clock and no files, so that thousands of experiments run in a second. The
trials take turns in an order that the seed decides. The simulation keeps to what is promised to a
scheduler, and raises SimulationError where the scheduler does not keep to what is expected of it.

What is always true
1. Trials that run have the resources that they reserve; those that are to run again go before
   fresh ones.
2. A checkpoint is a state, and is there as soon as it is ordered; a pause makes one. A trial that
   fails goes on from its checkpoint, or from its beginning.
3. `calls` has all that the scheduler was told and what it answered, in order.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from weft.tune.execution.placement_groups import PlacementGroupFactory
from weft.tune.schedulers.orders import Order, Pause, Restart, Resume, Save, Stop, Write
from weft.tune.views import ExperimentView, Outcome, Status, TrialView

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft.tune.schedulers.trial_scheduler import TrialScheduler

    Config = Mapping[str, Any]
    Step = Callable[[Config, Any], tuple[Any, Mapping[str, Any]] | None]


class SimulationError(AssertionError):
    """The scheduler ordered what cannot be, or lets the experiment run for ever."""


class SchedulerCall(msgspec.Struct, frozen=True):
    """One call of the scheduler, and its answer."""

    method: str
    arguments: tuple[Any, ...]
    answer: Any


class SimulatedTrial(msgspec.Struct):
    """One trial, as it is."""

    trial_id: str
    config: Mapping[str, Any]
    resources: Mapping[str, float]
    bundles: Sequence[Mapping[str, float]] = ()
    """The same, bundle by bundle; empty: there is one."""
    status: Status = "PENDING"
    state: Any = None
    time: int = 0
    """Its clock, in steps: the `training_iteration` that it reported last."""
    result: Mapping[str, Any] = {}
    results: list[Mapping[str, Any]] = []
    """All that it has reported."""
    configs: list[tuple[int, Mapping[str, Any]]] = []
    """What it ran with, and from which number of results on."""
    checkpoint: tuple[Any, int] | None = None
    """A state and its time."""
    failures: int = 0
    outcome: Outcome | None = None

    @property
    def is_ended(self) -> bool:
        """Whether it will not run again."""
        return self.status in ("TERMINATED", "ERROR")


class Simulation:
    """One experiment on paper.

    Args:
        scheduler: What is tried. Its `set_search_properties` was called, if it needs that.
        configs: Of the trials, in the order of their creation.
        step: What a trial does between two reports.
        slots: How many CPUs there are; each trial has one at first.
        seed: Decides who reports next, and who fails.
        failing: The share of steps that fail.
        max_failures: How often a trial is tried again.
        max_live: How many trials there may be that have not ended; None: any number.
        at_once: Whether all trials are created at first, or each when there is room.
        clock: What time it is for a trial that goes on from another's checkpoint: its own, or
            that of the source.
        saves: Whether trials can be saved.
        max_steps: After so many it is an error that trials still run.
    """

    def __init__(
        self,
        scheduler: TrialScheduler,
        configs: Sequence[Config],
        step: Step,
        *,
        slots: int = 4,
        seed: int = 0,
        failing: float = 0.0,
        max_failures: int = 1,
        max_live: int | None = None,
        at_once: bool = False,
        clock: Literal["own", "source"] = "source",
        saves: bool = True,
        max_steps: int = 1_000_000,
    ) -> None:
        self.scheduler = scheduler
        self.trials: dict[str, SimulatedTrial] = {}
        self.calls: list[SchedulerCall] = []
        self.files: dict[str, str] = {}
        """What the scheduler has ordered to be written."""
        self._fresh = deque(configs)
        self._step = step
        self._slots = slots
        self._random = random.Random(seed)
        self._failing = failing
        self._max_failures = max_failures
        self._max_live = max_live
        self._at_once = at_once
        self._clock = clock
        self._saves = saves
        self._steps_left = max_steps
        self._orders: deque[Order] = deque()
        self._rerun: deque[SimulatedTrial] = deque()
        """PENDING trials in the order in which they became so."""

    # ------------------------------------------------------------------ the loop

    def run(self) -> Simulation:
        """Run until every trial has ended; return itself."""
        idle = 0
        while True:
            self._fill()
            running = self._with_status("RUNNING")
            if running:
                idle = 0
                self._advance(self._random.choice(running))
            elif paused := self._with_status("PAUSED"):
                idle += 1
                if idle > 2 * len(self.trials):
                    raise SimulationError("the scheduler is idle for ever: its orders start nobody")
                self._rest(paused)
            elif self._rerun:
                raise SimulationError(f"{self._rerun[0].resources} is more than there is")
            else:
                return self

    def _rest(self, paused: list[SimulatedTrial]) -> None:
        """Nothing runs: have the scheduler order something, or resume the oldest."""
        orders = self._call("on_idle")
        if not orders:
            self._orders.append(Resume(paused[0].trial_id))
        self._obey(None, orders)

    def _fill(self) -> None:
        """Start what there is room for."""
        while self._at_once and self._fresh:
            self._create()
        while True:
            if not self._rerun:
                live = sum(not trial.is_ended for trial in self.trials.values())
                full = self._max_live is not None and live >= self._max_live
                if not self._fresh or full or self._free() < 1:
                    return
                self._create()
                continue  # The scheduler may have ordered something about it.
            if self._rerun[0].resources.get("CPU", 0) > self._free():
                return
            self._rerun.popleft().status = "RUNNING"

    def _create(self) -> None:
        config = self._fresh.popleft()
        trial = SimulatedTrial(f"trial-{len(self.trials)}", config, {"CPU": 1.0})
        trial.configs.append((0, config))
        self.trials[trial.trial_id] = trial
        self._rerun.append(trial)
        self._obey(None, self._call("on_trial_add", trial))

    def _advance(self, trial: SimulatedTrial) -> None:
        """Have one trial do a step, and the scheduler decide on it."""
        self._steps_left -= 1
        if self._steps_left < 0:
            raise SimulationError(f"trial {trial.trial_id} and others run for ever")
        if self._random.random() < self._failing:
            self._fail(trial)
            return
        stepped = self._step(trial.config, trial.state)
        if stepped is None:
            self._end(trial, "completed")
            self._carry_out()
            return
        trial.state, metrics = stepped
        trial.time += 1
        trial.result = {
            "training_iteration": trial.time,
            "time_total_s": float(trial.time),
            **metrics,
        }
        trial.results.append(trial.result)
        self._obey(trial, self._call("on_trial_result", trial, trial.result))

    def _fail(self, trial: SimulatedTrial) -> None:
        trial.failures += 1
        if trial.failures > self._max_failures:
            self._end(trial, "failed")
            self._carry_out()
            return
        trial.state, trial.time = trial.checkpoint or (None, 0)
        trial.status = "PENDING"
        self._rerun.append(trial)

    def _end(self, trial: SimulatedTrial, outcome: Outcome) -> None:
        if trial in self._rerun:
            self._rerun.remove(trial)
        trial.outcome = outcome
        trial.state = trial.checkpoint = None
        if outcome == "failed":
            trial.status = "ERROR"
            self._orders += self._call("on_trial_error", trial)
        else:
            trial.status = "TERMINATED"
            self._orders += self._call("on_trial_complete", trial, trial.result)

    # ------------------------------------------------------------------ orders

    def _obey(self, reporter: SimulatedTrial | None, answer: str | Sequence[Order]) -> None:
        """Carry out an answer, and all that comes of it."""
        if isinstance(answer, str):
            if reporter is None or answer not in ("CONTINUE", "PAUSE", "STOP"):
                raise SimulationError(f"{answer!r} is no answer")
            if answer != "CONTINUE":
                make = Stop if answer == "STOP" else Pause
                self._orders.append(make(reporter.trial_id))
        else:
            self._orders += answer
        self._carry_out()

    def _carry_out(self) -> None:
        while self._orders:
            order = self._orders.popleft()
            if isinstance(order, Write):
                self.files[order.file] = order.text
            else:
                self._order(order, self._named(order))

    def _named(self, order: Stop | Pause | Resume | Restart | Save) -> SimulatedTrial:
        trial = self.trials.get(order.trial_id)
        if trial is None or trial.is_ended:
            raise SimulationError(f"{order} names a trial that is not there, or has ended")
        return trial

    def _order(self, order: Stop | Pause | Resume | Restart | Save, trial: SimulatedTrial) -> None:
        match order:
            case Stop():
                self._end(trial, "stopped")
            case Pause():
                self._expect(order, trial, "RUNNING")
                self._save(trial)
                trial.status = "PAUSED"
                trial.state, trial.time = trial.checkpoint or (None, 0)
            case Resume():
                self._expect(order, trial, "PAUSED")
                trial.status = "PENDING"
                self._rerun.append(trial)
            case Save():
                self._save(trial)
            case Restart():
                self._restart(order, trial)

    def _expect(self, order: Order, trial: SimulatedTrial, status: Status) -> None:
        if trial.status != status:
            raise SimulationError(f"{order} names a trial that is {trial.status}")

    def _save(self, trial: SimulatedTrial) -> None:
        if self._saves:
            trial.checkpoint = trial.state, trial.time

    def _restart(self, order: Restart, trial: SimulatedTrial) -> None:
        if order.source != trial.trial_id:
            source = self.trials.get(order.source)
            if source is None or source.checkpoint is None:
                raise SimulationError(f"{order}: the source has no checkpoint")
            trial.state, time = trial.checkpoint = source.checkpoint
            trial.time = time if self._clock == "source" else trial.time
        trial.config = order.config
        trial.configs.append((len(trial.results), order.config))
        if order.resources is not None:
            given = order.resources
            bundles = given.bundles if isinstance(given, PlacementGroupFactory) else [given]
            trial.bundles = bundles
            trial.resources = PlacementGroupFactory(bundles).required_resources
        if trial.status != "PENDING":
            trial.status = "PENDING"
            self._rerun.append(trial)

    # ------------------------------------------------------------------ what the scheduler sees

    def _call(self, method: str, trial: SimulatedTrial | None = None, *rest: Any) -> Any:
        arguments = (self.view(), *([] if trial is None else [self._view_of(trial)]), *rest)
        answer = getattr(self.scheduler, method)(*arguments)
        if not isinstance(answer, str):
            answer = list(answer)
        self.calls.append(SchedulerCall(method, arguments, answer))
        return answer

    def view(self) -> ExperimentView:
        """Return the trials that have not ended."""
        return ExperimentView(
            {
                trial_id: self._view_of(trial)
                for trial_id, trial in self.trials.items()
                if not trial.is_ended
            },
            {"CPU": float(self._slots)},
        )

    def _view_of(self, trial: SimulatedTrial) -> TrialView:
        return TrialView(
            trial.trial_id,
            trial.config,
            trial.status,
            trial.result,
            trial.time,
            trial.checkpoint is not None,
            trial.resources,
            trial.bundles,
        )

    def _with_status(self, status: Status) -> list[SimulatedTrial]:
        return [trial for trial in self.trials.values() if trial.status == status]

    def _free(self) -> float:
        used = sum(trial.resources.get("CPU", 0) for trial in self._with_status("RUNNING"))
        return self._slots - used


def answers_again(calls: Sequence[SchedulerCall], scheduler: TrialScheduler) -> list[Any]:
    """Make the calls of a simulation once more; return a fresh scheduler's answers."""
    answers = []
    for call in calls:
        answer = getattr(scheduler, call.method)(*call.arguments)
        answers.append(answer if isinstance(answer, str) else list(answer))
    return answers
