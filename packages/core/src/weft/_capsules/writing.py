"""Leaves a capsule: gathers what a failure needs to be seen again, and writes it as one file.

What is always true
1. A capsule appears under its name when it is whole.
2. It is no larger than its limit, whatever the code, the arguments and the texts are. The code goes
   in before the arguments, and of those the small ones before the large ones; what has no room is
   described and left out.
3. No value of a variable with a secret name is in its texts, nor a password of a URL. Arguments and
   code are kept as they are.
4. Nothing of the call's is changed, and no reference is counted or waited for.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import os
import platform
import re
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from weft._capsules import facts
from weft._capsules.pieces import describe, fingerprint, hashed, references_in, take_apart
from weft._capsules.records import (
    FORMAT,
    SUFFIX,
    Died,
    GivenArguments,
    Kind,
    Manifest,
    Piece,
    Raised,
    to_json,
)
from weft._capsules.secrets import Redaction
from weft._error_parts import safe_str, type_name
from weft._serialize.failures import full_text, user_frames
from weft._serialize.pickling import Memory, Serialized, dumps
from weft.exceptions import TaskError

# `inspect.getsource` compiles large patterns when it is first used: the template does that here, so
# that no failure waits for it.
inspect.getblock(["pass\n"])

# Of each text, and no more than an eighth of the limit.
TEXT_BYTES = 64 * 1024
# Of an exception's message.
MESSAGE_CHARACTERS = 2000
# What a member costs besides its contents: its headers and a record in the manifest.
_MEMBER_BYTES = 600


class Packed(msgspec.Struct, frozen=True):
    """A call's arguments, as they were sent."""

    data: Memory | None = b""
    """Packed (args, kwargs); empty for none. None: they cannot be read any more."""
    pieces: Sequence[Memory | None] = ()
    """The packed values of what stands in it as placeholders; None: it cannot be read any more."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a task that failed, as the process knows it that leaves the capsule."""

    kind: Kind
    name: str
    function: str
    method: str = ""
    task_id: bytes
    number: int
    """Counted from one."""
    pid: int
    code: Memory
    call: Packed
    constructor: Packed | None = None
    actor_id: bytes = b""
    actor_name: str = ""
    namespace: str = ""
    num_returns: int | str = 1
    is_async: bool = False
    timeout_s: float = 0
    is_late: bool = False
    duration_s: float | None = None
    resources: dict[str, int] = {}
    runtime_env: str = ""
    error: BaseException | None = None
    died: Died | None = None
    log: str = ""
    random: facts.RandomStates = {}
    source: Callable[..., Any] | None = None
    """The function, if it is at hand, for its text."""
    variables: Mapping[str, str]
    """The environment that it ran in."""


