from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from weft import _launch
from weft._launch import LOCK, SYS_PATH_FILE, caller_path, make_session_dir, user_root
from weft._node import spilling
from weft._node.spilling import ROOT, Spiller
from weft._store.spill import PIECE_BYTES
from weft._transport.sockets import Poller
from weft._wire.messages import Spill, Spilled, Unspill, Unspilled

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
Gone = Callable[[list[int], float], list[int]]
WAIT_S = 20.0
SESSION = "session"
_CLONE_NEWNS = 0x20000
_MS_PRIVATE_REC = (1 << 18) | (1 << 14)


class Node:
    """What a daemon is to its spiller: directories, a loop, questions and their answers."""

    def __init__(self, place: Path, where: str, session: str = SESSION) -> None:
        self.session_dir, self.store = place / session, place / f"store-{session}"
        self.session_dir.mkdir()
        self.store.mkdir(exist_ok=True)
        (self.session_dir / SYS_PATH_FILE).write_text("\0".join(caller_path()))
        self.poller = Poller()
        self.answers: list[Spilled | Unspilled] = []
        self.spiller = Spiller(
            self.poller,
            session_dir=str(self.session_dir),
            store_dir=str(self.store),
            where=where,
            answered=self.answers.append,
        )

    def segment(self, name: str, size_bytes: int = MIB) -> Path:
        path = self.store / name
        path.write_bytes(os.urandom(size_bytes))
        return path

    def wait(self, answers: int = 1) -> None:
        until = time.monotonic() + WAIT_S
        while len(self.answers) < answers:
            assert time.monotonic() < until, self.answers
            self.poller.poll(0.1)

    def answer(self) -> Spilled | Unspilled:
        self.wait()
        return self.answers.pop(0)

    def spill(self, batch: int, file: str, *segments: Path) -> Spilled:
        """Spill segments, whole."""
        names = [path.name for path in segments]
        self.spiller.spill(Spill(batch, file, names, [path.stat().st_size for path in segments]))
        answer = self.answer()
        assert isinstance(answer, Spilled)
        assert answer.batch == batch
        return answer

    def ask(self, request: int, name: str, file: str, place: tuple[int, int, int]) -> None:
        offset, size_bytes, checksum = place
        self.spiller.unspill(
            Unspill(request, name, file, offset, size_bytes, size_bytes + 4096, checksum)
        )

    def restore(self, request: int, name: str, file: str, place: tuple[int, int, int]) -> str:
        """Restore a segment; return the error."""
        self.ask(request, name, file, place)
        answer = self.answer()
        assert isinstance(answer, Unspilled)
        assert answer.request == request
        return answer.error

    def kill_spiller(self) -> None:
        """Kill the process, and see that it is noticed."""
        pid = self.spiller.pid
        os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + WAIT_S
        while self.spiller.pid == pid:
            assert time.monotonic() < until
            self.poller.poll(0.1)

    def break_connection(self) -> None:
        process = self.spiller._process
        assert process is not None
        process._connection._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.spiller.close()
        self.poller.close()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Where spilled bytes go to."""
    return tmp_path / "disk"


@pytest.fixture
def node(tmp_path: Path, disk: Path) -> Iterator[Node]:
    made = Node(tmp_path, str(disk))
    yield made
    made.close()


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def names(directory: str | Path) -> set[str]:
    return {path.name for path in Path(directory).iterdir()}


# ------------------------------------------------------------------ there and back


def test_segments_go_to_one_file_and_come_back(node: Node) -> None:
    segments = [node.segment(str(size), size) for size in (1, MIB, 2 * PIECE_BYTES + 1)]
    contents = [path.read_bytes() for path in segments]
    spilled = node.spill(7, "batch", *segments)
    assert spilled.error == ""
    assert names(node.spiller.directory()) == {LOCK, "batch"}
    for path in segments:
        path.unlink()
    for number, (path, place) in enumerate(zip(segments, spilled.places, strict=True)):
        assert node.restore(number, path.name, "batch", place) == ""
    restored = [path.read_bytes() for path in segments]
    assert restored == [content + bytes(4096) for content in contents]
    assert names(node.store) == {path.name for path in segments}


@pytest.mark.parametrize("where", ["file", "memory"])
def test_segments_go_to_a_url_and_come_back(tmp_path: Path, disk: Path, where: str) -> None:
    node = Node(tmp_path, f"{where}://{disk}/")
    assert node.spiller.directory() == f"{where}://{disk}/{ROOT}-{SESSION}"
    segment = node.segment("segment")
    contents = segment.read_bytes()
    (place,) = node.spill(1, "batch", segment).places
    segment.unlink()
    assert node.restore(1, "segment", "batch", place) == ""
    assert segment.read_bytes()[:MIB] == contents
    if where == "file":
        (directory,) = disk.iterdir()
        assert (directory.stat().st_mode & 0o777, names(directory)) == (0o700, {"batch"})
        assert (directory / "batch").stat().st_mode & 0o777 == 0o600
    node.close()
    assert not disk.exists() or names(disk) == set()


def test_nothing_is_made_before_the_first_need(node: Node, disk: Path) -> None:
    node.spiller.remove_leftovers()
    assert node.spiller.pid == 0
    assert not disk.exists()


def test_unlinked_files_are_gone_before_the_next_is_written(node: Node) -> None:
    segment = node.segment("segment")
    for batch in range(3):
        node.spill(batch, f"batch-{batch}", segment)
    node.spiller.unlink(["batch-0", "no such file", "batch-2"])
    node.spill(3, "batch-3", segment)
    assert names(node.spiller.directory()) == {LOCK, "batch-1", "batch-3"}


# ------------------------------------------------------------------ damage


def test_damaged_short_and_missing_files_are_told_with_place_and_cause(node: Node) -> None:
    first, second = node.segment("first"), node.segment("second")
    one, two = node.spill(1, "batch", first, second).places
    second.unlink()
    path = Path(node.spiller.directory(), "batch")
    with path.open("r+b") as file:
        file.seek(two[0] + 1000)
        file.write(b"not the same")
    at = f"{path} at offset {two[0]}: "
    assert node.restore(1, "second", "batch", two).startswith(f"{at}its {MIB} bytes are damaged")
    os.truncate(path, two[0] + 5)
    error = node.restore(2, "second", "batch", two)
    assert error.startswith(at)
    assert f"ends at byte {two[0] + 5}, {MIB - 5} bytes too early" in error
    assert names(node.store) == {"first"}
    first.unlink()
    assert node.restore(3, "first", "batch", one) == ""
    path.unlink()
    assert "No such file" in node.restore(4, "second", "batch", two)
    assert names(node.store) == {"first"}


def test_segment_that_is_missing_fails_the_batch_and_leaves_no_file(node: Node) -> None:
    there = node.segment("there")
    node.spiller.spill(Spill(1, "batch", ["there", "gone"], [MIB, MIB]))
    error = node.answer().error
    assert "gone" in error
    assert not error.startswith("full: ")
    assert names(node.spiller.directory()) == {LOCK}
    assert node.spill(2, "batch", there).error == ""


def test_question_that_makes_no_sense_is_answered_too(node: Node) -> None:
    node.spiller.spill(Spill(1, "batch", ["one"], []))
    assert "ValueError" in node.answer().error


# ------------------------------------------------------------------ a full disk


def on_small_disk(place: Path, test: Callable[[], None], options: bytes = b"size=8m") -> None:
    """Run a test in a thread that sees a small file system at a directory.

    The mount is of the thread's own namespace, and of those whom it starts; it ends with them.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    place.mkdir()

    def run() -> None:
        if (
            libc.unshare(_CLONE_NEWNS)
            or libc.mount(b"none", b"/", None, _MS_PRIVATE_REC, None)
            or libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, options)
        ):
            raise PermissionError(os.strerror(ctypes.get_errno()))
        test()

    with ThreadPoolExecutor(1) as pool:
        try:
            pool.submit(run).result()
        except PermissionError as error:
            pytest.skip(f"this process may not mount: {error}")


