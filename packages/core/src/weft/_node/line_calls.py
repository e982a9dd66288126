"""Calls of the control service over a daemon's line: what gRPC would do, without its threads.

What is always true
1. A call is said in order, again with each new connection, until it is answered, once. What is a
   command has a name, so it is done once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from weft._transport.control.methods import methods_of
from weft._wire.lines import CallControl
from weft.exceptions import RpcError

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._node.control_line import ControlLine
    from weft._transport.control.client import ControlClient
    from weft._transport.control.methods import Method
    from weft._wire.lines import CallAnswered


class _Call(NamedTuple):
    said: CallControl
    name: Any
    then: Callable[[Any], None]


class LineCalls:
    """The calls of one daemon that have no answer yet."""

    def __init__(self, line: ControlLine, client: ControlClient) -> None:
        """`client` names requests."""
        self._line = line
        self._client = client
        self._open: dict[int, _Call] = {}
        """In order, by number."""
        self._calls = 0

    def ask(self, service: str, method: str, request: Any, then: Callable[[Any], None]) -> None:
        """Ask, until there is an answer; `then` gets it, or RpcError: it was refused."""
        name = self._client.name(request)
        self._calls += 1
        said = CallControl(self._calls, service, method, request.SerializeToString())
        self._open[self._calls] = _Call(said, name, then)
        self._line.say(said)

    def began(self) -> None:
        """There is a connection: ask all that was not answered."""
        for call in self._open.values():
            self._line.say(call.said)

    def heard(self, answer: CallAnswered) -> None:
        """Take an answer."""
        call = self._open.pop(answer.number, None)
        if call is None:
            return
        self._client.has_answer(call.name)
        service, method = call.said.service, call.said.method
        if answer.status:
            call.then(RpcError(f"{service}.{method}: {answer.reason}", answer.status))
        else:
            call.then(_methods(service)[method].answer.FromString(answer.body))


@lru_cache
def _methods(service: str) -> dict[str, Method]:
    return methods_of(service)
