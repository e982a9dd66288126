"""Points: configurations, or parts of them, that a user wants to be tried first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.exceptions import OptionError
from weft.tune.search.sample import Domain
from weft.tune.search.variant_generator import grid_values, path_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from weft.tune.search.variant_generator import Path


def put_point(space: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """Return the space with a point's values in place of what they name.

    Args:
        space: The space.
        point: Some of its values, nested as in the space, or with names such as "model/lr".

    Raises:
        OptionError: The space has no such name, or no such value at it.
    """
    return _put((), space, point)


def _put(path: Path, space: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    new = dict(space)
    for name, value in point.items():
        key, _, inner = (name, "", "") if name in new else str(name).partition("/")
        here = (*path, key)
        if key not in new:
            raise OptionError(
                f"points_to_evaluate: the search space has no {path_name((*path, name))!r}, it has"
                f" {', '.join(map(str, space)) or 'nothing'}"
            )
        there = {inner: value} if inner else value
        if isinstance(there, dict) and isinstance(new[key], dict) and not grid_values(new[key]):
            new[key] = _put(here, new[key], there)
        else:
            _check(here, new[key], there)
            new[key] = there
    return new


def _check(path: Path, place: Any, value: Any) -> None:
    if isinstance(place, Domain) and not place.is_grid() and not place.is_valid(value):
        raise OptionError(f"points_to_evaluate: {path_name(path)} is {value!r}, not of {place!r}")


def value_at_path(config: Any, path: Path) -> Any:
    """Return what stands at a place of a configuration; None: there is no such place."""
    for step in path:
        try:
            config = config[step]
        except (KeyError, IndexError, TypeError):
            return None
    return config
