"""Search with Ax: Bayesian optimization by BoTorch, with constraints.

Ax sees numbers as they are, so that its constraints are about those; normal draws as shares in
[0, 1]; and of categories their numbers. A suggestion fits a model anew: some tenths of a second
when the first trials, which Ax spreads evenly, have ended. So it takes long to recall trials, too.

Source: Olson et al., "Ax: A Platform for Adaptive Experimentation", AutoML 2025.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from weft.exceptions import OptionError
from weft.lowlevel import lazy, override
from weft.tune.search.box_searcher import BoxSearcher, coordinate_of, flat_domains, value_of
from weft.tune.search.extras import required
from weft.tune.search.model_searcher import metric_of
from weft.tune.search.sample import Categorical, Integer, LogUniform, Normal, Quantized

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

    import ax
    from ax.exceptions import core, generation_strategy
    from ax.utils.common import logger as ax_logger

    from weft.tune.search.box_searcher import Suggestion, Values
    from weft.tune.search.sample import Domain
    from weft.tune.search.searcher import Config
    from weft.tune.views import Outcome, TrialView
else:
    ax = lazy("ax")
    ax_logger = lazy("ax.utils.common.logger")
    core = lazy("ax.exceptions.core")
    generation_strategy = lazy("ax.exceptions.generation_strategy")

OBJECTIVE = "objective"
"""What Ax calls the loss: a metric's own name may be none that its expressions can have."""


class AxSearch(BoxSearcher):
    """Search with Ax.

    Args:
        space: The space, unless the Tuner has it.
        metric: What to look at in results.
        mode: "min" or "max".
        points_to_evaluate: Configurations, or parts of them, that are tried first.
        parameter_constraints: Such as "x1 + x2 <= 2"; a nested name has dots: "model.lr".
        outcome_constraints: Such as "size <= 100", of metrics that trials report.
        ax_client: An `ax.Client` whose experiment is not configured yet; None: a fresh one.
        seed: None: the experiment's, else a random one.
        ax_kwargs: What `ax.Client.configure_generation_strategy` takes.

    Raises:
        ImportError: ax-platform is not installed.
    """

    def __init__(
        self,
        space: Config | None = None,
        metric: str | None = None,
        mode: str | None = None,
        points_to_evaluate: Sequence[Mapping[str, Any]] | None = None,
        *,
        parameter_constraints: Sequence[str] | None = None,
        outcome_constraints: Sequence[str] | None = None,
        ax_client: ax.Client | None = None,
        seed: int | None = None,
        **ax_kwargs: Any,
    ) -> None:
        required("ax", extra="ax")
        super().__init__(space, metric, mode, points_to_evaluate, seed=seed)
        self._parameter_constraints = list(parameter_constraints or ())
        self._outcome_constraints = list(outcome_constraints or ())
        self._constrained = {
            name
            for constraint in self._outcome_constraints
            for name in re.findall(r"[A-Za-z_]\w*", constraint)
        }
        self._client = ax_client
        self._options = ax_kwargs

    @staticmethod
    def convert_search_space(spec: Config) -> list[Any]:
        """Return Ax's parameters for a space."""
        domains = flat_domains(spec, owner="AxSearch")
        return [_parameter(_label(name), domain) for name, domain in domains.items()]

    @override
    def _start(self) -> None:
        ax_logger.set_ax_logger_levels(logging.WARNING)  # It tells of every trial.
        if self._client is None:
            self._client = ax.Client(random_seed=self._seed)
        self._client.configure_experiment(
            parameters=self.convert_search_space(self._space),
            parameter_constraints=self._parameter_constraints,
        )
        self._client.configure_optimization(
            objective=f"-{OBJECTIVE}", outcome_constraints=self._outcome_constraints
        )
        self._client.configure_generation_strategy(
            **{"initialization_random_seed": self._seed, **self._options}
        )

    @property
    def client(self) -> ax.Client:
        """Ax's client: what it knows, and its analyses; after an experiment, that of its copy."""
        if isinstance(self._ran, AxSearch):
            return self._ran.client
        self._open_once()
        if self._client is None:
            raise OptionError("AxSearch has no client")
        return self._client

    @override
    def _suggest(self, fixed: Values, rng: random.Random) -> Suggestion | None:
        coordinates = {
            _label(name): _coordinate_of(self.domains[name], value) for name, value in fixed.items()
        }
        if len(fixed) == len(self.domains):
            return fixed, self.client.attach_trial(coordinates)
        try:
            found = self.client.get_next_trials(max_trials=1, fixed_parameters=coordinates or None)
        except (core.DataRequiredError, generation_strategy.MaxParallelismReachedException):
            return None  # Trials that run have to end first.
        for index, drawn in found.items():
            values = {
                name: _value_of(domain, drawn[_label(name)])
                for name, domain in self.domains.items()
            }
            return {**values, **fixed}, index
        return None

    @override
    def _learn(self, trial: TrialView, values: list[float] | None, outcome: Outcome) -> None:
        running = self._running.pop(trial.trial_id, None)
        if running is None:
            return
        index = running[1]
        reported = {name: metric_of(trial.result, name) for name in self._constrained}
        if outcome == "failed":
            self.client.mark_trial_failed(index)
        elif values is None or None in reported.values():
            self.client.mark_trial_abandoned(index)
        else:
            raw = {name: value for name, value in reported.items() if value is not None}
            self.client.complete_trial(index, {**raw, OBJECTIVE: self._losses(values)[0]})


def _label(name: str) -> str:
    return name.replace("/", ".")


def _is_share(domain: Domain) -> bool:
    sampler = domain.get_sampler()
    return isinstance(sampler.sampler if isinstance(sampler, Quantized) else sampler, Normal)


def _parameter(label: str, domain: Domain) -> Any:
    if isinstance(domain, Categorical):
        if len(domain) == 1:
            raise OptionError(f"{label}: Ax wants two categories at least")
        numbers = list(range(len(domain)))
        return ax.ChoiceParameterConfig(
            name=label, values=numbers, parameter_type="int", is_ordered=False
        )
    if _is_share(domain):
        return ax.RangeParameterConfig(name=label, bounds=(0.0, 1.0), parameter_type="float")
    sampler = domain.get_sampler()
    inner = sampler.sampler if isinstance(sampler, Quantized) else sampler
    first, last = domain.value_at(0.0), domain.value_at(1 - 1e-12)
    return ax.RangeParameterConfig(
        name=label,
        bounds=(first, last),
        parameter_type="int" if isinstance(domain, Integer) else "float",
        scaling="log" if isinstance(inner, LogUniform) else "linear",
    )


def _value_of(domain: Domain, coordinate: Any) -> Any:
    if isinstance(domain, Categorical) or _is_share(domain):
        return value_of(domain, coordinate)
    if isinstance(domain.get_sampler(), Quantized):
        return domain.value_at(domain.share_of(coordinate))
    return domain.cast(coordinate)


def _coordinate_of(domain: Domain, value: Any) -> Any:
    if isinstance(domain, Categorical) or _is_share(domain):
        return coordinate_of(domain, value)
    return value
