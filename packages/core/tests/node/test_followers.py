"""Who follows log files: told once a question, when there is more, or nobody is left to write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from weft._launch import LOG_FILE
from weft._node.followers import Followers
from weft._wire.codec import pack, unpack

if TYPE_CHECKING:
    from pathlib import Path

    from weft._wire.messages import Answer

WORKER = b"w" * 16
OUT, ERR = (f"worker-{WORKER.hex()}.{suffix}" for suffix in ("out", "err"))


class AllReaders:
    """A client that is all clients."""

    worker_id = b"reader"

    def __init__(self) -> None:
        self.answers: list[Any] = []

    def send(self, client: Any, answer: Answer) -> None:
        assert client is self
        self.answers.append(
            answer.error or (answer.request, *unpack(answer.body, tuple[int, bool]))
        )

    def send_to(self, client: bytes, answer: Answer) -> None:
        assert client in (b"reader", b"another")
        self.send(self, answer)


class Rostered:
    """A worker's files, and who follows them."""

    def __init__(self, folder: Path) -> None:
        self.here = {WORKER}
        self.readers: Any = AllReaders()
        self.followers = Followers(str(folder), self.readers, lambda worker: worker in self.here)
        self.log = folder / LOG_FILE
        self.log.write_text("began\n")

    def ask(self, request: int, *body: object) -> None:
        self.followers.ask(self.readers, request, pack(body))

    def answers(self) -> list[Any]:
        told, self.readers.answers = self.readers.answers, []
        return list(told)


@pytest.fixture
def files(tmp_path: Path) -> Rostered:
    return Rostered(tmp_path)


def test_question_is_answered_when_there_is_more(files: Rostered) -> None:
    files.ask(1, OUT, -1)
    assert files.answers() == [(1, 0, False)]
    files.ask(2, OUT, 0)
    files.followers.wrote(ERR, 3)
    assert files.answers() == []
    files.followers.wrote(OUT, 3)
    files.followers.wrote(OUT, 4)
    assert files.answers() == [(2, 3, False)]
    files.ask(3, OUT, 3)
    assert files.answers() == [(3, 7, False)], "it was written while nobody had asked"


def test_question_is_answered_when_the_worker_has_ended(files: Rostered) -> None:
    files.ask(1, OUT, -1)
    files.ask(2, OUT, 0)
    files.here.clear()
    files.followers.ended(OUT)
    files.followers.ended(ERR)
    assert files.answers() == [(1, 0, False), (2, 0, True)]
    files.ask(3, OUT, -1)
    assert files.answers() == [(3, -1, True)]


@pytest.mark.parametrize("name", [f"{OUT}.1", "worker-00.out", "elsewhere", "worker-0.out"])
def test_file_that_nobody_writes_to_is_over_at_once(files: Rostered, name: str) -> None:
    files.ask(1, name, 5)
    assert files.answers() == [(1, 5, True)]


def test_log_of_the_daemon_is_looked_at_after_it_was_awake(files: Rostered) -> None:
    files.followers.look_at_own()
    files.ask(1, LOG_FILE, -1)
    assert files.answers() == [(1, 6, False)]
    files.ask(2, LOG_FILE, 6)
    files.followers.look_at_own()
    assert files.answers() == []
    with files.log.open("a") as log:
        log.write("went on\n")
    files.followers.look_at_own()
    assert files.answers() == [(2, 14, False)]


def test_all_who_follow_the_log_of_the_daemon_are_told(files: Rostered) -> None:
    files.ask(1, LOG_FILE, -1)
    files.ask(2, LOG_FILE, 6)
    files.log.write_text("began\nwent on\n")
    files.readers.worker_id = b"another"
    files.ask(3, LOG_FILE, -1)
    files.followers.look_at_own()
    assert files.answers() == [(1, 6, False), (2, 14, False), (3, 14, False)]


def test_who_has_gone_is_told_nothing(files: Rostered) -> None:
    files.ask(1, OUT, 0)
    files.followers.forget(b"somebody")
    files.followers.forget(AllReaders.worker_id)
    files.followers.wrote(OUT, 1)
    assert files.answers() == []


def test_question_that_is_none_is_refused(files: Rostered) -> None:
    files.ask(1, "which")
    (error,) = files.answers()
    assert "not a" in error


def test_question_that_nobody_wants_an_answer_to_is_forgotten(files: Rostered) -> None:
    files.ask(1, OUT, -1)
    files.ask(2, OUT, 0)
    files.ask(3, OUT, 0)
    files.answers()
    files.followers.answer_no_more(files.readers, 2)
    files.followers.answer_no_more(files.readers, 9)
    files.followers.wrote(OUT, 3)
    assert files.answers() == [(3, 3, False)]
