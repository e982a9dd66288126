"""The actors that run trials, as the loop holds them: their answers come into one queue.

An actor of several bundles has a placement group of its own, for as long as it lives: it runs in
the first bundle, and what its trials start goes into any.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeAlias

import weft
from weft.exceptions import WeftError
from weft.tune._runner import Runner, RunnerAnswer
from weft.tune._session import sessions
from weft.util.placement_group import placement_group, remove_placement_group
from weft.util.scheduling_strategies import PlacementGroupSchedulingStrategy

if TYPE_CHECKING:
    import queue
    from collections.abc import Iterator
    from concurrent.futures import Future

    from weft import ObjectRef
    from weft.lowlevel import Resources
    from weft.tune._session import Assignment, Settings
    from weft.util.placement_group import PlacementGroup

    Holding: TypeAlias = tuple[tuple[Resources, ...], str]
    """Its bundles, and the strategy by which they lie on nodes."""

RunnerActor = weft.remote(Runner)


class Seat:
    """One actor."""

    __slots__ = ("answers", "calls", "due_at", "group", "handle", "holds", "is_gone", "trial_id")

    def __init__(self, handle: Any, holds: Holding, group: PlacementGroup | None) -> None:
        self.handle = handle
        self.holds = holds
        self.group = group
        self.trial_id = ""
        """Empty: it idles."""
        self.calls = 0
        """Only the answer to the last one counts."""
        self.answers = 0
        self.due_at: float | None = None
        """When the trial's answer has to be there, on the monotonic clock."""
        self.is_gone = False


class Came:
    """A call is through."""

    __slots__ = ("call", "future", "seat")

    def __init__(self, seat: Seat, call: int, future: Future[RunnerAnswer]) -> None:
        self.seat = seat
        self.call = call
        self.future = future

    @property
    def counts(self) -> bool:
        """Whether the loop still waits for it."""
        return not self.seat.is_gone and self.call == self.seat.calls

    def answer(self) -> RunnerAnswer | WeftError:
        """Return the answer, or the error of an actor that has died."""
        try:
            return self.future.result()
        except WeftError as error:
            return error


