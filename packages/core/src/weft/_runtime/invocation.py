"""What a call is, in whichever process it runs: which callable, which results, which end.

The inline engine and the worker's executor share these rules, so that a program sees the same on
both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from weft._override import override

if TYPE_CHECKING:
    from weft._refs import ObjectRef

T_co = TypeVar("T_co", covariant=True)

TERMINATE = "__weft_terminate__"
"""Calling it ends an actor after its earlier calls.

A class may define it: it runs before every clean end.
"""
READY = "__weft_ready__"
"""Calling it returns True once the constructor has run."""
CALL = "__weft_call__"
"""Calls its first argument with the actor's instance and the other arguments."""

ALIASES = {"__ray_terminate__": TERMINATE, "__ray_ready__": READY, "__ray_call__": CALL}
"""Ray's names of these methods."""


class ActorLeaves(BaseException):
    """Raised by `exit_actor` inside an actor's method, for the executor to catch."""


class DynamicObjectRefGenerator(Generic[T_co]):
    """The value of a task with `num_returns="dynamic"`.

    References to all that its generator yielded, in order.
    """

    def __init__(self, refs: Sequence[ObjectRef[T_co]]) -> None:
        """Hold the references."""
        self._refs = list(refs)

    def __iter__(self) -> Iterator[ObjectRef[T_co]]:
        return iter(self._refs)

    def __len__(self) -> int:
        return len(self._refs)

    @override
    def __repr__(self) -> str:
        return f"DynamicObjectRefGenerator of {len(self._refs)} references"


def method_of(instance: Any, name: str) -> Callable[..., Any]:
    """Return what a call of `name` runs on an actor's instance.

    `name` is no alias. AttributeError if there is none.
    """
    if name == READY:
        return _always
    if name == CALL:
        return lambda function, *args, **kwargs: function(instance, *args, **kwargs)
    method: Callable[..., Any] = getattr(instance, name)
    return method


def _always() -> bool:
    return True


def run_exit_hook(instance: Any) -> None:
    """Run the method that an actor's class defines for its clean end, if it does."""
    hook = getattr(instance, TERMINATE, None)
    if hook is not None:
        hook()


def split(result: Any, num_returns: int, name: str) -> Sequence[Any]:
    """Return the values that a call gives its references, one each.

    ValueError if the result is not that many. A generator's items count as its values.
    """
    if num_returns == 1:
        return (result,)
    if num_returns == 0:
        return ()
    if isinstance(result, Iterator):
        result = list(result)
    if not isinstance(result, Sequence) or isinstance(result, str | bytes):
        raise ValueError(  # noqa: TRY004 - num_returns is as wrong as the type
            f"{name} has num_returns={num_returns} and returned {type(result).__name__}: "
            "it has to return a tuple"
        )
    if len(result) != num_returns:
        raise ValueError(f"{name} has num_returns={num_returns} and returned {len(result)} values")
    return result
