"""Errors across processes."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from weft._override import override
from weft._serialize import dumps, pack_error, pack_failure, unpack, unpack_failure
from weft._serialize.failures import (
    install_excepthook,
    pack_short_failure,
    uninstall_excepthook,
    user_frames,
    user_traceback,
)
from weft.exceptions import (
    ActorDiedError,
    GetTimeoutError,
    StandInError,
    TaskCancelledError,
    TaskError,
    WeftError,
    WorkerDiedError,
)

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable

LOCK = threading.Lock()


def _raise(error: BaseException) -> NoReturn:
    raise error


def failed(error: BaseException, task: str = "f", **facts: Any) -> Any:
    """Return what the caller gets when a task raises `error`."""
    try:
        _raise(error)
    except BaseException as raised:  # noqa: BLE001 - any error is packed
        return unpack_failure(pack_failure(raised, task=task, **facts))


class TwoArgumentsError(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code
        self.reason = reason


class KeywordOnlyError(ValueError):
    def __init__(self, *, where: str) -> None:
        super().__init__()
        self.where = where

    @override
    def __str__(self) -> str:
        return f"at {self.where}"


class SlottedError(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        self.code = code


class OwnReduceError(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__("own")
        self.sum = a + b

    @override
    def __reduce__(self) -> Any:
        return OwnReduceError, (self.sum, 0)


class BrokenReduceError(Exception):
    @override
    def __reduce__(self) -> Any:
        return BrokenReduceError._refuse, ()

    @staticmethod
    def _refuse() -> NoReturn:
        raise RuntimeError("never again")


class BrokenTextError(Exception):
    @override
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class NoSubclassError(Exception):
    @override
    def __init_subclass__(cls) -> None:
        raise TypeError("final")


class NamesError(Exception):
    """Its attributes are called as those of TaskError."""

    def __init__(self) -> None:
        super().__init__("names")
        self.node = "mine"
        self.task = 7
        self.cause = "other"


def decode_error() -> BaseException:
    try:
        b"\xff".decode()
    except UnicodeDecodeError as error:
        return error
    raise AssertionError


USERS_ERRORS: list[Callable[[], BaseException]] = [
    lambda: ValueError("bad"),
    lambda: KeyError("k"),
    lambda: FileNotFoundError(2, "No such file", "data.csv"),
    lambda: OSError("just text"),
    lambda: TimeoutError("slow"),
    decode_error,
    lambda: ImportError("no module", name="m", path="p"),
    lambda: SyntaxError("odd", ("f.py", 3, 4, "x = = 1")),
    lambda: NameError("n", name="n"),
    lambda: AttributeError("a", name="a", obj=LOCK),
    ZeroDivisionError,
    lambda: RecursionError("deep"),
    lambda: ExceptionGroup("some", [ValueError(1), KeyError(2)]),
    lambda: subprocess.CalledProcessError(3, ["ls"], b"out", b"err"),
    lambda: TwoArgumentsError(4, "why"),
    lambda: KeywordOnlyError(where="here"),
    lambda: SlottedError(5),
    lambda: OwnReduceError(1, 2),
    lambda: BrokenTextError("x"),
    NamesError,
    asyncio.QueueFull,
    lambda: GetTimeoutError(timeout_s=3.0),
    lambda: TaskCancelledError(task="g"),
    lambda: WorkerDiedError(pid=3, exit_code=-9, function="g"),
    lambda: ActorDiedError("gone", class_name="Counter"),
    lambda: WeftError("own"),
]


def facts_of(error: BaseException | None) -> dict[str, Any]:
    names = (
        "args errno strerror filename name path msg lineno offset text encoding object start end "
        "reason message exceptions returncode cmd output stderr code where sum timeout_s exit_code "
        "kind"
    )
    found = {}
    for name in names.split():
        value = getattr(error, name, None)
        if value is not None:
            found[name] = repr(value)
    return found


@pytest.mark.parametrize("make", USERS_ERRORS, ids=lambda make: type(make()).__name__)
def test_the_caller_gets_the_users_class_with_its_attributes(make: Any) -> None:
    error = make()
    found = failed(error)
    assert isinstance(found, WeftError)
    assert isinstance(found, type(error))
    assert isinstance(found, TaskError)
    expected = facts_of(error)
    got = facts_of(found)
    assert {name: got.get(name) for name in expected} == expected
    assert type(found.cause) is type(error)
    assert facts_of(found.cause) == expected
    kind: Any = type(error)
    with pytest.raises(kind):
        raise found


@pytest.mark.parametrize("make", USERS_ERRORS, ids=lambda make: type(make()).__name__)
def test_its_text_is_that_of_the_users_error(make: Any) -> None:
    if make().__class__ is BrokenTextError:
        assert str(failed(make())) == "<BrokenTextError whose __str__ fails>"
    else:
        assert str(failed(make())) == str(make())


@pytest.mark.parametrize("make", USERS_ERRORS, ids=lambda make: type(make()).__name__)
@pytest.mark.parametrize(
    "again",
    [
        lambda error: unpack(dumps(error).pack()),
        lambda error: pickle.loads(pickle.dumps(error)),
        copy.copy,
    ],
    ids=["weft", "pickle", "copy"],
)
def test_it_pickles_again(make: Any, again: Any) -> None:
    error = make()
    first = failed(error, task="inner")
    found = again(first)
    assert isinstance(found, TaskError)
    assert isinstance(found, type(error))
    assert facts_of(found) == facts_of(first)
    assert [hop.title for hop in found.hops] == [f"task inner() pid {os.getpid()}"]
    assert found.__notes__ == first.__notes__


def test_an_error_that_breaks_its_own_pickling_keeps_its_class() -> None:
    found = failed(BrokenReduceError("x"))
    assert isinstance(found, BrokenReduceError)
    assert "never again" in found.__notes__[0]


def test_attributes_that_cannot_travel_are_left_behind_with_a_note() -> None:
    error = TwoArgumentsError(1, "why")
    error.args = ("text", LOCK)
    error.lock = LOCK  # type: ignore[attr-defined]
    found = failed(error)
    assert isinstance(found, TwoArgumentsError)
    assert found.code == 1
    assert found.args == ("text", repr(LOCK))
    assert not hasattr(found, "lock")
    assert "cannot pickle '_thread.lock' object" in found.__notes__[0]


def test_an_error_whose_class_cannot_travel_gets_a_stand_in() -> None:
    class LocalError(Exception):
        lock = LOCK

    found = failed(LocalError("boom", 3))
    assert type(found) is TaskError
    assert str(found).endswith(": ('boom', 3)")
    assert isinstance(found.cause, StandInError)
    assert found.cause.type_name.endswith("LocalError")
    assert found.cause.repr == "LocalError('boom', 3)"
    assert "raise error" in found.cause.text
    assert "cannot pickle '_thread.lock' object" in found.cause.reason
    again = unpack_failure(pack_failure(found, task="outer"))
    assert str(again) == str(found)
    assert isinstance(again, TaskError)
    assert len(again.hops) == 2


def test_a_module_that_the_caller_lacks_gets_a_stand_in(
    load_module: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as worker:
        worker.syspath_prepend(tmp_path)
        module = load_module("lacking_for_test", "class Odd(Exception): pass")
        packed = pack_failure(module.Odd("boom"), task="f")
    monkeypatch.delitem(sys.modules, module.__name__)
    found = unpack_failure(packed)
    assert str(found) == "lacking_for_test.Odd: boom"
    assert isinstance(found, TaskError)
    assert isinstance(found.cause, StandInError)
    assert "ModuleNotFoundError" in found.cause.reason


def test_a_class_that_admits_no_subclass_is_found_as_cause() -> None:
    found = failed(NoSubclassError("x"))
    assert type(found) is TaskError
    assert type(found.cause) is NoSubclassError
    assert found.as_instanceof_cause() is found
    with pytest.raises(TypeError, match="final"):
        found.make_dual_exception_instance()


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3), SystemExit(0), KeyboardInterrupt(), GeneratorExit(), StopIteration(5),
        StopAsyncIteration(), asyncio.CancelledError(),
        BaseExceptionGroup("g", [KeyboardInterrupt()]),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_errors_that_steer_the_interpreter_stay_inside(error: BaseException) -> None:
    found = failed(error)
    assert type(found) is TaskError
    assert type(found.cause) is type(error)
    assert type(error).__name__ in str(found)
    assert found.__notes__


def test_users_attributes_win_apart_from_cause() -> None:
    found = failed(NamesError(), node="n1")
    assert found.node == "mine"
    assert found.task == 7
    assert isinstance(found.cause, NamesError)
    assert found.cause.cause == "other"


def test_facts_of_the_task_are_there() -> None:
    facts: dict[str, Any] = {
        "pid": 12, "node": "n1", "attempts": 3, "actor_repr": "A", "actor_id": "ab", "ip": "::1",
    }  # fmt: skip
    found = failed(ValueError("x"), task="A.m", **facts)
    for name, value in facts.items():
        assert getattr(found, name) == value
    assert found.task == found.function_name == "A.m"
    assert "Traceback (most recent call last)" in found.traceback_str
    assert found.hops[0].title == "actor A.m() pid 12 on n1, attempt 3"


def test_except_star_sees_through_a_group() -> None:
    caught: list[Any] = []
    try:
        raise failed(ExceptionGroup("some", [ValueError(1), KeyError(2)]))
    except* ValueError as group:
        caught.append(group.exceptions)
    except* KeyError as group:
        caught.append(group.exceptions)
    assert [type(each[0]) for each in caught] == [ValueError, KeyError]


def test_the_chain_of_causes_travels() -> None:
    def run() -> None:
        try:
            try:
                dict[str, int]()["a"]
            except KeyError as error:
                raise ValueError("bad") from error
        except ValueError:
            raise TwoArgumentsError(1, "why")  # noqa: B904 - the context is what is tested

    try:
        run()
    except TwoArgumentsError as error:
        found: Any = unpack_failure(pack_failure(error, task="f"))
    assert isinstance(found.cause.__context__, ValueError)
    assert isinstance(found.cause.__context__.__cause__, KeyError)
    lines = found.__notes__[-1].splitlines()
    assert lines[-2].strip().startswith("because of ValueError: bad, ")
    assert lines[-2].endswith('raise ValueError("bad") from error')
    assert lines[-1].strip().startswith("because of KeyError: 'a', ")


def test_notes_of_the_user_stay_and_stay_single() -> None:
    error = ValueError("x")
    error.add_note("look here")
    inner = failed(error, task="inner")
    inner.add_note("and here")
    outer = failed(inner, task="outer")
    assert outer.__notes__[:2] == ["look here", "and here"]
    assert len(outer.__notes__) == 3
    assert outer.__notes__[2].count("in task") == 2
    assert outer.cause.__notes__ == ["look here"]


def test_an_error_of_weft_for_the_caller_arrives_as_it_is() -> None:
    error = WorkerDiedError(pid=3, exit_code=-11, function="f", stderr="a\nb")
    found = unpack_failure(pack_error(error))
    assert type(found) is WorkerDiedError
    assert str(found) == str(error)
    assert found.stderr == "a\nb"
    assert found.__notes__ == error.__notes__


def test_every_unpacking_makes_an_error_of_its_own() -> None:
    packed = pack_failure(ValueError("x"), task="f")
    assert unpack_failure(packed) is not unpack_failure(packed)
    assert type(unpack_failure(packed)) is type(unpack_failure(packed))


def test_a_task_error_made_by_hand_can_be_raised_in_a_task() -> None:
    found = failed(TaskError("g", "text", ValueError("x")), task="f")
    assert str(found) == "x"
    assert isinstance(found, ValueError)
    assert isinstance(failed(TaskError("g"), task="f"), TaskError)


# ------------------------------------------------------------------ tracebacks


def test_frames_of_weft_and_of_libraries_are_left_out() -> None:
    try:
        textwrap.indent(None, "x")  # type: ignore[arg-type]
    except AttributeError as error:
        frames = user_frames(error.__traceback__)
    assert frames[0].function == sys._getframe().f_code.co_name
    assert len(frames) == 2
    assert frames[1].file == textwrap.__file__
    try:
        dumps(LOCK)
    except TypeError as error:
        frames = user_frames(error.__traceback__)
    assert len(frames) == 1
    assert frames[0].source == "dumps(LOCK)"


def test_a_recursion_takes_one_line() -> None:
    def dive() -> None:
        dive()

    try:
        dive()
    except RecursionError as error:
        found: Any = unpack_failure(pack_failure(error, task="dive"))
    assert len(found.hops[0].frames) == 2
    assert "times)" in found.hops[0].frames[1].function


def test_a_long_way_is_cut_in_the_middle() -> None:
    error: Any = ValueError("x")
    for depth in range(100):
        error = failed(error, task=f"t{depth}")
    assert len(error.hops) <= 21
    lines = error.__notes__[-1].splitlines()
    assert len(lines) <= 8
    assert lines[0].startswith("  in task t99()")
    assert lines[2] == "  ... 97 more tasks"
    assert lines[-3].startswith("  in task t0()")


def test_user_traceback_keeps_line_numbers() -> None:
    try:
        dumps([LOCK])
    except TypeError as error:
        whole = traceback.extract_tb(error.__traceback__)
        shown = traceback.extract_tb(user_traceback(error.__traceback__))
    assert len(whole) > 1
    assert [frame.lineno for frame in shown] == [whole[0].lineno]


def test_the_excepthook_is_put_on_once_and_taken_off(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.excepthook
    install_excepthook()
    install_excepthook()
    try:
        dumps([LOCK])
    except TypeError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        uninstall_excepthook()
    assert sys.excepthook is before
    text = capsys.readouterr().err
    assert "_serialize" not in text
    assert "dumps([LOCK])" in text


def test_another_librarys_excepthook_that_is_put_on_top_and_stays_is_called_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    monkeypatch.setattr(sys, "excepthook", lambda *_: calls.append("first"))
    install_excepthook()
    ours = sys.excepthook

    def on_top(*told: Any) -> None:
        calls.append("on top")
        ours(*told)

    monkeypatch.setattr(sys, "excepthook", on_top)
    uninstall_excepthook()  # it is not on top
    install_excepthook()
    sys.excepthook(ValueError, ValueError("no"), None)
    assert calls == ["on top", "first"]
    uninstall_excepthook()
    assert sys.excepthook is on_top


THREE_TASKS = """
import os, sys
from weft._serialize import dumps, install_excepthook, pack_failure, unpack_failure

