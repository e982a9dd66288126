"""`@weft.remote` above a class. pyright understands it as it is, mypy with the plug-in weft.mypy.

Never run.
"""

from typing import assert_type

import weft
from weft import ObjectRef


@weft.remote
class Counter:
    def __init__(self, start: int, *, name: str = "") -> None:
        self.value = start
        self.name = name

    @weft.method
    def add(self, by: int = 1) -> int:
        self.value += by
        return self.value


@weft.remote(num_cpus=1, max_restarts=2)
class Worker:
    @weft.method
    async def work(self, size: int) -> str:
        return "x" * size


counter = Counter.remote(1, name="a")
assert_type(counter.add.remote(2), ObjectRef[int])
worker = Worker.options(name="w").remote()
assert_type(worker.work.remote(3), ObjectRef[str])

Counter.remote("a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
counter.sub.remote(1)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
