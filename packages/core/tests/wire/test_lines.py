"""What daemons and control say about placement groups: its bytes, and what others make of them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from weft._wire import lines
from weft._wire.lines import LineMessage, OnLine, pack_line, unpack_line
from weft._wire.version import WIRE, agreed
from weft.exceptions import ProtocolError

GOLDEN = Path(__file__).parent / "golden"
GROUP = b"group"
SAID: list[OnLine] = [
    lines.HeldOnNode([(GROUP, 1, [0, 2], True)]),
    lines.SayReserved(GROUP, 2),
    lines.SayRefused(GROUP, 3, "it is full"),
    lines.SayCommitted(GROUP, 4),
    lines.AskGroup(b"client", 5, 1, b"spec"),
    lines.EndGroup(b"client", 6, 1, GROUP),
    lines.FollowGroup(GROUP),
    lines.CallControl(11, "Jobs", "begin", b"request"),
    lines.SayBeat(b"heartbeat"),
    lines.ReserveOrder(GROUP, 7, {0: {"CPU": 10_000}}, 2, 0.5, b"job", commits=True),
    lines.CommitOrder(GROUP, 8),
    lines.ReleaseOrder(GROUP, 9, "it was removed"),
    lines.GroupAnswered(10, "it exists"),
    lines.GroupChanged(GROUP, "ready", ""),
    lines.CallAnswered(11, b"answer", 5, "it is not there"),
    lines.BeatAnswered(b"answer"),
    lines.NotMember("it is no member"),
]
VERSIONS = [version for version in range(1, WIRE + 1) if agreed(WIRE, version) is not None]


def path_of(version: int) -> Path:
    return GOLDEN / f"lines{version}.hex"


def recorded(version: int) -> list[tuple[str, bytes]]:
    found = map(str.split, path_of(version).read_text().splitlines())
    return [(name, bytes.fromhex(text)) for name, text in found]


def test_every_message_has_a_sample_and_a_tag_of_its_own() -> None:
    assert {type(each) for each in SAID} == set(LineMessage.__subclasses__())
    tags = [type(each).__struct_config__.tag for each in SAID]
    assert len(set(tags)) == len(tags)


@pytest.mark.parametrize("sent", SAID, ids=lambda sent: type(sent).__name__)
def test_message_arrives_as_it_was_sent_and_with_more_fields_too(sent: OnLine) -> None:
    assert unpack_line(pack_line(sent)) == sent
    fields = msgspec.msgpack.decode(pack_line(sent))
    assert unpack_line(msgspec.msgpack.encode([*fields, "new"])) == sent


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(ProtocolError, match="cannot be read"):
        unpack_line(b"\x91\xcc\xff")


def test_bytes_of_every_message_are_those_recorded_for_this_version(rewrite: bool) -> None:
    made = [(type(each).__name__, pack_line(each)) for each in SAID]
    if rewrite:
        path_of(WIRE).write_text("".join(f"{name} {body.hex()}\n" for name, body in made))
    assert made == recorded(WIRE), "meant? then record it: pytest tests/wire --rewrite"


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_release_sends_with_which_this_one_speaks_is_understood(version: int) -> None:
    for name, body in recorded(version):
        assert type(unpack_line(body)).__name__ == name
