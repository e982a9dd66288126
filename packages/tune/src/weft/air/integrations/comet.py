"""Trials in Comet: `pip install 'weft-tune[comet]'`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.lowlevel import override
from weft.tune.logger._runs import RunPerTrial, numbers
from weft.tune.search.extras import required

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weft.tune.experiment.trial import Trial


class CometLoggerCallback(RunPerTrial):
    """Has an experiment of Comet for each trial.

    Args:
        online: Whether it goes to Comet's server; else into archives that `comet upload` takes.
        tags: Of each.
        save_checkpoints: Whether checkpoints are uploaded.
        experiment_kwargs: For `comet_ml.Experiment` or `comet_ml.OfflineExperiment`.

    Raises:
        ImportError: comet_ml is not installed.
    """

    def __init__(
        self,
        online: bool = True,
        tags: Sequence[str] | None = None,
        save_checkpoints: bool = False,
        **experiment_kwargs: Any,
    ) -> None:
        super().__init__()
        required("comet_ml", extra="comet")
        self._is_online = online
        self._tags = list(tags or ())
        self._saves = save_checkpoints
        self._options = experiment_kwargs

    @override
    def _open(self, trial: Trial) -> Any:
        comet = required("comet_ml", extra="comet")
        kind = comet.Experiment if self._is_online else comet.OfflineExperiment
        # Of the driver there is nothing to log: it runs many trials.
        options = {
            "log_code": False, "log_graph": False, "auto_param_logging": False,
            "auto_metric_logging": False, "auto_output_logging": False, "parse_args": False,
            "log_env_details": False, "display_summary_level": 0, **self._options,
        }  # fmt: skip
        experiment = kind(**options)
        # Several are open at a time: none is the program's own.
        required("comet_ml.config", extra="comet").set_global_experiment(None)
        experiment.set_name(str(trial))
        experiment.add_tags(self._tags)
        experiment.log_parameters(trial.evaluated_params)
        experiment.log_others({"trial_id": trial.trial_id, "path": trial.path})
        return experiment

    @override
    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        self._run(trial).log_metrics(numbers(result), step=result["training_iteration"])

    @override
    def log_trial_save(self, trial: Trial) -> None:
        checkpoint = trial.checkpoint
        if self._saves and checkpoint is not None:
            with checkpoint.as_directory() as directory:
                self._run(trial).log_asset_folder(directory, log_file_name=True)

    @override
    def _close(self, trial: Trial, run: Any, *, failed: bool) -> None:
        run.log_other("failed", failed)
        run.end()

    @override
    def _leave(self, run: Any) -> None:
        run.end()
