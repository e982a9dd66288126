"""Every exception that a caller of Weft can catch, in one tree under WeftError.

    the caller is wrong    UsageError: OptionError ArgumentError SessionError PicklingError ...
    user code failed       TaskError, an instance of the user's own class too
    something was lost     WorkerDiedError NodeDiedError ObjectLostError OwnerDiedError
                           ActorError: ActorDiedError ActorUnavailableError (it may come back)
    no room, no place      StoreFullError OutOfMemoryError UnschedulableError EnvSetupError
    time                   GetTimeoutError TaskCancelledError TaskTimeoutError
    the peer is wrong      ProtocolError
    the bug is Weft's      InternalError

The other names are those that users of Ray look for: aliases, or thin subclasses where somebody
could want to catch one alone.

What is always true
1. The message is one line: what, which id, why, what next. Attributes hold the facts.
2. Every error survives pickling with its class, arguments, notes and attributes.
3. A TaskError never is an instance of a class that steers the interpreter: SystemExit,
   KeyboardInterrupt, StopIteration and the like stay inside, as `cause`.

It is one file, since a reader looks for an exception in one place. What the classes need is beside
it: `_error_parts.py` (how errors travel), `_dual_errors.py` (how a TaskError becomes an instance of
the user's class), `_stories.py` (how its way is told), `_exits.py` (how a process's end is told).
"""

from __future__ import annotations

from pickle import PicklingError as _PicklePicklingError
from typing import TYPE_CHECKING, Any, Self

import msgspec

from weft._dual_errors import Dual, attributes, make, restore
from weft._error_parts import fold, put_together, safe_repr, safe_str, take_apart, type_name
from weft._exits import amount, describe_exit, signal_name
from weft._override import override
from weft._stories import Facts, Hop, story

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weft._ids import ActorId, TaskId

__all__ = [
    "ActorAlreadyExistsError",
    "ActorClassInheritanceException",
    "ActorDiedError",
    "ActorError",
    "ActorHandleNotFoundError",
    "ActorPlacementGroupRemoved",
    "ActorUnavailableError",
    "ActorUnschedulableError",
    "ArgumentError",
    "AsyncioActorExit",
    "AuthenticationError",
    "CrossLanguageError",
    "DaemonDiedError",
    "EnvSetupError",
    "GetTimeoutError",
    "InternalError",
    "LocalRayletDiedError",
    "NodeDiedError",
    "ObjectFetchTimedOutError",
    "ObjectFreedError",
    "ObjectLostError",
    "ObjectReconstructionFailedError",
    "ObjectRefStreamEndOfStreamError",
    "ObjectStoreFullError",
    "OptionError",
    "OtherPythonError",
    "OufOfBandObjectRefSerializationException",
    "OutOfDiskError",
    "OutOfMemoryError",
    "OwnerDiedError",
    "PendingCallsLimitExceeded",
    "PicklingError",
    "PlasmaObjectNotAvailable",
    "ProtocolError",
    "RayError",
    "ReferenceCountingAssertionError",
    "RpcError",
    "RuntimeEnvSetupError",
    "SessionError",
    "StandInError",
    "StoreFullError",
    "StreamingGeneratorReplayInconsistentError",
    "TaskCancelledError",
    "TaskError",
    "TaskPlacementGroupRemoved",
    "TaskTimeoutError",
    "TaskUnschedulableError",
    "UnschedulableError",
    "UnserializableException",
    "UsageError",
    "UserCodeException",
    "WeftError",
    "WeftSystemError",
    "WorkerCrashedError",
    "WorkerDiedError",
]


class WeftError(Exception):
    """The root of the tree: everything that Weft raises of its own is a WeftError."""

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        cls, args, slots, state = take_apart(self)
        return put_together, (cls, args, slots, {name: fold(state[name]) for name in state})


class _WordedError(WeftError):
    """Takes its message as its argument; without one it says what its class says."""

    _says = ""

    def __init__(self, error_message: str = "") -> None:
        super().__init__(error_message or self._says)
        self.error_message = error_message or self._says


def _line(*words: object) -> str:
    """Join the words of a message; what is not known is left out."""
    return " ".join(str(word) for word in words if word)


# ------------------------------------------------------------------ the caller is wrong


class UsageError(WeftError):
    """The program asked for something that cannot be. Nothing was started; change the call."""


