"""A checkpoint: a directory of files, here or on another file system."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from weft.lowlevel import lazy, override
from weft.tune._storage import Storage, scratch, storage_at

if TYPE_CHECKING:
    import shutil
    from collections.abc import Iterator, Mapping
    from typing import Self
else:
    shutil = lazy("shutil")

_METADATA = ".metadata.json"


class Checkpoint:
    """Stands for a directory that a trial has saved, or is about to.

    It is small, and travels: the files stay where they are. It does not own them: what a trial
    reported is removed when the experiment keeps better ones.
    """

    def __init__(self, path: str | os.PathLike[str], filesystem: Any = None) -> None:
        """Point to a directory.

        Args:
            path: Of the directory; a URI if no file system is given.
            filesystem: A `pyarrow.fs.FileSystem` or one of fsspec, in which `path` is.
        """
        self._storage = storage_at(path, filesystem)
        self.path = self._storage.path

    @classmethod
    def _of(cls, storage: Storage) -> Self:
        made = cls.__new__(cls)
        made._storage, made.path = storage, storage.path
        return made

    @classmethod
    def from_directory(cls, path: str | os.PathLike[str]) -> Self:
        """Return the checkpoint that a local directory is. Nothing is copied."""
        return cls(path)

    @property
    def filesystem(self) -> Any:
        """The `pyarrow.fs.FileSystem` in which `path` is."""
        return self._storage.filesystem

    def to_directory(self, path: str | os.PathLike[str] | None = None) -> str:
        """Copy the files to a local directory, and return its path. Blocks.

        Args:
            path: Where to; None: a new directory, which the caller removes.
        """
        target = scratch("checkpoint") if path is None else os.fspath(path)
        Path(target).mkdir(parents=True, exist_ok=True)
        self._storage.fetch("", target)
        return target

    @contextlib.contextmanager
    def as_directory(self) -> Iterator[str]:
        """Give a local directory with the files, for the length of a `with` block.

        The checkpoint's own directory if it is local: do not change it. Else a copy, which is
        removed at the end.
        """
        if self._storage.is_local:
            yield self.path
            return
        target = self.to_directory()
        try:
            yield target
        finally:
            shutil.rmtree(target, ignore_errors=True)

    def get_metadata(self) -> dict[str, Any]:
        """Return what was stored with the checkpoint by `set_metadata`; empty if nothing was."""
        if _METADATA not in self._storage.names():
            return {}
        metadata: dict[str, Any] = msgspec.json.decode(self._storage.read(_METADATA))
        return metadata

    def set_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Store a dictionary of JSON values with the checkpoint, instead of what was there."""
        self._storage.write(_METADATA, msgspec.json.encode(dict(metadata)))

    def update_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Add to what is stored with the checkpoint."""
        self.set_metadata({**self.get_metadata(), **metadata})

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Checkpoint) and repr(self._storage) == repr(other._storage)

    @override
    def __hash__(self) -> int:
        return hash(repr(self._storage))

    @override
    def __repr__(self) -> str:
        return f"Checkpoint({self._storage!r})"
