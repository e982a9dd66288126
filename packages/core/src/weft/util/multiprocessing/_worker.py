"""What runs in a pool's workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any

from weft._api.objects import get
from weft._clock import monotonic
from weft._refs import ObjectRef
from weft._serialize.failures import pack_failure
from weft._serialize.pickling import dumps, load_code
from weft.exceptions import PicklingError
from weft.util.multiprocessing._globals import ModuleGlobals

if TYPE_CHECKING:
    from weft.util.multiprocessing._results import Outcome

# How a call's arguments are given.
ONE, STARRED, BOTH = range(3)

# What a batch takes at most: long against the way there and back (0.2 ms), short for who waits.
BATCH_S = 0.002
# Small functions that a worker keeps; of those that were stored, which may be large, the last one.
KEPT_FUNCTIONS = 32

PoolCode = bytes | ObjectRef[bytes]
"""A function's pickle, or where that is stored."""

Given = tuple[PoolCode, str, int, Sequence[Any], bool]
"""A chunk as it travels: code, name, how, calls, stops."""


class PoolWorker:
    """The actor that is one of a pool's workers."""

    def __init__(self, initializer: Callable[..., object] | None, initargs: Sequence[Any]) -> None:
        self._functions: dict[PoolCode, Callable[..., Any]] = {}
        self._globals = ModuleGlobals()
        if initializer is not None:
            with self._globals.shared_with(initializer):
                initializer(*initargs)

    def run(self, chunks: Sequence[Given]) -> list[tuple[float, list[Outcome]]]:
        """Run chunks; return of each how many seconds it took, and the outcomes.

        Those not begun in time are left out.
        """
        answers: list[tuple[float, list[Outcome]]] = []
        until = monotonic() + BATCH_S
        for chunk in chunks:
            began = monotonic()
            if answers and began > until:
                break
            outcomes = self._run_chunk(*chunk)
            if len(chunks) > 1:
                outcomes = _that_travel(outcomes, chunk[1])
            answers.append((monotonic() - began, outcomes))
        return answers

    def _run_chunk(
        self, code: PoolCode, name: str, how: int, calls: Sequence[Any], stops: bool
    ) -> list[Outcome]:
        function = self._load(code)
        outcomes: list[Outcome] = []
        with self._globals.shared_with(function):
            for call in calls:
                try:
                    outcomes.append((True, _call(function, how, call)))
                except Exception as error:  # noqa: BLE001 - user code: it is the outcome
                    outcomes.append((False, pack_failure(error, task=name)))
                    if stops:
                        break
        return outcomes

    def _load(self, code: PoolCode) -> Callable[..., Any]:
        known = self._functions.get(code)
        if known is not None:
            return known
        function: Callable[..., Any] = load_code(get(code) if isinstance(code, ObjectRef) else code)
        # What has state of its own, such as a partial or a bound method, comes fresh with every
        # chunk, as in a Pool.
        if isinstance(function, FunctionType | BuiltinFunctionType | type):
            self._keep(code, function)
        return function

    def _keep(self, code: PoolCode, function: Callable[..., Any]) -> None:
        others = [other for other in self._functions if type(other) is type(code)]
        if len(others) >= (KEPT_FUNCTIONS if isinstance(code, bytes) else 1):
            del self._functions[others[0]]
        self._functions[code] = function


def _call(function: Callable[..., Any], how: int, call: Any) -> Any:
    if how == ONE:
        return function(call)
    if how == STARRED:
        return function(*call)
    args, kwargs = call
    return function(*args, **kwargs)


def _that_travel(outcomes: list[Outcome], name: str) -> list[Outcome]:
    """Return the outcomes; the error if they cannot travel, which must not take a batch along."""
    try:
        dumps(outcomes)
    except PicklingError as error:
        return [(False, pack_failure(error, task=name))]
    return outcomes