def test_full_disk_is_told_and_the_next_batch_finds_the_room_that_was_made(
    tmp_path: Path, disk: Path
) -> None:
    def test() -> None:
        node = Node(tmp_path, str(disk))
        half, more = node.segment("half", 5 * MIB), node.segment("more", 4 * MIB)
        assert node.spill(1, "first", half).error == ""
        assert node.spill(2, "second", more).error.startswith("full: ")
        assert names(node.spiller.directory()) == {LOCK, "first"}
        node.spiller.unlink(["first"])
        assert node.spill(3, "third", more).error == ""
        node.close()
        assert names(disk / f"{ROOT}-{os.getuid()}") == set()

    on_small_disk(disk, test)


def test_full_store_is_told_and_nothing_half_restored_is_left(tmp_path: Path, disk: Path) -> None:
    def test() -> None:
        node = Node(tmp_path, str(disk))
        segment = node.segment("segment", 5 * MIB)
        (place,) = node.spill(1, "batch", segment).places
        error = node.restore(1, "twin", "batch", place)
        assert error.startswith("full: ")
        assert names(node.store) == {"segment"}
        segment.unlink()
        assert node.restore(2, "twin", "batch", place) == ""
        node.close()

    on_small_disk(tmp_path / f"store-{SESSION}", test)


