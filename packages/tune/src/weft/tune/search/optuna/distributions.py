"""Weft's domains as optuna's distributions, and back.

Most domains have a distribution that draws the same. The others have one whose parameter stands for
the value: `value_of` and `param_of` translate.

    normal draws              the share of draws below the value, in [0, 1)
    multiples of q, log       the value before it is rounded to a multiple
    categories that optuna    the number of the category
      does not store
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.exceptions import OptionError
from weft.lowlevel import lazy
from weft.tune.search.sample import (
    BELOW_ONE,
    Categorical,
    Domain,
    Float,
    Integer,
    LogUniform,
    Normal,
    Quantized,
    Sampler,
    Uniform,
    choice,
    lograndint,
    loguniform,
    qrandint,
    quniform,
    uniform,
)

if TYPE_CHECKING:
    from optuna import distributions
    from optuna.distributions import BaseDistribution
else:
    distributions = lazy("optuna.distributions")


def to_distribution(domain: Domain) -> BaseDistribution:
    """Return the distribution of a domain.

    Raises:
        OptionError: It has none: it is a function, or its sampler is one of your own.
    """
    if isinstance(domain, Categorical) and not domain.is_grid():
        stored = domain.categories if _is_stored(domain) else range(len(domain))
        return distributions.CategoricalDistribution(list(stored))
    if isinstance(domain, Float | Integer):
        sampler, step = _rounded(domain)
        if isinstance(sampler, Normal):
            return distributions.FloatDistribution(0.0, BELOW_ONE)
        if isinstance(sampler, LogUniform):
            return _numbers(domain, domain.lower, domain.last, None, log=True)
        if isinstance(sampler, Uniform):
            low, high = (domain.value_at(share) for share in (0.0, BELOW_ONE))
            return _numbers(domain, low, high if step else domain.last, step, log=False)
    raise OptionError(f"optuna has no distribution for {domain!r}")


def value_of(domain: Domain, param: Any) -> Any:
    """Return the value that a parameter of `to_distribution(domain)` stands for."""
    if isinstance(domain, Categorical):
        return param if _is_stored(domain) else domain[param]
    if isinstance(domain, Float | Integer):
        sampler, step = _rounded(domain)
        if isinstance(sampler, Normal):
            return domain.value_at(param)
        if step:
            return domain.value_at(domain.share_of(param))
    return domain.cast(param)


def param_of(domain: Domain, value: Any) -> Any:
    """Return a parameter that stands for a value."""
    if isinstance(domain, Categorical):
        return value if _is_stored(domain) else domain.index(value)
    if isinstance(domain, Float | Integer) and isinstance(_rounded(domain)[0], Normal):
        return domain.share_of(value)
    return domain.cast(value)


def from_distribution(distribution: BaseDistribution) -> Domain:
    """Return the domain of a distribution."""
    if isinstance(distribution, distributions.CategoricalDistribution):
        return choice(distribution.choices)
    if not isinstance(
        distribution, distributions.FloatDistribution | distributions.IntDistribution
    ):
        raise OptionError(f"{distribution!r} is no distribution of optuna that Weft knows")
    low, high, step = distribution.low, distribution.high, distribution.step
    integer = isinstance(distribution, distributions.IntDistribution)
    if low == high:
        return choice([low])
    if distribution.log:
        return lograndint(int(low), int(high) + 1) if integer else loguniform(low, high)
    if step is None:
        return uniform(low, high)
    if low % step:  # Its values are no multiples of the step.
        return choice(
            [low + number * step for number in range(int((high - low) / step + 1e-9) + 1)]
        )
    return qrandint(int(low), int(high), int(step)) if integer else quniform(low, high, step)


def _numbers(
    domain: Float | Integer, low: float, high: float, step: float | None, *, log: bool
) -> BaseDistribution:
    if isinstance(domain, Integer):
        return distributions.IntDistribution(int(low), int(high), step=int(step or 1), log=log)
    return distributions.FloatDistribution(low, high, step=step, log=log)


def _rounded(domain: Float | Integer) -> tuple[Sampler, float | None]:
    """Return how a domain draws, and the step to which that is rounded."""
    sampler = domain.get_sampler()
    return (sampler.sampler, sampler.q) if isinstance(sampler, Quantized) else (sampler, None)


def _is_stored(domain: Categorical) -> bool:
    """Return whether optuna stores the categories, and tells each from the others."""
    return all(
        category is None or isinstance(category, bool | int | float | str)
        for category in domain.categories
    ) and len(set(domain.categories)) == len(domain.categories)
