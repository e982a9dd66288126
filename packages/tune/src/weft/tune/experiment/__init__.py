"""Experiments and their trials as records."""

from weft.tune.experiment.experiment import Experiment
from weft.tune.experiment.trial import Trial

__all__ = ["Experiment", "Trial"]