# What the engine does, in the simplest way: a task is a fork, and its failure comes through a pipe.
def get(function, *args):
    namespace = {"__name__": "weft.fake", "os": os, "pack": pack_failure, "unpack": unpack_failure}
    exec(compile('''
def get(function, *args):
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            function(*args)
        except BaseException as error:
            os.write(into, pack(error, task=function.__name__))
        os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as file:
        data = file.read()
    os.waitpid(pid, 0)
    raise unpack(data)
''', "weft/fake.py", "exec"), namespace)
    return namespace["get"]
get = get(None)

class Missing(LookupError):
    def __init__(self, name, *, where):
        super().__init__(f"{name} is not in {where}")
        self.where = where

dumps(Missing("", where=""))  # as if the tasks' code had come from here

def inner(names):
    row = names[0]
    return look_up(row)

def look_up(name):
    raise Missing(name, where="table")

def middle(names):
    rows = list(names)
    return get(inner, rows)

def outer():
    return get(middle, ["a"])

HOOK
try:
    get(outer)
except LookupError as error:
    assert error.where == "table" and type(error.cause) is Missing, error
    assert error.task == "inner" and len(error.hops) == 3
value = get(outer)
"""


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["", "install_excepthook()"], ids=["plain", "hook"])
def test_one_error_through_three_tasks_prints_at_most_15_lines(
    hook: str, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "program.py"
    file.write_text(THREE_TASKS.replace("HOOK", hook))
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, check=False)
    lines = done.stderr.splitlines()
    assert len(lines) <= 15, done.stderr
    assert "weft.exceptions.TaskError(Missing): a is not in table" in lines
    assert ("weft/fake.py" in done.stderr) == (not hook)
    assert "_serialize" not in done.stderr
    story = done.stderr[done.stderr.index("  in task outer()") :].splitlines()
    assert [line.split(" pid")[0] for line in story if "  in task" in line] == [
        "  in task outer()", "  in task middle()", "  in task inner()",
    ]  # fmt: skip
    assert story[-1].endswith('in look_up: raise Missing(name, where="table")')
    assert any(line.endswith("in middle: return get(inner, rows)") for line in story)


def test_error_that_is_too_long_is_shortened_and_says_so() -> None:
    try:
        _raise(ValueError("\N{SNOWMAN}" * 100_000, "short"))
    except ValueError as raised:
        whole = pack_short_failure(raised, 10**7, task="f")
        packed = pack_short_failure(raised, 100_000, task="f")
        with pytest.raises(ValueError, match="short"):
            raise unpack_failure(whole) from None
    assert len(packed) < 100_000
    error = unpack_failure(packed)
    assert isinstance(error, TaskError)
    assert isinstance(error.cause, StandInError)
    assert error.cause.type_name == "ValueError"
    assert "\N{SNOWMAN}" * 1000 in str(error)
    assert "at most 100000 are kept" in "".join(error.__notes__)
