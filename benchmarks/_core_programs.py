"""The programs of core's benchmark that run in a session: the same for Weft and for Ray.

Each gets the module, weft or ray, in a session that has just begun, and returns a rate. What they
do follows the benchmark that Ray publishes for its releases, so that the figures can be laid beside
those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from _timing import Rate

BATCH = 1000
"""Calls in flight, where a row does not say how many."""
MANY = 10_000
MIB = 1024 * 1024
LARGE_BYTES = 100 * MIB


def small_task(ray: Any) -> Any:
    @ray.remote
    def small(*_: object) -> bytes:
        return b"ok"

    return small


def small_actor(ray: Any) -> Any:
    @ray.remote
    class Small:
        def value(self, *_: object) -> bytes:
            return b"ok"

    return Small


def small_async_actor(ray: Any) -> Any:
    @ray.remote
    class Small:
        async def value(self) -> bytes:
            return b"ok"

    return Small


# ------------------------------------------------------------------ objects


def get_small(ray: Any, rate: Rate) -> float:
    ref = ray.put(0)
    return rate(lambda: ray.get(ref))


def put_small(ray: Any, rate: Rate) -> float:
    return rate(lambda: ray.put(0))


def put_large(ray: Any, rate: Rate) -> float:
    """Gigabytes (10^9 bytes) a second; each reference is dropped at once."""
    # Not zeros: their pages would all be the kernel's one page of zeros, which stays in the cache.
    array = np.ones(LARGE_BYTES, np.uint8)
    return rate(lambda: ray.put(array), LARGE_BYTES / 1e9)


def get_large(ray: Any, rate: Rate) -> float:
    ref = ray.put(np.ones(LARGE_BYTES, np.uint8))
    return rate(lambda: ray.get(ref))


def get_with_references(ray: Any, rate: Rate) -> float:
    @ray.remote
    def make_references() -> list[Any]:
        return [ray.put(1) for _ in range(MANY)]

    ref = make_references.remote()
    return rate(lambda: ray.get(ref))


# ------------------------------------------------------------------ tasks


def tasks_sync(ray: Any, rate: Rate) -> float:
    small = small_task(ray)
    return rate(lambda: ray.get(small.remote()))


def tasks_async(ray: Any, rate: Rate) -> float:
    small = small_task(ray)
    return rate(lambda: ray.get([small.remote() for _ in range(MANY)]), MANY)


def wait_one_by_one(ray: Any, rate: Rate) -> float:
    """How often 1,000 tasks are started and waited for one by one in a second."""
    small = small_task(ray)

    def wait_for_all() -> None:
        waiting = [small.remote() for _ in range(BATCH)]
        while waiting:
            _, waiting = ray.wait(waiting)

    return rate(wait_for_all)


def tasks_from_two_clients(ray: Any, rate: Rate) -> float:
    small = small_task(ray)

    @ray.remote
    class Client:
        def run(self, tasks: int) -> None:
            ray.get([small.remote() for _ in range(tasks)])

    clients = [Client.remote() for _ in range(2)]
    each = MANY // 2
    return rate(lambda: ray.get([client.run.remote(each) for client in clients]), each * 2)


def tasks_with_argument(ray: Any, rate: Rate) -> float:
    """Tasks that take the same array of 8 MiB by reference."""
    small = small_task(ray)
    ref = ray.put(np.ones(8 * MIB, np.uint8))
    return rate(lambda: ray.get([small.remote(ref) for _ in range(BATCH)]), BATCH)


def tasks_returning(ray: Any, rate: Rate) -> float:
    """Tasks that return an array of 1 MiB each, of which 100 are fetched together."""

    @ray.remote
    def make_array() -> Any:
        return np.ones(MIB, np.uint8)

    return rate(lambda: ray.get([make_array.remote() for _ in range(100)]), 100)


# ------------------------------------------------------------------ actors


def actor_sync(ray: Any, rate: Rate) -> float:
    actor = small_actor(ray).remote()
    return rate(lambda: ray.get(actor.value.remote()))


def actor_async(ray: Any, rate: Rate) -> float:
    actor = small_actor(ray).remote()
    return rate(lambda: ray.get([actor.value.remote() for _ in range(BATCH)]), BATCH)


def async_actor_sync(ray: Any, rate: Rate) -> float:
    actor = small_async_actor(ray).remote()
    return rate(lambda: ray.get(actor.value.remote()))


def async_actor_async(ray: Any, rate: Rate) -> float:
    actor = small_async_actor(ray).remote()
    return rate(lambda: ray.get([actor.value.remote() for _ in range(BATCH)]), BATCH)


def actors_n_n(ray: Any, rate: Rate) -> float:
    """Two tasks call two actors in turn."""
    actors = [small_actor(ray).remote() for _ in range(2)]
    each = 5000

    @ray.remote
    def call(actors: list[Any]) -> None:
        ray.get([actors[number % 2].value.remote() for number in range(each)])

    return rate(lambda: ray.get([call.remote(actors) for _ in range(2)]), each * 2)


def actors_n_n_with_argument(ray: Any, rate: Rate) -> float:
    """Two actors call an actor of their own, each call with a reference to one object."""
    each = 1000

    @ray.remote
    class Client:
        def __init__(self, server: Any) -> None:
            self.server = server

        def run(self) -> None:
            ref = ray.put(0)
            ray.get([self.server.value.remote(ref) for _ in range(each)])

    servers = [small_actor(ray).remote() for _ in range(2)]
    clients = [Client.remote(server) for server in servers]
    return rate(lambda: ray.get([client.run.remote() for client in clients]), each * 2)
