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

It is one file, and long, since a reader looks for an exception in one place.

Facts about exceptions and pickle. `BaseException.__reduce__` calls the class with `args` again,
which fails, or loses the type, when `__init__` takes something else; and it forgets what C code
keeps outside `__dict__` (OSError.filename, ImportError.name). So errors are taken apart and put
together here without calling `__init__`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pickle import PicklingError as _PicklePicklingError
from types import GetSetDescriptorType, MemberDescriptorType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from weft._lazy import lazy
from weft._override import override

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator, Sequence

    from weft._ids import ActorId, TaskId
else:
    signal = lazy("signal")

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

# ------------------------------------------------------------------ errors, taken apart

E = TypeVar("E", bound=BaseException)
_Parts = tuple[type[BaseException], tuple[Any, ...], dict[str, Any], dict[str, Any]]


def take_apart(error: BaseException) -> _Parts:
    """Return (class, args, values kept in slots or by C code, __dict__) of an error."""
    slots: dict[str, Any] = {}
    for cls in type(error).__mro__:
        if cls in (BaseException, Exception, object):
            continue
        for name, kept in vars(cls).items():
            if isinstance(kept, MemberDescriptorType | GetSetDescriptorType):
                value = getattr(error, name, None)
                # AttributeError keeps the object that lacked the attribute: that stays at home.
                if value is not None and not (cls is AttributeError and name == "obj"):
                    slots[name] = value
    slots.pop("__dict__", None)
    slots.pop("__weakref__", None)
    return type(error), error.args, slots, dict(error.__dict__)


def put_together(
    cls: type[E], args: tuple[Any, ...], slots: dict[str, Any], state: dict[str, Any]
) -> E:
    """Make an error of its parts; neither its `__init__` nor its own `__new__` is called."""
    # Only the `__new__` of the base whose layout the class has may be called.
    built_in: Any = cls
    while built_in.__module__ != "builtins":
        built_in = built_in.__base__
    try:
        error: E = built_in.__new__(cls, *args)
    except TypeError:  # a base written in C has a `__new__` of its own
        error = cls.__new__(cls, *args)
    error.args = args
    for name, value in slots.items():
        try:
            setattr(error, name, value)
        except (AttributeError, TypeError):  # read-only, and set by `__new__`
            continue
    error.__dict__.update(state)
    return error


def reduces_by_default(error: BaseException) -> bool:
    """Tell whether the class leaves its pickling to Python, so that it may be taken apart."""
    cls = type(error)
    own = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs_ex__")
    for base in cls.__mro__:
        if base.__module__ == "builtins":
            return True
        if not base.__dict__.keys().isdisjoint(own):
            return False
    return True


class WeftError(Exception):
    """The root of the tree: everything that Weft raises of its own is a WeftError."""

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return put_together, take_apart(self)


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


class ActorAlreadyExistsError(UsageError, ValueError):
    """The name is taken. Nothing was started; use `get_if_exists=True` or another name."""

    def __init__(self, error_message: str = "an actor of this name exists already") -> None:
        super().__init__(error_message)
        self.error_message = error_message


class ActorHandleNotFoundError(UsageError, ValueError):
    """The handle belongs to another session. Nothing was sent; look the actor up by its name."""

    def __init__(self, error_message: str = "the session knows no such actor") -> None:
        super().__init__(error_message)
        self.error_message = error_message


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

STORY_LINES = 8
"""How many lines the story of an error takes at most, so that three nested tasks print in 15."""

SHORT_STORY_LINES = 16
"""The same for one or two tasks, which leave more room."""

KEPT_HOPS = 20


class SourceLine(msgspec.Struct, frozen=True, array_like=True):
    """One line of user code that was running when an error was raised."""

    file: str
    line: int
    function: str
    source: str = ""

    @override
    def __str__(self) -> str:
        place = f"{self.file}:{self.line} in {self.function}"
        return f"{place}: {self.source}" if self.source else place


class Hop(msgspec.Struct, frozen=True, array_like=True):
    """One task through which an error went."""

    title: str
    """`task f() pid 12`."""
    frames: tuple[SourceLine, ...] = ()
    because: tuple[str, ...] = ()
    """One line for each error that led to this one."""
    left_out: int = 0
    """Stands for so many tasks between its neighbours."""


