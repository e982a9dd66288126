"""Counts the trials of an experiment, and finds the best, the newest and those that failed."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from typing import TYPE_CHECKING

from weft.tune._values import flattened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weft.tune.experiment.trial import Trial


class TrialTally:
    """Counts trials. Those at the beginning that have ended well are looked at once.

    Only they: a trial that failed may be revived.
    """

    def __init__(self) -> None:
        self.number = 0
        self.counts: Counter[str] = Counter()
        self.best: tuple[float, Trial] | None = None
        self.failed: list[Trial] = []
        self.running: list[Trial] = []
        self._trials: Sequence[Trial] = ()
        self._settled = 0
        self._settled_best: tuple[float, Trial] | None = None
        self._metric: str | None = None
        self._sign = 1.0

    def take(self, trials: Sequence[Trial], metric: str | None, mode: str | None) -> None:
        """Look at how trials stand."""
        self._trials = trials
        self._metric, self._sign = metric, -1.0 if mode == "max" else 1.0
        self.number = len(trials)
        self.counts = Counter({"TERMINATED": self._settled})
        self.failed = []
        self.running = []
        self.best = self._settled_best
        is_settled = True
        for trial in trials[self._settled :]:
            status = trial.status
            self.counts[status] += 1
            if status == "ERROR":
                self.failed.append(trial)
            elif status == "RUNNING":
                self.running.append(trial)
            value = self._value(trial)
            if value is not None and (
                self.best is None or self._sign * value < self._sign * self.best[0]
            ):
                self.best = (value, trial)
            is_settled = is_settled and status == "TERMINATED"
            if is_settled:
                self._settled += 1
                self._settled_best = self.best

    def _value(self, trial: Trial) -> float | None:
        if self._metric is None:
            return None
        value = flattened(trial.last_result).get(self._metric)
        if not isinstance(value, int | float) or not math.isfinite(value):
            return None
        return value

    def newest(self, most: int) -> list[Trial]:
        """Return trials that run, then the newest others while there is room."""
        rows = self.running[-most:] if most else []
        for trial in reversed(self._trials[-most:]):
            if len(rows) == most:
                break
            if trial.status not in {"RUNNING", "PENDING"}:
                rows.append(trial)
        return rows

    def best_trials(self, most: int) -> list[Trial]:
        """Return the trials with the best values."""

        def rank(trial: Trial) -> float:
            value = self._value(trial)
            return math.inf if value is None else self._sign * value

        return heapq.nsmallest(most, self._trials, key=rank)
