"""Whether a replayed call failed as it did when its capsule was left."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from weft._capsules.records import Raised
from weft._exits import signal_name

if TYPE_CHECKING:
    from weft._capsules.records import Manifest

# How deep the stack and how full the memory were decides where these are raised.
_ANYWHERE = frozenset({"RecursionError", "MemoryError"})


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a replay ended; nothing of these if the call ended well."""

    raised: Raised | None = None
    exit_code: int | None = None
    """Of the process, which the call has ended."""
    is_late: bool = False
    """It ran over the time limit that had ended it."""
    has_quit: bool = False
    """Somebody left the debugger before the end."""
    problem: str = ""
    """Why the call could not be made."""
    remarks: list[str] = []
    """What was not as it had been, in lines."""


class Verdict(NamedTuple):
    """Whether the failure was reproduced, and the line that says so."""

    is_reproduced: bool
    words: str


def judge(manifest: Manifest, outcome: Outcome) -> Verdict:
    """Compare how a replay ended with what the capsule says."""
    if outcome.has_quit:
        return Verdict(False, "left before the end")
    if outcome.is_late:
        return Verdict(True, f"it ran over its time limit of {manifest.timeout_s:g} s again")
    if manifest.is_late:
        return Verdict(
            False, f"{_ending(outcome)}, within its time limit of {manifest.timeout_s:g} s"
        )
    if manifest.died is not None:
        expected = manifest.died.exit_code
        if outcome.exit_code is None:
            return Verdict(False, f"{_ending(outcome)}, and its process lived on")
        if expected is not None and outcome.exit_code != expected:
            return Verdict(False, f"its process {_end(outcome.exit_code)}, not {_end(expected)}")
        return Verdict(True, f"its process {_end(outcome.exit_code)} again")
    if outcome.raised is None or manifest.raised is None:
        return Verdict(False, _ending(outcome))
    if _is_same(outcome.raised, manifest.raised):
        return Verdict(True, f"it raised {_words(outcome.raised)}")
    return Verdict(False, f"{_ending(outcome)}, and not {_words(manifest.raised)}")


def _is_same(here: Raised, there: Raised) -> bool:
    """The same class, and the same line or the same message.

    The line is known by its text and its function: a file may have been edited since.
    """
    if here.type != there.type:
        return False
    if here.type in _ANYWHERE:
        return True
    place = (here.function, here.source or here.line)
    if here.function and place == (there.function, there.source or there.line):
        return True
    return bool(here.message) and here.message == there.message


def _ending(outcome: Outcome) -> str:
    if outcome.exit_code is not None:
        return f"its process {_end(outcome.exit_code)}"
    return "it ended well" if outcome.raised is None else f"it raised {_words(outcome.raised)}"


def _end(exit_code: int) -> str:
    name = signal_name(exit_code)
    return f"was ended by {name}" if name else f"exited with code {exit_code}"


def _words(raised: Raised) -> str:
    said = f"{raised.type}: {raised.message}" if raised.message else raised.type
    place = f" at {raised.file}:{raised.line} in {raised.function}" if raised.file else ""
    return f"{said.partition(chr(10))[0]}{place}"
