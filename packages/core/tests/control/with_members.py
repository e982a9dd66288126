"""A control service with a table of members that is as small as can be, as another part of Weft
would bring one: `python with_members.py` in place of `python -m weft._control`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from weft._control.calls.desk import an_id
from weft._control.concerns import Concern, concerns
from weft._control.main import serve
from weft._machines.rulings import Ruling
from weft._machines.tables import Commands, Consequence, ControlTable, MemberAdded, MemberRemoved
from weft._override import override
from weft._transport.control import messages

if TYPE_CHECKING:
    from weft._control.calls.desk import Desk


class Enter(msgspec.Struct, frozen=True):
    node: bytes


class Leave(msgspec.Struct, frozen=True):
    node: bytes
    reason: str


class SmallMembers(ControlTable):
    name: ClassVar[str] = "members"
    commands: ClassVar[Commands] = {"enter": Enter, "leave": Leave}
    image_type: ClassVar[Any] = list[bytes]

    def __init__(self) -> None:
        self.nodes: list[bytes] = []
        """By incarnation, from 1 on."""

    @override
    def apply(self, happened: Any, now: float) -> Consequence:
        if isinstance(happened, Enter):
            self.nodes.append(happened.node)
            number = len(self.nodes)
            return Consequence(Ruling(number), (MemberAdded(happened.node, number),))
        number = self.nodes.index(happened.node) + 1
        return Consequence(events=(MemberRemoved(happened.node, number, happened.reason),))

    @override
    def image(self) -> list[bytes]:
        return self.nodes

    @override
    def restore(self, image: list[bytes]) -> None:
        self.nodes = image

    @override
    def check(self) -> None:
        assert all(self.nodes)


class MemberCalls:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    async def register(self, request: messages.RegisterRequest, _: Any) -> messages.RegisterAnswer:
        command = Enter(an_id(request.node.node_id, "node"))
        number = await self.desk.do(command, messages.Header(id=request.id))
        return messages.RegisterAnswer(incarnation=int(number))

    async def drain(self, request: messages.DrainRequest, _: Any) -> messages.Done:
        command = Leave(an_id(request.node_id, "node"), request.message)
        await self.desk.do(command, request.header)
        return messages.Done()


class MembersConcern(Concern):
    def __init__(self) -> None:
        self.tables = (SmallMembers(),)

    @override
    def calls(self, desk: Desk) -> dict[str, object]:
        return {"Members": MemberCalls(desk)}


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), "", [*concerns(), MembersConcern()], 0.0, -1))
