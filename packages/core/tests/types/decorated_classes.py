"""`@weft.remote` above a class.

Read by pyright only: mypy takes no notice of a class's decorators.
"""

# mypy: ignore-errors

from typing import assert_type

import weft
from weft import ObjectRef


@weft.remote
class Counter:
    def __init__(self, start: int) -> None:
        self.value = start

    @weft.method
    def add(self, by: int = 1) -> int:
        self.value += by
        return self.value


@weft.remote(num_cpus=1, max_restarts=2)
class Worker:
    @weft.method
    def work(self, size: int) -> str:
        return "x" * size


counter = Counter.remote(1)
assert_type(counter.add.remote(2), ObjectRef[int])
worker = Worker.options(name="w").remote()
assert_type(worker.work.remote(3), ObjectRef[str])
