"""What users say about an experiment: what to look for, where to keep it, what to do at failures.

Each record checks itself as it is made.
"""

from __future__ import annotations

import logging
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from weft.exceptions import OptionError
from weft.tune._storage import storage_at

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from weft.tune._storage import Storage
    from weft.tune.callback import Callback
    from weft.tune.schedulers.trial_scheduler import TrialScheduler
    from weft.tune.search.searcher import Searcher

logger = logging.getLogger("weft.tune")

DEFAULT_STORAGE = "~/weft_results"
_REPLACED = {
    "local_dir": "storage_path=...",
    "keep_checkpoints_num": "checkpoint_config=CheckpointConfig(num_to_keep=...)",
    "checkpoint_score_attr": "checkpoint_config=CheckpointConfig(checkpoint_score_attribute=..., "
    "checkpoint_score_order=...)",
    "checkpoint_freq": "checkpoint_config=CheckpointConfig(checkpoint_frequency=...)",
    "checkpoint_at_end": "checkpoint_config=CheckpointConfig(checkpoint_at_end=...)",
}
"""What Ray had once, and what says the same."""


def refuse_replaced(owner: str, **given: Any) -> None:
    """Refuse arguments that Ray has deprecated. OptionError."""
    for name, value in given.items():
        _check(value is None, f"{owner} takes no {name}: give {_REPLACED[name]}")


def _check(condition: object, message: str) -> None:
    if not condition:
        raise OptionError(message)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_objective(metric: Any, mode: Any) -> None:
    """Refuse a metric and a mode that do not fit. OptionError."""
    metrics = metric if isinstance(metric, list) else [metric]
    modes = mode if isinstance(mode, list) else [mode]
    for each in modes:
        _check(each in {None, "min", "max"}, f"{mode=}: give 'min' or 'max'")
    for each in metrics:
        _check(
            each is None or (isinstance(each, str) and each),
            f"{metric=}: give the name of a metric, or a list of them",
        )
    _check(
        len(metrics) == len(modes) or not isinstance(mode, list),
        f"{metric=} and {mode=}: give a mode for each metric",
    )
    _check(
        mode is None or metric is not None,
        f"{mode=} without a metric: give both",
    )


@dataclass(kw_only=True)
class TuneConfig:
    """What to look for, and how.

    Attributes:
        metric: Name of the objective in the results; a list for several objectives.
        mode: "min" or "max"; a list for several.
        search_alg: A searcher, or its name; None: grid and random search. Each experiment runs with
            a copy: what that has learned is what the searcher's `get_state` and `save` give then.
        scheduler: A scheduler, or its name; None: every trial runs to its end. Likewise copied.
        num_samples: How many trials, or how often the grids are tried; -1: without end.
        max_concurrent_trials: At most so many at a time; None: as many as there is room for.
        time_budget_s: Seconds after which the experiment ends, and is finished. A run that goes on
            with an unfinished one has what those before it have left. None: no limit.
        reuse_actors: Whether a process runs one trial after the other; None: yes.
        trial_name_creator: A function of a trial that returns its name.
        trial_dirname_creator: Likewise, of its directory.
        seed: Of the search; None: a random one, which the journal keeps.
    """

    metric: str | list[str] | None = None
    mode: str | list[str] | None = None
    search_alg: Searcher | str | None = None
    scheduler: TrialScheduler | str | None = None
    num_samples: int = 1
    max_concurrent_trials: int | None = None
    time_budget_s: Any = None
    reuse_actors: bool | None = None
    trial_name_creator: Callable[[Any], str] | None = None
    trial_dirname_creator: Callable[[Any], str] | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        check_objective(self.metric, self.mode)
        number = self.num_samples
        _check(
            _is_whole(number) and (number >= 1 or number == -1),
            f"num_samples={number!r}: give a number from 1 up, or -1 for no end",
        )
        most = self.max_concurrent_trials
        # Ray's programs write 0 for no limit.
        _check(
            most is None or (_is_whole(most) and most >= 0),
            f"max_concurrent_trials={most!r}: give a number from 1 up, or None for no limit",
        )
        budget = self.time_budget_s
        if budget is not None and hasattr(budget, "total_seconds"):
            self.time_budget_s = budget = budget.total_seconds()
        _check(
            budget is None or (_is_number(budget) and budget > 0),
            f"time_budget_s={budget!r}: give seconds, or None for no limit",
        )


