"""The Tuner: an experiment as users begin, continue and read it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from weft.exceptions import OptionError
from weft.lowlevel import unpack
from weft.tune import _experiment, _journal
from weft.tune._archive import Archive
from weft.tune._experiment import Setup
from weft.tune._storage import storage_at
from weft.tune.config import ResumeConfig, RunConfig, TuneConfig
from weft.tune.error import TuneError
from weft.tune.result_grid import ResultGrid

if TYPE_CHECKING:
    import os

    from weft.tune.config import Choice


class Tuner:
    """Tries configurations of a trainable."""

    def __init__(
        self,
        trainable: Any = None,
        *,
        param_space: dict[str, Any] | None = None,
        tune_config: TuneConfig | None = None,
        run_config: RunConfig | None = None,
    ) -> None:
        """Say what to try.

        Args:
            trainable: A function of a configuration, a Trainable class, the name of a registered
                one, or anything with `as_trainable()`.
            param_space: What a configuration is made of: values, domains, grids, nested.
            tune_config: What to look for, and how.
            run_config: Where to keep it, and what to do at failures.

        Raises:
            OptionError: Something does not fit.
        """
        if trainable is None:
            raise OptionError("Tuner needs a trainable: Tuner(objective, param_space={...})")
        if not isinstance(param_space, dict | None):
            raise OptionError(f"param_space={param_space!r}: give a dictionary")
        for name, value, kind in (
            ("tune_config", tune_config, TuneConfig),
            ("run_config", run_config, RunConfig),
        ):
            if value is not None and not isinstance(value, kind):
                raise OptionError(f"{name}={value!r}: give a {kind.__name__}")
        self._setup = Setup(
            trainable=trainable,
            param_space=param_space or {},
            tune_config=tune_config or TuneConfig(),
            run_config=run_config or RunConfig(),
        )
        self._results: ResultGrid | None = None

    def fit(self) -> ResultGrid:
        """Run the experiment, or go on with it. Blocks until it ends.

        Returns:
            The results of all trials. Trials that failed have an error there; `fit` raises for a
            trial only with `fail_fast="raise"`.

        Raises:
            TuneError: The experiment cannot begin or go on. What its journal holds can be
                continued.
            KeyboardInterrupt: Ctrl-C came; a line said how to continue.
        """
        self._results = ResultGrid(_experiment.run(self._setup))
        return self._results

    def get_results(self) -> ResultGrid:
        """Return what there is by now, without running anything.

        Raises:
            TuneError: The experiment was not run.
        """
        if self._results is None:
            config = self._setup.run_config
            if config.name is None:
                raise TuneError("there are no results yet: call fit() first")
            tune_config = self._setup.tune_config
            archive = Archive.of(config.location(config.name))
            archive.metric = tune_config.metric or archive.metric
            archive.mode = tune_config.mode or archive.mode
            _, archive.log_file = config.log_files()
            self._results = ResultGrid(archive)
        return self._results

    @classmethod
    def restore(
        cls,
        path: str | os.PathLike[str],
        trainable: Any,
        resume_unfinished: bool = True,
        resume_errored: bool = False,
        restart_errored: bool = False,
        param_space: dict[str, Any] | None = None,
        storage_filesystem: Any = None,
        _resume_config: ResumeConfig | None = None,
    ) -> Tuner:
        """Return the Tuner of an experiment that was begun, to go on with it or to read it.

        Args:
            path: The experiment's directory, or its URI.
            trainable: The same one; its code may have changed.
            resume_unfinished: Whether trials that were running or waiting go on.
            resume_errored: Whether trials that failed go on from their last checkpoint.
            restart_errored: Whether trials that failed begin anew.
            param_space: The same space, where it holds what cannot be stored.
            storage_filesystem: In which `path` is.

        Raises:
            TuneError: There is no experiment that can be continued.
            OptionError: Two of the arguments contradict each other.
        """
        if resume_errored and restart_errored:
            raise OptionError("resume_errored or restart_errored: give one")
        storage = storage_at(path, storage_filesystem)
        if not cls.can_restore(path, storage_filesystem):
            raise TuneError(f"there is no experiment to continue in {storage!r}")
        setup: Setup = unpack(storage.read(_experiment.SETUP))
        above, _, name = storage.path.rpartition("/")
        errored: Choice = "resume" if resume_errored else "restart" if restart_errored else "skip"
        made = cls(
            trainable,
            param_space=setup.param_space if param_space is None else param_space,
            tune_config=setup.tune_config,
            run_config=dataclasses.replace(
                setup.run_config,
                name=name,
                storage_path=above,
                storage_filesystem=None if storage.is_local else storage.filesystem,
                resume=True,
            ),
        )
        made._setup.resume_config = _resume_config or ResumeConfig(
            unfinished="resume" if resume_unfinished else "skip", errored=errored
        )
        return made

    @classmethod
    def can_restore(cls, path: str | os.PathLike[str], storage_filesystem: Any = None) -> bool:
        """Tell whether a directory holds an experiment that `restore` can go on with."""
        storage = storage_at(path, storage_filesystem)
        return _experiment.SETUP in storage.names() and _journal.is_there(storage)
