"""What a user's directory holds, as the digest of a list: the driver's half of working_dir.

In a git repository the files are those that git knows or would take: tracked, or untracked and not
ignored. Elsewhere they are all files but those that a `.gitignore` file names, virtual
environments, `__pycache__` and the like. Patterns in `excludes` apply on top. An archive counts as
the directory that it would unpack to.

A file is read when it is new, or when its size, times or inode differ from what the index of its
directory says; its content goes to the cache. So the second use of an unchanged directory costs one
look at each file.

Facts about times: the kernel's clock for them ticks every few milliseconds, so a file can be
changed twice within one time. One that was changed less than `RACY_NS` before it was read is read
again at the next use (git calls such entries racily clean).
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from weft._clock import wall
from weft._env.cache import EnvCache, TreeEntry
from weft._env.ignores import IgnoreRules
from weft._env.requirements import local_paths
from weft._env.spec import CODE, CONTENT, check_exists
from weft._lazy import lazy
from weft._settings import WORKING_DIR
from weft.exceptions import OptionError

if TYPE_CHECKING:
    import base64
    import subprocess
    import zipfile
    from collections.abc import Iterator, Mapping, Sequence
else:
    base64 = lazy("base64")
    subprocess = lazy("subprocess")
    zipfile = lazy("zipfile")

RACY_NS: Final = 100_000_000
LARGEST_TOLD: Final = 3
_NEVER: Final = frozenset({".git", ".hg", ".svn", "__pycache__", ".DS_Store"})
_IGNORE_FILE: Final = ".gitignore"
_VENV_FILE: Final = "pyvenv.cfg"


class _Known(msgspec.Struct, frozen=True, array_like=True):
    """What was true of a file when its content was stored."""

    size: int
    modified_ns: int
    changed_ns: int
    inode: int
    content: bytes


class _Listing:
    """The files of one directory."""

    def __init__(self, root: str, excludes: Sequence[str], cache_root: str) -> None:
        self._root = root
        self._excludes = IgnoreRules(excludes)
        self._cache_root = cache_root
        self._excluded: dict[str, bool] = {}

    def paths(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield (path relative to the root, its lstat) of what belongs to it."""
        tracked = _git_files(self._root)
        if tracked is None:
            yield from self._walk("", (), frozenset({os.path.realpath(self._root)}))
        else:
            yield from self._of_git(tracked)

    def _of_git(self, tracked: list[str]) -> Iterator[tuple[str, os.stat_result]]:
        for path in tracked:
            if self._is_excluded(path, is_dir=False):
                continue
            try:
                status = os.lstat(f"{self._root}/{path}")
            except FileNotFoundError:
                continue  # Removed, and git has not been told.
            if stat.S_ISDIR(status.st_mode):
                # A repository of its own: git names it and does not look inside.
                inside = _Listing(f"{self._root}/{path}", (), self._cache_root)
                name = path.rstrip("/")
                for below, below_status in inside.paths():
                    if not self._is_excluded(f"{name}/{below}", is_dir=False):
                        yield f"{name}/{below}", below_status
            else:
                yield from self._resolved(path, status, (), frozenset())

    def _is_excluded(self, path: str, *, is_dir: bool) -> bool:
        """Tell whether the user's patterns exclude a path or a directory above it."""
        if not self._excludes:
            return False
        above = path.rpartition("/")[0]
        if above:
            known = self._excluded.get(above)
            if known is None:
                known = self._excluded[above] = self._is_excluded(above, is_dir=True)
            if known:
                return True
        return self._excludes.verdict(path, is_dir=is_dir) is True

    def _walk(
        self, place: str, rules: tuple[tuple[int, IgnoreRules], ...], above: frozenset[str]
    ) -> Iterator[tuple[str, os.stat_result]]:
        prefix = f"{place}/" if place else ""
        found = sorted(os.scandir(f"{self._root}/{place}"), key=lambda entry: entry.name)
        if any(entry.name == _IGNORE_FILE for entry in found):
            text = Path(self._root, place, _IGNORE_FILE).read_text("utf-8", "replace")
            rules = (*rules, (len(prefix), IgnoreRules(text.splitlines())))
        is_empty = True
        for entry in found:
            path = prefix + entry.name
            is_dir = entry.is_dir(follow_symlinks=False)
            if entry.name in _NEVER or self._leaves_out(path, rules, is_dir=is_dir):
                continue
            is_empty = False
            if not is_dir:
                yield from self._resolved(path, entry.stat(follow_symlinks=False), rules, above)
            elif entry.path != self._cache_root and not Path(entry.path, _VENV_FILE).exists():
                yield from self._walk(path, rules, above)
        if is_empty and place:
            yield place, os.lstat(f"{self._root}/{place}")

    def _leaves_out(
        self, path: str, rules: tuple[tuple[int, IgnoreRules], ...], *, is_dir: bool
    ) -> bool:
        for start, rule in reversed(rules):
            verdict = rule.verdict(path[start:], is_dir=is_dir)
            if verdict is not None:
                if verdict:
                    return True
                break
        return self._is_excluded(path, is_dir=is_dir)

    def _resolved(
        self,
        path: str,
        status: os.stat_result,
        rules: tuple[tuple[int, IgnoreRules], ...],
        above: frozenset[str],
    ) -> Iterator[tuple[str, os.stat_result]]:
        """Yield a file; a link that leads out of the directory as what it leads to."""
        if stat.S_ISREG(status.st_mode):
            yield path, status
        elif stat.S_ISLNK(status.st_mode):
            if self._leads_inside(path):
                yield path, status
                return
            real = os.path.realpath(f"{self._root}/{path}")
            try:
                status = Path(real).stat()
            except OSError:
                return  # It leads nowhere.
            if stat.S_ISREG(status.st_mode):
                yield path, status
            elif stat.S_ISDIR(status.st_mode) and real not in above:
                yield from self._walk(path, rules, above | {real})

    def _leads_inside(self, path: str) -> bool:
        target = str(Path(self._root, path).readlink())
        above = path.rpartition("/")[0]
        inside = os.path.normpath(os.path.join(above, target))  # noqa: PTH118 - only the words
        return inside != ".." and not inside.startswith(("../", "/"))


