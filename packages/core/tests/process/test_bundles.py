"""Tasks with many small values, which together are too large for a message."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft._engine import current
from weft._runtime import bundles
from weft._wire.frame import MAX_BODY_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

WAIT_S = 60.0
SMALL_BYTES = 60 * 1024


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    weft.init(num_cpus=1, log_to_driver=False)
    yield
    weft.shutdown()


@pytest.fixture
def in_small_bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver sends more than a few bytes in bundles."""
    monkeypatch.setattr(bundles, "LOOSE_BYTES", 100)
    monkeypatch.setattr(bundles, "BUNDLE_BYTES", 1000)


@weft.remote
def join(*parts: Any, sep: str = "") -> str:
    return sep.join(map(str, parts))


@weft.remote
def total_and_peak(*parts: bytes) -> tuple[int, int]:
    """How many bytes came, and the most memory that this process ever had."""
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return sum(map(len, parts)), peak_bytes


class Keeper:
    def __init__(self, *parts: str) -> None:
        self.parts = parts

    def join(self, *parts: str) -> str:
        return "".join(self.parts + parts)


def segments_in_use() -> list[str]:
    engine: Any = current.engine
    return list(engine.objects.store._mine)


def words() -> list[Any]:
    return [weft.put(f"{number} " * 10) for number in range(50)]


TEXT = "".join(f"{number} " * 10 for number in range(50))


@pytest.mark.usefixtures("in_small_bundles")
def test_task_gets_its_arguments_in_their_order_and_the_bundles_go_with_it() -> None:
    assert weft.get(join.remote(*words()), timeout=WAIT_S) == TEXT
    assert not segments_in_use()


@pytest.mark.usefixtures("in_small_bundles")
def test_bundled_arguments_stand_beside_large_ones_and_references_inside() -> None:
    inner = weft.put("inner")
    large = weft.put("x" * 1_000_000)
    holding = weft.put([inner])

    @weft.remote
    def look(first: Any, *rest: Any, held: Any, own: str) -> tuple[Any, ...]:
        return len(first), "".join(rest), weft.get(held[0]), len(own)

    ref = look.remote(large, *words(), held=holding, own="y" * 1_000_000)
    assert weft.get(ref, timeout=WAIT_S) == (1_000_000, TEXT, "inner", 1_000_000)


@pytest.mark.usefixtures("in_small_bundles")
def test_bundles_stay_for_the_next_attempt() -> None:
    @weft.remote(max_retries=1, retry_exceptions=True)
    def fail_once(counter: Any, *parts: str) -> str:
        if weft.get(counter.up.remote()) == 1:
            raise ValueError("once")
        return "".join(parts)

    @weft.remote(num_cpus=0)
    class Count:
        def __init__(self) -> None:
            self.count = 0

        def up(self) -> int:
            self.count += 1
            return self.count

    counter = Count.remote()
    assert weft.get(fail_once.remote(counter, *words()), timeout=WAIT_S) == TEXT
    assert not segments_in_use()


@pytest.mark.usefixtures("in_small_bundles")
def test_actor_gets_bundles_when_it_is_made_and_made_again_and_called() -> None:
    actor = weft.remote(Keeper).options(max_restarts=1).remote(*words())
    assert weft.get(actor.join.remote(*words()), timeout=WAIT_S) == TEXT + TEXT
    weft.kill(actor, no_restart=False)
    assert weft.get(actor.join.remote(), timeout=WAIT_S) == TEXT
    weft.kill(actor)
    with pytest.raises(weft.exceptions.ActorDiedError):
        weft.get(actor.join.remote(), timeout=WAIT_S)
    assert not segments_in_use()


@pytest.mark.usefixtures("in_small_bundles")
def test_store_without_room_fails_the_task_and_the_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = words()
    engine: Any = current.engine

    def refuse(size_bytes: int) -> Any:
        raise weft.exceptions.StoreFullError(f"no room for {size_bytes} bytes")

    monkeypatch.setattr(engine.objects.store, "reserve_passing", refuse)
    task = join.remote(*parts)
    waiting = join.remote(join.remote(), *parts)
    actor = weft.remote(Keeper).remote(*parts)
    for ref in (task, waiting, actor.join.remote()):
        with pytest.raises(weft.exceptions.WeftError, match="no room"):
            weft.get(ref, timeout=WAIT_S)
    monkeypatch.undo()
    assert weft.get(join.remote(*parts), timeout=WAIT_S) == TEXT


def test_many_small_results_come_in_bundles_too() -> None:
    @weft.remote(num_returns=100)
    def make() -> list[bytes]:
        return [bytes([number]) * SMALL_BYTES for number in range(100)]

    @weft.remote
    def kept() -> list[str]:
        return segments_in_use()

    refs = make.remote()
    assert [value[0] for value in weft.get(refs, timeout=WAIT_S)] == list(range(100))
    assert weft.get(kept.remote(), timeout=WAIT_S) == []


def test_arguments_that_no_frame_holds_reach_the_task() -> None:
    ref = weft.put(bytes(SMALL_BYTES))
    count = MAX_BODY_BYTES // SMALL_BYTES + 100
    total, peak_bytes = weft.get(total_and_peak.remote(*[ref] * count), timeout=WAIT_S)
    assert total == count * SMALL_BYTES
    assert peak_bytes < 1.5 * 2**30
    # Once in the worker and once in the store, from where they went with the task.
    assert not segments_in_use()
