"""Lines at the end of a terminal that are drawn anew in place, under everything else that is said.

While a block stands, `sys.stdout` and `sys.stderr` are stand-ins: what the program, its loggers and
its workers write goes above the block. What another process writes into the terminal by itself is
not seen here; the next drawing may cover it.

Facts about terminals
- `ESC [ n F` goes to the beginning of the line n above, `ESC [ J` clears from there to the end.
- A line longer than the terminal is wide takes two: so lines are cut.
"""

from __future__ import annotations

import shutil
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TextIO


class TerminalBlock:
    """The lines. Any thread may use it."""

    def __init__(self, terminal: TextIO) -> None:
        """Take the terminal's end over, until `close`."""
        self._terminal = terminal
        self._lines: list[str] = []
        # Workers' output is written by a thread of its own, in the middle of a drawing.
        self._drawing = threading.RLock()
        self._is_mid_line = False
        self._stands_in: list[tuple[str, Any, _AboveBlock]] = []
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is not None and stream.isatty():
                stand_in = _AboveBlock(self, stream)
                self._stands_in.append((name, stream, stand_in))
                setattr(sys, name, stand_in)

    @property
    def size(self) -> tuple[int, int]:
        """How many characters a line can have, and how many lines there can be."""
        found = shutil.get_terminal_size()
        return found.columns - 1, found.lines - 1

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines in place of those before."""
        width, height = self.size
        with self._drawing:
            erased = self._erased()
            # More than fits would scroll away, out of reach of the next drawing.
            self._lines = [line[:width] for line in lines[:height]]
            self._terminal.write(erased + self._block())
            self._terminal.flush()

    def above(self, stream: TextIO, text: str) -> None:
        """Write what somebody else says above the block."""
        with self._drawing:
            self._terminal.write(self._erased())
            if text:
                # The block is drawn again when the line has ended.
                self._is_mid_line = not text.endswith("\n")
            self._terminal.flush()
            stream.write(text)
            stream.flush()
            if not self._is_mid_line:
                self._terminal.write(self._block())
                self._terminal.flush()

    def _erased(self) -> str:
        if self._is_mid_line or not self._lines:
            return ""
        return f"\x1b[{len(self._lines)}F\x1b[J"

    def _block(self) -> str:
        if self._is_mid_line:
            return ""
        return "".join(f"{line}\n" for line in self._lines)

    def close(self) -> None:
        """Leave the lines where they are, and give the terminal back."""
        with self._drawing:
            if self._is_mid_line:
                self._terminal.write("\n")
                self._is_mid_line = False
                self._terminal.write(self._block())
                self._terminal.flush()
            for name, stream, stand_in in self._stands_in:
                if getattr(sys, name) is stand_in:
                    setattr(sys, name, stream)
            self._stands_in.clear()


class _AboveBlock:
    """Stands in for a stream to the terminal."""

    def __init__(self, block: TerminalBlock, stream: TextIO) -> None:
        self._block = block
        self._stream = stream

    def write(self, text: str) -> int:
        """Write above the block."""
        self._block.above(self._stream, text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Likewise."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
