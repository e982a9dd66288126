"""Errors across processes: what a task raised, as its caller gets it.

    worker    pack_failure(error, task="f", met=refs) -> bytes
    caller    unpack_failure(bytes) -> TaskError, to be raised

`pack_error` is for errors of Weft's own about a task, which arrive as they are.

An error that goes through several tasks stays one error: each task adds a Hop with its user
frames. What the caller gets is a TaskError and an instance of the first error's class.

What is always true
1. Neither function raises, whatever the user's exception does.
2. If the class of the exception travels, the caller's `except` finds it; arguments and attributes
   that do not travel are left out or replaced by their repr, and a note says so. Else a
   StandInError takes its place.
3. The chain of causes travels with the exception, for `cause.__cause__`; the story has a line for
   each.
4. Frames of Weft, of cloudpickle and of libraries are left out, apart from the one that raised.

References inside exceptions are noted in `met`. Whoever packs keeps them until the reader has
counted them; one that nobody keeps may be lost on arrival.
"""

from __future__ import annotations

import os
import pickle
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from weft._error_parts import (
    put_together,
    reduces_by_default,
    safe_repr,
    safe_str,
    take_apart,
    type_name,
)
from weft._lazy import lazy
from weft._override import override
from weft._serialize.pickling import dumps, unpack
from weft._stories import Facts, Hop, SourceLine, add_hop, story
from weft.exceptions import PicklingError, StandInError, TaskError, WeftError, make_task_error

if TYPE_CHECKING:
    import linecache
    import traceback
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType, TracebackType

    from weft._refs import ObjectRef
else:
    linecache = lazy("linecache")
    traceback = lazy("traceback")

TEXT_BYTES = 64 * 1024
CHAIN = 8
KEPT_FRAMES = 24


class _Link(msgspec.Struct, frozen=True, array_like=True):
    """One exception of a chain, the first of which is the error itself."""

    packed: bytes
    """Empty if it did not travel."""
    type_name: str
    message: str
    repr: str
    text: str
    reason: str = ""
    """What did not travel, and why."""
    is_context: bool = False
    """It was being handled when the one before it was raised; else it was named as its cause."""


# ------------------------------------------------------------------ packing


def pack_failure(
    error: BaseException,
    *,
    task: str,
    pid: int | None = None,
    node: str = "",
    attempts: int = 1,
    actor_repr: str | None = None,
    actor_id: str | None = None,
    ip: str | None = None,
    proctitle: str | None = None,
    met: list[ObjectRef[Any]] | None = None,
) -> bytes:
    """Serialize what a task raised. Call it in the process that ran the task.

    Args:
        error: What was raised, with its traceback.
        task: Name of the task: `f`, or `Counter.add`.
        pid: The process that ran it; this one if None.
        node: The node, if the reader should be told.
        attempts: How many times the task was run.
        actor_repr: The actor, if it was a method.
        actor_id: Its id in hexadecimal.
        ip: Address of the node.
        proctitle: Title of the process.
        met: Gets the references inside.
    """
    met = [] if met is None else met
    pid = os.getpid() if pid is None else pid
    kind = "actor" if actor_id or actor_repr else "task"
    where = f" on {node}" if node else ""
    again = f", attempt {attempts}" if attempts > 1 else ""
    title = f"{kind} {task}() pid {pid}{where}{again}"
    frames = user_frames(error.__traceback__)
    if isinstance(error, TaskError):
        before = error._facts
        notes = [note for note in getattr(error, "__notes__", ()) if note != story(before.hops)]
        facts = msgspec.structs.replace(
            before, hops=add_hop(Hop(title, frames), before.hops), notes=tuple(notes)
        )
        cause = error.cause
        links = _links(cause, facts.traceback_str, met) if cause is not None else ()
        return pickle.dumps((facts, links), 5)
    text = full_text(error)
    links = _links(error, text, met)
    hop = Hop(title, frames, tuple(_because(error)))
    notes = [safe_str(note) for note in getattr(error, "__notes__", None) or ()]
    if links[0].reason and links[0].packed:
        notes.append(f"  left behind: {links[0].reason}")
    facts = Facts(
        task, node, attempts, pid, ip, proctitle, actor_repr, actor_id,
        links[0].type_name, links[0].message, text, (hop,), tuple(notes),
    )  # fmt: skip
    return pickle.dumps((facts, links), 5)


