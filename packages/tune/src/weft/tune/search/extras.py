"""Packages that are installed with an extra of weft-tune."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType


def required(module: str, *, extra: str) -> ModuleType:
    """Import a module of an optional package.

    Raises:
        ImportError: It is not installed; the message says how to do that.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package, missing = module.partition(".")[0], error.name or module
        needs = "" if missing.partition(".")[0] == package else f", which {package} needs,"
        raise ImportError(
            f"{missing}{needs} is not installed: pip install 'weft-tune[{extra}]'", name=error.name
        ) from error
