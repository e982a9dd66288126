"""Find the part of a value that cannot be pickled, and the path to it.

The search goes down from the value: of the parts of something that fails, those that fail too;
what fails although all its parts travel is to blame. Parts are what pickle would write: attributes,
items, and for code that goes by value also closure, globals, defaults and members. Each level
pickles its parts once more, so it is only done after a failure.
"""

from __future__ import annotations

import functools
from types import BuiltinMethodType, CellType, CodeType, FunctionType, MappingProxyType, MethodType
from typing import TYPE_CHECKING, Any

from weft._error_parts import reduces_by_default, safe_repr, take_apart
from weft.exceptions import PicklingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

DEPTH = 24
"""Deeper than any path that a reader follows; it bounds the search through chains of objects."""

_ADVICE = "make it where it is used, or register a serializer for its class"


class Culprit:
    """A part that cannot be pickled by itself, and not because of a part of its own."""

    __slots__ = ("obj", "parent", "path", "reason")

    def __init__(self, obj: Any, path: str, parent: Any, reason: str) -> None:
        self.obj = obj
        self.path = path
        self.parent = parent
        self.reason = reason


class Search:
    """One search.

    Args:
        can_pickle: Returns None for a value that travels, else the error.
        reduce: Returns what pickle writes for an instance, as `__reduce_ex__(5)` does.
        depth: How many steps to go down.
    """

    def __init__(
        self,
        can_pickle: Callable[[Any], BaseException | None],
        reduce: Callable[[Any], Any],
        depth: int = DEPTH,
    ) -> None:
        self._can_pickle = can_pickle
        self._reduce = reduce
        self._depth = depth
        # Keeps what was visited alive, or an id could come again.
        self._visited: dict[int, Any] = {}

    def culprits(
        self, obj: Any, path: str, parent: Any = None, level: int = 0
    ) -> Iterator[Culprit]:
        """Yield what is to blame in `obj`; nothing if it travels."""
        if id(obj) in self._visited:
            return
        self._visited[id(obj)] = obj
        error = self._can_pickle(obj)
        if error is None:
            return
        is_found = False
        if level < self._depth and not isinstance(error.__cause__ or error, RecursionError):
            for step, part in self._parts(obj):
                for culprit in self.culprits(part, path + step, obj, level + 1):
                    is_found = True
                    yield culprit
        if not is_found:
            yield Culprit(obj, path, parent, reason_of(error))

    def _parts(self, obj: Any) -> Iterator[tuple[str, Any]]:
        """Yield (how to write the step, part). Errors of the object's own code end it."""
        try:
            match obj:
                case FunctionType():
                    yield from _function_parts(obj)
                case type():
                    yield from _class_parts(obj)
                case MethodType() | BuiltinMethodType():
                    yield ".__self__", obj.__self__
                    if isinstance(obj, MethodType):
                        yield ".__func__", obj.__func__
                case staticmethod() | classmethod():
                    yield "", obj.__func__
                case property():
                    yield from (
                        (f".{name}", getattr(obj, name)) for name in ("fget", "fset", "fdel")
                    )
                case functools.partial():
                    yield ".func", obj.func
                    yield from ((f".args[{index}]", arg) for index, arg in enumerate(obj.args))
                    yield from ((f".keywords[{key!r}]", arg) for key, arg in obj.keywords.items())
                case CellType():
                    yield ".cell_contents", obj.cell_contents
                case list() | tuple() | dict() | set() | frozenset() | MappingProxyType():
                    yield from _item_parts(obj)
                    if hasattr(obj, "__dict__"):
                        yield from self._instance_parts(obj)
                case BaseException() if reduces_by_default(obj):
                    _, args, slots, state = take_apart(obj)
                    yield from ((f".{name}", value) for name, value in {**slots, **state}.items())
                    yield from ((f".args[{index}]", arg) for index, arg in enumerate(args))
                    yield ".__class__", type(obj)
                case _:
                    yield from self._instance_parts(obj)
        except Exception:  # noqa: BLE001 - the object's own code failed, which its own error tells
            return

    def _instance_parts(self, obj: Any) -> Iterator[tuple[str, Any]]:
        reduced = self._reduce(obj)
        if not isinstance(reduced, tuple):
            return
        function, args, state, items, pairs = (*reduced, None, None, None)[:5]
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
            own, slots = state
            yield from ((f".{name}", value) for name, value in slots.items())
            state = own
        if isinstance(state, dict):
            yield from ((f".{name}", value) for name, value in state.items())
        elif state is not None:
            yield ".__getstate__()", state
        own_names = {id(value): name for name, value in getattr(obj, "__dict__", {}).items()}
        for index, arg in enumerate(args or ()):
            if arg is type(obj):
                yield ".__class__", arg
            elif id(arg) in own_names:
                yield f".{own_names[id(arg)]}", arg
            else:
                yield f".__reduce__()[1][{index}]", arg
        yield ".__reduce__()[0]", function
        yield from ((f"[{index}]", item) for index, item in enumerate(items or ()))
        yield from ((f"[{safe_repr(key)}]", item) for key, item in pairs or ())


