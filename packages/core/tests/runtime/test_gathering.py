"""Arguments that come one after the other, and go again meanwhile."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from weft._ids import IdSource
from weft._runtime.arguments import Arguments
from weft._runtime.gathering import gather
from weft._runtime.submissions import Submission
from weft._wire.messages import Failure, Inline


class Desk:
    """One process, of which the objects are no more than values."""

    def __init__(self) -> None:
        self.objects = self
        self.waiting: dict[bytes, list[Any]] = {}

    def when_sealed(self, entry: Any, callback: Any) -> bool:
        self.waiting.setdefault(entry.id, []).append(callback)
        return True

    def seal(self, ref: Any, value: Any) -> None:
        ref._entry.value = value
        for callback in self.waiting.pop(ref._id, []):
            callback(ref._entry)

    def ref(self) -> Any:
        object_id = IdSource().task_id().object_id(1)
        entry = SimpleNamespace(id=object_id, value=None)
        return SimpleNamespace(_id=object_id, _owner="me", _entry=entry)


def a_task(*deps: Any) -> Submission:
    return Submission(IdSource().task_id(), "f", Arguments(b"", [*deps], []), 1)


def test_argument_that_is_lost_before_the_last_one_comes_is_waited_for_again() -> None:
    desk: Any = Desk()
    first, last = desk.ref(), desk.ref()
    note, ended = a_task(first, last), []
    gather(desk, note, ended.append)
    desk.seal(first, Inline(b"1"))
    first._entry.value = None
    desk.seal(last, Inline(b"2"))
    assert not ended
    desk.seal(first, Inline(b"3"))
    assert ended == [None]
    assert note.deps == [Inline(b"3"), Inline(b"2")]


def test_argument_that_fails_ends_the_waiting_at_once() -> None:
    desk: Any = Desk()
    first, last = desk.ref(), desk.ref()
    ended: list[Any] = []
    gather(desk, a_task(first, last), ended.append)
    desk.seal(last, Failure(b"no"))
    assert ended == [Failure(b"no")]
    desk.seal(first, Inline(b"1"))
    assert len(ended) == 1
