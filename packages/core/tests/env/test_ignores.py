from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from weft._env.ignores import IgnoreRules

if TYPE_CHECKING:
    from pathlib import Path

PATHS = [
    "a.txt", "a.log", "b/a.txt", "b/a.log", "b/c/a.txt", "build/x", "src/build/x", "doc/x.pdf",
    "doc/sub/x.pdf", "#hash", "!bang", "data1", "data2", "data22", "keep/x.log",
    "sp ace ", "[x]", "x-y",
]  # fmt: skip


@pytest.mark.parametrize(
    "patterns",
    [
        ["*.log"],
        ["/a.txt"],
        ["b/"],
        ["build/"],
        ["/build"],
        ["doc/*.pdf"],
        ["doc/**/*.pdf"],
        ["**/c"],
        ["b/**"],
        ["**/a.txt"],
        ["# comment", "", "\\#hash"],
        ["\\!bang"],
        ["data?"],
        ["data[12]"],
        ["data[!1]"],
        ["*.log", "!keep/x.log"],
        ["*", "!*.txt", "!*/"],
        ["sp ace\\ "],
        ["sp ace   "],
        ["\\[x\\]"],
        ["x[+--]y"],
        ["b", "!b/a.txt"],
    ],
)
def test_patterns_mean_what_git_says(patterns: list[str], tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    for path in PATHS:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    rules = tmp_path / "rules"
    rules.write_text("\n".join(patterns))
    git = [
        "git",
        "-c",
        f"core.excludesFile={rules}",
        "ls-files",
        "-z",
        "--others",
        "--exclude-standard",
    ]
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    listed = subprocess.run(git, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    ours = IgnoreRules(patterns)

    def is_left_out(path: str) -> bool:
        above = [path[:at] for at, char in enumerate(path) if char == "/"]
        return any(ours.verdict(part, is_dir=True) for part in above) or bool(
            ours.verdict(path, is_dir=False)
        )

    assert {path for path in PATHS if not is_left_out(path)} == set(listed.split("\0")) & set(PATHS)


def test_no_rules_are_false_and_say_nothing() -> None:
    rules = IgnoreRules(["", "# nothing", "/", "!"])
    assert not rules
    assert rules.verdict("a", is_dir=False) is None
