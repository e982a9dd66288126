"""Puts an experiment together, from what users say, and runs it: for `Tuner.fit` and `tune.run`."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import math
import random
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import weft
from weft.exceptions import OptionError, PicklingError
from weft.lowlevel import Resources, dumps, preload
from weft.tune import _journal
from weft.tune._archive import Archive
from weft.tune._checkpoints import Keeping
from weft.tune._journal import Header
from weft.tune._loop import LoopPlan, TuneLoop, reservation
from weft.tune._records import Abandoned, Reset, Revived
from weft.tune._session import Settings
from weft.tune._storage import writing
from weft.tune._trial_runs import Limits, Reservation, TrialRun
from weft.tune._trials import Trials
from weft.tune._values import encode
from weft.tune._watching import CALLBACKS, Watching
from weft.tune.callback import CallbackList
from weft.tune.error import TuneError
from weft.tune.experiment.trial import Trial
from weft.tune.progress_reporter import TrialLines, default_reporter
from weft.tune.registry import resolved
from weft.tune.schedulers.creation import create_scheduler
from weft.tune.schedulers.fifo import FIFOScheduler
from weft.tune.search.basic_variant import BasicVariantGenerator
from weft.tune.search.creation import create_searcher
from weft.tune.search.searcher import Searcher
from weft.tune.stopper import as_stopper
from weft.tune.trainable.util import is_class, name_of, request_of, request_varies

if TYPE_CHECKING:
    from weft.tune._journal import Journal, Past
    from weft.tune._records import Event
    from weft.tune._storage import Storage
    from weft.tune.config import CheckpointConfig, ResumeConfig, RunConfig, TuneConfig
    from weft.tune.schedulers.trial_scheduler import TrialScheduler

logger = logging.getLogger("weft.tune")

SETUP = "tuner.pkl"
RUNNER = "weft.tune._runner"
"""What every process that runs trials imports."""
Decider = TypeVar("Decider")
"""A searcher, a scheduler or a stopper."""


@dataclass(kw_only=True)
class Setup:
    """All that a user has said."""

    trainable: Any
    param_space: dict[str, Any]
    tune_config: TuneConfig
    run_config: RunConfig
    resume_config: ResumeConfig | None = None
    """Set where the user asked for the experiment to be continued."""
    restore: str = ""
    """Path of a checkpoint that every trial begins from; empty: none."""

    def packed(self) -> bytes:
        """Return it for another process to continue; without the trainable, which it gives.

        Of what cannot travel callbacks and reporter are left out.
        """
        bare = dataclasses.replace(self, trainable=None, resume_config=None)
        try:
            return dumps(bare, name="the experiment").pack()
        except PicklingError:
            bare.run_config = dataclasses.replace(
                self.run_config, callbacks=None, progress_reporter=None
            )
            return dumps(bare, name="the experiment").pack()


def run(setup: Setup) -> Archive:
    """Run an experiment, or go on with it. Blocks until it ends.

    Raises:
        TuneError: It cannot begin or go on.
        OptionError: What the user said does not fit.
        Exception: The error of a trial, with `fail_fast="raise"`.
        KeyboardInterrupt: Ctrl-C came; the experiment can be continued.
    """
    run_config = setup.run_config
    trainable = resolved(setup.trainable)
    called = name_of(trainable)
    if not is_class(trainable):
        _check_function(called, run_config.checkpoint_config)
    # Whatever cannot travel is named before anything is begun.
    dumps(trainable, name=called)
    packed = setup.packed()
    name = (
        run_config.name or f"{called}_{time.strftime('%Y-%m-%d_%H-%M-%S')}_{uuid.uuid4().hex[:4]}"
    )
    storage = run_config.location(name)
    journal, past = _journal.open_journal(storage)
    try:
        header = past.header
        if header is not None and run_config.resume is False:
            journal.close()
            _put_aside(storage)
            journal, past = _journal.open_journal(storage)
            header = None
        if header is None:
            header = _header(setup, called, name)
        else:
            _check_same(header, setup, name)
        experiment = _Experiment(setup, trainable, storage, journal, header)
        trials, loop = experiment.put_together()
        if past.header is None:
            journal.begin(header)
            with writing(storage):
                storage.write(SETUP, packed)
        return experiment.run(past, trials, loop)
    finally:
        journal.close()


def _check_function(called: str, checkpoint: CheckpointConfig) -> None:
    """Refuse what asks for a function to be saved: it saves itself. OptionError."""
    for name in ("checkpoint_frequency", "checkpoint_at_end"):
        if getattr(checkpoint, name):
            raise OptionError(
                f"CheckpointConfig({name}={getattr(checkpoint, name)!r}) is for Trainable classes, "
                f"and {called} is a function: call tune.report(metrics, checkpoint=...) in it when "
                "it is to be saved"
            )


def _header(setup: Setup, called: str, name: str) -> Header:
    if setup.run_config.resume is True:
        raise TuneError(f"there is no experiment {name!r} to continue")
    seed = setup.tune_config.seed
    return Header(
        experiment=name,
        trainable=called,
        prefix=uuid.uuid4().hex[:5],
        seed=random.SystemRandom().getrandbits(32) if seed is None else seed,
        metric=setup.tune_config.metric,
        mode=setup.tune_config.mode,
        parameters=sorted(map(str, setup.param_space)),
        begun_at=time.time(),
    )


def _check_same(header: Header, setup: Setup, name: str) -> None:
    """Refuse to go on with an experiment that is another one."""
    config = setup.tune_config
    for what, before, is_ in (
        ("metric", header.metric, config.metric),
        ("mode", header.mode, config.mode),
        ("parameters", header.parameters, sorted(map(str, setup.param_space))),
    ):
        if before != is_:
            raise TuneError(
                f"the experiment {name!r} is there, with {what} {before!r} instead of {is_!r}: "
                "give another name, or RunConfig(resume=False) to begin anew"
            )


def _put_aside(storage: Storage) -> None:
    """Keep what is there under another name."""
    storage.remove(CALLBACKS)
    number = 1 + sum(found.startswith("before-") for found in storage.names())
    if storage.is_local:
        journal = Path(storage.path, _journal.FILE)
        journal.rename(Path(storage.path, f"before-{number}.jsonl"))
        return
    segments = storage.join(_journal.SEGMENTS)
    for found in segments.names():
        storage.write(f"before-{number}/{found}", segments.read(found))
    storage.remove(_journal.SEGMENTS)


class _Experiment:
    """What is put together for one run."""

    def __init__(
        self, setup: Setup, trainable: Any, storage: Storage, journal: Journal, header: Header
    ) -> None:
        self._setup = setup
        self._config = setup.tune_config
        self._run_config = setup.run_config
        self._trainable = trainable
        self._storage = storage
        self._journal = journal
        self._header = header
        self._archive = Archive(storage, header, (), self._config.metric, self._config.mode)
        _, self._archive.log_file = self._run_config.log_files()
        self._watching: Watching | None = None
        self._facts: dict[str, Any] = {}

    def run(self, past: Past, trials: Trials, loop: TuneLoop) -> Archive:
        """Run it, from where the past has left it."""
        loop.replay(past)
        first = self._wishes(trials)
        if past.header is not None:
            self._say_what_is_there(trials)
        watching = self._watching
        with contextlib.nullcontext() if watching is None else contextlib.closing(watching):
            if watching is not None:
                watching.begin(self._facts)
            loop.run(first)
            if watching is not None:
                watching.end()
        self._archive.runs = list(trials.run_of.values())
        self._say_how_it_ended(loop)
        return self._archive

    def put_together(self) -> tuple[Trials, TuneLoop]:
        """Return the machine and its shell. OptionError: what the user says does not fit."""
        config, run_config = self._config, self._run_config
        searcher, scheduler = self._searcher(), self._scheduler()
        metric = config.metric or searcher.metric or getattr(scheduler, "metric", None)
        metrics = tuple(metric) if isinstance(metric, list) else (metric,) if metric else ()
        self._archive.metric = metric
        self._archive.mode = config.mode or searcher.mode or getattr(scheduler, "mode", None)
        stopper = _copied(as_stopper(run_config.stop))
        expected = searcher.expected_trials(config.num_samples)
        number = None if math.isinf(expected) else int(expected)
        if weft.is_initialized():
            preload(RUNNER)
        else:
            weft.init(preload=[RUNNER])
        total = Resources(weft.cluster_resources())
        varies = request_varies(self._trainable)
        trials = Trials(
            scheduler,
            stopper,
            total,
            default=Reservation.of([{}]) if varies else self._request(total),
            limits=self._limits(number),
        )
        self._look_on(trials, number)
        plan = LoopPlan(
            trainable=self._trainable,
            settings=self._settings(metrics),
            storage=self._storage,
            searcher=searcher,
            stopper=stopper,
            metrics=metrics,
            reuse=config.reuse_actors is not False,
            timeout_s=run_config.failure_config.trial_timeout_s,
            time_budget_s=config.time_budget_s,
            name_of=self._name_of,
            watching=self._watching,
        )
        return trials, TuneLoop(plan, trials, self._journal, self._header)

    def _searcher(self) -> Searcher:
        config = self._config
        searcher = config.search_alg or BasicVariantGenerator()
        # Another run, in this process or another, begins from what the user gave as well.
        searcher = create_searcher(searcher) if isinstance(searcher, str) else _lent(searcher)
        is_taken = searcher.set_search_properties(
            config.metric,
            config.mode,
            self._setup.param_space,
            num_samples=config.num_samples,
            seed=self._header.seed,
        )
        if not is_taken:
            raise OptionError(
                f"{type(searcher).__name__} has a space or an objective of its own, and Tuner was "
                "given another: give each in one place"
            )
        return searcher

    def _scheduler(self) -> TrialScheduler:
        config = self._config
        scheduler = config.scheduler or FIFOScheduler()
        if isinstance(scheduler, str):
            scheduler = create_scheduler(scheduler)
        else:
            scheduler = _copied(scheduler)
        metric: Any = config.metric
        mode: Any = config.mode
        if not scheduler.set_search_properties(metric, mode, seed=self._header.seed):
            raise OptionError(
                f"{type(scheduler).__name__} has an objective of its own, and TuneConfig another: "
                "give it in one place"
            )
        return scheduler

    def _limits(self, number: int | None) -> Limits:
        failure, checkpoint = self._run_config.failure_config, self._run_config.checkpoint_config
        return Limits(
            max_trials=number,
            max_concurrent=self._config.max_concurrent_trials or None,
            max_failures=failure.max_failures,
            fail_fast=bool(failure.fail_fast),
            checkpoint_at_end=bool(checkpoint.checkpoint_at_end),
            keeping=Keeping(
                checkpoint.num_to_keep,
                checkpoint.checkpoint_score_attribute,
                checkpoint.checkpoint_score_order,
            ),
        )

    def _settings(self, metrics: tuple[str, ...]) -> Settings:
        run_config = self._run_config
        checkpoint, sync = run_config.checkpoint_config, run_config.sync_config
        stdout, stderr = run_config.log_files()
        return Settings(
            experiment=self._header.experiment,
            trainable=self._header.trainable,
            storage=self._storage,
            metrics=metrics,
            checkpoint_frequency=checkpoint.checkpoint_frequency,
            checkpoint_at_end=bool(checkpoint.checkpoint_at_end),
            sync_artifacts=sync.sync_artifacts,
            sync_artifacts_on_checkpoint=sync.sync_artifacts and sync.sync_artifacts_on_checkpoint,
            restore=self._setup.restore,
            stdout=stdout,
            stderr=stderr,
        )

    def _look_on(self, trials: Trials, number: int | None) -> None:
        """Have callbacks and reporter told, if there are any."""
        run_config = self._run_config
        looking_on = list(run_config.callbacks or ())
        reporter = run_config.progress_reporter
        verbose = 1 if run_config.verbose is None else run_config.verbose
        if verbose > 0 and reporter is None:
            reporter = default_reporter()
        if verbose > 1:
            looking_on.append(TrialLines(results=verbose > 2))
        if not looking_on and reporter is None:
            return
        callbacks = CallbackList(looking_on)
        self._watching = Watching(callbacks, reporter, self._archive, trials.run_of)
        self._facts = {
            "stop": run_config.stop,
            "num_samples": self._config.num_samples,
            "total_num_samples": number,
            "experiment_path": self._storage.path,
            "experiment_name": self._header.experiment,
            "metric": self._config.metric,
            "mode": self._config.mode,
        }

    def _request(self, total: Resources) -> Reservation:
        """Return what every trial takes. TuneError: that is not there."""
        wanted = reservation(request_of(self._trainable, {}))
        lacking = wanted.total.shortfall(total)
        if lacking:
            raise TuneError(
                f"a trial needs {wanted.total!r}, which this machine never has: "
                f"{lacking!r} more is needed"
            )
        return wanted

    def _name_of(self, trial_id: str, config: dict[str, Any]) -> tuple[str, str]:
        """Return a trial's name and directory, as the user's functions say; empty: as usual."""
        name_creator = self._config.trial_name_creator
        dirname_creator = self._config.trial_dirname_creator
        if name_creator is None and dirname_creator is None:
            return "", ""
        run = TrialRun(trial_id, encode(config), Reservation.of([{}]))
        name, dirname = "", ""
        if name_creator is not None:
            name = run.name = str(name_creator(Trial(run, self._archive)))
        if dirname_creator is not None:
            dirname = str(dirname_creator(Trial(run, self._archive)))
            if not dirname or "/" in dirname:
                raise TuneError(
                    f"trial_dirname_creator returned {dirname!r} for trial {trial_id}: "
                    "a directory's name has no slash"
                )
        return name, dirname or name.replace("/", "_")

    def _wishes(self, trials: Trials) -> list[Event]:
        """Return what the user wants of trials that failed, or that have not ended."""
        resume = self._setup.resume_config
        if resume is None:
            return []
        events: list[Event] = []
        for trial in trials.run_of.values():
            if trial.status == "ERROR" and resume.errored != "skip":
                events.append(Revived(trial.id, fresh=resume.errored == "restart"))
            elif not trial.has_ended and resume.unfinished == "skip":
                events.append(Abandoned(trial.id))
            elif not trial.has_ended and resume.unfinished == "restart":
                events.append(Reset(trial.id))
        return events

    def _say_what_is_there(self, trials: Trials) -> None:
        ended = sum(trial.has_ended for trial in trials.run_of.values())
        if self._run_config.verbose == 0:
            return
        sys.stderr.write(
            f"the experiment {self._header.experiment!r} goes on: {ended} of its "
            f"{len(trials.run_of)} trials have ended; it is in {self._storage}\n"
        )

    def _say_how_it_ended(self, loop: TuneLoop) -> None:
        how = (
            f"start the same program again, with the name {self._header.experiment!r}"
            if self._run_config.name
            else f"Tuner.restore({self._storage.path!r}, trainable)"
        )
        if loop.was_interrupted:
            logger.warning("interrupted; to go on: %s", how)
            raise KeyboardInterrupt
        if loop.halted_by is not None:
            error = self._archive.error(loop.halted_by)
            if self._run_config.failure_config.fail_fast == "raise" and error is not None:
                raise error
            logger.warning(
                "trial %s failed, which ended the experiment (fail_fast); to go on: %s",
                loop.halted_by.id, how,
            )  # fmt: skip


def _lent(searcher: Searcher) -> Searcher:
    """Return a copy to run with; the searcher, and what it wraps, remember theirs."""
    made = _copied(searcher)
    given: Any = searcher
    ran: Any = made
    while isinstance(given, Searcher):
        given._ran = ran
        given, ran = getattr(given, "searcher", None), getattr(ran, "searcher", None)
    return made


def _copied(given: Decider) -> Decider:
    """Return a copy of what the user gave, which stays as it is for the next run."""
    try:
        return copy.deepcopy(given)
    except Exception as error:
        raise OptionError(
            f"{type(given).__name__} cannot be copied ({error}): each experiment runs with a copy "
            "of it; leave out what cannot be, or write its __deepcopy__"
        ) from error
