"""Signatures: wrong arguments fail at the call, before anything is sent.

A remote call hands its arguments to a stub first: an empty function of the same parameters,
compiled once, so that Python itself checks the call, in its own words and with the user's name, for
the price of one call (0.1 us; inspect.Signature.bind takes 5 us).
"""

from __future__ import annotations

import keyword
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from weft._lazy import lazy
from weft._specs import ParameterSpec

if TYPE_CHECKING:
    import inspect
    from collections.abc import Callable
else:
    inspect = lazy("inspect")

Parameters = tuple[ParameterSpec, ...]

# The numbers that inspect.Parameter.kind stands for.
_POSITIONAL_ONLY, _POSITIONAL, _STARRED, _KEYWORD_ONLY, _DOUBLE_STARRED = range(5)

ANY_ARGUMENTS: Parameters = (
    ParameterSpec("args", _STARRED, has_default=False),
    ParameterSpec("kwargs", _DOUBLE_STARRED, has_default=False),
)
"""Of what has no signature that Python can tell."""


def parameters_of(target: Callable[..., Any], *, without_first: bool = False) -> Parameters:
    """Return the parameters of a function or class, `without_first` for a method that is not bound.

    A wrapper counts as it is, not as what it wraps: it may take other arguments.
    """
    try:
        signature = inspect.signature(target, follow_wrapped=False)
    except (TypeError, ValueError):
        return ANY_ARGUMENTS
    found = [
        ParameterSpec(name, int(parameter.kind), parameter.default is not parameter.empty)
        for name, parameter in signature.parameters.items()
    ]
    if without_first and found and found[0].kind in {_POSITIONAL_ONLY, _POSITIONAL}:
        del found[0]
    return tuple(found)


@lru_cache(maxsize=4096)
def checker(parameters: Parameters, name: str) -> Callable[..., None]:
    """Return a stub with these parameters.

    It raises TypeError, naming `name`, for arguments that do not fit.
    """
    if not all(
        spec.name.isidentifier() and not keyword.iskeyword(spec.name) for spec in parameters
    ):
        parameters = ANY_ARGUMENTS
    words: list[str] = []
    kinds = [spec.kind for spec in parameters]
    for index, spec in enumerate(parameters):
        if (
            spec.kind == _KEYWORD_ONLY
            and _STARRED not in kinds
            and kinds.index(_KEYWORD_ONLY) == index
        ):
            words.append("*")
        stars = {_STARRED: "*", _DOUBLE_STARRED: "**"}.get(spec.kind, "")
        words.append(f"{stars}{spec.name}{'=None' if spec.has_default else ''}")
        if spec.kind == _POSITIONAL_ONLY and _POSITIONAL_ONLY not in kinds[index + 1 :]:
            words.append("/")
    # Nothing but the names of parameters is in it, which were checked above.
    made: Any = eval(f"lambda {', '.join(words)}: None", {})  # noqa: S307
    made.__name__ = name.rpartition(".")[2]
    made.__qualname__ = name
    return made  # type: ignore[no-any-return]
