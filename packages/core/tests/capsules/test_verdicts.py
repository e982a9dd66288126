from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from weft._capsules.records import Died, Manifest, Raised
from weft._cli.verdicts import Outcome, judge

if TYPE_CHECKING:
    from collections.abc import Mapping

ERROR = Raised(
    type="ValueError", message="7 is odd", file="a.py", line=3, function="f", source="raise x"
)
DIED = Died(words="it died", exit_code=-11)


def manifest(**facts: Any) -> Manifest:
    given: Mapping[str, Any] = {
        "format": 1,
        "kind": "task",
        "name": "f",
        "function": "f",
        "task_id": "",
        "attempt": 1,
        "written_at": "",
        "code": {"size_bytes": 0},
        "call": {},
        "python": "",
        "platform": "",
        "versions": {},
        "pid": 1,
        "host": "",
        "cwd": "",
        "sys_path": [],
        "variables": {"compared_with": ""},
    }
    return msgspec.structs.replace(msgspec.convert(given, Manifest), **facts)


def raised(**changes: Any) -> Outcome:
    return Outcome(raised=msgspec.structs.replace(ERROR, **changes))


@pytest.mark.parametrize(
    ("there", "here", "is_reproduced", "words"),
    [
        (ERROR, raised(), True, "it raised ValueError: 7 is odd at a.py:3 in f"),
        (ERROR, raised(message="9 is odd"), True, "it raised ValueError: 9 is odd"),
        (ERROR, raised(line=30, file="b.py"), True, "b.py:30 in f"),
        (ERROR, raised(function="g"), True, "in g"),
        (ERROR, raised(function="g", message=""), False, "and not ValueError: 7 is odd"),
        (ERROR, raised(source="other", message="9"), False, "and not ValueError: 7 is odd"),
        (ERROR, raised(type="KeyError"), False, "it raised KeyError: 7 is odd"),
        (ERROR, Outcome(), False, "it ended well"),
        (ERROR, Outcome(exit_code=-9), False, "its process was ended by SIGKILL"),
        (ERROR, Outcome(raised=ERROR, has_quit=True), False, "left before the end"),
        (
            Raised(type="RecursionError", message="a", function="f"),
            Outcome(raised=Raised(type="RecursionError", message="b", function="g")),
            True,
            "it raised RecursionError: b",
        ),
        (
            Raised(type="ValueError", message=""),
            Outcome(raised=Raised(type="ValueError", message="")),
            False,
            "it raised ValueError, and not ValueError",
        ),
    ],
)
def test_exception_is_known_by_its_class_and_its_line_or_message(
    there: Raised, here: Outcome, is_reproduced: bool, words: str
) -> None:
    verdict = judge(manifest(raised=there), here)
    assert verdict.is_reproduced is is_reproduced
    assert words in verdict.words


@pytest.mark.parametrize(
    ("there", "here", "is_reproduced", "words"),
    [
        (DIED, Outcome(exit_code=-11), True, "its process was ended by SIGSEGV again"),
        (Died(words="", exit_code=3), Outcome(exit_code=3), True, "exited with code 3 again"),
        (Died(words=""), Outcome(exit_code=1), True, "exited with code 1 again"),
        (DIED, Outcome(exit_code=-6), False, "ended by SIGABRT, not was ended by SIGSEGV"),
        (DIED, Outcome(), False, "it ended well, and its process lived on"),
        (DIED, raised(), False, "it raised ValueError: 7 is odd at a.py:3 in f, and its process"),
    ],
)
def test_death_is_known_by_its_signal_or_exit_code(
    there: Died, here: Outcome, is_reproduced: bool, words: str
) -> None:
    verdict = judge(manifest(died=there), here)
    assert verdict.is_reproduced is is_reproduced
    assert words in verdict.words


def test_time_limit_is_known_by_being_reached() -> None:
    late = manifest(is_late=True, timeout_s=2, died=DIED)
    assert judge(late, Outcome(is_late=True)).is_reproduced
    verdict = judge(late, Outcome())
    assert not verdict.is_reproduced
    assert verdict.words == "it ended well, within its time limit of 2 s"
