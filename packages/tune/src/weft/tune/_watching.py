"""Tells callbacks and the progress reporter what happens."""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

from weft.lowlevel import lazy, override
from weft.tune.experiment.trial import Trial
from weft.tune.progress_reporter import ProgressReporter

if TYPE_CHECKING:
    from collections.abc import Mapping

    import cloudpickle

    from weft.tune._archive import Archive
    from weft.tune._records import What
    from weft.tune._trial_runs import TrialRun
    from weft.tune.callback import CallbackList
else:
    cloudpickle = lazy("cloudpickle")

CALLBACKS = "callbacks.pkl"


class TrialList(Sequence[Trial]):
    """All trials, in the order of their creation; each is made when it is looked at."""

    def __init__(self, run_of: Mapping[str, TrialRun], archive: Archive) -> None:
        self._run_of = run_of
        self._archive = archive

    @override
    def __len__(self) -> int:
        return len(self._run_of)

    @overload
    def __getitem__(self, index: int) -> Trial: ...
    @overload
    def __getitem__(self, index: slice) -> list[Trial]: ...
    @override
    def __getitem__(self, index: int | slice) -> Trial | list[Trial]:
        runs = list(self._run_of.values())
        if isinstance(index, slice):
            return [Trial(run, self._archive) for run in runs[index]]
        return Trial(runs[index], self._archive)

    @override
    def __iter__(self) -> Any:
        return (Trial(run, self._archive) for run in list(self._run_of.values()))


class Watching:
    """The callbacks of one run, and its reporter."""

    def __init__(
        self,
        callbacks: CallbackList,
        reporter: Any,
        archive: Archive,
        run_of: Mapping[str, TrialRun],
    ) -> None:
        self._callbacks = callbacks
        self._reporter = reporter
        self._archive = archive
        self._trials = TrialList(run_of, archive)
        self.iteration = 0

    def begin(self, facts: Mapping[str, Any]) -> None:
        """The run begins; `facts` are what `Callback.setup` takes."""
        self._callbacks.setup(**facts)
        if self._reporter is not None:
            self._reporter.setup(
                start_time=time.time(), total_samples=facts["total_num_samples"],
                metric=self._archive.metric, mode=self._archive.mode,
            )  # fmt: skip
        if CALLBACKS in self._archive.storage.names():
            self._callbacks.set_state(pickle.loads(self._archive.storage.read(CALLBACKS)))  # noqa: S301 - `end` wrote it

    def step_begins(self) -> None:
        """The loop is about to take an event."""
        self.iteration += 1
        self._callbacks.on_step_begin(self.iteration, self._trials)

    def step_ends(self) -> None:
        """The loop has taken it."""
        self._callbacks.on_step_end(self.iteration, self._trials)
        self.look()

    def look(self) -> None:
        """Have the reporter report, if it is time."""
        if self._reporter is not None and self._reporter.should_report(self._trials):
            self._reporter.report(self._trials, done=False)

    def note(self, what: What, run: TrialRun) -> None:
        """Something happened to a trial."""
        if not self._callbacks:
            return
        trial, callbacks = Trial(run, self._archive), self._callbacks
        told = self.iteration, self._trials, trial
        match what:
            case "start":
                callbacks.on_trial_start(*told)
            case "result":
                result = {**self._archive.metrics(run), "config": trial.config}
                callbacks.on_trial_result(*told, result)
            case "complete":
                callbacks.on_trial_complete(*told)
            case "error":
                callbacks.on_trial_error(*told)
            case "recover":
                callbacks.on_trial_recover(*told)
            case "restore":
                callbacks.on_trial_restore(*told)
            case "save":
                checkpoint = trial.checkpoint
                callbacks.on_trial_save(*told)
                if checkpoint is not None:
                    callbacks.on_checkpoint(*told, checkpoint)

    def end(self) -> None:
        """The run ends."""
        self._callbacks.on_experiment_end(self._trials)
        if self._reporter is not None:
            self._reporter.report(self._trials, done=True)
        state = self._callbacks.get_state()
        if state is not None:
            self._archive.storage.write(CALLBACKS, cloudpickle.dumps(state))

    def close(self) -> None:
        """The run is over, in whatever way."""
        # Only what is derived from ProgressReporter has something to give back.
        if isinstance(self._reporter, ProgressReporter):
            self._reporter.close()
