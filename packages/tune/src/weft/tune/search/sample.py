"""Domains: what a hyperparameter may be, and how a value is drawn.

    {"lr": loguniform(1e-5, 1e-1), "layers": randint(1, 9), "act": choice(["relu", "tanh"])}

A domain is a set of values with a sampler, and its values lie along a line: `value_at(share)` is
the value that a share of all draws falls below, `share_of` the way back. So one uniform number in
[0, 1) makes one value, and a searcher that knows nothing but boxes searches any space.

What is always true
1. A domain has a value: bounds are ordered and finite, logarithms are taken of positive numbers,
   and a multiple of q lies between the bounds. Its constructor raises OptionError otherwise.
2. `value_at` gives values for which `is_valid` holds, and `share_of` finds a share that gives the
   same value again.
3. Upper bounds are excluded, but where values are multiples of a q: there both bounds are included.
"""

from __future__ import annotations

import copy
import inspect
import math
import numbers
import random
from decimal import Decimal
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, ClassVar, Self

from weft.exceptions import OptionError
from weft.lowlevel import override

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np

    RandomState = int | str | random.Random | np.random.Generator | np.random.RandomState | None

BELOW_ONE = math.nextafter(1.0, 0.0)
"""The largest share."""


def generator(random_state: RandomState = None) -> random.Random:
    """Return a generator: the given one, one that is seeded by it, or one that `random` seeds."""
    if isinstance(random_state, random.Random):
        return random_state
    if random_state is None:
        return random.Random(random.getrandbits(64))
    if isinstance(random_state, str):
        return random.Random(random_state)
    if isinstance(random_state, int | numbers.Integral):
        return random.Random(int(random_state))
    numpys: Any = random_state
    draw = numpys.integers if hasattr(numpys, "integers") else numpys.randint
    return random.Random(int(draw(2**31 - 1)))


class Domain:
    """What a hyperparameter may be, and how a value of it is drawn.

    Attributes:
        sampler: How; None: as `default_sampler` says.
    """

    default_sampler: ClassVar[type[Sampler]]
    sampler: Sampler | None = None

    def cast(self, value: Any) -> Any:
        """Return the value in the domain's type."""
        return value

    def set_sampler(self, sampler: Sampler, *, allow_override: bool = False) -> None:
        """Say how values are drawn; OptionError if that was said before."""
        if self.sampler is not None and not allow_override:
            raise OptionError(
                f"{self!r} has a sampler: make another domain, or allow_override=True"
            )
        self.sampler = sampler

    def get_sampler(self) -> Sampler:
        """Return how values are drawn."""
        return self.sampler or self.default_sampler()

    def sample(self, config: Any = None, size: int = 1, random_state: RandomState = None) -> Any:
        """Draw a value, or a list of `size` values if that is more than one.

        Args:
            config: What was drawn before, for functions.
            size: How many values.
            random_state: A generator, or a seed; None: the module `random` seeds one.
        """
        return self.get_sampler().sample(self, config, size, random_state)

    def value_at(self, share: float) -> Any:
        """Return the value that a share in [0, 1) of all draws falls below."""
        raise OptionError(f"the values of {self!r} are not ordered")

    def share_of(self, value: Any) -> float:
        """Return a share whose value this is, in [0, 1)."""
        raise OptionError(f"the values of {self!r} are not ordered")

    def is_grid(self) -> bool:
        """Return whether each value is tried, rather than some drawn."""
        return isinstance(self.sampler, Grid)

    def is_function(self) -> bool:
        """Return whether values are computed."""
        return False

    def is_valid(self, value: Any) -> bool:
        """Return whether the value may be drawn."""
        raise NotImplementedError

    @property
    def domain_str(self) -> str:
        """The values, in short."""
        raise NotImplementedError

    @override
    def __repr__(self) -> str:
        how = "" if self.sampler is None else f".{self.sampler!r}"
        return f"{type(self).__name__}{self.domain_str}{how}"

    def _drawn_by(self, sampler: Sampler) -> Self:
        new = copy.copy(self)
        new.set_sampler(sampler, allow_override=isinstance(sampler, Quantized))
        return new


class Sampler:
    """How values of a domain are drawn. One of your own overrides `sample`, or `value_at`."""

    def sample(
        self, domain: Domain, config: Any = None, size: int = 1, random_state: RandomState = None
    ) -> Any:
        """Draw a value of the domain, or a list of `size` values if that is more than one."""
        rng = generator(random_state)
        values = [domain.value_at(rng.random()) for _ in range(size)]
        return values if size > 1 else values[0]

    def value_at(self, domain: _Numbers, share: float) -> Any:
        """Return the number that a share in [0, 1) of all draws falls below."""
        raise NotImplementedError

    def share_of(self, domain: _Numbers, value: float) -> float:
        """Return a share whose number this is."""
        raise NotImplementedError

    def check(self, domain: _Numbers) -> None:
        """Raise OptionError if this does not go with the bounds."""

    @override
    def __repr__(self) -> str:
        said = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__.lower()}({said})"


