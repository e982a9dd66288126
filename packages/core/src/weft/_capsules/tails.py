"""What a process wrote last: text that goes through Python's own stdout and stderr."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

# `print` writes a line in two pieces.
PIECES = 400
PIECE_CHARACTERS = 1000


class TextTail:
    """The last pieces of text that were written to some streams, in the order of writing."""

    def __init__(self) -> None:
        self._pieces: deque[str] = deque(maxlen=PIECES)

    def follow(self, stream: TextIO) -> None:
        """Note what is written to a stream from now on, by whoever has it.

        The method is replaced on the stream itself: log handlers keep the stream that they were
        made with.
        """
        write, note = stream.write, self._pieces.append

        def write_and_note(text: str) -> int:
            written = write(text)
            note(text[-PIECE_CHARACTERS:])
            return written

        stream.write = write_and_note  # type: ignore[method-assign]

    def clear(self) -> None:
        """Forget what was written."""
        self._pieces.clear()

    def text(self) -> str:
        """Return what is remembered."""
        return "".join(self._pieces)
