"""Every Python block of the README and of the site runs, and prints what the page says.

The blocks of a page are one program, run in a process of its own. What a block prints is compared
with the `text` block that follows it, or else with the comments behind its lines `print(...)`;
`...` stands for anything.
"""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import weft
import weft.exceptions
import weft.tune.logger
import weft.tune.schedulers
import weft.tune.search
import weft.tune.stopper
from release import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

DOCS = REPOSITORY / "docs"
BLOCK = re.compile(
    r"^```python\n(.*?)^```\n(?:\s*^```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL
)
COMMENT = re.compile(r"^ *print\(.*\)  # (.+)$", re.MULTILINE)
MARK = "---- end of block ----"
PAGES = sorted(
    page
    for page in [REPOSITORY / "README.md", *(DOCS).rglob("*.md")]
    if BLOCK.search(page.read_text())
)


def name_of(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def expected_of(code: str, output: str) -> list[str]:
    return output.splitlines() if output else COMMENT.findall(code)


def matches(line: str, expected: str) -> bool:
    return bool(re.fullmatch(".*".join(map(re.escape, expected.split("..."))), line))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_page_runs_and_prints_what_it_says(page: Path, tmp_path: Path) -> None:
    blocks = BLOCK.findall(page.read_text())
    program = tmp_path / "page.py"
    program.write_text("".join(f"{code}\nprint({MARK!r}, flush=True)\n" for code, _ in blocks))
    ended = subprocess.run(
        [sys.executable, str(program)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    said = ended.stdout.split(f"{MARK}\n")
    for (code, output), printed in zip(blocks, said, strict=False):
        expected = expected_of(code, output)
        lines = printed.splitlines()
        if expected:
            assert len(lines) == len(expected), f"{code}\nprinted\n{printed}"
        for line, wanted in zip(lines, expected, strict=False):
            assert matches(line, wanted), f"{code}\nprinted {line!r}, not {wanted!r}"


def names_of_exceptions() -> set[str]:
    return {
        name
        for name, value in vars(weft.exceptions).items()
        if isinstance(value, type) and issubclass(value, BaseException) and name[0] != "_"
    }


def test_page_of_errors_names_every_exception() -> None:
    page = (DOCS / "errors.md").read_text()
    assert not names_of_exceptions() - set(re.findall(r"`(\w+)`", page))


@pytest.mark.parametrize(
    "module",
    [
        weft,
        weft.exceptions,
        weft.tune,
        weft.tune.logger,
        weft.tune.schedulers,
        weft.tune.search,
        weft.tune.stopper,
    ],
    ids=lambda module: module.__name__,
)
def test_reference_has_every_name(module: ModuleType) -> None:
    names = names_of_exceptions() if module is weft.exceptions else {*module.__all__}
    pages = {module.__name__.removeprefix("weft.").replace(".", "_")}
    if module.__name__.startswith("weft.tune."):
        pages.add("tune")  # some names are in weft.tune as well, and stand there
    reference = DOCS / "reference"
    text = "".join((reference / f"{page}.md").read_text() for page in pages)
    documented = set(re.findall(r"^::: weft\.(?:\w+\.)*(\w+)$", text, re.MULTILINE))
    aliases = {name for name in names if getattr(getattr(module, name), "__name__", name) != name}
    modules = {path.stem for path in reference.glob("*.md")}
    assert not names - documented - aliases - modules - {"__version__"}


def test_navigation_has_every_page() -> None:
    settings = (REPOSITORY / "zensical.toml").read_text()
    pages = {path.relative_to(DOCS) for path in (DOCS).rglob("*.md")}
    missing = {
        str(page) for page in pages if page.parts[0] != "design" and f'"{page}"' not in settings
    }
    assert not missing
