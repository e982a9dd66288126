"""Search with optuna: TPE, or any of its samplers; one objective or several.

A trial of Weft is a trial of an optuna study, which is asked and told. What Weft adds:

- **Replay.** The default sampler is made for each trial, with a seed of its own: of the search's
  seed and the trial's number. So a suggestion depends on the trials before it alone, and when an
  experiment is continued, these are given back to the study without asking the sampler again.
- **A window.** TPE looks at every trial for every suggestion: 7 us each, so 70 ms at 10,000. Its
  good trials are 25 at most, though, and of the others it estimates a density, which a part of them
  shows as well. So the study of the default sampler keeps the best, the newest, and an even choice
  of the others (`_window.py`): a suggestion costs a few milliseconds, whatever the number of
  trials, and so does the memory.
- **Conditional values.** Parameters are suggested while the configuration is made.

Optuna's words for how a trial ended: one that a scheduler stopped is PRUNED, at its last value; one
whose metric is no finite number is PRUNED without a value, which TPE avoids; one that failed is
FAIL, which says nothing about its parameters.

Source of TPE: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NIPS 2011, section 4;
Watanabe, "Tree-Structured Parzen Estimator", arXiv:2304.11127.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any

from weft.exceptions import OptionError
from weft.lowlevel import lazy, override
from weft.tune.search.extras import required
from weft.tune.search.model_searcher import ModelSearcher
from weft.tune.search.optuna._spaces import suggested
from weft.tune.search.optuna.distributions import to_distribution
from weft.tune.search.variant_generator import parse_spec_vars, path_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import optuna
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from optuna.trial import Trial, TrialState

    from weft.tune.search.optuna import _window
    from weft.tune.search.optuna._spaces import DefineByRun, Distributions, SuggestedSpace
    from weft.tune.search.searcher import Config
    from weft.tune.views import Outcome, TrialView
else:
    optuna = lazy("optuna")
    _window = lazy("weft.tune.search.optuna._window")

TRIAL_ID = "weft_trial_id"
"""The attribute of a trial in a storage that says which of Weft's it is."""


@dataclass
class _KnownTrial:
    """A trial that the study has not been told of: of an earlier run, or given with its result."""

    params: dict[str, Any]
    state: TrialState
    values: list[float] | None = None
    intermediate_values: dict[int, float] = field(default_factory=dict)


