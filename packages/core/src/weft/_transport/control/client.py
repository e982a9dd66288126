"""A caller of the control service: it names its requests, and asks again while nobody answers.

    client = ControlClient("10.0.0.7:41234", credentials)
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

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import grpc

from weft._clock import monotonic
from weft._ids import ID_BYTES
from weft._transport.addresses import is_path
from weft._transport.control import messages
from weft._transport.control.methods import NUMBER, bearer, methods_of, services
from weft._transport.credentials import CONTROL
from weft._transport.join import shown_address
from weft.exceptions import AuthenticationError, GetTimeoutError, RpcError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from weft._transport.credentials import Credentials

OPTIONS = [
    # A control service that is started again is back within seconds, and is to be found at once.
    ("grpc.initial_reconnect_backoff_ms", 20),
    # A thousand nodes may look for it at once, for as long as it is gone.
    ("grpc.max_reconnect_backoff_ms", 1000),
    # So long a connection may take to open, whatever its name says.
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_receive_message_length", -1),
    # Each client has connections of its own: what ends with one ends with it.
    ("grpc.use_local_subchannel_pool", 1),
    # A proxy for the web is none for a cluster.
    ("grpc.enable_http_proxy", 0),
]
TIMEOUT_S = 30.0
PAUSE_S = 0.02
"""Between two tries, where the channel itself does not wait."""
_REPLACED = "a control service answered that was replaced"
_MOVED = "it is looked for elsewhere"
_AGAIN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,  # The channel was closed.
}
"""Where it is not said whether the request was done."""


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


class _Way:
    """A channel to the places where the control service may be."""

    def __init__(self, addresses: Sequence[str], credentials: Credentials) -> None:
        self._channel = _channel(addresses, credentials)
        self._stub_of = {
            (service, name): self._make_stub(method)
            for service in services()
            for name, method in methods_of(service).items()
        }

    def _make_stub(self, method: Any) -> Any:
        make = {
            (False, False): self._channel.unary_unary,
            (False, True): self._channel.unary_stream,
            (True, False): self._channel.stream_unary,
            (True, True): self._channel.stream_stream,
        }[method.takes_stream, method.gives_stream]
        return make(method.path, method.request.SerializeToString, method.answer.FromString)

    def stub(self, service: str, method: str) -> Any:
        return self._stub_of[service, method]

    def close(self) -> None:
        self._channel.close()


class ControlClient:
    """A connection to a control service. It must be closed."""

    def __init__(self, addresses: str | Sequence[str], credentials: Credentials) -> None:
        """Connect as soon as something is asked.

        Args:
            addresses: HOST:PORT of its node, or of several, on one of which it is; or the path of
                its socket on the same node.
            credentials: Of the cluster.
        """
        self.metadata = (bearer(credentials.token),)
        """Of each call."""
        self._credentials = credentials
        self._addresses = (addresses,) if isinstance(addresses, str) else tuple(addresses)
        self._way = _Way(self._addresses, credentials)
        self._names = Names()
        self._number = 0
        """The greatest that was seen."""
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._again: list[_Asking] = []
        """They wait to be asked again; while there are any, there is a thread for them."""

    def stub(self, service: str, method: str) -> Any:
        """Return gRPC's own way to a method. What is called there may raise ValueError: closed."""
        return self._way.stub(service, method)

    def move(self, addresses: Sequence[str]) -> None:
        """Look for the control service elsewhere from here on. Blocks while names are looked up.

        Streams end; what was asked and not answered is asked again.
        """
        with self._lock:
            is_there = self._addresses == tuple(addresses)
            self._addresses = tuple(addresses)
        if not is_there:
            self.begin_anew()

    def begin_anew(self) -> None:
        """Believe in no connection that there is: as `move`, to the same addresses."""
        with self._lock:
            if self._closed.is_set():
                return
            old, self._way = self._way, _Way(self._addresses, self._credentials)
        old.close()

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
        header = _header_of(request)
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
        reason = "nobody answers"
        while True:
            left_s = until - monotonic()
            try:
                answer, call = self.stub(service, method).with_call(
                    request, timeout=max(left_s, 0.0), metadata=self.metadata, wait_for_ready=True
                )
            except ValueError:
                reason = _MOVED
            except grpc.RpcError as error:
                told = self.told(error, f"{service}.{method}")
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    reason = told  # That time is up is no reason: it is said anyhow.
            else:
                if self.is_current(call):
                    return answer
                reason = _REPLACED
            if until - monotonic() <= PAUSE_S:
                raise _too_late(f"{service}.{method}", timeout_s, reason)
            if self._closed.wait(PAUSE_S):
                raise RpcError(f"{service}.{method} was not answered: the client is closed")

    def told(self, error: Any, what: str) -> str:
        """Return why nobody answered; raise what the control service says."""
        code, text = error.code(), error.details()
        if code is grpc.StatusCode.UNAUTHENTICATED:
            raise AuthenticationError(f"{what}: {text}") from None
        if code not in _AGAIN:
            raise RpcError(f"{what}: {text}", code.value[0]) from None
        return str(text)

    def is_current(self, call: Any) -> bool:
        """Tell whether who answers is the newest; who says no number has not answered."""
        number = _number_of(call)
        self._number = max(self._number, number)
        return number in (0, self._number)

    def begin(
        self,
        service: str,
        method: str,
        request: Any,
        then: Callable[[Any], None],
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Ask as `call` does, and go on: `then` is called with the answer or the error, once.

        It is called in a thread of gRPC's. Of what is under way when the client is closed nothing
        may be told. With a `timeout_s` of infinity it is asked until there is an answer.
        """
        _Asking(self, service, method, request, self.name(request), then, timeout_s).ask()

    def stream(self, service: str, method: str, requests: Any) -> ControlStream:
        """Begin a stream: of one request, or of an iterator of them.

        It ends in an RpcError whatever ends it, but for its `cancel`: also if the control service
        died just before, and its successor is not found yet.
        """
        what = f"{service}.{method}"
        try:
            call = self.stub(service, method)(requests, metadata=self.metadata, wait_for_ready=True)
        except ValueError:
            raise RpcError(f"{what}: {_MOVED}") from None
        return ControlStream(self, call, what)

    def check_stream(self, call: Any, what: str) -> int:
        """Return the number of the control service that a stream comes from.

        RpcError: it was replaced.
        """
        if not self.is_current(call):
            call.cancel()
            raise RpcError(f"{what}: {_REPLACED}")
        return _number_of(call)

    def new_name(self) -> messages.RequestId:
        """Name a request that is said otherwise; `has_answer` ends it."""
        return self._names.begin()

    def name(self, request: Any) -> messages.RequestId | None:
        """Name a request, if it has a place for that; `has_answer` ends it."""
        header = _header_of(request)
        if header is None:
            return None
        name = self._names.begin()
        header.id.CopyFrom(name)
        return name

    def has_answer(self, name: messages.RequestId | None) -> None:
        """Note that a request that was begun has its answer."""
        if name is not None:
            self._names.end(name)

    def ask_again(self, asking: _Asking) -> None:
        """Ask something again, after a pause."""
        with self._lock:
            if self._closed.is_set():
                return
            if not self._again:
                threading.Thread(target=self._ask_again, name="weft-ask-again").start()
            self._again.append(asking)

    def _ask_again(self) -> None:
        if self._closed.wait(PAUSE_S):
            return
        with self._lock:
            again, self._again = self._again, []
        for asking in again:
            asking.ask()

    def close(self) -> None:
        """End all calls. Idempotent."""
        with self._lock:
            self._closed.set()
            way = self._way
        way.close()


class _Asking:
    """One request that nobody waits for."""

    def __init__(
        self,
        client: ControlClient,
        service: str,
        method: str,
        request: Any,
        name: messages.RequestId | None,
        then: Callable[[Any], None],
        timeout_s: float,
    ) -> None:
        self._client = client
        self._service = service
        self._method = method
        self._what = f"{service}.{method}"
        self._request = request
        self._name = name
        self._then = then
        self._timeout_s = timeout_s
        self._until = monotonic() + timeout_s

    def ask(self) -> None:
        """Ask once more."""
        left_s = self._until - monotonic()
        timeout_s = max(left_s, 0.0) if left_s < float("inf") else None
        try:
            future = self._client.stub(self._service, self._method).future(
                self._request,
                timeout=timeout_s,
                metadata=self._client.metadata,
                wait_for_ready=True,
            )
        except ValueError:
            self._client.ask_again(self)
            return
        future.add_done_callback(self._answered)

    def _answered(self, future: Any) -> None:
        try:
            answer = future.result()
        except grpc.RpcError as error:
            try:
                reason = self._client.told(error, self._what)
            except (RpcError, AuthenticationError) as refusal:
                self._end(refusal)
                return
        else:
            if self._client.is_current(future):
                self._end(answer)
                return
            reason = _REPLACED
        if self._until - monotonic() <= PAUSE_S:
            self._end(_too_late(self._what, self._timeout_s, reason))
        else:
            self._client.ask_again(self)

    def _end(self, answer: Any) -> None:
        self._client.has_answer(self._name)
        self._then(answer)


def _header_of(request: Any) -> Any:
    """Return what of a request names it; None: it has no name."""
    fields = request.DESCRIPTOR.fields_by_name
    return request.header if "header" in fields else request if "id" in fields else None


def _number_of(call: Any) -> int:
    """Return the number of who answers; 0: it says none."""
    return next((int(value) for key, value in call.initial_metadata() if key == NUMBER), 0)


def _too_late(what: str, timeout_s: float, reason: str) -> GetTimeoutError:
    return GetTimeoutError(
        f"the head's control service has not answered within {timeout_s:g} s ({what}: {reason})"
    )


def _channel(addresses: Sequence[str], credentials: Credentials) -> grpc.Channel:
    if is_path(addresses[0]):
        return grpc.insecure_channel(f"unix:{addresses[0]}", OPTIONS)
    # The certificate is the only one that is believed: whose name it has does not count.
    pinned = grpc.ssl_channel_credentials(root_certificates=credentials.certificate)
    named = ("grpc.ssl_target_name_override", CONTROL)
    return grpc.secure_channel(_target(addresses), pinned, [*OPTIONS, named])


def _target(addresses: Sequence[str]) -> str:
    """Return several addresses as gRPC takes them: as numbers, all of one kind."""
    if len(addresses) == 1:
        return addresses[0]
    found: dict[int, dict[str, None]] = {}
    for address in addresses:
        host, _, port = address.rpartition(":")
        with contextlib.suppress(OSError):
            kind, _, _, _, place = socket.getaddrinfo(
                host.strip("[]"), int(port), type=socket.SOCK_STREAM
            )[0]
            found.setdefault(kind, {})[shown_address(str(place[0]), int(place[1]))] = None
    if not found:
        return addresses[0]
    family, places = max(found.items(), key=lambda each: len(each[1]))
    return f"{'ipv6' if family == socket.AF_INET6 else 'ipv4'}:{','.join(places)}"


class ControlStream:
    """What a control service says, one message after the other; one thread reads."""

    def __init__(self, client: ControlClient, call: Any, what: str) -> None:
        self._client = client
        self._call = call
        self._what = what
        self.number = 0
        """Of the control service; known with the first message."""
        self._is_checked = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """Return the next message; blocks."""
        try:
            if not self._is_checked:
                self.number = self._client.check_stream(self._call, self._what)
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
