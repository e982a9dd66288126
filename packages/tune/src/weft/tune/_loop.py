"""The shell round `Trials`: gets events from runners, searcher and clock, and does the effects.

One thread, the caller's of `fit`. Answers of runners come by callbacks into one queue, so an event
costs the same however many trials run.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import signal
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

import weft
from weft.exceptions import WeftError
from weft.tune._pool import Came, RunnerPool
from weft.tune._records import (
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
    Left,
    Note,
    NothingEver,
    NothingNow,
    Record,
    Release,
    Reported,
    Saved,
    SaveTrial,
    Spent,
    Store,
    TellPause,
    TellSearcher,
    TrialEnded,
)
from weft.tune._session import Assignment
from weft.tune._storage import writing
from weft.tune._time_budget import TimeBudget
from weft.tune._trial_runs import Reservation
from weft.tune._values import decode, encode, flattened, packed
from weft.tune.error import TrialTimeoutError, TuneError
from weft.tune.trainable.util import request_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from weft.tune._journal import Header, Journal, Past
    from weft.tune._runner import RunnerAnswer
    from weft.tune._session import Settings
    from weft.tune._storage import Storage
    from weft.tune._trial_runs import TrialRun
    from weft.tune._trials import Trials
    from weft.tune._watching import Watching
    from weft.tune.execution.placement_groups import PlacementGroupFactory
    from weft.tune.search.searcher import Searcher
    from weft.tune.stopper import Stopper

logger = logging.getLogger("weft.tune")

# How long the loop rests at most: then the journal is flushed, and stoppers are asked for the time.
TICK_S = 0.5


class _Interrupt:
    """Ctrl-C came."""


@dataclass(frozen=True, kw_only=True)
class LoopPlan:
    """What the loop is to run."""

    trainable: Any
    settings: Settings
    """Of the runners."""
    storage: Storage
    """Of the experiment."""
    searcher: Searcher
    stopper: Stopper
    metrics: tuple[str, ...]
    reuse: bool
    timeout_s: float | None
    time_budget_s: float | None
    name_of: Callable[[str, dict[str, Any]], tuple[str, str]]
    """Of an id and a configuration: the trial's name and directory, where they are its own."""
    watching: Watching | None
    """None: nobody looks on."""


