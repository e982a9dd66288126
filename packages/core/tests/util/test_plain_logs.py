"""Logs without what a terminal would obey."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.util.state._logs import without_codes

PIECES = st.sampled_from(
    ["a", "m", "7", ";", "[", "]", "\\", "\x1b", "\x1b[", "\x1b[1;31m", "\x1b]0;", "\x07", "(B"]
)


def plain(*texts: str) -> str:
    return "".join(without_codes(texts))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("\x1b[1;31mred\x1b[0m\n", "red\n"),
        ("50 %\x1b[K\r\x1b[2A", "50 %\r"),
        ("\x1b]0;a title\x07text", "text"),
        ("\x1b]8;;https://example.org\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b(Btext\x1b7\x1bc", "text"),
        ("[1m is no code", "[1m is no code"),
    ],
)
def test_codes_are_left_out_and_all_else_stays(text: str, left: str) -> None:
    assert plain(text) == left


def test_code_that_does_not_end_stays() -> None:
    assert plain("text\x1b[1;3") == "text\x1b[1;3"


@given(st.lists(PIECES, max_size=20))
def test_codes_are_left_out_wherever_a_text_is_divided(pieces: list[str]) -> None:
    assert plain(*pieces) == plain("".join(pieces))
