"""Trials in Aim: `pip install 'weft-tune[aim]'`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.lowlevel import override
from weft.tune.logger._runs import RunPerTrial, numbers
from weft.tune.search.extras import required

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weft.tune.experiment.trial import Trial


class AimLoggerCallback(RunPerTrial):
    """Has a run of Aim for each trial.

    Args:
        repo: Aim's repository, a directory or a server; None: the experiment's own directory.
        experiment_name: In Aim; None: the experiment's name.
        metrics: What is tracked; None: all numbers.
        aim_run_kwargs: For `aim.Run`.

    Raises:
        ImportError: aim is not installed.
        ValueError: No repository was given, and the experiment's storage is not local.
    """

    def __init__(
        self,
        repo: Any = None,
        experiment_name: str | None = None,
        metrics: Sequence[str] | None = None,
        **aim_run_kwargs: Any,
    ) -> None:
        super().__init__()
        required("aim", extra="aim")
        self._repo = repo
        self._experiment_name = experiment_name
        self._metrics = None if metrics is None else frozenset(metrics)
        self._options = aim_run_kwargs

    @override
    def _open(self, trial: Trial) -> Any:
        repo = self._repo or trial.local_experiment_path
        if repo is None:
            raise ValueError("the experiment's storage is not local: give AimLoggerCallback a repo")
        # Of the driver there is nothing to log: it runs many trials.
        options = {
            "system_tracking_interval": None, "capture_terminal_logs": False, **self._options,
        }  # fmt: skip
        run = required("aim", extra="aim").Run(
            repo=repo, experiment=self._experiment_name or trial.experiment_dir_name, **options
        )
        run.name = str(trial)
        run["trial_id"] = trial.trial_id
        run["hparams"] = {
            name: value if isinstance(value, str | bool | int | float) else repr(value)
            for name, value in trial.evaluated_params.items()
        }
        return run

    @override
    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        run = self._run(trial)
        for name, value in numbers(result, self._metrics).items():
            run.track(value, name=name, step=result["training_iteration"])

    @override
    def _close(self, trial: Trial, run: Any, *, failed: bool) -> None:
        run["failed"] = failed
        run.close()

    @override
    def _leave(self, run: Any) -> None:
        run.close()