class Facts(msgspec.Struct, frozen=True):
    """What a TaskError knows apart from its cause."""

    task: str = ""
    node: str = ""
    attempts: int = 1
    pid: int | None = None
    ip: str | None = None
    proctitle: str | None = None
    actor_repr: str | None = None
    actor_id: str | None = None
    type_name: str = ""
    message: str = ""
    traceback_str: str = ""
    hops: tuple[Hop, ...] = ()
    notes: tuple[str, ...] = ()
    """What user code added with `add_note`."""


# An instance of these would end the program, a loop or an awaiting coroutine instead of failing it.
_STEERING = (StopIteration, StopAsyncIteration)


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
        self.__dict__.update(_state(facts, cause, {}))

    @override
    def __str__(self) -> str:
        facts = self._facts
        if isinstance(self, _Dual):
            return facts.message
        if facts.type_name:
            return f"{facts.type_name}: {facts.message}" if facts.message else facts.type_name
        return f"task {facts.task or 'of unknown name'} failed"

    @override
    def __repr__(self) -> str:
        if isinstance(self, _Dual):
            return f"TaskError({safe_repr(self.cause)})"
        return f"TaskError({str(self)!r})"

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        cause = self.cause
        parts = cause
        is_apart = cause is not None and reduces_by_default(cause)
        if cause is not None and is_apart:
            parts = take_apart(cause)  # type: ignore[assignment]  # told apart by `is_apart`
        own = {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("_facts", "cause", "__notes__")
        }
        notes = tuple(note for note in self.__notes__ if note != story(self._facts.hops))
        facts = msgspec.structs.replace(self._facts, notes=notes)
        return _restore, (facts, is_apart, parts, own, isinstance(self, _Dual))

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
        if isinstance(self, _Dual):
            return self
        if self.cause is None:
            raise TypeError("there is no cause to be an instance of")
        return make_task_error(self.cause, self._facts, dual=True)


class _Dual:
    """Marks the classes made by `_dual_class`."""

    __slots__ = ()


@lru_cache(maxsize=512)
def _dual_class(cls: Any) -> type[TaskError]:
    """Return a class that is TaskError and `cls`; TypeError if there can be none."""
    if not issubclass(cls, Exception):
        raise TypeError(f"{cls.__name__} steers the interpreter")
    if issubclass(cls, _STEERING):
        raise TypeError(f"{cls.__name__} would end a loop")
    if issubclass(cls, TaskError):
        raise TypeError(f"{cls.__name__} is a TaskError already")
    name = f"TaskError({cls.__name__})"
    try:
        return type(name, (TaskError, cls, _Dual), {"__module__": __name__, "__doc__": cls.__doc__})
    except Exception as error:
        raise TypeError(f"{cls.__name__} admits no subclass: {error}") from error


def make_task_error(cause: BaseException, facts: Facts, *, dual: bool = True) -> TaskError:
    """Make the error that the caller of a task gets.

    Raises:
        TypeError: `dual` was asked for and cannot be.
    """
    _, args, slots, state = take_apart(cause)
    if not dual:
        args, slots, state = (facts.task,), {}, {}
    kind: Any = type(cause)
    cls = _dual_class(kind) if dual else TaskError
    return put_together(cls, args, slots, _state(facts, cause, state))


def _state(facts: Facts, cause: BaseException | None, user: dict[str, Any]) -> dict[str, Any]:
    """Return a TaskError's `__dict__`: the user's attributes win, apart from `cause`."""
    told = story(facts.hops)
    return {
        "task": facts.task,
        "function_name": facts.task,
        "node": facts.node,
        "attempts": facts.attempts,
        "pid": facts.pid,
        "ip": facts.ip,
        "proctitle": facts.proctitle,
        "actor_repr": facts.actor_repr,
        "actor_id": facts.actor_id,
        "hops": facts.hops,
        "traceback_str": facts.traceback_str,
        **user,
        "cause": cause,
        "_facts": facts,
        "__notes__": [*facts.notes, told] if told else list(facts.notes),
    }


def _restore(
    facts: Facts, is_apart: bool, parts: Any, own: dict[str, Any], dual: bool
) -> TaskError:
    cause = put_together(*parts) if is_apart else parts
    error = make_task_error(cause, facts) if dual else TaskError(facts.task)
    error.__dict__.update(_state(facts, cause, own))
    return error


