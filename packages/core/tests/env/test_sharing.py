"""What an environment names goes from machine to machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from weft._env import sharing
from weft._env.cache import EnvCache
from weft._env.sharing import (
    ContentPart,
    FetchError,
    PartWanted,
    fetch_content,
    fetch_tree,
    give,
    named_by,
)
from weft._env.spec import encode
from weft._env.trees import claim
from weft._env.working_dir import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable


class Nodes:
    """Other nodes, by their caches."""

    def __init__(self, **caches: EnvCache) -> None:
        self.caches = caches
        self.asked: list[tuple[str, int]] = []
        self.spoil: Callable[[ContentPart], ContentPart] = lambda part: part

    def holders(self, wanted: PartWanted) -> list[str]:
        return [node for node, cache in self.caches.items() if sharing.has(cache, wanted)]

    def give(self, node: str, wanted: list[PartWanted]) -> list[ContentPart]:
        self.asked.append((node, len(wanted)))
        try:
            return [self.spoil(part) for part in give(self.caches[node], wanted)]
        except OSError as error:
            raise FetchError(f"{error.strerror}") from None


@pytest.fixture
def here(tmp_path: Path) -> EnvCache:
    return EnvCache(str(tmp_path / "here"))


@pytest.fixture
def there(tmp_path: Path) -> EnvCache:
    return EnvCache(str(tmp_path / "there"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "data").mkdir(parents=True)
    (root / "a.py").write_text("A = 1")
    (root / "empty").write_text("")
    (root / "again.py").write_text("A = 1")
    (root / "data" / "large").write_bytes(os.urandom(2 * sharing.PART_BYTES + 5))
    (root / "run").write_text("#!/bin/sh")
    (root / "run").chmod(0o755)
    (root / "link").symlink_to("a.py")
    return root


def test_directory_is_the_same_on_a_machine_that_never_had_it(
    here: EnvCache, there: EnvCache, project: Path
) -> None:
    digest = Snapshot(there).directory(str(project))
    nodes = Nodes(there=there)
    fetch_tree(here, digest, nodes)
    shutil.rmtree(there.root)
    place = Path(claim(here, digest, "session"))
    for path in project.rglob("*"):
        copy = place / path.relative_to(project)
        assert copy.is_symlink() == path.is_symlink()
        assert copy.is_dir() or copy.read_bytes() == path.read_bytes()
    assert os.access(place / "run", os.X_OK)
    # The list; the small files and the beginning of the large one, the rest of that.
    assert len(nodes.asked) <= 6


def test_what_is_given_is_in_use(here: EnvCache, there: EnvCache, project: Path) -> None:
    listed = Path(there.tree(Snapshot(there).directory(str(project))))
    os.utime(listed, (0, 0))
    fetch_tree(here, listed.name, Nodes(there=there))
    assert listed.stat().st_mtime > 0


def test_what_an_environment_names_are_directories_modules_wheels_and_a_function() -> None:
    digests = [os.urandom(32) for _ in range(4)]
    directory, module, wheel, function = (digest.hex() for digest in digests)
    env = {
        "working_dir": f"weft://{directory}",
        "py_modules": [f"weft://{module}"],
        "pip": {"packages": ["/a.whl", "numpy"], "local": {"/a.whl": wheel}},
        "worker_process_setup_hook": f"weft://{function}",
        "env_vars": {"A": "weft://b"},
    }
    wanted = named_by(encode(env))
    assert [each.digest for each in wanted] == digests
    assert [each.is_tree for each in wanted] == [True, True, True, False]
    assert named_by("") == named_by(encode({"worker_process_setup_hook": "module.function"})) == []


def test_only_what_is_missing_is_fetched(here: EnvCache, there: EnvCache, project: Path) -> None:
    Snapshot(here).directory(str(project))
    (project / "a.py").write_text("A = 2")
    digest = Snapshot(there).directory(str(project))
    nodes = Nodes(there=there)
    fetch_tree(here, digest, nodes)
    assert nodes.asked == [("there", 1), ("there", 1)]


def test_function_is_fetched_by_its_content(here: EnvCache, there: EnvCache) -> None:
    content = there.store_bytes(b"code")
    fetch_content(here, content.hex(), Nodes(there=there))
    assert Path(here.file(content)).read_bytes() == b"code"


def test_node_that_has_lost_a_file_is_passed_over(
    here: EnvCache, there: EnvCache, project: Path, tmp_path: Path
) -> None:
    half = EnvCache(str(tmp_path / "half"))
    digest = Snapshot(half).directory(str(project))
    shutil.rmtree(Path(half.root, "files"))
    assert Snapshot(there).directory(str(project)) == digest
    fetch_tree(here, digest, Nodes(half=half, there=there))
    assert (Path(claim(here, digest, "session")) / "a.py").read_text() == "A = 1"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda part: ContentPart(b"x" * len(part.data), part.size), "something else"),
        (lambda part: ContentPart(b"", part.size), "shorter"),
    ],
)
def test_what_is_not_as_it_was_named_is_not_kept(
    here: EnvCache,
    there: EnvCache,
    project: Path,
    spoil: Callable[[ContentPart], ContentPart],
    why: str,
) -> None:
    digest = Snapshot(there).directory(str(project))
    nodes = Nodes(there=there)
    nodes.spoil = spoil
    with pytest.raises(FetchError, match=why):
        fetch_tree(here, digest, nodes)
    assert not Path(here.tree(digest)).exists()
    content = there.store_bytes(b"code")
    with pytest.raises(FetchError, match=why):
        fetch_content(here, content.hex(), nodes)
    assert not here.has(content, 4)


def test_file_that_is_something_else_leaves_no_list(
    here: EnvCache, there: EnvCache, project: Path
) -> None:
    digest = Snapshot(there).directory(str(project))
    spoilt = there.file(there.store_bytes(b"A = 1"))
    Path(spoilt).write_bytes(b"A = 3")
    with pytest.raises(FetchError, match="something else"):
        fetch_tree(here, digest, Nodes(there=there))
    assert not Path(here.tree(digest)).exists()


def test_nobody_who_has_it_is_said(here: EnvCache, there: EnvCache) -> None:
    with pytest.raises(FetchError, match="no node that lives gives the files abababababab"):
        fetch_tree(here, "ab" * 32, Nodes(there=there))
    with pytest.raises(FetchError, match="no node that lives"):
        fetch_content(here, "ab" * 32, Nodes())


def test_directory_that_was_not_finished_is_made_anew(
    here: EnvCache, there: EnvCache, project: Path
) -> None:
    digest = Snapshot(there).directory(str(project))
    here.write_tree(there.read_tree(digest))
    with pytest.raises(FileNotFoundError):
        claim(here, digest, "session")
    fetch_tree(here, digest, Nodes(there=there))
    place = Path(claim(here, digest, "session"))
    assert (place / "a.py").read_text() == "A = 1"
