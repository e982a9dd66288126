"""The bundles of a node that tasks may go into: small nodes inside the node.

What an open bundle has stands in the node's stock under names of its own, so that one queue serves
all demands, and a demand in a bundle is one for other names:

    CPU                        of the node
    <group> <index> CPU        of a bundle; the parts are joined by NUL, which no user's name has
    <group> <index>            entries: whatever runs in a bundle takes one, so nothing runs in a
                               bundle that is not there

The names are Ray's idea, as its documentation of placement groups tells it.

What is always true
1. A bundle's names are in the stock while it is open; what runs in one that is closed gives nothing
   back to the stock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from weft._ids import PlacementGroupId
from weft._machines.placement import ANY, BundleView
from weft._resources import Resources

if TYPE_CHECKING:
    from collections.abc import Iterable

    from weft._machines.stock import Stock

SEPARATOR = "\0"
# More than leases fit into a node.
ENTRIES = 1 << 40


class BundleKey(msgspec.Struct, frozen=True):
    """Which bundle, and which reservation it comes from."""

    group: PlacementGroupId
    attempt: int
    index: int

    @property
    def client(self) -> bytes:
        """Who wants its amounts, as the queue of leases sees it."""
        return self.group + self.attempt.to_bytes(8, "big") + self.index.to_bytes(4, "big")


def own_name(group: PlacementGroupId, index: int, name: str) -> str:
    """Return the name of a bundle's own amount."""
    return f"{group.hex()}{SEPARATOR}{index}{SEPARATOR}{name}"


def plain_name(name: str) -> str:
    """Return the name that users know; empty for entries."""
    return name.rpartition(SEPARATOR)[2]


def is_own(name: str) -> bool:
    """Tell whether a name is that of a bundle's amount."""
    return SEPARATOR in name


def entry_to(group: PlacementGroupId, index: int, amounts: Resources) -> Resources:
    """Return what something takes that runs in a bundle."""
    own = {own_name(group, index, name): units for name, units in amounts.items()}
    return Resources.of_units({own_name(group, index, ""): 1, **own})


class BundleRoom:
    """One of them."""

    __slots__ = ("amounts", "devices", "is_closed", "key", "leases", "size")

    def __init__(
        self, key: BundleKey, size: int, amounts: Resources, devices: list[tuple[str, str, int]]
    ) -> None:
        self.key = key
        self.size = size
        """How many bundles its group has."""
        self.amounts = amounts
        self.devices = devices
        """(name, device, units), of the node."""
        self.leases: set[int] = set()
        self.is_closed = False
        """It lets nobody in any more."""

    def name(self, plain: str) -> str:
        """Return its own name of an amount."""
        return own_name(self.key.group, self.key.index, plain)

    def own_amounts(self) -> Resources:
        """Return all that it brings to the stock."""
        own = {self.name(name): units for name, units in self.amounts.items()}
        return Resources.of_units({self.name(""): ENTRIES, **own})

    def free(self, stock: Stock) -> Resources:
        """Return what nothing takes of it, under the names that users know."""
        return Resources.of_units(
            {name: stock.amounts.get(self.name(name), 0) for name in self.amounts}
        )


class OpenBundles:
    """Those of one node."""

    def __init__(self, stock: Stock) -> None:
        self._stock = stock
        self._at: dict[BundleKey, BundleRoom] = {}
        self._of_group: dict[PlacementGroupId, dict[int, BundleRoom]] = {}
        """Those that let somebody in, by index."""

    def open(
        self, key: BundleKey, size: int, amounts: Resources, devices: list[tuple[str, str, int]]
    ) -> None:
        """Let in who has an entry; what the bundle has was taken from the node before."""
        bundle = self._at[key] = BundleRoom(key, size, amounts, devices)
        self._of_group.setdefault(key.group, {})[key.index] = bundle
        self._stock.amounts += bundle.own_amounts()
        for name, device, units in devices:
            self._stock.devices.setdefault(bundle.name(name), {})[device] = units

    def close(self, key: BundleKey) -> BundleRoom | None:
        """Let nobody in any more. Return the bundle, if there is one."""
        bundle = self._at.get(key)
        if bundle is not None and not bundle.is_closed:
            bundle.is_closed = True
            self._withdraw(bundle)
            group = self._of_group[key.group]
            del group[key.index]
            if not group:
                del self._of_group[key.group]
        return bundle

    def forget_if_over(self, bundle: BundleRoom) -> bool:
        """Forget a bundle that is closed and empty; return whether it was there, and was that."""
        if not bundle.is_closed or bundle.leases or bundle.key not in self._at:
            return False
        del self._at[bundle.key]
        return True

    def _withdraw(self, bundle: BundleRoom) -> None:
        own = bundle.own_amounts()
        left = {name: units for name, units in self._stock.amounts.items() if name not in own}
        self._stock.amounts = Resources.of_units(left)
        for name, _, _ in bundle.devices:
            self._stock.devices.pop(bundle.name(name), None)

    def at(self, group: PlacementGroupId, index: int) -> BundleRoom | None:
        """Return an open bundle."""
        return self._of_group.get(group, {}).get(index)

    def choose(self, group: PlacementGroupId, need: Resources) -> int:
        """Return the bundle of a group that is best for a need.

        Of those that have it free the fullest; else the first that could have it; ANY: none could.
        """
        able = [
            bundle for bundle in self._of_group.get(group, {}).values() if need.fits(bundle.amounts)
        ]
        fit = [b for b in able if self._stock.fits(entry_to(group, b.key.index, need))]
        if fit:
            return max(
                fit, key=lambda b: (b.amounts.use(b.free(self._stock)), -b.key.index)
            ).key.index
        return min((bundle.key.index for bundle in able), default=ANY)

    def views(self) -> dict[PlacementGroupId, dict[int, BundleView]]:
        """Return the open bundles as placement sees them, by group and index."""
        return {group: self.views_of(group) for group in self._of_group}

    def views_of(self, group: PlacementGroupId) -> dict[int, BundleView]:
        """Return those of one group."""
        return {
            index: BundleView(b.amounts, b.free(self._stock), b.size, b.key.attempt)
            for index, b in self._of_group.get(group, {}).items()
        }

    def free_in(self, key: BundleKey) -> Resources:
        """Return what nothing takes of a bundle that is there."""
        return self._at[key].free(self._stock)

    def all(self) -> Iterable[BundleRoom]:
        """Return those that are open, and those that are closed and not empty."""
        return self._at.values()
