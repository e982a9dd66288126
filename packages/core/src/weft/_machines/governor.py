"""What a node does when its memory gets short: a few steps, the mildest first.

Everything depends on the room that is left below the limit that leaves least of it, counted in
margins: a tenth of that limit, `MARGIN_BYTES` at most.

    room            step
    2 margins       hold     no more tasks at once than there are
    1 margin        spill    let objects go to disk
                    pause    stop the youngest tasks, the more of them the less room there will
                             be at the next sample; with 2 margins left if that will be 1/2
    1/2             put back end paused tasks that may run again, the youngest first
    1/4             end      the process that holds most, if that makes room; and not while objects
                             still go to disk: it is stopped as long, and somewhat sooner

    runs -> paused -> runs                  as soon as there is room for what it may still take
              +----> ended, queued again    costs its task no retry
              +----> ended                  costs one; a task that was alone fails for good

A function's peak (peaks.py) is the most that its tasks were seen to take beyond what their worker
had before. If tasks of the function on all CPUs could take half of the limit, it is told (Learn),
and from then on they ask for as much of the resource `memory`.

What is always true
1. While a task is paused another runs that is neither paused nor waiting: there is progress. But
   while the last one is stopped to be ended, or until objects have gone to disk for it. A task
   waits if it is blocked in `get`, or if it has hardly used a processor for `STALL_S`: it may wait
   for one that is paused, or not leased, in a way that nobody sees.
2. Paused for long are only tasks: no actor, for others call it; nothing that others hold objects
   of, or that waits for others; no task with a time limit, which would run on.
3. What is paused is resumed or ended: resumed in order of age, when what it may take yet fits
   beside what the others may.
4. Nothing is ended that was not seen stopped: so it still is what it was chosen for.
5. One kind of step at a time, and none while memory of what was ended is not free yet.
6. With more room than the first line nothing is paused or ended, and width is set free.

It sees samples, so a task that takes all room between two of them is faster. `interval_s` is so
short that all CPUs together fill at most half of the room above the second line meanwhile.

Width is found as TCP finds its window: next to nothing when there is pressure, a little more after
each while without (Jacobson, Congestion Avoidance and Control, SIGCOMM 1988). Peaks make that the
exception: tasks of a known function are leased by what they take.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Literal

import msgspec

from weft._exits import amount
from weft._machines.peaks import Peaks

MARGIN_SHARE = 10
# On a large machine a tenth is more than can be filled before it is noticed.
MARGIN_BYTES = 4 << 30
# So many are not promised to tasks: a little more than are left when the first is paused.
KEPT_MARGINS = 1.1
# How fast a CPU fills fresh pages: 1.0 to 1.3 GB/s where this was measured.
FILL_BYTES_S = 2e9
LEAST_INTERVAL_S = 0.02
# Until what the next sample leads to is done.
AHEAD_S = 0.03
MOST_INTERVAL_S = 1.0
# So long without a step, more may start.
CALM_S = 0.5
# So long is waited for objects to go to disk before anything is ended, and for the next of them.
DISK_S = 1.0
# The same while some are being written: a large one takes its time, but a disk may hang.
WRITE_S = 30.0
# Steps are told once, until there was none for so long.
EPISODE_S = 5.0
# So long without so much of a processor is called waiting.
STALL_S = 10.0
STALL_SHARE = 0.02
# A task that was sampled less often may have had a higher peak than was seen.
SAMPLES = 3
# If what Weft runs holds less of what is in use, to end any of it is no help.
CULPABLE_SHARE = 0.25
NEVER = float("-inf")


# ------------------------------------------------------------------ events


class MemoryBound(msgspec.Struct, frozen=True):
    """A limit, and how much of it is in use, page cache left out."""

    name: str
    limit_bytes: int
    used_bytes: int

    @property
    def room(self) -> int:
        """How much is left, in bytes; below 0 if more is in use than allowed."""
        return self.limit_bytes - self.used_bytes

    @property
    def margin(self) -> int:
        """The unit of the lines at which something is done, in bytes."""
        return min(self.limit_bytes // MARGIN_SHARE, MARGIN_BYTES)

    def text(self) -> str:
        """Say it in words."""
        return f"{amount(self.used_bytes)} of {amount(self.limit_bytes)} in use ({self.name})"


class WorkerMemory(msgspec.Struct, frozen=True):
    """A worker process, what it runs, and what it has of its own."""

    worker: bytes
    pid: int
    own_bytes: int
    lease: int | None = None
    is_actor: bool = False
    is_blocked: bool = False
    """Its task waits for others."""
    kept_bytes: int = 0
    """Memory that its lease stands for."""
    task: bytes = b""
    """What it runs, and which attempt; empty if it is idle."""
    function: str = ""
    may_repeat: bool = False
    """Its task may be run again."""
    is_timed: bool = False
    """Its task has a time limit."""
    is_lender: bool = False
    """Other processes hold objects of this one."""
    cpu_s: float = 0.0
    """What it has taken of processors, in seconds; may be a second old."""

    @property
    def is_task(self) -> bool:
        """Whether it serves tasks, not an actor."""
        return self.lease is not None and not self.is_actor


class Sampled(msgspec.Struct, frozen=True):
    """Memory was looked at."""

    bounds: Sequence[MemoryBound]
    """At least one."""
    workers: Sequence[WorkerMemory]
    """All processes that have not been reaped."""
    holds_back: bool
    """Tasks of functions that are not known wait for nothing but the width."""
    store_bytes: int = 0
    """What of the memory in use is lent for objects."""
    is_writing: bool = False
    """Some of them are being written to disk."""


# ------------------------------------------------------------------ effects


class Restrain(msgspec.Struct, frozen=True):
    """Lease no more than this."""

    width: int | None
    """Tasks at once; None: as many as like. Does not hold for those whose memory is known."""
    room_bytes: int
    """For all tasks whose memory is known, together."""
    words: str
    """What is in use, of what."""
    lets_one_pass: bool = False
    """Lease one all the same: those that run seem to wait for it."""


class FreeStore(msgspec.Struct, frozen=True):
    """Let so much of what objects take become free."""

    size_bytes: int


class PauseWorker(msgspec.Struct, frozen=True):
    """Stop the worker's processes."""

    worker: bytes
    words: str