def story(hops: Sequence[Hop]) -> str:
    """Return the way of an error through its tasks, outermost first.

    Every task keeps its last frame; what room is left goes to the innermost one.
    """
    shown = list(hops)
    if len(shown) > 3:
        left_out = sum(hop.left_out or 1 for hop in shown[1:-2])
        shown = [shown[0], Hop("", left_out=left_out), *shown[-2:]]
    most = SHORT_STORY_LINES if len(shown) < 3 else STORY_LINES
    room = most - sum(1 if hop.left_out else 2 for hop in shown)
    lines: list[str] = []
    for hop in reversed(shown):
        if hop.left_out:
            lines.append(f"  ... {hop.left_out} more tasks")
            continue
        because = [f"    {line}" for line in hop.because[: max(0, room)]]
        room -= len(because)
        frames = [f"    {frame}" for frame in hop.frames]
        spare = len(frames) - 1
        if spare > room:
            # The first frame says how it began, the last ones what failed.
            hidden = f"    ... {len(frames) - max(0, room)} more frames"
            frames = [hidden, *frames[len(frames) - room :]] if room > 0 else frames[-1:]
            spare = max(0, room)
        room -= max(0, spare)
        lines += reversed([f"  in {hop.title}", *frames, *because])
    return "\n".join(reversed(lines))


def add_hop(hop: Hop, hops: Sequence[Hop]) -> tuple[Hop, ...]:
    """Return the way with one more task before it; the middle of a very long way is left out."""
    way = (hop, *hops)
    if len(way) <= KEPT_HOPS:
        return way
    half = KEPT_HOPS // 2
    middle = sum(each.left_out or 1 for each in way[half : -half + 1])
    return (*way[:half], Hop("", left_out=middle), *way[-half + 1 :])


def type_name(error: BaseException) -> str:
    """Return the class's name as a traceback prints it."""
    cls = type(error)
    if cls.__module__ in ("builtins", "__main__"):
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"


def safe_str(subject: object) -> str:
    """Return `str(subject)`, also when its `__str__` fails."""
    try:
        return str(subject)
    except Exception:  # noqa: BLE001 - user code; an error's text must not hide the error
        return f"<{type(subject).__name__} whose __str__ fails>"


def safe_repr(subject: object) -> str:
    """Return `repr(subject)`, also when its `__repr__` fails."""
    try:
        return repr(subject)
    except Exception:  # noqa: BLE001 - user code; an error's text must not hide the error
        return f"<{type(subject).__name__} whose __repr__ fails>"


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
        which = f"task {task or task_id or ''}".rstrip()
        super().__init__(error_message or f"{which} was cancelled")
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
        what = f" while it ran {function}" if function else ""
        again = f" (attempt {attempts})" if attempts > 1 else ""
        super().__init__(message or f"{who} died{what}{again}: {words}")
        tail = [line for line in stderr.splitlines() if line.strip()][-5:]
        if tail:
            self.add_note("\n".join(["  it wrote last:", *(f"    {line}" for line in tail)]))

    @classmethod
    def from_certificate(
        cls,
        *,
        pid: int = 0,
        exit_code: int | None = None,
        peak_bytes: int = 0,
        limit_bytes: int = 0,
        function: str = "",
        stderr: str = "",
        reason: str = "",
        attempts: int = 1,
    ) -> WorkerDiedError:
        """Return the error for a death certificate: OutOfMemoryError if memory ran out."""
        kind, _ = describe_exit(
            exit_code, stderr=stderr, peak_bytes=peak_bytes, limit_bytes=limit_bytes, reason=reason
        )
        made = OutOfMemoryError if kind == "memory" else WorkerDiedError
        return made(
            pid=pid, exit_code=exit_code, peak_bytes=peak_bytes, limit_bytes=limit_bytes,
            function=function, stderr=stderr, reason=reason, attempts=attempts,
        )  # fmt: skip


