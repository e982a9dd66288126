"""What happened in a world, to be read when something was wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from weft._wire.lines import unpack_line
from weft._wire.messages import ControlTalk, Transfer
from weft._wire.transfers import unpack_transfer
from weft.testing._simulation.letters import BeatHeard, Heartbeat

if TYPE_CHECKING:
    from weft.testing._simulation.world import VirtualProcess, World

LINES = 40
ID_BYTES = 16
TEXT = 160


class Story:
    """Every message that arrived, every process that ended, and what else is worth a line."""

    def __init__(self, world: World, *, is_kept: bool) -> None:
        self._is_kept = is_kept
        self._world = world
        self._lines: list[tuple[float, str, str, str, Any]] = []
        self._name_of: dict[bytes, str] = {}

    def call(self, thing: bytes, name: str) -> None:
        """Give an id a name that can be read."""
        self._name_of[thing] = name

    def name_of(self, thing: bytes) -> str:
        """Return the name of an id."""
        return self._name_of[thing]

    def add(
        self, process: VirtualProcess, verb: str, other: VirtualProcess | None, what: Any
    ) -> None:
        """Note what a process does."""
        if not self._is_kept:
            return
        to = other.name if other is not None else ""
        self._lines.append((self._world.now, process.name, verb, to, what))

    def tell(self, *about: str, lines: int = LINES) -> str:
        """Return the last lines that name one of these, or the last of all."""
        texts = []
        for at, who, verb, to, what in reversed(self._lines):
            if isinstance(what, BeatHeard):
                continue
            if isinstance(what, Heartbeat) and not what.delta:
                continue  # There are too many, and they say nothing.
            text = f"{at:9.4f}  {who} {verb} {to + ': ' if to else ''}{self._brief(what)}"
            if not about or any(name in text for name in about):
                texts.append(text)
                if len(texts) == lines:
                    break
        return "\n".join(reversed(texts))

    def _brief(self, what: Any) -> str:
        if isinstance(what, Transfer):
            what = unpack_transfer(what.body)
        elif isinstance(what, ControlTalk):
            what = unpack_line(what.body)
        if isinstance(what, msgspec.Struct):
            fields = []
            for name in what.__struct_fields__:
                value = getattr(what, name)
                if (value or name == "workers") and name != "pid":
                    fields.append(f"{name}={self._brief(value)}")
            return f"{type(what).__name__}({', '.join(fields)})"[:TEXT]
        if isinstance(what, bytes):
            return self._name_of.get(what) or (what.hex()[-6:] if len(what) == ID_BYTES else "...")
        if isinstance(what, (list, tuple)):
            return f"[{', '.join(map(self._brief, what))}]"
        if isinstance(what, dict):
            parts = (f"{self._brief(k)}: {self._brief(v)}" for k, v in what.items())
            return "{" + ", ".join(parts) + "}"
        return str(what)
