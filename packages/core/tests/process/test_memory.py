"""Objects that do not fit: put waits for room, what is cold goes to disk and comes back.

Every test has a session of its own, whose store is small.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import subprocess
import threading
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import weft
from weft._engine import current
from weft.exceptions import ObjectLostError, StoreFullError
from weft.util import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
LIMIT_S = 20.0


@pytest.fixture
def spill_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's objects go when memory is short."""
    monkeypatch.setenv("WEFT_SPILL", str(tmp_path))
    monkeypatch.setenv("WEFT_CHECK", "1")
    return tmp_path


@pytest.fixture
def session(spill_dir: Path) -> Iterator[Callable[..., None]]:
    """Begins a session with a store of so many MiB; ended after the test."""

    def begin(store_mib: int, num_cpus: int = 2) -> None:
        weft.init(num_cpus=num_cpus, object_store_memory=store_mib * MIB, log_to_driver=False)

    yield begin
    gc.collect()
    weft.shutdown()
    assert list(spill_dir.glob("*/*")) == []


def data_of(number: int, size_bytes: int = 4 * MIB) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(number).integers(0, 256, size_bytes, dtype=np.uint8)


def checksum(data: np.ndarray[Any, Any]) -> int:
    return zlib.crc32(data)


def until(condition: Callable[[], object]) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def store_dir() -> Path:
    engine: Any = current.engine
    return Path(engine.welcome.store_dir)


def memory_bytes() -> int:
    """How much shared memory the session's segments take."""
    return sum(status.st_blocks * 512 for status in status_of(store_dir().iterdir()))


def line_of(text: str) -> int:
    """Return the line of this file that begins so."""
    lines = Path(__file__).read_text().splitlines()
    return next(at for at, line in enumerate(lines, 1) if line.strip().startswith(text))


def spilled_bytes(spill_dir: Path) -> int:
    return sum(status.st_size for status in status_of(spill_dir.glob("*/*/spill-*")))


