"""A census of Python's standard library, taken in a loop and by workers, one of whom is killed."""

import ast
import os
import signal
import sysconfig
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import weft
from weft.util import progress

LIBRARY = Path(sysconfig.get_path("stdlib"))
LEFT_OUT = {"dist-packages", "encodings", "pydoc_data", "site-packages", "test", "tests"}
Counts = Counter[str]
Alike = tuple[float, int, int]


# First the work itself, in plain Python.
def count(path: Path) -> Counts:
    """Return how often a file uses each name, and each kind of syntax node."""
    nodes = list(ast.walk(ast.parse(path.read_bytes())))
    names = [node.id for node in nodes if isinstance(node, ast.Name)]
    return Counter(names + [f"<{type(node).__name__}>" for node in nodes])


def matrix_of(counts: list[Counts]) -> np.ndarray:
    """Return float32[files, words]: 1 where a file has a word, for the words of most files."""
    files = Counter(word for each in counts for word in each)
    words = [word for word, _ in files.most_common(8000)]
    return np.array([[word in each for word in words] for each in counts], np.float32)


def most_alike(has: np.ndarray, rows: Iterable[int]) -> Iterator[Alike]:
    """Yield (likeness, file, the file that shares most of its words with it) for some files."""
    sizes = has.sum(axis=1)
    for row in rows:
        shared = has @ has[row]
        likeness = shared / (sizes + sizes[row] - shared)
        likeness[row] = 0
        yield float(likeness.max()), row, int(likeness.argmax())


class Census:
    def __init__(self) -> None:
        self.total: Counts = Counter()
        self.begun: Counter[str] = Counter()

    def begin(self, file: str) -> int:
        self.begun[file] += 1
        return self.begun[file]

    def add(self, counts: Counts) -> None:
        self.total.update(counts)

    def report(self) -> tuple[Counts, Counter[str]]:
        return self.total, self.begun


# Then what makes it parallel.
@weft.remote  # A task: each call runs in a worker process, and in another one if that dies.
def parse(path: Path, census: Any, fatal: Path) -> Counts:
    times = census.begin.remote(str(path.relative_to(LIBRARY)))
    if path == fatal and weft.get(times) == 1:
        os.kill(os.getpid(), signal.SIGKILL)  # As the kernel would, were there no memory left.
    return count(path)


@weft.remote  # A task that yields: its caller has each result as soon as it is there.
def compare(has: np.ndarray, rows: range) -> Iterator[Alike]:
    assert not has.flags.owndata  # No copy: all workers read the matrix where it is stored.
    yield from most_alike(has, rows)


def take_census(paths: list[Path]) -> tuple[Counts, list[Alike], list[str]]:
    census: Any = weft.remote(Census).remote()  # An actor: an object with a process of its own.
    refs = [parse.remote(path, census, paths[5]) for path in paths]
    for ref in progress(refs, "parsing"):
        census.add.remote(ref)  # The actor gets the value that the reference stands for.
    has = weft.put(matrix_of(weft.get(refs)))
    streams = [compare.remote(has, range(part, len(paths), 4)) for part in range(4)]
    alike = sorted(weft.get(ref) for stream in streams for ref in stream)
    total, begun = weft.get(census.report.remote())
    return total, alike, [file for file, times in begun.items() if times > 1]


def main() -> None:
    paths = [path for path in LIBRARY.rglob("*.py") if LEFT_OUT.isdisjoint(path.parts)]
    paths = sorted(paths, key=lambda path: (-path.stat().st_size, path))[:400]
    start = time.perf_counter()
    counts = [count(path) for path in paths]
    plain = Census()
    for each in counts:
        plain.add(each)
    expected = plain.total, sorted(most_alike(matrix_of(counts), range(len(paths))))
    loop_s = time.perf_counter() - start

    weft.init(preload=["numpy"])
    start = time.perf_counter()
    total, alike, again = take_census(paths)
    weft_s = time.perf_counter() - start

    for word, times in total.most_common(12):
        print(f"{word:<20}{times:>10,}")
    for likeness, one, other in alike[:-7:-2]:
        print(f"{paths[one].name} and {paths[other].name} are {likeness:.0%} alike")
    print(f"{loop_s:.2f} s in a loop, {weft_s:.2f} s by Weft, {loop_s / weft_s:.2f} times as fast")
    print(f"a worker was killed; what it was at was run again: {', '.join(again)}")
    print(f"the numbers are the same: {(total, alike) == expected}")


if __name__ == "__main__":
    main()
