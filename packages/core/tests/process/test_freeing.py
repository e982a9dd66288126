"""Values that are freed by hand: their memory is back, and nobody reads another object's bytes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import weft
from weft._engine import current
from weft._wire import codec
from weft.exceptions import ObjectFreedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
LIMIT_S = 20.0


@pytest.fixture(autouse=True)
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WEFT_SPILL", str(tmp_path))
    monkeypatch.setenv("WEFT_CHECK", "1")
    weft.init(num_cpus=2, log_to_driver=False, object_store_memory=32 * MIB)
    yield
    weft.shutdown()


def data_of(number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.full(4 * MIB, number, np.uint8)


def segments() -> list[dict[str, Any]]:
    engine: Any = current.engine
    return codec.unpack(engine.questions.ask("segments"), list[dict[str, Any]])


def until(condition: Callable[[], object]) -> None:
    """Wait for what the daemon hears soon."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, segments()
        time.sleep(0.01)


@weft.remote
class Keeper:
    def __init__(self) -> None:
        self.kept: list[Any] = []

    def keep(self, refs: list[Any], *, view: bool) -> int:
        """Keep references, whose values are known here then; or views as well."""
        values = weft.get(refs)
        self.kept += [refs, values if view else None]
        return int(sum(value[0] for value in values))

    def read(self) -> list[int]:
        refs, _ = self.kept
        return [int(value.max()) for value in weft.get(refs)]

    def read_views(self) -> list[int]:
        return [int(value.max()) for value in self.kept[1]]

    def make(self, number: int) -> Any:
        return data_of(number)


def test_memory_comes_back_although_references_exist() -> None:
    refs = [weft.put(data_of(number)) for number in range(4)]
    until(lambda: len(segments()) == 4)
    weft.internal.free(refs)
    until(lambda: not segments())
    assert [weft.get(weft.put(data_of(7)))[0] for _ in range(20)] == [7] * 20
    for ref in refs:
        with pytest.raises(ObjectFreedError):
            weft.get(ref)


def test_disk_comes_back_although_references_exist(tmp_path: Path) -> None:
    refs = [weft.put(data_of(number)) for number in range(20)]
    until(lambda: list(tmp_path.glob("*/*/spill-*")))
    weft.internal.free(refs)
    until(lambda: not segments())
    until(lambda: not list(tmp_path.glob("*/*/spill-*")))


def test_process_that_knows_where_the_value_was_finds_no_other_object_there() -> None:
    keeper, maker = Keeper.remote(), Keeper.remote()
    refs = [weft.put(data_of(1)), maker.make.remote(2)]
    assert weft.get(keeper.keep.remote(refs, view=False)) == 3
    weft.internal.free(refs)
    until(lambda: not segments())
    others = [weft.put(data_of(8)), maker.make.remote(9)]
    weft.wait(others, num_returns=2)

    def is_refused() -> bool:
        # The daemon may not have heard yet that it has them mapped, and so has not asked it back.
        try:
            assert weft.get(keeper.read.remote()) == [1, 2]
        except ObjectFreedError:
            return True
        return False

    until(is_refused)
    assert [weft.get(other)[0] for other in others] == [8, 9]


def test_view_outlives_its_value() -> None:
    keeper, maker = Keeper.remote(), Keeper.remote()
    refs = [weft.put(data_of(1)), maker.make.remote(2)]
    views = weft.get(refs)
    assert weft.get(keeper.keep.remote(refs, view=True)) == 3
    weft.internal.free(refs)
    others = [ref for _ in range(4) for ref in (weft.put(data_of(8)), maker.make.remote(9))]
    weft.wait(others, num_returns=len(others))
    assert [int(view.max()) for view in views] == [1, 2]
    assert weft.get(keeper.read_views.remote()) == [1, 2]
