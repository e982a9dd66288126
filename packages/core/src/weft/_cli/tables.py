"""Tables of text, as wide as the terminal."""

from __future__ import annotations

import shutil
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from weft._cli.out import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

_GAP = "  "
_CUT = "…"
# A column that is cut is still so wide, if there is room for it.
_LEAST = 8
# A table of two columns is a name and what it says: both stand in the row.
_LEAST_HEADERS = 2
_INDENT = "    "


def width() -> int | None:
    """Return how many columns there are; None: nobody looks, so nothing needs to be cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], columns: int | None = None
) -> str:
    """Return lines: headers, then rows. Numbers stand to the right.

    If that is wider than `columns`, the text of the last column stands below its row, and what is
    too wide still is cut.
    """
    cells = [list(headers), *([_cell(value) for value in row] for row in rows)]
    is_number = [
        bool(rows) and all(isinstance(row[index], int | float | None) for row in rows)
        for index in range(len(headers))
    ]
    widths = [max(len(row[index]) for row in cells) for index in range(len(headers))]
    notes = [""] * len(cells)
    if columns is not None and _total(widths) > columns:
        if len(widths) > _LEAST_HEADERS and not is_number[-1]:
            notes = [row.pop() for row in cells]
            del widths[-1], is_number[-1]
        widths = _narrowed(widths, columns)
    lines = []
    for row, text in zip(cells, notes, strict=True):
        fitting = map(_fit, row, widths, is_number)
        lines.append(_GAP.join(fitting).rstrip())
        if text and columns is not None:
            lines.append(f"{_INDENT}{_fit(text, columns - len(_INDENT), False)}".rstrip())
    return "\n".join(lines)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value}"
        case float():
            return f"{value:,.3f}"
        case _:
            return " ".join(plain(str(value)).split())


def _narrowed(widths: list[int], columns: int) -> list[int]:
    """Take from the widest until all fit, or nothing more can be taken.

    The first column is the last that is cut: it says which one it is.
    """
    widths = widths.copy()
    over = _total(widths) - columns
    for part in (slice(1, None), slice(0, 1)):
        while over > 0 and (most := max(widths[part], default=0)) > _LEAST:
            widths[widths.index(most, part.start)] -= 1
            over -= 1
    return widths


def _fit(cell: str, wide: int, is_number: bool) -> str:
    if len(cell) > wide:
        cell = cell[: wide - 1] + _CUT
    return cell.rjust(wide) if is_number else cell.ljust(wide)


def block(fields: dict[str, object]) -> str:
    """Return one record as lines `field: value`; what is not known is left out."""
    wide = max(map(len, fields))
    lines = []
    for name, value in fields.items():
        if value in (None, "", {}):
            continue
        text = plain(_value(name, value)).replace("\n", f"\n{' ' * (wide + 2)}")
        lines.append(f"{f'{name}:'.ljust(wide + 1)} {text}")
    return "\n".join(lines)


def _value(name: str, value: object) -> str:
    match value:
        case float() if name.endswith("_time_ms"):
            return f"{value:.3f} ({moment(value)})"
        case dict():
            return ", ".join(f"{key} {_value('', each)}" for key, each in value.items())
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def moment(at_ms: float) -> str:
    """Return a time as people here write it."""
    at = datetime.fromtimestamp(at_ms / 1000, tz=UTC).astimezone()
    return at.isoformat(" ", "milliseconds")
