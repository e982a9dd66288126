"""Where an experiment's files are: a directory of this machine, or one of another file system.

Names are relative to the experiment's directory, with slashes. A local directory is used without
pyarrow; everything else through a `pyarrow.fs.FileSystem`, which also stands for what fsspec knows.

What is always true
1. A file or a directory that `write` or `put` made is whole under its name, or is not there: on a
   local disk by a rename; elsewhere a single file appears whole, and a directory counts only once
   the journal names it.
2. A storage can be pickled, and used from several processes.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from weft.lowlevel import lazy, override
from weft.tune.error import StorageError

if TYPE_CHECKING:
    import shutil
    import tempfile
    import urllib.parse as urllib_parse
    from collections.abc import Iterator

    import fsspec
    import pyarrow.fs as arrow_fs
else:
    arrow_fs = lazy("pyarrow.fs")
    fsspec = lazy("fsspec")
    shutil = lazy("shutil")
    tempfile = lazy("tempfile")
    urllib_parse = lazy("urllib.parse")

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")


class Storage(Protocol):
    """A directory for files and directories of files."""

    path: str
    """As users write it, without the file system."""

    @property
    def filesystem(self) -> Any:
        """A `pyarrow.fs.FileSystem`."""
        ...

    @property
    def is_local(self) -> bool:
        """Whether `path` can be opened by `open`."""
        ...

    def join(self, *names: str) -> Storage:
        """Return the storage of a directory inside."""
        ...

    def read(self, name: str) -> bytes:
        """Return a file's content. FileNotFoundError."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Make or replace a file."""
        ...

    def put(self, directory: str, name: str) -> None:
        """Copy a local directory. OSError: it could not be written; nothing is there then."""
        ...

    def fetch(self, name: str, directory: str) -> None:
        """Copy a directory to a local one, which need not exist."""
        ...

    def remove(self, name: str) -> None:
        """Remove a directory or a file; nothing happens if it is not there."""
        ...

    def names(self) -> list[str]:
        """Return the names of what is in the directory, sorted; none if it is not there."""
        ...


class LocalStorage:
    """A directory of this machine."""

    is_local = True

    def __init__(self, path: str) -> None:
        self.path = path

    @property
    def filesystem(self) -> Any:
        """`pyarrow.fs.LocalFileSystem()`."""
        return arrow_fs.LocalFileSystem()

    def join(self, *names: str) -> LocalStorage:
        """Return the storage of a directory inside."""
        return LocalStorage("/".join((self.path, *names)))

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        return Path(self.path, name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Make or replace a file."""
        target = Path(self.path, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            draft.write_bytes(content)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)

    def put(self, directory: str, name: str) -> None:
        """Copy a local directory."""
        target = Path(self.path, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            shutil.copytree(directory, draft)
            draft.rename(target)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise

    def fetch(self, name: str, directory: str) -> None:
        """Copy a directory to a local one."""
        shutil.copytree(Path(self.path, name), directory, dirs_exist_ok=True)

    def remove(self, name: str) -> None:
        """Remove a directory or a file."""
        target = Path(self.path, name)
        if target.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)

    def names(self) -> list[str]:
        """Return the names of what is in the directory."""
        try:
            return sorted(entry.name for entry in os.scandir(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return []

    @override
    def __repr__(self) -> str:
        return self.path


class RemoteStorage:
    """A directory of any other file system: an object store, a network share."""

    is_local = False

    def __init__(self, filesystem: Any, path: str) -> None:
        self._filesystem = filesystem
        self.path = path

    @property
    def filesystem(self) -> Any:
        """The `pyarrow.fs.FileSystem`."""
        return self._filesystem

    def join(self, *names: str) -> RemoteStorage:
        """Return the storage of a directory inside."""
        return RemoteStorage(self._filesystem, "/".join((self.path, *names)))

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        with self._filesystem.open_input_stream(f"{self.path}/{name}") as stream:
            content: bytes = stream.read()
        return content

    def write(self, name: str, content: bytes) -> None:
        """Make or replace a file."""
        target = f"{self.path}/{name}"
        self._filesystem.create_dir(target.rpartition("/")[0], recursive=True)
        with self._filesystem.open_output_stream(target) as stream:
            stream.write(content)

    def put(self, directory: str, name: str) -> None:
        """Copy a local directory."""
        target = f"{self.path}/{name}"
        try:
            self._filesystem.create_dir(target, recursive=True)
            arrow_fs.copy_files(directory, target, destination_filesystem=self._filesystem)
        except BaseException:
            self.remove(name)
            raise

    def fetch(self, name: str, directory: str) -> None:
        """Copy a directory to a local one."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        source = f"{self.path}/{name}" if name else self.path
        arrow_fs.copy_files(source, directory, source_filesystem=self._filesystem)

    def remove(self, name: str) -> None:
        """Remove a directory or a file."""
        target = f"{self.path}/{name}"
        found = self._filesystem.get_file_info(target)
        if found.type == arrow_fs.FileType.Directory:
            self._filesystem.delete_dir(target)
        elif found.type == arrow_fs.FileType.File:
            self._filesystem.delete_file(target)

    def names(self) -> list[str]:
        """Return the names of what is in the directory."""
        selector = arrow_fs.FileSelector(self.path, allow_not_found=True)
        return sorted(found.base_name for found in self._filesystem.get_file_info(selector))

    @override
    def __repr__(self) -> str:
        return f"{self._filesystem.type_name}:{self.path}"


def storage_at(path: str | os.PathLike[str], filesystem: Any = None) -> Storage:
    """Return the storage of a directory: a path, or a URI such as `s3://bucket/folder`.

    Args:
        path: With `filesystem`: a path in it, without a scheme.
        filesystem: A `pyarrow.fs.FileSystem` or one of fsspec; None: the URI says which.

    Raises:
        StorageError: Nothing knows such a URI.
    """
    text = os.fspath(path)
    if filesystem is None:
        if not _SCHEME.match(text):
            return LocalStorage(os.path.abspath(os.path.expanduser(text)))  # noqa: PTH100, PTH111 - text stays text
        if text.startswith("file://"):
            return LocalStorage(
                urllib_parse.unquote(urllib_parse.urlsplit(text).path).rstrip("/") or "/"
            )
        return RemoteStorage(*_of_uri(text))
    if not isinstance(filesystem, arrow_fs.FileSystem):
        # As it names files itself: in memory they begin with a slash.
        text = filesystem._strip_protocol(text)
        filesystem = arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(filesystem))
    if isinstance(filesystem, arrow_fs.LocalFileSystem):
        return LocalStorage(os.path.abspath(text))  # noqa: PTH100 - text stays text
    return RemoteStorage(filesystem, text.rstrip("/"))


def _of_uri(uri: str) -> tuple[Any, str]:
    try:
        filesystem, path = arrow_fs.FileSystem.from_uri(uri)
    except (ValueError, NotImplementedError, TypeError) as by_arrow:
        try:
            inner, path = fsspec.core.url_to_fs(uri)
        except (ImportError, ValueError) as error:
            raise StorageError(
                f"storage_path={uri!r}: neither pyarrow ({by_arrow}) nor fsspec ({error}) opens it"
            ) from error
        filesystem = arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(inner))
    return filesystem, path.rstrip("/")


@contextlib.contextmanager
def writing(storage: Storage) -> Iterator[None]:
    """Tell an error of the operating system as what it means: the storage cannot be written."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"the storage {storage!r} cannot be written: {error}") from error


def scratch(prefix: str) -> str:
    """Make an empty local directory; who asks removes it."""
    return tempfile.mkdtemp(prefix=f"weft-tune-{prefix}-")
