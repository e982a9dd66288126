"""A daemon's line to control, with a stand-in for control in the same loop."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from weft._ids import PlacementGroupId
from weft._machines.bundles import HeldBundles
from weft._node.control_line import MOST_PAUSE_S, SOON_S, ControlLine
from weft._transport.credentials import Credentials
from weft._transport.sockets import Poller, SocketConnection, SocketListener
from weft._transport.timers import Timers
from weft._wire.lines import (
    CommitOrder,
    ControlSays,
    EndGroup,
    FollowGroup,
    HeldOnNode,
    pack_line,
    unpack_line,
)
from weft._wire.messages import ControlTalk, Hello, Quit
from weft._wire.version import WIRE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from weft._wire.messages import Message

GROUP = PlacementGroupId(b"g" * 16)
END = EndGroup(b"client", 1, 1, bytes(GROUP))
FOLLOW = FollowGroup(bytes(GROUP))
ORDER = CommitOrder(bytes(GROUP), 1)
WAIT_S = 20.0


class Loop:
    """A node's end, and whoever it may call."""

    def __init__(self, folder: Path) -> None:
        self.poller, self.timers = Poller(), Timers()
        self.folder = folder
        self.listener: SocketListener | None = None
        self.callers: list[SocketConnection] = []
        self.heard: list[Any] = []
        self.told: list[Any] = []
        """What the node was told, and what has become of its line."""
        self.places = [str(folder / "control")]
        self.line = ControlLine(
            self.poller,
            self.timers,
            Credentials(b"t" * 16, b""),
            self,
            me=Hello(WIRE, b"n" * 16, "address", 1, "daemon"),
            places=lambda: self.places,
        )

    def held(self) -> list[HeldBundles]:
        return [HeldBundles(GROUP, 1, (0,), is_committed=True)]

    def line_began(self) -> None:
        self.told.append("began")

    def line_heard(self, said: ControlSays, control: int) -> None:
        self.told.append((said, control))

    def line_ended(self) -> None:
        self.told.append("ended")

    def listen(self) -> None:
        self.listener = SocketListener(self.poller, self.folder / "groups", self.accept)

    def accept(self, sock: Any) -> None:
        caller = SocketConnection(self.poller, sock, self.receive, lambda *_: None)
        self.callers.append(caller)

    def receive(self, connection: object, messages: Any) -> None:
        for each in messages:
            self.heard.append(unpack_line(each.body) if isinstance(each, ControlTalk) else each)

    def answer(self, *messages: Message) -> None:
        for message in messages:
            self.callers[-1].queue(message)
        self.callers[-1].flush()

    def until(self, condition: Callable[[], Any]) -> None:
        by = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < by, (self.heard, self.told)
            self.poller.poll(self.timers.sleep_s(by))
            self.timers.ring()
            self.line.flush()

    def link(self, number: int = 7) -> None:
        """Have a line, and hear all that it begins with."""
        calls = len(self.callers) + 1
        self.until(lambda: len(self.callers) == calls)
        self.until(lambda: len(self.heard) == 2)
        self.heard.clear()
        self.answer(hello(number))

    def close(self) -> None:
        self.line.close()
        for caller in self.callers:
            caller.close()
        if self.listener is not None:
            self.listener.close()
        self.poller.close()


def hello(number: int) -> Hello:
    return Hello(WIRE, b"", "", 1, "control", number)


def talk(said: Any) -> ControlTalk:
    return ControlTalk(pack_line(said))


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    made = Loop(tmp_path)
    yield made
    made.close()


def test_line_begins_with_what_is_held_and_carries_what_is_said(loop: Loop) -> None:
    loop.listen()
    loop.line.say(FOLLOW)  # There is no line: it is lost.
    loop.line.begin(3)
    loop.line.begin(3)
    loop.until(lambda: len(loop.heard) == 2)
    assert loop.heard[0].incarnation == 3
    assert loop.heard[1] == HeldOnNode([(bytes(GROUP), 1, [0], True)])
    loop.line.say(FOLLOW)
    loop.answer(hello(7), talk(ORDER))
    loop.until(lambda: loop.heard[2:] == [FOLLOW] and len(loop.told) == 2)
    assert loop.told == ["began", (ORDER, 7)]
    loop.line.end()
    assert loop.told[2:] == ["ended"]
    loop.line.end()
    loop.line.close()
    assert loop.told[2:] == ["ended"]


def test_what_nobody_waits_for_goes_with_what_follows_or_a_little_later(loop: Loop) -> None:
    loop.listen()
    loop.line.begin(1)
    loop.link()
    began_at = time.monotonic()
    loop.line.say_soon(END)
    loop.line.say_soon(END)
    loop.line.flush()
    loop.until(lambda: loop.heard == [END, END])
    assert time.monotonic() - began_at >= SOON_S
    loop.line.say_soon(END)
    loop.line.say(FOLLOW)
    loop.line.flush()
    loop.until(lambda: loop.heard[2:] == [END, FOLLOW])


def test_line_that_breaks_is_made_again_and_after_its_end_no_more(loop: Loop) -> None:
    loop.listen()
    loop.line.begin(1)
    loop.link()
    loop.callers[-1].close()
    loop.link()
    assert loop.told == ["began", "ended", "began"]
    loop.callers[-1].close()
    loop.until(lambda: loop.told[3:] == ["ended"])
    loop.line.end()
    loop.timers.tick(time.monotonic() + MOST_PAUSE_S)
    assert len(loop.callers) == 2


def test_control_is_looked_for_in_each_place_until_it_is_somewhere(loop: Loop) -> None:
    loop.places = ["nowhere:1", "127.0.0.1:1", *loop.places]
    loop.line.begin(1)
    loop.listen()
    loop.link()
    loop.callers[-1].close()
    loop.link()  # At the first try: it is known where it was.
    assert loop.told[-2:] == ["ended", "began"]


@pytest.mark.parametrize(
    "said",
    [[hello(6)], [hello(7), Quit(graceful=True)], [hello(7), talk(FOLLOW)], [Quit(graceful=True)]],
)
def test_who_speaks_for_an_older_control_or_nonsense_is_left_and_another_called(
    loop: Loop, said: list[Message], capsys: pytest.CaptureFixture[str]
) -> None:
    loop.listen()
    loop.line.begin(1)
    loop.link(7)
    loop.callers[-1].close()
    calls = len(loop.callers) + 1
    loop.until(lambda: len(loop.callers) == calls)
    loop.heard.clear()
    loop.answer(*said, talk(ORDER))
    loop.until(lambda: len(loop.callers) == calls + 1)
    assert (ORDER, 7) not in loop.told
    assert "the line to control was closed" in capsys.readouterr().err


def test_line_that_is_not_believed_in_any_more_is_made_anew(loop: Loop) -> None:
    loop.line.begin_anew()  # There is none.
    loop.listen()
    loop.line.begin(1)
    loop.link()
    loop.until(lambda: loop.line._control)
    loop.line.begin_anew()
    assert loop.told == ["began", "ended"]
    loop.link(8)
    assert loop.told == ["began", "ended", "began"]
    loop.line.say(END)
    loop.until(lambda: loop.heard == [END])
