"""A bar for long work: drawn on a terminal, and nowhere else.

Who has tqdm or rich and likes theirs better wraps `weft.util.as_completed` in it.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Generic, TypeVar

from weft.exceptions import GetTimeoutError
from weft.util._bars import Bar
from weft.util._iteration import references, take_ready

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from weft._refs import ObjectRef

T = TypeVar("T")


class Progress(Generic[T]):
    """References that come one by one, with a bar. Made by `progress`."""

    def __init__(self, refs: Sequence[ObjectRef[T]], desc: str, file: IO[str] | None) -> None:
        """Hold the references; nothing is waited for or drawn yet."""
        self._refs: list[ObjectRef[T]] = references(refs, "progress")
        self._desc = desc
        self._file = file
        self._total = len(self._refs)

    def __len__(self) -> int:
        return self._total

    def __iter__(self) -> Iterator[ObjectRef[T]]:
        """Yield the references as they are ready. Once: what was yielded is not kept."""
        pending, self._refs = self._refs, []
        bar = Bar(self._desc, self._total, self._file)
        try:
            while pending:
                try:
                    ready, pending = take_ready(pending, timeout=bar.patience_s)
                except GetTimeoutError:
                    bar.draw()
                    continue
                while ready:
                    bar.done += 1
                    bar.draw_if_due()
                    yield ready.popleft()
        finally:
            bar.close()

    def wait(self) -> None:
        """Wait until all are ready, failed ones included. Blocks."""
        for _ in self:
            pass


def progress(
    refs: Sequence[ObjectRef[T]], desc: str = "", *, file: IO[str] | None = None
) -> Progress[T]:
    """Show how many of several references are ready, in a bar on the terminal.

    Nothing where there is none.

        progress(refs, "fitting").wait()                     for ref in progress(refs):
        results = weft.get(refs)                                 print(weft.get(ref))

    Args:
        refs: References, each once. A failed task counts as ready.
        desc: What is being done.
        file: Where to draw; None: stderr.

    Returns:
        An iterable of the references in the order in which they are ready, with a method `wait`.

    Raises:
        ArgumentError: What was given are no references (a TypeError).
        OptionError: A reference is there twice.
    """
    return Progress(refs, desc, file)
