"""The trial that this process runs, as the code in it sees it: report, get_checkpoint, get_context.

A report hands its result to the runner and waits for the verdict: it returns when the trial may go
on, and raises SystemExit, which ends the thread, when it may not. It may come from any thread of
the trial; several take turns.

Which session is meant: that of the calling thread, else the only one of the process.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from numbers import Number
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from weft.lowlevel import lazy
from weft.tune._storage import scratch
from weft.tune._values import encode, flattened, simplified
from weft.tune.checkpoint import Checkpoint
from weft.tune.context import TuneContext
from weft.tune.error import TuneError

if TYPE_CHECKING:
    import shutil
    import traceback
    from collections.abc import Callable

    from weft.tune._storage import Storage
else:
    shutil = lazy("shutil")
    traceback = lazy("traceback")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same for all trials of an experiment."""

    experiment: str
    trainable: str
    """What trials are called after."""
    storage: Any
    """Storage of the experiment."""
    metrics: tuple[str, ...] = ()
    """The objective's: they have to be numbers."""
    checkpoint_frequency: int = 0
    checkpoint_at_end: bool = False
    sync_artifacts: bool = False
    sync_artifacts_on_checkpoint: bool = False
    restore: str = ""
    """Path of the checkpoint that trials begin from; empty: none."""
    stdout: str = ""
    """File in the trial's directory that takes what is printed; empty: none."""
    stderr: str = ""


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner is to run."""

    trial_id: str
    name: str
    dirname: str
    config: bytes
    bundles: list[dict[str, float]]
    """What it reserves; its process has the first."""
    checkpoint: str = ""
    """Path in the experiment's storage; empty: none."""
    iteration: int = 0
    time_total_s: float = 0.0
    checkpoints: int = 0
    """How many it has written before."""


class Report(msgspec.Struct, frozen=True):
    """What a trial has reported."""

    text: bytes
    """The metrics, encoded."""
    checkpoint: str = ""
    is_last: bool = False


class TrialClock:
    """Counts results and time, and adds to each result what every one has."""

    __slots__ = ("_began_at", "_last_at", "iteration", "restored", "time_total_s")

    def __init__(self, iteration: int = 0, time_total_s: float = 0.0) -> None:
        self.iteration = iteration
        self.time_total_s = time_total_s
        self.restored = iteration
        self._began_at = self._last_at = time.monotonic()

    def filled(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """Count a result, and return it with what every one has; what it says itself stays."""
        now = time.monotonic()
        taken, self._last_at = now - self._last_at, now
        self.iteration += 1
        self.time_total_s += taken
        return {
            "training_iteration": self.iteration,
            "time_this_iter_s": taken,
            "time_total_s": self.time_total_s,
            "time_since_restore": now - self._began_at,
            "iterations_since_restore": self.iteration - self.restored,
            "timestamp": int(time.time()),
            **_PLACE,
            **metrics,
        }


_PLACE: dict[str, Any] = {"pid": os.getpid(), "hostname": os.uname().nodename}
os.register_at_fork(after_in_child=lambda: _PLACE.update(pid=os.getpid()))


def date_of(timestamp: float) -> str:
    """Return a result's time as Ray writes it."""
    return time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(timestamp))


