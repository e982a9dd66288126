from __future__ import annotations

from typing import TYPE_CHECKING

import hypothesis.strategies as st
import msgspec
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from weft._machines import keyvalues as rules
from weft._machines.keyvalues import KEY_BYTES, VALUE_BYTES, DeleteValues, KeyValues, PutValue
from weft._machines.rulings import Ruling

if TYPE_CHECKING:
    import pytest


class Store:
    """A table that is checked after every command."""

    def __init__(self) -> None:
        self.table = KeyValues()

    def put(self, key: bytes, value: bytes = b"v", *, overwrite: bool = True) -> Ruling:
        return self.do(PutValue(b"n", key, value, overwrite))

    def delete(self, key: bytes, *, by_prefix: bool = False) -> Ruling:
        return self.do(DeleteValues(b"n", key, by_prefix))

    def do(self, command: PutValue | DeleteValues) -> Ruling:
        outcome = self.table.apply(command, 0.0)
        self.table.check()
        assert outcome.events == ()
        return outcome.answer


def test_put_tells_whether_there_was_a_value() -> None:
    store = Store()
    assert store.put(b"k", b"1") == Ruling(0)
    assert store.put(b"k", b"2") == Ruling(1)
    assert store.table.get(b"n", b"k") == b"2"


def test_value_stays_if_it_is_not_to_be_overwritten() -> None:
    store = Store()
    assert store.put(b"k", b"1", overwrite=False) == Ruling(0)
    assert store.put(b"k", b"2", overwrite=False) == Ruling(1)
    assert store.table.get(b"n", b"k") == b"1"


def test_namespaces_are_apart() -> None:
    store = Store()
    store.put(b"k", b"1")
    assert store.table.get(b"another", b"k") is None
    assert store.do(DeleteValues(b"another", b"k")) == Ruling(0)
    assert store.table.keys(b"another", b"") == []


def test_delete_tells_how_many() -> None:
    store = Store()
    for key in (b"a", b"ab", b"abc", b"b"):
        store.put(key)
    assert store.delete(b"ab") == Ruling(1)
    assert store.delete(b"ab") == Ruling(0)
    assert store.delete(b"a", by_prefix=True) == Ruling(2)
    assert store.table.keys(b"n", b"") == [b"b"]
    assert store.delete(b"", by_prefix=True) == Ruling(1)


def test_keys_come_in_order_and_in_pages() -> None:
    store = Store()
    for key in (b"b2", b"a", b"b1", b"b3", b"c"):
        store.put(key)
    assert store.table.keys(b"n", b"b") == [b"b1", b"b2", b"b3"]
    assert store.table.keys(b"n", b"b", most=2) == [b"b1", b"b2"]
    assert store.table.keys(b"n", b"b", after=b"b2", most=2) == [b"b3"]
    assert store.table.keys(b"n", b"", after=b"a0", most=1) == [b"b1"]


def test_what_is_too_large_is_refused_and_changes_nothing() -> None:
    store = Store()
    for key, value in ((b"k" * (KEY_BYTES + 1), b""), (b"k", bytes(VALUE_BYTES + 1))):
        answer = store.put(key, value)
        assert answer.code == "invalid"
        assert "put larger ones into objects" in answer.reason
    assert store.table.keys(b"n", b"") == []
    assert store.put(b"k" * KEY_BYTES, bytes(VALUE_BYTES)) == Ruling(0)


def test_full_table_refuses_new_keys_and_takes_smaller_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rules, "KEYS_KEPT", 2)
    monkeypatch.setattr(rules, "TOTAL_BYTES", 10)
    store = Store()
    store.put(b"a", b"1234")
    store.put(b"b", b"1234")
    for key, value in ((b"c", b""), (b"a", b"12345")):
        answer = store.put(key, value)
        assert (answer.code, "there are 2 with 10 bytes" in answer.reason) == ("full", True)
    assert store.put(b"a", b"123") == Ruling(1)
    assert store.put(b"b", b"12345") == Ruling(1)
    store.delete(b"b")
    assert store.put(b"c", b"") == Ruling(0)


KEYS = st.binary(max_size=2).map(lambda key: bytes(b % 3 for b in key))
SPACES = st.sampled_from([b"", b"n"])


class KeyStories(RuleBasedStateMachine):
    """As a dictionary of dictionaries would do it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = KeyValues()
        self.model: dict[tuple[bytes, bytes], bytes] = {}

    @rule(space=SPACES, key=KEYS, value=st.binary(max_size=3), overwrite=st.booleans())
    def puts(self, space: bytes, key: bytes, value: bytes, overwrite: bool) -> None:
        answer = self.table.apply(PutValue(space, key, value, overwrite), 0.0).answer
        assert answer == Ruling(int((space, key) in self.model))
        if overwrite or not answer.value:
            self.model[space, key] = value

    @rule(space=SPACES, key=KEYS, by_prefix=st.booleans())
    def deletes(self, space: bytes, key: bytes, by_prefix: bool) -> None:
        gone = [
            each for each in self.model
            if each[0] == space and (each[1].startswith(key) if by_prefix else each[1] == key)
        ]  # fmt: skip
        answer = self.table.apply(DeleteValues(space, key, by_prefix), 0.0).answer
        assert answer == Ruling(len(gone))
        for each in gone:
            del self.model[each]

    @rule(space=SPACES, prefix=KEYS, after=st.none() | KEYS, most=st.integers(0, 4))
    def looks(self, space: bytes, prefix: bytes, after: bytes | None, most: int) -> None:
        expected = sorted(
            key
            for there, key in self.model
            if there == space and key.startswith(prefix) and (after is None or key > after)
        )
        assert self.table.keys(space, prefix, after=after, most=most) == expected[:most]
        assert all(self.table.get(space, key) == self.model[space, key] for key in expected)

    @rule()
    def restarts(self) -> None:
        encoded = msgspec.msgpack.encode(self.table.image())
        self.table = KeyValues()
        self.table.restore(msgspec.msgpack.decode(encoded, type=KeyValues.image_type))

    @invariant()
    def is_well(self) -> None:
        self.table.check()


TestKeyStories = KeyStories.TestCase
TestKeyStories.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, database=None
)
