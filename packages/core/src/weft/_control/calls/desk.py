"""What the services have in common: requests are checked and named, refusals become statuses."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

from weft._ids import ID_BYTES
from weft._machines.ledger import Sender
from weft._machines.rulings import Code, Request, Ruling

if TYPE_CHECKING:
    from weft._control.bells import Bells, Listener
    from weft._control.service import Service, ServiceEndedError
    from weft._transport.control import messages

STATUS_OF: dict[Code, Any] = {
    "exists": grpc.StatusCode.ALREADY_EXISTS,
    "missing": grpc.StatusCode.NOT_FOUND,
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "full": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "fenced": grpc.StatusCode.FAILED_PRECONDITION,
    "stale": grpc.StatusCode.ABORTED,
    "internal": grpc.StatusCode.INTERNAL,
}


class RefusedError(Exception):
    """A request is refused, with an answer that says why."""

    def __init__(self, answer: Ruling) -> None:
        super().__init__(answer.reason)
        self.answer = answer


class Desk:
    """How requests get to the tables."""

    def __init__(self, service: Service, bells: Bells) -> None:
        self.service = service
        self.bells = bells

    async def do(self, command: Any, header: messages.Header) -> int | bytes:
        """Do a command; return what it came to. RefusedError: it was refused."""
        answer = await asyncio.shield(self.begin(command, header))
        if answer.code:
            raise RefusedError(answer)
        return answer.value

    def begin(self, command: Any, header: messages.Header) -> asyncio.Future[Ruling]:
        """Have a command done, after those that were begun before; return its answer to come."""
        request = _request(header.id) if header.HasField("id") else None
        sender = a_sender(header.sender) if header.HasField("sender") else None
        return self.service.begin(command, request, sender)

    def read(self) -> None:
        """Say that tables are about to be read. ServiceEndedError: they are not to be believed."""
        self.service.check_alive()


def _request(header: messages.RequestId) -> Request:
    if header.number < 1:
        raise invalid("requests are numbered from 1 on")
    return Request(an_id(header.client, "client"), header.number, header.done_below)


def a_sender(header: messages.Sender) -> Sender:
    """Return which node says something. RefusedError: it is none."""
    return Sender(an_id(header.node_id, "node"), header.incarnation)


def an_id(value: bytes, what: str) -> bytes:
    """Return an id. RefusedError: it is none."""
    if len(value) != ID_BYTES:
        raise invalid(f"the {what}'s id has {ID_BYTES} bytes, not {len(value)}")
    return value


def an_id_or_none(value: bytes, what: str) -> bytes:
    """Return an id, or nothing if there is none. RefusedError: it is no id."""
    return an_id(value, what) if value else b""


def invalid(reason: str) -> RefusedError:
    """Return the refusal of a request that makes no sense."""
    return RefusedError(Ruling(code="invalid", reason=reason))


def missing(reason: str) -> RefusedError:
    """Return the refusal of a request for what is not there."""
    return RefusedError(Ruling(code="missing", reason=reason))


async def rung_beside(reader: asyncio.Task[None], listener: Listener) -> list[Any]:
    """Wait for what has changed; raise what the reader of the caller's requests raises."""
    waiter = asyncio.ensure_future(listener.wait_rung())
    try:
        while not waiter.done():
            if reader.done():
                reader.result()
                await waiter
            else:
                await asyncio.wait({waiter, reader}, return_when=asyncio.FIRST_COMPLETED)
        return waiter.result()
    finally:
        waiter.cancel()


async def abort(context: Any, error: RefusedError | ServiceEndedError) -> None:
    """End a call with the status of a refusal."""
    if isinstance(error, RefusedError):
        await context.abort(STATUS_OF[error.answer.code], error.answer.reason)
    await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