def status_of(paths: Iterable[Path]) -> Iterator[os.stat_result]:
    """Yield the status of those files that have not gone meanwhile."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            yield path.stat()


# ------------------------------------------------------------------ more than fits


def test_ten_times_the_store_is_put_and_got(session: Callable[..., None], spill_dir: Path) -> None:
    session(32)
    refs = [weft.put(data_of(number)) for number in range(80)]
    assert memory_bytes() <= 32 * MIB
    assert spilled_bytes(spill_dir) > 200 * MIB
    for number, ref in enumerate(refs):
        assert np.array_equal(weft.get(ref), data_of(number))
    # In another order than they were put.
    for number in range(0, 80, 7):
        assert np.array_equal(weft.get(refs[number]), data_of(number))
    assert memory_bytes() <= 32 * MIB


def test_what_fits_is_never_written(session: Callable[..., None], spill_dir: Path) -> None:
    session(48)
    refs = [weft.put(data_of(number)) for number in range(5)]
    for _ in range(20):
        refs.append(weft.put(data_of(1)))
        del refs[-1]
    assert spilled_bytes(spill_dir) == 0


def test_tasks_read_and_return_more_than_fits(session: Callable[..., None]) -> None:
    session(48)

    @weft.remote
    def reverse(data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return data[::-1].copy()

    inputs = [weft.put(data_of(number)) for number in range(30)]
    outputs = [reverse.remote(ref) for ref in inputs]
    again = [reverse.remote(ref) for ref in outputs]
    for number, ref in enumerate(again):
        assert np.array_equal(weft.get(ref), data_of(number))
    assert memory_bytes() <= 48 * MIB


def test_actor_keeps_views_while_others_are_spilled(session: Callable[..., None]) -> None:
    session(48)

    @weft.remote
    class Keeper:
        def __init__(self) -> None:
            self.kept: list[Any] = []

        def keep(self, data: Any) -> None:
            self.kept.append(data)

        def checksums(self) -> list[int]:
            return [checksum(data) for data in self.kept]

    keeper = Keeper.remote()
    kept = [weft.put(data_of(number)) for number in range(4)]
    weft.get([keeper.keep.remote(ref) for ref in kept])
    del kept
    others = [weft.put(data_of(100 + number)) for number in range(40)]
    assert weft.get(keeper.checksums.remote()) == [checksum(data_of(n)) for n in range(4)]
    assert [checksum(weft.get(ref)) for ref in others] == [
        checksum(data_of(100 + number)) for number in range(40)
    ]


def test_view_stays_valid_when_its_reference_and_the_process_that_made_it_are_gone(
    session: Callable[..., None],
) -> None:
    session(32)

    @weft.remote
    class Maker:
        def make(self) -> Any:
            return data_of(1)

    maker = Maker.remote()
    ref = maker.make.remote()
    view = weft.get(ref)
    del ref
    weft.kill(maker)
    del maker
    for number in range(60):
        weft.put(data_of(number))
        assert np.array_equal(view[:100], data_of(1)[:100])
    assert np.array_equal(view, data_of(1))


def test_readers_in_many_processes_see_every_byte_of_what_is_spilled_and_restored(
    session: Callable[..., None],
) -> None:
    session(32)

    @weft.remote
    class Reader:
        def read(self, seed: int, refs: list[Any]) -> int:
            order = np.random.default_rng(seed).permutation(len(refs) * 3) % len(refs)
            kept: list[Any] = []
            for number in map(int, order):
                data = weft.get(refs[number])
                assert np.array_equal(data, data_of(number, 2 * MIB))
                kept = [*kept[-1:], (number, data)]
                # It shows the same while others have their objects brought back.
                before, old = kept[0]
                assert np.array_equal(old, data_of(before, 2 * MIB))
            return len(order)

    refs = [weft.put(data_of(number, 2 * MIB)) for number in range(40)]
    readers = [Reader.options(num_cpus=0.5).remote() for _ in range(3)]
    reads = [reader.read.remote(seed, refs) for seed, reader in enumerate(readers)]
    more = [weft.put(data_of(number, 2 * MIB)) for number in range(100, 140)]
    assert weft.get(reads) == [120] * 3
    for number, ref in enumerate(more):
        assert np.array_equal(weft.get(ref), data_of(100 + number, 2 * MIB))
    assert memory_bytes() <= 32 * MIB


def test_many_small_objects_are_fused_into_few_files(
    session: Callable[..., None], spill_dir: Path
) -> None:
    session(16)
    refs = [weft.put(data_of(number, 128 * 1024)) for number in range(400)]
    until(lambda: spilled_bytes(spill_dir) > 20 * MIB)
    assert len(list(spill_dir.glob("*/*/spill-*"))) < 100
    for number, ref in enumerate(refs):
        assert np.array_equal(weft.get(ref), data_of(number, 128 * 1024))


def test_metrics_tell_of_what_is_spilled(session: Callable[..., None], spill_dir: Path) -> None:
    session(16)
    refs = [weft.put(data_of(number)) for number in range(12)]
    until(lambda: spilled_bytes(spill_dir) > 20 * MIB)
    lines = dict(line.rsplit(" ", 1) for line in metrics.export().splitlines() if line[0] != "#")
    assert float(lines["weft_store_spilled_bytes"]) >= 20 * MIB
    assert 0 < float(lines["weft_store_used_bytes"]) <= 16 * MIB
    del refs


# ------------------------------------------------------------------ room comes back


def test_memory_and_disk_are_free_when_the_references_are_gone(
    session: Callable[..., None], spill_dir: Path
) -> None:
    session(32)
    refs = [weft.put(data_of(number)) for number in range(30)]
    assert spilled_bytes(spill_dir) > 0
    del refs
    until(lambda: spilled_bytes(spill_dir) == 0)
    again = [weft.put(data_of(number)) for number in range(5)]
    assert [checksum(weft.get(ref)) for ref in again] == [checksum(data_of(n)) for n in range(5)]


def test_ten_thousand_puts_of_a_megabyte_stay_flat(
    session: Callable[..., None], spill_dir: Path
) -> None:
    session(32)
    data = data_of(1, MIB)
    highest = 0
    for number in range(10_000):
        ref = weft.put(data)
        assert weft.get(ref)[-1] == data[-1]
        del ref
        if number % 1000 == 0:
            highest = max(highest, memory_bytes())
    assert highest <= 8 * MIB
    assert spilled_bytes(spill_dir) == 0


def test_spare_memory_of_one_process_makes_room_for_another(
    session: Callable[..., None], spill_dir: Path
) -> None:
    session(64)
    refs = [weft.put(data_of(number)) for number in range(11)]
    del refs

    @weft.remote
    def make(number: int) -> Any:
        return data_of(number)

    made = [make.remote(number) for number in range(11)]
    weft.wait(made, num_returns=len(made))
    assert spilled_bytes(spill_dir) == 0
    assert [checksum(weft.get(ref)) for ref in made] == [checksum(data_of(n)) for n in range(11)]


# ------------------------------------------------------------------ all is viewed


def test_put_goes_to_disk_when_all_memory_is_viewed(
    session: Callable[..., None], spill_dir: Path
) -> None:
    session(16)
    views = [weft.get(weft.put(data_of(number))) for number in range(12)]
    for number, view in enumerate(views):
        assert np.array_equal(view, data_of(number))

    @weft.remote
    def sum_of(data: Any) -> int:
        return checksum(data)

    assert weft.get([sum_of.remote(weft.put(view)) for view in views]) == [
        checksum(data_of(number)) for number in range(12)
    ]


def test_object_that_is_larger_than_the_store_is_kept_on_disk(
    session: Callable[..., None],
) -> None:
    session(8)
    ref = weft.put(data_of(1, 20 * MIB))

    @weft.remote
    def twice(data: Any) -> Any:
        return np.concatenate([data, data])

    assert np.array_equal(weft.get(ref), data_of(1, 20 * MIB))
    assert weft.get(twice.remote(ref)).nbytes == 40 * MIB


@pytest.mark.parametrize("place", ["{}", "file://{}"], ids=["disk", "url"])
def test_objects_are_read_on_disk_when_all_memory_is_viewed(
    session: Callable[..., None], monkeypatch: pytest.MonkeyPatch, spill_dir: Path, place: str
) -> None:
    monkeypatch.setenv("WEFT_SPILL", place.format(spill_dir))
    session(16)
    refs = [weft.put(data_of(number)) for number in range(12)]
    views = weft.get(refs)
    assert [checksum(view) for view in views] == [checksum(data_of(n)) for n in range(12)]
    assert memory_bytes() <= 16 * MIB
    # Whoever asks next finds the same.
    del views[6:]
    assert [checksum(weft.get(ref)) for ref in refs] == [checksum(data_of(n)) for n in range(12)]


# ------------------------------------------------------------------ no room at all


@contextlib.contextmanager
def mounted(place: Path, size_mib: int) -> Iterator[None]:
    """Have a file system of so many MiB at `place`."""
    place.mkdir()
    if os.getuid() != 0:
        pytest.skip("only root may mount a file system")
    options = ["-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(place)]
    done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of 24 MiB to spill to."""
    disk = tmp_path / "disk"
    monkeypatch.setenv("WEFT_SPILL", str(disk))
    monkeypatch.setenv("WEFT_CHECK", "1")
    with mounted(disk, 24):
        yield disk


