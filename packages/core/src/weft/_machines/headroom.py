"""How many tasks may be leased while memory is short; governor.py decides, this keeps count.

Tasks get leases up to a number, and those whose memory is known up to what is left of it. Both give
way where no task runs that is not blocked, and once when those that run seem to wait for something:
it could be the only one that can go on.
"""

from __future__ import annotations

import msgspec

from weft._exits import amount
from weft._resources import UNITS


class MemoryMeasured(msgspec.Struct, frozen=True):
    """So much may be leased, as memory is."""

    width: int | None
    """Tasks at once; None: as many as like. Does not hold for those whose memory is known."""
    room: int
    """For all tasks' leases together, in 1/10,000 bytes."""
    words: str
    """What is in use, of what."""
    lets_one_pass: bool = False
    """One may start all the same."""


class Headroom:
    """What was measured, and what tasks have of it."""

    def __init__(self, room: int) -> None:
        """`room` is for all tasks together, in 1/10,000 bytes."""
        self.measured = MemoryMeasured(None, room, "")
        self.running = 0
        """Tasks' leases that are not blocked."""
        self.promised = 0
        """Memory that tasks' leases take, in 1/10,000 bytes."""

    def count(self, memory: int, sign: int, *, is_blocked: bool) -> None:
        """Count a task's lease that takes so much, or with the sign -1 forget it."""
        self.running += 0 if is_blocked else sign
        self.promised += memory * sign

    def holds(self, learned: int | None) -> bool:
        """Tell whether one more task has to wait. `learned`: its memory, if that is known."""
        if not self.running or self.measured.lets_one_pass:
            return False
        if learned is not None:
            return self.promised + learned > self.measured.room
        width = self.measured.width
        return width is not None and self.running >= width

    def granted(self) -> None:
        """A lease was granted: no other may pass."""
        if self.measured.lets_one_pass:
            self.measured = msgspec.structs.replace(self.measured, lets_one_pass=False)

    def explain(self, learned: int | None) -> str:
        """Say what one more task has to wait for."""
        in_use = f", {self.measured.words}" if self.measured.words else ""
        if learned is None:
            return f"memory is short{in_use}: not more than {self.measured.width} tasks at once"
        left = max(0, self.measured.room - self.promised)
        return (
            f"needs {amount(learned // UNITS)} of memory, as such tasks did before, and "
            f"{amount(left // UNITS)} are left{in_use}"
        )
