"""Tables of text, as wide as the terminal."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

from weft._cli.out import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

_GAP = "  "
_CUT = "…"
# A column that is cut is still so wide, if there is room for it.
_LEAST = 8


def width() -> int | None:
    """Return how many columns there are; None: nobody looks, so nothing needs to be cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], columns: int | None = None
) -> str:
    """Return lines: headers, then rows. Numbers stand to the right.

    With `columns`, what is too wide is cut.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [
        max(len(header), *(len(row[index]) for row in cells), 0)
        for index, header in enumerate(headers)
    ]
    if columns is not None:
        widths = _narrowed(widths, columns)
    is_number = [
        bool(rows) and all(isinstance(row[index], int | float | None) for row in rows)
        for index in range(len(headers))
    ]
    lines = [
        _GAP.join(
            _fit(cell, wide, right=right)
            for cell, wide, right in zip(line, widths, is_number, strict=True)
        ).rstrip()
        for line in [list(headers), *cells]
    ]
    return "\n".join(lines)


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

    The first column stays: it says which one it is.
    """
    first, *others = widths
    over = first + sum(others) + len(_GAP) * len(others) - columns
    while over > 0 and others and max(others) > _LEAST:
        others[others.index(max(others))] -= 1
        over -= 1
    return [first, *others]


def _fit(cell: str, wide: int, *, right: bool) -> str:
    if len(cell) > wide:
        cell = cell[: wide - 1] + _CUT
    return cell.rjust(wide) if right else cell.ljust(wide)


def block(fields: dict[str, object]) -> str:
    """Return one record as lines `field: value`; what is not known is left out."""
    wide = max(map(len, fields))
    lines = []
    for name, value in fields.items():
        if value in (None, "", {}):
            continue
        text = plain(str(value)).replace("\n", f"\n{' ' * (wide + 2)}")
        lines.append(f"{f'{name}:'.ljust(wide + 1)} {text}")
    return "\n".join(lines)
