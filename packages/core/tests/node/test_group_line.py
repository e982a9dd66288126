"""What a daemon says of placement groups on one stream; test_links.py has it with real services."""

from __future__ import annotations

import queue

from weft._node.group_line import Said, together
from weft._transport.control import messages

GROUP = b"g" * 16
REMOVE = messages.GroupRequest(remove=messages.RemoveGroupRequest(group_id=GROUP))
CREATE = messages.GroupRequest(create=messages.CreateGroupRequest(group_id=GROUP))
FOLLOW = messages.GroupRequest(follow=GROUP)


def said(*requests: messages.GroupRequest | None) -> list[list[messages.GroupRequest]]:
    waiting: Said = queue.SimpleQueue()
    for request in requests:
        waiting.put(request)
    return [list(each.requests) for each in together(waiting)]


def test_what_waits_is_said_in_one_message_and_in_order() -> None:
    assert said(CREATE, FOLLOW, REMOVE, None) == [[CREATE, FOLLOW, REMOVE]]
    assert said(REMOVE, CREATE, None) == [[REMOVE, CREATE]]
    assert said(None) == []


def test_removal_is_said_though_nothing_comes_with_it() -> None:
    waiting: Said = queue.SimpleQueue()
    waiting.put(REMOVE)
    messages_said = together(waiting)
    assert list(next(messages_said).requests) == [REMOVE]
    waiting.put(None)
    assert list(messages_said) == []
