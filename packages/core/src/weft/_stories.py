"""What is known of a task's error, and how its way through nested tasks is told.

Each task that an error went through is a Hop with its user frames. The story has a bounded number
of lines: every task keeps its last frame, and what room is left goes to the innermost one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from weft._override import override

if TYPE_CHECKING:
    from collections.abc import Sequence

STORY_LINES = 8
"""How many lines the story of an error takes at most, so that three nested tasks print in 15."""

SHORT_STORY_LINES = 16
"""The same for one or two tasks, which leave more room."""

KEPT_HOPS = 20


class SourceLine(msgspec.Struct, frozen=True, array_like=True):
    """One line of user code that was running when an error was raised."""

    file: str
    line: int
    function: str
    source: str = ""

    @override
    def __str__(self) -> str:
        place = f"{self.file}:{self.line} in {self.function}"
        return f"{place}: {self.source}" if self.source else place


class Hop(msgspec.Struct, frozen=True, array_like=True):
    """One task through which an error went."""

    title: str
    """`task f() pid 12`."""
    frames: tuple[SourceLine, ...] = ()
    because: tuple[str, ...] = ()
    """One line for each error that led to this one."""
    left_out: int = 0
    """Stands for so many tasks between its neighbours."""


class Facts(msgspec.Struct, frozen=True):
    """What a TaskError knows apart from its cause."""

    task: str = ""
    node: str = ""
    attempts: int = 1
    pid: int | None = None
    ip: str | None = None
    proctitle: str | None = None
    actor_repr: str | None = None
    actor_id: str | None = None
    type_name: str = ""
    message: str = ""
    traceback_str: str = ""
    hops: tuple[Hop, ...] = ()
    notes: tuple[str, ...] = ()
    """What user code added with `add_note`."""


def story(hops: Sequence[Hop]) -> str:
    """Return the way of an error through its tasks, outermost first.

    Every task keeps its last frame; what room is left goes to the innermost one.
    """
    shown = list(hops)
    if len(shown) > 3:
        left_out = sum(hop.left_out or 1 for hop in shown[1:-2])
        shown = [shown[0], Hop("", left_out=left_out), *shown[-2:]]
    most = SHORT_STORY_LINES if len(shown) < 3 else STORY_LINES
    room = most - sum(1 if hop.left_out else 2 for hop in shown)
    lines: list[str] = []
    for hop in reversed(shown):
        if hop.left_out:
            lines.append(f"  ... {hop.left_out} more tasks")
            continue
        because = [f"    {line}" for line in hop.because[: max(0, room)]]
        room -= len(because)
        frames = [f"    {frame}" for frame in hop.frames]
        spare = len(frames) - 1
        if spare > room:
            # The first frame says how it began, the last ones what failed.
            hidden = f"    ... {len(frames) - max(0, room)} more frames"
            frames = [hidden, *frames[len(frames) - room :]] if room > 0 else frames[-1:]
            spare = max(0, room)
        room -= max(0, spare)
        lines += reversed([f"  in {hop.title}", *frames, *because])
    return "\n".join(reversed(lines))


def add_hop(hop: Hop, hops: Sequence[Hop]) -> tuple[Hop, ...]:
    """Return the way with one more task before it; the middle of a very long way is left out."""
    way = (hop, *hops)
    if len(way) <= KEPT_HOPS:
        return way
    half = KEPT_HOPS // 2
    middle = sum(each.left_out or 1 for each in way[half : -half + 1])
    return (*way[:half], Hop("", left_out=middle), *way[-half + 1 :])
