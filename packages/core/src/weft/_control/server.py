"""The gRPC server of a control service, on a unix socket.

Each answer begins with the service's number, so that who asked can tell an answer of one that was
replaced. A service of control.proto that has nobody who answers is unknown to callers.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import grpc

from weft._control.calls.desk import RefusedError, abort
from weft._control.guard import TokenGuard
from weft._control.service import ServiceEndedError
from weft._transport.control.methods import NUMBER, Method, methods_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REQUEST_BYTES = 4 * 1024 * 1024
"""The most of one request."""
CALLS = 50_000
"""The most at one time, streams included; more are refused by gRPC at once."""
OPTIONS = [
    ("grpc.max_receive_message_length", REQUEST_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
    # When it starts again, all nodes of a cluster begin their streams at once: by itself gRPC ends
    # what comes while 1,000 calls wait to be looked at.
    ("grpc.server.max_pending_requests", CALLS),
    ("grpc.server.max_pending_requests_hard_limit", CALLS),
]
END_S = 0.5
"""What is under way when the server ends gets so long to come to its own end."""


class ControlServer:
    """The server.

    Args:
        address: A gRPC address: `unix:PATH`.
        token: What callers must show.
        number: Of this life of the service.
        answers: Who answers for each service, by its name in control.proto: an object with a
            coroutine, or an asynchronous generator, for each method that it answers. An answer is
            a message, or the bytes of one.
    """

    def __init__(
        self, address: str, token: bytes, number: int, answers: Mapping[str, list[object]]
    ) -> None:
        self._server = grpc.aio.server(
            interceptors=[TokenGuard(token)], options=OPTIONS, maximum_concurrent_rpcs=CALLS
        )
        self._metadata = ((NUMBER, str(number)),)
        for service, who in answers.items():
            self._server.add_generic_rpc_handlers((self._handlers(service, who),))
        self._server.add_insecure_port(address)

    def _handlers(self, service: str, who: list[object]) -> Any:
        found = {}
        path = ""
        for name, method in methods_of(service).items():
            path = method.path
            function = next((f for each in who if (f := getattr(each, name, None))), None)
            if function is not None:
                found[path.rpartition("/")[2]] = self._handler(method, function)
        return grpc.method_handlers_generic_handler(path.split("/")[1], found)

    def _handler(self, method: Method, function: Callable[..., Any]) -> Any:
        async def answer(request: Any, context: Any) -> Any:
            await context.send_initial_metadata(self._metadata)
            try:
                return await function(request, context)
            except (RefusedError, ServiceEndedError) as error:
                await abort(context, error)

        async def stream(request: Any, context: Any) -> None:
            await context.send_initial_metadata(self._metadata)
            try:
                async with contextlib.aclosing(function(request, context)) as answers:
                    async for each in answers:
                        await context.write(each)
            except (RefusedError, ServiceEndedError) as error:
                await abort(context, error)

        make, body = {
            (False, False): (grpc.unary_unary_rpc_method_handler, answer),
            (False, True): (grpc.unary_stream_rpc_method_handler, stream),
            (True, False): (grpc.stream_unary_rpc_method_handler, answer),
            (True, True): (grpc.stream_stream_rpc_method_handler, stream),
        }[method.takes_stream, method.gives_stream]
        return make(body, method.request.FromString, _encoded)

    async def start(self) -> None:
        """Take calls from here on."""
        await self._server.start()

    async def stop(self) -> None:
        """Take no call any more; those under way get a little time."""
        await self._server.stop(END_S)


def _encoded(answer: Any) -> bytes:
    found: bytes = answer if isinstance(answer, bytes) else answer.SerializeToString()
    return found
