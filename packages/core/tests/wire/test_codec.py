from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft._ids import ActorId, UniqueId
from weft._specs import ActorMeta
from weft._wire import codec, messages
from weft._wire.codec import decode, encode, encode_all, unpack
from weft._wire.frame import HEADER_BYTES, FrameReader
from weft._wire.messages import Export, Held, Hello, Inline, Message, Recycle, Run, Taken
from weft._wire.version import WIRE, agreed
from weft.exceptions import ProtocolError

inspect = msgspec.inspect
GOLDEN = Path(__file__).parent / "golden"
KINDS: list[type[Message]] = sorted(
    messages.ANY.__args__, key=lambda kind: kind.__struct_config__.tag
)
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def body_of(*sent: Any) -> bytes:
    return bytes(encode(list(sent))[HEADER_BYTES:])


# ------------------------------------------------------------------ values by type


class Sampler:
    """Makes one value of any type that a message may hold: always the same, no two fields alike."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)

    def sample(self, kind: inspect.Type, name: str) -> Any:
        match kind:
            case inspect.IntType():
                return next(self.numbers)
            case inspect.FloatType():
                return next(self.numbers) + 0.5
            case inspect.BoolType():
                return True
            case inspect.StrType():
                return f"{name} {next(self.numbers)}"
            case inspect.BytesType():
                return next(self.numbers).to_bytes(2, "big")
            case inspect.AnyType():
                return {"any": [next(self.numbers), None]}
            case inspect.CustomType(cls=cls) if issubclass(cls, UniqueId):
                return cls(next(self.numbers).to_bytes(16, "big"))
            case inspect.ListType(item_type=item):
                return [self.sample(item, name), self.sample(item, name)]
            case inspect.VarTupleType(item_type=item):
                return (self.sample(item, name), self.sample(item, name))
            case inspect.TupleType(item_types=items):
                return tuple(self.sample(item, name) for item in items)
            case inspect.DictType(key_type=key, value_type=value):
                return {self.sample(key, name): self.sample(value, name)}
            case inspect.UnionType(types=types):
                return self.sample(next(t for t in types if t != inspect.NoneType()), name)
            case inspect.StructType(cls=cls, fields=fields):
                return cls(**{f.name: self.sample(f.type, f.name) for f in fields})
        raise NotImplementedError(kind)


def sample(kind: type[Any]) -> Any:
    made: Message = Sampler().sample(inspect.type_info(kind), "")
    return made


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def values(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """Return any value of a type that a message may hold."""
    match kind:
        case inspect.IntType():
            return st.integers(-(2**63), 2**64 - 1)
        case inspect.FloatType():
            return st.floats(allow_nan=False)
        case inspect.BoolType():
            return st.booleans()
        case inspect.StrType():
            return st.text()
        case inspect.BytesType():
            return st.binary()
        case inspect.NoneType():
            return st.none()
        case inspect.AnyType():
            return ANYTHING
        case inspect.CustomType(cls=cls) if issubclass(cls, UniqueId):
            return st.binary(min_size=16, max_size=16).map(cls)
        case inspect.ListType(item_type=item):
            return st.lists(values(item), max_size=3)
        case inspect.VarTupleType(item_type=item):
            return st.lists(values(item), max_size=3).map(tuple)
        case inspect.TupleType(item_types=items):
            return st.tuples(*map(values, items))
        case inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(values(key), values(value), max_size=3)
        case inspect.UnionType(types=types):
            return st.one_of(*map(values, types))
        case inspect.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{f.name: values(f.type) for f in fields})
    raise NotImplementedError(kind)


# ------------------------------------------------------------------ there and back


@every_kind
@settings(max_examples=20)
@given(data=st.data())
def test_message_arrives_as_it_was_sent(kind: type[Message], data: st.DataObject) -> None:
    sent = data.draw(values(inspect.type_info(kind)))
    assert decode(body_of(sent)) == [sent]


@given(st.lists(st.sampled_from([sample(kind) for kind in KINDS])))
def test_messages_of_a_batch_arrive_in_order(batch: list[Message]) -> None:
    (body,) = FrameReader().receive(encode(batch))
    assert decode(body) == batch


@every_kind
def test_message_without_its_optional_fields_is_understood(kind: type[Message]) -> None:
    """An older sender leaves out what was added since."""
    (full,) = msgspec.msgpack.decode(body_of(sample(kind)))
    fields = msgspec.structs.fields(kind)
    required = [field for field in fields if field.required]
    (message,) = decode(msgspec.msgpack.encode([full[: 1 + len(required)]]))
    for field in fields[len(required) :]:
        is_made = field.default is msgspec.NODEFAULT
        default = field.default_factory() if is_made else field.default
        assert getattr(message, field.name) == default


@every_kind
def test_message_with_fields_that_are_not_known_here_is_understood(kind: type[Message]) -> None:
    """A newer sender adds what this process leaves alone."""
    sent = sample(kind)
    (known,) = msgspec.msgpack.decode(body_of(sent))
    assert decode(msgspec.msgpack.encode([[*known, "new", {"deep": [1, [2]]}]])) == [sent]


def test_ids_travel_as_their_bytes() -> None:
    actor_id = ActorId(b"a" * 16)
    meta = unpack(codec.pack(ActorMeta(actor_id, "Counter", {})), ActorMeta)
    assert type(meta.actor_id) is ActorId
    assert meta.actor_id == actor_id


# ------------------------------------------------------------------ the format


@pytest.mark.parametrize("kind", messages.Packed.__args__)
def test_part_of_a_message_does_not_travel_by_itself(kind: type[messages.MessagePart]) -> None:
    with pytest.raises(ProtocolError):
        decode(body_of(sample(kind)))


@every_kind
def test_message_is_frozen(kind: type[Message]) -> None:
    assert kind.__struct_config__.frozen


def test_every_tag_stands_for_one_message() -> None:
    tags = [kind.__struct_config__.tag for kind in KINDS]
    assert len(set(tags)) == len(tags)


def goldens(path: Path) -> dict[str, str]:
    return dict(line.split() for line in path.read_text().splitlines())


def test_bytes_of_every_message_are_those_recorded_for_this_version(rewrite: bool) -> None:
    """A process of another release reads these. What cannot be read by it needs a new version."""
    path = GOLDEN / f"v{WIRE}.hex"
    made = {kind.__name__: body_of(sample(kind)).hex() for kind in KINDS}
    if rewrite:
        path.write_text("".join(f"{name} {text}\n" for name, text in made.items()))
    assert made == goldens(path), "meant? then record it: pytest packages/core/tests/wire --rewrite"


def test_recorded_bytes_are_still_understood() -> None:
    by_name = {kind.__name__: kind for kind in KINDS}
    recorded = goldens(GOLDEN / f"v{WIRE}.hex")
    assert {name: decode(bytes.fromhex(text)) for name, text in recorded.items()} == {
        name: [sample(by_name[name])] for name in recorded
    }


def begins_with(message: Any, recorded: Any) -> bool:
    """Tell whether a message as it is sent holds what was recorded: more at the end at most."""
    if not isinstance(recorded, list):
        return bool(message == recorded)
    return len(recorded) <= len(message) and all(map(begins_with, message, recorded))


VERSIONS = [version for version in range(1, WIRE + 1) if agreed(WIRE, version) is not None]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_release_sends_with_which_this_one_speaks_is_understood(version: int) -> None:
    for name, text in goldens(GOLDEN / f"v{version}.hex").items():
        body = bytes.fromhex(text)
        (recorded,) = msgspec.msgpack.decode(body)
        (message,) = decode(body)
        assert type(message).__name__ == name
        (sent,) = msgspec.msgpack.decode(body_of(message))
        assert begins_with(sent, recorded), name


def test_message_that_lost_or_moved_a_field_is_not_taken_for_one_that_grew() -> None:
    assert begins_with([10, 1, [b"a", 2], {"x": 1}, "new"], [10, 1, [b"a"], {"x": 1}])
    for changed in ([10, 1], [10, [b"a"], 1, {"x": 1}], [10, 1, [], {"x": 1}]):
        assert not begins_with(changed, [10, 1, [b"a"], {"x": 1}])


def test_tag_is_never_used_again_for_another_message() -> None:
    name_of: dict[Any, str] = {}
    for path in sorted(GOLDEN.glob("v*.hex")):
        for name, text in goldens(path).items():
            ((tag, *_),) = msgspec.msgpack.decode(bytes.fromhex(text))
            assert name_of.setdefault(tag, name) == name
    for kind in KINDS:
        assert name_of.get(kind.__struct_config__.tag, kind.__name__) == kind.__name__


# ------------------------------------------------------------------ what cannot be sent


def test_frame_over_the_bound_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_BODY_BYTES", 100)
    with pytest.raises(ProtocolError, match="over the bound of 100"):
        encode([Export(b"", "", bytes(100))])


def test_batch_over_the_bound_goes_in_several_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_BODY_BYTES", 100)
    batch: list[Message] = [Export(b"", str(number), bytes(40)) for number in range(9)]
    frames = encode_all(batch)
    assert all(len(frame) <= 100 + HEADER_BYTES for frame in frames)
    bodies = FrameReader().receive(b"".join(frames))
    assert [message for body in bodies for message in decode(body)] == batch


def test_message_over_the_bound_is_refused_in_any_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_BODY_BYTES", 100)
    with pytest.raises(ProtocolError):
        encode_all([Taken(b"", 1), Export(b"", "", bytes(100))])


def test_batch_within_the_bound_is_one_frame() -> None:
    batch: list[Message] = [Taken(b"", 1), Taken(b"", 2)]
    assert encode_all(batch) == [encode(batch)]


def test_text_that_utf8_cannot_hold_is_sent_legibly() -> None:
    """File names, and so errors that name them, can be such text."""
    sent = [
        Recycle(["plain", "caf\udce9"]),
        Hello(1, b"", "\ud800", 1, "driver"),
        Run(b"t", b"f", b"", deps=[Inline(b"", [Held(b"", "\udc80")])]),
    ]
    assert decode(bytes(encode(sent)[HEADER_BYTES:])) == [
        Recycle(["plain", "caf\\udce9"]),
        Hello(1, b"", "\\ud800", 1, "driver"),
        Run(b"t", b"f", b"", deps=[Inline(b"", [Held(b"", "\\udc80")])]),
    ]


def test_text_inside_options_is_sent_legibly_too() -> None:
    create = sample(messages.BecomeActor)
    odd = msgspec.structs.replace(create, options={"a\udc80": ("b\udc80", [None, 1])})
    (received,) = decode(body_of(odd))
    assert received == msgspec.structs.replace(
        create, options={"a\\udc80": ["b\\udc80", [None, 1]]}
    )


def test_what_is_no_part_of_messages_is_not_sent() -> None:
    with pytest.raises(TypeError, match="object cannot be part of a message"):
        codec.pack(object())


# ------------------------------------------------------------------ bytes of strangers

VALID = [body_of(sample(kind)) for kind in KINDS]
MALFORMED = {
    "nothing": b"",
    "not a list": b"\x01",
    "unknown tag": b"\x91\x91\xcd\x7f\xff",
    "untagged": b"\x91\x90",
    "missing fields": b"\x91\x91\x0a",
    "wrong type": msgspec.msgpack.encode([[24, "text instead of bytes", 1]]),
    "number out of range": b"\x91\x93\x18\xc4\x00" + b"\xc7\x01\x05\x00",
    "text that is no UTF-8": msgspec.msgpack.encode([[20, b"", "xx", b""]]).replace(
        b"\xa2xx", b"\xa2\xff\xfe"
    ),
    "more after the end": body_of(Taken(b"", 1)) + b"\0",
    "list without end": b"\xdd\xff\xff\xff\xff",
    "bytes without end": b"\x91\x93\x18\xc6\xff\xff\xff\xff",
    "nested without end": b"\x91\x93\x18\xc4\x00\x01" + b"\x91" * 100_000,
    "nested in what is skipped": b"\x91\x94\x18\xc4\x00\x01" + b"\x91" * 100_000,
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_malformed_body_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a message"):
        decode(body)


@pytest.mark.parametrize("body", [b"", b"\x91" * 100_000, b"\xa2\xff\xfe", b"\x01\x01"])
def test_malformed_answer_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a "):
        unpack(body, Any)


@pytest.mark.parametrize("body", [b"\xc4\x01a", b"\x01", b"\xa1a"])
def test_id_of_another_length_or_type_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack(body, ActorId)


def test_type_that_is_no_id_is_not_made_of_bytes() -> None:
    with pytest.raises(ProtocolError, match="is no complex"):
        unpack(b"\x01", complex)


def is_refused(body: bytes) -> bool:
    """Decode; only a ProtocolError may be raised, and only messages may come out."""
    try:
        received = decode(body)
    except ProtocolError:
        return True
    assert all(type(message) in KINDS for message in received)
    return False


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_but_protocol_errors(body: bytes) -> None:
    is_refused(body)


@given(st.sampled_from(VALID), st.data())
def test_damaged_messages_raise_nothing_but_protocol_errors(
    body: bytes, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, min(len(body), start + 4)))
    is_refused(body[:start] + data.draw(st.binary(max_size=6)) + body[end:])


@given(st.sampled_from(VALID), st.data())
def test_truncated_messages_are_refused(body: bytes, data: st.DataObject) -> None:
    assert is_refused(body[: data.draw(st.integers(0, len(body) - 1))])


@given(ANYTHING)
def test_well_formed_data_that_is_no_message_is_refused(value: Any) -> None:
    body = msgspec.msgpack.encode(value)
    assert is_refused(body) or value == []