def test_full_disk_fails_a_put_with_the_largest_holders(small_disk: Path) -> None:
    weft.init(num_cpus=1, object_store_memory=16 * MIB, log_to_driver=False)
    try:
        refs: list[Any] = []
        with pytest.raises(StoreFullError) as caught:
            refs.extend(weft.put(data_of(number)) for number in range(30))
        message = str(caught.value)
        holders = re.findall(r"weft\.put \(.*?test_memory\.py:\d+\)", message)
        assert 1 <= len(holders) <= 5, message
        assert "\n" not in message
        # Nothing is lost by that, and there is room again when something goes.
        for number, ref in enumerate(refs):
            assert np.array_equal(weft.get(ref), data_of(number))
        del refs[: len(refs) // 2], ref
        gc.collect()

        def put_again() -> bool:
            try:
                refs.append(weft.put(data_of(99)))
            except StoreFullError:
                return False
            return True

        until(put_again)
        assert np.array_equal(weft.get(refs[-1]), data_of(99))
    finally:
        weft.shutdown()
    assert list(small_disk.glob("*/*")) == []


def test_full_disk_fails_a_task_with_the_lines_that_submitted_the_largest(small_disk: Path) -> None:
    @weft.remote(max_retries=0)
    def make(number: int) -> Any:
        return data_of(number)

    weft.init(num_cpus=1, object_store_memory=16 * MIB, log_to_driver=False)
    try:
        refs = [make.remote(number) for number in range(30)]
        with pytest.raises(StoreFullError) as caught:
            weft.get(refs)
        line = line_of("refs = [make.remote(number) for number in range(30)]")
        assert f"make ({__file__}:{line})" in str(caught.value)
        del refs
    finally:
        weft.shutdown()
    assert list(small_disk.glob("*/*")) == []


# ------------------------------------------------------------------ a small root of the store


@pytest.fixture
def store_root(spill_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Path]]:
    """Makes a root of so many MiB for the store, as /dev/shm is in containers."""
    with contextlib.ExitStack() as stack:

        def make(size_mib: int) -> Path:
            root = spill_dir / "root"
            monkeypatch.setenv("WEFT_STORE_ROOT", str(root))
            stack.enter_context(mounted(root, size_mib))
            return root

        yield make
        weft.shutdown()


