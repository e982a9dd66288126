"""This user's cache of what runtime environments are made of; every session of the user shares it.

    <temp root>/weft-env-<uid>/   0700
        files/ab/cdef...     contents, under their SHA-256
        trees/<digest>       the list of what a directory holds
        dirs/<digest>-<n>/   that directory, for one session at a time (trees.py)
        indexes/<name>       what is known of a user's directory, so that it is not read again
        venvs/<key>/         installed packages (packages.py)

What is always true
1. A file or list appears under its name when it is complete.
2. A content's time of change is `STORED_NS`. One with another time was written to through a hard
   link: it counts as missing, and is stored again.
3. What is removed has not been used for `MIN_AGE_S`: a session that was promised a content gets it.
4. While a living session has a directory, its list and what that names stay: another node may want
   them. Who gives something away uses it.

The cache does not belong to a session: it stays, and `prune` removes what is old.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from weft import _settings
from weft._clock import wall

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# A fixed moment, 1 January 2000: no file is made at it by accident.
STORED_NS = 946_684_800 * 10**9
MIN_AGE_S = 3600.0
# A project that rests for a week starts as if for the first time, some seconds later.
MAX_AGE_S = 7 * 86400.0
MAX_BYTES = 20 * 2**30
PRUNE_EVERY_S = 86400.0
# Of a list's digest, in the names of its directories.
DIR_DIGITS = 32
_COPY_BYTES = 4 * 2**20


class TreeEntry(msgspec.Struct, frozen=True, array_like=True):
    """One thing in a directory."""

    path: bytes
    """Relative, with slashes, as the file system spells it."""
    kind: str
    """f: file; x: file that can be executed; l: symbolic link; d: directory."""
    content: bytes = b""
    """The SHA-256 of a file, the target of a link."""
    size: int = 0
    """Bytes."""


class EnvCache:
    """The cache in one directory."""

    def __init__(self, root: str) -> None:
        self.root = root
        for name in ("files", "trees", "dirs", "indexes", "venvs"):
            Path(root, name).mkdir(mode=0o700, parents=True, exist_ok=True)

    # -------------------------------------------------------------- contents

    def file(self, content: bytes) -> str:
        """Return where a content is, or would be."""
        name = content.hex()
        return f"{self.root}/files/{name[:2]}/{name[2:]}"

    def has(self, content: bytes, size: int) -> bool:
        """Tell whether a content is here and whole; keeps it from being removed soon."""
        path = self.file(content)
        try:
            status = os.stat(path)  # noqa: PTH116 - one of many files
        except FileNotFoundError:
            return False
        if status.st_size != size or status.st_mtime_ns != STORED_NS:
            return False
        if wall() - status.st_ctime > MIN_AGE_S / 2:
            os.utime(path, ns=(STORED_NS, STORED_NS))
        return True

    def store(self, path: str) -> tuple[bytes, int]:
        """Store a file's content; return its SHA-256 and size. OSError: it cannot be read."""
        with Path(path).open("rb") as source:
            return self.store_parts(iter(partial(source.read, _COPY_BYTES), b""))

    def store_parts(self, parts: Iterable[bytes]) -> tuple[bytes, int]:
        """Store bytes that come one after the other; return their SHA-256 and size."""
        digest = hashlib.sha256()
        size = 0
        unborn = self._unborn()
        try:
            with Path(unborn).open("wb") as target:
                for part in parts:
                    digest.update(part)
                    target.write(part)
                    size += len(part)
            content = digest.digest()
            self._place(unborn, content, size)
        except BaseException:
            Path(unborn).unlink(missing_ok=True)
            raise
        return content, size

    def store_bytes(self, data: bytes) -> bytes:
        """Store bytes; return their SHA-256."""
        content = hashlib.sha256(data).digest()
        if not self.has(content, len(data)):
            unborn = self._unborn()
            Path(unborn).write_bytes(data)
            self._place(unborn, content, len(data))
        return content

    def _unborn(self) -> str:
        return f"{self.root}/files/.{os.getpid():x}-{os.urandom(6).hex()}"

    def _place(self, unborn: str, content: bytes, size: int) -> None:
        if self.has(content, size):
            os.unlink(unborn)  # noqa: PTH108 - one of many files
            return
        os.utime(unborn, ns=(STORED_NS, STORED_NS))
        place = self.file(content)
        try:
            os.rename(unborn, place)  # noqa: PTH104 - one of many files
        except FileNotFoundError:
            Path(place).parent.mkdir(mode=0o700, exist_ok=True)
            os.rename(unborn, place)  # noqa: PTH104 - one of many files

    # -------------------------------------------------------------- lists

    def tree(self, digest: str) -> str:
        """Return where a list is, or would be."""
        return f"{self.root}/trees/{digest}"

    def write_tree(self, entries: list[TreeEntry]) -> str:
        """Keep the list of what a directory holds; return its digest."""
        body = msgspec.msgpack.encode(entries)
        digest = hashlib.sha256(body).hexdigest()
        path = Path(self.tree(digest))
        if path.exists():
            os.utime(path)
        else:
            self.write(path, body)
        return digest

    def read_tree(self, digest: str) -> list[TreeEntry]:
        """Return what a directory holds. FileNotFoundError: it is not known here."""
        body = Path(self.tree(digest)).read_bytes()
        return msgspec.msgpack.decode(body, type=list[TreeEntry])

    def write(self, path: Path, data: bytes) -> None:
        """Write a file that appears complete."""
        unborn = path.with_name(f".{path.name}-{os.urandom(6).hex()}")
        unborn.write_bytes(data)
        unborn.rename(path)

    # -------------------------------------------------------------- removal

    def prune(self) -> None:
        """Remove what is old, at most once a day."""
        stamp = Path(self.root, "pruned")
        now = wall()
        try:
            if now - stamp.stat().st_mtime < PRUNE_EVERY_S:
                return
        except FileNotFoundError:
            pass
        stamp.touch()
        self.remove_old(now)

    def remove_old(self, now: float) -> None:
        """Remove what was not used for `MAX_AGE_S`; then the oldest, down to `MAX_BYTES`.

        What a living session uses stays.
        """
        used = self._used()
        for name in ("trees", "indexes"):
            for entry in os.scandir(f"{self.root}/{name}"):
                if now - entry.stat().st_mtime > MAX_AGE_S and entry.path not in used:
                    _remove(entry.path)
        found = [*self._old_files(now, used), *self._old_dirs(now), *self._old_venvs(now)]
        total = sum(size for _, _, size in found)
        for used_at, path, size in sorted(found):
            if now - used_at > MAX_AGE_S or total > MAX_BYTES:
                total -= size
                self._drop(path)

    def _used(self) -> set[str]:
        """Return where the lists of living sessions are, and what these name."""
        living: set[str] = set()
        for owner in Path(self.root, "dirs").glob("*.owner"):
            with contextlib.suppress(OSError):
                if is_alive(owner.read_text()):
                    living.add(owner.name.rpartition("-")[0])
        used: set[str] = set()
        for listed in os.scandir(f"{self.root}/trees"):
            if listed.name[:DIR_DIGITS] in living:
                used.add(listed.path)
                with contextlib.suppress(OSError, msgspec.MsgspecError):
                    entries = self.read_tree(listed.name)
                    used.update(self.file(each.content) for each in entries if each.kind in "fx")
        return used

    def _drop(self, path: str) -> None:
        """Remove a file, or a directory if nobody uses it."""
        if path.startswith(f"{self.root}/files/"):
            _remove(path)
            return
        with contextlib.suppress(BlockingIOError), locked(f"{path}.lock", wait=False):
            owner = Path(f"{path}.owner")
            if not owner.exists() or not is_alive(owner.read_text()):
                shutil.rmtree(path, ignore_errors=True)
                # The lock's file stays: somebody may be waiting with it in hand.
                for suffix in (".owner", ".state"):
                    Path(path + suffix).unlink(missing_ok=True)

    def _old_files(self, now: float, used: set[str]) -> Iterator[tuple[float, str, int]]:
        for group in os.scandir(f"{self.root}/files"):
            if not group.is_dir():
                if now - group.stat().st_mtime > MIN_AGE_S:
                    _remove(group.path)  # Somebody died while writing it.
                continue
            for entry in os.scandir(group.path):
                status = entry.stat()
                # A use sets its times, and a hard link too: the status says when.
                if now - status.st_ctime > MIN_AGE_S and entry.path not in used:
                    yield status.st_ctime, entry.path, status.st_size

    def _old_dirs(self, now: float) -> Iterator[tuple[float, str, int]]:
        for entry in os.scandir(f"{self.root}/dirs"):
            if entry.is_dir(follow_symlinks=False):
                used_at = _modified_at(f"{entry.path}.owner")
                if now - used_at > MIN_AGE_S:
                    yield used_at, entry.path, _tree_bytes(entry.path)

    def _old_venvs(self, now: float) -> Iterator[tuple[float, str, int]]:
        for entry in os.scandir(f"{self.root}/venvs"):
            if entry.is_dir(follow_symlinks=False):
                used_at = _modified_at(f"{entry.path}/complete") or entry.stat().st_mtime
                if now - used_at > MIN_AGE_S:
                    yield used_at, entry.path, _tree_bytes(entry.path)


