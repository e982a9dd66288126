"""Trials in MLflow: `pip install 'weft-tune[mlflow]'`."""

from __future__ import annotations

import functools
import os
import shutil
from typing import TYPE_CHECKING, Any

from weft.lowlevel import override
from weft.tune._session import sessions
from weft.tune._storage import scratch
from weft.tune._values import flattened
from weft.tune.error import TuneError
from weft.tune.logger._runs import RunPerTrial, numbers
from weft.tune.search.extras import required

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from weft.tune.experiment.trial import Trial

MOST_PARAMS = 100
"""So many MLflow takes in one call."""
EXPERIMENT_TAG = "weft.experiment"
TRIAL_TAG = "weft.trial"


class MLflowLoggerCallback(RunPerTrial):
    """Has a run of MLflow for each trial: its configuration as params, its numbers as metrics.

    An experiment that goes on, also after its driver was killed, goes on in the same runs: they
    have tags that name experiment and trial.

    Args:
        tracking_uri: Of the server or the store; None: as MLflow is set up.
        registry_uri: Of the models; None: the same.
        experiment_name: In MLflow; None: MLFLOW_EXPERIMENT_NAME, else the experiment's own.
        tags: Of each run.
        tracking_token: Sets MLFLOW_TRACKING_TOKEN.
        save_artifact: Whether a trial's directory is uploaded at its end.
        log_params_on_trial_end: Whether the configuration is logged at a trial's end instead of its
            beginning.

    Raises:
        ImportError: MLflow is not installed.
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        *,
        registry_uri: str | None = None,
        experiment_name: str | None = None,
        tags: Mapping[str, Any] | None = None,
        tracking_token: str | None = None,
        save_artifact: bool = False,
        log_params_on_trial_end: bool = False,
    ) -> None:
        super().__init__()
        required("mlflow", extra="mlflow")
        self._uris = tracking_uri, registry_uri
        self._experiment_name = experiment_name
        self._tags = dict(tags or {})
        self._token = tracking_token
        self._saves_artifact = save_artifact
        self._params_at_end = log_params_on_trial_end
        self._client: Any = None
        self._experiment_id = ""
        self._path = ""
        self._begun: dict[str, str] = {}

    @override
    def setup(self, *args: Any, **kwargs: Any) -> None:
        if self._token:
            os.environ["MLFLOW_TRACKING_TOKEN"] = self._token
        mlflow = required("mlflow", extra="mlflow")
        self._client = mlflow.MlflowClient(*self._uris)
        self._path = kwargs["experiment_path"]
        name = (
            self._experiment_name
            or os.environ.get("MLFLOW_EXPERIMENT_NAME")
            or kwargs["experiment_name"]
        )
        found = self._client.get_experiment_by_name(name)
        self._experiment_id = (
            self._client.create_experiment(name) if found is None else found.experiment_id
        )
        self._begun = {} if found is None else self._runs_of_this_experiment()

    def _runs_of_this_experiment(self) -> dict[str, str]:
        """Return the runs that were begun for it before, by trial."""
        begun: dict[str, str] = {}
        token = None
        quoted = self._path.replace("'", "\\'")
        while True:
            page = self._client.search_runs(
                [self._experiment_id],
                filter_string=f"tags.`{EXPERIMENT_TAG}` = '{quoted}'",
                page_token=token,
            )
            begun.update({run.data.tags[TRIAL_TAG]: run.info.run_id for run in page})
            token = page.token
            if not token:
                return begun

    @override
    def _open(self, trial: Trial) -> Any:
        run_id = self._begun.pop(trial.trial_id, None)
        if run_id is not None:
            self._client.set_terminated(run_id, status="RUNNING")
            return run_id
        tags = {**self._tags, EXPERIMENT_TAG: self._path, TRIAL_TAG: trial.trial_id}
        run = self._client.create_run(self._experiment_id, tags=tags, run_name=str(trial))
        run_id = run.info.run_id
        if not self._params_at_end:
            self._log_params(run_id, trial)
        return run_id

    @override
    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        entities = required("mlflow.entities", extra="mlflow")
        milliseconds = int(result["timestamp"]) * 1000
        metrics = [
            entities.Metric(name, float(value), milliseconds, result["training_iteration"])
            for name, value in numbers(result).items()
        ]
        self._client.log_batch(self._run(trial), metrics=metrics)

    @override
    def _close(self, trial: Trial, run: Any, *, failed: bool) -> None:
        if self._params_at_end:
            self._log_params(run, trial)
        if self._saves_artifact:
            self._upload(run, trial)
        self._client.set_terminated(run, status="FAILED" if failed else "FINISHED")

    @override
    def _leave(self, run: Any) -> None:
        self._client.set_terminated(run, status="KILLED")

    def _log_params(self, run_id: str, trial: Trial) -> None:
        entities = required("mlflow.entities", extra="mlflow")
        params = [
            entities.Param(name, str(value)) for name, value in trial.evaluated_params.items()
        ]
        for first in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(run_id, params=params[first : first + MOST_PARAMS])

    def _upload(self, run_id: str, trial: Trial) -> None:
        storage = trial.storage
        if not storage.names():
            return
        if storage.is_local:
            self._client.log_artifacts(run_id, storage.path)
            return
        directory = scratch(trial.trial_id)
        try:
            storage.fetch("", directory)
            self._client.log_artifacts(run_id, directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def setup_mlflow(
    config: dict[str, Any] | None = None,
    tracking_uri: str | None = None,
    registry_uri: str | None = None,
    experiment_id: str | None = None,
    experiment_name: str | None = None,
    tracking_token: str | None = None,
    artifact_location: str | None = None,
    run_name: str | None = None,
    create_experiment_if_not_exists: bool = False,
    tags: dict[str, Any] | None = None,
    rank_zero_only: bool = True,
) -> ModuleType:
    """Begin a run of MLflow in a trial's own code, for the calling thread; it ends with the trial.

    Args:
        config: What is logged as params; None: nothing.
        tracking_uri: Of the server or the store; None: as MLflow is set up.
        registry_uri: Of the models; None: the same.
        experiment_id: In MLflow.
        experiment_name: In MLflow, if there is no id; None: the experiment's own name.
        tracking_token: Sets MLFLOW_TRACKING_TOKEN.
        artifact_location: Of an experiment that is created.
        run_name: None: the trial's name.
        create_experiment_if_not_exists: Whether an experiment in MLflow may be created.
        tags: Of the run.
        rank_zero_only: Has no effect: a trial is one process.

    Returns:
        The module `mlflow`, ready for `log_metric` and all else.

    Raises:
        ImportError: MLflow is not installed.
        TuneError: No trial runs here, or MLflow has no such experiment.
    """
    mlflow = required("mlflow", extra="mlflow")
    session = sessions.current("setup_mlflow")
    if tracking_token:
        os.environ["MLFLOW_TRACKING_TOKEN"] = tracking_token
    if tracking_uri:
        mlflow.set_tracking_uri(tracking_uri)
    if registry_uri:
        mlflow.set_registry_uri(registry_uri)
    if experiment_id is None:
        name = experiment_name or session.settings.experiment
        found = mlflow.get_experiment_by_name(name)
        if found is not None:
            experiment_id = found.experiment_id
        elif create_experiment_if_not_exists:
            experiment_id = mlflow.create_experiment(name, artifact_location=artifact_location)
        else:
            raise TuneError(
                f"MLflow has no experiment {name!r}: give create_experiment_if_not_exists=True"
            )
    run = mlflow.start_run(
        experiment_id=experiment_id, run_name=run_name or session.assignment.name, tags=tags
    )
    # `mlflow.end_run` is of the trial's own thread, which is gone then.
    session.at_end(functools.partial(_end, mlflow.MlflowClient(), run.info.run_id))
    if config:
        mlflow.log_params(flattened(config))
    return mlflow


def _end(client: Any, run_id: str) -> None:
    """Say that a run has ended, unless the trial's code has said so."""
    if client.get_run(run_id).info.status == "RUNNING":
        client.set_terminated(run_id)
