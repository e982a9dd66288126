"""Names of modules that need an optional package: these are loaded when a name is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def late(source: str, *names: str) -> Callable[[str], Any]:
    """Return a module's `__getattr__`, which takes some names from another module.

    Args:
        source: The other module.
        names: What is taken from there.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"there is no {name!r} here: there is {', '.join(names)}")
        return getattr(importlib.import_module(source), name)

    return get
