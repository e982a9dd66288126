"""Patterns of files to leave out, as in `.gitignore` files.

Source: the section "PATTERN FORMAT" of git's manual page gitignore(5).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class IgnoreRules:
    """The patterns of one file or list; they hold for what lies below one directory."""

    __slots__ = ("_rules",)

    def __init__(self, patterns: Iterable[str]) -> None:
        self._rules = [rule for pattern in patterns if (rule := _rule(pattern)) is not None]

    def __bool__(self) -> bool:
        return bool(self._rules)

    def verdict(self, path: str, *, is_dir: bool) -> bool | None:
        """Tell whether a path, relative to the directory, is left out; None: no pattern says."""
        for regex, is_negated, dirs_only in reversed(self._rules):
            if (is_dir or not dirs_only) and regex.fullmatch(path):
                return not is_negated
        return None


def _rule(pattern: str) -> tuple[re.Pattern[str], bool, bool] | None:
    pattern = pattern.rstrip("\r\n")
    # A space at the end counts only behind a backslash.
    while pattern.endswith(" ") and not pattern.endswith("\\ "):
        pattern = pattern[:-1]
    if not pattern or pattern.startswith("#"):
        return None
    is_negated = pattern.startswith("!")
    pattern = pattern.removeprefix("!")
    if pattern.startswith("./"):
        pattern = pattern[1:]
    dirs_only = pattern.endswith("/")
    pattern = pattern.removesuffix("/")
    if not pattern:
        return None
    is_anchored = "/" in pattern
    regex = _translate(pattern.removeprefix("/"))
    return (
        re.compile(regex if is_anchored else f"(?:.*/)?{regex}", re.DOTALL),
        is_negated,
        dirs_only,
    )


def _translate(pattern: str) -> str:
    """Return the regular expression of a pattern."""
    found, at = [], 0
    while at < len(pattern):
        char = pattern[at]
        at_start = at == 0 or pattern[at - 1] == "/"
        if at_start and pattern.startswith("**/", at):
            found.append("(?:.*/)?")
            at += 3
        elif at_start and pattern[at:] == "**":
            found.append(".*")
            at += 2
        elif char == "*":
            found.append("[^/]*")
            at += 1
        elif char == "?":
            found.append("[^/]")
            at += 1
        elif char == "[" and (match := re.compile(r"\[([!^]?)(\]?[^\]]*)\]").match(pattern, at)):
            # Two of these together, and brackets, mean more to Python than to git.
            inside = re.sub(r"([\\\[\]&~|]|(?<=-)-)", r"\\\1", match[2])
            found.append(f"(?!/)[{'^' if match[1] else ''}{inside}]")
            at = match.end()
        elif char == "\\" and at + 1 < len(pattern):
            found.append(re.escape(pattern[at + 1]))
            at += 2
        else:
            found.append(re.escape(char))
            at += 1
    return "".join(found)
