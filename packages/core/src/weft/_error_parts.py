"""Exceptions of any class, taken apart to travel and put together where they arrive.

What is always true
1. An exception's `__init__` is never called, and its own `__new__` only if its layout needs it.
2. Every exception has a name and a text here, whatever its `__str__` does.

Facts about exceptions and pickle. `BaseException.__reduce__` calls the class with `args` again,
which fails, or loses the type, when `__init__` takes something else; and it forgets what C code
keeps outside `__dict__` (OSError.filename, ImportError.name). So errors are taken apart and put
together here without calling `__init__`.
"""

from __future__ import annotations

from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any, NamedTuple, TypeVar

E = TypeVar("E", bound=BaseException)
Parts = tuple[type[BaseException], tuple[Any, ...], dict[str, Any], dict[str, Any]]
"""The class, the args, the values kept in slots or by C code, the `__dict__`."""


def take_apart(error: BaseException) -> Parts:
    """Return (class, args, values kept in slots or by C code, __dict__) of an error."""
    slots: dict[str, Any] = {}
    for cls in type(error).__mro__:
        if cls in (BaseException, Exception, object):
            continue
        for name, kept in vars(cls).items():
            if isinstance(kept, MemberDescriptorType | GetSetDescriptorType):
                value = getattr(error, name, None)
                # AttributeError keeps the object that lacked the attribute: that stays at home.
                if value is not None and not (cls is AttributeError and name == "obj"):
                    slots[name] = value
    slots.pop("__dict__", None)
    slots.pop("__weakref__", None)
    return type(error), error.args, slots, dict(error.__dict__)


def put_together(
    cls: type[E], args: tuple[Any, ...], slots: dict[str, Any], state: dict[str, Any]
) -> E:
    """Make an error of its parts; neither its `__init__` nor its own `__new__` is called."""
    # Only the `__new__` of the base whose layout the class has may be called.
    built_in: Any = cls
    while built_in.__module__ != "builtins":
        built_in = built_in.__base__
    try:
        error: E = built_in.__new__(cls, *args)
    except TypeError:  # a base written in C has a `__new__` of its own
        error = cls.__new__(cls, *args)
    error.args = args
    for name, value in slots.items():
        try:
            setattr(error, name, value)
        except (AttributeError, TypeError):  # read-only, and set by `__new__`
            continue
    error.__dict__.update((name, unfold(value)) for name, value in state.items())
    return error


def reduces_by_default(error: BaseException) -> bool:
    """Tell whether the class leaves its pickling to Python, so that it may be taken apart."""
    cls = type(error)
    own = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs_ex__")
    for base in cls.__mro__:
        if base.__module__ == "builtins":
            return True
        if not base.__dict__.keys().isdisjoint(own):
            return False
    return True


class Folded(NamedTuple):
    """The parts of an error that is an attribute of another one, on their way."""

    cls: type[BaseException]
    args: tuple[Any, ...]
    slots: dict[str, Any]
    state: dict[str, Any]


def fold(value: object) -> object:
    """Return what travels for an attribute of an error: the parts, if it is an error itself."""
    if isinstance(value, BaseException) and reduces_by_default(value):
        return Folded(*take_apart(value))
    return value


def unfold(value: object) -> object:
    """Undo `fold`."""
    return put_together(*value) if isinstance(value, Folded) else value


def type_name(subject: object) -> str:
    """Return the class's name as a traceback prints it."""
    cls = type(subject)
    if cls.__module__ in ("builtins", "__main__"):
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"


def safe_str(subject: object) -> str:
    """Return `str(subject)`, also when its `__str__` fails."""
    try:
        return str(subject)
    except Exception:  # noqa: BLE001 - user code; an error's text must not hide the error
        return f"<{type(subject).__name__} whose __str__ fails>"


def safe_repr(subject: object) -> str:
    """Return `repr(subject)`, also when its `__repr__` fails."""
    try:
        return repr(subject)
    except Exception:  # noqa: BLE001 - user code; an error's text must not hide the error
        return f"<{type(subject).__name__} whose __repr__ fails>"
