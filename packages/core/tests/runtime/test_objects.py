"""The counts of references while values are read, whatever happens meanwhile."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from weft._ids import IdSource, ObjectId, WorkerId
from weft._machines.ownership import Registered, Sealed
from weft._override import override
from weft._runtime import objects as objects_module
from weft._runtime.loop import HEADROOM, Guard
from weft._runtime.objects import MANY_RELEASED, Objects
from weft._serialize.pickling import dumps
from weft._serialize.refs import hooks
from weft._wire.messages import Borrow, Failure, Fetch, Held, Shared

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

    from weft._machines.ownership import Entry

ME, OTHER = "unix:me", "unix:other"


class CountingGuard(Guard):
    """A guard that counts how often it was taken."""

    __slots__ = ("taken",)

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    @override
    def __enter__(self) -> None:
        super().__enter__()
        self.taken += 1


class QuietLoop:
    """Stands for the loop: nothing is read."""

    def __init__(self) -> None:
        self.guard = CountingGuard()
        self.nudges = 0

    def nudge(self) -> None:
        self.nudges += 1


class SilentPeers:
    """Stands for the other processes: keeps what they are sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.gone: set[str] = set()

    def connect(self, address: str) -> str | None:
        return None if address in self.gone else address

    def send(self, _peer: object, message: Any) -> None:
        self.sent.append(message)


class Desk:
    """One process's objects, alone."""

    def __init__(self) -> None:
        self.loop: Any = QuietLoop()
        self.objects = Objects(self.loop, WorkerId.nil(), ME, self)  # type: ignore[arg-type]
        self.peers: Any = SilentPeers()
        self.objects.peers = self.peers
        self.ids = IdSource()

    def release(self, object_id: ObjectId) -> None:
        """Stand for the engine, which ObjectRef tells."""
        self.objects.release(object_id)

    def put(self, value: Any) -> Any:
        packed = self.pack(value)
        with self.loop.guard:
            return self.objects.own(self.ids.task_id().object_id(1), packed)

    def pack(self, value: Any) -> Any:
        return self.objects.store_value(dumps(value), label="put", claim=lambda _value: None)

    def lend(self) -> Any:
        """Return a reference that another process owns and has counted."""
        object_id = self.ids.task_id().object_id(1)
        ref = self.objects.rebuild_ref(object_id, OTHER)
        with self.loop.guard:
            self.objects.handle(Registered([object_id], [], Failure(b"")))
        return ref

    def entry(self, object_id: ObjectId) -> Entry:
        return self.objects.machine.entries[object_id]

    def get(self, ref: Any) -> Any:
        return self.objects.load(ref._entry.value, ref._entry)

    def settle(self) -> None:
        """Count what was released, and look whether all is well."""
        with self.loop.guard:
            self.objects.drain()
        self.objects.machine.check()


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    hooks.rebuild_ref = made.objects.rebuild_ref
    yield made
    hooks.reset()


@pytest.mark.parametrize("is_own", [True, False])
def test_reference_found_in_a_value_counts_until_it_is_dropped(desk: Desk, is_own: bool) -> None:
    inner = desk.put(1) if is_own else desk.lend()
    entry = inner._entry
    outer = desk.put([inner])
    del inner
    desk.settle()
    assert (entry.local, entry.pins) == (0, 1)
    found = desk.get(outer)
    again = desk.get(outer)
    assert found == again
    assert found[0]._entry is entry
    assert entry.local == 2
    del outer
    desk.settle()
    assert (entry.local, entry.pins) == (2, 0)
    del found, again
    desk.settle()
    assert entry.id not in desk.objects.machine.entries


def test_borrowed_references_in_an_own_value_are_counted_together(desk: Desk) -> None:
    refs = [desk.lend() for _ in range(100)]
    outer = desk.put(refs)
    desk.loop.guard.taken = 0
    found = desk.get(outer)
    assert found == refs
    assert desk.loop.guard.taken <= 2
    assert {ref._entry.local for ref in found} == {2}