class OptionError(UsageError, ValueError):
    """An option has no such value, or does not go with another. Nothing was started."""


class ArgumentError(UsageError, TypeError):
    """A call does not fit the signature of what it calls. Nothing was sent."""


class SessionError(UsageError, RuntimeError):
    """There is no session, or one too many: call `weft.init()` or `weft.shutdown()` first."""


class PicklingError(UsageError, TypeError, _PicklePicklingError):
    """A value cannot travel to another process. Nothing was sent.

    The message names the path to the part that is to blame. Make that part inside the task, leave
    it out in `__getstate__`, or give its class a serializer (`weft.util.register_serializer`).

    Attributes:
        path: The way from the value to the part, as one would write it in Python.
        offender: The part itself; None after the error has travelled.
        reason: Why it cannot be pickled.
    """

    def __init__(
        self, message: str = "", *, path: str = "", offender: object = None, reason: str = ""
    ) -> None:
        super().__init__(message or f"{path}: {reason}")
        self.path = path
        self.offender = offender
        self.reason = reason or message

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        cls, args, slots, state = take_apart(self)
        return put_together, (cls, args, slots, {**state, "offender": None})


class ActorAlreadyExistsError(_WordedError, UsageError, ValueError):
    """The name is taken. Nothing was started; use `get_if_exists=True` or another name."""

    _says = "an actor of this name exists already"


class ActorHandleNotFoundError(_WordedError, UsageError, ValueError):
    """The handle belongs to another session. Nothing was sent; look the actor up by its name."""

    _says = "the session knows no such actor"


class ActorClassInheritanceException(UsageError, TypeError):  # noqa: N818 - Ray's name
    """A remote class was subclassed. Subclass the plain class and make the result remote."""


class PendingCallsLimitExceeded(UsageError, RuntimeError):  # noqa: N818 - Ray's name
    """The actor has `max_pending_calls` calls waiting. This one was not sent; call again later."""


class CrossLanguageError(UsageError):
    """A call to or from another language failed.

    Attributes:
        ray_exception: The error as the other side described it.
    """

    def __init__(self, ray_exception: object = None) -> None:
        super().__init__(f"a call across languages failed: {ray_exception}")
        self.ray_exception = ray_exception


# ------------------------------------------------------------------ user code failed


class TaskError(WeftError):
    """User code failed inside a task or an actor's method.

    What `get` raises is also an instance of the class that the user's code raised, with the same
    arguments, attributes and `str()`, so `except ValueError` works. A note tells the way through
    nested tasks, user frames only. The task has ended; it was retried only if its options say so.

    Attributes:
        cause: The user's exception as it was raised; a StandInError if it could not travel.
        task: Name of the innermost task, where the error was raised.
        node: The node it ran on; empty for this machine.
        attempts: How many times the task was run.
        pid: Process that ran it.
        hops: The tasks the error went through, outermost first.
        traceback_str: The whole traceback as Python prints it, made where the error was raised.
    """

    _facts: Facts
    cause: BaseException | None
    task: str
    function_name: str
    node: str
    attempts: int
    pid: int | None
    ip: str | None
    proctitle: str | None
    actor_repr: str | None
    actor_id: str | None
    hops: tuple[Hop, ...]
    traceback_str: str

    def __init__(
        self,
        function_name: str = "",
        traceback_str: str = "",
        cause: BaseException | None = None,
        proctitle: str | None = None,
        pid: int | None = None,
        ip: str | None = None,
        actor_repr: str | None = None,
        actor_id: str | None = None,
        *,
        node: str = "",
        attempts: int = 1,
        hops: Sequence[Hop] = (),
    ) -> None:
        facts = Facts(
            function_name, node, attempts, pid, ip, proctitle, actor_repr, actor_id,
            type_name(cause) if cause is not None else "",
            safe_str(cause) if cause is not None else "",
            traceback_str, tuple(hops), tuple(getattr(cause, "__notes__", ())),
        )  # fmt: skip
        super().__init__(function_name)
        self.__dict__.update(attributes(facts, cause, {}))

    @override
    def __str__(self) -> str:
        facts = self._facts
        if isinstance(self, Dual):
            return facts.message
        if facts.type_name:
            return f"{facts.type_name}: {facts.message}" if facts.message else facts.type_name
        return f"task {facts.task or 'of unknown name'} failed"

    @override
    def __repr__(self) -> str:
        if isinstance(self, Dual):
            return f"TaskError({safe_repr(self.cause)})"
        return f"TaskError({str(self)!r})"

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        own = {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("_facts", "cause", "__notes__")
        }
        notes = tuple(note for note in self.__notes__ if note != story(self._facts.hops))
        facts = msgspec.structs.replace(self._facts, notes=notes)
        return restore, (TaskError, facts, fold(self.cause), own, isinstance(self, Dual))

    def as_instanceof_cause(self) -> TaskError:
        """Return this error as an instance of its cause's class too, or itself if it cannot be."""
        try:
            return self.make_dual_exception_instance()
        except TypeError:
            return self

    def make_dual_exception_instance(self) -> TaskError:
        """Return this error as an instance of its cause's class too.

        Raises:
            TypeError: There is no cause, or its class admits no instance of this kind.
        """
        if isinstance(self, Dual):
            return self
        if self.cause is None:
            raise TypeError("there is no cause to be an instance of")
        return make(TaskError, self.cause, self._facts, dual=True)


