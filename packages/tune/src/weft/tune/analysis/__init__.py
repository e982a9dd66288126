"""What an experiment has come to, as a table and by trial."""

from weft.tune.analysis.experiment_analysis import ExperimentAnalysis

__all__ = ["ExperimentAnalysis"]
