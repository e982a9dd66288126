"""Values under keys, in namespaces: what Weft's libraries keep for all of a cluster to see.

What is always true
1. A key has at most `KEY_BYTES`, a value at most `VALUE_BYTES`.
2. All keys and values take at most `TOTAL_BYTES` and are at most `KEYS_KEPT`. What would go above
   is refused and changes nothing; nothing is ever dropped to make room.
3. The keys of a namespace are in order; a namespace without keys is forgotten.

What it does not do: it keeps no large things. Packages and code travel as objects.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import ClassVar, assert_never

import msgspec

from weft._machines.rulings import Ruling
from weft._machines.tables import Commands, Consequence, ControlTable
from weft._override import override

KEY_BYTES = 4096
VALUE_BYTES = 1024 * 1024
KEYS_KEPT = 100_000
TOTAL_BYTES = 64 * 1024 * 1024


class PutValue(msgspec.Struct, frozen=True):
    """Answered with 1 if the key had a value already, else 0."""

    namespace: bytes
    key: bytes
    value: bytes
    overwrite: bool = True
    """If not, a value that is there stays."""


class DeleteValues(msgspec.Struct, frozen=True):
    """Answered with how many were deleted."""

    namespace: bytes
    key: bytes
    by_prefix: bool = False


class KeyValues(ControlTable):
    """The table of keys."""

    name: ClassVar = "key-values"
    commands: ClassVar[Commands] = {"put": PutValue, "delete": DeleteValues}
    image_type: ClassVar = dict[bytes, dict[bytes, bytes]]

    def __init__(self) -> None:
        self._values_in: dict[bytes, dict[bytes, bytes]] = {}
        self._keys_in: dict[bytes, list[bytes]] = {}
        """In order."""
        self._keys = 0
        self._total_bytes = 0

    @override
    def apply(self, happened: PutValue | DeleteValues, now: float) -> Consequence:
        """Do a command."""
        match happened:
            case PutValue():
                return Consequence(self._put(happened))
            case DeleteValues(namespace, key, by_prefix):
                found = self.keys(namespace, key) if by_prefix else self._key(namespace, key)
                self._delete(namespace, found)
                return Consequence(Ruling(len(found)))
            case _:
                assert_never(happened)

    def _put(self, command: PutValue) -> Ruling:
        namespace, key, value = command.namespace, command.key, command.value
        old = self.get(namespace, key)
        if old is not None and not command.overwrite:
            return Ruling(1)
        grown = len(value) - len(old) if old is not None else len(key) + len(value)
        if refused := self._refusal(key, value, grown, is_new=old is None):
            return refused
        if old is None:
            insort(self._keys_in.setdefault(namespace, []), key)
            self._keys += 1
        self._values_in.setdefault(namespace, {})[key] = value
        self._total_bytes += grown
        return Ruling(int(old is not None))

    def _refusal(self, key: bytes, value: bytes, grown: int, *, is_new: bool) -> Ruling | None:
        what = f"key {key[:40]!r} with {len(value)} bytes"
        if len(key) > KEY_BYTES or len(value) > VALUE_BYTES:
            limits = f"a key has at most {KEY_BYTES} bytes, a value {VALUE_BYTES}"
            return Ruling(code="invalid", reason=f"{what}: {limits}; put larger ones into objects")
        if self._keys + is_new > KEYS_KEPT or self._total_bytes + grown > TOTAL_BYTES:
            limits = f"{KEYS_KEPT} keys and {TOTAL_BYTES} bytes are kept at most"
            there = f"there are {self._keys} with {self._total_bytes} bytes"
            return Ruling(code="full", reason=f"{what}: {limits}, {there}; delete some")
        return None

    def _key(self, namespace: bytes, key: bytes) -> list[bytes]:
        return [key] if self.get(namespace, key) is not None else []

    def _delete(self, namespace: bytes, found: list[bytes]) -> None:
        """Delete keys of a namespace that follow each other."""
        if not found:
            return
        keys, values = self._keys_in[namespace], self._values_in[namespace]
        self._total_bytes -= sum(len(key) + len(values.pop(key)) for key in found)
        self._keys -= len(found)
        first = bisect_left(keys, found[0])
        del keys[first : first + len(found)]
        if not keys:
            del self._keys_in[namespace], self._values_in[namespace]

    # -------------------------------------------------------------- questions

    def get(self, namespace: bytes, key: bytes) -> bytes | None:
        """Return the value of a key."""
        return self._values_in.get(namespace, {}).get(key)

    def keys(
        self, namespace: bytes, prefix: bytes, *, after: bytes | None = None, most: int = KEYS_KEPT
    ) -> list[bytes]:
        """Return the keys that begin so and come after one, in order, at most so many."""
        keys = self._keys_in.get(namespace, [])
        first = bisect_left(keys, prefix)
        if after is not None:
            first = max(first, bisect_right(keys, after))
        found: list[bytes] = []
        for key in keys[first : first + most]:
            if not key.startswith(prefix):
                break
            found.append(key)
        return found

    # -------------------------------------------------------------- as a table

    @override
    def image(self) -> dict[bytes, dict[bytes, bytes]]:
        """Return all keys and values."""
        return self._values_in

    @override
    def restore(self, image: dict[bytes, dict[bytes, bytes]]) -> None:
        """Take the keys and values of an image."""
        self._values_in = image
        self._keys_in = {namespace: sorted(values) for namespace, values in image.items()}
        self._keys = sum(map(len, image.values()))
        self._total_bytes = self._counted_bytes()

    def _counted_bytes(self) -> int:
        return sum(
            len(key) + len(value)
            for values in self._values_in.values()
            for key, value in values.items()
        )

    @override
    def check(self) -> None:
        """Assert what is always true."""
        for values in self._values_in.values():
            assert all(len(key) <= KEY_BYTES for key in values), 1
            assert all(len(value) <= VALUE_BYTES for value in values.values()), 1
        assert self._keys == sum(map(len, self._values_in.values())) <= KEYS_KEPT, 2
        assert self._total_bytes == self._counted_bytes() <= TOTAL_BYTES, 2
        assert self._keys_in == {name: sorted(v) for name, v in self._values_in.items()}, 3
        assert all(self._keys_in.values()), 3