def test_full_disk_without_room_for_a_directory_is_told(tmp_path: Path, disk: Path) -> None:
    def test() -> None:
        node = Node(tmp_path, str(disk))
        others = [disk / "one", disk / "two"]
        for path in others:
            path.touch()
        segment = node.segment("segment")
        error = node.spill(1, "batch", segment).error
        assert error.startswith("full: the spiller cannot be started: ")
        for path in others:
            path.unlink()
        assert node.spill(2, "batch", segment).error == ""
        node.close()

    # The file system's root, the user's and the session's directories, the lock, the batch.
    on_small_disk(disk, test, b"size=8m,nr_inodes=5")


# ------------------------------------------------------------------ a process that dies


class Gate:
    """A file that keeps who opens it waiting, and says that somebody does: a lease of fcntl."""

    def __init__(self, path: Path) -> None:
        self.has_reader = False
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.truncate(self.fd, MIB)
        signal.signal(signal.SIGIO, self.opened)
        fcntl.fcntl(self.fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)

    def opened(self, signal_number: int, frame: object) -> None:
        self.has_reader = True

    def wait_reader(self) -> None:
        wait_until(lambda: self.has_reader)

    def open(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@pytest.fixture
def gate() -> Iterator[Callable[[Path], Gate]]:
    """Make a gate."""
    made: list[Gate] = []

    def make(path: Path) -> Gate:
        made.append(Gate(path))
        return made[0]

    before = signal.getsignal(signal.SIGIO)
    yield make
    for each in made:
        each.open()
    signal.signal(signal.SIGIO, before)


def test_spiller_that_is_killed_within_a_write_is_replaced_and_its_file_removed(
    node: Node, gate: Callable[[Path], Gate]
) -> None:
    segment = node.segment("segment", 2 * PIECE_BYTES)
    closed = gate(node.store / "gate")
    node.spiller.spill(Spill(1, "half", ["segment", "gate"], [2 * PIECE_BYTES, MIB]))
    first_pid = node.spiller.pid
    closed.wait_reader()
    path = Path(node.spiller.directory(), "half")
    assert path.exists()
    os.kill(first_pid, signal.SIGKILL)
    assert node.answer() == Spilled(1, "the spiller died: killed by signal 9", [])
    assert node.spiller.pid == 0
    assert node.spill(2, "whole", segment).error == ""
    assert node.spiller.pid not in (0, first_pid)
    assert names(node.spiller.directory()) == {LOCK, "whole"}


def test_spiller_that_is_killed_within_a_restore_leaves_no_part_of_a_segment(
    node: Node, gate: Callable[[Path], Gate]
) -> None:
    segment = node.segment("segment")
    (place,) = node.spill(1, "batch", segment).places
    closed = gate(Path(node.spiller.directory(), "gate"))
    node.ask(1, "twin", "gate", place)
    closed.wait_reader()
    assert names(node.store) == {"segment", ".twin"}
    # It is asked of the next process, and of no third one.
    node.kill_spiller()
    node.kill_spiller()
    assert node.answer() == Unspilled(1, "the spiller died: killed by signal 9")
    assert names(node.store) == {"segment"}
    assert node.restore(2, "twin", "batch", place) == ""


def test_everything_in_flight_is_answered_when_the_spiller_dies(node: Node) -> None:
    segment = node.segment("segment")
    (place,) = node.spill(1, "batch", segment).places
    os.kill(node.spiller.pid, signal.SIGSTOP)
    for number in (2, 3):
        node.spiller.spill(Spill(number, f"batch-{number}", ["segment"], [MIB]))
        node.ask(number, f"twin-{number}", "batch", place)
    os.kill(node.spiller.pid, signal.SIGKILL)
    node.wait(4)
    died = "the spiller died: killed by signal 9"
    assert sorted(node.answers, key=repr) == [
        *(Spilled(number, died, []) for number in (2, 3)),
        *(Unspilled(number, "") for number in (2, 3)),
    ]


def test_answers_of_a_process_that_then_died_are_not_lost(node: Node) -> None:
    segment = node.segment("segment")
    node.spill(1, "batch", segment)
    node.spiller.spill(Spill(2, "last", ["segment"], [MIB]))
    wait_until(lambda: has_something_to_say(node))
    os.kill(node.spiller.pid, signal.SIGKILL)
    answer = node.answer()
    assert isinstance(answer, Spilled)
    assert answer.error == ""


def has_something_to_say(node: Node) -> bool:
    """Tell whether there is news of the spiller, and leave it to be read."""
    return bool(node.poller.wait(0))


def test_connection_that_breaks_costs_the_process_and_no_file(node: Node) -> None:
    segment = node.segment("segment")
    (place,) = node.spill(1, "batch", segment).places
    pid = node.spiller.pid
    node.break_connection()
    # The process meets the end of its connection, and does not take it for the session's.
    wait_until(lambda: Path(f"/proc/{pid}/wchan").read_text().endswith("pipe_read"))
    node.poller.poll(WAIT_S)
    wait_until(lambda: has_something_to_say(node))
    node.poller.poll(0)
    assert node.spiller.pid == 0
    assert node.restore(1, "twin", "batch", place) == ""


def refuse(*args: object, **kwargs: object) -> int:
    """Start no process."""
    raise BlockingIOError(11, "no more processes")


def test_spiller_that_cannot_start_is_an_answer(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = node.segment("segment")
    with monkeypatch.context() as patch:
        patch.setattr(_launch, "spawn", refuse)
        error = node.spill(1, "batch", segment).error
    assert error == "the spiller cannot be started: [Errno 11] no more processes"
    assert node.spill(2, "batch", segment).error == ""


def test_process_that_cannot_be_watched_is_ended_and_costs_no_file(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = node.segment("segment")
    (place,) = node.spill(1, "batch", segment).places
    os.kill(node.spiller.pid, signal.SIGKILL)
    wait_until(lambda: has_something_to_say(node))
    node.poller.poll(0)
    with monkeypatch.context() as patch:
        patch.setattr("os.pidfd_open", refuse)
        error = node.restore(1, "twin", "batch", place)
    assert error == "the spiller cannot be started: [Errno 11] no more processes"
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert node.restore(2, "twin", "batch", place) == ""


def test_process_that_does_not_speak_the_protocol_is_killed_and_answered_for(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spawn(*arguments: str, fds: tuple[int, ...], output_fd: int) -> int:
        program = "printf 'something else'; exec sleep 1000"
        copied = [(os.POSIX_SPAWN_DUP2, fds[0], 1)]
        return os.posix_spawn("/bin/sh", ["sh", "-c", program], os.environ, file_actions=copied)

    segment = node.segment("segment")
    with monkeypatch.context() as patch:
        patch.setattr(_launch, "spawn", spawn)
        assert node.spill(1, "batch", segment).error == "the spiller died: killed by signal 9"
    assert node.spill(2, "batch", segment).error == ""


def test_files_that_were_to_be_removed_meanwhile_are_removed_by_the_next_process(
    node: Node,
) -> None:
    segment = node.segment("segment")
    node.spill(1, "batch", segment)
    os.kill(node.spiller.pid, signal.SIGKILL)
    wait_until(lambda: has_something_to_say(node))
    node.poller.poll(0)
    assert node.spiller.pid == 0
    node.spiller.unlink(["batch"])
    node.spill(2, "another", segment)
    assert names(node.spiller.directory()) == {LOCK, "another"}


def test_file_that_cannot_be_removed_is_logged(
    node: Node, capfd: pytest.CaptureFixture[str]
) -> None:
    segment = node.segment("segment")
    node.spill(1, "batch", segment)
    folder = Path(node.spiller.directory(), "folder")
    folder.mkdir()
    node.spiller.unlink(["folder"])
    node.spill(2, "another", segment)
    assert capfd.readouterr().err.startswith(f"weft: a spilled file is left behind: {folder}: ")
    folder.rmdir()


def test_directory_of_somebody_else_is_an_answer(node: Node, disk: Path) -> None:
    disk.mkdir()
    (disk / "elsewhere").mkdir()
    (disk / f"{ROOT}-{os.getuid()}").symlink_to(disk / "elsewhere")
    error = node.spill(1, "batch", node.segment("segment")).error
    assert "belongs to another user" in error
    assert names(disk / "elsewhere") == set()


# ------------------------------------------------------------------ several at once


def test_restore_does_not_wait_behind_a_spill(node: Node, gate: Callable[[Path], Gate]) -> None:
    segment = node.segment("segment")
    (place,) = node.spill(1, "batch", segment).places
    closed = gate(node.store / "gate")
    for batch in (2, 3):
        node.spiller.spill(Spill(batch, f"batch-{batch}", ["gate"], [MIB]))
    closed.wait_reader()
    for request in range(10):
        assert node.restore(request, f"twin-{request}", "batch", place) == ""
    closed.open()
    node.wait(2)
    assert [answer.error for answer in node.answers] == ["", ""]


def test_restores_do_not_wait_behind_one_another(node: Node, gate: Callable[[Path], Gate]) -> None:
    segment = node.segment("segment")
    (place,) = node.spill(1, "batch", segment).places
    closed = gate(Path(node.spiller.directory(), "gate"))
    node.ask(1, "slow", "gate", place)
    closed.wait_reader()
    assert node.restore(2, "quick", "batch", place) == ""
    closed.open()
    assert "damaged" in node.answer().error


# ------------------------------------------------------------------ the end


def test_end_leaves_no_process_and_no_file(node: Node, disk: Path, gone: Gone) -> None:
    segment = node.segment("segment")
    node.spill(1, "batch", segment)
    pid = node.spiller.pid
    node.spiller.close()
    assert gone([pid], 0) == []
    assert names(disk / f"{ROOT}-{os.getuid()}") == set()
    node.spiller.close()


def test_end_within_a_write_does_not_wait_for_it(
    node: Node, disk: Path, gate: Callable[[Path], Gate], gone: Any
) -> None:
    closed = gate(node.store / "gate")
    node.spiller.spill(Spill(1, "batch", ["gate"], [MIB]))
    closed.wait_reader()
    pid = node.spiller.pid
    node.spiller.close()
    assert gone([pid], 0) == []
    assert names(disk / f"{ROOT}-{os.getuid()}") == set()


def test_files_of_a_spiller_that_died_go_with_the_session(node: Node, disk: Path) -> None:
    node.spill(1, "batch", node.segment("segment"))
    os.kill(node.spiller.pid, signal.SIGKILL)
    wait_until(lambda: has_something_to_say(node))
    node.poller.poll(0)
    assert node.spiller.pid == 0
    assert names(node.spiller.directory()) == {LOCK, "batch"}
    node.spiller.close()
    assert names(disk / f"{ROOT}-{os.getuid()}") == set()


def test_end_does_not_wait_for_a_process_that_hangs(
    node: Node, disk: Path, gone: Gone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spilling, "END_S", 0.05)
    node.spill(1, "batch", node.segment("segment"))
    pid = node.spiller.pid
    os.kill(pid, signal.SIGSTOP)
    node.spiller.close()
    assert gone([pid], 0) == []
    assert names(disk / f"{ROOT}-{os.getuid()}") == set()


def test_killed_daemon_takes_its_spiller_and_the_files_along(
    tmp_path: Path, disk: Path, gone: Gone
) -> None:
    read_fd, write_fd = os.pipe()
    daemon = os.fork()
    if not daemon:
        try:
            node = Node(tmp_path, str(disk))
            node.spill(1, "batch", node.segment("segment"))
            os.write(write_fd, str(node.spiller.pid).encode())
            signal.pause()
        finally:
            os._exit(1)
    os.close(write_fd)
    pid = int(os.read(read_fd, 100))
    os.close(read_fd)
    assert names(disk / f"{ROOT}-{os.getuid()}") == {SESSION}
    os.kill(daemon, signal.SIGKILL)
    os.waitpid(daemon, 0)
    assert gone([pid], WAIT_S) == []
    assert names(disk / f"{ROOT}-{os.getuid()}") == set()


# ------------------------------------------------------------------ leftovers of dead sessions


@pytest.fixture
def sessions_of_others(disk: Path) -> Iterator[Path]:
    """The root of all sessions: one of them lives, one is dead."""
    root = Path(user_root(str(disk), ROOT))
    _, lock_fd = make_session_dir(str(root), "living")
    dead, dead_fd = make_session_dir(str(root), "dead")
    os.close(dead_fd)
    for session in ("living", dead):
        (root / session / "batch").write_bytes(b"spilled")
    yield root
    os.close(lock_fd)


def test_first_need_removes_what_dead_sessions_left(node: Node, sessions_of_others: Path) -> None:
    segment = node.segment("segment")
    node.spill(1, "batch", segment)
    node.spiller.unlink(["batch"])
    assert node.spill(2, "another", segment).error == ""
    assert names(sessions_of_others) == {"living", SESSION}
    assert names(sessions_of_others / "living") == {LOCK, "batch"}


def test_leftovers_are_removed_without_a_need_too(node: Node, sessions_of_others: Path) -> None:
    node.spiller.remove_leftovers()
    assert node.spiller.pid
    wait_until(lambda: names(sessions_of_others) == {"living", SESSION})


def test_no_process_is_started_where_nothing_is_left(node: Node, disk: Path) -> None:
    _, lock_fd = make_session_dir(user_root(str(disk), ROOT), "living")
    node.spiller.remove_leftovers()
    assert node.spiller.pid == 0
    os.close(lock_fd)


def test_leftovers_that_no_process_can_remove_are_logged(
    node: Node,
    sessions_of_others: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(_launch, "spawn", refuse)
        node.spiller.remove_leftovers()
    assert capsys.readouterr().err == "weft: leftovers stay: [Errno 11] no more processes\n"
    assert "dead" in names(sessions_of_others)
