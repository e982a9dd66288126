from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import cycles
import words

if TYPE_CHECKING:
    from pathlib import Path

TABLE = """
| word | meaning | not |
|---|---|---|
| node | a computer | host, box |
| worker | a process | |
"""


def problems(root: Path, files: dict[str, str]) -> list[str]:
    for path, text in files.items():
        file = root / "weft" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    _, instead = words.read_words(TABLE)
    return list(words.name_problems(cycles.load([root]), instead))


def test_table_is_read_and_in_order() -> None:
    listed, instead = words.read_words(TABLE)
    assert listed == ["node", "worker"]
    assert instead == {"host": "node", "box": "node"}
    assert list(words.table_problems(listed, instead)) == []


@pytest.mark.parametrize(
    ("listed", "instead", "complaint"),
    [
        (["b", "a"], {}, "alphabetical"),
        (["a", "a"], {}, "twice"),
        (["a", "b"], {"a": "b"}, "avoided"),
        ([], {}, "no table"),
    ],
)
def test_fault_of_the_table_is_told(
    listed: list[str], instead: dict[str, str], complaint: str
) -> None:
    assert complaint in " ".join(words.table_problems(listed, instead))


def test_class_name_used_twice_is_told_with_both_places(tmp_path: Path) -> None:
    files = {"_a.py": "class Task: pass\n", "_b.py": "\nclass Task: pass\n"}
    (found,) = problems(tmp_path, files)
    assert found.startswith("class Task is defined 2 times")
    assert "_a.py:1" in found
    assert "_b.py:2" in found


def test_class_inside_a_function_may_repeat_a_name(tmp_path: Path) -> None:
    text = "def f():\n    class Task: pass\n"
    assert problems(tmp_path, {"_a.py": text, "_b.py": text}) == []


@pytest.mark.parametrize(
    "name", ["BaseStore", "StoreImpl", "LeaseManager", "EventHandler", "HostTable"]
)
def test_class_name_that_the_style_excludes_is_told(name: str, tmp_path: Path) -> None:
    assert len(problems(tmp_path, {"_a.py": f"class {name}: pass\n"})) == 1


def test_module_that_users_import_may_keep_the_name_they_know(tmp_path: Path) -> None:
    assert problems(tmp_path, {"pool.py": "class PoolManager: pass\nclass Host: pass\n"}) == []


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("_api/utils.py", True),
        ("_helpers.py", True),
        ("_api/base.py", True),
        ("_store/base.py", False),
        ("_node/hosts.py", False),
        ("_node/host.py", True),
    ],
)
def test_module_is_named_after_what_it_holds(path: str, told: bool, tmp_path: Path) -> None:
    assert bool(problems(tmp_path, {path: ""})) == told


def test_words_of_the_repository_are_a_sound_table() -> None:
    text = (cycles.REPOSITORY / "WORDS.md").read_text(encoding="utf-8")
    listed, instead = words.read_words(text)
    assert {"node", "worker", "driver", "owner", "lease", "machine", "shell"} <= set(listed)
    assert list(words.table_problems(listed, instead)) == []