def make_task_error(cause: BaseException, facts: Facts, *, dual: bool = True) -> TaskError:
    """Make the error that the caller of a task gets.

    Raises:
        TypeError: `dual` was asked for and cannot be.
    """
    return make(TaskError, cause, facts, dual=dual)


class StandInError(WeftError):
    """Stands for a user's exception that could not be pickled; found as `TaskError.cause`.

    Attributes:
        type_name: Name of the class that it stands for.
        repr: The exception's `repr()`.
        text: Its whole traceback, as Python prints it.
        reason: Why the exception itself did not travel.
    """

    def __init__(
        self,
        original_stack_trace: str = "",
        *,
        type_name: str = "",
        message: str = "",
        repr: str = "",
        reason: str = "",
    ) -> None:
        what = f"{type_name}: {message}" if message else type_name
        super().__init__(what or original_stack_trace)
        self.text = self.original_stack_trace = original_stack_trace
        self.type_name = type_name
        self.message = message
        self.repr = repr
        self.reason = reason


class TaskCancelledError(WeftError):
    """The task was cancelled: it did not start, was interrupted, or ended after the request.

    Attributes:
        task_id: The task's id, if known.
    """

    def __init__(
        self, task_id: TaskId | None = None, error_message: str | None = None, *, task: str = ""
    ) -> None:
        super().__init__(error_message or _line("task", task or task_id, "was cancelled"))
        self.task_id = task_id
        self.task = task
        self.error_message = error_message


class TaskTimeoutError(WeftError, TimeoutError):
    """The task ran longer than its option `timeout` allows, and was ended.

    Attributes:
        task: The task's name.
        timeout_s: What was allowed, in seconds.
    """

    def __init__(
        self, message: str = "", *, task: str = "", timeout_s: float | None = None
    ) -> None:
        super().__init__(
            message or f"task {task} ran longer than its timeout of {timeout_s} s and was ended"
        )
        self.task = task
        self.timeout_s = timeout_s


class GetTimeoutError(WeftError, TimeoutError):
    """Time was up before the value was there. The task goes on; `get` may be called again.

    Attributes:
        timeout_s: How long was waited, in seconds.
        waiting: How many of the values asked for were not there.
    """

    def __init__(
        self, message: str = "", *, timeout_s: float | None = None, waiting: int = 1
    ) -> None:
        values = "the value was" if waiting == 1 else f"{waiting} values were"
        super().__init__(
            message
            or f"{values} not there after {timeout_s} s; ask weft.why(ref) what it waits for"
        )
        self.timeout_s = timeout_s
        self.waiting = waiting


class ObjectRefStreamEndOfStreamError(WeftError):
    """The stream has no further value."""


class AsyncioActorExit(WeftError):  # noqa: N818 - Ray's name
    """Leaves a method of an actor that ends itself; do not catch it."""


# ------------------------------------------------------------------ something was lost