class TuneLoop:
    """Runs one experiment once."""

    def __init__(self, plan: LoopPlan, trials: Trials, journal: Journal, header: Header) -> None:
        self._plan = plan
        self._trials = trials
        self._journal = journal
        self._prefix = header.prefix
        self._searcher = plan.searcher
        self._stopper = plan.stopper
        self._storage = plan.storage
        self._came: queue.SimpleQueue[Came | _Interrupt] = queue.SimpleQueue()
        self._events: deque[Event] = deque()
        self._pool = RunnerPool(
            weft.put(plan.trainable),
            plan.settings,
            self._came,
            reuse=plan.reuse,
            timeout_s=plan.timeout_s,
        )
        self._is_metric_seen = not plan.metrics
        self._is_leaving = False
        self._budget: TimeBudget | None = None
        if plan.time_budget_s is not None:
            self._budget = TimeBudget(plan.time_budget_s)
        self.halted_by: TrialRun | None = None
        """The trial whose failure ended the run."""
        self._watching = plan.watching

    # -------------------------------------------------------------- the past

    def replay(self, past: Past) -> None:
        """Bring machine, searcher, scheduler and stoppers to where the run before left them."""
        for entry in past.entries():
            event = entry.event
            if isinstance(event, ConfigSuggested):
                self._searcher.recall(event.trial_id, decode(event.config))
            elif isinstance(event, Reported) and not self._is_metric_seen:
                self._is_metric_seen = True
            elif isinstance(event, Spent) and self._budget is not None:
                self._budget.recall(event.seconds)
            for effect in self._trials.replay(entry):
                if isinstance(effect, DiscardCheckpoint):
                    self._discard(effect)
                else:
                    self._tell(effect)
        self._sweep()

    def _sweep(self) -> None:
        """Remove checkpoints that were written and not written down before the driver died."""
        for trial in self._trials.live():
            storage = self._storage.join(self.dirname(trial))
            known = {kept.name for kept in trial.checkpoints}
            for name in storage.names():
                if name.lstrip(".").startswith("checkpoint_") and name not in known:
                    storage.remove(name)

    # -------------------------------------------------------------- the run

    def run(self, first: list[Event]) -> None:
        """Run until nothing is left to do. Blocks.

        Args:
            first: Events to take before anything begins.

        Raises:
            TuneError: The experiment cannot go on.
            KeyboardInterrupt: Ctrl-C came twice.
        """
        if self._budget is not None:
            self._budget.begin(time.monotonic())
        try:
            with self._interruptible():
                for event in [*first, *self._closing(time.monotonic())]:
                    self._take(event)
                for trial in self._trials.live():
                    self._check_room(trial.id, trial.reserved)
                self._do(self._trials.begin())
                self._drain()
                while not self._is_done():
                    self._wait()
                    self._drain()
                if self._budget is not None and not self._trials.is_over():
                    self._take(Spent(self._budget.spent(time.monotonic())))
        finally:
            self._pool.close()
            self._journal.close()

    def _is_done(self) -> bool:
        if self.halted_by is not None:
            return True
        if self._is_leaving:
            return self._trials.held() == 0
        if self._trials.is_stuck():
            logger.warning("the searcher gives no configuration though no trial runs: that is all")
            return True
        # What still is in the middle of a step is killed; what rests cleans up and is saved.
        return self._trials.is_over() and not self._pool.is_settling()

    def _wait(self) -> None:
        """Wait for something to happen, and take it."""
        self._journal.flush()
        now = time.monotonic()
        until = now + TICK_S
        budget_ends_at = None if self._budget is None else self._budget.ends_at
        for at in (budget_ends_at, self._pool.due_at()):
            if at is not None:
                until = min(until, at)
        try:
            message = self._came.get(timeout=max(0.0, until - now))
        except queue.Empty:
            self._take_time()
            return
        if isinstance(message, _Interrupt):
            logger.warning(
                "interrupted: %d trials are saved at their next report; Ctrl-C again ends them now",
                self._trials.held(),
            )
            self._is_leaving = True
            self._events.append(Interrupted())
        else:
            message.seat.answers += 1
            if message.counts:
                self._take_answer(message)
            else:
                self._drop(message)
        if self._plan.timeout_s is not None or self._budget is not None:
            self._take_time()

    def _take_time(self) -> None:
        """Look at the clock."""
        if self._watching is not None:
            self._watching.look()
        now = time.monotonic()
        if self._budget is not None and self._budget.is_due(now):
            self._events.append(Spent(self._budget.spent(now)))
        self._events += self._closing(now) or self._stopping()
        for seat in self._pool.overdue(now):
            trial_id = seat.trial_id
            self._pool.kill(seat)
            if self._trials.run_of[trial_id].status != "RUNNING":
                self._events.append(Left(trial_id))
                continue
            words = f"no result within {self._plan.timeout_s:g} s: its process was killed"
            self._events.append(
                Failed(
                    trial_id, f"TrialTimeoutError: {words}", "", packed(TrialTimeoutError(words))
                )
            )

    def _closing(self, now: float) -> list[Event]:
        """Return what ends everything if the time budget is spent by now."""
        if self._budget is not None and self._budget.is_over(now):
            return [Closed("the time budget is spent")]
        return []

    def _stopping(self) -> list[Event]:
        """Return what ends everything if a stopper says so."""
        if self._stopper.stop_all() and not self._trials.is_over():
            return [Closed("a stopper says so")]
        return []

    def _drain(self) -> None:
        while self._events and self.halted_by is None:
            if self._watching is not None:
                self._watching.step_begins()
            self._take(self._events.popleft())
            if self._watching is not None:
                self._watching.step_ends()

    def _take(self, event: Event) -> None:
        self._do(self._trials.handle(event))
        if isinstance(event, Reported):
            self._check_metric(event)
            self._events += self._stopping()

    def _take_answer(self, came: Came) -> None:
        """Turn what a runner says into an event."""
        seat = came.seat
        trial_id = seat.trial_id
        answer = came.answer()
        is_running = self._trials.run_of[trial_id].status == "RUNNING"
        if isinstance(answer, WeftError):
            self._pool.lost(seat)
            self._events.append(
                Failed(trial_id, _line(answer), "", packed(answer))
                if is_running
                else Left(trial_id)
            )
            return
        seat.due_at = None
        if answer.has_left:
            self._pool.left(seat, is_spent=answer.is_spent)
        self._events.append(self._event(trial_id, answer, is_running=is_running))

    def _event(self, trial_id: str, answer: RunnerAnswer, *, is_running: bool) -> Event:
        if answer.error and not is_running:
            logger.warning("trial %s could not be saved: %s", trial_id, answer.error)
            return Left(trial_id)
        if answer.error:
            return Failed(trial_id, answer.error, answer.traceback, answer.pickled)
        if answer.result:
            return Reported(
                trial_id, msgspec.Raw(answer.result), answer.checkpoint, done=answer.has_left
            )
        if not answer.has_left:
            return Saved(trial_id, answer.checkpoint)
        return TrialEnded(trial_id) if is_running else Left(trial_id, answer.checkpoint)

    def _drop(self, came: Came) -> None:
        """Nobody waits for this any more; a checkpoint that came with it is nobody's."""
        answer = came.answer()
        if not isinstance(answer, WeftError) and answer.checkpoint and came.seat.trial_id:
            self._discard(DiscardCheckpoint(came.seat.trial_id, answer.checkpoint))

    def _check_metric(self, event: Reported) -> None:
        """See that the first result has what the user looks for: else no other would."""
        if self._is_metric_seen:
            return
        found = flattened(decode(event.result))
        lacking = [metric for metric in self._plan.metrics if metric not in found]
        if lacking:
            own = [name for name in found if name not in _OWN_METRICS]
            raise TuneError(
                f"metric {lacking[0]!r} is not in the first result, of trial {event.trial_id}: "
                f"it reported {', '.join(own) or 'nothing'}"
            )
        self._is_metric_seen = True

    # -------------------------------------------------------------- effects

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Record(entry):
                    self._journal.append(entry)
                case Advance(trial_id):
                    self._pool.advance(trial_id)
                case Begin():
                    self._begin(effect)
                case Release(trial_id, save):
                    self._pool.release(trial_id, save=save)
                case SaveTrial(trial_id):
                    self._pool.snapshot(trial_id)
                case TellSearcher() | TellPause():
                    self._tell(effect)
                case Note(what, trial_id):
                    if self._watching is not None:
                        self._watching.note(what, self._trials.run_of[trial_id])
                case AskSearcher():
                    self._events.append(self._ask())
                case DiscardCheckpoint():
                    self._discard(effect)
                case Store(file, text):
                    with writing(self._storage):
                        self._storage.write(file, text.encode())
                case Halt(trial_id):
                    self.halted_by = self._trials.run_of[trial_id]

    def _tell(self, effect: TellSearcher | TellPause) -> None:
        match effect:
            case TellSearcher(trial, outcome):
                self._searcher.tell(trial, outcome)
            case TellPause(trial_id, is_paused=True):
                self._searcher.on_pause(trial_id)
            case TellPause(trial_id):
                self._searcher.on_unpause(trial_id)

    def _ask(self) -> Event:
        trial_id = f"{self._prefix}_{len(self._trials.run_of):05d}"
        suggestion = self._searcher.ask(trial_id)
        if suggestion is None:
            return NothingNow()
        if isinstance(suggestion, str):
            return NothingEver()
        request = request_of(self._plan.trainable, suggestion)
        reserved = reservation(request)
        self._check_room(trial_id, reserved)
        name, dirname = self._plan.name_of(trial_id, suggestion)
        bundles = [] if reserved == self._trials.default else request.bundles
        return ConfigSuggested(trial_id, msgspec.Raw(encode(suggestion)), bundles, dirname, name)

    def _check_room(self, trial_id: str, reserved: Reservation) -> None:
        """Refuse to have a trial wait for ever. TuneError."""
        lacking = self._trials.lacking(reserved.total)
        if lacking:
            raise TuneError(
                f"trial {trial_id} needs {_amounts(reserved.total.to_floats())}, and there is "
                f"{_amounts(weft.cluster_resources())}: {_amounts(lacking.to_floats())} more is "
                "needed"
            )

    def _begin(self, effect: Begin) -> None:
        trial = self._trials.run_of[effect.trial_id]
        where = ""
        if effect.checkpoint:
            source, _, name = effect.checkpoint.partition("/")
            where = f"{self.dirname(self._trials.run_of[source])}/{name}"
        assignment = Assignment(
            trial_id=trial.id,
            name=self.name(trial),
            dirname=self.dirname(trial),
            config=effect.config,
            bundles=effect.reserved.to_floats(),
            checkpoint=where,
            iteration=effect.iteration,
            time_total_s=effect.time_total_s,
            checkpoints=trial.checkpoints_made,
        )
        strategy = ""
        if len(effect.reserved.bundles) > 1:
            strategy = request_of(self._plan.trainable, decode(effect.config)).strategy
        self._pool.begin(assignment, effect.reserved.bundles, strategy)

    def _discard(self, effect: DiscardCheckpoint) -> None:
        trial = self._trials.run_of[effect.trial_id]
        try:
            self._storage.join(self.dirname(trial)).remove(effect.checkpoint)
        except OSError as error:
            logger.warning("checkpoint %s cannot be removed: %s", effect.checkpoint, error)

    def name(self, trial: TrialRun) -> str:
        """Return a trial's name."""
        return trial.name or f"{self._plan.settings.trainable}_{trial.id}"

    def dirname(self, trial: TrialRun) -> str:
        """Return the name of a trial's directory."""
        return trial.dirname or self.name(trial)

    # -------------------------------------------------------------- Ctrl-C

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Have Ctrl-C end the run orderly, and a second one at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        count = 0

        def interrupted(number: int, frame: Any) -> None:
            nonlocal count
            count += 1
            if count > 1:
                raise KeyboardInterrupt
            self._came.put(_Interrupt())

        before = signal.signal(signal.SIGINT, interrupted)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    @property
    def was_interrupted(self) -> bool:
        """Whether Ctrl-C ended the run."""
        return self._is_leaving


_OWN_METRICS = frozenset({
    "training_iteration", "time_this_iter_s", "time_total_s", "time_since_restore",
    "iterations_since_restore", "timestamp", "pid", "hostname",
})  # fmt: skip


def reservation(request: PlacementGroupFactory) -> Reservation:
    """Return what a trial takes that asks for this. TuneError: its bundles want several nodes."""
    if request.strategy == "STRICT_SPREAD" and len(request.bundles) > len(weft.nodes()):
        raise TuneError(
            f"a trial asks for {len(request.bundles)} bundles on as many nodes (STRICT_SPREAD), "
            f"and there are {len(weft.nodes())}: give strategy='SPREAD'"
        )
    return Reservation.of(request.bundles)


def _amounts(resources: Any) -> str:
    return (
        ", ".join(f"{name}={amount:g}" for name, amount in sorted(resources.items())) or "nothing"
    )


def _line(error: BaseException) -> str:
    return f"{type(error).__qualname__}: {str(error).partition(chr(10))[0]}"
