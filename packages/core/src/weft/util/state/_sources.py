"""Who is asked: the engine of this process, or as a tool the daemon of another's session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft._engine import current
from weft._log import logger
from weft._node.finding import find_session
from weft._runtime.tools import Tool
from weft._settings import ADDRESS
from weft.exceptions import OptionError, SessionError
from weft.util.state.common import DEFAULT_TIMEOUT_S
from weft.util.state.exception import (
    DataSourceUnavailable,
    ServerUnavailable,
    StateApiException,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from weft._specs import NodeReply
    from weft._wire.records import SessionSnapshot


def ask(
    what: str, body: object = None, *, address: str | None, timeout: float = DEFAULT_TIMEOUT_S
) -> bytes:
    """Ask one question. Blocks.

    Raises:
        ServerUnavailable: There is nobody to ask, or no answer.
        StateApiException: The question is refused.
    """
    try:
        engine = current.engine
        if address is None and engine is not None:
            return engine.inspect(what, body)
        place = find_session(address or ADDRESS.value())
        with Tool(place.directory, timeout) as tool:
            return tool.ask(what, body)
    except (SessionError, OptionError) as error:
        raise ServerUnavailable(str(error)) from None
    except ValueError as error:
        raise StateApiException(str(error)) from None


def ask_nodes(
    whats: Sequence[str],
    body: object = None,
    *,
    address: str | None,
    timeout: float = DEFAULT_TIMEOUT_S,
    node_id: str = "",
) -> list[NodeReply]:
    """Ask the same of all nodes, or of one. Blocks; errors are those of `ask`."""
    try:
        engine = current.engine
        if address is None and engine is not None:
            return engine.inspect_nodes(whats, body, node_id=node_id)
        place = find_session(address or ADDRESS.value())
        with Tool(place.directory, timeout) as tool:
            return tool.ask_nodes(whats, body, node_id=node_id)
    except (SessionError, OptionError) as error:
        raise ServerUnavailable(str(error)) from None
    except ValueError as error:
        raise StateApiException(str(error)) from None


def name_of(reply: NodeReply) -> str:
    """Return a node's name for people."""
    return f"node {reply.node_id[:12]} at {reply.address}" if reply.address else "the node"


def report_silent_nodes(replies: Iterable[NodeReply], what: str, *, needs_all: bool) -> None:
    """Say which nodes have not answered, as `report_silent` does."""
    for reply in replies:
        if reply.silent:
            words = f"{name_of(reply)}: {reply.silent}; what only it knows of {what} is missing"
            if needs_all:
                raise DataSourceUnavailable(words)
            logger().warning(words)


def report_silent(
    reply: NodeReply, snapshot: SessionSnapshot, what: str, *, needs_all: bool
) -> None:
    """Say which processes of a node have not answered.

    In a warning, or in a DataSourceUnavailable if all are needed.
    """
    at = f" of {name_of(reply)}" if reply.address else ""
    silent = [f"{one.role} {one.pid}{at}" for one in snapshot.told if one.body is None]
    if silent:
        words = (
            f"{', '.join(silent)} did not answer, as one that runs C code for long: "
            f"what only it knows of {what} is missing"
        )
        if needs_all:
            raise DataSourceUnavailable(words)
        logger().warning(words)
