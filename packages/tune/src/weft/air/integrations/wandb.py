"""Trials in Weights & Biases: `pip install 'weft-tune[wandb]'`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from weft.lowlevel import override
from weft.tune._session import sessions
from weft.tune._values import flattened
from weft.tune.logger._runs import RunPerTrial, key_from, without
from weft.tune.search.extras import required

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from weft.tune.experiment.trial import Trial

KEY = "WANDB_API_KEY"


class WandbLoggerCallback(RunPerTrial):
    """Has a run of Weights & Biases for each trial, all from this process.

    Args:
        project: In Weights & Biases; None: WANDB_PROJECT_NAME, else the experiment's name.
        group: Of the runs; None: WANDB_GROUP_NAME, else the experiment's name.
        api_key_file: File with the key.
        api_key: The key; None: WANDB_API_KEY, or as `wandb login` left it.
        excludes: Metrics and values of the configuration that are not logged.
        log_config: Whether the configuration is logged with every result, too.
        upload_checkpoints: Whether checkpoints are uploaded as artifacts.
        save_checkpoints: The same, as Ray called it before.
        upload_timeout: Seconds that the upload of a checkpoint may take.
        video_kwargs: For `wandb.Video`, of arrays with four or five axes.
        image_kwargs: For `wandb.Image`, of arrays with two or three axes.
        kwargs: For `wandb.init`; `mode="offline"` keeps all in the trials' directories.

    Raises:
        ImportError: wandb is not installed.
    """

    def __init__(
        self,
        project: str | None = None,
        group: str | None = None,
        api_key_file: str | None = None,
        api_key: str | None = None,
        excludes: Sequence[str] | None = None,
        log_config: bool = False,
        upload_checkpoints: bool = False,
        save_checkpoints: bool = False,
        upload_timeout: int = 1800,
        video_kwargs: Mapping[str, Any] | None = None,
        image_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        required("wandb", extra="wandb")
        self._project = project
        self._group = group
        self._key = api_key, api_key_file
        self._excluded = {*(excludes or ()), "done", "trial_id"}
        self._logs_config = log_config
        self._uploads = upload_checkpoints or save_checkpoints
        self._timeout_s = upload_timeout
        self._video_kwargs = dict(video_kwargs or {})
        self._image_kwargs = dict(image_kwargs or {})
        self._options = kwargs

    @override
    def setup(self, *args: Any, **kwargs: Any) -> None:
        name = kwargs["experiment_name"]
        key = key_from(*self._key, KEY, os.environ)
        if key:
            os.environ[KEY] = key
        self._project = self._project or os.environ.get("WANDB_PROJECT_NAME") or name
        self._group = self._group or os.environ.get("WANDB_GROUP_NAME") or name

    @override
    def _open(self, trial: Trial) -> Any:
        trial.init_local_path()
        options = {"dir": trial.local_path, "resume": "allow", **self._options}
        return required("wandb", extra="wandb").init(
            id=trial.trial_id,
            name=str(trial),
            project=self._project,
            group=self._group,
            config=without(trial.config, self._excluded),
            # Many trials run at a time, and each has a run of its own.
            reinit="create_new",
            **options,
        )

    @override
    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        logged = {}
        for name, value in flattened(without(result, self._excluded)).items():
            if name in self._excluded or (name.startswith("config/") and not self._logs_config):
                continue
            logged[name] = self._shown(value)
        self._run(trial).log(logged)

    def _shown(self, value: Any) -> Any:
        """Return a value as wandb takes it: arrays as pictures, films and histograms."""
        axes = getattr(value, "ndim", 0)
        wandb = required("wandb", extra="wandb")
        if axes == 1:
            return wandb.Histogram(value)
        if axes in {2, 3}:
            return wandb.Image(value, **self._image_kwargs)
        if axes in {4, 5}:
            return wandb.Video(value, **self._video_kwargs)
        return value

    @override
    def log_trial_save(self, trial: Trial) -> None:
        checkpoint = trial.checkpoint
        if not self._uploads or checkpoint is None:
            return
        artifact = required("wandb", extra="wandb").Artifact(
            f"checkpoint_{trial.trial_id}", type="model"
        )
        with checkpoint.as_directory() as directory:
            artifact.add_dir(directory)
        run = self._run(trial)
        logged = run.log_artifact(artifact)
        if not run.settings._offline:
            logged.wait(timeout=self._timeout_s)

    @override
    def _close(self, trial: Trial, run: Any, *, failed: bool) -> None:
        run.finish(exit_code=int(failed))

    @override
    def _leave(self, run: Any) -> None:
        run.finish(exit_code=1)


def setup_wandb(
    config: dict[str, Any] | None = None,
    api_key: str | None = None,
    api_key_file: str | None = None,
    rank_zero_only: bool = True,
    **kwargs: Any,
) -> Any:
    """Begin a run of Weights & Biases in a trial's own code; it ends with the trial.

    Args:
        config: The run's configuration.
        api_key: The key; None: WANDB_API_KEY, or as `wandb login` left it.
        api_key_file: File with the key.
        rank_zero_only: Has no effect: a trial is one process.
        kwargs: For `wandb.init`.

    Returns:
        The run, ready for `log`.

    Raises:
        ImportError: wandb is not installed.
        TuneError: No trial runs here.
    """
    wandb = required("wandb", extra="wandb")
    session = sessions.current("setup_wandb")
    key = key_from(api_key, api_key_file, KEY, os.environ)
    if key:
        os.environ[KEY] = key
    options = {
        "id": session.assignment.trial_id, "name": session.assignment.name, "resume": "allow",
        "project": session.settings.experiment, "group": session.settings.experiment,
        "dir": session.directory(), "config": config, "reinit": "create_new", **kwargs,
    }  # fmt: skip
    run = wandb.init(**options)
    session.at_end(run.finish)
    return run