class Directory:
    """Where capsules are left."""

    def __init__(
        self, path: str, *, most_bytes: int, kept: int, placeholder: Callable[[int], Any]
    ) -> None:
        """`placeholder(index)` stands in pickled arguments for a piece."""
        self._path = Path(path)
        self._most_bytes = most_bytes
        self._kept = kept
        self._placeholder = placeholder

    def is_full(self) -> bool:
        """Tell whether there are as many capsules as are kept. Makes the directory."""
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = os.listdir(self._path)  # noqa: PTH208 - names are enough
        return sum(name.endswith(SUFFIX) for name in names) >= self._kept

    def leave(
        self, attempt: Attempt, driver_pid: int, look_up: Callable[[bytes], Memory | None]
    ) -> Path:
        """Write a capsule and return its path.

        `look_up` returns the packed value of a reference, by id, if it is at hand. Whatever goes
        wrong is raised, and no file is left then.
        """
        redaction = Redaction(attempt.variables)
        members = _Members(min(TEXT_BYTES, self._most_bytes // 8))
        members.add_text("traceback.txt", redaction.text(_story(attempt)))
        members.add_text("log.txt", redaction.text(attempt.log))
        members.add_text("source.py", redaction.text(_source(attempt.source)))
        if attempt.random:
            members.add("random.pkl", dumps(attempt.random).pack())
        manifest = _manifest(attempt, driver_pid, redaction)
        room_bytes = self._most_bytes - members.size_bytes - len(to_json(manifest))
        values = _Values(members, room_bytes, self._placeholder)
        manifest = msgspec.structs.replace(
            manifest,
            code=values.put_code(attempt.code),
            call=values.put_call("args", attempt.call),
            constructor=attempt.constructor and values.put_call("init", attempt.constructor),
            references=values.put_references(look_up),
        )
        members.add("manifest.json", to_json(manifest))
        name = re.sub(r"[^\w.-]+", "_", attempt.name)[:60]
        path = self._path / f"{name}-{attempt.task_id.hex()[:24]}-{attempt.number}{SUFFIX}"
        members.write(path)
        return path


class _Members:
    """What the file is to hold."""

    def __init__(self, text_bytes: int) -> None:
        self._contents: dict[str, Memory] = {}
        self._text_bytes = text_bytes
        self.size_bytes = 0

    def add(self, name: str, content: Memory) -> None:
        self._contents[name] = content
        self.size_bytes += _MEMBER_BYTES + memoryview(content).nbytes

    def add_text(self, name: str, text: str) -> None:
        """Add the end of a text, unless it is empty."""
        if text:
            encoded = text[-self._text_bytes :].encode(errors="backslashreplace")
            self.add(name, encoded[-self._text_bytes :])

    def write(self, path: Path) -> None:
        unborn = path.with_name(f".{path.name}.{os.getpid()}")
        now = datetime.now(UTC).timetuple()[:6]
        # From the first byte on it is its owner's only.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            with (
                open(os.open(unborn, flags, 0o600), "wb") as file,  # noqa: PTH123 - a descriptor
                zipfile.ZipFile(file, "w") as archive,
            ):
                # What is read first stands first.
                for name in sorted(self._contents, key=_order):
                    archive.writestr(zipfile.ZipInfo(name, now), self._contents[name])
            unborn.rename(path)
        except BaseException:
            unborn.unlink(missing_ok=True)
            raise


def _order(name: str) -> tuple[bool, bool, str]:
    return name != "manifest.json", name.endswith(".pkl"), name


class _Values:
    """Puts values in, as far as there is room."""

    def __init__(
        self, members: _Members, room_bytes: int, placeholder: Callable[[int], Any]
    ) -> None:
        self._members = members
        self._room_bytes = room_bytes
        self._placeholder = placeholder
        self._kept: list[Memory] = []
        """What may hold references."""

    def put_code(self, code: Memory) -> Piece:
        if not code:
            return Piece(size_bytes=0)
        # What it is need not be said, and reading it would make functions and classes.
        return self._put("code.pkl", code, lambda: hashed(code))

    def put_call(self, stem: str, call: Packed) -> GivenArguments:
        """Put in a call's arguments: the small ones first."""
        data = call.data
        if data is None:
            return GivenArguments(packed=Piece(size_bytes=0))
        if not data:
            return GivenArguments()
        taken: list[tuple[Serialized, Any]] = []
        if not self._has_room(data):
            indices = itertools.count(len(call.pieces))
            with contextlib.suppress(Exception):  # user code that unpickles or pickles
                data, taken = take_apart(data, lambda: self._placeholder(next(indices)))
        packed = self._put(f"{stem}.pkl", data, partial(hashed, data))
        put: dict[int, Callable[[], Piece]] = {}
        size_of: dict[int, int] = {}
        for index, memory in enumerate(call.pieces):
            size_of[index] = 0 if memory is None else memoryview(memory).nbytes
            put[index] = partial(self._put_piece, f"{stem}-{index}.pkl", memory)
        for index, (serialized, value) in enumerate(taken, len(call.pieces)):
            size_of[index] = serialized.size_bytes
            put[index] = partial(self._put_taken, f"{stem}-{index}.pkl", serialized, value)
        made = {index: put[index]() for index in sorted(put, key=size_of.__getitem__)}
        return GivenArguments(packed=packed, pieces=[made[index] for index in sorted(made)])

    def put_references(self, look_up: Callable[[bytes], Memory | None]) -> dict[str, Piece]:
        """Put in the values of the references that lie inside what is kept, and inside those."""
        found: dict[str, Piece] = {}
        while self._kept:
            for object_id, _ in references_in(self._kept.pop()):
                key = object_id.hex()
                if key in found:
                    continue
                memory = look_up(object_id)
                if memory is not None:
                    found[key] = self._put_piece(f"ref-{key}.pkl", memory)
        return found

    def _put_piece(self, file: str, memory: Memory | None) -> Piece:
        if memory is None:
            return Piece(size_bytes=0)
        return self._put(file, memory, partial(describe, memory))

    def _put_taken(self, file: str, serialized: Serialized, value: Any) -> Piece:
        if serialized.size_bytes + _MEMBER_BYTES > self._room_bytes:
            self._room_bytes -= _MEMBER_BYTES
            return fingerprint(value, serialized)
        return self._put_piece(file, serialized.pack())

    def _put(self, file: str, memory: Memory, left_out: Callable[[], Piece]) -> Piece:
        size_bytes = memoryview(memory).nbytes
        if not self._has_room(memory):
            # There may be thousands of arguments: their descriptions take room too.
            self._room_bytes -= _MEMBER_BYTES
            return left_out() if self._room_bytes > 0 else Piece(size_bytes=size_bytes)
        self._room_bytes -= size_bytes + _MEMBER_BYTES
        self._members.add(file, memory)
        self._kept.append(memory)
        return Piece(size_bytes=size_bytes, file=file)

    def _has_room(self, memory: Memory) -> bool:
        return memoryview(memory).nbytes + _MEMBER_BYTES <= self._room_bytes


# ------------------------------------------------------------------ what is said of the failure


def _manifest(attempt: Attempt, driver_pid: int, redaction: Redaction) -> Manifest:
    """Return the manifest without the values."""
    error = attempt.error
    return Manifest(
        format=FORMAT,
        kind=attempt.kind,
        name=attempt.name,
        function=attempt.function,
        method=attempt.method,
        task_id=attempt.task_id.hex(),
        attempt=attempt.number,
        actor_id=attempt.actor_id.hex(),
        actor_name=attempt.actor_name,
        namespace=attempt.namespace,
        written_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        duration_s=attempt.duration_s,
        raised=None if error is None else _redacted(raised_of(error), redaction),
        died=attempt.died,
        is_late=attempt.is_late,
        timeout_s=attempt.timeout_s,
        code=Piece(size_bytes=0),
        call=GivenArguments(),
        num_returns=attempt.num_returns,
        is_async=attempt.is_async,
        resources=attempt.resources,
        random=list(attempt.random),
        python=platform.python_version(),
        platform=f"{sys.platform} {os.uname().machine}",
        optimize=sys.flags.optimize,
        versions=facts.versions(),
        pid=attempt.pid,
        host=os.uname().nodename,
        cwd=os.getcwd(),  # noqa: PTH109 - as text
        sys_path=list(sys.path),
        driver=redaction.words(facts.command_of(driver_pid)),
        variables=facts.variables(driver_pid, attempt.variables, redaction),
        runtime_env=redaction.text(attempt.runtime_env),
    )


def raised_of(error: BaseException) -> Raised:
    """Say what was raised, and where in user code."""
    frames = user_frames(error.__traceback__)
    cause = error.cause if isinstance(error, TaskError) and error.cause is not None else error
    raised = Raised(type=type_name(cause), message=safe_str(cause)[:MESSAGE_CHARACTERS])
    if not frames:
        return raised
    last = frames[-1]
    return msgspec.structs.replace(
        raised, file=last.file, line=last.line, function=last.function, source=last.source
    )


def _redacted(raised: Raised, redaction: Redaction) -> Raised:
    return msgspec.structs.replace(
        raised, message=redaction.text(raised.message), source=redaction.text(raised.source)
    )


def _story(attempt: Attempt) -> str:
    if attempt.error is not None:
        return full_text(attempt.error)
    return f"{attempt.died.words}\n" if attempt.died is not None else ""


def _source(function: Callable[..., Any] | None) -> str:
    if function is None:
        return ""
    try:
        return inspect.getsource(function)
    except Exception:  # noqa: BLE001 - typed at a prompt, written in C, or changed since
        return ""
