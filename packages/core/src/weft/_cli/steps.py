"""The debugger of `weft replay --step`."""

from __future__ import annotations

import inspect
import pdb  # noqa: T100 - the command is a debugger
import sys
from typing import TYPE_CHECKING, Any

from weft._override import override

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

# Code that stands between the command and the task.
_NOT_STEPPED_INTO = ("weft", "weft.*", "asyncio.*", "click.*", "contextlib", "threading")


class StepDebugger(pdb.Pdb):
    """Stops at the first line of one function, whenever that is run."""

    def __init__(self) -> None:
        """Stop nowhere yet."""
        super().__init__(skip=_NOT_STEPPED_INTO)
        self._awaited: CodeType | None = None

    def await_call(self, function: Callable[..., Any]) -> None:
        """Stop when the function's own code is run in this thread, or at the next line at all."""
        self._awaited = _code_of(function)
        self.reset()
        sys.settrace(self.trace_dispatch)

    @override
    def stop_here(self, frame: FrameType) -> bool:
        """Tell whether to stop in a frame, as bdb asks."""
        if self._awaited is not None and frame.f_code is not self._awaited:
            return False
        return super().stop_here(frame)

    @override
    def user_call(self, frame: FrameType, argument_list: None) -> None:
        """Stop at a call, but for that of the awaited function: its first line comes next."""
        if frame.f_code is not self._awaited:
            super().user_call(frame, argument_list)

    @override
    def user_line(self, frame: FrameType) -> None:
        """Stop at a line."""
        self._awaited = None
        super().user_line(frame)


def _code_of(function: Callable[..., Any]) -> CodeType | None:
    """Return the code that a call runs first; None if that is not Python's."""
    called: Any = function
    if inspect.isclass(called):
        called = called.__init__
    elif not hasattr(called, "__code__") and not inspect.ismethod(called):
        called = type(called).__call__
    code: CodeType | None = getattr(called, "__code__", None)
    return code
