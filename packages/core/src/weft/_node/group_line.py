"""What a daemon asks control of placement groups, and hears of them, over its line.

    create, remove, follow -> AskGroup, EndGroup, FollowGroup
    answers, changes       <- GroupAnswered, GroupChanged

What is always true
1. Commands are said in order, again with each new connection, until they are answered; control
   knows them by their names.
2. Of a group that is followed, what is heard last is how it is, or is on its way.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from weft._ids import PlacementGroupId
from weft._wire.lines import AskGroup, EndGroup, FollowGroup, GroupAnswered, GroupChanged

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._node.control_link import ControlLink
    from weft._transport.control import messages

FOREVER = float("inf")
OVER = ("removed", "missing")


class _Asked(NamedTuple):
    name: messages.RequestId
    request: AskGroup | EndGroup
    then: Callable[[str], None]


class GroupLine:
    """One daemon's."""

    def __init__(self, link: ControlLink, changed: Callable[[GroupChanged], None]) -> None:
        """`changed`: told of each group that is followed, as it is and as it changes."""
        self._link = link
        self._changed = changed
        self._asked: dict[int, _Asked] = {}
        """Not answered yet, in order, by number."""
        self._followed: dict[PlacementGroupId, None] = {}
        self._after: deque[tuple[int, Callable[[], None]]] = deque()
        """(number, what is to be done): once that command and all before are answered."""
        link.keep(self)

    def create(self, group: PlacementGroupId, spec: bytes, then: Callable[[str], None]) -> None:
        """Have a group created, and follow it. `then` gets why it is not, or nothing.

        `spec`: a packed GroupSpec.
        """

        def created(refusal: str) -> None:
            if not refusal:
                self._followed[group] = None
            then(refusal)

        name = self._link.new_name()
        asked = AskGroup(name.client, name.number, name.done_below, spec)
        self._asked[name.number] = _Asked(name, asked, created)
        self._link.line.say(asked)

    def remove(self, group: PlacementGroupId) -> None:
        """Have a group removed; nobody waits for it."""
        name = self._link.new_name()
        asked = EndGroup(name.client, name.number, name.done_below, bytes(group))
        self._asked[name.number] = _Asked(name, asked, lambda refusal: None)
        self._link.line.say_soon(asked)

    def follow(self, group: PlacementGroupId) -> None:
        """Hear of a group until it is removed."""
        if group not in self._followed:
            self._followed[group] = None
            self._link.line.say(FollowGroup(bytes(group)))

    def fenced(self) -> None:
        """Who has asked here for a group is gone: it is asked for no more."""
        for number, asked in list(self._asked.items()):
            if isinstance(asked.request, AskGroup):
                del self._asked[number]
                self._link.has_answer(asked.name)
        self._go_on()

    def after(self, do: Callable[[], None]) -> None:
        """Do something when all commands until here have their answers."""
        if self._asked:
            self._after.append((next(reversed(self._asked)), do))
        else:
            do()

    # -------------------------------------------------------------- the line

    def began(self) -> None:
        """There is a connection: say all of which it is not known that it was heard."""
        for group in self._followed:
            self._link.line.say(FollowGroup(bytes(group)))
        for asked in self._asked.values():
            self._link.line.say(asked.request)

    def heard(self, said: GroupAnswered | GroupChanged) -> None:
        """Take what control says."""
        if isinstance(said, GroupAnswered):
            self._answered(said)
            return
        if said.state in OVER:
            self._followed.pop(PlacementGroupId(said.group), None)
        self._changed(said)

    def _answered(self, answer: GroupAnswered) -> None:
        asked = self._asked.pop(answer.number, None)
        if asked is not None:
            self._link.has_answer(asked.name)
            asked.then(answer.refusal)
        self._go_on()

    def _go_on(self) -> None:
        """Do what waited for answers that are there."""
        while self._after and self._after[0][0] < next(iter(self._asked), FOREVER):
            self._after.popleft()[1]()
