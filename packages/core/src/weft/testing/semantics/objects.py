"""What put, get and wait have to do, and references in all places."""

# ruff: noqa: D101, D102, D103, S101
# mypy: ignore-errors
# These are tests: their names say what they check. mypy takes no notice of decorators of classes.

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import gc
import pickle
import threading
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft.exceptions import GetTimeoutError, ObjectFreedError, PicklingError
from weft.testing.semantics.engines import LIMIT_S, EngineSemantics, Signal, needs

if TYPE_CHECKING:
    from collections.abc import Iterator


@weft.remote
def echo(value: Any) -> Any:
    return value


@weft.remote
def fail() -> None:
    raise ValueError("no")


@weft.remote(num_returns="streaming")
def count_to(number: int) -> Iterator[int]:
    yield from range(number)


class ObjectSemantics(EngineSemantics):
    # ---------------------------------------------------------------- put and get

    @pytest.mark.parametrize(
        "value",
        [
            1,
            "a",
            b"b",
            None,
            2.5,
            [1, [2]],
            {"a": {"b": (1, 2)}},
            {1, 2},
            bytearray(b"c"),
            b"x" * 300_000,
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_values_come_back_as_they_were(self, value: Any) -> None:
        found = weft.get(weft.put(value))
        assert found == value
        assert type(found) is type(value)

    def test_memoryview_stays_a_memoryview(self) -> None:
        found = weft.get(weft.put(memoryview(b"abc")))
        assert isinstance(found, memoryview)
        assert bytes(found) == b"abc"

    def test_stored_value_is_a_copy(self) -> None:
        value = [1]
        ref = weft.put(value)
        value.append(2)
        assert weft.get(ref) == [1]

    def test_values_that_were_got_share_nothing(self) -> None:
        ref = weft.put([1])
        weft.get(ref).append(2)
        assert weft.get(ref) == [1]

    def test_get_of_a_list_keeps_the_order(self) -> None:
        refs = [weft.put(number) for number in range(20)]
        assert weft.get(refs) == list(range(20))

    def test_get_of_a_tuple_gives_a_list(self) -> None:
        assert weft.get((weft.put(1), weft.put(2))) == [1, 2]

    def test_get_of_nothing_gives_nothing(self) -> None:
        assert weft.get([]) == []

    def test_same_reference_can_be_got_twice_at_once(self) -> None:
        ref = weft.put("a")
        assert weft.get([ref, ref]) == ["a", "a"]

    def test_put_of_a_reference_is_refused(self) -> None:
        with pytest.raises(TypeError, match="put"):
            weft.put(weft.put(1))

    @pytest.mark.parametrize("wrong", [3, "ref", None, {"a": 1}])
    def test_get_of_something_else_is_refused(self, wrong: Any) -> None:
        with pytest.raises(TypeError, match=r"weft\.get takes"):
            weft.get(wrong)

    def test_list_with_something_else_is_refused(self) -> None:
        with pytest.raises(TypeError, match="int"):
            weft.get([weft.put(1), 2])

    def test_value_that_cannot_be_pickled_is_refused_with_its_path(self) -> None:
        with pytest.raises(PicklingError, match="lock"):
            weft.put({"lock": threading.Lock()})

    # ---------------------------------------------------------------- time

    def test_get_times_out(self) -> None:
        signal = Signal.remote()
        ref = signal.wait.remote()
        with pytest.raises(GetTimeoutError):
            weft.get(ref, timeout=0.01)
        with pytest.raises(TimeoutError):
            weft.get([ref], timeout=0)
        weft.get(signal.send.remote())
        assert weft.get(ref, timeout=LIMIT_S) == "sent"

    def test_get_of_a_ready_value_never_times_out(self) -> None:
        assert weft.get(weft.put(1), timeout=0) == 1

    def test_negative_timeout_is_refused(self) -> None:
        with pytest.raises(ValueError, match="timeout"):
            weft.get(weft.put(1), timeout=-1)

    def test_get_waits_for_another_thread(self) -> None:
        signal = Signal.remote()
        ref = signal.wait.remote()
        thread = threading.Thread(target=lambda: weft.get(signal.send.remote()))
        thread.start()
        assert weft.get(ref, timeout=LIMIT_S) == "sent"
        thread.join()

    # ---------------------------------------------------------------- wait

    def test_wait_gives_what_is_ready_and_the_rest(self) -> None:
        signal = Signal.remote()
        pending, there = signal.wait.remote(), weft.put(1)
        assert weft.wait([pending, there], timeout=LIMIT_S) == ([there], [pending])

    def test_wait_gives_at_most_what_was_asked(self) -> None:
        refs = [weft.put(number) for number in range(4)]
        ready, rest = weft.wait(refs, num_returns=2)
        assert (ready, rest) == (refs[:2], refs[2:])

    def test_wait_for_all_gives_all(self) -> None:
        refs = [echo.remote(number) for number in range(5)]
        ready, rest = weft.wait(refs, num_returns=5, timeout=LIMIT_S)
        assert (ready, rest) == (refs, [])

    def test_wait_without_time_does_not_wait(self) -> None:
        signal = Signal.remote()
        pending = signal.wait.remote()
        assert weft.wait([pending], timeout=0) == ([], [pending])

    def test_wait_gives_fewer_when_time_is_up(self) -> None:
        signal = Signal.remote()
        pending, there = signal.wait.remote(), weft.put(1)
        assert weft.wait([pending, there], num_returns=2, timeout=0.01) == ([there], [pending])

    def test_failed_task_is_ready(self) -> None:
        ref = fail.remote()
        assert weft.wait([ref], timeout=LIMIT_S) == ([ref], [])

    def test_wait_of_nothing_gives_nothing(self) -> None:
        assert weft.wait([]) == ([], [])

    def test_wait_of_one_reference_is_refused(self) -> None:
        with pytest.raises(TypeError, match=r"\[ref\]"):
            weft.wait(weft.put(1))

    def test_wait_of_something_else_is_refused(self) -> None:
        with pytest.raises(TypeError, match="int"):
            weft.wait([1])

    def test_reference_given_twice_is_refused(self) -> None:
        ref = weft.put(1)
        with pytest.raises(ValueError, match="twice"):
            weft.wait([ref, ref])

    def test_reference_given_with_its_copy_is_refused(self) -> None:
        ref = weft.put(1)
        with pytest.raises(ValueError, match="twice"):
            weft.wait([ref, weft.get(weft.put([ref]))[0]])

    def test_stream_given_twice_is_refused(self) -> None:
        stream = count_to.remote(3)
        with pytest.raises(ValueError, match="twice"):
            weft.wait([weft.put(1), stream, stream])

    def test_what_wait_left_over_is_looked_at_again(self) -> None:
        """Each call knows what the one before has found to be right."""
        refs = [weft.put(number) for number in range(4)]
        ready, rest = weft.wait(refs)
        assert (ready, rest) == (refs[:1], refs[1:])
        assert weft.wait(tuple(rest)) == (refs[1:2], refs[2:])
        with pytest.raises(ValueError, match="twice"):
            weft.wait([*rest, rest[0]])
        with pytest.raises(TypeError, match="int"):
            weft.wait([*rest, 1])
        rest[0] = rest[1]
        with pytest.raises(ValueError, match="twice"):
            weft.wait(rest)
        rest.clear()
        assert weft.wait(rest) == ([], [])

    def test_waiting_one_by_one_gives_each_once(self) -> None:
        refs = [echo.remote(number) for number in range(50)]
        found = []
        rest = refs
        while rest:
            ready, rest = weft.wait(rest, timeout=LIMIT_S)
            found += ready
        assert sorted(weft.get(found)) == list(range(50))
        assert set(found) == set(refs)

    @pytest.mark.parametrize("number", [0, -1, 3, True, 1.0])
    def test_number_out_of_range_is_refused(self, number: Any) -> None:
        with pytest.raises(ValueError, match="num_returns"):
            weft.wait([weft.put(1), weft.put(2)], num_returns=number)

    def test_fetch_local_may_be_off(self) -> None:
        ref = weft.put(1)
        assert weft.wait([ref], fetch_local=False) == ([ref], [])


class ReferenceSemantics(EngineSemantics):
    # ---------------------------------------------------------------- identity

    def test_references_are_hashable_and_equal_to_their_copies(self) -> None:
        ref, other = weft.put(1), weft.put(1)
        assert len({ref, other, copy.copy(ref), copy.deepcopy(ref)}) == 2
        assert ref != other

    def test_reference_that_travelled_is_equal(self) -> None:
        ref = weft.put(1)
        assert weft.get(echo.remote([ref])) == [ref]

    def test_reference_knows_its_ids(self) -> None:
        ref = weft.put(1)
        assert len(ref.binary()) == len(ref.hex()) // 2 == ref.size()
        assert not ref.is_nil()
        assert ref.hex().startswith(ref.task_id().hex()[:24])
        assert ref.job_id().hex() == weft.get_runtime_context().get_job_id()

    def test_plain_pickle_refuses_references(self) -> None:
        with pytest.raises(TypeError, match="counts who holds it"):
            pickle.dumps(weft.put(1))

    # ---------------------------------------------------------------- places

    def test_references_lie_in_objects(self) -> None:
        outer = weft.put({"inner": [weft.put("deep")]})
        gc.collect()
        assert weft.get(weft.get(outer)["inner"][0]) == "deep"

    def test_references_lie_in_results(self) -> None:
        @weft.remote
        def make() -> list[Any]:
            return [weft.put(number) for number in range(3)]

        assert weft.get(weft.get(make.remote())) == [0, 1, 2]

    def test_references_lie_in_objects_in_objects(self) -> None:
        ref = weft.put(weft.get(weft.put([weft.put([weft.put(1)])])))
        gc.collect()
        assert weft.get(weft.get(weft.get(ref)[0])[0]) == 1

    def test_references_lie_in_attributes(self) -> None:
        class Holder:
            def __init__(self, ref: Any) -> None:
                self.ref = ref

        @weft.remote
        def read(holder: Holder) -> int:
            return weft.get(holder.ref)

        assert weft.get(read.remote(Holder(weft.put(5)))) == 5

    def test_references_lie_in_closures(self) -> None:
        ref = weft.put(5)

        @weft.remote
        def read() -> int:
            return weft.get(ref)

        assert weft.get(read.remote()) == 5

    def test_value_outlives_the_callers_reference(self) -> None:
        @weft.remote
        def read(refs: list[Any]) -> Any:
            return weft.get(refs[0])

        result = read.remote([weft.put("kept")])
        gc.collect()
        assert weft.get(result, timeout=LIMIT_S) == "kept"

    def test_many_references_in_one_object_come_back(self) -> None:
        refs = [weft.put(number) for number in range(500)]
        assert weft.get(weft.get(weft.put(refs))) == list(range(500))

    # ---------------------------------------------------------------- freed by hand

    @pytest.mark.parametrize("value", [1, "small", {"packed": []}, bytes(300_000)])
    def test_value_that_was_freed_by_hand_is_an_error_that_says_so(self, value: Any) -> None:
        ref, kept = weft.put(value), weft.put(value)
        weft.internal.free(ref)
        for _ in range(2):
            with pytest.raises(ObjectFreedError, match=f"{ref.hex()} was freed by hand"):
                weft.get(ref)
        weft.internal.free([ref], local_only=True)
        assert weft.wait([ref], timeout=LIMIT_S) == ([ref], [])
        assert weft.get(kept) == value

    def test_result_that_was_freed_by_hand_is_not_made_again(self) -> None:
        ref = echo.remote(bytes(300_000))
        weft.wait([ref], timeout=LIMIT_S)
        weft.internal.free([ref])
        with pytest.raises(ObjectFreedError):
            weft.get(ref)

    def test_argument_that_was_freed_by_hand_fails_its_task(self) -> None:
        ref = weft.put(bytes(300_000))
        weft.internal.free(ref)
        with pytest.raises(ObjectFreedError):
            weft.get(echo.remote(ref))

    def test_borrower_frees_for_the_owner(self) -> None:
        @weft.remote
        def free(refs: list[Any]) -> None:
            weft.internal.free(refs)

        ref = weft.put(bytes(300_000))
        weft.get(free.remote([ref]))
        with pytest.raises(ObjectFreedError):
            weft.get(ref)

    @needs("concurrency")
    def test_result_that_is_freed_before_its_task_ends_is_an_error_at_once(self) -> None:
        signal = Signal.remote()

        @weft.remote
        def wait_for(signal: Any) -> bytes:
            weft.get(signal.wait.remote())
            return bytes(300_000)

        ref = wait_for.remote(signal)
        weft.internal.free(ref)
        with pytest.raises(ObjectFreedError):
            weft.get(ref, timeout=LIMIT_S)
        weft.get(signal.send.remote())

    @pytest.mark.parametrize("given", [1, [1], None, "ref"])
    def test_what_is_no_reference_cannot_be_freed(self, given: Any) -> None:
        with pytest.raises(TypeError, match=r"free takes an ObjectRef or a list of them"):
            weft.internal.free(given)

    # ---------------------------------------------------------------- futures

    def test_future_gets_the_value(self) -> None:
        assert echo.remote(3).future().result(timeout=LIMIT_S) == 3

    def test_future_gets_the_error(self) -> None:
        assert isinstance(fail.remote().future().exception(timeout=LIMIT_S), ValueError)

    def test_futures_work_with_as_completed(self) -> None:
        futures = [echo.remote(number).future() for number in range(3)]
        done = concurrent.futures.as_completed(futures, timeout=LIMIT_S)
        assert sorted(future.result() for future in done) == [0, 1, 2]

    def test_done_result_and_exception_answer(self) -> None:
        ref = echo.remote(2)
        assert ref.result() == 2
        assert ref.done()
        assert ref.exception() is None
        assert isinstance(fail.remote().exception(), ValueError)

    # ---------------------------------------------------------------- asyncio

    def test_reference_can_be_awaited(self) -> None:
        async def main() -> Any:
            return await echo.remote(3)

        assert asyncio.run(main()) == 3

    def test_pending_reference_can_be_awaited(self) -> None:
        async def main() -> Any:
            signal = Signal.remote()
            waiting = asyncio.ensure_future(signal.wait.remote())
            await signal.send.remote()
            return await waiting

        assert asyncio.run(main()) == "sent"

    def test_await_raises_the_tasks_error(self) -> None:
        async def main() -> None:
            await fail.remote()

        with pytest.raises(ValueError, match="no"):
            asyncio.run(main())

    def test_gather_takes_references(self) -> None:
        async def main() -> list[Any]:
            return list(await asyncio.gather(*[echo.remote(number) for number in range(3)]))

        assert asyncio.run(main()) == [0, 1, 2]

    def test_asyncio_wait_takes_references(self) -> None:
        async def main() -> tuple[int, int]:
            signal = Signal.remote()
            pending: Any = signal.wait.remote()
            there: Any = echo.remote(1)
            done, rest = await asyncio.wait({pending, there}, return_when=asyncio.FIRST_COMPLETED)
            assert (done, rest) == ({there}, {pending})
            return len(done), len(rest)

        assert asyncio.run(main()) == (1, 1)

    def test_task_group_takes_references(self) -> None:
        async def fetch(ref: Any) -> Any:
            return await ref

        async def main() -> list[Any]:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(fetch(echo.remote(number))) for number in range(3)]
            return [task.result() for task in tasks]

        assert asyncio.run(main()) == [0, 1, 2]

    def test_as_future_can_be_cancelled_without_harm(self) -> None:
        async def main() -> Any:
            signal = Signal.remote()
            ref = signal.wait.remote()
            ref.as_future().cancel()
            await signal.send.remote()
            return await ref

        assert asyncio.run(main()) == "sent"

    # ---------------------------------------------------------------- why

    def test_why_tells_of_a_pending_and_of_a_ready_value(self) -> None:
        signal = Signal.remote()
        ref = echo.remote(signal.wait.remote())
        assert "Signal.wait" in weft.why(ref)
        weft.get(signal.send.remote())
        weft.get(ref)
        assert "ready" in weft.why(ref)

    def test_why_of_something_else_is_refused(self) -> None:
        with pytest.raises(TypeError):
            weft.why(3)

    @needs("processes")
    def test_arrays_come_back_as_read_only_views(self) -> None:
        numpy = pytest.importorskip("numpy")
        array = weft.get(weft.put(numpy.zeros(1_000_000)))
        assert not array.flags.writeable