def _git_files(root: str) -> list[str] | None:
    """Return what git has of a directory or would take, None: ask somebody else."""
    if not any((place / ".git").exists() for place in (Path(root), *Path(root).parents)):
        return None
    try:
        done = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=root,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError:
        return None
    if done.returncode:
        return None
    # An empty answer: the directory itself is ignored, and was asked for all the same.
    return sorted({os.fsdecode(path) for path in done.stdout.split(b"\0") if path}) or None


class Snapshot:
    """Turns local directories and files into the digests of what they hold."""

    def __init__(self, cache: EnvCache) -> None:
        self._cache = cache
        self._stored = False

    def directory(self, root: str, excludes: Sequence[str] = (), prefix: str = "") -> str:
        """Return the digest of a directory's list, whose paths begin with `prefix`."""
        index = self._index_of(root)
        known = self._read_index(index)
        kept: dict[bytes, _Known] = {}
        entries: list[TreeEntry] = []
        listed = list(_Listing(root, excludes, self._cache.root).paths())
        _check_size(root, {path: status.st_size for path, status in listed})
        for path, status in listed:
            name = os.fsencode(prefix + path)
            if stat.S_ISLNK(status.st_mode):
                entries.append(TreeEntry(name, "l", os.fsencode(Path(root, path).readlink())))
            elif stat.S_ISDIR(status.st_mode):
                entries.append(TreeEntry(name, "d"))
            else:
                try:
                    content, size = self._content(
                        f"{root}/{path}", os.fsencode(path), status, known, kept
                    )
                except FileNotFoundError:
                    continue  # Removed meanwhile.
                entries.append(
                    TreeEntry(name, "x" if status.st_mode & 0o111 else "f", content, size)
                )
        if kept != known:
            self._cache.write(index, msgspec.msgpack.encode(kept))
        return self._write(entries)

    def single(self, path: str) -> str:
        """Return the digest of a list that holds one file."""
        content, size = self._cache.store(path)
        return self._write([TreeEntry(os.fsencode(Path(path).name), "f", content, size)])

    def archive(self, path: str) -> str:
        """Return the digest of what an archive holds."""
        index = self._index_of(path)
        status = Path(path).stat()
        known = self._read_index(index).get(b"")
        if known is not None and _is_same(known, status):
            digest = known.content.hex()
            if self._is_whole(digest):
                return digest
        entries = []
        with zipfile.ZipFile(path) as packed:
            _check_size(path, {item.filename: item.file_size for item in packed.infolist()})
            for item in packed.infolist():
                parts = [part for part in item.filename.split("/") if part not in ("", ".")]
                if ".." in parts or item.filename.startswith("/"):
                    raise OptionError(
                        f"{path} holds {item.filename!r}, which would be unpacked elsewhere"
                    )
                if item.is_dir() or not parts:
                    continue
                data = packed.read(item)
                kind = "x" if item.external_attr >> 16 & 0o111 else "f"
                name = os.fsencode("/".join(parts))
                entries.append(TreeEntry(name, kind, self._cache.store_bytes(data), len(data)))
        entries.sort(key=lambda entry: entry.path)
        digest = self._write(entries)
        if not _is_racy(status):
            kept = {b"": _known(status, bytes.fromhex(digest))}
            self._cache.write(index, msgspec.msgpack.encode(kept))
        return digest

    def _is_whole(self, digest: str) -> bool:
        try:
            entries = self._cache.read_tree(digest)
        except FileNotFoundError:
            return False
        self._cache.write_tree(entries)
        return all(self._cache.has(entry.content, entry.size) for entry in entries)

    def _content(
        self,
        path: str,
        name: bytes,
        status: os.stat_result,
        known: dict[bytes, _Known],
        kept: dict[bytes, _Known],
    ) -> tuple[bytes, int]:
        before = known.get(name)
        if (
            before is not None
            and _is_same(before, status)
            and self._cache.has(before.content, before.size)
        ):
            kept[name] = before
            return before.content, before.size
        content, size = self._cache.store(path)
        self._stored = True
        after = Path(path).stat()
        if (
            size == after.st_size
            and _is_same(_known(status, content), after)
            and not _is_racy(after)
        ):
            kept[name] = _known(after, content)
        return content, size

    def _write(self, entries: list[TreeEntry]) -> str:
        digest = self._cache.write_tree(entries)
        if self._stored:
            self._stored = False
            self._cache.prune()
        return digest

    def _index_of(self, path: str) -> Path:
        return Path(self._cache.root, "indexes", hashlib.sha256(os.fsencode(path)).hexdigest())

    def _read_index(self, index: Path) -> dict[bytes, _Known]:
        try:
            return msgspec.msgpack.decode(index.read_bytes(), type=dict[bytes, _Known])
        except (FileNotFoundError, msgspec.MsgspecError):
            return {}