def default_root() -> str:
    """Return where this user's cache is, made if need be. PermissionError: it is someone else's."""
    root = f"{os.path.abspath(_settings.temp_root())}/weft-env-{os.getuid()}"  # noqa: PTH100 - links stay
    Path(root).mkdir(mode=0o700, parents=True, exist_ok=True)
    status = os.lstat(root)
    if status.st_uid != os.getuid() or Path(root).is_symlink():
        raise PermissionError(f"{root} belongs to another user: set {_settings.TEMP_DIR.name}")
    if status.st_mode & 0o077:
        Path(root).chmod(0o700)
    return root


@contextlib.contextmanager
def locked(path: str, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock between processes. BlockingIOError: somebody has it, and `wait` is False."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(fd)


def is_alive(session_dir: str) -> bool:
    """Tell whether a session lives: its daemon holds the lock in its directory (see _launch.py)."""
    try:
        with locked_file(f"{session_dir}/lock"):
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


@contextlib.contextmanager
def locked_file(path: str) -> Iterator[None]:
    """Hold the lock of a file that exists. BlockingIOError: somebody else has it."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def _modified_at(path: str) -> float:
    try:
        return Path(path).stat().st_mtime
    except OSError:
        return 0.0


def _tree_bytes(path: str) -> int:
    return sum(
        os.lstat(f"{place}/{name}").st_blocks * 512
        for place, _, files in os.walk(path)
        for name in files
    )


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)  # noqa: PTH108 - one of many files
