"""What a machine must offer to be a table of the control service: made again from the journal.

A table has two sides. What is journaled comes through `apply`: commands, and the events of other
tables that they cause. It makes the state that `image` returns, the same each time. What is not
journaled comes through `note`: who was heard of, what is free. It changes nothing that `image`
returns; what follows from it for good, it proposes as a command.

A control service that starts reads the journal (`restore`, `apply`), then tells ServiceBegun to the
tables that note it: from there on there are nodes to listen to.

A command's type is named in `commands` under the name that the journal has for it, so that a class
may be renamed; a field that is added has a default.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

import msgspec

from weft._machines.rulings import Ruling


class Consequence(msgspec.Struct, frozen=True):
    """What a table makes of a command or an event."""

    answer: Ruling = Ruling()
    """Of an event it counts for nothing."""
    events: tuple[Any, ...] = ()


class Noted(msgspec.Struct, frozen=True):
    """What a table makes of what is not journaled."""

    events: tuple[Any, ...] = ()
    """Other tables note them, and the shell is told."""
    commands: tuple[Any, ...] = ()
    """To be journaled and applied."""


# ------------------------------------------------------------------ what tables tell each other


class MemberAdded(msgspec.Struct, frozen=True):
    """A node is a member, under a number that no node had before."""

    node: bytes
    incarnation: int


class MemberRemoved(msgspec.Struct, frozen=True):
    """A node is no member any more: it is dead, was told to go, or takes no orders."""

    node: bytes
    incarnation: int
    reason: str


class MemberDrains(msgspec.Struct, frozen=True):
    """A node is to be emptied."""

    node: bytes
    reason: str


class ServiceBegun(msgspec.Struct, frozen=True):
    """The journal was read. `number`: of this life of the service."""

    number: int


Commands: TypeAlias = Mapping[str, type[msgspec.Struct]]
"""By the name that the journal has for them."""
Kinds: TypeAlias = tuple[type[msgspec.Struct], ...]


class ControlTable(ABC):
    """A machine that is made again by its commands."""

    name: ClassVar[str]
    """Its place in the journal and its snapshots."""
    commands: ClassVar[Commands]
    """What it takes from the journal."""
    hears: ClassVar[Kinds] = ()
    """Events of other tables that `apply` wants to be given."""
    notes: ClassVar[Kinds] = ()
    """What `note` wants to be given: of the shell, and the events that other tables noted."""
    image_type: ClassVar[Any]
    """What `image` returns, for msgspec to decode."""

    @abstractmethod
    def apply(self, happened: Any, now: float) -> Consequence:
        """Take a command or an event. Deterministic; one that raises has changed nothing.

        `now` is in seconds, never goes back, and stands still while there is no control service.
        """

    def note(self, happened: Any, now: float) -> Noted:
        """Take what is not journaled."""
        raise NotImplementedError(f"{self.name} notes nothing, {type(happened).__name__} neither")

    def wake_at(self) -> float | None:
        """Return when `due` may have something; None: not before something else comes."""
        return None

    def due(self, now: float) -> Noted:
        """Return what time alone brings."""
        return Noted()

    @abstractmethod
    def image(self) -> Any:
        """Return the whole journaled state; it may change with the next call, so encode it."""

    @abstractmethod
    def restore(self, image: Any) -> None:
        """Take the state of an image in the place of the table's own."""

    @abstractmethod
    def check(self) -> None:
        """Assert what is always true."""