def _known(status: os.stat_result, content: bytes) -> _Known:
    return _Known(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, content)


def _is_same(known: _Known, status: os.stat_result) -> bool:
    return (
        known.modified_ns == status.st_mtime_ns
        and known.size == status.st_size
        and known.changed_ns == status.st_ctime_ns
        and known.inode == status.st_ino
    )


def _check_size(root: str, size_of: Mapping[str, int]) -> None:
    """OptionError: it is too much to be sent to other nodes."""
    total, most = sum(size_of.values()), WORKING_DIR.value()
    if total <= most:
        return
    largest = sorted(size_of, key=lambda path: -size_of[path])[:LARGEST_TOLD]
    told = ", ".join(f"{path} ({size_of[path] / 1e6:,.1f} MB)" for path in largest)
    raise OptionError(
        f"the runtime_env names {root!r}, which holds {total / 1e6:,.1f} MB, more than the "
        f"{most / 1e6:,.1f} MB of {WORKING_DIR.name}; the largest: {told}: leave out what workers "
        "do not need with excludes or a .gitignore file"
    )


def _is_racy(status: os.stat_result) -> bool:
    return wall() * 1e9 - max(status.st_mtime_ns, status.st_ctime_ns) < RACY_NS


# ------------------------------------------------------------------ whole environments


def resolve(fields: Mapping[str, Any], cache: EnvCache) -> dict[str, Any]:
    """Return an environment in which contents stand for local files. OptionError."""
    resolved = dict(fields)
    excludes = resolved.pop("excludes", ())
    snapshot = Snapshot(cache)
    try:
        if "working_dir" in resolved:
            resolved["working_dir"] = _named(
                resolved["working_dir"], excludes, snapshot, is_module=False
            )
        if "py_modules" in resolved:
            resolved["py_modules"] = [
                _named(path, excludes, snapshot, is_module=True) for path in resolved["py_modules"]
            ]
        for tool in ("pip", "uv"):
            if tool in resolved:
                resolved[tool] = _with_local(resolved[tool], snapshot)
    except OSError as error:
        raise OptionError(
            f"the runtime_env names {error.filename!r}, which cannot be used: {error.strerror}"
        ) from error
    hook = resolved.get("worker_process_setup_hook", "")
    if hook.startswith(CODE):
        code = base64.b64decode(hook.removeprefix(CODE))
        resolved["worker_process_setup_hook"] = CONTENT + cache.store_bytes(code).hex()
    return resolved


def _named(path: str, excludes: Sequence[str], snapshot: Snapshot, *, is_module: bool) -> str:
    if path.startswith(CONTENT):
        return path
    if problem := check_exists(path):
        raise OptionError(f"the runtime_env {problem}")
    if Path(path).is_dir():
        prefix = f"{Path(path).name}/" if is_module else ""
        return CONTENT + snapshot.directory(path, excludes, prefix)
    return CONTENT + (snapshot.single(path) if path.endswith(".py") else snapshot.archive(path))


def _with_local(field: dict[str, Any], snapshot: Snapshot) -> dict[str, Any]:
    """Add the digests of what requirements name on this machine: a change of it counts."""
    digests = {}
    for path in local_paths(field["packages"]):
        if Path(path).is_dir():
            digests[path] = snapshot.directory(path)
        elif Path(path).exists():
            digests[path] = snapshot.single(path)
    return {**field, "local": digests} if digests else field
