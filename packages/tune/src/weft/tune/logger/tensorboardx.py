"""Each trial's results for TensorBoard, in its directory: the package tensorboardX."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from weft.lowlevel import override
from weft.tune._values import flattened
from weft.tune.logger._files import TrialFiles
from weft.tune.logger.logger import LoggerCallback
from weft.tune.search.extras import required

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weft.tune.experiment.trial import Trial


class TBXLoggerCallback(LoggerCallback):
    """Writes numbers as scalars and arrays as histograms, over `training_iteration`.

    At a trial's end its configuration and last numbers go into the table of hyperparameters.

    Raises:
        ImportError: tensorboardX is not installed.
    """

    def __init__(self) -> None:
        required("tensorboardX", extra="tensorboard")
        self._files = TrialFiles()
        self._writer_of: dict[str, Any] = {}

    @override
    def log_trial_start(self, trial: Trial) -> None:
        self._writer(trial)

    @override
    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        writer = self._writer(trial)
        step = result["training_iteration"]
        for name, value in flattened(result).items():
            if name.startswith("config/"):
                continue
            if isinstance(value, int | float) and not isinstance(value, bool):
                writer.add_scalar(name, value, global_step=step)
            elif getattr(value, "ndim", 0) > 0 and value.dtype.kind in "iuf" and value.size:
                writer.add_histogram(name, value, global_step=step)
        writer.flush()

    @override
    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        writer = self._writer_of.pop(trial.trial_id, None)
        if writer is not None:
            _add_hyperparameters(writer, trial)
            writer.close()
        self._files.close(trial)

    @override
    def on_experiment_end(self, trials: Sequence[Trial], **info: Any) -> None:
        for writer in self._writer_of.values():
            writer.close()
        self._writer_of.clear()
        self._files.close_all()

    def _writer(self, trial: Trial) -> Any:
        writer = self._writer_of.get(trial.trial_id)
        if writer is None:
            writer = self._writer_of[trial.trial_id] = required(
                "tensorboardX", extra="tensorboard"
            ).SummaryWriter(str(self._files.path(trial)), flush_secs=30)
        return writer


def _add_hyperparameters(writer: Any, trial: Trial) -> None:
    values = {
        name: value
        for name, value in trial.evaluated_params.items()
        if isinstance(value, str | bool | int | float)
    }
    metrics = {
        name: value
        for name, value in flattened(trial.last_result).items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    if values and metrics:
        summary = required("tensorboardX.summary", extra="tensorboard")
        for record in summary.hparams(hparam_dict=values, metric_dict=metrics):
            writer.file_writer.add_summary(record)
