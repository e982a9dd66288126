"""What a program and its deputy say: its bytes, and what another release makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from weft._wire import remote
from weft._wire.codec import pack_legibly, unpack
from weft._wire.messages import BeginsJob, Held
from weft._wire.version import WIRE, agreed

if TYPE_CHECKING:
    from collections.abc import Iterable

GOLDEN = Path(__file__).parent / "golden"
ARGUMENTS = remote.SentArguments(b"data", [b"dep"], [b"inner"])
ORDERS = [
    remote.Begins(1, BeginsJob("env", "program.py", {"a": "b"}), ["numpy"]),
    remote.Exports(b"function", "name", b"code"),
    remote.Submits(2, b"task", b"function", b"spec", "file:1", 1, ARGUMENTS),
    remote.Creates(3, b"function", b"spec", ARGUMENTS),
    remote.Invokes(4, b"task", b"spec", 1, ARGUMENTS),
    remote.Puts(5, b"object", b"data", [b"inner"], "file:2"),
    remote.Follows(6, [b"object"]),
    remote.Loads(7, b"object"),
    remote.Nexts(8, b"task"),
    remote.Cancels(9, b"object", is_stream=True, force=True, recursive=True),
    remote.Kills(10, b"actor", no_restart=True),
    remote.Frees(11, [b"object"]),
    remote.Adopts(b"object", "owner", b"inside"),
    remote.Releases([(b"object", 12)], [b"task"]),
    remote.Inquires(13, "what", b"arguments"),
    remote.Explains(14, b"subject", "object"),
    remote.Leaves(15),
    remote.Brings(16, "env"),
    remote.Gives(17, b"parts", "error"),
]
NEWS = [
    remote.Replied(1, b"body", b"error", [Held(b"object", "owner")]),
    remote.IsThere(b"object", b"data", is_error=True),
    remote.Shows(b"worker", 2, "label", is_stderr=True, data=b"data", node="node"),
    remote.Needs(3, b"wishes"),
]
VERSIONS = [version for version in range(1, WIRE + 1) if agreed(WIRE, version) is not None]


def path_of(version: int) -> Path:
    return GOLDEN / f"remote{version}.hex"


def lines(path: Path) -> list[tuple[str, bytes]]:
    return [
        (name, bytes.fromhex(text)) for name, text in map(str.split, path.read_text().splitlines())
    ]


def kind_of(record: object) -> Any:
    return remote.ANY_ORDER if isinstance(record, remote.Order) else remote.ANY_NEWS


def test_every_record_has_a_sample() -> None:
    assert {type(each) for each in ORDERS} == set(remote.Order.__subclasses__())
    assert {type(each) for each in NEWS} == set(remote.News.__subclasses__())


@pytest.mark.parametrize("records", [ORDERS, NEWS])
def test_every_tag_stands_for_one_record(records: Iterable[Any]) -> None:
    tags = [type(each).__struct_config__.tag for each in records]
    assert len(set(tags)) == len(tags)


@pytest.mark.parametrize("sent", [*ORDERS, *NEWS], ids=lambda sent: type(sent).__name__)
def test_record_arrives_as_it_was_sent_and_with_more_fields_too(sent: Any) -> None:
    assert unpack(pack_legibly(sent), kind_of(sent)) == sent
    fields = msgspec.msgpack.decode(pack_legibly(sent))
    assert unpack(msgspec.msgpack.encode([*fields, "new"]), kind_of(sent)) == sent


def test_text_that_is_no_text_arrives_legibly() -> None:
    sent = remote.Brings(1, "of a file \udcff")
    assert unpack(pack_legibly(sent), remote.ANY_ORDER).env == r"of a file \udcff"


def test_bytes_of_every_record_are_those_recorded_for_this_version(rewrite: bool) -> None:
    made = [(type(each).__name__, pack_legibly(each)) for each in [*ORDERS, *NEWS]]
    if rewrite:
        path_of(WIRE).write_text("".join(f"{name} {body.hex()}\n" for name, body in made))
    assert made == lines(path_of(WIRE)), "meant? then record it: pytest tests/wire --rewrite"


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_release_sends_with_which_this_one_speaks_is_understood(version: int) -> None:
    samples = {type(each).__name__: each for each in [*ORDERS, *NEWS]}
    for name, body in lines(path_of(version)):
        assert type(unpack(body, kind_of(samples[name]))).__name__ == name