class OutOfMemoryError(WorkerDiedError, MemoryError):
    """A worker died because memory ran out. Give the task `memory=...`, or run fewer at a time."""


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
        super().__init__(message or f"node {node_id} died{heard}".replace("  ", " "))
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
        made = f" (made at {call_site})" if call_site else ""
        super().__init__(
            message or f"object {object_ref_hex}{made} {self._what}".replace("  ", " ")
        )
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
        why = reason_message or (
            str(reason) if reason is not None else "its task cannot be run again"
        )
        message = f"object {object_ref_hex} is lost: {why}".replace("  ", " ")
        super().__init__(object_ref_hex, owner_address, call_site, message=message)
        self.reason = reason
        self.reason_message = reason_message


class OwnerDiedError(ObjectLostError):
    """The process that owned the value has died, and the value with it. Make it again."""

    _what = "is lost: the process that owned it has died"


class ObjectFreedError(ObjectLostError):
    """The value was freed by hand while somebody still held a reference to it."""

    _what = "was freed by hand"


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
        which = f"actor {class_name or actor_id or ''}".rstrip()
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

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        cls, args, slots, state = take_apart(self)
        if isinstance(self.cause, BaseException) and reduces_by_default(self.cause):
            state["cause"] = None
            return _restore_with_cause, ((cls, args, slots, state), take_apart(self.cause))
        return put_together, (cls, args, slots, state)


def _restore_with_cause(error: _Parts, cause: _Parts) -> BaseException:
    restored = put_together(*error)
    restored.__dict__["cause"] = put_together(*cause)
    return restored


class ActorUnavailableError(ActorError):
    """The actor cannot be reached now; it may come back. The call may have run or not."""

    def __init__(
        self,
        error_message: str = "it cannot be reached",
        actor_id: ActorId | str | bytes | None = None,
    ) -> None:
        which = actor_id.hex() if isinstance(actor_id, bytes) else actor_id
        super().__init__(
            which,
            f"actor {which or ''} is unavailable: {error_message}; it may come back".replace(
                "  ", " "
            ),
        )
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


class UnschedulableError(WeftError):
    """No node of the cluster can ever run this. It was not started; the message has the numbers."""

    def __init__(self, error_message: str = "no node can ever run this") -> None:
        super().__init__(error_message)
        self.error_message = error_message


class TaskUnschedulableError(UnschedulableError):
    """No node of the cluster can ever run this task."""


class ActorUnschedulableError(UnschedulableError):
    """No node of the cluster can ever hold this actor."""


class TaskPlacementGroupRemoved(UnschedulableError):  # noqa: N818 - Ray's name
    """The placement group of the task was removed before it ran."""

    def __init__(self, error_message: str = "the task's placement group was removed") -> None:
        super().__init__(error_message)


class ActorPlacementGroupRemoved(UnschedulableError):  # noqa: N818 - Ray's name
    """The placement group of the actor was removed, and the actor with it."""

    def __init__(self, error_message: str = "the actor's placement group was removed") -> None:
        super().__init__(error_message)


class EnvSetupError(WeftError):
    """A runtime environment could not be built. The tasks that need it fail; nothing else does.

    Attributes:
        error_message: The last lines of what the installer wrote.
    """

    def __init__(self, error_message: str = "") -> None:
        first, _, rest = error_message.strip().partition("\n")
        super().__init__(
            f"the runtime environment could not be built: {first}"
            if first
            else "the runtime environment could not be built"
        )
        self.error_message = error_message
        if rest:
            self.add_note(rest)


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
            else client_exc
        )
        super().__init__(
            f"{what or 'something that cannot be'}; this is a bug of Weft, please report it"
        )
        self.client_exc = client_exc
        self.traceback_str = traceback_str


class StreamingGeneratorReplayInconsistentError(InternalError):
    """A generator task that ran again yielded other values, so its stream cannot go on."""


# ------------------------------------------------------------------ how a process ended

# Plain strings: `re` compiles them at their first use, and keeps them.
_FRAME_LINE = r'^\s*File "(.+)", line (\d+)(?: in (.*))?$'
_NO_MEMORY = (
    r"MemoryError|bad_alloc|[Cc]annot allocate memory|[Oo]ut of memory"
    r"|memory allocation of \d+ bytes failed"
)
_FATAL = r"Fatal Python error|terminate called|[Aa]ssertion|what\(\):"
_NEAR_LIMIT = 0.9


def signal_name(exit_code: int | None) -> str:
    """Return the name of the signal that a negative exit code stands for, else nothing."""
    if exit_code is None or exit_code >= 0:
        return ""
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"


