"""The programs of core's benchmark that start by themselves: what a user waits for.

Each takes the name of the module, weft or ray. What is imported here at the top would be missing
from the import that the first one measures, so it is little.
"""

from __future__ import annotations

from importlib import import_module
from time import perf_counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CPUS = 2
ACTORS = 20


def import_s(system: str) -> float:
    begin = perf_counter()
    import_module(system)
    return perf_counter() - begin


def init_s(system: str) -> float:
    ray = import_module(system)
    begin = perf_counter()
    ray.init(num_cpus=CPUS)
    return perf_counter() - begin


def first_task_s(system: str) -> float:
    begin = perf_counter()
    ray = import_module(system)
    ray.init(num_cpus=CPUS)
    run_task(ray)
    return perf_counter() - begin


def actors_s(system: str) -> float:
    ray = import_module(system)
    ray.init(num_cpus=CPUS)
    begin = perf_counter()
    actors = start_actors(ray)
    took_s = perf_counter() - begin
    del actors
    return took_s


def shutdown_s(system: str) -> float:
    ray = import_module(system)
    ray.init(num_cpus=CPUS)
    run_task(ray)
    begin = perf_counter()
    ray.shutdown()
    return perf_counter() - begin


def run_task(ray: Any) -> None:
    @ray.remote
    def small() -> bytes:
        return b"ok"

    assert ray.get(small.remote()) == b"ok"


def start_actors(ray: Any) -> list[Any]:
    """Start actors and call each once."""

    @ray.remote
    class Small:
        def value(self) -> bytes:
            return b"ok"

    actors = [Small.remote() for _ in range(ACTORS)]
    assert ray.get([actor.value.remote() for actor in actors]) == [b"ok"] * ACTORS
    return actors
