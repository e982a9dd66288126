"""When trials, or the whole experiment, have come to their end: criteria that look at results."""

from weft.tune.stopper.criteria import as_stopper
from weft.tune.stopper.experiment_plateau import ExperimentPlateauStopper
from weft.tune.stopper.function_stopper import FunctionStopper
from weft.tune.stopper.maximum_iteration import MaximumIterationStopper
from weft.tune.stopper.metrics import DictStopper
from weft.tune.stopper.noop import NoopStopper
from weft.tune.stopper.stopper import CombinedStopper, Stopper
from weft.tune.stopper.timeout import TimeoutStopper
from weft.tune.stopper.trial_plateau import TrialPlateauStopper

__all__ = [
    "CombinedStopper",
    "DictStopper",
    "ExperimentPlateauStopper",
    "FunctionStopper",
    "MaximumIterationStopper",
    "NoopStopper",
    "Stopper",
    "TimeoutStopper",
    "TrialPlateauStopper",
    "as_stopper",
]
