"""Amounts of resources: whole numbers of 1/10,000, so that they add up exactly.

`Resources({"CPU": 0.1})` times ten is exactly one CPU. Zero amounts are not kept. Immutable and
hashable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Self

import msgspec

from weft._override import override

UNITS = 10_000
ACCELERATORS = ("GPU", "TPU", "neuron_cores", "HPU")
"""The amounts that devices are behind, as Ray calls them."""


class Resources(Mapping[str, int]):
    """Amounts by name, in 1/10,000."""

    __slots__ = ("_amounts", "_hash")

    def __init__(self, amounts: Mapping[str, float] | None = None) -> None:
        """Take amounts as users write them (1 is one CPU).

        ValueError: negative, not finite, or finer than 1/10,000.
        """
        units: dict[str, int] = {}
        for name, amount in (amounts or {}).items():
            scaled = amount * UNITS
            if not 0 <= scaled < float("inf"):
                raise ValueError(f"{name}={amount!r}: an amount is a finite number from 0 up")
            whole = round(scaled)
            # A float of the given digits may be off by a few of its own last ones.
            if abs(scaled - whole) > max(1e-6, scaled * 1e-15):
                raise ValueError(f"{name}={amount!r}: amounts are counted in steps of {1 / UNITS}")
            if whole:
                units[name] = whole
        self._amounts = units
        self._hash: int | None = None

    @classmethod
    def of_units(cls, units: Mapping[str, int]) -> Self:
        """Take amounts that are counted in 1/10,000 already."""
        made = cls.__new__(cls)
        made._amounts = {name: amount for name, amount in units.items() if amount}
        made._hash = None
        return made

    @override
    def __getitem__(self, name: str) -> int:
        return self._amounts[name]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._amounts)

    @override
    def __len__(self) -> int:
        return len(self._amounts)

    @override
    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(frozenset(self._amounts.items()))
        return self._hash

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Resources) and self._amounts == other._amounts

    def __add__(self, other: Resources) -> Resources:
        total = dict(self._amounts)
        for name, amount in other._amounts.items():
            total[name] = total.get(name, 0) + amount
        return Resources.of_units(total)

    def __sub__(self, other: Resources) -> Resources:
        """Subtract; amounts may become negative (a node that lent a blocked worker's CPU twice)."""
        rest = dict(self._amounts)
        for name, amount in other._amounts.items():
            rest[name] = rest.get(name, 0) - amount
        return Resources.of_units(rest)

    def fits(self, free: Resources) -> bool:
        """Tell whether `free` holds all of this."""
        available = free._amounts
        # A loop: this is what placement does most.
        for name, amount in self._amounts.items():  # noqa: SIM110
            if available.get(name, 0) < amount:
                return False
        return True

    def use(self, free: Resources) -> float:
        """Return the share of the scarcest of these that is not in `free`: 0 if there is none."""
        available, most = free._amounts, 0.0
        for name, amount in self._amounts.items():
            share = 1 - available.get(name, 0) / amount
            most = max(most, share)
        return most

    def shortfall(self, free: Resources) -> Resources:
        """Return what `free` lacks of this."""
        return Resources.of_units(
            {
                name: max(0, amount - max(0, free.get(name, 0)))
                for name, amount in self._amounts.items()
            }
        )

    def to_floats(self) -> dict[str, float]:
        """Return the amounts as users write them."""
        return {name: amount / UNITS for name, amount in self._amounts.items()}

    @override
    def __repr__(self) -> str:
        return (
            "{"
            + ", ".join(f"{name}: {amount / UNITS:g}" for name, amount in sorted(self.items()))
            + "}"
        )


class JobLimits(msgspec.Struct, frozen=True):
    """What a job may take."""

    quota: dict[str, int] = {}
    """The most of each resource at one time, in 1/10,000; what is not named is not limited."""
    weight: int = 1
    """Its share of a node where several jobs wait, beside theirs."""
    priority: int = 0
    """Demands of a higher one go first."""