def pack_short_failure(error: BaseException, most_bytes: int, *, task: str) -> bytes:
    """As pack_failure; in place of an error of more bytes a StandInError has its first words."""
    packed = pack_failure(error, task=task)
    if len(packed) <= most_bytes:
        return packed
    # What it says is in there some four times, and a character may take four bytes.
    words = safe_str(error)[: most_bytes // 32]
    reason = f"it takes {len(packed)} bytes, and at most {most_bytes} are kept"
    short = StandInError(type_name=type_name(error), message=words, reason=reason)
    short.add_note(f"  shortened: {reason}")
    return pack_failure(short.with_traceback(error.__traceback__), task=task)


def pack_error(error: BaseException, *, met: list[ObjectRef[Any]] | None = None) -> bytes:
    """Serialize an error that the caller is to get as it is, such as WorkerDiedError.

    `met` gets the references inside.
    """
    return pickle.dumps((None, _links(error, full_text(error), [] if met is None else met)), 5)


def _links(error: BaseException, text: str, met: list[ObjectRef[Any]]) -> tuple[_Link, ...]:
    links = []
    for each, is_context in _chain(error):
        packed, reason = _pack_one(each, met)
        links.append(
            _Link(
                packed,
                type_name(each),
                safe_str(each),
                safe_repr(each)[:TEXT_BYTES],
                text if each is error else "",
                reason,
                is_context,
            )
        )
    return tuple(links)


def _chain(error: BaseException) -> Iterator[tuple[BaseException, bool]]:
    """Yield the error and those that led to it, newest first: (error, is it a mere context)."""
    seen: set[int] = set()
    each: BaseException | None = error
    is_context = False
    while each is not None and id(each) not in seen and len(seen) < CHAIN:
        yield each, is_context
        seen.add(id(each))
        is_context = each.__cause__ is None
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


def _because(error: BaseException) -> Iterator[str]:
    for each, _ in list(_chain(error))[1:]:
        message = safe_str(each).partition("\n")[0]
        told = (
            type_name(each.cause) if isinstance(each, TaskError) and each.cause else type_name(each)
        )
        frames = user_frames(each.__traceback__)
        if isinstance(each, TaskError) and each.hops:
            frames = each.hops[-1].frames
        place = f", {frames[-1]}" if frames else ""
        yield f"because of {told}: {message}{place}"


def _pack_one(error: BaseException, met: list[ObjectRef[Any]]) -> tuple[bytes, str]:
    """Return an error's pickle, empty if not even its class travels, and what is missing in it."""
    is_default = reduces_by_default(error)
    try:
        serialized = dumps(error, name=type(error).__name__)
        packed = serialized.pack()
        # A `__reduce__` of the user's may write what cannot be read.
        if is_default or isinstance(unpack(packed), BaseException):
            met.extend(serialized.refs)
            return packed, ""
        reason = "its __reduce__ makes something else"
    except PicklingError as failure:
        reason = f"{failure.path}: {failure.reason}"
    except Exception as failure:  # noqa: BLE001 - user code that unpickles
        reason = f"its unpickling raised {type(failure).__name__}: {safe_str(failure)}"
    cls, args, slots, state = take_apart(error)
    kept_args = tuple(arg if _travels(arg) else safe_repr(arg) for arg in args)
    kept_slots = {name: value for name, value in slots.items() if _travels(value)}
    kept_state = {name: value for name, value in state.items() if _travels(value)}
    try:
        serialized = dumps(_Apart((cls, kept_args, kept_slots, kept_state)))
        packed = serialized.pack()
        if isinstance(unpack(packed), BaseException):
            met.extend(serialized.refs)
            return packed, reason
    except Exception:  # noqa: BLE001 - the class is at fault; the stand-in tells the first reason
        return b"", reason
    return b"", reason


class _Apart:
    """Pickles as an error of these parts."""

    __slots__ = ("_parts",)

    def __init__(self, parts: tuple[Any, ...]) -> None:
        self._parts = parts

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return put_together, self._parts


def _travels(value: Any) -> bool:
    try:
        unpack(dumps(value).pack())
    except Exception:  # noqa: BLE001 - the question is whether it does
        return False
    return True


def full_text(error: BaseException) -> str:
    """Return an error as a traceback shows it, the end of it if that is long."""
    try:
        return "".join(traceback.format_exception(error))[-TEXT_BYTES:]
    except Exception:  # noqa: BLE001 - the user's exception may break its own printing
        return f"{type_name(error)}: {safe_str(error)}"


# ------------------------------------------------------------------ unpacking


def unpack_failure(data: bytes) -> BaseException:
    """Make the error of its bytes: a TaskError, or for `pack_error` the error itself.

    Every call makes an error of its own, so that tracebacks of several `get` do not pile up in one.
    """
    facts, links = pickle.loads(data)  # noqa: S301 - from a worker of the session
    errors = [_load(link) for link in links]
    for number in range(len(errors) - 1):
        if links[number + 1].is_context:
            errors[number].__context__ = errors[number + 1]
        else:
            errors[number].__cause__ = errors[number + 1]
    cause = errors[0] if errors else None
    if facts is None:
        return cause if cause is not None else WeftError("an error that left no trace")
    facts = msgspec.structs.replace(facts, hops=tuple(_with_sources(hop) for hop in facts.hops))
    if cause is None:
        return put_task_error(facts)
    try:
        return make_task_error(cause, facts, dual=not isinstance(cause, StandInError))
    except TypeError:
        return make_task_error(cause, facts, dual=False)


def describe_failure(data: bytes) -> tuple[str, str]:
    """Return (type, message) of an error from its bytes. Runs no code of the user's."""
    facts, links = pickle.loads(data)  # noqa: S301 - from a worker of the session
    if links:
        return links[0].type_name.removeprefix("weft.exceptions."), links[0].message
    return ("TaskError", facts.traceback_str) if facts is not None else ("WeftError", "")


def put_task_error(facts: Facts) -> TaskError:
    """Make a TaskError without a cause."""
    error = TaskError(facts.task, facts.traceback_str, hops=facts.hops)
    error.__dict__["_facts"] = facts
    return error


def _load(link: _Link) -> BaseException:
    reason = link.reason
    if link.packed:
        try:
            error = unpack(link.packed)
            if isinstance(error, BaseException):
                return error
            reason = "it was unpickled as something else"
        except Exception as failure:  # noqa: BLE001 - user code, or a module that is missing here
            reason = f"it cannot be unpickled here: {type(failure).__name__}: {safe_str(failure)}"
    return StandInError(
        link.text, type_name=link.type_name, message=link.message, repr=link.repr, reason=reason
    )


def _with_sources(hop: Hop) -> Hop:
    """Fill in source lines that only this process knows, such as those of a notebook's cells."""
    if all(frame.source for frame in hop.frames):
        return hop
    frames = tuple(
        frame
        if frame.source
        else msgspec.structs.replace(frame, source=_source(frame.file, frame.line))
        for frame in hop.frames
    )
    return msgspec.structs.replace(hop, frames=frames)


# ------------------------------------------------------------------ tracebacks

_OURS = frozenset({"weft", "cloudpickle"})
_PACKAGE = __file__.removesuffix("_serialize/failures.py")
_LIBRARY = os.path.dirname(os.__file__)  # noqa: PTH120 - pathlib would be loaded for this alone


def user_frames(trace: TracebackType | None) -> tuple[SourceLine, ...]:
    """Return the frames of user code, outermost first, and the innermost one of a library."""
    found: list[tuple[FrameType, int, bool]] = []
    while trace is not None:
        frame = trace.tb_frame
        if not _is_ours(frame):
            found.append((frame, trace.tb_lineno, _is_library(frame)))
        trace = trace.tb_next
    last = len(found) - 1
    frames: list[SourceLine] = []
    repeats = 1
    for number, (frame, line, is_library) in enumerate(found):
        if is_library and number != last:
            continue
        code = frame.f_code
        made = SourceLine(code.co_filename, line, code.co_qualname.rpartition("<locals>.")[2])
        if frames and frames[-1] == made:
            repeats += 1
            continue
        _note_repeats(frames, repeats)
        repeats = 1
        frames.append(made)
    _note_repeats(frames, repeats)
    if len(frames) > KEPT_FRAMES:
        frames = [frames[0], *frames[1 - KEPT_FRAMES :]]
    return tuple(
        msgspec.structs.replace(frame, source=_source(frame.file, frame.line)) for frame in frames
    )


Site = tuple["CodeType | None", int, str]
"""A place in the user's code: (code, offset of the instruction in it, file and line in words)."""
NOWHERE: Site = (None, 0, "")


def calling_site() -> str:
    """Return file and line of the user's code that calls; empty if there is none."""
    return site_of(sys._getframe(1))[2]


def site_of(frame: FrameType) -> Site:
    """Return the place in the user's code where a frame is, or that has called it.

    The code is None where that is not in the frame itself: the next call may come from elsewhere.
    """
    if not _is_ours(frame):
        return frame.f_code, frame.f_lasti, f"{frame.f_code.co_filename}:{frame.f_lineno}"
    caller = frame.f_back
    while caller is not None and _is_ours(caller):
        caller = caller.f_back
    if caller is None:
        return NOWHERE
    return None, 0, f"{caller.f_code.co_filename}:{caller.f_lineno}"


def _note_repeats(frames: list[SourceLine], repeats: int) -> None:
    if repeats > 1:
        frame = frames[-1]
        frames[-1] = SourceLine(frame.file, frame.line, f"{frame.function} ({repeats} times)")


def _is_ours(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__")
    if name == "__main__":
        # A process of a node begins in a file of ours.
        return frame.f_code.co_filename.startswith(_PACKAGE)
    return isinstance(name, str) and name.partition(".")[0] in _OURS


def _is_library(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return file.startswith((_LIBRARY, "<frozen ")) or "site-packages" in file


def _source(file: str, line: int) -> str:
    try:
        return linecache.getline(file, line).strip()
    except Exception:  # noqa: BLE001 - a loader of the user's may fail; the line is a courtesy
        return ""


def user_traceback(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without Weft's own frames."""
    kept: list[TracebackType] = []
    while trace is not None:
        if not _is_ours(trace.tb_frame):
            kept.append(trace)
        trace = trace.tb_next
    rest: TracebackType | None = None
    for each in reversed(kept):
        rest = type(each)(rest, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return rest


class UncaughtErrors:
    """An excepthook that prints a WeftError, or Ctrl-C, without Weft's own frames.

    Each knows the hook that was there before it. Another library may put its own on top and keep
    it: the next one stands on that, and none is called twice.
    """

    def __init__(self, previous: Callable[..., Any]) -> None:
        self.previous = previous

    def __call__(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        is_told = isinstance(error, WeftError | KeyboardInterrupt)
        if is_told and (shorter := user_traceback(trace)) is not None:
            trace = shorter
            error.__traceback__ = shorter
        self.previous(kind, error, trace)


def install_excepthook() -> None:
    """Let an uncaught WeftError, or Ctrl-C, print without Weft's own frames. Idempotent."""
    if not isinstance(sys.excepthook, UncaughtErrors):
        sys.excepthook = UncaughtErrors(sys.excepthook)


def uninstall_excepthook() -> None:
    """Undo `install_excepthook`, unless somebody else has put a hook on top of it."""
    if isinstance(sys.excepthook, UncaughtErrors):
        sys.excepthook = sys.excepthook.previous
