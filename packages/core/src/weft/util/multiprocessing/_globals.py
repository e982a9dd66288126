"""Global variables of functions that travel by value.

A function of `__main__` arrives with globals of its own: those that it uses, as they were when it
was pickled. Programs for `multiprocessing` expect one set for each worker:

    def initialize(path):                def work(item):
        global model                         return model.predict(item)
        model = load(path)

So a worker keeps what functions have left in the globals of their module, and gives it to the next
one. Functions, classes and modules come as they were sent; everything else is the worker's own,
once it has it.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from functools import partial
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CODE = (FunctionType, type, ModuleType)


class ModuleGlobals:
    """What a worker's functions share, by module."""

    def __init__(self) -> None:
        self._values_of: dict[str, dict[str, Any]] = {}

    @contextmanager
    def shared_with(self, target: Callable[..., Any]) -> Iterator[None]:
        """Let a function that is about to run see what others left, and keep what it leaves."""
        found = _function_in(target)
        if found is None or _is_of_module(found):
            yield
            return
        own = found.__globals__
        shared = self._values_of.setdefault(found.__module__, {})
        for name, value in shared.items():
            if not isinstance(own.get(name), _CODE):
                own[name] = value
        try:
            yield
        finally:
            shared.update((name, value) for name, value in own.items() if not name.startswith("__"))


def _function_in(target: Any) -> FunctionType | None:
    """Return the function: itself, or in a partial, a bound method or a callable instance."""
    while isinstance(target, partial):
        target = target.func
    if not isinstance(target, FunctionType | type):
        target = getattr(target, "__func__", None) or vars(type(target)).get("__call__")
    return target if isinstance(target, FunctionType) else None


def _is_of_module(function: FunctionType) -> bool:
    module = sys.modules.get(function.__module__)
    return module is not None and vars(module) is function.__globals__
