"""Weft's own log: the standard logger `weft`, silent unless something is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft._lazy import lazy

if TYPE_CHECKING:
    import logging
else:
    logging = lazy("logging")


def logger() -> logging.Logger:
    """Return the logger `weft`."""
    return logging.getLogger("weft")
