from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest

import cycles
import sizes

if TYPE_CHECKING:
    from pathlib import Path


def kinds(text: str, tmp_path: Path, imported: int = 0) -> list[str]:
    (tmp_path / "module.py").write_text(text)
    (source,) = cycles.load([tmp_path])
    return [kind for kind, *_ in sizes.smells(source, imported)]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("x = 1\n" * 401, "files over 400 lines"),
        ("def f():\n" + "    x = 1\n" * 40, "functions over 40 lines"),
        ("def f(a, b, c, d, e, g, *, h): pass\n", "functions with over 6 parameters"),
        ("def f(a):\n" + "    if a: pass\n" * 13, "functions with over 12 branches"),
        (
            "def f():\n"
            + "".join("    " * n + "while 1:\n" for n in range(1, 6))
            + "    " * 6
            + "pass",
            "functions nested over 4 deep",
        ),
        (
            "class C:\n" + "".join(f"    def m{n}(self): pass\n" for n in range(16)),
            "classes with over 15 public methods",
        ),
        ("class C:\n" + "    x = 1\n" * 300, "classes over 300 lines"),
    ],
)
def test_smell_is_told_just_over_its_threshold(text: str, kind: str, tmp_path: Path) -> None:
    assert kinds(text, tmp_path) == [kind]


def test_module_in_bounds_smells_of_nothing(tmp_path: Path) -> None:
    text = "class C:\n    def f(self, a, b, c, d, e, g): pass\n" + "x = 1\n" * 300
    assert kinds(text, tmp_path, imported=8) == []


def test_module_with_many_imports_is_told(tmp_path: Path) -> None:
    assert kinds("", tmp_path, imported=9) == ["modules with over 8 imports of weft"]


@pytest.mark.parametrize(
    ("docstring", "told"), [("What this is.", 2), ("Why this is one\nfile: a table.", 1)]
)
def test_very_long_file_has_to_say_why(docstring: str, told: int, tmp_path: Path) -> None:
    assert len(kinds(f'"""{docstring}"""\n' + "x = 1\n" * 800, tmp_path)) == told


def test_elif_is_no_deeper_than_its_if() -> None:
    chain = "if a: pass\n" + "elif b: pass\n" * 6 + "else:\n    for c in d: pass\n"
    assert sizes.nesting(ast.parse(chain)) == 2


def test_report_lists_the_worst_first_and_fails_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for lines in (401, 500):
        (tmp_path / f"module_{lines}.py").write_text("x = 1\n" * lines)
    assert sizes.main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.index("module_500") < printed.index("module_401")
    assert "modules: 2, 901 lines" in printed
