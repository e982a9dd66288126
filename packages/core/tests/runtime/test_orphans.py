"""Who hears that the segments of a process that is gone are nobody's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from weft._ids import IdSource
from weft._runtime.orphans import Orphans
from weft._wire.messages import Discard, Orphaned, Shared

CREATOR = bytes(range(16))
ADDRESS = f"n2:1/{CREATOR.hex()}"


class Desk:
    """One process, and what it sends."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []
        self.by_address: dict[str, Any] = {}
        value = Shared("needed", 200_000, ADDRESS)
        entry = SimpleNamespace(owner="", value=value)
        self.machine = SimpleNamespace(entries={IdSource().task_id(): entry})
        self.peers = self
        shells: Any = self
        self.orphans = Orphans(shells, shells)

    def send(self, peer: Any, message: Any) -> None:
        self.sent.append((peer.name, message))

    def daemon(self, name: str) -> Any:
        return SimpleNamespace(name=name, connection=SimpleNamespace(flush=lambda: None))


def test_daemon_that_asks_is_answered_also_if_it_is_another_nodes() -> None:
    desk = Desk()
    asked = Orphaned(CREATOR, ["needed", "left"])
    desk.orphans.on_orphaned(desk.daemon("own"), Orphaned(CREATOR, ["needed"]))
    desk.orphans.on_orphaned(desk.daemon("another"), asked)
    assert desk.sent == [("another", Discard(["left"]))]


def test_nobody_is_answered_before_all_that_the_creator_has_sent_is_read() -> None:
    desk = Desk()
    desk.by_address[ADDRESS] = object()
    desk.orphans.on_orphaned(desk.daemon("another"), Orphaned(CREATOR, ["left"]))
    assert desk.sent == []
    del desk.by_address[ADDRESS]
    desk.orphans.answer()
    assert desk.sent == [("another", Discard(["left"]))]
