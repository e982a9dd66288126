"""What an error holds is freed with it, where it was made."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

import weft
from weft._engine import current


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
