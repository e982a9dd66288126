"""Actors as type checkers see them. Read by mypy and pyright, never run."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, assert_type

import weft
from weft import ObjectRef, ObjectRefGenerator
from weft.actor import ActorClass, ActorHandle, ActorProxy


class Counter:
    def __init__(self, start: int, *, name: str = "") -> None:
        self.value = start
        self.name = name

    @weft.method
    def add(self, by: int = 1) -> int:
        self.value += by
        # Inside the class a method is a plain method.
        assert_type(self.read(), int)
        return self.value

    @weft.method
    def read(self) -> int:
        return self.value

    @weft.method
    async def wait(self, seconds: float) -> str:
        return self.name

    @weft.method
    def items(self) -> Iterator[str]:
        yield self.name

    @weft.method
    async def lines(self) -> AsyncIterator[bytes]:
        yield b""

    @weft.method(num_returns=2)
    def both(self) -> tuple[int, str]:
        return self.value, self.name

    @weft.method(concurrency_group="io", max_task_retries=2)
    def load(self, path: str) -> bytes:
        return path.encode()


CounterActor = weft.remote(Counter)
assert_type(CounterActor, ActorClass[type[Counter]])

counter = CounterActor.remote(1, name="a")
assert_type(counter, Counter)
assert_type(counter.add.remote(), ObjectRef[int])
assert_type(counter.add.remote(by=2), ObjectRef[int])
assert_type(counter.wait.remote(0.5), ObjectRef[str])
assert_type(counter.items.remote(), ObjectRefGenerator[str])
assert_type(counter.lines.remote(), ObjectRefGenerator[bytes])
assert_type(counter.both.remote(), list[ObjectRef[Any]])
assert_type(counter.load.remote("a"), ObjectRef[bytes])
assert_type(weft.get(counter.add.remote()), int)
assert_type(weft.get([counter.add.remote() for _ in range(3)]), list[int])

# A reference stands for its value.
assert_type(counter.add.remote(counter.read.remote()), ObjectRef[int])

# Options keep the type.
assert_type(CounterActor.options(name="c", lifetime="detached", max_restarts=-1).remote(1), Counter)
assert_type(counter.add.options(name="more").remote(2), ObjectRef[int])
assert_type(counter.add.options(num_returns=2).remote(2), list[ObjectRef[Any]])


def use(handle: ActorProxy[Counter]) -> int:
    return weft.get(handle.add.remote(3))


use(counter)
weft.kill(counter, no_restart=True)


# Without @weft.method, and by name, any method is taken.
class Plain:
    def work(self, size: int) -> int:
        return size


found = weft.get_actor("c", namespace="n")
assert_type(found, ActorHandle[Any])
found.anything.remote(1, key=2)