class RunnerPool:
    """Actors by what they hold, those that idle and those that run a trial."""

    def __init__(
        self,
        trainable: ObjectRef[Any],
        settings: Settings,
        came: queue.SimpleQueue[Any],
        *,
        reuse: bool,
        timeout_s: float | None,
    ) -> None:
        self._trainable = trainable
        self._settings = settings
        self._came = came
        self._reuse = reuse
        self._timeout_s = timeout_s
        self._seats: set[Seat] = set()
        self._idle: list[Seat] = []
        self._seat_of: dict[str, Seat] = {}

    def begin(self, assignment: Assignment, bundles: tuple[Resources, ...], strategy: str) -> None:
        """Have an actor that holds this begin a trial."""
        holds = bundles, strategy
        seat = next((seat for seat in reversed(self._idle) if seat.holds == holds), None)
        if seat is not None:
            self._idle.remove(seat)
        else:
            # Those that idle may hold what this one needs.
            for other in list(self._idle):
                self._retire(other)
            group = _group(bundles, strategy)
            actor = _options(bundles[0], group).remote(self._trainable, self._settings)
            seat = Seat(actor, holds, group)
            self._seats.add(seat)
            if self._timeout_s is not None:
                # The time that the process takes to start is not the trial's.
                seat.handle.end.remote().future().add_done_callback(lambda _: self._clock(seat))
        seat.trial_id = assignment.trial_id
        self._seat_of[assignment.trial_id] = seat
        self._call(seat, "begin", assignment)

    def advance(self, trial_id: str) -> None:
        """Let a trial go on."""
        self._call(self._seat_of[trial_id], "advance")

    def snapshot(self, trial_id: str) -> None:
        """Have a trial saved."""
        self._call(self._seat_of[trial_id], "snapshot")

    def release(self, trial_id: str, *, save: bool) -> None:
        """End a trial; the answer to what it is doing does not count any more."""
        self._call(self._seat_of[trial_id], "release", save)

    def _call(self, seat: Seat, method: str, *args: Any) -> None:
        seat.calls += 1
        call = seat.calls
        if call > 1:
            self._clock(seat)
        ref: ObjectRef[RunnerAnswer] = getattr(seat.handle, method).remote(*args)
        ref.future().add_done_callback(lambda future: self._came.put(Came(seat, call, future)))

    def _clock(self, seat: Seat) -> None:
        """Give the call that begins its time."""
        if self._timeout_s is not None:
            seat.due_at = time.monotonic() + self._timeout_s

    # -------------------------------------------------------------- what came

    def is_settling(self) -> bool:
        """Tell whether a trial is being let go that is not in the middle of a step."""
        return any(seat.calls - seat.answers == 1 for seat in self._seat_of.values())

    def left(self, seat: Seat, *, is_spent: bool) -> None:
        """The trial has left its actor."""
        del self._seat_of[seat.trial_id]
        seat.trial_id, seat.due_at = "", None
        if is_spent or not self._reuse:
            self._retire(seat)
        else:
            self._idle.append(seat)

    def lost(self, seat: Seat) -> None:
        """The actor is dead."""
        del self._seat_of[seat.trial_id]
        seat.is_gone = True
        self._seats.discard(seat)
        _let_go(seat)

    def overdue(self, now: float) -> Iterator[Seat]:
        """Yield the seats whose trials are late."""
        for seat in list(self._seat_of.values()):
            if seat.due_at is not None and seat.due_at <= now:
                yield seat

    def due_at(self) -> float | None:
        """Return when the next trial is late, on the monotonic clock."""
        if self._timeout_s is None:
            return None
        return min((s.due_at for s in self._seat_of.values() if s.due_at is not None), default=None)

    # -------------------------------------------------------------- ends

    def kill(self, seat: Seat) -> None:
        """End an actor at once; the trial that it runs has left it."""
        if seat.trial_id:
            self._seat_of.pop(seat.trial_id, None)
        seat.is_gone = True
        self._seats.discard(seat)
        weft.kill(seat.handle)
        _let_go(seat)

    def _retire(self, seat: Seat) -> None:
        """Have an idle actor clean up and end."""
        if seat in self._idle:
            self._idle.remove(seat)
        self._seats.discard(seat)
        seat.is_gone = True

        def end(future: Any) -> None:
            weft.kill(seat.handle)
            _let_go(seat)

        seat.handle.end.remote().future().add_done_callback(end)

    def close(self) -> None:
        """End all: those that idle clean up, the others at once. Blocks until they have."""
        for seat in list(self._seats - set(self._idle)):
            if sessions.open:
                # Trials run in this process (local_mode), which cannot be killed: they are let go.
                seat.handle.release.remote(False)
            self.kill(seat)
        ends = [seat.handle.end.remote() for seat in self._idle]
        if ends:
            weft.wait(ends, num_returns=len(ends), timeout=END_S)
        for seat in self._idle:
            self.kill(seat)
        self._idle.clear()


# What a class's cleanup may take at the end of an experiment.
END_S = 10.0


def _group(bundles: tuple[Resources, ...], strategy: str) -> PlacementGroup | None:
    """Reserve several bundles together; one that is empty needs no place."""
    if len(bundles) == 1 or not any(bundles):
        return None
    return placement_group([bundle.to_floats() for bundle in bundles if bundle], strategy)


def _let_go(seat: Seat) -> None:
    if seat.group is not None:
        remove_placement_group(seat.group)


def _options(bundle: Resources, group: PlacementGroup | None) -> Any:
    amounts = bundle.to_floats()
    cpus, gpus = amounts.pop("CPU", 0.0), amounts.pop("GPU", 0.0)
    memory = amounts.pop("memory", None)
    actor = RunnerActor.options(num_cpus=cpus, num_gpus=gpus, memory=memory, resources=amounts)
    if group is None:
        return actor
    index = 0 if bundle else -1
    return actor.options(
        scheduling_strategy=PlacementGroupSchedulingStrategy(
            group, index, placement_group_capture_child_tasks=True
        )
    )