def test_borrowed_references_in_a_borrowed_value_are_counted_one_by_one(desk: Desk) -> None:
    """Only the value's owner keeps them: here they could be dropped meanwhile."""
    refs = [desk.lend() for _ in range(3)]
    packed = desk.pack(refs)
    outer = desk.lend()
    with desk.loop.guard:
        desk.objects.handle(Sealed(outer._id, packed))
    desk.loop.guard.taken = 0
    found = desk.get(outer)
    assert desk.loop.guard.taken >= 3
    assert {ref._entry.local for ref in found} == {2}


def test_reference_new_to_this_process_is_registered_and_kept_by_what_held_it(desk: Desk) -> None:
    other = Desk()
    packed = desk.pack([other.lend()])
    outer = desk.lend()
    with desk.loop.guard:
        desk.objects.handle(Sealed(outer._id, packed))
    (found,) = desk.get(outer)
    assert desk.peers.sent[-1] == Borrow([found._id])
    assert found._entry.keeps is outer._entry
    assert outer._entry.pins == 1


# ------------------------------------------------------------------ what comes in between


class Awkward:
    """Runs a function where it is unpickled."""

    def __init__(self, ref: Any, name: str) -> None:
        self.ref = ref
        self.name = name

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return call_named, (self.ref, self.name)


named: dict[str, Any] = {}


def call_named(ref: Any, name: str) -> Any:
    return named[name](ref)


def test_reference_dropped_while_its_value_is_read_stays_counted_right(desk: Desk) -> None:
    inner = desk.put(1)
    entry = inner._entry
    outer = desk.put(Awkward(inner, "drop"))
    del inner
    desk.settle()

    def drop(ref: Any) -> None:
        assert ref._entry is entry

    named["drop"] = drop
    assert desk.get(outer) is None
    desk.settle()
    assert (entry.local, entry.pins) == (0, 1)


def test_value_that_cannot_be_read_leaves_the_counts_right(desk: Desk) -> None:
    inner = desk.lend()
    outer = desk.put(Awkward(inner, "fail"))

    def fail(ref: Any) -> None:
        raise ValueError(ref)

    named["fail"] = fail
    with pytest.raises(ValueError, match="ObjectRef"):
        desk.get(outer)
    desk.settle()
    assert (inner._entry.local, inner._entry.pins) == (1, 1)


class InterruptEverywhere:
    """Interrupts the main thread at the n-th place in objects.py where a handler may run."""

    def __init__(self, guard: Guard, place: int) -> None:
        self.guard = guard
        self.left = place

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        if event in ("call", "c_return") and frame.f_code.co_filename == objects_module.__file__:
            self.left -= 1
            if self.left == 0:
                self.guard.interrupt(KeyboardInterrupt())


def test_interrupt_at_any_place_frees_nothing_that_is_needed(desk: Desk) -> None:
    """One that comes as a reference is being made may cost a count: its object stays longer."""
    refs = [desk.put(1), desk.lend()]
    outer = desk.put(refs)
    guard = desk.loop.guard
    spare = 0
    place = 0
    while True:
        place += 1
        interrupt = InterruptEverywhere(guard, place)
        try:
            sys.setprofile(interrupt)
            found = desk.get(outer)
            sys.setprofile(None)
            del found
        except KeyboardInterrupt:
            sys.setprofile(None)
        desk.settle()
        left = sum(ref._entry.local for ref in refs) - len(refs)
        assert left - spare in {0, 1}, place
        spare = left
        assert (guard.shields, guard.interrupted) == (0, None), place
        if interrupt.left > 0:
            break
    assert place > 5


@pytest.mark.parametrize("in_main", [True, False])
def test_deep_stack_leaves_the_counts_right(desk: Desk, in_main: bool) -> None:
    inner = desk.put(1)
    outer = desk.put([inner])
    refused: list[int] = []

    def get(frames: int) -> Any:
        return get(frames - 1) if frames else desk.get(outer)

    def try_all() -> None:
        for frames in range(sys.getrecursionlimit() - 300, sys.getrecursionlimit()):
            try:
                assert get(frames) == [inner]
            except RecursionError:
                refused.append(frames)

    if in_main:
        try_all()
    else:
        thread = threading.Thread(target=try_all)
        thread.start()
        thread.join()
    assert len(refused) > HEADROOM // 2
    desk.settle()
    assert (inner._entry.local, inner._entry.pins) == (1, 1)
    assert desk.loop.guard.shields == 0


# ------------------------------------------------------------------ waiting for some


