"""Trainables, environments and inputs by name, in this process."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from weft.lowlevel import Tunable
from weft.tune.error import TuneError
from weft.tune.trainable.trainable import Trainable

if TYPE_CHECKING:
    from collections.abc import Callable

_trainable_of: dict[str, Any] = {}
_env_of: dict[str, Callable[..., Any]] = {}
_input_of: dict[str, Callable[..., Any]] = {}


def is_function_trainable(trainable: Any) -> bool:
    """Tell whether a trainable is a function, or is called like one."""
    return callable(trainable) and not inspect.isclass(trainable)


def register_trainable(name: str, trainable: Any, warn: bool = True) -> None:
    """Give a trainable a name, which stands for it then.

    Args:
        name: Any text.
        trainable: A function or a Trainable class.
        warn: Taken from programs that come from Ray: a name may be given again.

    Raises:
        TuneError: It is neither.
    """
    _check(trainable)
    _trainable_of[name] = trainable


def validate_trainable(trainable_name: str) -> None:
    """Refuse a name that stands for nothing. TuneError."""
    get_trainable_cls(trainable_name)


def get_trainable_cls(trainable_name: str) -> Any:
    """Return the trainable that a name stands for. TuneError: there is none."""
    return _found(_trainable_of, "trainable", trainable_name)


def register_env(name: str, env_creator: Callable[..., Any]) -> None:
    """Give the maker of an environment a name."""
    _env_of[name] = _callable(env_creator)


def get_env_creator(name: str) -> Callable[..., Any]:
    """Return what makes the environment of a name. TuneError: there is none."""
    found: Callable[..., Any] = _found(_env_of, "environment", name)
    return found


def register_input(name: str, input_creator: Callable[..., Any]) -> None:
    """Give the maker of an input a name."""
    _input_of[name] = _callable(input_creator)


def registry_contains_input(name: str) -> bool:
    """Tell whether a name stands for the maker of an input."""
    return name in _input_of


def registry_get_input(name: str) -> Callable[..., Any]:
    """Return what makes the input of a name. TuneError: there is none."""
    found: Callable[..., Any] = _found(_input_of, "input", name)
    return found


def _callable(made: Any) -> Any:
    if not callable(made):
        raise TuneError(f"{made!r} cannot be called: give a function")
    return made


def _found(table: dict[str, Any], what: str, name: str) -> Any:
    if name not in table:
        known = ", ".join(sorted(table)) or "none"
        raise TuneError(f"no {what} is registered as {name!r}; there is {known}")
    return table[name]


def resolved(trainable: Any) -> Any:
    """Return the function or class that is meant: itself, by its name, or by `as_trainable()`."""
    if isinstance(trainable, str):
        return get_trainable_cls(trainable)
    if isinstance(trainable, Tunable):
        trainable = trainable.as_trainable()
    _check(trainable)
    return trainable


def _check(trainable: Any) -> None:
    if inspect.isclass(trainable):
        if not issubclass(trainable, Trainable):
            raise TuneError(
                f"{trainable.__qualname__} is no trainable: derive it from weft.tune.Trainable"
            )
    elif not callable(trainable):
        raise TuneError(
            f"{trainable!r} is no trainable: give a function of a configuration, a class derived "
            "from weft.tune.Trainable, the name of a registered one, or what has as_trainable()"
        )
