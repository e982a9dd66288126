"""Hyperparameter tuning on Weft.

from weft import tune


def objective(config):
    return {"score": config["x"] ** 2}


tuner = tune.Tuner(
    objective,
    param_space={"x": tune.uniform(-1, 1)},
    tune_config=tune.TuneConfig(metric="score", mode="min", num_samples=100),
)
print(tuner.fit().get_best_result().config)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weft.tune import experiment as experiment
    from weft.tune import integration as integration
    from weft.tune import logger as logger
    from weft.tune import schedulers as schedulers
    from weft.tune import search as search
    from weft.tune import stopper as stopper
    from weft.tune import utils as utils
    from weft.tune._result import Result
    from weft.tune._session import get_checkpoint, get_context, report
    from weft.tune.analysis import ExperimentAnalysis
    from weft.tune.callback import Callback
    from weft.tune.checkpoint import Checkpoint
    from weft.tune.config import (
        CheckpointConfig,
        FailureConfig,
        ResumeConfig,
        RunConfig,
        SyncConfig,
        TuneConfig,
    )
    from weft.tune.context import TuneContext
    from weft.tune.error import TuneError
    from weft.tune.execution.placement_groups import PlacementGroupFactory
    from weft.tune.experiment import Experiment
    from weft.tune.progress_reporter import (
        CLIReporter,
        JupyterNotebookReporter,
        ProgressReporter,
    )
    from weft.tune.registry import register_env, register_trainable
    from weft.tune.result_grid import ResultGrid
    from weft.tune.running import run, run_experiments
    from weft.tune.schedulers.creation import create_scheduler
    from weft.tune.search.creation import create_searcher
    from weft.tune.search.sample import (
        choice,
        lograndint,
        loguniform,
        qlograndint,
        qloguniform,
        qrandint,
        qrandn,
        quniform,
        randint,
        randn,
        sample_from,
        uniform,
    )
    from weft.tune.search.variant_generator import grid_search
    from weft.tune.stopper.stopper import Stopper
    from weft.tune.trainable import Trainable, with_parameters, with_resources
    from weft.tune.tuner import Tuner
else:
    # A process that runs trials needs few of these; each is loaded when it is first used.
    _MODULE_OF = {
        name: module
        for module, names in {
            "_result": "Result",
            "_session": "get_checkpoint get_context report",
            "analysis": "ExperimentAnalysis",
            "callback": "Callback",
            "checkpoint": "Checkpoint",
            "config": "CheckpointConfig FailureConfig ResumeConfig RunConfig SyncConfig TuneConfig",
            "context": "TuneContext",
            "error": "TuneError",
            "execution.placement_groups": "PlacementGroupFactory",
            "experiment": "Experiment",
            "progress_reporter": "CLIReporter JupyterNotebookReporter ProgressReporter",
            "registry": "register_env register_trainable",
            "result_grid": "ResultGrid",
            "running": "run run_experiments",
            "schedulers.creation": "create_scheduler",
            "search.creation": "create_searcher",
            "search.sample": "choice lograndint loguniform qlograndint qloguniform qrandint "
            "qrandn quniform randint randn sample_from uniform",
            "search.variant_generator": "grid_search",
            "stopper.stopper": "Stopper",
            "trainable": "Trainable with_parameters with_resources",
            "tuner": "Tuner",
        }.items()
        for name in names.split()
    }

    _PARTS = frozenset(
        {"experiment", "integration", "logger", "schedulers", "search", "stopper", "utils"}
    )
    """Packages that users reach as attributes: `tune.schedulers.ASHAScheduler`."""

    def __getattr__(name: str) -> object:
        """Load a public name."""
        if name in _PARTS:
            return importlib.import_module(f"weft.tune.{name}")
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'weft.tune' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"weft.tune.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """Return the public names."""
        return sorted(__all__)


__all__ = [
    "CLIReporter",
    "Callback",
    "Checkpoint",
    "CheckpointConfig",
    "Experiment",
    "ExperimentAnalysis",
    "FailureConfig",
    "JupyterNotebookReporter",
    "PlacementGroupFactory",
    "ProgressReporter",
    "Result",
    "ResultGrid",
    "ResumeConfig",
    "RunConfig",
    "Stopper",
    "SyncConfig",
    "Trainable",
    "TuneConfig",
    "TuneContext",
    "TuneError",
    "Tuner",
    "choice",
    "create_scheduler",
    "create_searcher",
    "get_checkpoint",
    "get_context",
    "grid_search",
    "lograndint",
    "loguniform",
    "qlograndint",
    "qloguniform",
    "qrandint",
    "qrandn",
    "quniform",
    "randint",
    "randn",
    "register_env",
    "register_trainable",
    "report",
    "run",
    "run_experiments",
    "sample_from",
    "uniform",
    "with_parameters",
    "with_resources",
]