class WorkerDiedError(WeftError):
    """The process that ran a task has died. The task was retried as often as `max_retries` allows.

    Attributes:
        pid: The process.
        exit_code: Its exit code; negative for a signal's number; None if nobody saw it end.
        signal_name: `SIGKILL` and so on; empty if no signal ended it.
        kind: killed, memory, segfault, stack overflow, aborted, bus error, signal, exited, parent
            gone or ended.
        peak_bytes: Most resident memory it ever had; 0 if unknown.
        limit_bytes: The memory limit that applied; 0 if none is known.
        function: What it ran last.
        stderr: The last lines that it wrote.
        reason: Why Weft ended it, if Weft did.
        attempts: How many times the task was run.
    """

    def __init__(
        self,
        message: str = "",
        *,
        pid: int = 0,
        exit_code: int | None = None,
        peak_bytes: int = 0,
        limit_bytes: int = 0,
        function: str = "",
        stderr: str = "",
        reason: str = "",
        attempts: int = 1,
    ) -> None:
        self.pid = pid
        self.exit_code = exit_code
        self.signal_name = signal_name(exit_code)
        self.kind, words = describe_exit(
            exit_code, stderr=stderr, peak_bytes=peak_bytes, limit_bytes=limit_bytes, reason=reason
        )
        self.peak_bytes = peak_bytes
        self.limit_bytes = limit_bytes
        self.function = function
        self.stderr = stderr
        self.reason = reason
        self.attempts = attempts
        who = f"worker {pid}" if pid else "a worker"
        what = function and f"while it ran {function}"
        again = f"(attempt {attempts})" if attempts > 1 else ""
        super().__init__(message or f"{_line(who, 'died', what, again)}: {words}")
        tail = [line for line in stderr.splitlines() if line.strip()][-5:]
        if tail:
            self.add_note("\n".join(["  it wrote last:", *(f"    {line}" for line in tail)]))

    @classmethod
    def from_certificate(cls, **facts: Any) -> WorkerDiedError:
        """Return the error for a death certificate: OutOfMemoryError if memory ran out.

        Args:
            **facts: What the constructor takes.
        """
        error = WorkerDiedError(**facts)
        return OutOfMemoryError(**facts) if error.kind == "memory" else error


class OutOfMemoryError(WorkerDiedError, MemoryError):
    """A worker died because memory ran out, or was ended before it would have.

    Let the task do less at a time, give it `memory=...`, or run fewer at once. A task that alone
    took more than there is was not retried.
    """


class NodeDiedError(WeftError):
    """A node has left the cluster, or was not heard of for too long. What ran there is lost.

    Attributes:
        node_id: The node, if known.
        silent_s: How long it had not been heard when it was given up, in seconds.
    """

    def __init__(
        self, message: str = "", *, node_id: str = "", silent_s: float | None = None
    ) -> None:
        heard = f": last heard {silent_s:.1f} s before" if silent_s is not None else ""
        super().__init__(message or _line("node", node_id, f"died{heard}"))
        self.node_id = node_id
        self.silent_s = silent_s


class DaemonDiedError(NodeDiedError):
    """The node daemon of this process is gone, and the session too. Call `weft.init()` again."""


class ObjectLostError(WeftError):
    """A value is gone and could not be had again: no copy is left, and its task could not be rerun.

    Attributes:
        object_ref_hex: The object's id in hexadecimal.
        owner_address: Where its owner listens.
        call_site: File and line that made it, if recorded.
    """

    _what = "is lost: no copy is left, and its task cannot be run again"

    def __init__(
        self,
        object_ref_hex: str = "",
        owner_address: str = "",
        call_site: str = "",
        *,
        message: str = "",
    ) -> None:
        made = call_site and f"(made at {call_site})"
        super().__init__(message or _line("object", object_ref_hex, made, self._what))
        self.object_ref_hex = object_ref_hex
        self.owner_address = owner_address
        self.call_site = call_site


class ObjectReconstructionFailedError(ObjectLostError):
    """A value is gone, and running its task again failed or was not allowed.

    Attributes:
        reason: Which of the ways to get it back was tried and how it failed.
        reason_message: The same in words.
    """

    def __init__(
        self,
        object_ref_hex: str = "",
        reason: object = None,
        reason_message: str = "",
        owner_address: str = "",
        call_site: str = "",
    ) -> None:
        why = reason_message or ("its task cannot be run again" if reason is None else reason)
        message = _line("object", object_ref_hex, f"is lost: {why}")
        super().__init__(object_ref_hex, owner_address, call_site, message=message)
        self.reason = reason
        self.reason_message = reason_message


