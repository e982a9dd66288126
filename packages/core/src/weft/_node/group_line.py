"""What a daemon asks control of placement groups, and hears of them: all of it on one stream.

    create, remove, follow -> requests, as many in a message as wait -> PlacementGroups.Follow
    answers, changes       <- as many in a message as there are      <-

A message on a stream costs a fraction of a call, and what is asked at one time is journaled and
done at one time.

What is always true
1. Commands are said in order, again with each new stream, until they are answered; control knows
   them by their names.
2. Of a group that is followed, what is heard last is how it is, or is on its way.
"""

from __future__ import annotations

import contextlib
import queue
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from weft._ids import PlacementGroupId
from weft._transport.control import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from weft._node.control_link import ControlLink

FOREVER = float("inf")
SOON_S = 0.002
Said: TypeAlias = "queue.SimpleQueue[messages.GroupRequest | None]"


class _Asked(NamedTuple):
    name: messages.RequestId
    request: messages.GroupRequest
    then: Callable[[str], None]


class GroupLine:
    """One daemon's. Its methods are for the daemon's loop."""

    def __init__(self, link: ControlLink, changed: Callable[[messages.GroupChange], None]) -> None:
        """`changed`: told of each group that is followed, as it is and as it changes."""
        self._link = link
        self._changed = changed
        self._asked: dict[int, _Asked] = {}
        """Not answered yet, in order, by number."""
        self._followed: dict[PlacementGroupId, None] = {}
        self._after: deque[tuple[int, Callable[[], None]]] = deque()
        """(number, what is to be done): once that command and all before are answered."""
        self._said: Said | None = None
        """Who takes requests; None: there is no stream."""
        self._is_kept = False

    def create(self, request: messages.CreateGroupRequest, then: Callable[[str], None]) -> None:
        """Have a group created, and follow it. `then` gets why it is not, or nothing."""
        group = PlacementGroupId(request.group_id)

        def created(refusal: str) -> None:
            if not refusal:
                self._followed[group] = None
            then(refusal)

        asked = messages.GroupRequest(create=request)
        self._ask(asked.create.header, asked, created)

    def remove(self, group: PlacementGroupId) -> None:
        """Have a group removed."""
        request = messages.RemoveGroupRequest(header=messages.Header(), group_id=group)
        asked = messages.GroupRequest(remove=request)
        self._ask(asked.remove.header, asked, lambda refusal: None)

    def follow(self, group: PlacementGroupId) -> None:
        """Hear of a group until it is removed."""
        if group not in self._followed:
            self._followed[group] = None
            self._say(messages.GroupRequest(follow=group))

    def after(self, do: Callable[[], None]) -> None:
        """Do something when all commands until here have their answers."""
        if self._asked:
            self._after.append((next(reversed(self._asked)), do))
        else:
            do()

    def _ask(
        self,
        header: messages.Header,
        request: messages.GroupRequest,
        then: Callable[[str], None],
    ) -> None:
        name = self._link.new_name()
        header.id.CopyFrom(name)
        self._asked[name.number] = _Asked(name, request, then)
        self._say(request)

    def _say(self, request: messages.GroupRequest) -> None:
        if self._said is not None:
            self._said.put(request)
        elif not self._is_kept:
            self._is_kept = True
            self._link.keep(self)

    # -------------------------------------------------------------- the stream

    def began(self, said: Said) -> None:
        """There is a stream: say all of which it is not known that it was heard."""
        self._said = said
        for group in self._followed:
            said.put(messages.GroupRequest(follow=group))
        for asked in self._asked.values():
            said.put(asked.request)

    def ended(self) -> None:
        """There is no stream any more."""
        self._said = None

    def heard(self, news: messages.GroupNews) -> None:
        """Take what control says."""
        for answer in news.answers:
            asked = self._asked.pop(answer.number, None)
            if asked is not None:
                self._link.has_answer(asked.name)
                asked.then(answer.refusal)
        while self._after and self._after[0][0] < next(iter(self._asked), FOREVER):
            self._after.popleft()[1]()
        for change in news.changes:
            if change.state in (messages.GROUP_REMOVED, messages.GROUP_STATE_UNSPECIFIED):
                self._followed.pop(PlacementGroupId(change.group_id), None)
            self._changed(change)


def together(said: Said) -> Iterator[messages.GroupRequests]:
    """Yield what is said until None is, as many in a message as wait. gRPC takes it in a thread.

    Nobody waits for a removal: it goes with what comes next, if that comes soon.
    """
    waiting: list[messages.GroupRequest | None] = []
    while None not in waiting:
        waiting = [said.get()]
        with contextlib.suppress(queue.Empty):
            while None not in waiting:
                waiting.append(said.get(timeout=0.0 if any(map(_is_urgent, waiting)) else SOON_S))
        requests = [request for request in waiting if request is not None]
        if requests:
            yield messages.GroupRequests(requests=requests)


def _is_urgent(request: messages.GroupRequest | None) -> bool:
    return request is None or not request.HasField("remove")