class Uniform(Sampler):
    """Each value is as likely as the others."""

    @override
    def check(self, domain: _Numbers) -> None:
        if math.isinf(domain.lower) or math.isinf(domain.upper):
            raise OptionError(f"{domain!r}: there is no uniform draw without bounds; use randn")

    @override
    def value_at(self, domain: _Numbers, share: float) -> Any:
        # What is added is positive, so that the cast rounds down for negative bounds too.
        value = domain.lower + domain.cast(share * (domain.upper - domain.lower))
        return domain.cast(min(value, domain.last))

    @override
    def share_of(self, domain: _Numbers, value: float) -> float:
        return (value + domain.half - domain.lower) / (domain.upper - domain.lower)


class LogUniform(Sampler):
    """The logarithm of the value is uniform.

    Attributes:
        base: Of the logarithm; it changes nothing in what is drawn.
    """

    def __init__(self, base: float = 10) -> None:
        if not base > 0 or base == 1:
            raise OptionError(f"base={base!r} is no base of a logarithm")
        self.base = base

    @override
    def check(self, domain: _Numbers) -> None:
        if domain.lower <= 0 or math.isinf(domain.upper):
            raise OptionError(
                f"the logarithm needs positive, finite bounds, not {domain.domain_str}"
            )

    @override
    def value_at(self, domain: _Numbers, share: float) -> Any:
        log_lower = math.log(domain.lower)
        value = math.exp(log_lower + share * (math.log(domain.upper) - log_lower))
        return domain.cast(min(max(value, domain.lower), domain.last))

    @override
    def share_of(self, domain: _Numbers, value: float) -> float:
        log_lower = math.log(domain.lower)
        return (math.log(value + domain.half) - log_lower) / (math.log(domain.upper) - log_lower)


class Normal(Sampler):
    """The value is normally distributed.

    Attributes:
        mean: Of the distribution.
        sd: Its standard deviation.
    """

    def __init__(self, mean: float = 0.0, sd: float = 1.0) -> None:
        if not (math.isfinite(mean) and 0 < sd < math.inf):
            raise OptionError(f"a normal draw needs a finite mean and sd > 0: {mean=}, {sd=}")
        self.mean = mean
        self.sd = sd

    @override
    def check(self, domain: _Numbers) -> None:
        if math.isfinite(domain.lower) or math.isfinite(domain.upper):
            raise OptionError(f"a normal draw keeps no bounds, and {domain.domain_str} has some")

    @override
    def value_at(self, domain: _Numbers, share: float) -> Any:
        return domain.cast(NormalDist(self.mean, self.sd).inv_cdf(max(share, 1 - BELOW_ONE)))

    @override
    def share_of(self, domain: _Numbers, value: float) -> float:
        return NormalDist(self.mean, self.sd).cdf(value)


class Quantized(Sampler):
    """Multiples of q: rounded to the nearest, both bounds included.

    Of a uniform draw each multiple is as likely as the others.

    Attributes:
        sampler: What is rounded.
        q: The step.
    """

    def __init__(self, sampler: Sampler, q: float) -> None:
        if not 0 < q < math.inf:
            raise OptionError(f"q={q!r}: the step must be above 0")
        self.sampler = sampler
        self.q = q

    def get_sampler(self) -> Sampler:
        """Return what is rounded."""
        return self.sampler

    def multiples(self, domain: _Numbers) -> tuple[int, int]:
        """Return the first and the last k for which k q is within the bounds."""
        slack = 1e-9  # 0.3 / 0.1 is 2.9999999999999996.
        return math.ceil(domain.lower / self.q - slack), math.floor(domain.last / self.q + slack)

    @override
    def check(self, domain: _Numbers) -> None:
        self.sampler.check(domain)
        if isinstance(domain, Integer) and not isinstance(self.q, int):
            raise OptionError(f"q={self.q!r}: the step of integers is an integer")
        if math.isfinite(domain.lower):
            first, last = self.multiples(domain)
            if first > last:
                raise OptionError(f"no multiple of q={self.q!r} is in {domain.domain_str}")

    @override
    def value_at(self, domain: _Numbers, share: float) -> Any:
        if isinstance(self.sampler, Uniform):
            first, last = self.multiples(domain)
            return self._times(domain, first + int(share * (last - first + 1)))
        count = round(self.sampler.value_at(domain, share) / self.q)
        if math.isfinite(domain.lower):
            first, last = self.multiples(domain)
            count = min(max(count, first), last)
        return self._times(domain, count)

    def _times(self, domain: _Numbers, count: int) -> Any:
        # In decimals, as the user wrote q: 3 * 0.1 is 0.30000000000000004.
        return domain.cast(Decimal(str(self.q)) * count)

    @override
    def share_of(self, domain: _Numbers, value: float) -> float:
        if isinstance(self.sampler, Uniform):
            first, last = self.multiples(domain)
            return (round(value / self.q) - first + 0.5) / (last - first + 1)
        return self.sampler.share_of(domain, value)


