"""What an experiment has come to: its trials, and what its journal says of them.

The last result of each trial is at hand; the results before it are read from the journal when they
are asked for, once.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

from weft.lowlevel import Resources, lazy
from weft.tune import _journal
from weft.tune._records import Failed, Reported
from weft.tune._session import date_of
from weft.tune._trial_runs import Limits, Reservation, TrialRun
from weft.tune._trials import Trials
from weft.tune._values import decode, flattened, unpacked
from weft.tune.checkpoint import Checkpoint
from weft.tune.error import TrialError, TuneError
from weft.tune.schedulers.fifo import FIFOScheduler

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from weft.tune._journal import Header
    from weft.tune._storage import Storage
else:
    pd = lazy("pandas")

SHOWN_ERRORS = 3
"""Of those that a message tells."""
SCOPES = ("last", "all", "avg", "last-5-avg", "last-10-avg")


class Archive:
    """One experiment, to be read."""

    def __init__(
        self,
        storage: Storage,
        header: Header,
        runs: Sequence[TrialRun],
        metric: str | list[str] | None = None,
        mode: str | list[str] | None = None,
    ) -> None:
        self.storage = storage
        self.header = header
        self.runs = list(runs)
        self.metric = metric or header.metric
        self.mode = mode or header.mode
        self.log_file = ""
        """What a trial writes to stderr is in this file of its directory; empty: not known."""

    @classmethod
    def of(cls, storage: Storage) -> Archive:
        """Read the journal. TuneError: there is none."""
        past = _journal.read(storage)
        if past.header is None:
            raise TuneError(f"there is no experiment in {storage!r}")
        trials = Trials(
            FIFOScheduler(), None, Resources(), default=Reservation.of([{}]), limits=Limits()
        )
        for entry in past.entries():
            trials.replay(entry)
        return cls(storage, past.header, list(trials.run_of.values()))

    # -------------------------------------------------------------- one trial

    def name(self, run: TrialRun) -> str:
        """Return a trial's name."""
        return run.name or f"{self.header.trainable}_{run.id}"

    def dirname(self, run: TrialRun) -> str:
        """Return the name of a trial's directory."""
        return run.dirname or self.name(run)

    def config(self, run: TrialRun) -> dict[str, Any]:
        """Return a trial's configuration."""
        return decode(run.config)

    def metrics(self, run: TrialRun, text: bytes | None = None) -> dict[str, Any]:
        """Return a result of a trial, its last by default, as users see it."""
        text = run.result if text is None else text
        metrics = decode(text) if text else {}
        if metrics:
            metrics.setdefault("done", run.has_ended and text is run.result)
            metrics["trial_id"] = run.id
            if "timestamp" in metrics:
                metrics.setdefault("date", date_of(metrics["timestamp"]))
        return metrics

    def checkpoint(self, run: TrialRun) -> Checkpoint | None:
        """Return a trial's last checkpoint."""
        return self._checkpoint(run, run.checkpoints[-1].name) if run.checkpoints else None

    def _checkpoint(self, run: TrialRun, name: str) -> Checkpoint:
        return Checkpoint._of(self.storage.join(self.dirname(run), name))

    def checkpoints(self, run: TrialRun) -> list[tuple[Checkpoint, dict[str, Any]]]:
        """Return what is in the storage, the oldest first, each with its result."""
        result_of = self._past[run.id].result_of_checkpoint if run.checkpoints else {}
        return [
            (
                self._checkpoint(run, kept.name),
                self.metrics(run, result_of.get(kept.name, run.result)),
            )
            for kept in run.checkpoints
        ]

    def error(self, run: TrialRun) -> BaseException | None:
        """Return why a trial failed for good; None: it did not."""
        if run.status != "ERROR":
            return None
        failed = self._past[run.id].failed
        error = unpacked(failed.pickled) if failed is not None and failed.pickled else None
        if error is None:
            error = TrialError(run.error)
        if failed is not None and failed.traceback:
            error.add_note(failed.traceback)
        return error

    def results(self, run: TrialRun) -> list[dict[str, Any]]:
        """Return all results of a trial, the oldest first."""
        return [self.metrics(run, text) for text in self._past[run.id].results]

    def frame(self, run: TrialRun) -> Any:
        """Return all results of a trial as a DataFrame, a row each."""
        config = {f"config/{key}": value for key, value in flattened(self.config(run)).items()}
        return pd.DataFrame([{**flattened(result), **config} for result in self.results(run)])

    def row(
        self, run: TrialRun, metric: str | None = None, mode: str | None = None
    ) -> dict[str, Any]:
        """Return a trial as the row of a table: its last result, or that with the best metric."""
        result = flattened(self.metrics(run))
        if metric is not None:
            _, order = self.objective(metric, mode)
            having = [found for found in map(flattened, self.results(run)) if metric in found]
            if having:
                result = (min if order == "min" else max)(having, key=lambda r: r[metric])
        config = {f"config/{key}": value for key, value in flattened(self.config(run)).items()}
        return {**result, **config, "trial_id": run.id, "logdir": self.dirname(run)}

    @functools.cached_property
    def _past(self) -> dict[str, _TrialPast]:
        past = {run.id: _TrialPast() for run in self.runs}
        for entry in _journal.read(self.storage).entries():
            event = entry.event
            if isinstance(event, Reported):
                of_trial = past[event.trial_id]
                text = bytes(event.result)
                of_trial.results.append(text)
                if event.checkpoint:
                    of_trial.result_of_checkpoint[event.checkpoint] = text
            elif isinstance(event, Failed):
                past[event.trial_id].failed = event
        return past

    # -------------------------------------------------------------- the best

    def objective(self, metric: str | None, mode: str | None) -> tuple[str, str]:
        """Return what is meant. TuneError: it was never said."""
        metric = metric or (self.metric if isinstance(self.metric, str) else None)
        mode = mode or (self.mode if isinstance(self.mode, str) else None)
        if metric is None or mode is None:
            raise TuneError("say what is best: give metric and mode here, or in the TuneConfig")
        if mode not in {"min", "max"}:
            raise TuneError(f"{mode=}: give 'min' or 'max'")
        return metric, mode

    def score(self, run: TrialRun, metric: str, mode: str, scope: str) -> float | None:
        """Return a trial's value within a scope; None: it has none."""
        if scope == "last":
            found = flattened(decode(run.result)).get(metric) if run.result else None
            return _number(found)
        values = [
            value
            for text in self._past[run.id].results
            if (value := _number(flattened(decode(text)).get(metric))) is not None
        ]
        if not values:
            return None
        if scope == "all":
            return min(values) if mode == "min" else max(values)
        if scope != "avg":
            values = values[-int(scope.split("-")[1]) :]
        return math.fsum(values) / len(values)

    def best(self, metric: str, mode: str, scope: str, *, finite_only: bool) -> TrialRun | None:
        """Return the trial with the best value; of equal ones the oldest. None: none has one."""
        if scope not in SCOPES:
            raise TuneError(f"{scope=}: give one of {', '.join(SCOPES)}")
        best: tuple[float, TrialRun] | None = None
        for run in self.runs:
            value = self.score(run, metric, mode, scope)
            if value is None or (finite_only and not math.isfinite(value)):
                continue
            ranked = value if mode == "min" else -value
            if math.isnan(ranked):
                ranked = math.inf
            if best is None or ranked < best[0]:
                best = (ranked, run)
        return best[1] if best else None

    def must_have_best(self, metric: str, mode: str, scope: str, *, finite_only: bool) -> TrialRun:
        """Return what `best` returns. TuneError: no trial has a value; it says what there is."""
        run = self.best(metric, mode, scope, finite_only=finite_only)
        if run is not None:
            return run
        names = sorted({name for run in self.runs if run.result for name in decode(run.result)})
        reported = f"they reported {', '.join(names)}" if names else "none has reported anything"
        finite = "finite " if finite_only else ""
        told = [f"no trial has a {finite}value of {metric!r}", self.failures(), reported]
        raise TuneError("; ".join(filter(None, told)))

    def failures(self) -> str:
        """Return, in a line, how many trials failed, and the first of their errors.

        Empty: none failed.
        """
        failed = [run for run in self.runs if run.status == "ERROR"]
        if not failed:
            return ""
        first_with: dict[str, TrialRun] = {}
        for run in failed:
            first_with.setdefault(run.error, run)
        told = [self._failure(run) for run in first_with.values()]
        more = [f"and {len(told) - SHOWN_ERRORS} more"] if len(told) > SHOWN_ERRORS else []
        errors = "; ".join([*told[:SHOWN_ERRORS], *more])
        return f"{len(failed)} of {len(self.runs)} trials failed: {errors}"

    def _failure(self, run: TrialRun) -> str:
        where = f"trial {self.name(run)}"
        if self.log_file and self.storage.is_local:
            where += f", log {self.storage.join(self.dirname(run), self.log_file).path}"
        return f"{run.error:.200} ({where})"


class _TrialPast:
    """What the journal says of one trial."""

    __slots__ = ("failed", "result_of_checkpoint", "results")

    def __init__(self) -> None:
        self.results: list[bytes] = []
        self.result_of_checkpoint: dict[str, bytes] = {}
        self.failed: Failed | None = None


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) else None
