"""A bar on a terminal.

It is drawn here and not by tqdm or rich: what Weft needs of them is this page, and to depend on
either would be more to install and to import than that is worth.
"""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING

from weft._clock import monotonic
from weft._lazy import lazy

if TYPE_CHECKING:
    import shutil
else:
    shutil = lazy("shutil")

# The time shown grows, so that one sees that the program lives, also while nothing comes.
REDRAW_S = 0.5
# Drawing more often would cost more than it shows.
REST_S = 0.05
MOST_COLUMNS = 100
_CLEAR = "\x1b[K"


class Bar:
    """One line on a terminal: what, how much of it, how long it took and will take."""

    def __init__(self, desc: str, total: int, file: IO[str] | None = None) -> None:
        """Begin a bar at nothing done.

        Args:
            desc: What is being done.
            total: How much there is to do.
            file: Where to draw; None: stderr.
        """
        self.done = 0
        self._desc = desc
        self._total = total
        self._file = sys.stderr if file is None else file
        self._began = monotonic()
        self._drawn_at = 0.0
        self._drawn = -1
        # Python without a console has no stderr.
        self._shows = self._file is not None and self._file.isatty()

    @property
    def patience_s(self) -> float | None:
        """How long to wait before the bar is drawn anew; None: it is not drawn at all."""
        return REDRAW_S if self._shows else None

    def draw_if_due(self) -> None:
        """Draw the bar, unless it was drawn just now."""
        if self._shows and (self.done == self._total or monotonic() - self._drawn_at >= REST_S):
            self.draw()

    def draw(self) -> None:
        """Draw the bar over the one before."""
        if self._shows:
            self._drawn_at = monotonic()
            self._drawn = self.done
            columns = min(MOST_COLUMNS, shutil.get_terminal_size().columns - 1)
            self._file.write(f"\r{self.line(self._drawn_at - self._began, columns)}{_CLEAR}")
            self._file.flush()

    def close(self) -> None:
        """Leave the bar as it stands, and go to the next line."""
        if self._shows:
            if self._drawn != self.done:
                self.draw()
            self._file.write("\n")
            self._file.flush()

    def line(self, elapsed_s: float, columns: int) -> str:
        """Return the bar as text of `columns` columns at most."""
        label = f"{self._desc} " if self._desc else ""
        times = _span(elapsed_s)
        if 0 < self.done < self._total:
            times += f", {_span(elapsed_s / self.done * (self._total - self.done))} left"
        counts = f" {self.done}/{self._total} {times}"
        room = columns - len(label) - len(counts) - 2
        if room < 5:
            return f"{label}{counts.strip()}"[:columns]
        filled = room * self.done // self._total if self._total else room
        return f"{label}[{'=' * filled}{' ' * (room - filled)}]{counts}"


def _span(seconds: float) -> str:
    """Return a time as a person writes it: 0:07, 2:05:00."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
