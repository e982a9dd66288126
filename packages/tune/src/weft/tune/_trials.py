"""The trials of an experiment: which there are, which runs, and what is done at each result.

    PENDING -> RUNNING -> TERMINATED, ERROR (these have ended)
      ^  ^        |
      |  +--------+   it failed and is tried again, or goes on with another configuration
      |           v
      +-------- PAUSED   resumed

A trial is on a runner from `Begin` until it has left, so a trial that is PAUSED, PENDING or ended
may still be on one that is busy with letting it go.

The machine asks the stopping criterion and the scheduler, which are pure, and orders what they say.
What was done at an event is written beside it (`JournalEntry`). `replay` takes such entries: the
same calls of scheduler and criterion, the same effects, but what is done is what was done.

What is always true
1. RUNNING trials are on a runner; the scheduler and the searcher are told of an end once, and of
   nothing after it.
2. What is true of the `TrialRoom` that trials take and wait for.
3. No trial waits that would fit, and no configuration is asked for while a trial waits.
4. While trials are paused something runs, or something can.
5. The last checkpoint of a trial that has not ended is kept, and the one that a restarted trial
   began from until it has its own.
6. No checkpoint is kept that need not be.
7. Record comes before all other effects of an event.

What it does not do: it knows no runners, no files and no time.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Literal, assert_never

from weft.tune._checkpoints import Kept
from weft.tune._records import (
    Abandoned,
    Advance,
    AskSearcher,
    Begin,
    Closed,
    Completed,
    ConfigSuggested,
    Decision,
    DiscardCheckpoint,
    Effect,
    Event,
    Failed,
    GaveUp,
    Halt,
    Idled,
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
    Restarted,
    Resumed,
    Retried,
    Revived,
    Saved,
    SaveTrial,
    Spent,
    Stopped,
    Store,
    TellPause,
    TellSearcher,
    TrialEnded,
    What,
)
from weft.tune._trial_orders import decision_of, orders_of
from weft.tune._trial_room import TrialRoom
from weft.tune._trial_runs import Limits, Origin, Reservation, TrialRun
from weft.tune._values import decode, flattened
from weft.tune.schedulers.orders import Order, Write
from weft.tune.views import ExperimentView, Outcome, TrialView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from weft.lowlevel import Resources
    from weft.tune.schedulers.trial_scheduler import TrialScheduler

    Criterion = Callable[[str, Mapping[str, Any]], bool]


class Trials:
    """All trials of one experiment."""

    def __init__(
        self,
        scheduler: TrialScheduler,
        criterion: Criterion | None,
        total: Resources,
        *,
        default: Reservation,
        limits: Limits,
    ) -> None:
        """`total`: there is to run trials; `default`: what a trial takes unless it says so."""
        self._scheduler = scheduler
        self._criterion = criterion
        self._total_floats = total.to_floats()
        self._room = TrialRoom(total, limits.max_concurrent)
        self.default = default
        """What a trial takes unless it says so."""
        self._reservations: dict[object, Reservation] = {(): default}
        """Those that trials have, so that equal ones are one object."""
        self._limits = limits
        self.run_of: dict[str, TrialRun] = {}
        """By id, in the order of their creation."""
        self._live: dict[str, TrialRun] = {}
        """Those that have not ended."""
        self._asking: Literal["may", "asked", "waits", "ended"] = "may"
        self._orders: deque[Order] = deque()
        self._effects: list[Effect] = []
        self._decided: list[Decision] = []
        self._reporting: TrialRun | None = None
        """The trial at its report, which waits for what is decided."""
        self._is_replaying = False
        self._is_closed = False
        self._phase: Literal["past", "running", "leaving"] = "past"
        self._experiment: ExperimentView | None = None

    def begin(self) -> list[Effect]:
        """Return what to do first.

        Before come `replay`, and `handle` of what the user wants of trials of the past.
        """
        self._phase = "running"
        for trial in self._live.values():
            if trial.status == "RUNNING":
                self._await_room(trial)
        self._asking = "ended" if self._is_closed else "may"
        self._effects, self._decided = [], []
        self._go_on()
        effects = self._effects
        if self._decided:
            effects.insert(0, Record(JournalEntry(NothingNow(), self._decided)))
        return effects

    def handle(self, event: Event) -> list[Effect]:
        """Take an event; return what to do, in order.

        Raises:
            ValueError: It is impossible; nothing has changed.
            Exception: What a scheduler or a criterion raised; the machine cannot be used further.
        """
        self._refuse_impossible(event)
        self._effects, self._decided = [], []
        self._take(event)
        self._go_on()
        effects = self._effects
        if self._decided or _is_lasting(event):
            effects.insert(0, Record(JournalEntry(event, self._decided)))
        return effects

    def replay(self, entry: JournalEntry) -> list[TellSearcher | TellPause | DiscardCheckpoint]:
        """Take what was written in another run; return what is to be done again."""
        self._is_replaying = True
        self._effects, self._decided = [], list(entry.decided)
        self._take(entry.event)
        for decision in entry.decided:
            self._apply(decision)
        self._reporting = None
        self._is_replaying = False
        return [
            effect
            for effect in self._effects
            if isinstance(effect, TellSearcher | TellPause | DiscardCheckpoint)
        ]

    # -------------------------------------------------------------- events

    def _refuse_impossible(self, event: Event) -> None:
        match event:
            case ConfigSuggested(trial_id):
                if trial_id in self.run_of:
                    raise ValueError(f"trial {trial_id} is there already")
            case Reported(trial_id) | TrialEnded(trial_id) | Saved(trial_id) | Failed(trial_id):
                if self.run_of[trial_id].status != "RUNNING":
                    raise ValueError(f"trial {trial_id} does not run")
            case Left(trial_id):
                if not self.run_of[trial_id].is_held:
                    raise ValueError(f"trial {trial_id} is on no runner")
            case Abandoned(trial_id) | Reset(trial_id):
                if self.run_of[trial_id].has_ended:
                    raise ValueError(f"trial {trial_id} has ended")
            case Revived(trial_id):
                if self.run_of[trial_id].status != "ERROR":
                    raise ValueError(f"trial {trial_id} has not failed")
            case NothingNow() | NothingEver() | Closed() | Interrupted() | Spent():
                pass
            case _:
                assert_never(event)

    def _take(self, event: Event) -> None:
        match event:
            case ConfigSuggested():
                self._suggested(event)
            case NothingNow():
                self._asking = "waits"
            case NothingEver():
                self._asking = "ended"
            case Reported():
                self._reported(self.run_of[event.trial_id], event)
            case TrialEnded(trial_id):
                trial = self.run_of[trial_id]
                self._let_go(trial)
                self._end(trial, "completed")
            case Failed():
                self._failed(self.run_of[event.trial_id], event)
            case Saved(trial_id, checkpoint):
                trial = self.run_of[trial_id]
                self._saved(trial, checkpoint)
                self._effects.append(Advance(trial_id))
            case Left(trial_id, checkpoint):
                trial = self.run_of[trial_id]
                self._let_go(trial)
                self._saved(trial, checkpoint)
            case Revived():
                self._revived(self.run_of[event.trial_id], fresh=event.fresh)
            case Interrupted():
                self._phase = "leaving"
            case Spent():
                pass  # It is written down for the next run.
            case Reset(trial_id):
                trial = self.run_of[trial_id]
                self._begin_from(trial, Origin(trial_id, "", 0, 0.0))
                self._await_room(trial)
            case Abandoned(trial_id):
                self._decide(Completed(trial_id))
            case Closed():
                self._asking, self._is_closed = "ended", True
                for trial in list(self._live.values()):
                    self._decide(Completed(trial.id))
            case _:
                assert_never(event)

    def _suggested(self, event: ConfigSuggested) -> None:
        trial = TrialRun(event.trial_id, bytes(event.config), self._reserved(event.bundles))
        trial.name, trial.dirname = event.name, event.dirname
        self.run_of[trial.id] = self._live[trial.id] = trial
        self._room.wait(trial, self._room.fresh)
        self._asking = "may"
        self._changed(trial)
        self._order(self._scheduler.on_trial_add(self._view(), self.view(trial)))

    def _reported(self, trial: TrialRun, event: Reported) -> None:
        trial.result = bytes(event.result)
        trial.metrics = result = flattened(decode(trial.result))
        trial.iterations = result.get("training_iteration", trial.iterations + 1)
        trial.status = "RUNNING"
        self._room.leave(trial)
        self._changed(trial)
        self._saved(trial, event.checkpoint)
        self._tell(trial, None)
        self._note("result", trial)
        if event.done:
            self._let_go(trial)
            self._end(trial, "completed")
            return
        self._reporting = trial
        if trial.wish is not None:
            self._orders.append(trial.wish)
            trial.wish = None
        if self._meets_criterion(trial, result):
            return
        verdict = self._scheduler.on_trial_result(self._view(), self.view(trial), result)
        self._order(orders_of(verdict, trial.id))

    def _meets_criterion(self, trial: TrialRun, result: Mapping[str, Any]) -> bool:
        is_met = self._criterion is not None and self._criterion(trial.id, result)
        if self._is_replaying:
            return Completed(trial.id) in self._decided
        if is_met:
            self._decide(Completed(trial.id))
        return is_met

    def _failed(self, trial: TrialRun, event: Failed) -> None:
        self._let_go(trial)
        trial.failures += 1
        trial.error = event.error
        may_retry = self._limits.max_failures < 0 or trial.failures <= self._limits.max_failures
        self._decide(Retried(trial.id) if may_retry else GaveUp(trial.id))

    def _saved(self, trial: TrialRun, checkpoint: str) -> None:
        if not checkpoint:
            return
        result = decode(trial.result) if trial.result else {}
        kept = Kept(
            checkpoint,
            trial.iterations,
            result.get("time_total_s", 0.0),
            self._limits.keeping.score(result),
        )
        trial.checkpoints += (kept,)
        trial.checkpoints_made += 1
        self._note("save", trial)
        self._changed(trial)
        self._begin_from(trial, None)
        self._discard_surplus(trial)

    def _begin_from(self, trial: TrialRun, origin: Origin | None) -> None:
        """Set what a trial begins from; what it would have begun from may be discarded then."""
        before, trial.origin = trial.origin, origin
        if before is not None and before.checkpoint:
            self._discard_surplus(self.run_of[before.trial_id])

    def _discard_surplus(self, trial: TrialRun) -> None:
        surplus = self._limits.keeping.surplus(trial.checkpoints, self._needed(trial))
        if surplus:
            trial.checkpoints = tuple(k for k in trial.checkpoints if k.name not in surplus)
            self._effects += [DiscardCheckpoint(trial.id, name) for name in surplus]

    def _needed(self, trial: TrialRun) -> set[str]:
        """Return the checkpoints that others began from who have none of their own yet."""
        return {
            other.origin.checkpoint
            for other in self._live.values()
            if other.origin is not None and other.origin.trial_id == trial.id
        }

    def _revived(self, trial: TrialRun, *, fresh: bool) -> None:
        if fresh:
            self._begin_from(trial, Origin(trial.id, "", 0, 0.0))
        trial.failures = 0
        # The searcher was told of its end.
        trial.is_told = False
        self._live[trial.id] = trial
        self._await_room(trial)
        self._order(self._scheduler.on_trial_add(self._view(), self.view(trial)))

    # -------------------------------------------------------------- orders and decisions

    def _order(self, orders: Iterable[Order]) -> None:
        """Put down what a scheduler says; when replaying, what it said then counts."""
        if not self._is_replaying:
            self._orders.extend(orders)

    def _obey(self) -> None:
        while self._orders:
            order = self._orders.popleft()
            if isinstance(order, Write):
                self._effects.append(Store(order.file, order.text))
                continue
            trial = self._live.get(order.trial_id)
            if trial is None:
                if order.trial_id not in self.run_of:
                    raise ValueError(f"the scheduler orders {order!r}, and there is no such trial")
                continue  # it ended meanwhile
            is_away = trial.status == "RUNNING" and trial is not self._reporting
            decision = decision_of(order, trial, self.run_of, is_away=is_away)
            if decision is not None:
                self._refuse_too_much(order, decision)
                self._decide(decision)

    def _refuse_too_much(self, order: Order, decision: Decision) -> None:
        """Refuse to have a trial wait for ever."""
        if isinstance(decision, Restarted) and decision.bundles:
            lacking = self.lacking(self._reserved(decision.bundles).total)
            if lacking:
                raise ValueError(f"the scheduler orders {order!r}: {lacking!r} more is needed")

    def _decide(self, decision: Decision) -> None:
        if not self._is_replaying:
            self._decided.append(decision)
            self._apply(decision)

    def _apply(self, decision: Decision) -> None:
        match decision:
            case Completed(trial_id):
                self._end(self.run_of[trial_id], "completed")
            case Stopped(trial_id):
                self._end(self.run_of[trial_id], "stopped")
            case Paused(trial_id):
                trial = self.run_of[trial_id]
                self._room.wait(trial, self._room.paused)
                trial.status = "PAUSED"
                trial.saves_as_it_leaves = True
                self._changed(trial)
                self._tell_pause(trial)
            case Resumed(trial_id):
                self._await_room(self.run_of[trial_id])
            case Restarted():
                self._restarted(self.run_of[decision.trial_id], decision)
            case Retried(trial_id):
                trial = self.run_of[trial_id]
                self._await_room(trial)
                self._note("recover", trial)
            case GaveUp(trial_id):
                self._end(self.run_of[trial_id], "failed")
            case Idled():
                self._order(self._scheduler.on_idle(self._view()))
            case _:
                assert_never(decision)

    def _restarted(self, trial: TrialRun, decision: Restarted) -> None:
        is_itself = decision.source == trial.id
        if trial.status == "RUNNING" and trial is not self._reporting and trial.is_held:
            self._effects.append(Release(trial.id, save=False))
        trial.config = bytes(decision.config)
        if decision.bundles:
            trial.reserved = self._reserved(decision.bundles)
        if not is_itself:
            origin = Origin(
                decision.source, decision.checkpoint, decision.iteration, decision.time_total_s
            )
            self._begin_from(trial, origin)
        trial.saves_as_it_leaves = is_itself
        trial.wish = None
        self._await_room(trial)

    def _end(self, trial: TrialRun, outcome: Outcome) -> None:
        is_mid_step = trial.status == "RUNNING" and trial.is_held and trial is not self._reporting
        self._room.leave(trial)
        trial.status = "ERROR" if outcome == "failed" else "TERMINATED"
        trial.saves_as_it_leaves = self._limits.checkpoint_at_end
        trial.wish = None
        del self._live[trial.id]
        self._changed(trial)
        experiment, view = self._view(), self.view(trial)
        if is_mid_step:
            self._effects.append(Release(trial.id, save=False))
        if outcome == "failed":
            self._order(self._scheduler.on_trial_error(experiment, view))
        else:
            self._order(self._scheduler.on_trial_complete(experiment, view, view.result))
        self._tell(trial, outcome)
        trial.metrics = None
        self._begin_from(trial, None)
        self._note("error" if outcome == "failed" else "complete", trial)
        if outcome == "failed" and self._limits.fail_fast:
            self._effects.append(Halt(trial.id))

    # -------------------------------------------------------------- who runs

    def _go_on(self) -> None:
        """Do what is ordered, settle the trial that reports, and start what there is room for."""
        self._obey()
        self._settle_reporting()
        self._fill()
        while self._is_idle():
            before = list(self._room.paused)
            self._decide(Idled())
            self._obey()
            if list(self._room.paused) == before:
                self._decide(Resumed(before[0]))
            self._fill()

    def _settle_reporting(self) -> None:
        trial, self._reporting = self._reporting, None
        if trial is None:
            return
        if self._phase == "leaving" and trial.status == "RUNNING":
            trial.saves_as_it_leaves = True
            self._await_room(trial)
        if trial.status != "RUNNING":
            self._effects.append(Release(trial.id, save=trial.saves_as_it_leaves))
        elif trial.wants_save:
            trial.wants_save = False
            self._effects.append(SaveTrial(trial.id))
        else:
            self._effects.append(Advance(trial.id))

    def _is_idle(self) -> bool:
        return self._room.is_idle() and self._asking != "asked" and self._phase == "running"

    def _fill(self) -> None:
        """Start what fits, those that ran before first; then ask for another."""
        if self._phase != "running":
            return
        for trial in self._room.startable():
            self._begin(trial)
        if self._asking == "may" and not self._room.is_anyone_next():
            if self._limits.max_trials is not None and len(self.run_of) >= self._limits.max_trials:
                self._asking = "ended"
            elif self._room.fits(self.default.total):
                self._asking = "asked"
                self._effects.append(AskSearcher())

    def _begin(self, trial: TrialRun) -> None:
        self._room.take(trial)
        trial.status = "RUNNING"
        self._changed(trial)
        where, iteration, time_total_s = trial.start_point()
        if where:
            self._note("restore", trial)
        self._note("start", trial)
        self._effects.append(
            Begin(trial.id, trial.config, trial.reserved, where, iteration, time_total_s)
        )

    def _let_go(self, trial: TrialRun) -> None:
        """It has left its runner."""
        self._room.give_back(trial)
        trial.wants_save = False

    def _await_room(self, trial: TrialRun) -> None:
        was_paused = trial.status == "PAUSED"
        self._room.wait(trial, self._room.returning)
        trial.status = "PENDING"
        self._changed(trial)
        if was_paused:
            self._tell_pause(trial)

    # -------------------------------------------------------------- what others see

    def _tell(self, trial: TrialRun, outcome: Outcome | None) -> None:
        if self._asking == "waits":
            self._asking = "may"
        if trial.is_told:
            self._effects.append(TellSearcher(self.view(trial), outcome))

    def _tell_pause(self, trial: TrialRun) -> None:
        """Tell the searcher that a trial is PAUSED, or no more: it may count those that run."""
        if self._asking == "waits":
            self._asking = "may"
        if trial.is_told:
            self._effects.append(TellPause(trial.id, trial.status == "PAUSED"))

    def _note(self, what: What, trial: TrialRun) -> None:
        self._effects.append(Note(what, trial.id))

    def _changed(self, trial: TrialRun) -> None:
        trial.view = None
        self._experiment = None

    def _reserved(self, bundles: Sequence[Mapping[str, float]]) -> Reservation:
        """Return the one object for equal bundles; for none: the default."""
        key = tuple(tuple(sorted(bundle.items())) for bundle in bundles)
        if key not in self._reservations:
            self._reservations[key] = Reservation.of(bundles)
        return self._reservations[key]

    def view(self, trial: TrialRun) -> TrialView:
        """Return what others may see of a trial; made once until the trial changes."""
        if trial.has_ended:
            return trial.seen()
        if trial.view is None:
            trial.view = trial.seen()
        return trial.view

    def _view(self) -> ExperimentView:
        if self._experiment is None:
            views = {trial.id: self.view(trial) for trial in self._live.values()}
            self._experiment = ExperimentView(views, self._total_floats)
        return self._experiment

    # -------------------------------------------------------------- questions

    def is_over(self) -> bool:
        """Tell whether every trial has ended and no other comes."""
        return not self._live and self._asking == "ended"

    def is_stuck(self) -> bool:
        """Tell whether every trial has ended, and the searcher gives no other."""
        return not self._live and self._asking == "waits"

    def held(self) -> int:
        """Return how many trials are on runners."""
        return self._room.held

    def live(self) -> Sequence[TrialRun]:
        """Return the trials that have not ended, the oldest first."""
        return list(self._live.values())

    def lacking(self, amounts: Resources) -> Resources:
        """Return what the total lacks of an amount; empty: it can be run."""
        return amounts.shortfall(self._room.total)

    def check(self) -> None:
        """Assert what is always true, between two events."""
        runs = self.run_of.values()
        room = self._room
        assert all(trial.is_held for trial in runs if trial.status == "RUNNING"), 1
        assert {t.id for t in runs if not t.has_ended} == set(self._live), 1
        room.check(runs)
        waiting = {**room.returning, **room.fresh}
        assert set(waiting) == {t.id for t in runs if t.status == "PENDING"}, 3
        if self._phase == "running":
            assert not list(room.startable()), 3
        assert set(room.paused) == {t.id for t in runs if t.status == "PAUSED"}, 4
        assert not self._is_idle(), 4
        for trial in self._live.values():
            origin = trial.origin
            if origin is not None and origin.checkpoint:
                source = self.run_of[origin.trial_id]
                assert origin.checkpoint in [kept.name for kept in source.checkpoints], 5
        for trial in runs:
            assert not self._limits.keeping.surplus(trial.checkpoints, self._needed(trial)), 6


def _is_lasting(event: Event) -> bool:
    """Tell whether an event is written even if nothing was decided at it."""
    match event:
        case NothingNow() | NothingEver() | Interrupted():
            return False
        case Saved(_, checkpoint) | Left(_, checkpoint):
            return bool(checkpoint)
        case _:
            return True
