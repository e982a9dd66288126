"""Who may ask the control service anything: who has the token.

The token is in the metadata of each call. It is compared before anything of the call is read, and
in a time that does not depend on where it differs.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any

import grpc

from weft._override import override
from weft._transport.control.methods import AUTHORIZATION, bearer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class TokenGuard(grpc.aio.ServerInterceptor):  # type: ignore[misc] # grpc has no types
    """Lets calls pass that carry the token; others are told so in one line."""

    def __init__(self, token: bytes) -> None:
        self._expected = bearer(token)[1].encode()
        self._refusals = {
            (takes, gives): _refusal(takes_stream=takes, gives_stream=gives)
            for takes in (False, True)
            for gives in (False, True)
        }

    @override
    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Return what handles a call."""
        found = [
            value
            for key, value in handler_call_details.invocation_metadata or ()
            if key == AUTHORIZATION
        ]
        given = found[0] if len(found) == 1 else b""
        given = given if isinstance(given, bytes) else given.encode()
        handler = await continuation(handler_call_details)
        if hmac.compare_digest(given, self._expected):
            return handler
        shape = (handler.request_streaming, handler.response_streaming) if handler else (False,) * 2
        return self._refusals[shape]


def _refusal(*, takes_stream: bool, gives_stream: bool) -> Any:
    async def refuse(_: Any, context: Any) -> None:
        await context.abort(
            grpc.StatusCode.UNAUTHENTICATED,
            "the token is wrong: give that of the cluster's join string",
        )

    async def refuse_stream(request: Any, context: Any) -> Any:
        await refuse(request, context)
        yield b""  # It is not reached: it makes this a generator, as grpc wants one.

    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[takes_stream, gives_stream]
    return make(refuse_stream if gives_stream else refuse)
