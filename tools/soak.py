"""Work at random for minutes, and see whether every result is right and memory stays flat.

    python tools/soak.py [--minutes 20] [--seed N] [--only PIECE ...]

Threads of this program draw pieces of work (soak_work.py) with more large objects than the store
has room for. Every few seconds the memory of all processes is looked at, without what lies in
shared memory; that is counted by files, as is what is on disk.

Flat: between the first and the last quarter of the samples, without the first fifth, medians differ
by at most 10 % or 20 (MB, or pieces). A run under three minutes is too short to be judged by that.

At the end everything is dropped: no object, no file, no process, no descriptor may be left. The
exit code is 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import collections
import gc
import os
import random
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import weft
from soak_watch import belongings, left_after, left_in_session, sample
from soak_work import MIB, PIECES, WAIT_S, Hand

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from soak_watch import Sample

THREADS = 3
STORE_BYTES = 64 * MIB
SAMPLE_S = 3.0
END_S = 20.0
"""What is dropped is gone within this."""
JUDGED_S = 180.0
WARM_UP_SHARE = 0.2
FLAT_SHARE = 0.1
FLAT = 20.0
STORE, DISK, TEMP, MARKS = "store", "disk", "temp", "marks"


class Soak:
    """One run: its threads, what they did, and what was seen meanwhile."""

    def __init__(
        self, seed: int, pieces: Sequence[Callable[[Hand], None]], folders: dict[str, Path]
    ) -> None:
        """Prepare; nothing runs yet. All that the session writes goes to the folders."""
        self.done: collections.Counter[str] = collections.Counter()
        self.problems: list[str] = []
        self.samples: list[Sample] = []
        self._seed = seed
        self._pieces = pieces
        self._folders = folders
        self._ended = threading.Event()

    def run(self, seconds: float) -> None:
        """Begin a session, work, drop everything, and end the session."""
        before = belongings()
        # What is cancelled while it imports a module leaves half of that behind.
        preload = ["numpy.random"]
        weft.init(num_cpus=2, object_store_memory=STORE_BYTES, log_to_driver=False, preload=preload)
        threads = [
            threading.Thread(target=self._work, args=(number,), daemon=True, name=f"hand {number}")
            for number in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        until = time.monotonic() + seconds
        while not self._ended.wait(max(0.0, min(SAMPLE_S, until - time.monotonic()))):
            self._look()
            if time.monotonic() >= until:
                break
        self._look()
        self._ended.set()
        for thread in threads:
            thread.join(2 * WAIT_S)
            if thread.is_alive():
                self.problems.append(f"{thread.name} hangs")
        gc.collect()
        self._expect_nothing(left_in_session)
        weft.shutdown()
        self._expect_nothing(lambda: left_after(before, list(self._folders.values())))

    def _look(self) -> None:
        self.samples.append(sample(self._folders[STORE], self._folders[DISK]))

    def _work(self, number: int) -> None:
        hand = Hand(random.Random(f"{self._seed}/{number}"), self._folders[MARKS])  # noqa: S311
        while not self._ended.is_set():
            piece = hand.random.choice(self._pieces)
            try:
                piece(hand)
            except Exception:  # noqa: BLE001 - whatever it is, the run has failed
                self.problems.append(f"{piece.__name__}: {traceback.format_exc().strip()}")
                self._ended.set()
            self.done[piece.__name__] += 1

    def _expect_nothing(self, look: Callable[[], list[str]]) -> None:
        until = time.monotonic() + END_S
        while (left := look()) and time.monotonic() < until:
            time.sleep(0.1)
        self.problems += left


# ------------------------------------------------------------------ the verdict


def quarters(values: Sequence[float]) -> tuple[float, float]:
    """Return the medians of the first and the last quarter after the warm-up."""
    warm = values[int(len(values) * WARM_UP_SHARE) :]
    length = max(1, len(warm) // 4)
    return median(warm[:length]), median(warm[-length:])


def is_flat(first: float, last: float) -> bool:
    """Tell whether what was first has not become more."""
    return last - first <= max(FLAT, FLAT_SHARE * first)


def judge(samples: Sequence[Sample]) -> list[str]:
    """Return what was not flat."""
    found = []
    for name in samples[0]:
        first, last = quarters([seen.get(name, 0.0) for seen in samples])
        if not is_flat(first, last):
            found.append(f"{name}: {first:.1f} has become {last:.1f}")
    return found


def table(samples: Sequence[Sample]) -> str:
    """Return what was seen, for a terminal."""
    lines = [f"{'':22}{'first quarter':>14}{'last quarter':>14}{'most':>10}"]
    for name in samples[0]:
        values = [seen.get(name, 0.0) for seen in samples]
        first, last = quarters(values)
        lines.append(f"{name:22}{first:14.1f}{last:14.1f}{max(values):10.1f}")
    return "\n".join(lines)


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description="Work at random and see that memory stays flat.")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    known = sorted({piece.__name__ for piece in PIECES})
    parser.add_argument("--only", nargs="+", metavar="PIECE", choices=known, default=known,
                        help=f"some pieces of work: {', '.join(known)}")  # fmt: skip
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    # Short, for there are sockets in it, and in memory what is to be.
    with (
        tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as on_disk,
        tempfile.TemporaryDirectory(prefix="s", dir="/dev/shm") as in_memory,
    ):
        folders = {name: Path(on_disk, name) for name in (DISK, TEMP, MARKS)}
        folders[STORE] = Path(in_memory)
        for folder in folders.values():
            folder.mkdir(exist_ok=True)
        os.environ["WEFT_STORE_ROOT"] = in_memory
        os.environ["WEFT_TEMP_DIR"] = str(folders[TEMP])
        os.environ["WEFT_SPILL"] = str(folders[DISK])
        pieces = [piece for piece in PIECES if piece.__name__ in given.only]
        soak = Soak(given.seed, pieces, folders)
        soak.run(60 * given.minutes)
    print(table(soak.samples))
    print("done:", ", ".join(f"{name} {times}" for name, times in sorted(soak.done.items())))
    most = max(seen["store, MB"] for seen in soak.samples) * 1e6
    problems = soak.problems
    if most > STORE_BYTES:
        problems.append(f"the store had {most:.0f} bytes, and room for {STORE_BYTES}")
    if 60 * given.minutes >= JUDGED_S:
        problems += judge(soak.samples)
    print("\n".join(f"wrong: {problem}" for problem in problems) or "nothing was wrong")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
