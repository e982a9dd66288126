"""Each trial's results as lines of JSON, `result.json` in its directory, and its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.lowlevel import lazy, override
from weft.tune.logger._files import TrialFiles, as_json
from weft.tune.logger.logger import LoggerCallback

if TYPE_CHECKING:
    from collections.abc import Sequence

    import cloudpickle

    from weft.tune.experiment.trial import Trial
else:
    cloudpickle = lazy("cloudpickle")

FILE = "result.json"


class JsonLoggerCallback(LoggerCallback):
    """Writes a line for each result, at once; NaN and infinities are null.

    `params.json` holds the configuration for readers, `params.pkl` for programs.
    """

    def __init__(self) -> None:
        self._files = TrialFiles(FILE)

    @override
    def log_trial_start(self, trial: Trial) -> None:
        self.update_config(trial, trial.config)

    @override
    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        self._files.append(trial, FILE, as_json(result) + "\n")

    @override
    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        self._files.close(trial)

    @override
    def on_experiment_end(self, trials: Sequence[Trial], **info: Any) -> None:
        self._files.close_all()

    def update_config(self, trial: Trial, config: dict[str, Any]) -> None:
        """Write a trial's configuration.

        Args:
            trial: Which one.
            config: What it is tried with from here on.
        """
        self._files.write(trial, "params.json", as_json(config, indent=2).encode())
        self._files.write(trial, "params.pkl", cloudpickle.dumps(config))
