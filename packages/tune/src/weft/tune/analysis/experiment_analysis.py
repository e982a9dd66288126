"""An experiment as `tune.run` returns it, or as it is found on a storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.lowlevel import lazy
from weft.tune._archive import Archive
from weft.tune._result import Result
from weft.tune._storage import storage_at
from weft.tune.error import TuneError
from weft.tune.experiment.trial import Trial

if TYPE_CHECKING:
    import os

    import pandas as pd

    from weft.tune._trial_runs import TrialRun
    from weft.tune.checkpoint import Checkpoint
else:
    pd = lazy("pandas")


class ExperimentAnalysis:
    """The trials of an experiment, their results, and which is best.

    Metric and mode, where they are not given, are those of the constructor, or of the experiment.
    """

    def __init__(
        self,
        experiment_checkpoint_path: str | os.PathLike[str],
        *,
        storage_filesystem: Any = None,
        trials: list[Trial] | None = None,
        default_metric: str | None = None,
        default_mode: str | None = None,
    ) -> None:
        """Read an experiment.

        Args:
            experiment_checkpoint_path: Its directory, or its URI.
            storage_filesystem: In which that path is.
            trials: Look at these only; None: at all.
            default_metric: What to look at.
            default_mode: "min" or "max".

        Raises:
            TuneError: There is no experiment.
        """
        archive = Archive.of(storage_at(experiment_checkpoint_path, storage_filesystem))
        if trials is not None:
            wanted = {trial.trial_id for trial in trials}
            archive.runs = [run for run in archive.runs if run.id in wanted]
        archive.metric = default_metric or archive.metric
        archive.mode = default_mode or archive.mode
        self._archive = archive

    @classmethod
    def _of(cls, archive: Archive) -> ExperimentAnalysis:
        made = cls.__new__(cls)
        made._archive = archive
        return made

    @property
    def experiment_path(self) -> str:
        """The experiment's directory in the storage."""
        return self._archive.storage.path

    @property
    def trials(self) -> list[Trial]:
        """All trials, in the order of their creation."""
        return [Trial(run, self._archive) for run in self._archive.runs]

    # -------------------------------------------------------------- the best

    @property
    def best_trial(self) -> Trial:
        """The best trial by its last result. TuneError: there is none."""
        return Trial(self._best(), self._archive)

    @property
    def best_config(self) -> dict[str, Any]:
        """The best trial's configuration."""
        return self._archive.config(self._best())

    @property
    def best_checkpoint(self) -> Checkpoint | None:
        """The best checkpoint of the best trial."""
        return self.get_best_checkpoint(self.best_trial)

    @property
    def best_result(self) -> dict[str, Any]:
        """The best trial's last result."""
        return self._archive.metrics(self._best())

    @property
    def best_result_df(self) -> pd.DataFrame:
        """The same as a pandas DataFrame with one row."""
        return pd.DataFrame([self._archive.row(self._best())])

    @property
    def best_dataframe(self) -> pd.DataFrame:
        """All results of the best trial as a pandas DataFrame, a row each."""
        return self._archive.frame(self._best())

    def get_best_trial(
        self,
        metric: str | None = None,
        mode: str | None = None,
        scope: str = "last",
        filter_nan_and_inf: bool = True,
    ) -> Trial | None:
        """Return the best trial; None: none has such a value.

        Args:
            metric: What to look at.
            mode: "min" or "max".
            scope: Which value of a trial counts: "last", "all" (its best), "avg", "last-5-avg" or
                "last-10-avg".
            filter_nan_and_inf: Whether values that are not finite are left out.

        Raises:
            TuneError: It was not said what is best.
        """
        wanted, order = self._archive.objective(metric, mode)
        run = self._archive.best(wanted, order, scope, finite_only=filter_nan_and_inf)
        return None if run is None else Trial(run, self._archive)

    def get_best_config(
        self, metric: str | None = None, mode: str | None = None, scope: str = "last"
    ) -> dict[str, Any] | None:
        """Return the configuration of the best trial; None: none has such a value."""
        trial = self.get_best_trial(metric, mode, scope)
        return None if trial is None else trial.config

    def get_best_checkpoint(
        self, trial: Trial, metric: str | None = None, mode: str | None = None
    ) -> Checkpoint | None:
        """Return a trial's checkpoint with the best value; None: it has none."""
        wanted, order = self._archive.objective(metric, mode)
        return Result._of(self._archive, self._run(trial)).get_best_checkpoint(wanted, order)

    def get_last_checkpoint(
        self, trial: Trial | None = None, metric: str | None = None, mode: str | None = None
    ) -> Checkpoint | None:
        """Return the newest checkpoint of a trial, or of the best one; None: it has none."""
        trial = trial or self.get_best_trial(metric, mode)
        return None if trial is None else self._archive.checkpoint(self._run(trial))

    def _best(self) -> TrialRun:
        metric, mode = self._archive.objective(None, None)
        return self._archive.must_have_best(metric, mode, "last", finite_only=True)

    def _run(self, trial: Trial) -> TrialRun:
        for run in self._archive.runs:
            if run.id == trial.trial_id:
                return run
        raise TuneError(f"trial {trial} is not in {self.experiment_path}")

    # -------------------------------------------------------------- all

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """The last result of each trial, by its id."""
        return {run.id: self._archive.metrics(run) for run in self._archive.runs}

    @property
    def results_df(self) -> pd.DataFrame:
        """The same as a pandas DataFrame, a row each, with the configurations."""
        return pd.DataFrame([self._archive.row(run) for run in self._archive.runs]).set_index(
            "trial_id"
        )

    @property
    def trial_dataframes(self) -> dict[str, pd.DataFrame]:
        """All results of each trial as a pandas DataFrame, by its id."""
        return {run.id: self._archive.frame(run) for run in self._archive.runs}

    def dataframe(self, metric: str | None = None, mode: str | None = None) -> pd.DataFrame:
        """Return a pandas DataFrame with a row for each trial.

        Args:
            metric: Take each trial's result with the best value of this; None: its last result.
            mode: "min" or "max".
        """
        return pd.DataFrame([self._archive.row(run, metric, mode) for run in self._archive.runs])

    def get_all_configs(self, prefix: bool = False) -> dict[str, dict[str, Any]]:
        """Return the configuration of each trial, by its id.

        Args:
            prefix: Whether names begin with `config/`.
        """
        mark = "config/" if prefix else ""
        return {
            run.id: {f"{mark}{name}": value for name, value in self._archive.config(run).items()}
            for run in self._archive.runs
        }