def describe_exit(
    exit_code: int | None,
    *,
    stderr: str = "",
    peak_bytes: int = 0,
    limit_bytes: int = 0,
    reason: str = "",
) -> tuple[str, str]:
    """Say how a process ended: (kind, words).

    Args:
        exit_code: As of `Popen.returncode`: negative for a signal. None if nobody saw the end.
        stderr: The last that the process wrote; faulthandler's report is recognised in it.
        peak_bytes: Most resident memory it ever had; 0 if unknown.
        limit_bytes: The memory limit that applied; 0 if there is none.
        reason: Why Weft ended it, if Weft did.

    Returns:
        One of the kinds that WorkerDiedError lists, and a clause without a full stop.
    """
    memory = _memory(peak_bytes, limit_bytes)
    if reason:
        kind = "memory" if reason.startswith("memory") else "ended"
        return kind, f"Weft ended it: {reason}{memory}"
    if exit_code is None:
        return "parent gone", "nobody saw how: the process that started it is gone"
    name = signal_name(exit_code)
    no_memory = _last(stderr, _NO_MEMORY)
    is_near = limit_bytes > 0 and peak_bytes >= _NEAR_LIMIT * limit_bytes
    match name:
        case "SIGKILL" if is_near or no_memory:
            return "memory", f"out of memory, killed by the system (SIGKILL){memory}"
        case "SIGKILL":
            return "killed", f"killed from outside (SIGKILL){memory}"
        case "SIGSEGV" | "SIGBUS" | "SIGABRT" if _is_overflow(stderr):
            return "stack overflow", f"stack overflow ({name}): recursion too deep{_where(stderr)}"
        case "SIGSEGV" | "SIGABRT" | "SIGBUS" if no_memory:
            return "memory", f"out of memory ({name}): {no_memory}{memory}"
        case "SIGSEGV":
            return "segfault", f"segmentation fault (SIGSEGV){_where(stderr)}"
        case "SIGABRT":
            fatal = _last(stderr, _FATAL)
            said = f": {fatal}" if fatal and not fatal.endswith("Aborted") else ""
            return "aborted", f"aborted (SIGABRT){said}{_where(stderr)}"
        case "SIGBUS":
            return "bus error", f"bus error (SIGBUS): often a full /dev/shm{_where(stderr)}"
        case "":
            if exit_code and no_memory:
                return "memory", f"out of memory: exit code {exit_code}, {no_memory}{memory}"
            if exit_code and "Traceback (most recent call last)" in stderr:
                return "exited", f"it left with exit code {exit_code}: {_last(stderr, '.')}"
            return "exited", f"it left with exit code {exit_code} (os._exit, or C code that exits)"
        case _:
            return "signal", f"ended by {name}{memory}"


def _memory(peak_bytes: int, limit_bytes: int) -> str:
    if not peak_bytes:
        return ""
    limit = f" of {amount(limit_bytes)} allowed" if limit_bytes else ""
    return f", memory at most {amount(peak_bytes)}{limit}"


def amount(size_bytes: int) -> str:
    """Return a number of bytes for a reader: `3.9 GiB`."""
    size = float(size_bytes)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _last(text: str, pattern: str) -> str:
    """Return the last line in which the pattern is found, shortened."""
    for line in reversed(text.splitlines()):
        if re.search(pattern, line):
            return line.strip()[:200]
    return ""


def _crash_frames(stderr: str) -> Iterator[re.Match[str]]:
    """Yield the frames that faulthandler printed for the thread that crashed, innermost first."""
    _, found, report = stderr.rpartition("Current thread ")
    for line in (report if found else stderr).splitlines()[1 if found else 0 :]:
        if frame := re.match(_FRAME_LINE, line):
            yield frame
        elif found and not line.strip():
            return


def _is_overflow(stderr: str) -> bool:
    if "stack overflow" in stderr or "Cannot recover from stack overflow" in stderr:
        return True
    # faulthandler prints the innermost hundred frames: few functions over and over recurse.
    functions = [(frame[1], frame[3]) for frame in _crash_frames(stderr)]
    return len(functions) >= 50 and len(set(functions)) <= len(functions) // 5


def _where(stderr: str) -> str:
    frame = next(_crash_frames(stderr), None)
    return f", in {frame[3] or '?'} at {frame[1]}:{frame[2]}" if frame else ""


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
