from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from weft._env.activation import EntryError, attempt
from weft._override import override

if TYPE_CHECKING:
    from collections.abc import Callable


class WordlessError(Exception):
    @override
    def __str__(self) -> str:
        raise RuntimeError("no words")


def fail() -> None:
    raise WordlessError


def misspell() -> None:
    compile("1 +", "hook.py", "exec")


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (lambda: int("x"), "ValueError: invalid literal for int() with base 10: 'x'"),
        (lambda: sys.exit(3), "SystemExit: 3"),
        (misspell, "SyntaxError: invalid syntax (hook.py, line 1)"),
        (fail, "WordlessError: <WordlessError whose __str__ fails>"),
    ],
)
def test_part_of_an_environment_that_fails_is_named_and_told_without_wefts_frames(
    run: Callable[[], object], why: str
) -> None:
    with pytest.raises(EntryError) as caught:
        attempt("the hook", run)
    first, _, story = str(caught.value).partition("\n")
    assert first.removeprefix("the hook failed: ").endswith(why)
    assert story.startswith("Traceback")
    assert "activation.py" not in story.replace("test_activation.py", "")


def test_part_that_does_not_fail_gives_what_it_makes() -> None:
    assert attempt("the hook", lambda: 7) == 7
