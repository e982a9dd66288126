"""Callbacks that write what trials report for other programs: CSV, JSON, TensorBoard, Aim.

None of them is needed: the experiment's journal has everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.tune.logger._files import as_json
from weft.tune.logger.csv_logger import CSVLoggerCallback
from weft.tune.logger.json_logger import JsonLoggerCallback
from weft.tune.logger.logger import LoggerCallback
from weft.tune.logger.tensorboardx import TBXLoggerCallback

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = [
    "CSVLoggerCallback",
    "JsonLoggerCallback",
    "LoggerCallback",
    "TBXLoggerCallback",
    "pretty_print",
]


def pretty_print(result: dict[str, Any], exclude: Collection[str] | None = None) -> str:
    """Return a result as text, a line for each value, those inside indented.

    Args:
        result: What a trial reported.
        exclude: Names that are left out.
    """
    left = {name: value for name, value in result.items() if name not in (exclude or ())}
    return as_json(left, indent=2)
