from __future__ import annotations

import pytest

from weft.testing.histories import (
    ANY_KEY,
    ForbiddenHistoryError,
    Operation,
    check_calls,
    check_lives,
)


def call(mark: str, life: str, number: int, began_at: float) -> Operation:
    """A call that takes a second, and was answered."""
    return Operation(
        "a", "call", life, mark, value=number, began_at=began_at, ended_at=began_at + 1
    )


def lost(mark: str, began_at: float) -> Operation:
    return Operation("b", "call", ANY_KEY, mark, began_at=began_at)


def task(mark: str, *, ended_at: float) -> Operation:
    return Operation("a", "task", mark, value=mark, began_at=0.0, ended_at=ended_at)


def check(operations: list[Operation], marks: list[str]) -> int:
    check_calls(operations, marks)
    return check_lives(operations, marks)


def forbidden(operations: list[Operation], *marks: str) -> str:
    with pytest.raises(ForbiddenHistoryError) as caught:
        check(operations, list(marks))
    return str(caught.value)


def test_lives_that_follow_each_other_are_right() -> None:
    marks = ["life x", "call first x 1", "call c1 x 2", "call c2 x 3", "life y", "call c3 y 1"]
    operations = [call("c1", "x", 2, 1), lost("c2", 3), lost("c0", 3), call("c3", "y", 1, 5)]
    assert check(operations, marks) == 2


def test_call_that_ran_and_was_not_seen_counts() -> None:
    marks = ["life x", "call c1 x 1", "call c2 x 2"]
    assert check([lost("c1", 1), call("c2", "x", 2, 3)], marks) == 1
    assert "cannot be" in forbidden([lost("c1", 5), call("c2", "x", 2, 3)], *marks)


def test_call_that_ran_twice_is_found() -> None:
    marks = ("life x", "call c1 x 1", "life y", "call c1 y 1")
    assert "ran 2 times" in forbidden([call("c1", "y", 1, 1)], *marks)


def test_task_that_ran_twice_or_never_is_found() -> None:
    assert "ran 2 times" in forbidden([task("t1", ended_at=1.0)], "task t1", "task t1")
    assert "ran 2 times" in forbidden([task("t1", ended_at=float("inf"))], "task t1", "task t1")
    assert "never ran" in forbidden([task("t1", ended_at=1.0)])
    assert check([task("t1", ended_at=float("inf"))], []) == 0


def test_lives_at_the_same_time_are_found() -> None:
    marks = ("life x", "life y", "call c1 y 1", "call c2 x 1")
    operations = [call("c1", "y", 1, 1), call("c2", "x", 1, 3)]
    assert "earlier life" in forbidden(operations, *marks)
    together = [call("c1", "y", 1, 1), call("c2", "x", 1, 1.5)]
    assert check(together, list(marks)) == 2


def test_call_that_was_not_counted_is_found() -> None:
    marks = ("life x", "call c1 x 1", "call c2 x 1")
    operations = [call("c1", "x", 1, 1), call("c2", "x", 1, 3)]
    assert "cannot be" in forbidden(operations, *marks)


def test_other_lines_are_no_marks() -> None:
    with pytest.raises(ValueError, match="no mark"):
        check_calls([], ["something"])
