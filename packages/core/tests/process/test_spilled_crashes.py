"""Drivers, daemons and spillers that are killed while objects are on disk: nothing is left of them.

Nothing, once the next session has begun: whoever lives on removes what it can, and that the rest.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

import weft
from weft._engine import current
from weft.exceptions import DaemonDiedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
LIMIT_S = 20.0
DRIVER = """
import sys, time
import numpy as np
import weft
weft.init(num_cpus=1, object_store_memory=16 << 20, log_to_driver=False)
kept = [weft.put(np.full(4 << 20, number, np.uint8)) for number in range(12)]
print("ready", flush=True)
time.sleep(600)
"""


class Places:
    """Where sessions of this test have their files."""

    def __init__(self, root: Path) -> None:
        self.disk, self.store, self.temp = root / "disk", root / "store", root / "temp"
        for place in (self.disk, self.store, self.temp):
            place.mkdir()

    def sessions(self) -> set[str]:
        """Names of all sessions of which anything is there."""
        return {
            path.name
            for place in (self.disk, self.store, self.temp)
            for path in place.glob("*/*")
            if path.is_dir()
        }

    def spilled(self) -> list[Path]:
        return list(self.disk.glob("*/*/spill-*"))


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    # Short, for there are sockets in it.
    with tempfile.TemporaryDirectory(prefix="w") as root:
        places = Places(Path(root))
        monkeypatch.setenv("WEFT_SPILL", str(places.disk))
        monkeypatch.setenv("WEFT_STORE_ROOT", str(places.store))
        monkeypatch.setenv("WEFT_TEMP_DIR", str(places.temp))
        yield places


def until(condition: Callable[[], object]) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def below(pid: int) -> dict[str, list[psutil.Process]]:
    """Return the processes below a driver, by what they are."""
    found: dict[str, list[psutil.Process]] = {"daemon": [], "spiller": [], "other": []}
    for process in psutil.Process(pid).children(recursive=True):
        words = process.cmdline()
        if process.ppid() == pid:
            found["daemon"].append(process)
        elif "_node.spiller" in words:
            found["spiller"].append(process)
        else:
            found["other"].append(process)
    return found


@pytest.mark.parametrize(
    "killed",
    [("driver",), ("daemon",), ("driver", "daemon"), ("driver", "daemon", "spiller")],
    ids="+".join,
)
def test_what_was_spilled_by_a_session_that_was_killed_is_gone_after_the_next_init(
    places: Places, killed: tuple[str, ...]
) -> None:
    with subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE) as driver:
        try:
            assert driver.stdout is not None
            assert driver.stdout.readline() == b"ready\n"
            assert places.spilled()
            (dead,) = places.sessions()
            processes = below(driver.pid)
            every = [process for group in processes.values() for process in group]
            assert len(processes["daemon"]) == len(processes["spiller"]) == 1
            processes["driver"] = [psutil.Process(driver.pid)]
            for name in killed:
                for process in processes[name]:
                    process.suspend()
            for name in killed:
                for process in processes[name]:
                    process.kill()
        finally:
            driver.kill()
    psutil.wait_procs(every, timeout=LIMIT_S)
    assert not [process for process in every if process.is_running()]
    with weft.init(num_cpus=1):
        assert weft.get(weft.put(1)) == 1
        until(lambda: dead not in places.sessions())
    assert not places.sessions()


@weft.remote
def make(number: int) -> Any:
    return np.full(4 * MIB, number, np.uint8)


@pytest.mark.parametrize("is_waiting", [False, True], ids=["before", "meanwhile"])
def test_spilled_object_of_a_session_whose_daemon_was_killed_fails_and_says_why(
    places: Places, is_waiting: bool
) -> None:
    weft.init(num_cpus=1, object_store_memory=16 * MIB, log_to_driver=False)
    try:
        refs = [weft.put(np.full(4 * MIB, number, np.uint8)) for number in range(12)]
        until(places.spilled)
        processes = below(os.getpid())
        (daemon,), (spiller,) = processes["daemon"], processes["spiller"]
        errors: list[BaseException] = []

        def get() -> None:
            try:
                weft.get(refs[0])
            except weft.exceptions.WeftError as error:
                errors.append(error)

        getter = threading.Thread(target=get)
        if is_waiting:
            # What is to be restored waits for it.
            spiller.suspend()
            getter.start()
            engine: Any = current.engine
            until(lambda: engine.room._requests)
            daemon.kill()
        else:
            daemon.kill()
            until(lambda: engine_has_ended(current.engine))
            getter.start()
        with contextlib.suppress(psutil.NoSuchProcess):
            spiller.resume()
        getter.join(LIMIT_S)
        (error,) = errors
        assert isinstance(error, DaemonDiedError), error
        assert "call weft.init() again" in str(error)
    finally:
        weft.shutdown()
    with weft.init(num_cpus=1):
        until(lambda: len(places.sessions()) == 1)
    assert not places.sessions()


def engine_has_ended(engine: Any) -> bool:
    return engine.links.ended is not None