class OptunaSearch(ModelSearcher):
    """Search with optuna.

    Args:
        space: The space, unless the Tuner has it: domains of Weft; optuna's distributions by their
            names, with slashes where they are nested; or a function that suggests its parameters on
            an optuna trial, and returns what else the configuration has.
        metric: What to look at in results; a list: several objectives.
        mode: "min" or "max", for each.
        points_to_evaluate: Configurations, or parts of them, that are tried first.
        sampler: Any of optuna's; None: TPE.
        study_name: Of the study in the storage.
        storage: Where optuna keeps the study, which goes on with the trials that are there. None:
            in memory.
        seed: Of the default sampler; None: the experiment's, else a random one.
        evaluated_rewards: Results of the first points, which need not be tried then.

    Raises:
        ImportError: optuna is not installed.
    """

    def __init__(
        self,
        space: Config | Distributions | DefineByRun | None = None,
        metric: str | list[str] | None = None,
        mode: str | list[str] | None = None,
        points_to_evaluate: Sequence[Mapping[str, Any]] | None = None,
        *,
        sampler: BaseSampler | None = None,
        study_name: str | None = None,
        storage: BaseStorage | str | None = None,
        seed: int | None = None,
        evaluated_rewards: Sequence[Any] | None = None,
    ) -> None:
        required("optuna", extra="optuna")
        super().__init__(space, metric, mode, points_to_evaluate, evaluated_rewards, seed=seed)
        if sampler is not None and seed is not None:
            raise OptionError("OptunaSearch: give the seed to the sampler that you make")
        self._sampler = sampler
        self._study_name = study_name
        self._storage = storage
        self._running: dict[str, Trial | _KnownTrial | int] = {}
        self._untold: list[_KnownTrial] = []
        self._earlier: dict[str, int] = {}
        self._told = 0
        self._has_begun = False

    @property
    def study(self) -> Study:
        """The study; after an experiment, that of the copy that ran.

        With the default sampler in memory, it does not hold every trial.
        """
        if isinstance(self._ran, OptunaSearch):
            return self._ran.study
        self._open_once()
        self._catch_up()
        return self._study

    @staticmethod
    def convert_search_space(spec: Config) -> Distributions:
        """Return optuna's distributions for a space, by names such as `model/lr`."""
        return {path_name(path): to_distribution(found) for path, found in parse_spec_vars(spec)[1]}

    def add_evaluated_point(
        self,
        parameters: Mapping[str, Any],
        value: Any,
        *,
        error: bool = False,
        pruned: bool = False,
        intermediate_values: Sequence[float] | None = None,
    ) -> None:
        """Learn a result that is known.

        Args:
            parameters: The configuration: all of it.
            value: Its result; with several objectives, one for each.
            error: Whether it failed: it has no value then.
            pruned: Whether it was stopped: what counts is its last intermediate value.
            intermediate_values: What it reported on its way.

        Raises:
            OptionError: It is not of the space, or its value is no finite number.
        """
        self._open_once()
        reports = dict(enumerate(intermediate_values or ()))
        states = optuna.trial.TrialState
        if error:
            self._add(parameters, states.FAIL, None, reports)
        elif pruned:
            last = list(reports.values())[-1:]
            self._add(parameters, states.PRUNED, self._checked(last) if last else None, reports)
        else:
            self._add(parameters, states.COMPLETE, self._checked(value), reports)

    def _checked(self, value: Any) -> list[float]:
        """Return a result as a number for each objective."""
        values = list(value) if isinstance(value, list | tuple) else [value]
        is_finite = all(isinstance(each, Real) and math.isfinite(each) for each in values)
        if len(values) != len(self.objectives) or not is_finite:
            wanted = ", ".join(metric for metric, _ in self.objectives)
            raise OptionError(
                f"OptunaSearch: the result of an evaluated point is {value!r}: give a finite"
                f" number for {wanted}"
            )
        return [float(each) for each in values]

    def _add(
        self,
        config: Mapping[str, Any],
        state: TrialState,
        values: list[float] | None,
        reports: dict[int, float],
    ) -> None:
        """Take a trial that has ended, of which no sampler is asked where that can be avoided."""
        params = self._suggested.params_of(config)
        if self._suggested.is_plain:
            missing = self._suggested.distributions.keys() - params.keys()
            if missing:
                raise OptionError(
                    f"OptunaSearch: an evaluated point has no {', '.join(sorted(missing))}"
                )
            self._remember(_KnownTrial(params, state, values, reports))
        else:
            trial, _ = self._begin(config)
            for step, value in reports.items():
                trial.report(value, step)
            is_complete = state == optuna.trial.TrialState.COMPLETE
            self._study.tell(trial, values if is_complete else None, state=state)
        self._note_end()

    def _remember(self, known: _KnownTrial) -> None:
        """Put a trial down for the study; a window looks at it when it is first asked."""
        self._untold.append(known)
        if not self._is_window or self._has_begun:
            self._catch_up()

    @override
    def recall(self, trial_id: str, config: Config) -> None:
        self._open_once()
        if trial_id in self._earlier:
            self._asked += 1
            self._running[trial_id] = self._earlier[trial_id]
            return
        if self._sampler is not None or not self._suggested.is_plain:
            super().recall(trial_id, config)
            return
        self._asked += 1
        known = _KnownTrial(self._suggested.recalled(config), optuna.trial.TrialState.RUNNING)
        self._running[trial_id] = known
        self._remember(known)

    @override
    def _open(self) -> None:
        self._suggested: SuggestedSpace = suggested(self._space)
        for point in self._points:
            self._suggested.params_of(point)  # It fits, or that is said before anything runs.
        self._study = self._create()
        for trial in self._study.get_trials(deepcopy=False):
            if TRIAL_ID in trial.user_attrs:
                self._earlier[trial.user_attrs[TRIAL_ID]] = trial.number
        for point, value in self._evaluated:
            self._add(point, optuna.trial.TrialState.COMPLETE, self._checked(value), {})

    @property
    def _is_window(self) -> bool:
        return self._sampler is None and self._storage is None and len(self.objectives) == 1

    def _create(self) -> Study:
        directions = {
            "min": optuna.study.StudyDirection.MINIMIZE,
            "max": optuna.study.StudyDirection.MAXIMIZE,
        }
        with _quiet():
            return optuna.create_study(
                storage=self._storage,
                study_name=self._study_name,
                sampler=self._sampler or optuna.samplers.RandomSampler(),
                directions=[directions[mode] for _, mode in self.objectives],
                load_if_exists=True,
            )

    @override
    def _propose(self, trial_id: str) -> Config:
        point = self._next_point()
        trial, config = self._begin(point)
        if self._storage is not None:
            trial.set_user_attr(TRIAL_ID, trial_id)
        self._running[trial_id] = trial
        return config

    def _begin(self, point: Mapping[str, Any]) -> tuple[Trial, Config]:
        """Have the study begin a trial, with the sampler of this trial."""
        self._catch_up()
        rng = self._generator()
        if self._sampler is None:
            space = self._suggested.distributions or None
            self._study.sampler = _window.SeededTPE(rng.getrandbits(32), space)
        if point:
            self._study.enqueue_trial(self._suggested.params_of(point))
        trial = self._study.ask(self._suggested.distributions)
        return trial, self._suggested.config_of(trial, point, rng)

    def _fixed(self, params: dict[str, Any], distributions: Distributions) -> Trial:
        """Have the study begin a trial of which every parameter is known."""
        self._study.enqueue_trial(params)
        return self._study.ask(distributions)

    @override
    def _learn(self, trial: TrialView, values: list[float] | None, outcome: Outcome) -> None:
        running = self._running.pop(trial.trial_id, None)
        if running is None:
            return
        states = optuna.trial.TrialState
        is_single = len(self.objectives) == 1
        if outcome == "failed" or (values is None and not is_single):
            state = states.FAIL
        elif values is None or (outcome == "stopped" and is_single):
            state = states.PRUNED
        else:
            state = states.COMPLETE
        reports = {trial.iterations: values[0]} if values and state == states.PRUNED else {}
        if isinstance(running, _KnownTrial):
            running.state, running.intermediate_values = state, reports
            running.values = None if state == states.FAIL else values
        elif isinstance(running, int):  # One of an earlier run may have been told in that.
            told = values if state == states.COMPLETE else None
            self._study.tell(running, told, state=state, skip_if_finished=True)
        else:
            for step, value in reports.items():
                running.report(value, step)
            self._study.tell(running, values if state == states.COMPLETE else None, state=state)
        self._note_end()

    def _note_end(self) -> None:
        """Count a trial that has ended; a window that is full forgets some."""
        self._told += 1
        if self._is_window and self._told > _window.MOST:
            self._shrink()

    def _shrink(self) -> None:
        """Forget trials: of those that the study is yet to be told of, or else of the study."""
        direction = self._study.direction
        states = optuna.trial.TrialState
        counted = {states.COMPLETE, states.PRUNED}
        if self._untold:
            ended = [found for found in self._untold if found.state in counted]
            running = [found for found in self._untold if found.state == states.RUNNING]
            kept = _window.kept([_window.rank_of(found, direction) for found in ended])
            self._untold = [*(ended[number] for number in kept), *running]
        else:
            study = self._study.get_trials(deepcopy=False)
            trials = [trial for trial in study if trial.state in counted]
            kept = _window.kept([_window.rank_of(trial, direction) for trial in trials])
            self._study = self._create()
            self._study.add_trials([trials[number] for number in kept])
            for trial_id, trial in self._running.items():
                if isinstance(trial, optuna.trial.Trial):
                    self._running[trial_id] = self._fixed(trial.params, trial.distributions)
        self._told = len(kept)

    def _catch_up(self) -> None:
        """Tell the study of the trials that it has not been told of."""
        self._has_begun = True
        if not self._untold:
            return
        distributions = self._suggested.distributions
        names = {id(trial): trial_id for trial_id, trial in self._running.items()}
        for trial in self._untold:
            if trial.state == optuna.trial.TrialState.RUNNING:
                self._running[names[id(trial)]] = self._fixed(trial.params, distributions)
            else:
                self._study.add_trial(
                    optuna.trial.create_trial(
                        state=trial.state,
                        values=trial.values,
                        params=trial.params,
                        distributions=distributions,
                        intermediate_values=trial.intermediate_values,
                    )
                )
        self._untold = []


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep optuna from saying that there is a study, each time."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
