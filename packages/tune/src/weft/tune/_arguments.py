"""How schedulers and stoppers refuse arguments: in one line that says whose, which, and what fits.

Each function raises OptionError, and returns nothing.
"""

from __future__ import annotations

import math
from typing import Any

from weft.exceptions import OptionError


def check_metric(owner: str, name: str, value: Any) -> None:
    """Refuse what cannot be the name of a metric."""
    if not isinstance(value, str) or not value:
        raise OptionError(f"{name} of {owner} is the name of a metric: {value!r}")


def check_mode(owner: str, value: Any) -> None:
    """Refuse what is no mode."""
    if value not in ("min", "max"):
        raise OptionError(f'mode of {owner} is "min" or "max": {value!r}')


def check_objective(owner: str, metric: Any, mode: Any) -> None:
    """Refuse a metric or a mode that cannot be one; None: it is given elsewhere."""
    if metric is not None:
        check_metric(owner, "metric", metric)
    if mode is not None:
        check_mode(owner, mode)


def check_number(owner: str, name: str, value: Any, *, least: float, above: bool = False) -> None:
    """Refuse what is no finite number, or less than the least; `above`: or equal to it."""
    is_number = isinstance(value, int | float) and math.isfinite(value)
    if not is_number or value < least or (above and value == least):
        bound = f" above {least}" if above else f", {least} or more" if math.isfinite(least) else ""
        wanted = f"a number{bound}"
        raise OptionError(f"{name} of {owner} is {wanted}: {value!r}")


def check_integer(owner: str, name: str, value: Any, *, least: int) -> None:
    """Refuse what is no integer, or less than the least."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise OptionError(f"{name} of {owner} is an integer, {least} or more: {value!r}")
