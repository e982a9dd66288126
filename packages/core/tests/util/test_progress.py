from __future__ import annotations

import io
from typing import Any

import pytest

import weft
from weft.exceptions import ArgumentError, OptionError
from weft.util import progress
from weft.util._bars import Bar


class Terminal(io.StringIO):
    """A file that says that somebody looks at it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def refs(engine: str) -> list[Any]:
    @weft.remote
    def careful(number: int) -> int:
        if number == 3:
            raise ValueError(number)
        return number

    return [careful.remote(number) for number in range(5)]


def test_references_come_as_they_are_ready(refs: list[Any]) -> None:
    assert set(progress(refs)) == set(refs)
    assert len(progress(refs)) == 5


def test_bar_is_drawn_on_a_terminal(refs: list[Any]) -> None:
    terminal = Terminal()
    progress(refs, "counting", file=terminal).wait()
    drawn = terminal.getvalue()
    assert drawn.startswith("\rcounting [")
    assert "] 5/5 0:00" in drawn.rsplit("\r", 1)[1]
    assert drawn.endswith("\n")


def test_nothing_is_drawn_elsewhere(refs: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    file = io.StringIO()
    progress(refs, file=file).wait()
    progress(refs).wait()
    assert file.getvalue() == ""
    assert capsys.readouterr().err == ""


def test_bar_is_left_as_it_stands_when_the_loop_is_left(refs: list[Any]) -> None:
    terminal = Terminal()
    for _ in progress(refs, file=terminal):
        break
    assert terminal.getvalue().endswith("\n")


def test_wrong_arguments_are_refused(refs: list[Any]) -> None:
    with pytest.raises(ArgumentError):
        progress([1])  # type: ignore[list-item]
    with pytest.raises(OptionError, match="twice"):
        progress([refs[0], refs[0]])


def test_bar_shows_how_much_and_how_long() -> None:
    bar = Bar("fitting", 40, Terminal())
    assert bar.line(0.0, 30) == "fitting [          ] 0/40 0:00"
    bar.done = 10
    assert bar.line(65.0, 60).endswith("] 10/40 1:05, 3:15 left")
    assert "=" in bar.line(65.0, 60)
    bar.done = 40
    assert bar.line(7265.0, 60).endswith("=] 40/40 2:01:05")
    assert bar.line(1.0, 12) == "fitting 40/4"
    assert len(bar.line(1.0, 60)) == 60


def test_bar_of_nothing_is_full() -> None:
    assert "[=" in Bar("", 0, Terminal()).line(0.0, 40)