@dataclass
class CheckpointConfig:
    """Which checkpoints are kept, and when a Trainable class is saved.

    Attributes:
        num_to_keep: At most so many of a trial, and its last; None: all.
        checkpoint_score_attribute: Metric by which the best are kept; None: the latest.
        checkpoint_score_order: "max" or "min".
        checkpoint_frequency: Save a Trainable class every so many steps; 0: never.
        checkpoint_at_end: Save a Trainable class at its end; None: no.
    """

    num_to_keep: int | None = None
    checkpoint_score_attribute: str | None = None
    checkpoint_score_order: Literal["max", "min"] = "max"
    checkpoint_frequency: int = 0
    checkpoint_at_end: bool | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        keep = self.num_to_keep
        _check(
            keep is None or (_is_whole(keep) and keep >= 1),
            f"num_to_keep={keep!r}: give a number from 1 up, or None to keep all",
        )
        order = self.checkpoint_score_order
        _check(order in {"max", "min"}, f"checkpoint_score_order={order!r}: give 'max' or 'min'")
        _check(
            order == "max" or self.checkpoint_score_attribute is not None,
            f"checkpoint_score_order={order!r} without checkpoint_score_attribute: give both",
        )
        often = self.checkpoint_frequency
        _check(
            _is_whole(often) and often >= 0,
            f"checkpoint_frequency={often!r}: give a number of steps, or 0 for never",
        )


@dataclass
class FailureConfig:
    """What to do when a trial fails.

    Attributes:
        max_failures: How often a trial is tried again, from its last checkpoint; -1: for ever.
        fail_fast: True: end the experiment at the first trial that fails for good; "raise": and
            raise its error. What ran can be continued.
        trial_timeout_s: Seconds that a trial may take from one report to the next; one that takes
            longer is killed and has failed. None: no limit.
    """

    max_failures: int = 0
    fail_fast: bool | Literal["raise"] = False
    trial_timeout_s: float | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        most = self.max_failures
        _check(
            _is_whole(most) and most >= -1,
            f"max_failures={most!r}: give a number from 0 up, or -1 for no limit",
        )
        fast = self.fail_fast
        _check(fast in {True, False, "raise"}, f"fail_fast={fast!r}: give True, False or 'raise'")
        _check(
            not (fast and most),
            f"fail_fast={fast!r} with max_failures={most}: a failure cannot both end the "
            "experiment and be tried again; give one",
        )
        limit = self.trial_timeout_s
        _check(
            limit is None or (_is_number(limit) and limit > 0),
            f"trial_timeout_s={limit!r}: give seconds, or None for no limit",
        )


@dataclass
class SyncConfig:
    """What is uploaded to a storage that is not local; checkpoints and the journal always are.

    Attributes:
        sync_period: Taken from programs that come from Ray, and has no effect, which a warning
            says: the journal is written every second.
        sync_timeout: Likewise: the file system has its own.
        sync_artifacts: Whether what a trial writes into its directory is uploaded at its end.
        sync_artifacts_on_checkpoint: Whether at each of its checkpoints, too.
    """

    sync_period: int = 300
    sync_timeout: int = 1800
    sync_artifacts: bool = False
    sync_artifacts_on_checkpoint: bool = True

    def __post_init__(self) -> None:
        """Check the values."""
        for name, instead in (
            ("sync_period", "the journal is written every second"),
            ("sync_timeout", "give one to the file system"),
        ):
            value = getattr(self, name)
            _check(_is_number(value) and value > 0, f"{name}={value!r}: give seconds")
            if value != type(self).__dataclass_fields__[name].default:
                logger.warning("SyncConfig(%s=%r) has no effect: %s", name, value, instead)


Choice = Literal["resume", "restart", "skip"]
_CHOICES = ("resume", "restart", "skip")


