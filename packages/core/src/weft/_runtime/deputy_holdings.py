"""What a deputy holds for its program: references and streams, until they are given back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft._refs import ObjectRef, ObjectRefGenerator
from weft.exceptions import ObjectLostError

if TYPE_CHECKING:
    from weft._runtime.loop import Guard
    from weft._wire.remote import Releases


class _Held:
    """A reference that the program has."""

    __slots__ = ("count", "ref")

    def __init__(self, ref: ObjectRef[Any]) -> None:
        self.ref = ref
        self.count = 0
        """How often it was handed over."""


class ProgramHoldings:
    """The table of them. Without the guard."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._held: dict[bytes, _Held] = {}
        self._streams: dict[bytes, ObjectRefGenerator[Any]] = {}

    def try_ref(self, object_id: bytes) -> ObjectRef[Any] | None:
        """Return the reference to an object, if the program has one."""
        held = self._held.get(object_id)
        return None if held is None else held.ref

    def ref(self, object_id: bytes) -> ObjectRef[Any]:
        """Return the reference to an object. ObjectLostError: the program has none."""
        ref = self.try_ref(object_id)
        if ref is None:
            raise ObjectLostError(object_ref_hex=object_id.hex(), owner_address="")
        return ref

    def stream(self, task_id: bytes) -> ObjectRefGenerator[Any] | None:
        """Return a stream, if the program has it."""
        return self._streams.get(task_id)

    def hold(self, ref: ObjectRef[Any]) -> None:
        """Hold a reference for the program, once more."""
        with self._guard:
            held = self._held.get(ref._id)
            if held is None:
                held = self._held[bytes(ref._id)] = _Held(ref)
            held.count += 1

    def hold_all(self, made: list[ObjectRef[Any]] | ObjectRefGenerator[Any]) -> None:
        """Hold what a task makes."""
        if isinstance(made, ObjectRefGenerator):
            self._streams[bytes(made.task_id())] = made
            self.hold(made.completed())
        else:
            for ref in made:
                self.hold(ref)

    def release(self, order: Releases) -> None:
        """Let go of what the program gives back."""
        dropped: list[object] = []  # They go without the guard.
        with self._guard:
            for object_id, count in order.counts:
                held = self._held.get(object_id)
                if held is not None:
                    held.count -= count
                    if held.count <= 0:
                        dropped.append(self._held.pop(object_id))
            dropped += [self._streams.pop(task_id, None) for task_id in order.streams]
