"""A task's error that is an instance of the user's class too, so that `except ValueError` finds it.

    make(TaskError, ValueError("x"), facts, dual=True)    is a TaskError and a ValueError

What is always true
1. It has the arguments and the attributes of its cause, which win over its own, apart from `cause`.
2. It never is an instance of a class that steers the interpreter: SystemExit, KeyboardInterrupt,
   StopIteration and the like.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from weft._error_parts import put_together, take_apart, unfold
from weft._stories import story

if TYPE_CHECKING:
    from weft._stories import Facts

E = TypeVar("E", bound=BaseException)

# An instance of these would end a loop or an awaiting coroutine instead of failing it.
_STEERING = (StopIteration, StopAsyncIteration)
# The facts that are attributes of the error too.
_TOLD = (
    "task", "node", "attempts", "pid", "ip", "proctitle", "actor_repr", "actor_id", "hops",
    "traceback_str",
)  # fmt: skip


class Dual:
    """Marks the classes that are made here."""

    __slots__ = ()


@lru_cache(maxsize=512)
def _dual_class(base: Any, cls: Any) -> Any:
    """Return a class that is `base` and `cls`; TypeError if there can be none."""
    if not issubclass(cls, Exception):
        raise TypeError(f"{cls.__name__} steers the interpreter")
    if issubclass(cls, _STEERING):
        raise TypeError(f"{cls.__name__} would end a loop")
    if issubclass(cls, base):
        raise TypeError(f"{cls.__name__} is a {base.__name__} already")
    name = f"{base.__name__}({cls.__name__})"
    names = {"__module__": base.__module__, "__doc__": cls.__doc__}
    try:
        return type(name, (base, cls, Dual), names)
    except Exception as error:
        raise TypeError(f"{cls.__name__} admits no subclass: {error}") from error


def make(base: type[E], cause: BaseException | None, facts: Facts, *, dual: bool) -> E:
    """Make a task's error of class `base`; of its cause's class too if `dual` says so.

    Raises:
        TypeError: `dual` was asked for and cannot be.
    """
    if not dual or cause is None:
        return put_together(base, (facts.task,), {}, attributes(facts, cause, {}))
    kind, args, slots, user = take_apart(cause)
    made: type[E] = _dual_class(base, kind)  # type: ignore[arg-type]  # classes are hashable
    return put_together(made, args, slots, attributes(facts, cause, user))


def attributes(facts: Facts, cause: BaseException | None, user: dict[str, Any]) -> dict[str, Any]:
    """Return the `__dict__` of a task's error."""
    told = story(facts.hops)
    return {
        **{name: getattr(facts, name) for name in _TOLD},
        "function_name": facts.task,
        **user,
        "cause": cause,
        "_facts": facts,
        "__notes__": [*facts.notes, told] if told else list(facts.notes),
    }


def restore(base: type[E], facts: Facts, folded: object, own: dict[str, Any], dual: bool) -> E:
    """Make the error again where it has travelled."""
    cause: Any = unfold(folded)
    error = make(base, cause, facts, dual=dual)
    error.__dict__.update(attributes(facts, cause, own))
    return error
