from __future__ import annotations

import io
import logging

import pytest

from weft._capsules.tails import PIECE_CHARACTERS, PIECES, TextTail


@pytest.fixture
def stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8")


def test_what_is_written_is_remembered_and_written(stream: io.TextIOWrapper) -> None:
    tail = TextTail()
    tail.follow(stream)
    print("one", 2, file=stream)
    stream.writelines(["three\n", "four\n"])
    assert tail.text() == "one 2\nthree\nfour\n"
    stream.flush()
    assert stream.buffer.getvalue() == b"one 2\nthree\nfour\n"  # type: ignore[attr-defined]  # a BytesIO
    tail.clear()
    assert tail.text() == ""


def test_log_handler_that_has_the_stream_already_is_followed(stream: io.TextIOWrapper) -> None:
    handler = logging.StreamHandler(stream)
    tail = TextTail()
    tail.follow(stream)
    handler.handle(logging.makeLogRecord({"msg": "hello"}))
    assert tail.text() == "hello\n"


def test_only_the_end_is_remembered(stream: io.TextIOWrapper) -> None:
    tail = TextTail()
    tail.follow(stream)
    stream.writelines(f"{number}\n" for number in range(PIECES + 1))
    assert tail.text().startswith("1\n")
    stream.write("x" * 10 * PIECE_CHARACTERS)
    assert len(tail.text()) < 2 * PIECE_CHARACTERS + 5 * PIECES


def test_what_cannot_be_written_is_not_remembered(stream: io.TextIOWrapper) -> None:
    tail = TextTail()
    tail.follow(stream)
    with pytest.raises(TypeError):
        stream.write(b"bytes")  # type: ignore[arg-type]
    assert tail.text() == ""
