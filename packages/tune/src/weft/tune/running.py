"""`tune.run`: an experiment in one call, over the same loop as the Tuner."""

from __future__ import annotations

import dataclasses
import inspect
import logging
from typing import TYPE_CHECKING, Any

from weft.exceptions import OptionError
from weft.tune import _experiment
from weft.tune._experiment import Setup
from weft.tune.analysis import ExperimentAnalysis
from weft.tune.config import (
    FailureConfig,
    ResumeConfig,
    RunConfig,
    SyncConfig,
    check_objective,
    refuse_replaced,
)
from weft.tune.error import TuneError
from weft.tune.experiment.experiment import Experiment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from weft.tune._archive import Archive
    from weft.tune.callback import Callback
    from weft.tune.config import CheckpointConfig
    from weft.tune.experiment.trial import Trial


logger = logging.getLogger("weft.tune")


def run(
    run_or_experiment: Any,
    *,
    name: str | None = None,
    metric: str | list[str] | None = None,
    mode: str | list[str] | None = None,
    stop: Any = None,
    time_budget_s: Any = None,
    config: dict[str, Any] | None = None,
    resources_per_trial: Any = None,
    num_samples: int = 1,
    storage_path: Any = None,
    storage_filesystem: Any = None,
    search_alg: Any = None,
    scheduler: Any = None,
    checkpoint_config: CheckpointConfig | None = None,
    verbose: int | None = None,
    progress_reporter: Any = None,
    log_to_file: Any = False,
    trial_name_creator: Any = None,
    trial_dirname_creator: Any = None,
    sync_config: SyncConfig | None = None,
    export_formats: Any = None,
    max_failures: int = 0,
    fail_fast: Any = False,
    restore: str | None = None,
    resume: Any = None,
    resume_config: ResumeConfig | None = None,
    reuse_actors: bool | None = None,
    raise_on_failed_trial: bool = True,
    callbacks: Sequence[Callback] | None = None,
    max_concurrent_trials: int | None = None,
    keep_checkpoints_num: Any = None,
    checkpoint_score_attr: Any = None,
    checkpoint_freq: Any = None,
    checkpoint_at_end: Any = None,
    local_dir: Any = None,
) -> ExperimentAnalysis:
    """Run an experiment. Blocks until it ends.

    Args:
        run_or_experiment: A trainable, or an Experiment. That has everything of its own from `name`
            to `restore` below but what is looked for and how: it is not given again.
        name: See RunConfig.
        metric: See TuneConfig.
        mode: See TuneConfig.
        stop: See RunConfig.
        time_budget_s: See TuneConfig.
        config: The search space.
        resources_per_trial: See `with_resources`.
        num_samples: See TuneConfig.
        storage_path: See RunConfig.
        storage_filesystem: See RunConfig.
        search_alg: See TuneConfig.
        scheduler: See TuneConfig.
        checkpoint_config: See RunConfig.
        verbose: See RunConfig.
        progress_reporter: See RunConfig.
        log_to_file: See RunConfig.
        trial_name_creator: See TuneConfig.
        trial_dirname_creator: See TuneConfig.
        sync_config: See RunConfig.
        export_formats: Formats in which a Trainable class exports its model at a trial's end: not
            supported here; call `export_model` yourself.
        max_failures: See FailureConfig.
        fail_fast: See FailureConfig.
        restore: Path of a checkpoint that every trial begins from.
        resume: True: there has to be an experiment of this name, which goes on; "AUTO": if there is
            one; False: begin anew; None: as "AUTO". Ray's "ERRORED_ONLY" and the like are taken.
        resume_config: What becomes of its trials.
        reuse_actors: See TuneConfig.
        raise_on_failed_trial: Whether to raise if a trial has failed for good.
        callbacks: See RunConfig.
        max_concurrent_trials: See TuneConfig.
        keep_checkpoints_num: Refused, as those below: the error says what says the same.
        checkpoint_score_attr: Refused.
        checkpoint_freq: Refused.
        checkpoint_at_end: Refused.
        local_dir: Refused.

    Raises:
        TuneError: The experiment cannot begin or go on; or a trial failed, and that is to be
            raised.
        OptionError: Something does not fit.
    """
    refuse_replaced(
        "tune.run", keep_checkpoints_num=keep_checkpoints_num, local_dir=local_dir,
        checkpoint_score_attr=checkpoint_score_attr, checkpoint_freq=checkpoint_freq,
        checkpoint_at_end=checkpoint_at_end,
    )  # fmt: skip
    own: dict[str, Any] = {
        "stop": stop, "time_budget_s": time_budget_s, "config": config,
        "resources_per_trial": resources_per_trial, "num_samples": num_samples,
        "storage_path": storage_path, "storage_filesystem": storage_filesystem,
        "sync_config": sync_config, "checkpoint_config": checkpoint_config,
        "trial_name_creator": trial_name_creator, "trial_dirname_creator": trial_dirname_creator,
        "log_to_file": log_to_file, "export_formats": export_formats,
        "max_failures": max_failures, "restore": restore,
    }  # fmt: skip
    if isinstance(run_or_experiment, Experiment):
        experiment = run_or_experiment
        _refuse_given_twice({"name": name, **own})
    else:
        experiment = Experiment(name, run_or_experiment, **own)
    check_objective(metric, mode)
    how, wanted = _resume(resume, resume_config)
    tune_config = dataclasses.replace(
        experiment.tune_config, metric=metric, mode=mode, search_alg=search_alg,
        scheduler=scheduler, reuse_actors=reuse_actors, max_concurrent_trials=max_concurrent_trials,
    )  # fmt: skip
    run_config = dataclasses.replace(
        experiment.run_config, verbose=verbose, progress_reporter=progress_reporter,
        callbacks=callbacks, resume=how,
        failure_config=FailureConfig(
            experiment.run_config.failure_config.max_failures, fail_fast
        ),
    )  # fmt: skip
    return _analysis(experiment, tune_config, run_config, wanted, raises=raise_on_failed_trial)


