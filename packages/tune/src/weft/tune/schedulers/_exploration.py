"""How population based training changes hyperparameters: perturb, or draw again.

Jaderberg et al., "Population Based Training of Neural Networks", 2017, section 4.1: "perturb"
multiplies by a random factor; "resample" draws from the prior. What may change is said by nested
dictionaries with these in them:

    a domain            perturbed, or drawn again
    a function of ()    the same, with no limits that are known
    a list or tuple     a neighbour of the value, or any of the options

A perturbed value that the domain does not hold is replaced by one with another factor, or else
drawn again. Integers stay integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from weft.exceptions import OptionError

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence


class Exploration:
    """What may change, and how.

    Args:
        owner: For messages.
        mutations: What may change.
        resample_probability: Of drawing again rather than perturbing.
        factors: Of which a perturbation takes one.

    Raises:
        OptionError: Something in `mutations` is none of the above.
    """

    def __init__(
        self,
        owner: str,
        mutations: Mapping[str, Any],
        resample_probability: float,
        factors: Sequence[float],
    ) -> None:
        _check(owner, mutations)
        self._mutations = mutations
        self._resample_probability = resample_probability
        self._factors = factors

    def explore(self, config: Mapping[str, Any], rng: random.Random) -> dict[str, Any]:
        """Return a configuration in which all that may change has been perturbed or drawn again."""
        return self._explored(config, self._mutations, rng)

    def fill(self, config: Mapping[str, Any], rng: random.Random) -> dict[str, Any]:
        """Return a configuration in which all that may change is there, drawn where it was not."""
        return _filled(config, self._mutations, rng)

    def _explored(
        self, config: Mapping[str, Any], mutations: Mapping[str, Any], rng: random.Random
    ) -> dict[str, Any]:
        new = dict(config)
        for key, values in mutations.items():
            if isinstance(values, Mapping):
                new[key] = self._explored(config[key], values, rng)
            else:
                new[key] = self._mutated(config[key], values, rng)
        return new

    def _mutated(self, value: Any, values: Any, rng: random.Random) -> Any:
        options = _options(values)
        drawn_again = rng.random() < self._resample_probability
        if options is not None:
            if drawn_again or value not in options:
                return rng.choice(options)
            at = options.index(value) + rng.choice((-1, 1))
            return options[min(max(at, 0), len(options) - 1)]
        if not drawn_again and _is_number(value):
            for factor in rng.sample(list(self._factors), len(self._factors)):
                perturbed = _times(value, factor)
                if _holds(values, perturbed):
                    return perturbed
        return _draw(values, rng)


def _options(values: Any) -> list[Any] | None:
    """Return the values if they can be counted: of a list, tuple or categorical domain."""
    counted = getattr(values, "categories", values)
    return list(counted) if isinstance(counted, list | tuple) else None


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real)


def _times(value: Any, factor: float) -> Any:
    is_integer = isinstance(value, Integral)
    return round(value * factor) if is_integer else value * factor


def _holds(values: Any, value: Any) -> bool:
    is_valid = getattr(values, "is_valid", None)
    return is_valid is None or bool(is_valid(value))


def _draw(values: Any, rng: random.Random) -> Any:
    options = _options(values)
    if options is not None:
        return rng.choice(options)
    sample = getattr(values, "sample", None)
    return values() if sample is None else sample(random_state=rng)


def _filled(
    config: Mapping[str, Any], mutations: Mapping[str, Any], rng: random.Random
) -> dict[str, Any]:
    new = dict(config)
    for key, values in mutations.items():
        if isinstance(values, Mapping):
            new[key] = _filled(config.get(key, {}), values, rng)
        elif key not in config:
            new[key] = _draw(values, rng)
    return new


def _check(owner: str, mutations: Mapping[str, Any], path: str = "") -> None:
    for key, values in mutations.items():
        name = f"{path}{key}"
        if isinstance(values, Mapping) and "grid_search" not in values:
            _check(owner, values, f"{name}/")
        elif _options(values) == [] or not (
            _options(values) is not None or hasattr(values, "sample") or callable(values)
        ):
            raise OptionError(
                f"{owner} changes {name!r} within a domain, a list of options, or what a function "
                f"of no arguments returns: {values!r}"
            )
