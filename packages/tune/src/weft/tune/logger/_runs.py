"""What trackers of experiments have in common: one run of theirs for each trial."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.lowlevel import override
from weft.tune._values import flattened
from weft.tune.logger.logger import LoggerCallback

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from weft.tune.experiment.trial import Trial


class RunPerTrial(LoggerCallback):
    """Keeps a tracker's run for each trial, from its first start to its end.

    A trial that is paused or tried again goes on in its run. Runs of trials that have not ended are
    closed when the experiment's run ends.
    """

    def __init__(self) -> None:
        self._run_of: dict[str, Any] = {}

    def _open(self, trial: Trial) -> Any:
        """Begin a run for a trial, or go on with the one that it had."""
        raise NotImplementedError

    def _close(self, trial: Trial, run: Any, *, failed: bool) -> None:
        """End a trial's run: the trial has ended."""
        raise NotImplementedError

    def _leave(self, run: Any) -> None:
        """Close a run whose trial has not ended."""
        raise NotImplementedError

    def _run(self, trial: Trial) -> Any:
        run = self._run_of.get(trial.trial_id)
        if run is None:
            run = self._run_of[trial.trial_id] = self._open(trial)
        return run

    @override
    def log_trial_start(self, trial: Trial) -> None:
        self._run(trial)

    @override
    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        run = self._run(trial)
        del self._run_of[trial.trial_id]
        self._close(trial, run, failed=failed)

    @override
    def on_experiment_end(self, trials: Sequence[Trial], **info: Any) -> None:
        while self._run_of:
            self._leave(self._run_of.popitem()[1])


def numbers(result: dict[str, Any], only: Collection[str] | None = None) -> dict[str, float]:
    """Return the finite numbers of a result, without the configuration.

    Args:
        result: Those inside dictionaries are called `outer/inner`.
        only: Their names; None: all.
    """
    return {
        name: value
        for name, value in flattened(result).items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and not name.startswith("config/")
        and (only is None or name in only)
    }


def without(values: Mapping[str, Any], excluded: Collection[str]) -> dict[str, Any]:
    """Return a dictionary without some names."""
    return {name: value for name, value in values.items() if name not in excluded}


def key_from(key: str | None, file: str | None, variable: str, known: Mapping[str, str]) -> str:
    """Return the key that was given, in itself, in a file or in the environment; empty: none.

    Raises:
        ValueError: It was given twice.
    """
    if key and file:
        raise ValueError("give a key, or a file that has it")
    if file:
        return Path(file).expanduser().read_text(encoding="utf-8").strip()
    return key or known.get(variable, "")