def run_experiments(
    experiments: Experiment | Mapping[str, Any] | Sequence[Experiment],
    scheduler: Any = None,
    verbose: int | None = None,
    progress_reporter: Any = None,
    resume: Any = None,
    resume_config: ResumeConfig | None = None,
    reuse_actors: bool | None = None,
    raise_on_failed_trial: bool = True,
    concurrent: bool | None = None,
    callbacks: Sequence[Callback] | None = None,
) -> list[Trial]:
    """Run experiments one after the other, and return all their trials. Blocks until they end.

    Args:
        experiments: One, several, or the arguments of several by their names.
        scheduler: See TuneConfig.
        verbose: See RunConfig.
        progress_reporter: See RunConfig.
        resume: See `run`.
        resume_config: See `run`.
        reuse_actors: See TuneConfig.
        raise_on_failed_trial: See `run`.
        concurrent: Taken from programs that come from Ray. Trials are concurrent, experiments are
            not: a warning says so for True.
        callbacks: See RunConfig.
    """
    if isinstance(experiments, Experiment):
        listed: list[Experiment] = [experiments]
    elif isinstance(experiments, dict):
        listed = [Experiment.from_json(name, spec) for name, spec in experiments.items()]
    else:
        listed = list(experiments)  # type: ignore[arg-type]  # a mapping is a dict here
    if concurrent and len(listed) > 1:
        logger.warning("run_experiments(concurrent=True): experiments run one after the other")
    trials: list[Trial] = []
    for experiment in listed:
        analysis = run(
            experiment, scheduler=scheduler, verbose=verbose, progress_reporter=progress_reporter,
            resume=resume, resume_config=resume_config, reuse_actors=reuse_actors,
            raise_on_failed_trial=raise_on_failed_trial, callbacks=callbacks,
        )  # fmt: skip
        trials += analysis.trials
    return trials


def _refuse_given_twice(given: dict[str, Any]) -> None:
    """Refuse what an Experiment says itself. OptionError."""
    takes = inspect.signature(Experiment).parameters
    for name, value in given.items():
        # A name is the Experiment's in any case.
        usual = None if name == "name" else takes[name].default
        if value is not usual and value != usual:
            raise OptionError(
                f"tune.run got an Experiment, and {name}={value!r} beside it: give that to "
                "the Experiment"
            )


def _resume(resume: Any, resume_config: ResumeConfig | None) -> tuple[Any, ResumeConfig | None]:
    """Return RunConfig's `resume`, and what becomes of trials."""
    if resume in {None, True, False}:
        return ("auto" if resume is None else resume), resume_config
    words = str(resume).upper().split("+")
    errored = next((word for word in words if "ERRORED" in word), "")
    if words[0] not in {"AUTO", "LOCAL", "REMOTE", "PROMPT", "ERRORED_ONLY"} and not errored:
        raise OptionError(f"resume={resume!r}: give True, False, 'AUTO' or 'ERRORED_ONLY'")
    config = ResumeConfig(
        unfinished="skip" if words[0] == "ERRORED_ONLY" else "resume",
        errored="restart" if "RESTART" in errored else "resume" if errored else "skip",
    )
    return "auto" if words[0] == "AUTO" else True, resume_config or config


def _analysis(
    experiment: Experiment,
    tune_config: Any,
    run_config: RunConfig,
    resume_config: ResumeConfig | None,
    *,
    raises: bool,
) -> ExperimentAnalysis:
    archive: Archive = _experiment.run(
        Setup(
            trainable=experiment.trainable,
            param_space=experiment.config,
            tune_config=tune_config,
            run_config=run_config,
            resume_config=resume_config,
            restore=experiment.restore or "",
        )
    )
    failed = [run for run in archive.runs if run.status == "ERROR"]
    if failed and raises:
        raise TuneError(
            f"{archive.failures()}; the results are in {archive.storage.path}"
        ) from archive.error(failed[0])
    return ExperimentAnalysis._of(archive)
