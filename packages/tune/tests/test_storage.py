from __future__ import annotations

import pickle
import resource
from pathlib import Path

import fsspec
import pyarrow.fs as arrow_fs
import pytest

from weft.tune import Checkpoint
from weft.tune._storage import LocalStorage, RemoteStorage, Storage, storage_at
from weft.tune.error import StorageError


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return storage_at(tmp_path / "here")
    return storage_at(f"{tmp_path.name}/here", fsspec.filesystem("memory"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    (made / "inner").mkdir(parents=True)
    (made / "a").write_text("1")
    (made / "inner" / "b").write_text("2")
    return made


def test_files_are_written_whole_and_replaced(storage: Storage) -> None:
    assert storage.names() == []
    storage.write("x", b"1")
    storage.write("x", b"2")
    storage.write("deep/y", b"3")
    assert storage.read("x") == b"2"
    assert storage.join("deep").read("y") == b"3"
    assert storage.names() == ["deep", "x"]
    with pytest.raises(FileNotFoundError):
        storage.read("none")


def test_directories_are_put_and_fetched(storage: Storage, folder: Path, tmp_path: Path) -> None:
    storage.put(str(folder), "c0")
    assert storage.join("c0").names() == ["a", "inner"]
    storage.fetch("c0", str(tmp_path / "back"))
    assert (tmp_path / "back" / "inner" / "b").read_text() == "2"


def test_what_is_removed_is_gone_and_removing_nothing_is_fine(
    storage: Storage, folder: Path
) -> None:
    storage.put(str(folder), "c0")
    storage.write("x", b"1")
    storage.remove("c0")
    storage.remove("x")
    storage.remove("never")
    assert storage.names() == []


def test_storage_travels(tmp_path: Path) -> None:
    storage = storage_at(tmp_path)
    storage.write("x", b"1")
    assert pickle.loads(pickle.dumps(storage)).read("x") == b"1"


def test_directory_that_does_not_fit_is_not_there(tmp_path: Path, folder: Path) -> None:
    (folder / "inner" / "b").write_bytes(bytes(100_000))
    storage = storage_at(tmp_path / "here")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            storage.put(str(folder), "c0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert storage.names() == []


def test_paths_and_uris_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage_at("sub").path == str(tmp_path / "sub")
    assert storage_at("~/sub").path == str(tmp_path / "sub")
    assert storage_at("file:///a/b%20c/").path == "/a/b c"
    assert isinstance(storage_at("/x", arrow_fs.LocalFileSystem()), LocalStorage)
    memory = storage_at("memory://bucket/exp")
    assert isinstance(memory, RemoteStorage)
    assert not memory.is_local
    assert "bucket/exp" in repr(memory)
    assert isinstance(storage_at("/x").filesystem, arrow_fs.LocalFileSystem)
    with pytest.raises(StorageError, match=r"neither pyarrow .* nor fsspec"):
        storage_at("nowhere://bucket")


def test_checkpoint_is_read_here_or_from_afar(storage: Storage, folder: Path) -> None:
    storage.put(str(folder), "c0")
    filesystem = None if storage.is_local else storage.filesystem
    checkpoint = Checkpoint(f"{storage.path}/c0", filesystem)
    with checkpoint.as_directory() as directory:
        assert Path(directory, "a").read_text() == "1"
    assert Path(directory).exists() == storage.is_local
    copy = checkpoint.to_directory()
    assert Path(copy, "inner", "b").read_text() == "2"
    assert type(checkpoint.filesystem) is type(storage.filesystem)
    assert checkpoint == Checkpoint(f"{storage.path}/c0", filesystem)
    assert len({checkpoint, Checkpoint(f"{storage.path}/c0", filesystem)}) == 1


def test_checkpoint_keeps_metadata(tmp_path: Path) -> None:
    checkpoint = Checkpoint.from_directory(tmp_path)
    assert checkpoint.get_metadata() == {}
    checkpoint.set_metadata({"a": 1})
    checkpoint.update_metadata({"b": [2]})
    assert checkpoint.get_metadata() == {"a": 1, "b": [2]}
    assert pickle.loads(pickle.dumps(checkpoint)) == checkpoint
