"""Directories made from their lists, for workers to run in: the builder's half of working_dir.

A directory belongs to one session at a time: its workers may write there, and see what the others
wrote. The next session that wants the same contents takes it over: what was changed or added is put
right first, which costs one look at each file. While its session lives, another session gets a
directory of its own.

What is always true
1. When `claim` returns, the directory holds what its list says, unless it was the session's
   already; compiled modules (`__pycache__`) stay from session to session.
2. Its owner is written down before anything in it is touched.

Files up to `COPY_BYTES` are copies; larger ones are hard links to the cache. A program that writes
into a large file in place, instead of replacing it, changes it for other sessions that run now; the
cache notices and stores it again.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import msgspec

from weft._env.cache import DIR_DIGITS, EnvCache, TreeEntry, is_alive, locked

# Copying this much takes about as long as making the link; a repository's sources lie below it.
COPY_BYTES = 2**20
_COMPILED = b"__pycache__"

_State = dict[bytes, tuple[int, int, int, int]]
"""By path: size, time of change, time of change of the inode, inode."""


def claim(cache: EnvCache, digest: str, session_dir: str) -> str:
    """Return a directory with what the list `digest` says, for the session.

    FileNotFoundError: a content is gone.
    """
    entries = cache.read_tree(digest)
    number = 0
    while True:
        place = f"{cache.root}/dirs/{digest[:DIR_DIGITS]}-{number}"
        with locked(f"{place}.lock"):
            owner = Path(f"{place}.owner")
            before = owner.read_text() if owner.exists() else ""
            # Without its state it was not finished: who made it has failed, or was killed.
            if before == session_dir and Path(f"{place}.state").exists():
                os.utime(owner)
                return place
            if before in {"", session_dir} or not is_alive(before):
                owner.write_text(session_dir)
                _put_right(cache, place, entries)
                return place
        number += 1


def _put_right(cache: EnvCache, place: str, entries: list[TreeEntry]) -> None:
    """Make a directory what its list says."""
    state_path = Path(f"{place}.state")
    try:
        known = msgspec.msgpack.decode(state_path.read_bytes(), type=_State)
    except (FileNotFoundError, msgspec.MsgspecError):
        shutil.rmtree(place, ignore_errors=True)
        known = {}
    root = os.fsencode(place)
    dirs = _dirs_of(entries)
    for path in sorted(dirs):
        _make_dir(root + b"/" + path)
    files = {entry.path: entry for entry in entries if entry.kind != "d"}
    found = _keep(root, files, dirs, known)
    if len(found) == len(files):
        return
    state_path.unlink(missing_ok=True)
    for path, entry in files.items():
        if path not in found:
            _make(cache, root + b"/" + path, entry)
            found[path] = _signature(os.lstat(root + b"/" + path))
    cache.write(state_path, msgspec.msgpack.encode(found))


def _dirs_of(entries: list[TreeEntry]) -> set[bytes]:
    """Return the directories that a list needs; the empty path is the root."""
    dirs = {b""}
    for entry in entries:
        above = entry.path if entry.kind == "d" else entry.path.rpartition(b"/")[0]
        while above not in dirs:
            dirs.add(above)
            above = above.rpartition(b"/")[0]
    return dirs


def _make_dir(path: bytes) -> None:
    try:
        os.mkdir(path, 0o700)  # noqa: PTH102 - paths are bytes
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)  # noqa: PTH108 - paths are bytes
            os.mkdir(path, 0o700)  # noqa: PTH102 - paths are bytes


def _keep(root: bytes, files: dict[bytes, TreeEntry], dirs: set[bytes], known: _State) -> _State:
    """Remove what the list does not name and what has changed; return what is left."""
    found: _State = {}
    for place in dirs:
        for item in os.scandir(root + b"/" + place):
            path = place + b"/" + item.name if place else item.name
            status = item.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                if path not in dirs and item.name != _COMPILED:
                    shutil.rmtree(item.path, ignore_errors=True)
            elif path in files and known.get(path) == _signature(status):
                found[path] = known[path]
            else:
                os.unlink(item.path)  # noqa: PTH108 - paths are bytes
    return found


def _make(cache: EnvCache, path: bytes, entry: TreeEntry) -> None:
    if entry.kind == "l":
        os.symlink(entry.content, path)  # noqa: PTH211 - paths are bytes
        return
    source = os.fsencode(cache.file(entry.content))
    if entry.size > COPY_BYTES:
        try:
            os.link(source, path)
        except OSError:
            pass  # On another file system, or linked too often.
        else:
            if entry.kind == "x":
                os.chmod(path, 0o700)  # noqa: PTH101 - paths are bytes
            return
    shutil.copyfile(source, path)
    if entry.kind == "x":
        os.chmod(path, 0o700)  # noqa: PTH101 - paths are bytes


def _signature(status: os.stat_result) -> tuple[int, int, int, int]:
    # Another hard link to the same content changes the inode's time: only copies are held to that.
    changed_ns = status.st_ctime_ns if status.st_nlink == 1 else 0
    return status.st_size, status.st_mtime_ns, changed_ns, status.st_ino
