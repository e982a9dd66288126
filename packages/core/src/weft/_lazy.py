"""Modules that are loaded when they are first used, so that `import weft` stays quick.

Write, so that type checkers see the real module:

    if TYPE_CHECKING:
        import asyncio
    else:
        asyncio = lazy("asyncio")
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from weft._override import override


class _LazyModule(ModuleType):
    """Stands for a module until an attribute of it is asked for; keeps each attribute found."""

    @override
    def __getattr__(self, attribute: str) -> Any:
        value = getattr(importlib.import_module(self.__name__), attribute)
        setattr(self, attribute, value)
        return value


def lazy(name: str) -> ModuleType:
    """Return a stand-in for the module `name`, which need not be installed until it is used."""
    return _LazyModule(name)
