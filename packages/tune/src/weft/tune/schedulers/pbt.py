"""Population based training: the bad copy the good, and try something near.

Jaderberg et al., "Population Based Training of Neural Networks", 2017, Algorithm 1. A population of
trials trains with weights theta and hyperparameters h each, and is compared by p, the last metric.
Every `perturbation_interval` a trial is ready:

    exploit   truncation selection (section 4.1): one in the lower quantile takes theta and h of
              one drawn from the upper quantile, as they were at its last checkpoint
    explore   it then perturbs h, or draws it again (see `_exploration`)

What is always true
1. A trial's score is that of its last readiness, after a copy its source's; trials that have
   ended are not compared.
2. Trials of the upper quantile are saved when they are ready, so that there is something to copy.
3. What a trial draws depends on the seed, its id and how often it has drawn, not on the others.
4. Of each trial its lineage is known: which h the weights that it has were trained with, from when
   to when. `log_config` writes it to `pbt_policy_<trial id>.txt` at each exploit, for
   `PopulationBasedTrainingReplay`.

With `synch` trials wait, paused, until all of the population are ready, and then are decided upon
together; which means when nothing else runs or can be started.

What it does not do: a trial that cannot be saved cannot be copied; that is an error, and not a
population that learns nothing. A checkpoint is taken to be of the time when it was ordered: where a
trial saves itself at other times, lineages are off by that.

Facts about the clock: a trial that goes on from another's checkpoint may report times that go on
from its own, or from those of the other, where the clock is in the checkpoint. It is taken to be
the one that is nearer before its next time.
"""

from __future__ import annotations

import json
import math
import random
from typing import TYPE_CHECKING, Any

import msgspec

from weft.exceptions import OptionError
from weft.lowlevel import override
from weft.tune._arguments import check_integer, check_number
from weft.tune._readings import has_reading
from weft.tune.schedulers._exploration import Exploration
from weft.tune.schedulers._scores import ScoringScheduler
from weft.tune.schedulers.orders import Restart, Resume, Save, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from weft.tune.schedulers.orders import Order
    from weft.tune.schedulers.trial_scheduler import Verdict
    from weft.tune.views import ExperimentView, TrialView

    Config = Mapping[str, Any]
    Explore = Callable[[dict[str, Any]], dict[str, Any]]


class PolicyStep(msgspec.Struct, frozen=True):
    """One line of a policy: from a time on, this configuration."""

    time_attr: str
    time: float
    """Of training since the beginning of the lineage."""
    config: dict[str, Any]


def _plain(value: Any) -> Any:
    """Return a number of an array library as Python's own."""
    if callable(item := getattr(value, "item", None)):
        return item()
    raise TypeError(f"{value!r:.80} is not JSON")


class _Lineage(msgspec.Struct, frozen=True):
    """What some weights were trained with."""

    age: float
    """How long, in the unit of `time_attr`."""
    steps: tuple[PolicyStep, ...]


class Member(msgspec.Struct):
    """One trial of the population."""

    lineage: _Lineage
    """When it began, or copied last."""
    begun_at: float = 0.0
    """The trial's time then."""
    may_begin_at: tuple[float, ...] = ()
    """After a copy, before its next result: what that time may turn out to be."""
    ready_at: float = 0.0
    """The time when it was ready last."""
    score: float | None = None
    """At that time."""
    saved: tuple[float, _Lineage] | None = None
    """The time of the last checkpoint that was ordered, and what is in it."""
    draws: int = 0

    def see(self, time: float) -> None:
        """Take note of the time of a result."""
        if self.may_begin_at:
            before = [begin for begin in self.may_begin_at if begin < time]
            self.begun_at = self.ready_at = max(before, default=time)
            self.may_begin_at = ()

    def note_save(self) -> None:
        """Take note of the checkpoint that is ordered at the time when it is ready."""
        age = self.lineage.age + self.ready_at - self.begun_at
        self.saved = self.ready_at, _Lineage(age, self.lineage.steps)


