"""The tree of exceptions."""

from __future__ import annotations

import copy
import csv
import inspect
import pickle
from typing import Any

import pytest

from weft import exceptions
from weft._ids import ActorId, TaskId
from weft._serialize import dumps, pack_error, unpack, unpack_failure
from weft._stories import Hop
from weft.exceptions import (
    ActorDiedError,
    ActorError,
    ActorUnavailableError,
    CrossLanguageError,
    EnvSetupError,
    GetTimeoutError,
    InternalError,
    NodeDiedError,
    ObjectLostError,
    ObjectReconstructionFailedError,
    OtherPythonError,
    OutOfMemoryError,
    OwnerDiedError,
    StoreFullError,
    TaskCancelledError,
    TaskError,
    TaskTimeoutError,
    WeftError,
    WorkerDiedError,
)

TREE: list[Any] = sorted({getattr(exceptions, name) for name in exceptions.__all__}, key=str)

FILLED: list[WeftError] = [
    TaskError("f", "text", ValueError("x"), pid=3, actor_id="ab"),
    TaskError("f", "text", ValueError("x")).as_instanceof_cause(),
    TaskCancelledError(TaskId.from_random(), task="f"),
    TaskTimeoutError(task="f", timeout_s=2),
    GetTimeoutError(timeout_s=1.5, waiting=3),
    WorkerDiedError(pid=4, exit_code=-11, stderr="a\nb\n", function="f", attempts=2),
    OutOfMemoryError(pid=4, exit_code=-9, peak_bytes=10, limit_bytes=10),
    NodeDiedError(node_id="ab", silent_s=3.25),
    ObjectLostError("ab", "unix:x", "f.py:3"),
    OwnerDiedError("ab"),
    ObjectReconstructionFailedError("ab", "max_attempts", "it was run 3 times"),
    ActorError(ActorId.from_random(), "why", True, True),
    ActorDiedError(ValueError("x"), actor_id=ActorId.from_random(), actor_init_failed=True),
    ActorDiedError(WorkerDiedError(pid=3, exit_code=-9), class_name="Counter"),
    ActorUnavailableError("it restarts", ActorId.from_random()),
    StoreFullError(needed_bytes=5 << 30, holders=("a.py:3 4.0 GiB",)),
    EnvSetupError("pip failed\nno such package"),
    OtherPythonError("square", "3.12", "3.11"),
    InternalError(KeyError("x"), "text"),
]


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_class_is_in_the_tree_and_says_when_it_is_raised(kind: Any) -> None:
    assert issubclass(kind, WeftError)
    assert len(inspect.getdoc(kind) or "") > 20
    assert "__doc__" in vars(kind)
    error = kind()
    assert isinstance(error, Exception)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    "error",
    [kind() for kind in TREE] + [kind("some text") for kind in TREE] + FILLED,
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize(
    "again",
    [
        lambda error: pickle.loads(pickle.dumps(error)),
        lambda error: unpack(dumps(error).pack()),
        lambda error: unpack_failure(pack_error(error)),
        copy.copy,
    ],
    ids=["pickle", "weft", "failure", "copy"],
)
def test_every_error_survives_pickling(error: WeftError, again: Any) -> None:
    error.add_note("a note")
    error.own = [1]  # type: ignore[attr-defined]
    found = again(error)
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert found.args == error.args
    left, right = vars(found).copy(), vars(error).copy()
    for cause in (left.pop("cause", None), right.pop("cause", None)):
        assert cause is None or isinstance(cause, BaseException | str)
    for name in ("_facts", "client_exc"):
        assert (left.pop(name, None) is None) == (right.pop(name, None) is None)
    assert left == right


class TwoArgumentsOfItsOwnError(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code


@pytest.mark.parametrize(
    ("make", "attribute"),
    [
        (ActorDiedError, "cause"),
        (InternalError, "client_exc"),
        (CrossLanguageError, "ray_exception"),
    ],
)
def test_error_inside_an_error_travels_whatever_its_constructor_takes(
    make: Any, attribute: str
) -> None:
    error = make(TwoArgumentsOfItsOwnError(7, "broken"))
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        inside = getattr(again, attribute)
        assert type(inside) is TwoArgumentsOfItsOwnError
        assert (str(inside), inside.code) == ("broken (7)", 7)


def test_builtins_are_inherited_where_they_fit() -> None:
    assert issubclass(GetTimeoutError, TimeoutError)
    assert issubclass(TaskTimeoutError, TimeoutError)
    assert issubclass(OutOfMemoryError, MemoryError)
    assert issubclass(exceptions.OptionError, ValueError)
    assert issubclass(exceptions.SessionError, RuntimeError)
    assert issubclass(exceptions.PicklingError, pickle.PicklingError)


def test_names_end_in_error_but_for_those_of_ray() -> None:
    others = {kind.__name__ for kind in TREE if not kind.__name__.endswith("Error")}
    assert others == {
        "ActorClassInheritanceException",
        "ActorPlacementGroupRemoved",
        "AsyncioActorExit",
        "PendingCallsLimitExceeded",
        "TaskPlacementGroupRemoved",
    }


RAY = """\
ActorDiedError,cause
ActorUnavailableError,error_message actor_id
AuthenticationError,message
CrossLanguageError,ray_exception
ObjectFetchTimedOutError,object_ref_hex owner_address call_site
ObjectReconstructionFailedError,object_ref_hex reason reason_message owner_address call_site
ActorError,actor_id error_msg actor_init_failed preempted
WeftSystemError,client_exc traceback_str
TaskError,function_name traceback_str cause proctitle pid ip actor_repr actor_id
RuntimeEnvSetupError,error_message
TaskCancelledError,task_id error_message
UnserializableException,original_stack_trace
"""


@pytest.mark.parametrize("row", list(csv.reader(RAY.splitlines())), ids=lambda row: row[0])
def test_rays_parameters_are_accepted(row: list[str]) -> None:
    kind = getattr(exceptions, row[0])
    parameters = inspect.signature(kind).parameters
    assert list(parameters)[: len(row[1].split())] == row[1].split()
    if "message" in parameters or "error_message" in parameters:
        name = "message" if "message" in parameters else "error_message"
        assert "what happened" in str(kind(**{name: "what happened"}))


def test_messages_say_what_and_which_and_why() -> None:
    assert str(ObjectLostError("ab12", "unix:x", "f.py:3")) == (
        "object ab12 (made at f.py:3) is lost: no copy is left, and its task cannot be run again"
    )
    assert str(ActorDiedError("it was killed", class_name="Counter")) == (
        "actor Counter is dead: it was killed"
    )
    assert str(GetTimeoutError(timeout_s=2, waiting=3)) == (
        "3 values were not there after 2 s; ask weft.why(ref) what it waits for"
    )
    assert "5.0 GiB" in str(StoreFullError(needed_bytes=5 << 30))


def test_actor_error_of_a_constructor_tells_its_story() -> None:
    hops = [Hop("task A.__init__() pid 3", ())]
    cause = TaskError("A.__init__", "", ValueError("bad"), actor_id="ab", hops=hops)
    error = ActorDiedError.from_task_error(cause.as_instanceof_cause())
    assert error.actor_init_failed
    assert error.actor_id == "ab"
    assert isinstance(error.cause, ValueError)
    assert error.__notes__ == ["  in task A.__init__() pid 3"]