class Grid(Sampler):
    """Each value is tried."""

    @override
    def sample(
        self, domain: Domain, config: Any = None, size: int = 1, random_state: RandomState = None
    ) -> Any:
        raise OptionError(f"the values of {domain!r} are tried one by one, none is drawn")


class _Numbers(Domain):
    """Numbers between two bounds."""

    default_sampler: ClassVar[type[Sampler]] = Uniform
    lower: float
    upper: float
    half: float = 0.0
    """Half the distance of two neighbours: the middle of a value's shares."""

    def __init__(self, lower: float, upper: float) -> None:
        if not lower < upper:
            raise OptionError(
                f"{type(self).__name__}: lower={lower!r} is not below upper={upper!r}"
            )
        self.lower = lower
        self.upper = upper

    @property
    def last(self) -> float:
        """The largest value."""
        return self.upper

    @override
    def get_sampler(self) -> Sampler:
        if self.sampler is None:
            Uniform().check(self)
        return super().get_sampler()

    @override
    def set_sampler(self, sampler: Sampler, *, allow_override: bool = False) -> None:
        sampler.check(self)
        super().set_sampler(sampler, allow_override=allow_override)

    @override
    def value_at(self, share: float) -> Any:
        return self.get_sampler().value_at(self, share)

    @override
    def share_of(self, value: Any) -> float:
        return min(max(self.get_sampler().share_of(self, value), 0.0), BELOW_ONE)

    @override
    def is_valid(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float | numbers.Real):
            return False
        value = float(value)
        sampler = self.get_sampler()
        if isinstance(sampler, Quantized):
            steps = value / sampler.q
            if not math.isclose(steps, round(steps), abs_tol=1e-9):
                return False
        return bool(self.lower <= value <= self.last)

    @property
    @override
    def domain_str(self) -> str:
        return f"({self.lower!r}, {self.upper!r})"

    def uniform(self) -> Self:
        """Return this domain with uniform draws."""
        return self._drawn_by(Uniform())

    def loguniform(self, base: float = 10) -> Self:
        """Return this domain with draws whose logarithm is uniform."""
        return self._drawn_by(LogUniform(base))

    def quantized(self, q: float) -> Self:
        """Return this domain with draws that are multiples of q."""
        return self._drawn_by(Quantized(self.get_sampler(), q))


class Float(_Numbers):
    """Floating-point numbers.

    Attributes:
        lower: The least.
        upper: The bound above.
    """

    def __init__(self, lower: float | None, upper: float | None) -> None:
        super().__init__(
            -math.inf if lower is None else float(lower),
            math.inf if upper is None else float(upper),
        )

    @override
    def cast(self, value: Any) -> float:
        return float(value)

    def normal(self, mean: float = 0.0, sd: float = 1.0) -> Self:
        """Return this domain, which has no bounds, with normal draws."""
        return self._drawn_by(Normal(mean, sd))


class Integer(_Numbers):
    """Integers.

    Attributes:
        lower: The least.
        upper: The least above them: it is excluded.
    """

    half = 0.5

    def __init__(self, lower: int, upper: int) -> None:
        for bound in (lower, upper):
            if int(bound) != bound:
                raise OptionError(f"{bound!r} is no integer: use uniform or quniform")
        super().__init__(int(lower), int(upper))

    @property
    @override
    def last(self) -> float:
        return self.upper - 1

    @override
    def cast(self, value: Any) -> int:
        return int(value)

    @override
    def is_valid(self, value: Any) -> bool:
        return super().is_valid(value) and int(value) == value


class Categorical(Domain):
    """Some values, which need not be numbers; each may hold domains of its own.

    Attributes:
        categories: The values.
    """

    default_sampler: ClassVar[type[Sampler]] = Uniform

    def __init__(self, categories: Sequence[Any]) -> None:
        self.categories = list(categories)
        if not self.categories:
            raise OptionError("a choice among no values: give at least one")

    def __len__(self) -> int:
        return len(self.categories)

    def __getitem__(self, item: int) -> Any:
        return self.categories[item]

    def uniform(self) -> Self:
        """Return this domain with draws of which each is as likely as the others."""
        return self._drawn_by(Uniform())

    def grid(self) -> Self:
        """Return this domain as one whose values are tried one by one."""
        return self._drawn_by(Grid())

    @override
    def value_at(self, share: float) -> Any:
        return self.categories[int(share * len(self.categories))]

    @override
    def share_of(self, value: Any) -> float:
        return (self.index(value) + 0.5) / len(self.categories)

    def index(self, value: Any) -> int:
        """Return where a value stands; ValueError if it is none of them."""
        for number, category in enumerate(self.categories):
            if category is value or _same(category, value):
                return number
        raise ValueError(f"{value!r} is none of {self.categories!r}")

    @override
    def is_valid(self, value: Any) -> bool:
        return any(category is value or _same(category, value) for category in self.categories)

    @property
    @override
    def domain_str(self) -> str:
        return f"({self.categories!r})"


