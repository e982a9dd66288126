"""Mistakes that type checkers find: without these comments each line is an error. Never run."""

import weft
from weft.util import as_completed
from weft.util.queue import Queue


@weft.remote
def length(text: str) -> int:
    return len(text)


class Counter:
    def __init__(self, start: int) -> None:
        self.value = start

    @weft.method
    def add(self, by: int = 1) -> int:
        self.value += by
        return self.value


CounterActor = weft.remote(Counter)

length.remote(3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
length.remote("a", "b")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
length.options(num_cpu=1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
CounterActor.remote("a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
counter = CounterActor.remote(1)
counter.add.remote("a")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
counter.sub.remote(1)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
weft.get(3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
as_completed([length.remote("a")], timeuot=1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
Queue[int]().put("a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
