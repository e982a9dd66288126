"""What can go wrong with an experiment as a whole; a trial's own error is in its result."""

from __future__ import annotations

from weft.exceptions import WeftError


class TuneError(WeftError):
    """An experiment cannot begin, go on or be read; the message says why and what to do.

    What its journal holds stays: the experiment can be continued.
    """


class ExperimentInUseError(TuneError):
    """Another process runs this experiment. Nothing was written."""


class StorageError(TuneError):
    """The experiment's storage cannot be written: it is full, gone or not permitted.

    The experiment ended at once; what was written before can be continued from.
    """


class TrialError(TuneError):
    """A trial failed; the message is its error, the notes hold the traceback.

    Stands for the trial's own exception where that could not travel.
    """


class TrialTimeoutError(TuneError, TimeoutError):
    """A trial did not report in time (`FailureConfig.trial_timeout_s`); its process was killed."""
