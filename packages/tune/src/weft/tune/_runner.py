"""The actor that runs trials, one after the other.

Each call does one thing for the trial that it runs and answers once: begin it or let it go on up to
its next result, save it, let it go. A trial whose code has ended or failed has left the runner when
the answer comes.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from weft.lowlevel import lazy
from weft.tune._bodies import Body, ClassBody, FunctionBody
from weft.tune._session import Assignment, Settings, TrialSession, sessions
from weft.tune._values import packed

if TYPE_CHECKING:
    import traceback
    from types import TracebackType

    from weft.tune._session import Report
    from weft.tune.trainable import trainable as trainables
else:
    # What is imported here is imported in each process that runs trials, as it starts.
    traceback = lazy("traceback")
    trainables = lazy("weft.tune.trainable.trainable")

_OWN_FOLDER = str(Path(__file__).parent)


class RunnerAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a call came to."""

    result: bytes = b""
    """Encoded; empty: there is none."""
    checkpoint: str = ""
    has_left: bool = False
    """Whether the trial is on the runner no more."""
    error: str = ""
    """One line; empty: none."""
    traceback: str = ""
    pickled: str = ""
    is_spent: bool = False
    """Whether the runner cannot run another trial."""


class Runner:
    """Runs trials of one trainable."""

    def __init__(self, trainable: Any, settings: Settings) -> None:
        self._trainable = trainable
        self._settings = settings
        self._session: TrialSession | None = None
        self._body: Body | None = None
        self._output: contextlib.ExitStack | None = None
        self._instance: trainables.Trainable | None = None
        """Of a class: that of the trial before, which the next may use again."""

    def begin(self, assignment: Assignment) -> RunnerAnswer:
        """Begin a trial, or go on with it from a checkpoint, up to its first result."""
        session = self._session = TrialSession(self._settings, assignment)
        self._redirect_output(session)
        sessions.open.append(session)
        try:
            if isinstance(self._trainable, type):
                instance, self._instance = self._instance, None
                sessions.of_thread.session = session
                body = ClassBody(self._trainable, session, instance)
                self._instance = body.instance
                self._body = body
            else:
                self._body = FunctionBody(self._trainable, session)
        except Exception as error:  # noqa: BLE001 - whatever the user's code raises is told
            return self._failed(error)
        return self.advance()

    def advance(self) -> RunnerAnswer:
        """Let the trial go on to its next result."""
        assert self._body is not None
        try:
            result = self._body.advance()
            if result is None or result.is_last:
                return self._ended(result)
        except Exception as error:  # noqa: BLE001 - whatever the user's code raises is told
            return self._failed(error)
        return RunnerAnswer(result.text, result.checkpoint)

    def snapshot(self) -> RunnerAnswer:
        """Have the trial saved."""
        assert self._body is not None
        try:
            return RunnerAnswer(checkpoint=self._body.save())
        except Exception as error:  # noqa: BLE001 - whatever the user's code raises is told
            return self._failed(error)

    def release(self, save: bool) -> RunnerAnswer:
        """End the trial where it is. One that has ended by itself is let go, too."""
        if self._body is None:
            return RunnerAnswer(has_left=True)
        try:
            checkpoint = self._body.save() if save else ""
            is_spent = not self._close()
        except Exception as error:  # noqa: BLE001 - whatever the user's code raises is told
            return self._failed(error)
        return RunnerAnswer(checkpoint=checkpoint, has_left=True, is_spent=is_spent)

    def end(self) -> None:
        """Let go of everything: no other trial comes."""
        if self._instance is not None:
            instance, self._instance = self._instance, None
            instance.stop()

    # -------------------------------------------------------------- a trial's end

    def _ended(self, result: Report | None) -> RunnerAnswer:
        is_spent = not self._close()
        if result is None:
            return RunnerAnswer(has_left=True, is_spent=is_spent)
        return RunnerAnswer(result.text, result.checkpoint, has_left=True, is_spent=is_spent)

    def _failed(self, error: BaseException) -> RunnerAnswer:
        is_spent = not self._close()
        self.end()
        own = _without_ours(error.__traceback__)
        told = "".join(traceback.format_exception(type(error), error, own))
        error.__traceback__ = None
        words = str(error).partition("\n")[0]
        line = f"{type(error).__qualname__}: {words}" if words else type(error).__qualname__
        return RunnerAnswer(
            has_left=True, error=line, traceback=told, pickled=packed(error), is_spent=is_spent
        )

    def _close(self) -> bool:
        """Let the trial go; returns whether the runner can run another."""
        session, body = self._session, self._body
        if session is None:
            return True
        self._session = self._body = None
        is_usable = body is None or body.close()
        sessions.open.remove(session)
        sessions.of_thread.session = None
        if self._instance is not None and not _can_reset(self._instance):
            instance, self._instance = self._instance, None
            instance.stop()
        try:
            session.close()
        finally:
            if self._output is not None:
                self._output.close()
                self._output = None
        return is_usable

    # -------------------------------------------------------------- output

    def _redirect_output(self, session: TrialSession) -> None:
        settings = self._settings
        if not (settings.stdout or settings.stderr):
            return
        self._output = stack = contextlib.ExitStack()
        folder = session.directory()
        for name, redirect, stream in (
            (settings.stdout, contextlib.redirect_stdout, sys.stdout),
            (settings.stderr, contextlib.redirect_stderr, sys.stderr),
        ):
            if name:
                file = Path(folder, name).open("a", buffering=1)  # noqa: SIM115 - the stack closes it
                stack.callback(file.close)
                stack.enter_context(redirect(Tee(stream, file)))


class Tee:
    """Writes to two streams: where it went before, and into the trial's file."""

    def __init__(self, stream1: TextIO, stream2: TextIO) -> None:
        self.stream1 = stream1
        self.stream2 = stream2

    def write(self, text: str) -> int:
        """Write to both."""
        self.stream1.write(text)
        return self.stream2.write(text)

    def flush(self) -> None:
        """Flush both."""
        self.stream1.flush()
        self.stream2.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream1, name)


def _can_reset(instance: trainables.Trainable) -> bool:
    return type(instance).reset_config is not trainables.Trainable.reset_config


def _without_ours(found: TracebackType | None) -> TracebackType | None:
    """Return where the user's code begins."""
    while found is not None and found.tb_frame.f_code.co_filename.startswith(_OWN_FOLDER):
        found = found.tb_next
    return found
