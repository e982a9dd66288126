"""The pieces of work of a soak: what each does is random, what it must give is known.

A piece is a function of a `Hand`, in whose thread it runs. It raises WrongResultError if something
is not as it should be, or lets through what nobody expected.
"""

from __future__ import annotations

import os
import signal
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import weft
from weft.exceptions import (
    ActorError,
    OwnerDiedError,
    TaskCancelledError,
    TaskError,
    WorkerDiedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

WAIT_S = 60.0
"""Nothing here takes a tenth of this."""
KIB = 1024
MIB = 1024 * KIB
VARIABLE = "WEFT_SOAK"
ENVIRONMENTS = ("red", "green")
KEPT = 12
"""Large objects that a thread keeps at most."""


class WrongResultError(Exception):
    """Something is not what it should be."""


class Thing(NamedTuple):
    """A large object, from whose seed its bytes can be made again."""

    seed: int
    size_bytes: int
    ref: Any


class Hand:
    """One thread's luck, and what it keeps from one piece of work to the next."""

    def __init__(self, random: Random, marks: Path) -> None:
        self.random = random
        self.marks = marks
        """An empty directory for files that say what has happened."""
        self.kept: list[Thing] = []

    def seed_and_size(self) -> tuple[int, int]:
        """Draw what a large object is to be; sometimes it is small enough for a message."""
        size = self.random.choice([50 * KIB, 200 * KIB, MIB, 3 * MIB, 6 * MIB])
        return self.random.getrandbits(32), size + self.random.randrange(5000)

    def keep(self, thing: Thing) -> None:
        """Keep an object for later, in the place of another if there are many."""
        if len(self.kept) >= KEPT:
            self.kept.pop(self.random.randrange(len(self.kept)))
        self.kept.append(thing)

    def some_kept(self) -> list[Thing]:
        """Draw a few of what is kept."""
        return self.random.sample(self.kept, min(len(self.kept), 3))


def bytes_of(seed: int, size_bytes: int) -> Any:
    """Return an object's bytes: uint8[size_bytes]."""
    return np.random.default_rng(seed).integers(0, 256, size_bytes, np.uint8)


def checksum_of(seed: int, size_bytes: int) -> int:
    """Return the checksum of the bytes that these stand for."""
    return zlib.crc32(bytes_of(seed, size_bytes))


def same(what: str, found: object, expected: object) -> None:
    """Check a result."""
    if found != expected:
        raise WrongResultError(f"{what}: {found!r}, not {expected!r}")


def got(ref: Any) -> Any:
    """Get a result that must come soon."""
    return weft.get(ref, timeout=WAIT_S)


def fails(ref: Any, *expected: type[BaseException]) -> None:
    """Get what must fail like this."""
    try:
        value = got(ref)
    except expected:
        return
    raise WrongResultError(f"{value!r} came instead of {expected[0].__name__}")


# ------------------------------------------------------------------ what runs in workers


@weft.remote
def make(seed: int, size_bytes: int) -> Any:
    """Return a large object."""
    return bytes_of(seed, size_bytes)


@weft.remote
def checksums(arrays: list[Any]) -> list[int]:
    """Return the checksums of what these references stand for."""
    return [zlib.crc32(weft.get(ref)) for ref in arrays]


@weft.remote
def reverse(array: Any) -> Any:
    """Return another large object."""
    return array[::-1].copy()


@weft.remote
def leaves(depth: int, width: int) -> int:
    """Count the leaves of a tree of tasks."""
    if depth == 0:
        return 1
    return sum(weft.get([leaves.remote(depth - 1, width) for _ in range(width)]))


@weft.remote
def stream(seed: int, size_bytes: int, items: int) -> Iterator[Any]:
    """Yield large objects."""
    for number in range(items):
        yield bytes_of(seed + number, size_bytes)


@weft.remote
def sleep(array: Any) -> int:
    """Take longer than anybody waits."""
    time.sleep(10 * WAIT_S)
    return len(array)


@weft.remote(max_retries=0)
def die(array: Any) -> int:
    """End this worker with an object in its hands."""
    os.kill(os.getpid(), signal.SIGKILL)
    return len(array)


@weft.remote(max_retries=2)
def die_once(mark: str, seed: int, size_bytes: int) -> Any:
    """Return a large object at the second attempt."""
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return bytes_of(seed, size_bytes)


@weft.remote
def refuse(array: Any) -> int:
    """Fail while an object is in a local variable."""
    raise ValueError(f"{len(array)} bytes")


@weft.remote
def variable() -> str:
    """Return what the runtime environment says."""
    return os.environ.get(VARIABLE, "")


@weft.remote
class Keeper:
    """Keeps references, views on objects, and an object of its own."""

    def __init__(self) -> None:
        """Keep nothing at first."""
        self.refs: list[Any] = []
        self.views: list[Any] = []

    def keep(self, refs: list[Any]) -> int:
        """Keep references, and a view on the first one's value."""
        self.refs += refs
        self.views += [weft.get(ref) for ref in refs[:1]]
        return len(self.refs)

    def checksums(self) -> list[int]:
        """Return the checksums of what the references stand for."""
        return [zlib.crc32(weft.get(ref)) for ref in self.refs]

    def own(self, seed: int, size_bytes: int) -> list[Any]:
        """Return a reference that this actor owns."""
        self.refs.append(weft.put(bytes_of(seed, size_bytes)))
        return self.refs[-1:]


# ------------------------------------------------------------------ pieces of work


def nest(hand: Hand) -> None:
    """Tasks that start tasks and wait for them."""
    depth, width = hand.random.choice([(1, 6), (2, 3), (3, 2)])
    same("leaves", got(leaves.remote(depth, width)), width**depth)


def put_small(hand: Hand) -> None:
    """Many small objects at a time."""
    values = [{"number": hand.random.random(), "list": list(range(5))} for _ in range(100)]
    refs = [weft.put(value) for value in values]
    same("small objects", got(refs), values)


def put_large(hand: Hand) -> None:
    """Put an object, keep it, and look at some that were kept long."""
    seed, size = hand.seed_and_size()
    hand.keep(Thing(seed, size, weft.put(bytes_of(seed, size))))
    for thing in hand.some_kept():
        same("object", zlib.crc32(got(thing.ref)), checksum_of(thing.seed, thing.size_bytes))


def make_large(hand: Hand) -> None:
    """Have a task make an object; keep it."""
    seed, size = hand.seed_and_size()
    hand.keep(Thing(seed, size, make.remote(seed, size)))
    same("made", zlib.crc32(got(hand.kept[-1].ref)), checksum_of(seed, size))


def pass_on(hand: Hand) -> None:
    """Pass objects through two tasks, and references inside a list."""
    seed, size = hand.seed_and_size()
    twice = reverse.remote(reverse.remote(make.remote(seed, size)))
    same("reversed twice", zlib.crc32(got(twice)), checksum_of(seed, size))
    things = hand.some_kept()
    expected = [checksum_of(thing.seed, thing.size_bytes) for thing in things]
    same("checksums", got(checksums.remote([thing.ref for thing in things])), expected)


def draw_stream(hand: Hand) -> None:
    """Take a part of a stream of objects, or all of it."""
    seed, size = hand.seed_and_size()
    items = hand.random.randrange(1, 5)
    generator = stream.remote(seed, size, items)
    for number in range(hand.random.randrange(items + 1)):
        item = next(generator)
        same("item", zlib.crc32(got(item)), checksum_of(seed + number, size))
    generator.close()


def cancel(hand: Hand) -> None:
    """Cancel a task before it begins or while it runs, by force or not."""
    ref = sleep.remote(weft.put(bytes_of(*hand.seed_and_size())))
    weft.wait([ref], timeout=hand.random.choice([0, 0.1]))
    weft.cancel(ref, force=hand.random.random() < 0.5)
    fails(ref, TaskCancelledError, WorkerDiedError)


def kill_worker(hand: Hand) -> None:
    """A worker dies; a task that may be tried again is."""
    array = weft.put(bytes_of(*hand.seed_and_size()))
    if hand.random.random() < 0.5:
        fails(die.remote(array), WorkerDiedError)
    else:
        seed, size = hand.seed_and_size()
        mark = hand.marks / f"{hand.random.getrandbits(64):x}"
        same("made again", zlib.crc32(got(die_once.remote(str(mark), seed, size))),
             checksum_of(seed, size))  # fmt: skip
        mark.unlink()


def fail(hand: Hand) -> None:
    """A task fails with an object in its hands; so its error may keep it."""
    seed, size = hand.seed_and_size()
    try:
        got(refuse.remote(bytes_of(seed, size)))
    except ValueError as error:
        same("error", isinstance(error, TaskError) and f"{size} bytes" in str(error), True)
    else:
        raise WrongResultError("a task that fails has returned")


def use_actor(hand: Hand) -> None:
    """An actor keeps references and views, and goes: by itself, or killed."""
    keeper = Keeper.remote()
    things = hand.some_kept()
    expected = [checksum_of(thing.seed, thing.size_bytes) for thing in things]
    same("kept", got(keeper.keep.remote([thing.ref for thing in things])), len(things))
    same("kept objects", got(keeper.checksums.remote()), expected)
    seed, size = hand.seed_and_size()
    (owned,) = got(keeper.own.remote(seed, size))
    same("owned", zlib.crc32(got(owned)), checksum_of(seed, size))
    if hand.random.random() < 0.5:
        weft.kill(keeper)
        fails(keeper.checksums.remote(), ActorError)
        if size > MIB:  # A small one is in the borrower's memory, too.
            fails(checksums.remote([owned]), OwnerDiedError, TaskError)


def use_environment(hand: Hand) -> None:
    """A task in a runtime environment."""
    word = hand.random.choice(ENVIRONMENTS)
    environment = {"env_vars": {VARIABLE: word}}
    same("variable", got(variable.options(runtime_env=environment).remote()), word)


PIECES: tuple[Callable[[Hand], None], ...] = (
    nest, put_small, put_large, put_large, make_large, make_large, pass_on, draw_stream, cancel,
    kill_worker, fail, use_actor, use_environment,
)  # fmt: skip
"""Those that stand twice are drawn twice as often."""
