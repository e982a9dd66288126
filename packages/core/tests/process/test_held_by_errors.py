"""What an error holds is freed with it, where it was made; and nothing waits for the collector."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft._engine import current
from weft.exceptions import TaskCancelledError

if TYPE_CHECKING:
    from collections.abc import Iterator


class LoadedError(Exception):
    def __init__(self, ref: Any) -> None:
        super().__init__("loaded")
        self.ref = ref


@weft.remote
class Fragile:
    def fail(self) -> None:
        raise LoadedError(weft.put("kept"))

    def owned(self) -> int:
        """Return how many objects this process keeps."""
        gc.collect()
        engine: Any = current.engine
        with engine.guard:
            engine.objects.drain()
            engine.objects.machine.check()
        return sum(not entry.owner for entry in engine.objects.machine.entries.values())


def held_by_the_error_of(ref: Any) -> Any:
    with pytest.raises(LoadedError) as caught:
        weft.get(ref)
    return caught.value.ref


@pytest.mark.slow
def test_object_that_an_error_holds_is_freed_by_its_owner() -> None:
    with weft.init(num_cpus=1):
        fragile: Any = Fragile.remote()
        before = weft.get(fragile.owned.remote())
        failed = fragile.fail.remote()
        held = held_by_the_error_of(failed)
        assert weft.get(held) == "kept"
        assert weft.get(fragile.owned.remote()) == before + 1
        del failed
        gc.collect()
        assert weft.get(fragile.owned.remote()) == before + 1
        del held
        gc.collect()
        assert weft.get(fragile.owned.remote()) == before


@pytest.mark.slow
def test_error_that_nobody_reads_holds_nothing_for_long() -> None:
    with weft.init(num_cpus=1):
        fragile: Any = Fragile.remote()
        before = weft.get(fragile.owned.remote())
        failed = fragile.fail.remote()
        assert weft.wait([failed], timeout=30) == ([failed], [])
        assert weft.get(fragile.owned.remote()) == before + 1
        del failed
        assert weft.get(fragile.owned.remote()) == before


def test_object_that_an_error_holds_is_freed_inline() -> None:
    with weft.init(engine="inline"):
        fragile: Any = Fragile.remote()
        failed = fragile.fail.remote()
        cell = weakref.ref(held_by_the_error_of(failed)._entry)
        gc.collect()
        assert cell() is not None
        del failed
        gc.collect()
        assert cell() is None


class Kept:
    """What a frame has while an error goes through it."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@weft.remote
def refuse() -> None:
    raise ValueError("refused")


@weft.remote
def wait_for_ever(began: str, never: str) -> None:
    kept = Kept()
    Path(began).write_bytes(b".")
    Path(never).read_bytes()
    del kept


@weft.remote
def leave_garbage() -> None:
    """Let this worker collect none from here on."""
    gc.disable()


@weft.remote
def count_kept() -> int:
    return sum(type(each).__name__ == "Kept" for each in gc.get_objects())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "inline"])
@pytest.mark.usefixtures("no_collector")
def test_error_that_get_raises_keeps_nothing_once_it_is_gone(engine: Any) -> None:
    seen = []

    def ask(ref: Any) -> None:
        kept = Kept()
        seen.append(weakref.ref(kept))
        weft.get(ref)
        pytest.fail(f"{kept} is of no use")

    with weft.init(num_cpus=1, engine=engine):
        ref = refuse.remote()
        try:
            ask(ref)
        except ValueError:
            assert seen[0]() is not None
        assert seen[0]() is None


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "inline"])
@pytest.mark.usefixtures("no_collector")
def test_future_that_has_failed_keeps_nothing_once_it_is_gone(engine: Any) -> None:
    with weft.init(num_cpus=1, engine=engine):
        future = refuse.remote().future()
        gone = threading.Event()
        seen = weakref.ref(future, lambda _: gone.set())
        assert isinstance(future.exception(timeout=30), ValueError)
        del future
        # The thread that has told it may be about to let it go.
        assert gone.wait(10), seen


@pytest.mark.slow
def test_task_that_is_interrupted_lets_go_of_what_it_had(tmp_path: Path) -> None:
    began, never = tmp_path / "began", tmp_path / "never"
    os.mkfifo(began)
    os.mkfifo(never)
    with weft.init(num_cpus=1):
        weft.get(leave_garbage.remote())
        waiting = wait_for_ever.remote(str(began), str(never))
        began.read_bytes()
        weft.cancel(waiting)
        with pytest.raises(TaskCancelledError):
            weft.get(waiting)
        assert weft.get(count_kept.remote()) == 0


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "inline"])
@pytest.mark.usefixtures("no_collector")
def test_value_that_was_awaited_goes_with_the_last_reference_to_it(engine: Any) -> None:
    gone = threading.Event()

    async def see(ref: Any) -> Any:
        return weakref.ref(await ref, lambda _: gone.set())

    with weft.init(num_cpus=1, engine=engine):
        seen = asyncio.run(see(weft.put(Kept())))
        # The thread that has told of it may be about to let it go.
        assert gone.wait(10), seen


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "inline"])
@pytest.mark.usefixtures("no_collector")
def test_error_that_was_awaited_keeps_nothing_once_it_is_gone(engine: Any) -> None:
    gone = threading.Event()
    seen = []

    async def see(ref: Any) -> None:
        kept = Kept()
        seen.append(weakref.ref(kept, lambda _: gone.set()))
        await ref
        pytest.fail(f"{kept} is of no use")

    async def take(ref: Any) -> None:
        with pytest.raises(ValueError, match="refused"):
            await see(ref)

    with weft.init(num_cpus=1, engine=engine):
        asyncio.run(take(refuse.remote()))
        assert gone.wait(10), seen


@pytest.mark.usefixtures("no_collector")
def test_error_of_what_cannot_travel_keeps_nothing_once_it_is_gone() -> None:
    seen = []

    def put() -> None:
        kept = Kept()
        seen.append(weakref.ref(kept))
        weft.put([threading.Lock(), {kept: kept}])

    with weft.init(engine="inline"):
        with pytest.raises(weft.exceptions.PicklingError):
            put()
        assert seen[0]() is None
