"""What a benchmark consists of: rows, each with its program, its target and the floors beneath."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Floor:
    """What the same work costs without a framework."""

    words: str
    module: str
    function: str


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    key: str
    """Also the name of the program."""
    what: str
    unit: str
    """`s`, `kB` and `MB`: less is better. `/s`, `GB/s` and `%`: more is better."""
    target: float
    """If `share_of` is given, the part of it that is to be reached."""
    floors: tuple[str, ...]
    """Keys of FLOORS."""
    module: str = "_core_programs"
    """Where the program is; `_core_startup` and so on."""
    cpus: int = 2
    """CPUs of the session that the program finds; 0: it starts its own."""
    share_of: str = ""
    """Which of the floors the target is a part of."""
    note: str = ""
    """What stands beneath the table about it."""
    is_ours: bool = False
    """Ray has nothing that could be asked the same way; the note says why."""

    @property
    def higher_is_better(self) -> bool:
        return self.unit.endswith("/s") or self.unit == "%"

    def ratio(self, weft: float, ray: float) -> float:
        """Return how many times better Weft is."""
        return weft / ray if self.higher_is_better else ray / weft

    def target_beside(self, floors: Mapping[str, float | None]) -> float | None:
        """Return what is to be reached; None: the floor that it is a part of is not known."""
        if not self.share_of:
            return self.target
        floor = floors[self.share_of]
        return None if floor is None else self.target * floor

    def is_met(self, weft: float | None, target: float | None) -> bool | None:
        """Tell whether Weft reaches the target; None: one of them is not known."""
        if weft is None or target is None:
            return None
        return weft >= target if self.higher_is_better else weft <= target


@dataclass(frozen=True)
class Comparison:
    """Something that is made small, from many seeds: how good it gets, not how fast."""

    key: str
    """Also the name of the program, which returns a number for each seed."""
    what: str
    module: str
