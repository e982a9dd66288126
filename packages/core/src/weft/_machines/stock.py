"""What is free of a node: amounts, and how much of each device behind them.

What is always true
1. A device is lent whole, or in fractions that do not exceed it.
2. Of CPU alone less than nothing may be free: who takes it says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft._resources import UNITS, Resources

if TYPE_CHECKING:
    from collections.abc import Iterable

NOTHING = Resources()


class Stock:
    """Amounts in 1/10,000, and units by device by name."""

    __slots__ = ("amounts", "devices")

    def __init__(self, amounts: Resources, devices: dict[str, dict[str, int]]) -> None:
        self.amounts = amounts
        self.devices = devices

    def copy(self) -> Stock:
        """Return one that can be changed by itself."""
        return Stock(self.amounts, {name: dict(free) for name, free in self.devices.items()})

    def fits(self, need: Resources, kept: Resources = NOTHING) -> bool:
        """Tell whether a need can be met with what is not kept.

        A kind of device of which some are kept is kept whole: which of them, is not known yet.
        """
        return need.fits(self.amounts - kept if kept else self.amounts) and all(
            self.devices_for(name, need.get(name, 0)) is not None
            and not (name in need and name in kept)
            for name in self.devices
        )

    def devices_for(self, name: str, amount: int) -> list[tuple[str, str, int]] | None:
        """Choose devices: whole ones, or the fullest that has the fraction. None: not free."""
        free = self.devices[name]
        if amount >= UNITS:
            whole = [device for device, units in free.items() if units == UNITS]
            wanted = amount // UNITS
            return [(name, d, UNITS) for d in whole[:wanted]] if len(whole) >= wanted else None
        if not amount:
            return []
        device = min(
            (device for device, units in free.items() if units >= amount),
            key=free.__getitem__,
            default=None,
        )
        return None if device is None else [(name, device, amount)]

    def take(self, amounts: Resources) -> list[tuple[str, str, int]]:
        """Take amounts that fit; return the devices among them: (name, device, units)."""
        devices = [
            device
            for name in self.devices
            for device in self.devices_for(name, amounts.get(name, 0)) or ()
        ]
        self.amounts -= amounts
        for name, device, units in devices:
            self.devices[name][device] -= units
        return devices

    def give(self, amounts: Resources, devices: Iterable[tuple[str, str, int]]) -> None:
        """Put back amounts and the devices among them."""
        self.amounts += amounts
        for name, device, units in devices:
            self.devices[name][device] += units
