"""What one kind of accelerator is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


class HostFiles(NamedTuple):
    """Where kinds look: the files that the kernel offers, and this process's variables."""

    root: Path
    variables: Mapping[str, str]

    def paths(self, pattern: str) -> list[Path]:
        """Return what is there, in the order of the numbers in the names."""
        return sorted(self.root.glob(pattern), key=lambda path: (len(path.name), path.name))

    def read(self, path: str | Path) -> str:
        """Return a file's text, without white space around it; empty if it cannot be read."""
        try:
            return (self.root / path).read_text().strip()
        except OSError:
            return ""

    def pci(self, vendor: str) -> Iterator[tuple[str, str, str]]:
        """Yield (address, class, device) of the devices on PCI that a vendor has made."""
        for place in self.paths("sys/bus/pci/devices/*"):
            if self.read(place / "vendor") == vendor:
                yield place.name, self.read(place / "class"), self.read(place / "device")

    def list_in(self, name: str) -> list[str] | None:
        """Return what a variable lists; None: it is not set."""
        raw = self.variables.get(name)
        return None if raw is None else [each.strip() for each in raw.split(",") if each.strip()]


class Devices(NamedTuple):
    """What is there of one kind."""

    ids: list[str]
    """As its libraries call them."""
    type_name: str = ""
    """What stands behind `accelerator_type:`; empty if it is not known."""


class Accelerator(Protocol):
    """One kind of device: how it is found, and how a process is made to see its own only."""

    @property
    def resource(self) -> str:
        """The amount that its devices are behind: GPU, TPU ..."""
        ...

    def found(self, host: HostFiles) -> Devices:
        """Return the devices that are there."""
        ...

    def named(self, host: HostFiles) -> list[str] | None:
        """Return the ids that the user's variable allows; None: it does not say."""
        ...

    def variables(self, ids: Sequence[str], of: int) -> dict[str, str]:
        """Return the variables of a process that sees these of the node's `of` devices only."""
        ...
