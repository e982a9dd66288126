from __future__ import annotations

import asyncio
import queue as standard_queue
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import weft
from weft.exceptions import ActorDiedError, OptionError, SessionError
from weft.util.queue import Empty, Full, Queue

Make = Callable[..., Queue[Any]]

# For what the inline engine cannot do.
processes = pytest.mark.parametrize(
    "engine", [pytest.param("local", marks=pytest.mark.slow)], indirect=True
)


@pytest.fixture
def make(engine: str) -> Iterator[Callable[..., Queue[Any]]]:
    """Makes queues, which end with the test."""
    made = []

    def make(maxsize: int = 0) -> Queue[Any]:
        made.append(Queue(maxsize))
        return made[-1]

    yield make
    for queue in made:
        queue.shutdown()


def test_items_leave_in_the_order_in_which_they_came(make: Make) -> None:
    queue = make()
    for item in (1, "two", [3], None):
        queue.put(item)
    assert len(queue) == queue.size() == queue.qsize() == 4
    assert [queue.get() for _ in range(4)] == [1, "two", [3], None]
    assert queue.empty()
    assert not queue.full()


def test_full_queue_takes_no_more(make: Make) -> None:
    queue = make(maxsize=2)
    queue.put_nowait_batch([1, 2])
    assert queue.full()
    with pytest.raises(Full):
        queue.put_nowait(3)
    with pytest.raises(Full):
        queue.put(3, block=False)
    with pytest.raises(standard_queue.Full):
        queue.put(3, timeout=0.01)
    assert queue.get_nowait_batch(2) == [1, 2]


def test_empty_queue_has_nothing_to_give(make: Make) -> None:
    queue = make()
    with pytest.raises(Empty):
        queue.get_nowait()
    with pytest.raises(Empty):
        queue.get(block=False)
    with pytest.raises(standard_queue.Empty):
        queue.get(timeout=0.01)


def test_batches_go_as_a_whole_or_not_at_all(make: Make) -> None:
    queue = make(maxsize=3)
    queue.put_nowait_batch([1, 2])
    with pytest.raises(Full):
        queue.put_nowait_batch([3, 4])
    with pytest.raises(Empty):
        queue.get_nowait_batch(3)
    assert queue.get_nowait_batch(2) == [1, 2]
    assert queue.get_nowait_batch(0) == []


def test_wrong_arguments_are_refused(make: Make) -> None:
    queue = make()
    with pytest.raises(ValueError, match="timeout"):
        queue.put(1, timeout=-1)
    with pytest.raises(ValueError, match="timeout"):
        queue.get(timeout=-1)
    with pytest.raises(ValueError, match="num_items"):
        queue.get_nowait_batch(-1)
    with pytest.raises(TypeError, match="num_items"):
        queue.get_nowait_batch("2")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        queue.put_nowait_batch(1)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="maxsize"):
        Queue(maxsize="2")  # type: ignore[arg-type]


def test_coroutines_wait_without_blocking_their_loop(make: Make) -> None:
    async def both() -> list[int]:
        queue = make(maxsize=1)

        async def consume() -> list[int]:
            return [await queue.get_async() for _ in range(5)]

        consumer = asyncio.create_task(consume())
        for number in range(5):
            await queue.put_async(number)
        with pytest.raises(Empty):
            await queue.get_async(timeout=0.01) if consumer.done() else await queue.get_async(False)
        return await consumer

    assert asyncio.run(both()) == [0, 1, 2, 3, 4]


def test_cancelled_consumer_takes_no_item(make: Make) -> None:
    async def give_up() -> int:
        queue = make()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.get_async(), 0.01)
        await queue.put_async(7)
        return await queue.get_async(timeout=10)

    assert asyncio.run(give_up()) == 7


@pytest.mark.parametrize("force", [False, True])
def test_queue_ends_with_shutdown(engine: str, *, force: bool) -> None:
    queue: Queue[int] = Queue()
    others: Queue[int] = Queue.__new__(Queue)
    others.__dict__.update(queue.__dict__)
    queue.shutdown(force)
    queue.shutdown(force)
    with pytest.raises(SessionError):
        queue.put(1)
    with pytest.raises(ActorDiedError):
        others.put(1)


def test_actor_behind_it_takes_options(engine: str) -> None:
    queue: Queue[int] = Queue(actor_options={"name": "letters"})
    assert "letters" in weft.util.list_named_actors()
    queue.shutdown()
    with pytest.raises(OptionError):
        Queue(actor_options={"nmae": "letters"})


@processes
def test_tasks_share_a_queue(make: Make) -> None:
    @weft.remote
    def put_all(queue: Queue[int], numbers: range) -> None:
        for number in numbers:
            queue.put(number)

    queue = make(maxsize=3)
    producers = [put_all.remote(queue, range(start, start + 50)) for start in (0, 100)]
    items = [queue.get(timeout=30) for _ in range(100)]
    weft.get(producers)
    assert sorted(items) == [*range(50), *range(100, 150)]
    # Those of one producer keep their order.
    assert [item for item in items if item < 100] == list(range(50))


@processes
def test_more_consumers_than_actors_take_calls_keep_no_producer_out(make: Make) -> None:
    async def many() -> int:
        queue = make()
        consumers = [asyncio.create_task(queue.get_async()) for _ in range(1500)]
        await asyncio.sleep(0)
        for number in range(1500):
            queue.put(number)
        return sum(await asyncio.gather(*consumers))

    assert asyncio.run(many()) == sum(range(1500))


@processes
def test_interrupted_consumer_takes_no_item(make: Make) -> None:
    queue = make()
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        queue.get()
    queue.put(7)
    assert queue.get(timeout=10) == 7