class ResumeWorker(msgspec.Struct, frozen=True):
    """Let the worker's processes go on."""

    worker: bytes


class EndForMemory(msgspec.Struct, frozen=True):
    """Kill the worker's processes."""

    worker: bytes
    retry: Literal["counts", "free", "never"]
    """What another attempt of its task costs."""
    reason: str


class Learn(msgspec.Struct, frozen=True):
    """Let tasks of this function ask for so much memory; 0: for none."""

    function: str
    memory_bytes: int


class TellUser(msgspec.Struct, frozen=True):
    """Write a line to the user."""

    text: str


Effect = Restrain | FreeStore | PauseWorker | ResumeWorker | EndForMemory | Learn | TellUser


# ------------------------------------------------------------------ state


class _Run:
    """A task on a worker, from the first sample to the last."""

    __slots__ = ("_mark", "floor", "is_stalled", "last", "peak", "rise", "samples", "since")

    def __init__(self, seen: WorkerMemory, floor: int, since: float) -> None:
        self.last = seen
        self.since = since
        self.floor = floor
        """What the worker had of its own before, in bytes."""
        self.peak = 0
        self.rise = 0
        """What it has taken since the sample before the last."""
        self.samples = 0
        self.is_stalled = False
        """It hardly uses a processor."""
        self._mark = (since, seen.cpu_s)

    @property
    def waits(self) -> bool:
        """Whether it seems to wait for others."""
        return self.last.is_blocked or self.is_stalled

    @property
    def growth(self) -> int:
        """What the task takes, in bytes."""
        return self.last.own_bytes - self.floor

    def see(self, seen: WorkerMemory, now: float, *, is_paused: bool) -> None:
        self.rise = seen.own_bytes - self.last.own_bytes
        self.last = seen
        at, cpu_s = self._mark
        if is_paused:
            self.is_stalled = False
            self._mark = (now, seen.cpu_s)
        elif now - at >= STALL_S:
            self.is_stalled = seen.cpu_s - cpu_s < STALL_SHARE * (now - at)
            self._mark = (now, seen.cpu_s)
        self.floor = min(self.floor, seen.own_bytes)
        self.peak = max(self.peak, self.growth)
        self.samples += 1