def test_who_waits_for_some_is_told_once_of_each_until_it_forgets(desk: Desk) -> None:
    there = desk.put(1)
    later = [desk.lend() for _ in range(3)]
    entries = [ref._entry for ref in (there, *later)]
    told: list[Entry] = []
    with desk.loop.guard:
        desk.objects.while_sealed(entries, told.append)
        assert told == entries[:1]
        assert desk.peers.sent[-3:] == [Fetch(ref._id) for ref in later]
        desk.objects.handle(Sealed(later[1]._id, Failure(b"")))
        assert told == [entries[0], entries[2]]
        desk.objects.forget(told.append)
        desk.objects.handle(Sealed(later[0]._id, Failure(b"")))
    assert told == [entries[0], entries[2]]


def test_objects_that_fail_together_as_one_is_wanted_are_told_once_each(desk: Desk) -> None:
    """The first one's owner is found to be gone, and the others were its objects, too."""
    refs = [desk.lend() for _ in range(3)]
    desk.peers.gone.add(OTHER)
    told: list[Entry] = []
    with desk.loop.guard:
        desk.objects.while_sealed([ref._entry for ref in refs], told.append)
        desk.objects.forget(told.append)
    assert sorted(told, key=lambda entry: entry.id) == [ref._entry for ref in refs]


# ------------------------------------------------------------------ when the loop is woken


def test_last_reference_to_large_memory_wakes_the_loop(desk: Desk) -> None:
    ref = desk.lend()
    with desk.loop.guard:
        desk.objects.handle(Sealed(ref._id, Shared("segment", 1 << 20, OTHER)))
        other = desk.objects.new_ref(ref._entry)
    del ref
    assert desk.loop.nudges == 0
    del other
    assert desk.loop.nudges == 1


def test_last_reference_to_large_memory_wakes_the_loop_though_a_value_holds_it(desk: Desk) -> None:
    """That value may be about to go, too."""
    ref = desk.lend()
    with desk.loop.guard:
        desk.objects.handle(Sealed(ref._id, Shared("segment", 1 << 20, OTHER)))
    outer = desk.put([ref])
    del outer
    assert desk.loop.nudges == 0
    del ref
    assert desk.loop.nudges == 1


def test_many_references_that_free_something_wake_the_loop_once(desk: Desk) -> None:
    refs = [desk.put(1) for _ in range(MANY_RELEASED + 10)]
    refs.clear()
    assert desk.loop.nudges == 1
    desk.settle()
    assert desk.objects.machine.entries == {}


def test_references_whose_objects_stay_wake_nobody_and_are_counted_by_the_next_read(
    desk: Desk,
) -> None:
    inner = [desk.put(1) for _ in range(MANY_RELEASED + 10)]
    outer = desk.put(inner)
    inner.clear()
    desk.settle()
    for _ in range(3):
        found = desk.get(outer)
        del found
    assert desk.loop.nudges == 0
    assert len(desk.objects._released) == MANY_RELEASED + 10
    desk.settle()
    assert {entry.local for entry in desk.objects.machine.entries.values()} == {0, 1}


def test_reference_held_by_a_value_travels_with_its_owner(desk: Desk) -> None:
    own, lent = desk.put(1), desk.lend()
    packed = desk.pack([own, lent])
    assert packed.held == [Held(own._id, ME), Held(lent._id, OTHER)]


# ------------------------------------------------------------------ what is at hand


def test_packed_value_is_held_while_it_is_viewed_and_is_none_if_it_is_not_at_hand(
    desk: Desk, tmp_path: Path
) -> None:
    desk.objects.store.directory = tmp_path
    desk.objects.daemon = SimpleNamespace(connection=SimpleNamespace(closed=True))  # type: ignore[assignment]
    ref = desk.lend()
    with desk.loop.guard:
        desk.objects.handle(Sealed(ref._id, Shared("segment", 5, OTHER)))
        assert desk.objects.packed(ref._entry) is None
    assert ref._entry.local == 1
    (tmp_path / "segment").write_bytes(b"bytes")
    with desk.loop.guard:
        view = desk.objects.packed(ref._entry)
    assert view == b"bytes"
    assert ref._entry.local == 2
    del view
    desk.settle()
    assert ref._entry.local == 1
