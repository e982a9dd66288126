"""The three ways to say what optuna searches: domains of Weft, distributions, or a function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from weft.exceptions import OptionError
from weft.lowlevel import lazy, override
from weft.tune.search.model_searcher import other_space
from weft.tune.search.optuna.distributions import (
    from_distribution,
    param_of,
    to_distribution,
    value_of,
)
from weft.tune.search.points import put_point, value_at_path
from weft.tune.search.sample import Categorical, Domain
from weft.tune.search.variant_generator import parse_spec_vars, path_name, resolve

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping

    from optuna import distributions
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

    from weft.tune.search.searcher import Config
    from weft.tune.search.variant_generator import Given, Path

    Distributions = dict[str, BaseDistribution]
    DefineByRun = Callable[[Trial], Mapping[str, Any] | None]
    Params = dict[str, Any]
else:
    distributions = lazy("optuna.distributions")


class SuggestedSpace(Protocol):
    """What turns parameters of optuna's trials into configurations."""

    distributions: Distributions
    """Of the parameters that every trial has."""
    is_plain: bool
    """Whether trials have no others, so that a configuration tells all of them."""

    def params_of(self, point: Mapping[str, Any]) -> Params:
        """Return the parameters that a configuration, or a part of one, says.

        Raises:
            OptionError: It is not of the space.
        """

    def config_of(self, trial: Trial, point: Mapping[str, Any], rng: random.Random) -> Config:
        """Return the configuration of a trial whose `distributions` have been suggested."""

    def recalled(self, config: Config) -> Params:
        """Return all parameters that a trial of a plain space has.

        Raises:
            OptionError: It is not of the space.
        """


def suggested(space: Any) -> SuggestedSpace:
    """Return the space that a user gave."""
    if callable(space):
        return RunSpace(space)
    if all(isinstance(found, distributions.BaseDistribution) for found in space.values()):
        return DistributionSpace(space)
    return DomainSpace(space)


class DomainSpace(SuggestedSpace):
    """Weft's domains.

    The domains of the space itself are parameters of every trial; those within choices, and those
    that functions return, are suggested when they are met.
    """

    def __init__(self, space: Config) -> None:
        self._space = space
        found = parse_spec_vars(space)[1]
        self._domains = {path: domain for path, domain in found if not domain.is_function()}
        if not self._domains:
            raise OptionError("OptunaSearch: there is no domain in the search space")
        self.distributions = {
            path_name(path): to_distribution(domain) for path, domain in self._domains.items()
        }
        self._kinds = {name: [_kind(known)] for name, known in self.distributions.items()}
        self.is_plain = len(found) == len(self._domains) and not any(
            isinstance(domain, Categorical) and parse_spec_vars({"": domain.categories})[1]
            for domain in self._domains.values()
        )

    @override
    def params_of(self, point: Mapping[str, Any]) -> Params:
        placed = put_point(self._space, point)
        params = {}
        for path, domain in self._domains.items():
            value = value_at_path(placed, path)
            if value is not domain:
                params[path_name(path)] = param_of(domain, value)
        return params

    @override
    def config_of(self, trial: Trial, point: Mapping[str, Any], rng: random.Random) -> Config:
        params = trial.params  # A copy each time.

        def draw(path: Path, domain: Domain, given: Given) -> Any:
            if domain.is_function():
                return domain.sample(given, random_state=rng)
            if self._domains.get(path) is domain:
                return value_of(domain, params[path_name(path)])
            distribution = to_distribution(domain)
            return value_of(domain, suggest(trial, self._name(path, distribution), distribution))

        config: Config = resolve(put_point(self._space, point), draw)
        return config

    @override
    def recalled(self, config: Config) -> Params:
        params = {}
        for path, domain in self._domains.items():
            value = value_at_path(config, path)
            if not domain.is_valid(value):
                raise other_space(path_name(path), value, domain)
            params[path_name(path)] = param_of(domain, value)
        return params

    def _name(self, path: Path, distribution: BaseDistribution) -> str:
        """Return a parameter's name: optuna wants one for each kind of distribution at a place."""
        name, kind = path_name(path), _kind(distribution)
        kinds = self._kinds.setdefault(name, [])
        if kind not in kinds:
            kinds.append(kind)
        number = kinds.index(kind)
        return f"{name}#{number}" if number else name


class DistributionSpace(SuggestedSpace):
    """Optuna's distributions by their names; a slash in a name makes a nested configuration."""

    is_plain = True

    def __init__(self, space: Distributions) -> None:
        self.distributions = dict(space)

    @override
    def params_of(self, point: Mapping[str, Any]) -> Params:
        params = _flat(point)
        for name, value in params.items():
            if name not in self.distributions:
                raise OptionError(
                    f"points_to_evaluate: the search space has no {name!r}, it has"
                    f" {', '.join(self.distributions)}"
                )
            if not from_distribution(self.distributions[name]).is_valid(value):
                raise OptionError(
                    f"points_to_evaluate: {name} is {value!r}, not of {self.distributions[name]!r}"
                )
        return params

    @override
    def config_of(self, trial: Trial, point: Mapping[str, Any], rng: random.Random) -> Config:
        return nested(trial.params)

    @override
    def recalled(self, config: Config) -> Params:
        flat = _flat(config)
        params = {name: flat.get(name) for name in self.distributions}
        for name, value in params.items():
            if not from_distribution(self.distributions[name]).is_valid(value):
                raise other_space(name, value, self.distributions[name])
        return params


class RunSpace(SuggestedSpace):
    """A function that suggests its parameters on a trial, and returns what else there is."""

    is_plain = False

    def __init__(self, define: DefineByRun) -> None:
        self._define = define
        self.distributions: Distributions = {}

    @override
    def params_of(self, point: Mapping[str, Any]) -> Params:
        return _flat(point)

    @override
    def config_of(self, trial: Trial, point: Mapping[str, Any], rng: random.Random) -> Config:
        constants = self._define(trial)
        return {**nested(trial.params), **(constants or {})}

    @override
    def recalled(self, config: Config) -> Params:
        raise NotImplementedError("a function's parameters are known when it is called")


def suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    """Return a value for a parameter."""
    if isinstance(distribution, distributions.CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, distributions.IntDistribution):
        low, high = distribution.low, distribution.high
        return trial.suggest_int(name, low, high, step=distribution.step, log=distribution.log)
    assert isinstance(distribution, distributions.FloatDistribution)  # noqa: S101 - the last kind
    return trial.suggest_float(
        name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
    )


def nested(flat: Mapping[str, Any]) -> Config:
    """Return {"model": {"lr": 1}} for {"model/lr": 1}."""
    config: Config = {}
    for name, value in flat.items():
        *way, last = name.split("/")
        place = config
        for step in way:
            place = place.setdefault(step, {})
        place[last] = value
    return config


def _flat(config: Mapping[str, Any]) -> Params:
    values, _, _ = parse_spec_vars(config)
    return {path_name(path): value for path, value in values}


def _kind(distribution: BaseDistribution) -> Any:
    """Return what optuna wants to be the same for all parameters of a name."""
    if isinstance(distribution, distributions.CategoricalDistribution):
        return repr(distribution.choices)
    return type(distribution), getattr(distribution, "log", False)
