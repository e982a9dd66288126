from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import cycles

if TYPE_CHECKING:
    from pathlib import Path


def tree(root: Path, files: dict[str, str]) -> list[cycles.Source]:
    (root / "pyproject.toml").write_text('[project]\ndependencies = ["msgspec>=0.19"]\n')
    for path, text in files.items():
        file = root / "src" / "weft" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return cycles.load([root / "src"])


def test_modules_that_import_each_other_in_a_circle_are_found(tmp_path: Path) -> None:
    sources = tree(
        tmp_path,
        {
            "a.py": "from weft import b",
            "b.py": "import weft.c",
            "c.py": "from . import a",
            "d.py": "from weft.a import x",
        },
    )
    assert cycles.knots(cycles.graph(sources)) == [["weft.a", "weft.b", "weft.c"]]


@pytest.mark.parametrize(
    "back",
    [
        "def f():\n    import weft.a",
        'a = lazy("weft.a")',
        "if TYPE_CHECKING:\n    pass\nelse:\n    from weft import a",
    ],
)
def test_hidden_way_back_closes_a_circle(back: str, tmp_path: Path) -> None:
    sources = tree(tmp_path, {"a.py": "import weft.b", "b.py": back})
    assert cycles.knots(cycles.graph(sources)) == [["weft.a", "weft.b"]]


def test_import_for_type_checkers_closes_no_circle(tmp_path: Path) -> None:
    back = "if TYPE_CHECKING:\n    from weft import a"
    sources = tree(tmp_path, {"a.py": "import weft.b", "b.py": back})
    assert cycles.knots(cycles.graph(sources)) == []


def test_package_is_no_circle_with_itself(tmp_path: Path) -> None:
    files = {"p/__init__.py": "from weft.p.m import x", "p/m.py": "import os"}
    assert cycles.knots(cycles.graph(tree(tmp_path, files))) == []


@pytest.mark.parametrize(
    ("line", "hides"),
    [
        ("import json", True),
        ("import weft.a", True),
        ("from msgspec import Struct", True),
        ("import numpy", False),
    ],
)
def test_import_in_a_function_is_for_optional_third_parties_only(
    line: str, hides: bool, tmp_path: Path
) -> None:
    sources = tree(tmp_path, {"a.py": f"class C:\n    def f(self):\n        {line}\n"})
    assert bool(cycles.hidden(sources)) == hides


def test_exit_status_tells_whether_anything_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree(tmp_path, {"a.py": "import weft.b", "b.py": ""})
    assert cycles.main([str(tmp_path / "src")]) == 0
    tree(tmp_path, {"b.py": "import weft.a"})
    assert cycles.main([str(tmp_path / "src")]) == 1
    assert "import cycle of 2 modules: weft.a, weft.b" in capsys.readouterr().out
