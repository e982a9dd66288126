"""What generators have to do: references one by one, errors in their place, back-pressure, ends."""

# ruff: noqa: D101, D102, D103, S101
# mypy: ignore-errors
# These are tests: their names say what they check. mypy takes no notice of decorators of classes.

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft.exceptions import GetTimeoutError
from weft.testing.semantics.engines import LIMIT_S, EngineSemantics, Signal, needs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@weft.remote
def count(limit: int, start: int = 0) -> Iterator[int]:
    yield from range(start, limit)


@weft.remote
class Source:
    def __init__(self) -> None:
        self.calls = 0

    @weft.method
    def items(self, limit: int) -> Iterator[int]:
        for number in range(limit):
            self.calls += 1
            yield number

    @weft.method
    def made(self) -> int:
        return self.calls


@weft.remote
class AsyncSource:
    @weft.method
    async def items(self, limit: int) -> AsyncIterator[int]:
        for number in range(limit):
            await asyncio.sleep(0)
            yield number

    @weft.method
    async def fail(self) -> AsyncIterator[int]:
        yield 1
        raise ValueError("broken")


class StreamSemantics(EngineSemantics):
    def test_generator_functions_stream_by_default(self) -> None:
        stream = count.remote(3)
        assert isinstance(stream, weft.ObjectRefGenerator)
        assert [weft.get(ref) for ref in stream] == [0, 1, 2]

    def test_streaming_can_be_asked_for(self) -> None:
        @weft.remote(num_returns="streaming")
        def letters() -> Iterator[str]:
            yield from "ab"

        assert [weft.get(ref) for ref in letters.remote()] == ["a", "b"]

    def test_arguments_of_generators_are_checked_and_resolved(self) -> None:
        with pytest.raises(TypeError, match="limit"):
            count.remote()
        assert [weft.get(ref) for ref in count.remote(weft.put(2), start=weft.put(1))] == [1]

    def test_empty_stream_ends_at_once(self) -> None:
        assert list(count.remote(0)) == []

    def test_finished_stream_stays_finished(self) -> None:
        stream = count.remote(1)
        list(stream)
        assert stream.is_finished()
        with pytest.raises(StopIteration):
            next(stream)

    def test_items_can_be_fetched_in_any_order(self) -> None:
        refs = list(count.remote(4))
        assert weft.get(refs[::-1]) == [3, 2, 1, 0]

    def test_items_can_be_passed_to_tasks(self) -> None:
        double = weft.remote(lambda number: number * 2)
        assert weft.get([double.remote(ref) for ref in count.remote(3)]) == [0, 2, 4]

    def test_large_items_travel(self) -> None:
        @weft.remote
        def blocks() -> Iterator[bytes]:
            for number in range(3):
                yield bytes([number]) * 200_000

        assert [weft.get(ref)[0] for ref in blocks.remote()] == [0, 1, 2]

    def test_error_comes_where_the_failed_item_would_be(self) -> None:
        @weft.remote
        def broken() -> Iterator[int]:
            yield 1
            raise ValueError("broken")

        stream = broken.remote()
        assert weft.get(next(stream)) == 1
        failed = next(stream)
        with pytest.raises(ValueError, match="broken"):
            weft.get(failed)
        with pytest.raises(StopIteration):
            next(stream)

    def test_error_before_the_first_item_is_the_first_item(self) -> None:
        @weft.remote
        def broken() -> Iterator[int]:
            raise ValueError("broken")
            yield 1

        with pytest.raises(ValueError, match="broken"):
            weft.get(next(broken.remote()))

    def test_completed_is_ready_at_the_end(self) -> None:
        stream = count.remote(3)
        refs = list(stream)
        assert weft.get(stream.completed(), timeout=LIMIT_S) is None
        assert len(refs) == 3

    def test_completed_needs_no_consumer(self) -> None:
        stream = count.remote(3)
        weft.get(stream.completed(), timeout=LIMIT_S)
        assert weft.get(list(stream)) == [0, 1, 2]

    def test_completed_raises_the_error_of_the_task(self) -> None:
        @weft.remote
        def broken() -> Iterator[int]:
            yield 1
            raise ValueError("broken")

        stream = broken.remote()
        list(stream)
        with pytest.raises(ValueError, match="broken"):
            weft.get(stream.completed(), timeout=LIMIT_S)

    def test_infinite_stream_can_be_left(self) -> None:
        @weft.remote
        def forever() -> Iterator[int]:
            number = 0
            while True:
                yield number
                number += 1

        stream = forever.options(backpressure=2).remote()
        assert [weft.get(next(stream)) for _ in range(5)] == [0, 1, 2, 3, 4]
        stream.close()
        with pytest.raises(StopIteration):
            next(stream)

    def test_dropped_stream_ends_its_task(self) -> None:
        stream = weft.remote(_endless).options(num_returns="streaming", backpressure=1).remote()
        assert weft.get(next(stream)) == 0
        del stream
        gc.collect()
        assert weft.get(weft.remote(abs).remote(-1), timeout=LIMIT_S) == 1

    def test_send_takes_none_alone(self) -> None:
        stream = count.remote(2)
        assert weft.get(stream.send(None)) == 0
        with pytest.raises(TypeError):
            stream.send(3)

    def test_throw_raises_and_closes(self) -> None:
        stream = count.remote(2)
        with pytest.raises(KeyError):
            stream.throw(KeyError("k"))
        with pytest.raises(StopIteration):
            next(stream)

    def test_stream_waits_for_its_arguments(self) -> None:
        signal = Signal.remote()

        @weft.remote
        def echo(word: str) -> Iterator[str]:
            yield word

        stream = echo.remote(signal.wait.remote())
        ready, rest = weft.wait([stream], timeout=0)
        assert (ready, rest) == ([], [stream])
        weft.get(signal.send.remote())
        assert weft.get(next(stream)) == "sent"

    def test_stream_can_be_waited_for_beside_references(self) -> None:
        signal = Signal.remote()
        pending = signal.wait.remote()
        stream = count.remote(2)
        ready, rest = weft.wait([pending, stream], timeout=LIMIT_S)
        assert (ready, rest) == ([stream], [pending])

    def test_get_of_a_stream_says_what_to_do(self) -> None:
        with pytest.raises(TypeError, match="iterate"):
            weft.get(count.remote(1))

    def test_async_for_takes_the_items(self) -> None:
        async def consume() -> list[int]:
            return [await ref async for ref in count.remote(3)]

        assert asyncio.run(consume()) == [0, 1, 2]

    def test_anext_raises_at_the_end(self) -> None:
        async def consume() -> None:
            stream = count.remote(1)
            await anext(stream)
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

        asyncio.run(consume())

    def test_function_that_is_no_generator_cannot_stream(self) -> None:
        @weft.remote(num_returns="streaming", max_retries=0)
        def plain() -> int:
            return 1

        with pytest.raises(TypeError):
            weft.get(next(plain.remote()))

    def test_generator_is_retried_from_where_it_failed(self) -> None:
        tries = Source.remote()

        @weft.remote(max_retries=1, retry_exceptions=True)
        def fail_once() -> Iterator[int]:
            weft.get(tries.items.options(num_returns="dynamic").remote(1))
            yield 1
            yield 2
            if weft.get(tries.made.remote()) == 1:
                raise ValueError("once")
            yield 3

        assert [weft.get(ref) for ref in fail_once.remote()] == [1, 2, 3]

    # ---------------------------------------------------------------- methods

    def test_methods_stream(self) -> None:
        source = Source.remote()
        assert [weft.get(ref) for ref in source.items.remote(3)] == [0, 1, 2]

    def test_calls_after_a_generator_method_see_what_it_did(self) -> None:
        source = Source.remote()
        stream = source.items.remote(3)
        assert weft.get(source.made.remote(), timeout=LIMIT_S) == 3
        assert weft.get(list(stream)) == [0, 1, 2]

    def test_two_streams_of_one_actor_come_one_after_the_other(self) -> None:
        source = Source.remote()
        first, second = source.items.remote(2), source.items.remote(2)
        assert weft.get(next(second), timeout=LIMIT_S) == 0
        assert weft.get(list(first)) == [0, 1]

    def test_async_generator_methods_stream(self) -> None:
        source = AsyncSource.remote()
        assert [weft.get(ref) for ref in source.items.remote(3)] == [0, 1, 2]

    def test_error_of_an_async_generator_comes_in_its_place(self) -> None:
        stream = AsyncSource.remote().fail.remote()
        assert weft.get(next(stream)) == 1
        with pytest.raises(ValueError, match="broken"):
            weft.get(next(stream))

    def test_async_generator_stops_at_its_back_pressure(self) -> None:
        source = AsyncSource.remote()
        stream = source.items.options(backpressure=2).remote(50)
        assert [weft.get(ref) for ref in stream] == list(range(50))

    @needs("concurrency")
    def test_generator_runs_ahead_of_its_consumer(self) -> None:
        signal = Signal.remote()

        @weft.remote
        def tell(signal: Any) -> Iterator[int]:
            yield 1
            weft.get(signal.send.remote())
            yield 2

        stream = tell.remote(signal)
        assert weft.get(signal.wait.remote(), timeout=LIMIT_S) == "sent"
        assert weft.get(list(stream)) == [1, 2]

    @needs("concurrency")
    def test_next_item_can_time_out(self) -> None:
        signal = Signal.remote()

        @weft.remote
        def late(signal: Any) -> Iterator[int]:
            weft.get(signal.wait.remote())
            yield 1

        stream = late.remote(signal)
        with pytest.raises(GetTimeoutError):
            stream._next_sync(0)
        weft.get(signal.send.remote())
        assert weft.get(next(stream)) == 1


def _endless() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1
