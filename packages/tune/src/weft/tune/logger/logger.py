"""What loggers are made from: one call at each turn of a trial's life."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.lowlevel import override
from weft.tune.callback import Callback

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weft.tune.experiment.trial import Trial


class LoggerCallback(Callback):
    """Override what is of interest.

    Guaranteed: `log_trial_start` before a trial's first result, and again whenever it goes on after
    a pause, a failure or another run; `log_trial_end` last and once.
    """

    def log_trial_start(self, trial: Trial) -> None:
        """A trial begins, or goes on."""

    def log_trial_restore(self, trial: Trial) -> None:
        """A trial goes on from a checkpoint."""

    def log_trial_save(self, trial: Trial) -> None:
        """A trial has a new checkpoint."""

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """A trial has reported.

        Args:
            iteration: Turns of the loop.
            trial: Which one.
            result: What it reported, with its configuration under `config`.
        """

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """A trial has ended.

        Args:
            trial: Which one.
            failed: Whether with an error.
        """

    @override
    def on_trial_start(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any
    ) -> None:
        self.log_trial_start(trial)

    @override
    def on_trial_restore(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any
    ) -> None:
        self.log_trial_restore(trial)

    @override
    def on_trial_save(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any
    ) -> None:
        self.log_trial_save(trial)

    @override
    def on_trial_result(
        self,
        iteration: int,
        trials: Sequence[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        self.log_trial_result(iteration, trial, result)

    @override
    def on_trial_complete(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any
    ) -> None:
        self.log_trial_end(trial, failed=False)

    @override
    def on_trial_error(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any
    ) -> None:
        self.log_trial_end(trial, failed=True)