class TrialSession:
    """One trial's time on a runner."""

    def __init__(self, settings: Settings, assignment: Assignment) -> None:
        self.settings = settings
        self.assignment = assignment
        self.progress = TrialClock(assignment.iteration, assignment.time_total_s)
        self.storage: Storage = settings.storage.join(assignment.dirname)
        self._checkpoints = assignment.checkpoints
        # Another process may still write for this trial: one that its driver did not live to end.
        self._mark = os.urandom(3).hex()
        self._directory = ""
        self._turn = threading.Lock()
        self._results: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        self._verdicts: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._at_end: list[Callable[[], object]] = []
        self.is_stopped = False

    # -------------------------------------------------------------- for the trial's code

    def report(self, metrics: Any, checkpoint: Checkpoint | None) -> None:
        """Hand a result over, and wait for the verdict."""
        with self._turn:
            if self.is_stopped:
                raise SystemExit
            self._results.put(self.result(metrics, checkpoint))
            if not self._verdicts.get():
                raise SystemExit

    def result(
        self, metrics: Any, checkpoint: Checkpoint | None = None, *, is_last: bool = False
    ) -> Report:
        """Check a result, add what every one has, and store its checkpoint."""
        if not isinstance(metrics, dict):
            raise TypeError(
                f"tune.report takes a dictionary of metrics, not {type(metrics).__qualname__}"
            )
        filled = self.progress.filled(simplified(metrics))
        self._check_objective(filled)
        stored = "" if checkpoint is None else self.store(checkpoint)
        return Report(encode(filled), stored, is_last)

    def _check_objective(self, filled: dict[str, Any]) -> None:
        flat = flattened(filled)
        for metric in self.settings.metrics:
            value = flat.get(metric)
            if value is not None and not isinstance(value, Number):
                raise TypeError(
                    f"metric {metric!r} is {value!r} ({type(value).__qualname__}): "
                    "an objective has to be a number"
                )

    def store(self, checkpoint: Checkpoint) -> str:
        """Copy a checkpoint into the experiment's storage, and return its name."""
        name = f"checkpoint_{self._checkpoints:06d}_{self._mark}"
        with checkpoint.as_directory() as directory:
            self.storage.put(directory, name)
        self._checkpoints += 1
        is_apart = bool(self._directory) and not self.storage.is_local
        if is_apart and self.settings.sync_artifacts_on_checkpoint:
            self.storage.put(self._directory, "artifacts")
        return name

    def checkpoint(self) -> Checkpoint | None:
        """Return what the trial is to go on from."""
        if not self.assignment.checkpoint:
            return Checkpoint(self.settings.restore) if self.settings.restore else None
        return Checkpoint._of(self.settings.storage.join(self.assignment.checkpoint))

    def directory(self) -> str:
        """Return a local directory of the trial's own."""
        if not self._directory:
            if self.storage.is_local:
                self._directory = self.storage.path
                Path(self._directory).mkdir(parents=True, exist_ok=True)
            else:
                self._directory = scratch(self.assignment.trial_id)
        return self._directory

    def at_end(self, call: Callable[[], object]) -> None:
        """Have something called when the trial has ended, or leaves its process.

        What it raises is told on stderr: by then it is settled what the trial came to.
        """
        self._at_end.append(call)

    # -------------------------------------------------------------- for the runner

    def wait_result(self) -> Report | None:
        """Wait for the next report; None: the trial's code is through."""
        return self._results.get()

    def go_on(self) -> None:
        """Let the report that waits return."""
        self._verdicts.put(True)

    def finish(self) -> None:
        """Say that the trial's code is through."""
        self._results.put(None)

    def stop(self) -> None:
        """End the report that waits, and all that come, with SystemExit."""
        self.is_stopped = True
        self._verdicts.put(False)

    def close(self) -> None:
        """Do what was asked for at the end of the trial; upload and remove what is to be."""
        while self._at_end:
            try:
                self._at_end.pop()()
            except Exception:  # noqa: BLE001 - a tracker may raise anything
                traceback.print_exc()
        if self._directory and not self.storage.is_local:
            if self.settings.sync_artifacts:
                self.storage.put(self._directory, "artifacts")
            shutil.rmtree(self._directory, ignore_errors=True)


class _Sessions:
    """The sessions of this process; with worker processes there is at most one."""

    def __init__(self) -> None:
        self.open: list[TrialSession] = []
        self.of_thread = threading.local()

    def current(self, asked: str) -> TrialSession:
        """Return the one that the caller belongs to."""
        found: TrialSession | None = getattr(self.of_thread, "session", None)
        if found is None and len(self.open) == 1:
            (found,) = self.open
        if found is None:
            why = "several trials run in this process" if self.open else "no trial runs here"
            raise TuneError(f"{asked} is for the code of a trial, and {why}")
        return found


sessions = _Sessions()


def report(metrics: dict[str, Any], *, checkpoint: Checkpoint | None = None) -> None:
    """Report a trial's metrics. Blocks until the experiment says whether the trial goes on.

    If it does not, SystemExit ends the calling thread, so `finally` blocks run. May be called from
    any thread of the trial.

    Args:
        metrics: Numbers by name; other values are kept, too. Dictionaries inside are looked up as
            `outer/inner`.
        checkpoint: A directory to keep. It is copied before this returns.

    Raises:
        TuneError: No trial runs here.
        TypeError: The metrics are no dictionary, or the objective is no number. Nothing was
            reported.
        OSError: The checkpoint could not be stored. Nothing was reported.
    """
    sessions.current("tune.report").report(metrics, checkpoint)


def get_checkpoint() -> Checkpoint | None:
    """Return the checkpoint that this trial is to go on from; None: it begins.

    Raises:
        TuneError: No trial runs here.
    """
    return sessions.current("tune.get_checkpoint").checkpoint()


def get_context() -> TuneContext:
    """Return facts about the trial that runs here.

    Raises:
        TuneError: No trial runs here.
    """
    return TuneContext(sessions.current("tune.get_context"))
