"""Queues, pools and what waits for many references, as type checkers see them. Never run."""

from collections.abc import Iterator
from typing import Any, assert_type

import weft
from weft.util import ActorPool, as_completed, progress
from weft.util.multiprocessing import Pool
from weft.util.multiprocessing.pool import AsyncResult, OrderedIMapIterator
from weft.util.queue import Queue


@weft.remote
def square(number: int) -> int:
    return number * number


def use_queue(queue: Queue[int]) -> None:
    assert_type(queue.put(1), None)
    assert_type(queue.get(timeout=1.0), int)
    assert_type(queue.get_nowait(), int)
    assert_type(queue.get_nowait_batch(2), list[int])
    queue.put_nowait_batch(number for number in range(3))


async def use_queue_from_a_coroutine(queue: Queue[int]) -> int:
    await queue.put_async(1, timeout=0.5)
    assert_type(await queue.get_async(), int)
    return await queue.get_async(block=False)


def use_references() -> None:
    refs = [square.remote(number) for number in range(3)]
    assert_type(as_completed(refs, timeout=1.0), Iterator[int])
    assert_type(as_completed(refs, yield_obj_refs=True), Iterator[weft.ObjectRef[int]])
    for ref in progress(refs, "squares"):
        assert_type(weft.get(ref), int)


def use_pools(actors: list[Any]) -> None:
    with Pool(2) as pool:
        assert_type(pool.map_async(str, range(3)), AsyncResult)
        assert_type(pool.imap(str, range(3)), OrderedIMapIterator)
    workers: ActorPool[int] = ActorPool(actors)
    workers.submit(lambda actor, number: actor.work.remote(number + 1), 3)