@dataclass
class ResumeConfig:
    """What becomes of the trials of an experiment that is continued.

    Each is "resume" (from the last checkpoint), "restart" (from the beginning) or "skip" (left as
    it is).

    Attributes:
        finished: Trials that came to their end. They are never run again: only "skip".
        unfinished: Trials that were running or waiting.
        errored: Trials that failed.
    """

    finished: Choice = "skip"
    unfinished: Choice = "resume"
    errored: Choice = "skip"

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("finished", "unfinished", "errored"):
            value = getattr(self, name)
            _check(value in _CHOICES, f"{name}={value!r}: give 'resume', 'restart' or 'skip'")
        _check(
            self.finished == "skip",
            f"finished={self.finished!r}: finished trials are not run again; give 'skip'",
        )


@dataclass
class RunConfig:
    """Where an experiment is kept, and what goes on round its trials.

    Attributes:
        name: Of the experiment, and its directory. With a name the same program started again
            continues. None: a new one each time.
        storage_path: Directory or URI in which experiments are; None: `~/weft_results`.
        storage_filesystem: A `pyarrow.fs.FileSystem` or one of fsspec, in which that path is.
        failure_config: What to do when a trial fails.
        checkpoint_config: Which checkpoints are kept.
        sync_config: What is uploaded.
        verbose: 0: silent; 1: the experiment; 2: trials; 3: results. None: 1.
        stop: When a trial ends: values by metric, a function of a trial's id and result, or a
            Stopper, of which each experiment has a copy.
        callbacks: What looks on.
        progress_reporter: What prints progress.
        log_to_file: Whether what trials print goes into files: True (`stdout` and `stderr`), a
            name for both, or a name for each.
        resume: "auto": go on with what is there under this name; False: begin anew, and put what is
            there aside; True: there has to be something.
        local_dir: Refused: it is `storage_path`.
    """

    name: str | None = None
    storage_path: Any = None
    storage_filesystem: Any = None
    failure_config: FailureConfig = field(default_factory=FailureConfig)
    checkpoint_config: CheckpointConfig = field(default_factory=CheckpointConfig)
    sync_config: SyncConfig = field(default_factory=SyncConfig)
    verbose: int | None = None
    stop: Mapping[str, Any] | Callable[[str, dict[str, Any]], bool] | Any = None
    callbacks: Sequence[Callback] | None = None
    progress_reporter: Any = None
    log_to_file: bool | str | tuple[str, str] = False
    resume: bool | Literal["auto"] = "auto"
    local_dir: InitVar[Any] = None

    def __post_init__(self, local_dir: Any) -> None:
        """Check the values."""
        refuse_replaced("RunConfig", local_dir=local_dir)
        _check(
            self.name is None or str(self.name).strip("/ ."),
            f"name={self.name!r}: give a name for the experiment, or None",
        )
        _check(self.resume in {True, False, "auto"}, f"resume={self.resume!r}: True, False, 'auto'")
        # Programs that come from Ray write None for the defaults.
        kinds: dict[str, type] = {
            "failure_config": FailureConfig,
            "checkpoint_config": CheckpointConfig,
            "sync_config": SyncConfig,
        }
        for attribute, kind in kinds.items():
            if getattr(self, attribute) is None:
                setattr(self, attribute, kind())
            value = getattr(self, attribute)
            _check(isinstance(value, kind), f"{attribute}={value!r}: give a {kind.__name__}")
        log: object = self.log_to_file
        _check(
            isinstance(log, bool | str) or (isinstance(log, tuple | list) and len(log) == 2),
            f"log_to_file={log!r}: give True, a file's name, or one for stdout and one for stderr",
        )

    def location(self, name: str) -> Storage:
        """Return the storage of an experiment of this name."""
        root = self.storage_path
        if root is None and self.storage_filesystem is None:
            root = DEFAULT_STORAGE
        return storage_at(root or "", self.storage_filesystem).join(name)

    def log_files(self) -> tuple[str, str]:
        """Return the files' names for stdout and stderr; empty: none."""
        if isinstance(self.log_to_file, bool):
            return ("stdout", "stderr") if self.log_to_file else ("", "")
        if isinstance(self.log_to_file, str):
            return self.log_to_file, self.log_to_file
        out, err = self.log_to_file
        return out, err