class OwnerDiedError(ObjectLostError):
    """The process that owned the value has died, and the value with it. Make it again.

    Attributes:
        why: How that is known, if not by the end of the process: its node died, say.
    """

    _what = "is lost: the process that owned it has died"

    def __init__(
        self,
        object_ref_hex: str = "",
        owner_address: str = "",
        call_site: str = "",
        *,
        why: str = "",
    ) -> None:
        made = call_site and f"(made at {call_site})"
        message = _line("object", object_ref_hex, made, self._what) + (why and f": {why}")
        super().__init__(object_ref_hex, owner_address, call_site, message=message)
        self.why = why


class ObjectFreedError(ObjectLostError):
    """The value was freed by hand (`weft.internal.free`) while somebody held a reference to it.

    It is not made again. Free what nobody will get, or make it anew.
    """

    _what = "was freed by hand: weft.internal.free lets go of what nobody will get again"


class ObjectFetchTimedOutError(ObjectLostError):
    """The value could not be fetched in time from any node that has it. `get` it again."""

    _what = "could not be fetched in time"


class ReferenceCountingAssertionError(ObjectLostError, AssertionError):
    """The owner no longer knows a value that is referred to: a bug of Weft's, please report."""

    _what = "is no longer known to its owner, although a reference exists"


class ActorError(WeftError):
    """A call of an actor failed because of the actor, not of the method.

    Attributes:
        actor_id: The actor, if known.
        error_msg: Why.
        actor_init_failed: Whether its constructor failed.
        preempted: Whether its node was taken away.
    """

    def __init__(
        self,
        actor_id: ActorId | str | None = None,
        error_msg: str = "the actor cannot be called",
        actor_init_failed: bool = False,
        preempted: bool = False,
    ) -> None:
        super().__init__(error_msg)
        self.actor_id = actor_id
        self.error_msg = error_msg
        self.actor_init_failed = actor_init_failed
        self.preempted = preempted


class ActorDiedError(ActorError):
    """The actor is dead and will not come back. Calls that it had not finished are lost.

    Attributes:
        cause: The error of its constructor, its worker's death, or None.
        class_name: The actor's class.
    """

    def __init__(
        self,
        cause: BaseException | str | None = None,
        *,
        actor_id: ActorId | str | None = None,
        class_name: str = "",
        actor_init_failed: bool = False,
        preempted: bool = False,
    ) -> None:
        which = _line("actor", class_name or actor_id)
        if actor_init_failed:
            which = f"the constructor of {which} failed and the actor"
        if isinstance(cause, BaseException):
            raised = cause.cause if isinstance(cause, TaskError) and cause.cause else cause
            kind = "" if isinstance(raised, WeftError) else f"{type_name(raised)}: "
            why = f": {kind}{safe_str(cause)}"
        else:
            why = f": {cause}" if cause else ""
        super().__init__(actor_id, f"{which} is dead{why}", actor_init_failed, preempted)
        self.cause = cause
        self.class_name = class_name
        if isinstance(cause, TaskError) and (told := story(cause.hops)):
            self.add_note(told)

    @classmethod
    def from_task_error(cls, task_error: TaskError) -> Self:
        """Return the error of an actor whose constructor failed with `task_error`."""
        return cls(task_error, actor_id=task_error.actor_id, actor_init_failed=True)


class ActorUnavailableError(ActorError):
    """The actor cannot be reached now; it may come back. The call may have run or not."""

    def __init__(
        self,
        error_message: str = "it cannot be reached",
        actor_id: ActorId | str | bytes | None = None,
    ) -> None:
        which = actor_id.hex() if isinstance(actor_id, bytes) else actor_id
        words = f"is unavailable: {error_message}; it may come back"
        super().__init__(which, _line("actor", which, words))
        self.error_message = error_message


# ------------------------------------------------------------------ no room, no place


class StoreFullError(WeftError):
    """There is no room for a value, in memory or on disk. It was not stored.

    Attributes:
        needed_bytes: The size that was asked for; 0 if unknown.
        holders: The largest holders of the room, each in a line.
    """

    def __init__(
        self, message: str = "", *, needed_bytes: int = 0, holders: Sequence[str] = ()
    ) -> None:
        most = f"; largest holders: {', '.join(holders)}" if holders else ""
        super().__init__(message or f"no room in the object store for {amount(needed_bytes)}{most}")
        self.needed_bytes = needed_bytes
        self.holders = tuple(holders)