class _Called(Sampler):
    """A function computes the value."""

    @override
    def sample(
        self, domain: Domain, config: Any = None, size: int = 1, random_state: RandomState = None
    ) -> Any:
        assert isinstance(domain, Function)  # noqa: S101 - only a Function has this sampler
        rng = generator(random_state)
        arguments = (config, rng)[: domain.arguments]
        values = [domain.func(*arguments) for _ in range(size)]
        return values if size > 1 else values[0]


class Function(Domain):
    """Computed values.

    Attributes:
        func: Gets nothing; or what was drawn before; or that and the trial's `random.Random`.
        arguments: How many of these.
    """

    default_sampler: ClassVar[type[Sampler]] = _Called

    def __init__(self, func: Callable[..., Any]) -> None:
        if not callable(func):
            raise OptionError(f"sample_from({func!r}): give a function")
        self.func = func
        self.arguments = _required(func)
        if self.arguments > 2:
            raise OptionError(
                f"sample_from({self.domain_str}): a function of (), (config) or (config, random)"
            )

    @override
    def is_function(self) -> bool:
        return True

    @override
    def is_valid(self, value: Any) -> bool:
        return True  # whatever it returns

    @property
    @override
    def domain_str(self) -> str:
        return f"({getattr(self.func, '__qualname__', repr(self.func))})"


def _required(func: Callable[..., Any]) -> int:
    """Return how many arguments a function has to be given."""
    try:
        parameters = inspect.signature(func).parameters.values()
    except ValueError:  # Some that are written in C do not say.
        return 1
    by_position = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    return sum(
        parameter.kind in by_position and parameter.default is inspect.Parameter.empty
        for parameter in parameters
    )


def _same(one: Any, other: Any) -> bool:
    """Return whether two values are equal and of one type: True is not 1."""
    return type(one) is type(other) and bool(one == other)


def uniform(lower: float, upper: float) -> Float:
    """Return the floats in [lower, upper), uniformly drawn."""
    return Float(lower, upper).uniform()


def quniform(lower: float, upper: float, q: float) -> Float:
    """Return the multiples of q in [lower, upper], uniformly drawn."""
    return uniform(lower, upper).quantized(q)


def loguniform(lower: float, upper: float, base: float = 10) -> Float:
    """Return the floats in [lower, upper), their logarithm uniformly drawn."""
    return Float(lower, upper).loguniform(base)


def qloguniform(lower: float, upper: float, q: float, base: float = 10) -> Float:
    """Return the multiples of q in [lower, upper], their logarithm uniformly drawn."""
    return loguniform(lower, upper, base).quantized(q)


def randn(mean: float = 0.0, sd: float = 1.0) -> Float:
    """Return normally distributed floats."""
    return Float(None, None).normal(mean, sd)


def qrandn(mean: float, sd: float, q: float) -> Float:
    """Return normally distributed floats, rounded to multiples of q."""
    return randn(mean, sd).quantized(q)


def randint(lower: int, upper: int) -> Integer:
    """Return the integers in [lower, upper), uniformly drawn."""
    return Integer(lower, upper).uniform()


def qrandint(lower: int, upper: int, q: int = 1) -> Integer:
    """Return the multiples of q in [lower, upper], uniformly drawn: upper is included."""
    return randint(lower, upper + 1).quantized(q)


def lograndint(lower: int, upper: int, base: float = 10) -> Integer:
    """Return the integers in [lower, upper), their logarithm uniformly drawn."""
    return Integer(lower, upper).loguniform(base)


def qlograndint(lower: int, upper: int, q: int, base: float = 10) -> Integer:
    """Return the multiples of q in [lower, upper], their logarithm uniformly drawn."""
    return lograndint(lower, upper + 1, base).quantized(q)


def choice(categories: Iterable[Any]) -> Categorical:
    """Return some values, uniformly drawn; each may hold domains of its own."""
    return Categorical(list(categories)).uniform()


def sample_from(func: Callable[..., Any]) -> Function:
    """Return what a function computes for each trial.

    Args:
        func: Gets what was drawn before, as `spec.config.lr`, `spec["lr"]` or `spec.lr`; and, if
            it has a second parameter, the trial's generator, a `random.Random`: what it draws from
            that is the same when the experiment is seeded. It may return another domain.
    """
    return Function(func)