def _item_parts(obj: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(obj, dict | MappingProxyType):
        for key, item in obj.items():
            yield f"[{safe_repr(key)[:60]}]", item
        for key in obj:
            yield f" key {safe_repr(key)[:60]}", key
    elif isinstance(obj, set | frozenset):
        for item in obj:
            yield f" element {safe_repr(item)[:60]}", item
    else:
        for index, item in enumerate(obj):
            yield f"[{index}]", item


def _function_parts(function: FunctionType) -> Iterator[tuple[str, Any]]:
    cells = function.__closure__ or ()
    for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
        try:
            yield f".__closure__[{name!r}]", cell.cell_contents
        except ValueError:  # a cell that is still empty
            continue
    for name in _global_names(function.__code__):
        if name in function.__globals__:
            yield f".__globals__[{name!r}]", function.__globals__[name]
    for index, default in enumerate(function.__defaults__ or ()):
        yield f".__defaults__[{index}]", default
    for name, default in (function.__kwdefaults__ or {}).items():
        yield f".__kwdefaults__[{name!r}]", default
    for name, value in function.__dict__.items():
        yield f".{name}", value
    for name, note in function.__annotations__.items():
        yield f".__annotations__[{name!r}]", note


def _global_names(code: CodeType) -> list[str]:
    """Return the names that a code, and code within it, looks up outside of itself."""
    names = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names += _global_names(constant)
    return list(dict.fromkeys(names))


def _class_parts(cls: type) -> Iterator[tuple[str, Any]]:
    for name, member in vars(cls).items():
        if name not in ("__dict__", "__weakref__", "__doc__", "__module__", "__qualname__"):
            yield f".{name}", member
    for index, base in enumerate(cls.__bases__):
        yield f".__bases__[{index}]", base


def reason_of(error: BaseException) -> str:
    """Say in a clause why pickling failed."""
    if isinstance(error.__cause__ or error, RecursionError):
        return "it is nested too deep (RecursionError)"
    text = str(error).partition("\n")[0]
    if type(error).__name__ in ("TypeError", "PicklingError"):
        return text
    return f"its own code raised {type(error).__name__}: {text}"


def explain(
    named: Mapping[str, Any],
    error: BaseException,
    can_pickle: Callable[[Any], BaseException | None],
    reduce: Callable[[Any], Any],
) -> PicklingError:
    """Return the error to raise: it names the first part to blame in the named values."""
    for name, value in named.items():
        search = Search(can_pickle, reduce)
        for culprit in search.culprits(value, name):
            return PicklingError(
                f"{culprit.path}: {culprit.reason} ({_ADVICE})",
                path=culprit.path,
                offender=culprit.obj,
                reason=culprit.reason,
            )
    # The value as a whole fails, although its parts do not, or it has changed meanwhile.
    path = next(iter(named), "value")
    return PicklingError(
        f"{path}: {reason_of(error)} ({_ADVICE})", path=path, reason=reason_of(error)
    )