class OutOfDiskError(StoreFullError):
    """The disk that takes what memory cannot hold is full. Free some room and try again."""


class UnschedulableError(_WordedError):
    """No node of the cluster can ever run this. It was not started; the message has the numbers."""

    _says = "no node can ever run this"


class TaskUnschedulableError(UnschedulableError):
    """No node of the cluster can ever run this task."""


class ActorUnschedulableError(UnschedulableError):
    """No node of the cluster can ever hold this actor."""


class TaskPlacementGroupRemoved(UnschedulableError):  # noqa: N818 - Ray's name
    """The placement group of the task was removed before it ran."""

    _says = "the task's placement group was removed"


class ActorPlacementGroupRemoved(UnschedulableError):  # noqa: N818 - Ray's name
    """The placement group of the actor was removed, and the actor with it."""

    _says = "the actor's placement group was removed"


class EnvSetupError(WeftError):
    """No worker can start in a runtime environment. Tasks that need it fail; nothing else does.

    Attributes:
        error_message: What the installer wrote last, or how the start of a worker in it failed.
    """

    def __init__(self, error_message: str = "") -> None:
        first, _, rest = error_message.strip().partition("\n")
        super().__init__(f"the runtime environment could not be built{first and f': {first}'}")
        self.error_message = error_message
        if rest:
            self.add_note(rest)


class OtherPythonError(WeftError, RuntimeError):
    """Code went by value to a process of another minor release of Python. It was not run.

    Functions and classes of `__main__`, lambdas and closures go by value. Those of a module that
    both processes can import go by name, and so does all data, whatever the release. Start the
    processes with the same minor release, or put the code into such a module.

    Attributes:
        name: The function that cannot be run.
        compiled_by: The release that it comes from, such as "3.12".
        run_by: The release of the process that was to run it.
    """

    def __init__(self, name: str = "", compiled_by: str = "", run_by: str = "") -> None:
        super().__init__(
            f"{name} comes by value from Python {compiled_by}, and this process runs Python "
            f"{run_by}: start all processes with the same minor release, or put {name} into a "
            "module that both can import"
        )
        self.name = name
        self.compiled_by = compiled_by
        self.run_by = run_by


# ------------------------------------------------------------------ the peer is wrong, or Weft is


class ProtocolError(WeftError):
    """The other side speaks another version, or no sense. The connection is closed."""


class AuthenticationError(ProtocolError):
    """The other side did not prove that it may connect. Check the join string."""

    def __init__(self, message: str = "the other side could not prove who it is") -> None:
        super().__init__(message)
        self.message = message


class RpcError(ProtocolError):
    """A request between processes of Weft failed.

    Attributes:
        rpc_code: The transport's own code.
    """

    def __init__(self, message: str = "", rpc_code: int | None = None) -> None:
        super().__init__(message)
        self.rpc_code = rpc_code


class InternalError(WeftError):
    """A bug of Weft's: please report it with the traceback and the notes.

    Attributes:
        client_exc: What happened: an exception or a sentence.
        traceback_str: The traceback of where it happened.
    """

    def __init__(
        self, client_exc: BaseException | str = "", traceback_str: str | None = None
    ) -> None:
        what = (
            f"{type_name(client_exc)}: {client_exc}"
            if isinstance(client_exc, BaseException)
            else client_exc or "something that cannot be"
        )
        super().__init__(f"{what}; this is a bug of Weft, please report it")
        self.client_exc = client_exc
        self.traceback_str = traceback_str


class StreamingGeneratorReplayInconsistentError(InternalError):
    """A generator task that ran again yielded other values, so its stream cannot go on."""


# ------------------------------------------------------------------ Ray's other names

RayError = WeftError
WeftSystemError = InternalError
WorkerCrashedError = WorkerDiedError
LocalRayletDiedError = DaemonDiedError
ObjectStoreFullError = StoreFullError
RuntimeEnvSetupError = EnvSetupError
UserCodeException = TaskError
UnserializableException = StandInError
PlasmaObjectNotAvailable = ObjectFetchTimedOutError
OufOfBandObjectRefSerializationException = PicklingError