class PopulationBasedTraining(ScoringScheduler):
    """Lets the bad trials copy the good ones while they train, with changed hyperparameters.

    Finds schedules rather than values, and wants trials that save and load quickly.

    Args:
        time_attr: The metric that counts time; it only grows.
        metric: What is compared. None: as TuneConfig says.
        mode: "min" or "max". None: as TuneConfig says.
        perturbation_interval: How much time passes before a trial copies, or is copied, again.
        burn_in_period: No trial copies before this time.
        hyperparam_mutations: What may change, by key: a domain, a list, a function of no arguments,
            or a dictionary of such. A key that configurations lack is drawn at first.
        quantile_fraction: The share of the population that copies, and that is copied, in [0, 0.5].
        resample_probability: Of drawing a hyperparameter again rather than perturbing it.
        perturbation_factors: What numbers are multiplied by.
        custom_explore_fn: Is given the changed configuration, and returns the one to take.
        log_config: Whether policies are written for a replay; configurations must be JSON then.
        require_attrs: Whether a result without the time or the metric is an error, or passed over.
        synch: Whether the population waits for its slowest before each decision.
        seed: Of what is drawn. None: as TuneConfig says. Functions draw for themselves.

    Raises:
        OptionError: An argument is out of its range; or, at a result, it has no such metric, or
            no checkpoint can be had.
    """

    def __init__(
        self,
        time_attr: str = "time_total_s",
        metric: str | None = None,
        mode: str | None = None,
        perturbation_interval: float = 60.0,
        burn_in_period: float = 0.0,
        hyperparam_mutations: Mapping[str, Any] | None = None,
        quantile_fraction: float = 0.25,
        resample_probability: float = 0.25,
        perturbation_factors: Sequence[float] = (1.2, 0.8),
        custom_explore_fn: Explore | None = None,
        log_config: bool = True,
        require_attrs: bool = True,
        synch: bool = False,
        *,
        seed: int | None = None,
    ) -> None:
        super().__init__(time_attr, metric, mode)
        check_number(
            self._name, "perturbation_interval", perturbation_interval, least=0, above=True
        )
        check_number(self._name, "burn_in_period", burn_in_period, least=0)
        check_number(self._name, "quantile_fraction", quantile_fraction, least=0)
        check_number(self._name, "resample_probability", resample_probability, least=0)
        for factor in perturbation_factors:
            check_number(self._name, "each of perturbation_factors", factor, least=0, above=True)
        if quantile_fraction > 0.5 or resample_probability > 1:
            raise OptionError(
                f"quantile_fraction of {self._name} is in [0, 0.5] and resample_probability in "
                f"[0, 1]: {quantile_fraction!r}, {resample_probability!r}"
            )
        if not hyperparam_mutations and custom_explore_fn is None:
            raise OptionError(
                f"{self._name} needs to know what may change: give hyperparam_mutations or "
                "custom_explore_fn"
            )
        if seed is not None:
            check_integer(self._name, "seed", seed, least=0)
        self._interval = perturbation_interval
        self._burn_in_period = burn_in_period
        self._quantile_fraction = quantile_fraction
        self._exploration = Exploration(
            self._name, hyperparam_mutations or {}, resample_probability, perturbation_factors
        )
        self._custom_explore_fn = custom_explore_fn
        self._log_config = log_config
        self._require_attrs = require_attrs
        self._synch = synch
        self._seed = seed
        self._member_of: dict[str, Member] = {}
        self._waiting: dict[str, None] = {}
        """Paused until all are ready."""
        self.reset_stats()

    def reset_stats(self) -> None:
        """Count saves and copies from 0 again."""
        self._saves = 0
        self._copies = 0

    def last_scores(self, trials: Iterable[TrialView]) -> list[float]:
        """Return the scores of those trials that have been ready; more is better."""
        members = (self._member_of.get(trial.trial_id) for trial in trials)
        return [member.score for member in members if member and member.score is not None]

    @override
    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        if self._seed is None:
            self._seed = spec.get("seed")
        return super().set_search_properties(metric, mode, **spec)

    # ------------------------------------------------------------------ what happens

    @override
    def on_trial_add(self, tune_controller: ExperimentView, trial: TrialView) -> Sequence[Order]:
        member = Member(_Lineage(0.0, ()))
        self._member_of[trial.trial_id] = member
        config = self._exploration.fill(trial.config, self._generator(trial.trial_id))
        member.lineage = _Lineage(0.0, (self._step(trial.trial_id, 0.0, config),))
        if config == trial.config:
            return ()
        return [Restart(trial.trial_id, trial.trial_id, config)]

    @override
    def on_trial_result(
        self, tune_controller: ExperimentView, trial: TrialView, result: Mapping[str, Any]
    ) -> Verdict | Sequence[Order]:
        if not self._require_attrs and not (
            has_reading(result, self.time_attr) and has_reading(result, self.metric or "")
        ):
            return self.CONTINUE
        time, score = self._read(trial.trial_id, result)
        member = self._member_of[trial.trial_id]
        member.see(time)
        if time < self._burn_in_period or time - member.ready_at < self._interval:
            return self.CONTINUE
        self._note_readiness(trial, member, time, score)
        if self._synch:
            self._waiting[trial.trial_id] = None
            return self.PAUSE
        lower, upper = self._quantiles()
        if trial.trial_id in upper:
            if member.saved is not None and not trial.has_checkpoint:
                raise self._no_checkpoint(trial.trial_id)
            self._saves += 1
            member.note_save()
            return [Save(trial.trial_id)]
        sources = self._sources(tune_controller, upper)
        if trial.trial_id in lower and sources:
            return self._copy(tune_controller, trial.trial_id, sources)
        return self.CONTINUE

    @override
    def on_idle(self, tune_controller: ExperimentView) -> Sequence[Order]:
        waiting = list(self._waiting)
        self._waiting.clear()
        for trial_id in waiting:
            self._saves += 1
            self._member_of[trial_id].note_save()
        lower, upper = self._quantiles()
        sources = self._sources(tune_controller, upper)
        if waiting and upper and not sources:
            raise self._no_checkpoint(upper[0])
        orders: list[Order] = []
        for trial_id in waiting:
            if trial_id in lower:
                orders += self._copy(tune_controller, trial_id, sources)
            else:
                orders.append(Resume(trial_id))
        return orders

    @override
    def on_trial_complete(
        self, tune_controller: ExperimentView, trial: TrialView, result: Mapping[str, Any]
    ) -> Sequence[Order]:
        return self._forget(trial.trial_id)

    @override
    def on_trial_error(self, tune_controller: ExperimentView, trial: TrialView) -> Sequence[Order]:
        return self._forget(trial.trial_id)

    def _forget(self, trial_id: str) -> Sequence[Order]:
        self._member_of.pop(trial_id, None)
        self._waiting.pop(trial_id, None)
        return ()

    # ------------------------------------------------------------------ exploit and explore

    def _note_readiness(self, trial: TrialView, member: Member, time: float, score: float) -> None:
        """Enter a trial's score into the comparison."""
        member.ready_at = time
        member.score = score

    def _quantiles(self) -> tuple[list[str], list[str]]:
        """Return the trials of the lower quantile and of the upper, the best last."""
        scores = {
            trial_id: member.score
            for trial_id, member in self._member_of.items()
            if member.score is not None
        }
        # Of equals, one that has been saved is the better: a copy has its source's score.
        ranked = sorted(
            scores, key=lambda id_: (scores[id_], self._member_of[id_].saved is not None)
        )
        size = min(math.ceil(len(ranked) * self._quantile_fraction), len(ranked) // 2)
        return ranked[:size], ranked[len(ranked) - size :]

    def _sources(self, view: ExperimentView, upper: Sequence[str]) -> list[str]:
        """Return those of the upper quantile that can be copied."""
        return [
            trial_id
            for trial_id in upper
            if view.trials[trial_id].has_checkpoint and self._member_of[trial_id].saved is not None
        ]

    def _copy(self, view: ExperimentView, trial_id: str, sources: Sequence[str]) -> Sequence[Order]:
        """Exploit one of the sources, and explore."""
        member = self._member_of[trial_id]
        rng = self._generator(trial_id)
        source = rng.choice(sources)
        copied = self._member_of[source]
        assert copied.saved is not None  # noqa: S101 - or it would be no source
        saved_at, lineage = copied.saved
        config = self._explore(view, trial_id, view.trials[source].config, rng)
        step = self._step(trial_id, lineage.age, config)
        member.lineage = _Lineage(lineage.age, (*lineage.steps, step))
        member.may_begin_at = (member.ready_at, saved_at)
        member.score = copied.score
        member.saved = None
        self._copies += 1
        orders: list[Order] = [Restart(trial_id, source, config)]
        if self._log_config:
            lines = (json.dumps(msgspec.structs.asdict(step)) for step in member.lineage.steps)
            orders.append(Write(f"pbt_policy_{trial_id}.txt", "\n".join(lines) + "\n"))
        return orders

    def _explore(
        self, view: ExperimentView, trial_id: str, config: Config, rng: random.Random
    ) -> dict[str, Any]:
        """Return the configuration with which a trial goes on, from the one that it copies."""
        return self._customised(self._exploration.explore(config, rng))

    def _customised(self, new: dict[str, Any]) -> dict[str, Any]:
        """Return what the user's function makes of a configuration."""
        if self._custom_explore_fn is None:
            return new
        made: Any = self._custom_explore_fn(new)
        if not isinstance(made, dict):
            raise OptionError(f"custom_explore_fn of {self._name} returns a dictionary: {made!r}")
        return made

    def _generator(self, trial_id: str) -> random.Random:
        member = self._member_of[trial_id]
        member.draws += 1
        return random.Random(f"{self._seed}/{trial_id}/{member.draws}")

    def _step(self, trial_id: str, age: float, config: Config) -> PolicyStep:
        """Return a step of a policy, with what JSON has for a configuration."""
        if not self._log_config:
            return PolicyStep(self.time_attr, age, {})
        try:
            plain = json.loads(json.dumps(config, default=_plain))
        except (TypeError, ValueError) as error:
            raise OptionError(
                f"{self._name} cannot write the configuration of trial {trial_id} for a replay "
                f"({error}): give log_config=False"
            ) from None
        return PolicyStep(self.time_attr, age, plain)

    def _no_checkpoint(self, trial_id: str) -> OptionError:
        return OptionError(
            f"{self._name} copies checkpoints, and trial {trial_id} saved none when it was asked "
            "to: report one with tune.report(metrics, checkpoint=...), or write save_checkpoint"
        )

    @override
    def debug_string(self) -> str:
        return f"{self._name}: {self._saves} saved, {self._copies} copied another"