class Governor:
    """The memory of one node."""

    def __init__(self, *, cpus: int, cores: int, most_bytes: int) -> None:
        """`cpus`: of the resource; `cores`: that exist; `most_bytes`: all of `memory`."""
        self._cpus = cpus
        self._cores = cores
        self._bounds: Sequence[MemoryBound] = ()
        self._bound = MemoryBound("", 0, 0)
        """The one with least room, in margins."""
        self._sampled_at = NEVER
        self._room_ahead = 0.0
        """What is left of it in `AHEAD_S` if nobody is paused, in bytes."""
        self._run_of: dict[bytes, _Run] = {}
        self._idle_bytes: dict[bytes, int] = {}
        """What idle workers have of their own."""
        self._peaks = Peaks(most_bytes)
        self._paused: dict[bytes, float] = {}
        """When, by worker."""
        self._stopped = b""
        """Who was stopped in the last sample, to be ended if there is no more room in the next."""
        self._ending: set[bytes] = set()
        self._store_bytes = 0
        self._disk_s = DISK_S
        """How long to wait for the next object to be on disk."""
        self._freed_at = NEVER
        """When the store was last asked for room for the first time, or was seen to give some."""
        self._free_again_at = NEVER
        self._width: int | None = None
        self._restraint: Restrain | None = None
        self._calm_since = 0.0
        """Since then there was no step, nor another width."""
        self._told: set[str] = set()
        self.steps = {"paused": 0, "put back": 0, "ended": 0}
        """How many tasks were paused and put back, and how many processes were ended."""
        self._before = dict(self.steps)
        """The same, when the episode began."""
        self._longest_s = 0.0

    # -------------------------------------------------------------- events

    def handle(self, event: Sampled, now: float) -> list[Effect]:
        """Take a sample; return what to do, in order."""
        effects: list[Effect] = []
        rise = self._look_at(event.bounds)
        self._observe(event.workers, effects, now)
        self._look_ahead(rise, now)
        self._stopped = b""
        self._free_store(event.store_bytes, effects, now)
        self._disk_s = WRITE_S if event.is_writing else DISK_S
        is_step = self._step(event.workers, effects, now)
        self._resume_some(effects, now, is_step=is_step)
        self._choose_width(event, effects, now, is_step=is_step)
        self._restrain(event.workers, effects)
        return effects

    @property
    def is_at_rest(self) -> bool:
        """Whether nobody is restrained."""
        return self._width is None and not self._paused and not self._ending

    @property
    def interval_s(self) -> float:
        """How long to wait for the next sample, in seconds."""
        room = min(bound.room - bound.margin for bound in self._bounds)
        in_time_s = room / (2 * FILL_BYTES_S * self._cores)
        return min(max(LEAST_INTERVAL_S, in_time_s), MOST_INTERVAL_S)

    # -------------------------------------------------------------- what is seen

    def _look_at(self, bounds: Sequence[MemoryBound]) -> int:
        """Take the limits; return by how much use of the one that counts has grown, in bytes."""
        used_of = {bound.name: bound.used_bytes for bound in self._bounds}
        self._bounds = bounds
        self._bound = min(bounds, key=lambda bound: bound.room / max(1, bound.margin))
        return self._bound.used_bytes - used_of.get(self._bound.name, self._bound.used_bytes)

    def _look_ahead(self, rise: int, now: float) -> None:
        """Expect as much as since the last sample, but of tasks that have got room beforehand."""
        rise -= sum(run.rise for run in self._run_of.values() if run.last.kept_bytes)
        rise_s = max(0, rise) / max(LEAST_INTERVAL_S, now - self._sampled_at)
        self._sampled_at = now
        self._room_ahead = self._bound.room - rise_s * AHEAD_S

    def _observe(self, workers: Sequence[WorkerMemory], effects: list[Effect], now: float) -> None:
        living = {seen.worker for seen in workers}
        for worker in self._run_of.keys() - living:
            self._forget_run(worker, effects)
        for worker in self._paused.keys() - living:
            self._note_pause(worker, now)
        for worker in self._idle_bytes.keys() - living:
            del self._idle_bytes[worker]
        self._ending &= living
        for seen in workers:
            before = self._run_of.get(seen.worker)
            if before is not None and (before.last.task != seen.task or not seen.is_task):
                self._forget_run(seen.worker, effects)
            if not seen.is_task or not seen.task:
                self._idle_bytes[seen.worker] = seen.own_bytes
                continue
            run = self._run_of.get(seen.worker)
            if run is None:
                floor = self._floor(seen, before)
                run = self._run_of[seen.worker] = _Run(seen, floor, now)
            run.see(seen, now, is_paused=seen.worker in self._paused)
            self._peaks.rise(seen.function, run.peak)

    def _floor(self, seen: WorkerMemory, before: _Run | None) -> int:
        """Return what a worker had before it began a task, as far as that is known."""
        if before is None:
            return self._idle_bytes.pop(seen.worker, 0)
        # What tasks of the same function leave behind is theirs.
        return before.floor if before.last.function == seen.function else seen.own_bytes

    def _forget_run(self, worker: bytes, effects: list[Effect]) -> None:
        """A task has ended."""
        run = self._run_of.pop(worker)
        function = run.last.function
        if run.samples >= SAMPLES and worker not in self._ending:
            self._peaks.fall(function, run.peak)
        self._learn(function, effects)

    def _learn(self, function: str, effects: list[Effect], above: float = 1.0) -> None:
        """Tell a function's peak if it matters; see Peaks.news."""
        at_once = max(self._cpus, len(self._run_of), 1)
        limit_bytes = min(bound.limit_bytes for bound in self._bounds)
        news = self._peaks.news(function, limit_bytes // (2 * at_once), above)
        if news is not None:
            effects.append(Learn(function, news))

    def _tasks(self) -> list[_Run]:
        """Return those that run or are paused, the oldest first."""
        return sorted(
            (run for worker, run in self._run_of.items() if worker not in self._ending),
            key=lambda run: (run.since, run.last.lease),
        )

    def _running(self) -> list[_Run]:
        """Return those that make progress, the oldest first."""
        return [
            run for run in self._tasks() if run.last.worker not in self._paused and not run.waits
        ]

    def _to_come(self, run: _Run) -> float:
        """Return what a task may take yet. After its peak it is expected to have no other."""
        return max(0.0, self._peaks.of(run.last.function) - run.peak)

    # -------------------------------------------------------------- the steps

    def _step(self, workers: Sequence[WorkerMemory], effects: list[Effect], now: float) -> bool:
        """Do the mildest thing that is left; return whether there was one."""
        room, margin = self._bound.room, self._bound.margin
        is_fast = room < 2 * margin and self._room_ahead < margin / 2
        if room >= margin and not is_fast:
            return False
        if self._pause_youngest(effects, now):
            return True
        if self._ending:
            return False
        if room < margin // 2 and self._put_back(effects):
            return True
        # Objects that go to disk make room for who would otherwise be faster.
        least = self._room_ahead if self._store_bytes and room < margin else room
        return least < margin // 4 and self._end_largest(workers, effects, now)

    def _free_store(self, store_bytes: int, effects: list[Effect], now: float) -> None:
        """Ask for room, again and again while there is little."""
        missing = self._bound.margin - self._bound.room
        is_less = store_bytes < self._store_bytes
        self._store_bytes = store_bytes
        if missing <= 0:
            self._free_again_at = NEVER
            return
        if is_less or self._free_again_at == NEVER:
            self._freed_at = now
        if store_bytes and self._free_again_at <= now:
            self._free_again_at = now + DISK_S / 2
            effects.append(FreeStore(min(store_bytes, missing + self._bound.margin)))
            self._tell("spill", "objects go to disk", effects)

    def _pause_youngest(self, effects: list[Effect], now: float) -> bool:
        running = self._running()
        # One that has just begun may be over before the signal is there.
        young = [
            run.last
            for run in running[1:]
            if run.samples > 1 and not run.last.is_timed and not run.last.is_lender
        ]
        if not young:
            return False
        for run in running:
            self._learn(run.last.function, effects, above=1.25)
        margin = self._bound.margin
        depth = min(1.0, 2 * (margin - self._room_ahead) / margin)
        chosen = young[-max(1, ceil((len(running) - 1) * depth)) :]
        for seen in reversed(chosen):
            self._pause(seen, effects, now)
        more = f", and {len(chosen) - 1} more" if len(chosen) > 1 else ""
        self._tell("pause", f"{_who(chosen[-1])} is paused{more}", effects)
        return True

    def _pause(self, seen: WorkerMemory, effects: list[Effect], now: float) -> None:
        self._paused[seen.worker] = now
        self.steps["paused"] += 1
        effects.append(PauseWorker(seen.worker, self._bound.text()))

    def _put_back(self, effects: list[Effect]) -> bool:
        missing = self._bound.margin - self._bound.room
        able = [run for run in self._tasks() if not run.waits]
        for run in reversed(able[1:]):
            seen = run.last
            if missing <= 0:
                break
            if seen.worker not in self._paused or not seen.may_repeat or seen.is_lender:
                continue
            if seen.own_bytes < self._bound.margin // 8:
                continue  # It would start all over again, and hardly make room.
            missing -= seen.own_bytes
            self._learn(seen.function, effects, above=1.25)
            self._end(seen, "free", "memory was short, and it was the youngest", effects)
            self.steps["put back"] += 1
            self._tell("put back", f"{_who(seen)} is ended, and its task runs again later", effects)
        return bool(self._ending)

    def _end_largest(
        self, workers: Sequence[WorkerMemory], effects: list[Effect], now: float
    ) -> bool:
        leased = [seen for seen in workers if seen.lease is not None]
        held_bytes = sum(seen.own_bytes for seen in leased)
        if held_bytes < self._bound.used_bytes * CULPABLE_SHARE:
            self._tell("others", "other programs than tasks and actors hold it", effects)
            return False
        seen = max(leased, key=lambda seen: seen.own_bytes)
        if seen.worker not in self._paused:
            self._stopped = seen.worker
            self._pause(seen, effects, now)
            return True
        is_disk_awaited = self._store_bytes and now - self._freed_at < self._disk_s
        if is_disk_awaited or self._bound.room >= self._bound.margin // 4:
            self._stopped = seen.worker
            return True
        is_alone = held_bytes - seen.own_bytes < self._bound.margin
        held = f"it held {amount(seen.own_bytes)}, with {self._bound.text()}"
        advice = "let it do less at a time" if is_alone else "run fewer at once"
        self._end(
            seen,
            "never" if is_alone and seen.is_task else "counts",
            f"memory ran out: {held}; {advice}, or give it more memory",
            effects,
        )
        self.steps["ended"] += 1
        self._tell(f"end {seen.pid}", f"{_who(seen)} is ended: it held most", effects)
        return True

    def _end(
        self,
        seen: WorkerMemory,
        retry: Literal["counts", "free", "never"],
        reason: str,
        effects: list[Effect],
    ) -> None:
        self._ending.add(seen.worker)
        del self._paused[seen.worker]
        effects.append(EndForMemory(seen.worker, retry, reason))

    # -------------------------------------------------------------- and back

    def _resume_some(self, effects: list[Effect], now: float, *, is_step: bool) -> None:
        for worker in [worker for worker in self._paused if worker != self._stopped]:
            run = self._run_of.get(worker)
            # It may have ended, or begun to wait, before the signal was there.
            if run is None or run.last.is_blocked or run.last.is_timed or run.last.is_lender:
                self._resume(worker, effects, now)
        paused = [run for run in self._tasks() if run.last.worker in self._paused]
        if not paused or self._stopped:
            return
        running = self._running()
        room = self._spare() - sum(map(self._to_come, running))
        if not running or (not is_step and self._to_come(paused[0]) <= room):
            self._resume(paused[0].last.worker, effects, now)

    def _spare(self) -> int:
        """Return how much may be promised, in bytes."""
        return min(bound.room - int(KEPT_MARGINS * bound.margin) for bound in self._bounds)

    def _resume(self, worker: bytes, effects: list[Effect], now: float) -> None:
        self._note_pause(worker, now)
        effects.append(ResumeWorker(worker))

    def _note_pause(self, worker: bytes, now: float) -> None:
        """A pause has ended."""
        self._longest_s = max(self._longest_s, now - self._paused.pop(worker))

    # -------------------------------------------------------------- what is leased

    def _choose_width(
        self, event: Sampled, effects: list[Effect], now: float, *, is_step: bool
    ) -> None:
        leased = [seen for seen in event.workers if seen.is_task]
        active = sum(not seen.is_blocked and seen.worker not in self._ending for seen in leased)
        is_tight = self._bound.room < self._bound.margin
        if leased and (is_step or is_tight or self._paused or self._ending):
            self._width, self._calm_since = 1, now
        elif self._width is not None:
            if not leased:
                self._end_restraint(effects)
            elif now - self._calm_since >= CALM_S:
                self._widen(self._width, active, effects)
                self._calm_since = now
        elif active and self._bound.room < 2 * self._bound.margin:
            self._width, self._calm_since = active, now
        if self._width is not None and event.holds_back:
            self._tell("hold", "no more tasks start", effects)
        is_over = self._width is None and self._bound.room >= self._bound.margin
        if is_over and now - self._calm_since >= EPISODE_S:
            self._told.clear()

    def _widen(self, width: int, active: int, effects: list[Effect]) -> None:
        is_roomy = self._bound.room >= 2 * self._bound.margin
        if active < width and is_roomy:
            self._end_restraint(effects)
        elif active >= width:
            self._width = 2 * active if is_roomy else active + 1

    def _end_restraint(self, effects: list[Effect]) -> None:
        self._width = None
        self._tell_end(effects)

    def _restrain(self, workers: Sequence[WorkerMemory], effects: list[Effect]) -> None:
        """Say what may be leased, if that is news."""
        # What leases stand for and have taken is not counted twice.
        kept = sum(
            min(run.growth, seen.kept_bytes)
            for seen in workers
            if (run := self._run_of.get(seen.worker))
        )
        room = 0 if self._paused or self._ending else self._spare() + kept
        active = [run for run in self._tasks() if not run.last.is_blocked]
        lets_one_pass = bool(active) and all(run.is_stalled for run in active)
        last = self._restraint
        if last is None:
            is_news = self._width is not None or self._peaks.is_any_told
        else:
            is_news = (self._width, lets_one_pass) != (last.width, last.lets_one_pass) or abs(
                room - last.room_bytes
            ) > self._bound.margin // 32
        if is_news:
            self._restraint = Restrain(self._width, room, self._bound.text(), lets_one_pass)
            effects.append(self._restraint)

    # -------------------------------------------------------------- what the user is told

    def _tell(self, step: str, text: str, effects: list[Effect]) -> None:
        """Tell of a step, unless it was told in this episode."""
        if step not in self._told:
            self._told.add(step)
            effects.append(TellUser(f"memory is short, {self._bound.text()}: {text}"))

    def _tell_end(self, effects: list[Effect]) -> None:
        pauses, repeats = (self.steps[kind] - self._before[kind] for kind in ("paused", "put back"))
        if pauses and "over" not in self._told:
            self._told.add("over")
            again = f"; tasks that run again: {repeats}" if repeats else ""
            effects.append(
                TellUser(
                    f"memory is no longer short; pauses: {pauses}, of at most "
                    f"{self._longest_s:.1f} s{again}"
                )
            )
        self._before = dict(self.steps)
        self._longest_s = 0.0

    # -------------------------------------------------------------- questions

    def check(self) -> None:
        """Assert what is always true, by its number above."""
        paused = [run for run in self._tasks() if run.last.worker in self._paused]
        assert not paused or self._running() or self._stopped, 1
        for worker in self._paused.keys() - {self._stopped}:
            seen = self._run_of[worker].last
            assert not (seen.is_blocked or seen.is_timed or seen.is_lender), (2, worker)
        assert not self._paused.keys() & self._ending, 3
        assert self._width is None or self._width > 0, 6


def _who(seen: WorkerMemory) -> str:
    what = seen.function or ("an actor" if seen.is_actor else "a worker")
    return f"{what} (process {seen.pid}, {amount(seen.own_bytes)})"
