"""How a graph is run: its steps in order, each of which puts its result into a slot.

A plan is worked out once, at the first `execute` of a node. The slots of a run begin as a copy of
the plan's own, where constants are in place already.

What is always true
1. A step comes after the steps whose results it takes.
2. What is taken of the input is taken before any call is made: an input that does not fit sends
   nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

Slots = list[Any]

INPUT: Final = 0
"""The slot of what `execute` was called with: (args, kwargs)."""


class Plan:
    """The steps of one node's graph. Made by the nodes, which add what they are."""

    def __init__(self, keep: Callable[[Any], Any] | None = None) -> None:
        """Begin with no steps. `keep` returns what is kept instead of a constant argument."""
        self.slot_of: dict[str, int] = {}
        """By a node's uuid."""
        self._keep = keep
        self._slots: Slots = [None]
        self._reads: list[tuple[int, Callable[[Slots], Any]]] = []
        self._calls: list[tuple[int, Callable[[Slots], Any]]] = []

    def add_constant(self, value: Any) -> int:
        """Return the slot of an argument that is the same in every run."""
        self._slots.append(value if self._keep is None else self._keep(value))
        return len(self._slots) - 1

    def add_step(self, step: Callable[[Slots], Any], *, is_read: bool) -> int:
        """Return the slot of what a step gives. `is_read`: it makes no call."""
        self._slots.append(None)
        slot = len(self._slots) - 1
        (self._reads if is_read else self._calls).append((slot, step))
        return slot

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Slots:
        """Do the steps for an input; return what each has given, in their order. Does not block."""
        slots = self._slots.copy()
        slots[INPUT] = args, kwargs
        for slot, step in self._reads:
            slots[slot] = step(slots)
        for slot, step in self._calls:
            slots[slot] = step(slots)
        return slots
