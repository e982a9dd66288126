"""A caller of the control service: it names its requests, and asks again while nobody answers.

    client = ControlClient("unix:/.../control", token)
    answer = client.call("KeyValue", "put", messages.PutRequest(...))

What is guaranteed
1. A request that has a header is named, once; asked again it has the same name. So it is done once
   however often the control service was killed meanwhile, and gets the answer that it got.
2. An answer of a control service that was replaced, as its number says, is not believed: it is
   asked again.
3. Threads may share a client.

What is not: a stream that breaks is not begun again; who reads it knows from where.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import grpc

from weft._clock import monotonic
from weft._ids import ID_BYTES
from weft._transport.control import messages
from weft._transport.control.methods import NUMBER, bearer, methods_of, services
from weft.exceptions import AuthenticationError, GetTimeoutError, RpcError

if TYPE_CHECKING:
    from collections.abc import Iterator

OPTIONS = [
    # A control service that is started again is back within seconds, and is to be found at once.
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.max_receive_message_length", -1),
    # Each client has connections of its own: what ends with one ends with it.
    ("grpc.use_local_subchannel_pool", 1),
]
TIMEOUT_S = 30.0
PAUSE_S = 0.02
"""Between two tries, where the channel itself does not wait."""


class Names:
    """The names of a client's requests. Threads may share it."""

    def __init__(self) -> None:
        self._client = os.urandom(ID_BYTES)
        self._lock = threading.Lock()
        self._next = 1
        self._open: dict[int, None] = {}
        """In order."""

    def begin(self) -> messages.RequestId:
        """Name a request."""
        with self._lock:
            number = self._next
            self._next += 1
            self._open[number] = None
            done_below = next(iter(self._open))
        return messages.RequestId(client=self._client, number=number, done_below=done_below)

    def end(self, name: messages.RequestId) -> None:
        """Say that a request has its answer, or that nobody waits for it."""
        with self._lock:
            del self._open[name.number]


class ControlClient:
    """A connection to a control service. It must be closed."""

    def __init__(self, address: str, token: str) -> None:
        self._channel = grpc.insecure_channel(address, OPTIONS)
        self._metadata = (bearer(token),)
        self._names = Names()
        self._number = 0
        """The greatest that was seen."""
        self._closed = threading.Event()
        self._stub_of = {
            (service, name): self._stub(method)
            for service in services()
            for name, method in methods_of(service).items()
        }

    def _stub(self, method: Any) -> Any:
        make = {
            (False, False): self._channel.unary_unary,
            (False, True): self._channel.unary_stream,
            (True, False): self._channel.stream_unary,
            (True, True): self._channel.stream_stream,
        }[method.takes_stream, method.gives_stream]
        return make(method.path, method.request.SerializeToString, method.answer.FromString)

    @property
    def number(self) -> int:
        """The number of the newest control service that has answered; 0: none has."""
        return self._number

    def call(self, service: str, method: str, request: Any, *, timeout_s: float = TIMEOUT_S) -> Any:
        """Ask, and wait for the answer, also while there is no control service. Blocks.

        Raises:
            RpcError: It was refused, and not done; `rpc_code` is gRPC's status.
            AuthenticationError: The token is wrong.
            GetTimeoutError: There was no answer; whether it was done is not known.
        """
        header = getattr(request, "header", None) or (
            request if "id" in request.DESCRIPTOR.fields_by_name else None
        )
        if header is None:
            return self._until_answered(service, method, request, timeout_s)
        name = self._names.begin()
        header.id.CopyFrom(name)
        try:
            return self._until_answered(service, method, request, timeout_s)
        finally:
            self._names.end(name)

    def _until_answered(self, service: str, method: str, request: Any, timeout_s: float) -> Any:
        until = monotonic() + timeout_s
        stub = self._stub_of[service, method]
        while True:
            left_s = until - monotonic()
            reason = "nobody answers"
            try:
                answer, call = stub.with_call(
                    request, timeout=max(left_s, 0.0), metadata=self._metadata, wait_for_ready=True
                )
            except grpc.RpcError as error:
                reason = self._told(error, f"{service}.{method}")
            else:
                if self._is_current(call):
                    return answer
                reason = "a control service answered that was replaced"
            if until - monotonic() <= PAUSE_S:
                raise GetTimeoutError(
                    f"the control service was asked {service}.{method} for {timeout_s:g} s: "
                    f"{reason}"
                )
            if self._closed.wait(PAUSE_S):
                raise RpcError(f"{service}.{method} was not answered: the client is closed")

    def _told(self, error: Any, what: str) -> str:
        """Return why nobody answered; raise what the control service says."""
        code, text = error.code(), error.details()
        if code is grpc.StatusCode.UNAUTHENTICATED:
            raise AuthenticationError(f"{what}: {text}") from None
        if code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            raise RpcError(f"{what}: {text}", code.value[0]) from None
        return str(text)

    def _is_current(self, call: Any) -> bool:
        """Tell whether who answers is the newest; who says no number has not answered."""
        number = next((int(value) for key, value in call.initial_metadata() if key == NUMBER), 0)
        self._number = max(self._number, number)
        return number in (0, self._number)

    def stream(self, service: str, method: str, requests: Any) -> ControlStream:
        """Begin a stream: of one request, or of an iterator of them.

        It ends in an RpcError whatever ends it, but for its `cancel`: also if the control service
        died just before, and its successor is not found yet.
        """
        stub = self._stub_of[service, method]
        call = stub(requests, metadata=self._metadata, wait_for_ready=True)
        return ControlStream(self, call, f"{service}.{method}")

    def check_stream(self, call: Any, what: str) -> None:
        """Raise RpcError if a stream comes from a control service that was replaced."""
        if not self._is_current(call):
            call.cancel()
            raise RpcError(f"{what}: a control service answered that was replaced")

    def close(self) -> None:
        """End all calls. Idempotent."""
        self._closed.set()
        self._channel.close()


class ControlStream:
    """What a control service says, one message after the other; one thread reads."""

    def __init__(self, client: ControlClient, call: Any, what: str) -> None:
        self._client = client
        self._call = call
        self._what = what
        self._is_checked = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """Return the next message; blocks."""
        try:
            if not self._is_checked:
                self._client.check_stream(self._call, self._what)
                self._is_checked = True
            return next(self._call)
        except grpc.RpcError as error:
            code = error.code()
            if code is grpc.StatusCode.CANCELLED:
                raise StopIteration from None
            if code is grpc.StatusCode.UNAUTHENTICATED:
                raise AuthenticationError(f"{self._what}: {error.details()}") from None
            raise RpcError(f"{self._what}: {error.details()}", code.value[0]) from None

    def cancel(self) -> None:
        """End the stream. Any thread may."""
        self._call.cancel()
