"""Marks that say how stable a name is.

They note it on what they decorate and in its docstring, and change nothing else.

@PublicAPI(stability="beta")
class Mixer: ...
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar, overload

__all__ = ["Deprecated", "DeveloperAPI", "PublicAPI", "WeftDeprecationWarning"]

TargetT = TypeVar("TargetT", bound=Callable[..., Any])
Decorator = Callable[[Any], Any]

STABILITIES = ("stable", "beta", "alpha")


class WeftDeprecationWarning(DeprecationWarning):
    """A name is used that goes away in a later version."""


@overload
def PublicAPI(target: TargetT, /) -> TargetT: ...
@overload
def PublicAPI(
    *, stability: str = "stable", api_group: str = "Others"
) -> Callable[[TargetT], TargetT]: ...
def PublicAPI(*args: Any, **kwargs: Any) -> Any:  # noqa: N802 - Ray's name
    """Mark a name that users may rely on.

    Args:
        *args: What is marked, if the decorator is written without parentheses.
        **kwargs: stability, one of "stable", "beta" (it may change a little) and "alpha" (it may
            change or go); api_group, the heading that documentation lists it under.

    Returns:
        What is marked; with options alone, a decorator.

    Raises:
        ValueError: The stability is none of the three.
    """
    return _decorated(_public, args, kwargs)


def _public(*, stability: str = "stable", api_group: str = "Others") -> Decorator:
    if stability not in STABILITIES:
        raise ValueError(f"stability={stability!r} has to be one of {', '.join(STABILITIES)}")
    note = "" if stability == "stable" else f"Stability: {stability}."
    return partial(_marked, kind="PublicAPI", stability=stability, group=api_group, note=note)


@overload
def DeveloperAPI(target: TargetT, /) -> TargetT: ...
@overload
def DeveloperAPI(*, api_group: str = "Others") -> Callable[[TargetT], TargetT]: ...
def DeveloperAPI(*args: Any, **kwargs: Any) -> Any:  # noqa: N802 - Ray's name
    """Mark a name that libraries may rely on, and that changes more readily than a public one.

    Args:
        *args: What is marked, if the decorator is written without parentheses.
        **kwargs: api_group, the heading that documentation lists it under.

    Returns:
        What is marked; with options alone, a decorator.
    """
    return _decorated(_developer, args, kwargs)


def _developer(*, api_group: str = "Others") -> Decorator:
    note = "Stability: for developers of libraries; it may change."
    return partial(_marked, kind="DeveloperAPI", stability="developer", group=api_group, note=note)


@overload
def Deprecated(target: TargetT, /) -> TargetT: ...
@overload
def Deprecated(*, message: str = "", warning: bool = False) -> Callable[[TargetT], TargetT]: ...
def Deprecated(*args: Any, **kwargs: Any) -> Any:  # noqa: N802 - Ray's name
    """Mark a name that goes away in a later version.

    Args:
        *args: What is marked, if the decorator is written without parentheses.
        **kwargs: message, what to use instead; warning, whether each call of it (for a class: each
            instance made) warns with WeftDeprecationWarning.

    Returns:
        What is marked; with options alone, a decorator.
    """
    return _decorated(_deprecated, args, kwargs)


def _deprecated(*, message: str = "", warning: bool = False) -> Decorator:
    return partial(_outdated, message=message, warns=warning)


def _decorated(make: Callable[..., Decorator], args: tuple[Any, ...], kwargs: Any) -> Any:
    """Return what is marked, or the decorator where only options are given."""
    if not args:
        return make(**kwargs)
    if len(args) != 1 or kwargs or not callable(args[0]):
        raise TypeError("write the decorator above a function or class, or give it keywords only")
    return make()(args[0])


def _marked(target: Any, *, kind: str, stability: str, group: str, note: str) -> Any:
    if note:
        _add_to_docstring(target, note)
    target._annotated = target.__name__
    target._annotated_type = kind
    target._annotated_stability = stability
    target._annotated_api_group = group
    return target


def _outdated(target: Any, *, message: str, warns: bool) -> Any:
    why = f": {message}" if message else ""
    _add_to_docstring(target, f"Deprecated{why or '.'}")
    text = f"{target.__qualname__} is deprecated{why}"
    if warns and isinstance(target, type):
        target.__init__ = _warning(target.__init__, text)  # type: ignore[misc]  # the class's own
    elif warns:
        target = _warning(target, text)
    target._annotated = target.__name__
    target._annotated_type = "Deprecated"
    return target


def _warning(function: Callable[..., Any], text: str) -> Callable[..., Any]:
    @wraps(function)
    def warn_and_call(*args: Any, **kwargs: Any) -> Any:
        warnings.warn(text, WeftDeprecationWarning, stacklevel=2)
        return function(*args, **kwargs)

    return warn_and_call


def _add_to_docstring(target: Any, note: str) -> None:
    text = (target.__doc__ or "").rstrip()
    target.__doc__ = f"{text}\n\n{note}\n" if text else note
