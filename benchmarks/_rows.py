"""What a benchmark consists of: rows, each with its program, its target and the floors beneath."""

from __future__ import annotations

from dataclasses import dataclass


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
    floors: tuple[str, ...]
    """Keys of FLOORS."""
    module: str = "_core_programs"
    """Where the program is; `_core_startup` and so on."""
    cpus: int = 2
    """CPUs of the session that the program finds; 0: it starts its own."""

    @property
    def higher_is_better(self) -> bool:
        return self.unit.endswith("/s") or self.unit == "%"

    def ratio(self, weft: float, ray: float) -> float:
        """Return how many times better Weft is."""
        return weft / ray if self.higher_is_better else ray / weft

    def is_met(self, weft: float) -> bool:
        """Tell whether Weft reaches the target."""
        return weft >= self.target if self.higher_is_better else weft <= self.target


@dataclass(frozen=True)
class Comparison:
    """Something that is made small, from many seeds: how good it gets, not how fast."""

    key: str
    """Also the name of the program, which returns a number for each seed."""
    what: str
    module: str