@pytest.mark.parametrize("object_store_memory", [None, 100 * MIB])
def test_store_goes_to_disk_where_its_root_is_too_small_and_init_says_so(
    store_root: Callable[[int], Path],
    capsys: pytest.CaptureFixture[str],
    object_store_memory: int | None,
) -> None:
    root = store_root(64)
    weft.init(num_cpus=1, object_store_memory=object_store_memory, log_to_driver=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"weft: {root} has 64.0 MiB free, ")
    assert ("100.0 MiB of object_store_memory" in line) == (object_store_memory is not None)
    for way_out in (str(store_dir()), "--shm-size", "WEFT_STORE_ROOT"):
        assert way_out in line
    assert not store_dir().is_relative_to(root)
    refs = [weft.put(data_of(number)) for number in range(20)]
    assert [checksum(weft.get(ref)) for ref in refs] == [checksum(data_of(n)) for n in range(20)]
    place = store_dir()
    weft.shutdown()
    assert not place.exists()


def test_store_that_fits_its_root_stays_there(
    store_root: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = store_root(64)
    weft.init(num_cpus=1, object_store_memory=32 * MIB, log_to_driver=False)
    assert store_dir().is_relative_to(root)
    assert capsys.readouterr().err == ""


def write_for_ever(path: Path) -> None:
    with path.open("wb") as file:
        while True:
            file.write(bytes(MIB))


def test_object_is_read_on_disk_when_others_have_filled_the_root_of_the_store(
    store_root: Callable[[int], Path], spill_dir: Path
) -> None:
    root = store_root(64)
    weft.init(num_cpus=1, object_store_memory=32 * MIB, log_to_driver=False)
    refs = [weft.put(data_of(number)) for number in range(20)]
    until(lambda: spilled_bytes(spill_dir) > 40 * MIB)
    del refs[10:]
    with pytest.raises(OSError, match="No space left"):
        write_for_ever(root / "others")
    views = weft.get(refs)
    assert [checksum(view) for view in views] == [checksum(data_of(n)) for n in range(10)]


def test_store_of_no_given_size_takes_no_more_than_its_root_has_free(
    store_root: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = store_root(160)
    weft.init(num_cpus=1, log_to_driver=False)
    assert store_dir().is_relative_to(root)
    assert capsys.readouterr().err == ""
    assert 100 * MIB < weft.cluster_resources()["object_store_memory"] < 160 * MIB
    refs = [weft.put(data_of(number, 16 * MIB)) for number in range(15)]
    assert [checksum(weft.get(ref)) for ref in refs] == [
        checksum(data_of(number, 16 * MIB)) for number in range(15)
    ]


# ------------------------------------------------------------------ what breaks


def damage(spill_dir: Path) -> None:
    """Change a byte of every object that is on disk."""
    for path in spill_dir.glob("*/*/spill-*"):
        with path.open("r+b") as file:
            for offset in range(1000, path.stat().st_size, 2 * MIB):
                file.seek(offset)
                byte = file.read(1)
                file.seek(offset)
                file.write(bytes([byte[0] ^ 0xFF]))


def loss_of(number: int, ref: Any) -> ObjectLostError | None:
    """Get an object, which is right or lost."""
    try:
        value = weft.get(ref)
    except ObjectLostError as error:
        return error
    assert np.array_equal(value, data_of(number))
    return None


def test_damaged_spill_file_is_noticed(session: Callable[..., None], spill_dir: Path) -> None:
    session(16)
    refs = [weft.put(data_of(number)) for number in range(12)]
    until(lambda: spilled_bytes(spill_dir) > 20 * MIB)
    damage(spill_dir)
    lost = [str(error) for number, ref in enumerate(refs) if (error := loss_of(number, ref))]
    assert len(lost) >= 5
    for message in lost:
        assert "damaged" in message
        assert "\n" not in message


def test_damaged_results_of_tasks_are_made_again(
    session: Callable[..., None], spill_dir: Path
) -> None:
    session(16)

    @weft.remote
    def make(number: int) -> Any:
        return data_of(number)

    @weft.remote
    def turn(data: Any) -> Any:
        return data[::-1].copy()

    # While these are held no file goes, and what is damaged may be needed to make the others again.
    made = [make.remote(number) for number in range(12)]
    refs = [turn.remote(each) for each in made]
    weft.wait(refs, num_returns=len(refs))
    until(lambda: spilled_bytes(spill_dir) > 20 * MIB)
    damage(spill_dir)
    for number, ref in enumerate(refs):
        assert np.array_equal(weft.get(ref, timeout=LIMIT_S)[::-1], data_of(number))


def test_spiller_that_is_killed_loses_nothing(
    session: Callable[..., None], spill_dir: Path
) -> None:
    session(16)
    refs = []
    for number in range(40):
        refs.append(weft.put(data_of(number)))
        if number in (15, 25):
            for pid in spiller_pids():
                os.kill(pid, signal.SIGKILL)
    for number, ref in enumerate(refs):
        assert np.array_equal(weft.get(ref), data_of(number))


def test_spiller_that_is_killed_while_it_restores_loses_nothing(
    session: Callable[..., None], spill_dir: Path
) -> None:
    session(16)
    refs = [weft.put(data_of(number)) for number in range(12)]
    until(lambda: spilled_bytes(spill_dir) > 20 * MIB)
    del refs[6:]
    (pid,) = spiller_pids()
    os.kill(pid, signal.SIGSTOP)
    found: list[Any] = []
    reader = threading.Thread(target=lambda: found.append(weft.get(refs[0])))
    reader.start()
    until(lambda: b"read from disk" in why_room())
    os.kill(pid, signal.SIGKILL)
    reader.join(LIMIT_S)
    assert np.array_equal(found[0], data_of(0))


def why_room() -> bytes:
    engine: Any = current.engine
    return engine.questions.ask("why_room", engine.worker_id.hex())  # type: ignore[no-any-return]


def spiller_pids() -> list[int]:
    """The processes that spill for sessions of this test run."""
    session = store_dir().name
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"_node.spiller" in words and any(session.encode() in word for word in words):
            found.append(int(path.parent.name))
    return found


@weft.remote
class Victim:
    def __init__(self) -> None:
        self.kept: list[Any] = []

    def hold(self, refs: list[Any]) -> int:
        self.kept.append(weft.get(refs[0]))
        return len(self.kept[0])

    def make(self, number: int) -> Any:
        return data_of(number)

    def own(self) -> list[Any]:
        self.kept.append(weft.put(data_of(7)))
        return [self.kept[-1]]

    def make_until_killed(self) -> None:
        while True:
            self.kept.append(weft.put(data_of(1)))

    def pid(self) -> int:
        return os.getpid()


def test_memory_of_a_worker_that_is_killed_while_it_creates_comes_back(
    session: Callable[..., None],
) -> None:
    session(64)
    victim = Victim.remote()
    pid = weft.get(victim.pid.remote())
    victim.make_until_killed.remote()
    until(lambda: memory_bytes() > 20 * MIB)
    os.kill(pid, signal.SIGKILL)
    until(lambda: memory_bytes() == 0)
    refs = [weft.put(data_of(number)) for number in range(12)]
    assert [checksum(weft.get(ref)) for ref in refs] == [checksum(data_of(n)) for n in range(12)]


def test_object_that_a_killed_worker_has_returned_stays(session: Callable[..., None]) -> None:
    session(32)
    victim = Victim.remote()
    pid = weft.get(victim.pid.remote())
    refs = [victim.make.remote(number) for number in range(12)]
    weft.wait(refs, num_returns=len(refs))
    os.kill(pid, signal.SIGKILL)
    assert [checksum(weft.get(ref)) for ref in refs] == [checksum(data_of(n)) for n in range(12)]
    del refs
    until(lambda: memory_bytes() == 0)


def test_memory_of_objects_that_are_freed_while_their_creator_is_killed_comes_back(
    session: Callable[..., None], spill_dir: Path
) -> None:
    session(16)
    victim = Victim.remote()
    pid = weft.get(victim.pid.remote())
    refs = [victim.make.remote(number) for number in range(6)]
    weft.wait(refs, num_returns=len(refs))
    kept = refs.pop()
    # It hears of nothing any more.
    os.kill(pid, signal.SIGSTOP)
    del refs
    gc.collect()
    weft.get(weft.put(1))
    os.kill(pid, signal.SIGKILL)
    until(lambda: memory_bytes() + spilled_bytes(spill_dir) <= 6 * MIB)
    assert checksum(weft.get(kept)) == checksum(data_of(5))
    del kept
    until(lambda: memory_bytes() + spilled_bytes(spill_dir) == 0)


def test_object_that_a_killed_worker_has_viewed_is_spilled_like_others(
    session: Callable[..., None], spill_dir: Path
) -> None:
    session(16)
    victim = Victim.remote()
    pid = weft.get(victim.pid.remote())
    refs = [weft.put(data_of(number)) for number in range(2)]
    for ref in refs:
        assert weft.get(victim.hold.remote([ref])) == 4 * MIB
    os.kill(pid, signal.SIGKILL)
    refs += [weft.put(data_of(number)) for number in range(2, 20)]
    assert [checksum(weft.get(ref)) for ref in refs] == [checksum(data_of(n)) for n in range(20)]
    assert memory_bytes() <= 16 * MIB


def test_object_whose_owner_was_killed_leaves_no_memory(session: Callable[..., None]) -> None:
    session(32)
    victim = Victim.remote()
    pid = weft.get(victim.pid.remote())
    (ref,) = weft.get(victim.own.remote())
    assert checksum(weft.get(ref)) == checksum(data_of(7))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(weft.exceptions.WeftError):
        weft.get(victim.pid.remote())
    until(lambda: memory_bytes() == 0)


def test_threads_that_put_at_once_share_the_room(session: Callable[..., None]) -> None:
    session(32)
    wrong: list[int] = []

    def work(first: int) -> None:
        refs = [weft.put(data_of(first + number)) for number in range(15)]
        for number, ref in enumerate(refs):
            if not np.array_equal(weft.get(ref), data_of(first + number)):
                wrong.append(first + number)

    threads = [threading.Thread(target=work, args=(100 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
