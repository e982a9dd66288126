from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
from typing import TYPE_CHECKING, Any

import pytest

from weft._transport import private
from weft._transport.private import (
    MOST_BYTES,
    check_private_folder,
    read_private,
    write_private,
    write_private_folder,
)
from weft.exceptions import UsageError

if TYPE_CHECKING:
    from pathlib import Path

FILES = {"token": b"one", "key": b"two"}


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_file_is_read_as_it_was_written_and_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "join"
    write_private(path, b"first")
    write_private(path, b"second")
    assert read_private(path, "join string") == b"second"
    assert mode(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_files_are_closed_to_others_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_private(tmp_path / "join", b"x")
        write_private_folder(tmp_path / "a" / "b", FILES)
    finally:
        os.umask(before)
    assert mode(tmp_path / "join") == 0o600
    assert mode(tmp_path / "a" / "b") == 0o700
    assert mode(tmp_path / "a" / "b" / "key") == 0o600


def test_folder_is_made_with_all_its_files_or_left_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    assert write_private_folder(folder, FILES)
    assert not write_private_folder(folder, {"token": b"other"})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert list(tmp_path.iterdir()) == [folder]


def _make(folder: Path, number: int, made: Any) -> None:
    made.put(write_private_folder(folder, {"a": b"%d" % number, "b": b"%d" % number}))


@pytest.mark.slow
def test_of_many_processes_at_once_one_makes_the_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    made = context.SimpleQueue()
    makers = [
        context.Process(target=_make, args=(tmp_path / "cluster", number, made))
        for number in range(8)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
        maker.close()
    assert sorted(made.get() for _ in makers) == [False] * 7 + [True]
    made.close()
    folder = tmp_path / "cluster"
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("failing", range(1, 8))
def test_nothing_is_left_when_the_kth_step_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    calls = 0

    def step(real: Any) -> Any:
        def fail(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == failing:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        return fail

    write_private(tmp_path / "join", b"old")
    for name in ("_write", "_sync"):
        monkeypatch.setattr(private, name, step(getattr(private, name)))
    monkeypatch.setattr(os, "fsync", step(os.fsync))
    with contextlib.suppress(OSError):
        write_private(tmp_path / "join", b"new")
        write_private_folder(tmp_path / "cluster", FILES)
    monkeypatch.undo()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left in (["join"], ["cluster", "join"])
    assert read_private(tmp_path / "join", "join string") in (b"old", b"new")
    if "cluster" in left:
        assert len(list((tmp_path / "cluster").iterdir())) == 2


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as met:
        read_private(path, "cluster's token")
    message = str(met.value)
    assert "\n" not in message
    assert message.startswith("the cluster's token")
    assert str(path) in message
    return message


def test_missing_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none").endswith("No such file or directory")


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o610, 0o666])
def test_file_that_is_open_to_others_is_refused(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "token"
    write_private(path, b"x")
    path.chmod(bits)
    assert f"open to others (mode {bits:04o})" in refusal(path)
    assert "chmod 600" in refusal(path)


def test_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    write_private(path, b"x")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert f"belongs to user {os.getuid()}, not to 12345" in refusal(path)


def test_other_kinds_of_files_are_refused_without_waiting(tmp_path: Path) -> None:
    write_private(tmp_path / "real", b"x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir(0o700)
    assert "Too many levels of symbolic links" in refusal(tmp_path / "link")
    assert "another kind of file" in refusal(tmp_path / "pipe")
    assert "another kind of file" in refusal(tmp_path / "folder")


def test_file_that_is_far_too_long_is_refused(tmp_path: Path) -> None:
    write_private(tmp_path / "token", bytes(MOST_BYTES + 1))
    assert "it is another file" in refusal(tmp_path / "token")
    write_private(tmp_path / "token", bytes(MOST_BYTES))
    assert len(read_private(tmp_path / "token", "cluster's token")) == MOST_BYTES


def test_folder_that_others_could_write_to_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    write_private_folder(folder, FILES)
    check_private_folder(folder, "cluster's credentials")
    (tmp_path / "link").symlink_to(folder)
    folder.chmod(0o750)
    for path, words in (
        (folder, "chmod 700"),
        (tmp_path / "link", "another kind of file"),
        (tmp_path / "none", "No such file"),
    ):
        with pytest.raises(UsageError, match=words):
            check_private_folder(path, "cluster's credentials")
