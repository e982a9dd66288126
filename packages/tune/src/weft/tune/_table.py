"""A table of text that fits into a width: what has no room is left out, and named."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

GAP = "  "


@dataclass(frozen=True)
class Column:
    """One column, with a cell for each row."""

    title: str
    cells: Sequence[Any]
    rank: int
    """What has no room is left out from the highest rank on."""


@dataclass(frozen=True)
class Table:
    """Lines, the first of them the titles, and the titles of what was left out."""

    lines: list[str]
    left_out: list[str]


def shown(value: Any, width: int) -> str:
    """Return a value in one line of at most so many characters."""
    if isinstance(value, float):
        text = f"{value:.4g}" if math.isfinite(value) else str(value)
    else:
        text = "" if value is None else " ".join(str(value).split())
    return text if len(text) <= width else f"{text[: max(width - 1, 0)]}…"


def table(columns: Sequence[Column], width: int, cell_width: int = 20) -> Table:
    """Lay columns out in their order, numbers to the right.

    Args:
        columns: All with as many cells.
        width: Of the lines, in characters. The column with the lowest rank always stands, shortened
            if it must be.
        cell_width: Of a cell, at most; that column is not bound by it.
    """
    if not columns:
        return Table([], [])
    first = min(columns, key=lambda column: column.rank)
    texts = {
        id(column): [
            shown(value, width if column is first else cell_width)
            for value in (column.title, *column.cells)
        ]
        for column in columns
    }
    width_of = {key: max(map(len, cells)) for key, cells in texts.items()}
    width_of[id(first)] = min(width_of[id(first)], width)
    room = width
    kept: set[int] = set()
    left_out: list[str] = []
    for column in sorted(columns, key=lambda column: column.rank):
        taken = width_of[id(column)] + (len(GAP) if kept else 0)
        if taken <= room and not left_out:
            kept.add(id(column))
            room -= taken
        else:
            left_out.append(column.title)
    standing = [column for column in columns if id(column) in kept]
    lines = []
    for row in range(len(first.cells) + 1):
        cells = [_set(texts[id(column)][row], width_of[id(column)], column) for column in standing]
        lines.append(GAP.join(cells).rstrip())
    return Table(lines, left_out)


def _set(text: str, width: int, column: Column) -> str:
    is_number = any(
        isinstance(value, int | float) and not isinstance(value, bool) for value in column.cells
    )
    return text[:width].rjust(width) if is_number else text[:width].ljust(width)
