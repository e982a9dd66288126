"""Directories become the digests of what they hold, and directories again."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from weft._env import working_dir
from weft._env.cache import MAX_AGE_S, MIN_AGE_S, STORED_NS, EnvCache
from weft._env.spec import CONTENT, checked
from weft._env.trees import COPY_BYTES, claim
from weft._env.working_dir import Snapshot, resolve
from weft.exceptions import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def cache(tmp_path: Path) -> EnvCache:
    return EnvCache(str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return fill(tmp_path / "project", {"a.py": "A = 1", "data/b.txt": "b"})


def fill(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def names(cache: EnvCache, digest: str) -> list[str]:
    return sorted(os.fsdecode(entry.path) for entry in cache.read_tree(digest))


def contents(place: str) -> dict[str, str]:
    return {
        str(path.relative_to(place)): path.read_text()
        for path in Path(place).rglob("*")
        if path.is_file()
    }


class Reads:
    """Counts the files that are read."""

    def __init__(self, cache: EnvCache, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[str] = []
        store: Callable[[str], tuple[bytes, int]] = cache.store

        def counted(path: str) -> tuple[bytes, int]:
            self.paths.append(Path(path).name)
            return store(path)

        monkeypatch.setattr(cache, "store", counted)
        # Files of a test are always young.
        monkeypatch.setattr(working_dir, "RACY_NS", 0)

    def taken(self) -> list[str]:
        paths, self.paths = self.paths, []
        return sorted(paths)


class TestSnapshots:
    def test_same_contents_have_the_same_digest_wherever_they_are(
        self, cache: EnvCache, root: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(root, tmp_path / "copy")
        snapshot = Snapshot(cache)
        assert snapshot.directory(str(root)) == snapshot.directory(str(tmp_path / "copy"))
        assert snapshot.directory(str(root)) != snapshot.directory(str(root), prefix="project/")
        assert names(cache, snapshot.directory(str(root))) == ["a.py", "data/b.txt"]

    def test_unchanged_files_are_not_read_again(
        self, cache: EnvCache, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reads = Reads(cache, monkeypatch)
        first = Snapshot(cache).directory(str(root))
        assert reads.taken() == ["a.py", "b.txt"]
        assert Snapshot(cache).directory(str(root)) == first
        assert reads.taken() == []
        (root / "a.py").write_text("A = 2")
        second = Snapshot(cache).directory(str(root))
        assert second != first
        assert reads.taken() == ["a.py"]
        (root / "a.py").unlink()
        assert names(cache, Snapshot(cache).directory(str(root))) == ["data/b.txt"]

    def test_file_that_was_just_changed_is_read_again(
        self, cache: EnvCache, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reads = Reads(cache, monkeypatch)
        monkeypatch.setattr(working_dir, "RACY_NS", 3600 * 10**9)
        first = Snapshot(cache).directory(str(root))
        status = (root / "a.py").stat()
        (root / "a.py").write_text("A = 3")
        os.utime(root / "a.py", ns=(status.st_atime_ns, status.st_mtime_ns))
        assert Snapshot(cache).directory(str(root)) != first
        assert reads.taken() == ["a.py", "a.py", "b.txt", "b.txt"]

    def test_content_that_was_written_through_a_link_is_stored_again(
        self, cache: EnvCache, root: Path
    ) -> None:
        digest = Snapshot(cache).directory(str(root))
        (entry, *_) = cache.read_tree(digest)
        with Path(cache.file(entry.content)).open("a") as file:
            file.write("!")
        assert not cache.has(entry.content, entry.size)
        assert Snapshot(cache).directory(str(root)) == digest
        assert cache.has(entry.content, entry.size)
        assert Path(cache.file(entry.content)).read_text() == "A = 1"

    def test_patterns_leave_files_out(self, cache: EnvCache, root: Path) -> None:
        fill(root, {"data/c.csv": "", "deep/data/d.csv": "", "e.csv": ""})
        snapshot = Snapshot(cache)
        assert names(cache, snapshot.directory(str(root), ["*.csv", "!e.csv"])) == [
            "a.py", "data/b.txt", "deep/data", "e.csv",
        ]  # fmt: skip
        assert names(cache, snapshot.directory(str(root), ["data/"])) == ["a.py", "deep", "e.csv"]

    def test_without_git_a_gitignore_counts_and_the_usual_things_are_left_out(
        self, cache: EnvCache, root: Path
    ) -> None:
        fill(root, {
            ".gitignore": "*.log\n/out\n", "x.log": "", "out/y": "",
            "sub/.gitignore": "!keep.log\n*.tmp",
            "sub/keep.log": "", "sub/out/z": "", "sub/t.tmp": "", "__pycache__/a.pyc": "",
            "venv/pyvenv.cfg": "", "venv/lib/x.py": "", ".git/config": "",
        })  # fmt: skip
        assert names(cache, Snapshot(cache).directory(str(root))) == [
            ".gitignore", "a.py", "data/b.txt", "sub/.gitignore", "sub/keep.log", "sub/out/z",
        ]  # fmt: skip

    def test_empty_directories_stay(self, cache: EnvCache, root: Path) -> None:
        (root / "empty" / "inner").mkdir(parents=True)
        digest = Snapshot(cache).directory(str(root))
        assert (Path(claim(cache, digest, "one")) / "empty" / "inner").is_dir()

    def test_links_inside_stay_links_and_others_become_what_they_lead_to(
        self, cache: EnvCache, root: Path, tmp_path: Path
    ) -> None:
        outside = fill(tmp_path / "outside", {"o.txt": "o", "sub/p.txt": "p"})
        (root / "inside").symlink_to("data/b.txt")
        (root / "file").symlink_to(outside / "o.txt")
        (root / "folder").symlink_to(outside)
        (root / "broken").symlink_to(outside / "nothing")
        (outside / "loop").symlink_to(outside)
        place = Path(claim(cache, Snapshot(cache).directory(str(root)), "one"))
        assert (place / "inside").is_symlink()
        assert (place / "inside").read_text() == "b"
        assert not (place / "file").is_symlink()
        assert (place / "file").read_text() == "o"
        assert (place / "folder" / "sub" / "p.txt").read_text() == "p"
        assert not (place / "broken").exists()
        assert not (place / "folder" / "loop").exists()

    def test_directory_that_is_too_large_is_refused_with_its_largest_files(
        self, cache: EnvCache, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WEFT_WORKING_DIR_BYTES", "100000")
        (root / "data" / "big.bin").write_bytes(b"x" * 90_000)
        (root / "weights").write_bytes(b"x" * 60_000)
        with pytest.raises(OptionError, match=r"0\.2 MB.*WEFT_WORKING_DIR_BYTES") as raised:
            Snapshot(cache).directory(str(root))
        assert "the largest: data/big.bin (0.1 MB), weights (0.1 MB), " in str(raised.value)
        assert "\n" not in str(raised.value)
        Snapshot(cache).directory(str(root), ["weights"])
        with zipfile.ZipFile(tmp_path / "p.zip", "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("big", b"x" * 100_001)
        with pytest.raises(OptionError, match=r"big \(0\.1 MB\)"):
            Snapshot(cache).archive(str(tmp_path / "p.zip"))

    def test_sockets_and_pipes_are_left_out(self, cache: EnvCache, root: Path) -> None:
        os.mkfifo(root / "pipe")
        assert names(cache, Snapshot(cache).directory(str(root))) == ["a.py", "data/b.txt"]

    def test_cache_in_the_directory_is_left_out(self, root: Path) -> None:
        cache = EnvCache(str(root / "cache"))
        assert names(cache, Snapshot(cache).directory(str(root))) == ["a.py", "data/b.txt"]


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
class TestGit:
    def git(self, root: Path, *words: str) -> None:
        subprocess.run(
            ["git", "-c", "user.email=a@b", "-c", "user.name=n", *words], cwd=root, check=True
        )

    def test_files_are_those_that_git_would_take(self, cache: EnvCache, root: Path) -> None:
        fill(
            root,
            {
                ".gitignore": "*.log\n",
                "x.log": "",
                "tracked.log": "",
                "gone.py": "",
                "venv/pyvenv.cfg": "",
            },
        )
        self.git(root, "init", "-q")
        self.git(root, "add", "-f", "tracked.log", "a.py", "gone.py")
        (root / "gone.py").unlink()
        digest = Snapshot(cache).directory(str(root), ["data"])
        assert names(cache, digest) == [".gitignore", "a.py", "tracked.log", "venv/pyvenv.cfg"]

    def test_part_of_a_repository_and_a_repository_inside_work(
        self, cache: EnvCache, root: Path
    ) -> None:
        fill(
            root,
            {".gitignore": "ignored/\n", "ignored/x.py": "", "inner/y.py": "", "inner/z.py": ""},
        )
        self.git(root / "inner", "init", "-q")
        self.git(root, "init", "-q")
        snapshot = Snapshot(cache)
        assert names(cache, snapshot.directory(str(root / "data"))) == ["b.txt"]
        # It was asked for by name, so that git ignores it does not count.
        assert names(cache, snapshot.directory(str(root / "ignored"))) == ["x.py"]
        assert names(cache, snapshot.directory(str(root), ["z.py"])) == [
            ".gitignore", "a.py", "data/b.txt", "inner/y.py",
        ]  # fmt: skip


class TestArchives:
    def pack(self, path: Path, files: dict[str, str]) -> Path:
        with zipfile.ZipFile(path, "w") as packed:
            for name, text in files.items():
                packed.writestr(name, text)
        return path

    def test_archive_counts_as_what_it_unpacks_to(
        self, cache: EnvCache, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(working_dir, "RACY_NS", 0)
        packed = self.pack(tmp_path / "p.zip", {"a.py": "A = 1", "data/": "", "data/b.txt": "b"})
        snapshot = Snapshot(cache)
        digest = snapshot.archive(str(packed))
        assert digest == snapshot.directory(str(root))
        monkeypatch.setattr(zipfile, "ZipFile", None)
        assert Snapshot(cache).archive(str(packed)) == digest

    def test_archive_is_unpacked_again_if_its_contents_are_gone(
        self, cache: EnvCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(working_dir, "RACY_NS", 0)
        packed = self.pack(tmp_path / "p.zip", {"a.py": "A = 1"})
        digest = Snapshot(cache).archive(str(packed))
        shutil.rmtree(Path(cache.root, "files"))
        Path(cache.root, "files").mkdir()
        assert Snapshot(cache).archive(str(packed)) == digest
        assert contents(claim(cache, digest, "one")) == {"a.py": "A = 1"}

    @pytest.mark.parametrize("name", ["../a.py", "/a.py"])
    def test_archive_that_leads_outside_is_refused(
        self, cache: EnvCache, tmp_path: Path, name: str
    ) -> None:
        packed = self.pack(tmp_path / "p.zip", {name: ""})
        with pytest.raises(OptionError, match="unpacked elsewhere"):
            Snapshot(cache).archive(str(packed))


class TestResolving:
    def test_local_paths_become_names_of_contents(self, cache: EnvCache, root: Path) -> None:
        fields = checked(
            {
                "working_dir": root,
                "py_modules": [root / "data", root / "a.py"],
                "excludes": ["*.csv"],
                "pip": ["x", str(root), str(root / "a.py")],
                "worker_process_setup_hook": lambda: None,
                "env_vars": {"A": "1"},
            },
            "f",
        )
        resolved = resolve(fields, cache)
        assert "excludes" not in resolved
        assert resolved["env_vars"] == {"A": "1"}
        for name in (resolved["working_dir"], *resolved["py_modules"]):
            assert name.startswith(CONTENT)
        package, module = (name.removeprefix(CONTENT) for name in resolved["py_modules"])
        assert names(cache, package) == ["data/b.txt"]
        assert names(cache, module) == ["a.py"]
        assert set(resolved["pip"]["local"]) == {str(root), str(root / "a.py")}
        assert resolved["worker_process_setup_hook"].startswith(CONTENT)
        assert resolve(resolved, cache) == resolved

    def test_directory_that_is_gone_is_told(self, cache: EnvCache, root: Path) -> None:
        fields = checked({"working_dir": root}, "f")
        shutil.rmtree(root)
        with pytest.raises(OptionError, match="does not exist"):
            resolve(fields, cache)


class TestTrees:
    @pytest.fixture
    def alive(self, monkeypatch: pytest.MonkeyPatch) -> set[str]:
        sessions: set[str] = set()
        monkeypatch.setattr("weft._env.trees.is_alive", sessions.__contains__)
        monkeypatch.setattr("weft._env.cache.is_alive", sessions.__contains__)
        return sessions

    def test_directory_holds_what_was_there(self, cache: EnvCache, root: Path) -> None:
        (root / "run.sh").write_text("")
        (root / "run.sh").chmod(0o755)
        place = claim(cache, Snapshot(cache).directory(str(root)), "one")
        assert contents(place) == {"a.py": "A = 1", "data/b.txt": "b", "run.sh": ""}
        assert os.access(f"{place}/run.sh", os.X_OK)
        assert not os.access(f"{place}/a.py", os.X_OK)

    def test_a_session_keeps_what_it_wrote_and_the_next_one_starts_clean(
        self, cache: EnvCache, root: Path, alive: set[str]
    ) -> None:
        digest = Snapshot(cache).directory(str(root))
        alive.add("one")
        place = claim(cache, digest, "one")
        fill(Path(place), {"a.py": "changed", "new/file": "", "__pycache__/a.pyc": "compiled"})
        (Path(place) / "data" / "b.txt").unlink()
        (Path(place) / "data").rmdir()
        (Path(place) / "data").write_text("a file now")
        assert claim(cache, digest, "one") == place
        assert (Path(place) / "a.py").read_text() == "changed"
        alive.clear()
        assert claim(cache, digest, "two") == place
        assert contents(place) == {
            "a.py": "A = 1",
            "data/b.txt": "b",
            "__pycache__/a.pyc": "compiled",
        }

    def test_two_living_sessions_have_two_directories(
        self, cache: EnvCache, root: Path, alive: set[str]
    ) -> None:
        digest = Snapshot(cache).directory(str(root))
        alive.update(("one", "two"))
        first, second = claim(cache, digest, "one"), claim(cache, digest, "two")
        assert first != second
        assert contents(first) == contents(second)
        assert claim(cache, digest, "two") == second

    def test_unchanged_files_are_not_copied_again(
        self, cache: EnvCache, root: Path, alive: set[str]
    ) -> None:
        (root / "link").symlink_to("a.py")
        digest = Snapshot(cache).directory(str(root))
        place = claim(cache, digest, "one")
        inode = (Path(place) / "a.py").stat().st_ino
        (Path(place) / "data" / "b.txt").write_text("c")
        assert claim(cache, digest, "two") == place
        assert (Path(place) / "a.py").stat().st_ino == inode
        assert (Path(place) / "data" / "b.txt").read_text() == "b"

    def test_large_files_are_linked_and_a_change_of_one_is_noticed(
        self, cache: EnvCache, root: Path, alive: set[str]
    ) -> None:
        (root / "large").write_bytes(b"x" * (COPY_BYTES + 1))
        digest = Snapshot(cache).directory(str(root))
        place = claim(cache, digest, "one")
        assert (Path(place) / "large").stat().st_nlink == 2
        assert (Path(place) / "large").stat().st_mtime_ns == STORED_NS
        with (Path(place) / "large").open("r+b") as file:
            file.write(b"y")
        assert Snapshot(cache).directory(str(root)) == digest
        assert claim(cache, digest, "two") == place
        assert (Path(place) / "large").read_bytes() == b"x" * (COPY_BYTES + 1)

    def test_directory_whose_state_is_lost_is_made_anew(
        self, cache: EnvCache, root: Path, alive: set[str]
    ) -> None:
        digest = Snapshot(cache).directory(str(root))
        place = claim(cache, digest, "one")
        Path(f"{place}.state").write_bytes(b"nonsense")
        (Path(place) / "a.py").write_text("half")
        claim(cache, digest, "two")
        assert contents(place) == {"a.py": "A = 1", "data/b.txt": "b"}

    def test_old_things_are_removed_and_what_is_in_use_stays(
        self, cache: EnvCache, root: Path, alive: set[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kept = claim(cache, Snapshot(cache).directory(str(root)), "one")
        listed = {path.name for path in Path(cache.root, "trees").iterdir()}
        fill(root, {"data/more.txt": "more"})
        gone = claim(cache, Snapshot(cache).directory(str(root)), "dead")
        alive.add("one")
        venv = fill(Path(cache.root, "venvs", "key"), {"complete": ""})
        fill(Path(cache.root, "files"), {".half": ""})
        now = Path(f"{kept}.owner").stat().st_mtime
        cache.remove_old(now + MIN_AGE_S / 2)
        assert Path(gone).exists()
        cache.remove_old(now + MAX_AGE_S + 1)
        assert Path(kept).exists()
        assert not Path(gone).exists()
        assert not venv.exists()
        # Another node may want what a living session has.
        assert {path.name for path in Path(cache.root, "trees").iterdir()} == listed
        stored = [path for path in Path(cache.root, "files").rglob("*") if path.is_file()]
        assert sorted(path.read_text() for path in stored) == ["A = 1", "b"]
        alive.clear()
        cache.remove_old(now + MAX_AGE_S + 1)
        assert not Path(kept).exists()
        assert not list(Path(cache.root, "trees").iterdir())
        assert not [path for path in Path(cache.root, "files").rglob("*") if path.is_file()]

    def test_what_is_over_the_limit_is_removed_the_oldest_first(
        self, cache: EnvCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        places = [
            fill(Path(cache.root, "venvs", name), {"complete": "", "x": name * 5000})
            for name in "ab"
        ]
        now = places[0].stat().st_mtime
        os.utime(places[0] / "complete", (now - 60, now - 60))
        monkeypatch.setattr("weft._env.cache.MAX_BYTES", 9000)
        cache.remove_old(now + MIN_AGE_S + 120)
        assert [place.exists() for place in places] == [False, True]

    def test_cache_is_pruned_once_a_day(
        self, cache: EnvCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        times: list[float] = []
        monkeypatch.setattr(cache, "remove_old", times.append)
        cache.prune()
        cache.prune()
        assert len(times) == 1
        os.utime(f"{cache.root}/pruned", (0, 0))
        cache.prune()
        assert len(times) == 2
