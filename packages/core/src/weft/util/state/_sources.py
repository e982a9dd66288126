"""Who is asked: the engine of this process, or as a tool the daemon of another's session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from weft._engine import current
from weft._launch import NODE_FILE, NodeFile, session_root
from weft._log import logger
from weft._node.sessions import living
from weft._runtime.tools import Tool
from weft.exceptions import SessionError
from weft.util.state.common import DEFAULT_TIMEOUT_S
from weft.util.state.exception import (
    DataSourceUnavailable,
    ServerUnavailable,
    StateApiException,
)

if TYPE_CHECKING:
    from weft._wire.records import SessionSnapshot


def sessions() -> list[str]:
    """Return the directories of this user's living sessions, the oldest first."""
    return living(session_root())


def find_session(address: str | None) -> str:
    """Return the directory of the session that is meant. ServerUnavailable: there is not one."""
    if address is not None and "/" in address:
        found = [address] if Path(address, NODE_FILE).exists() else []
    else:
        found = [
            path
            for path in sessions()
            if address in (None, "auto") or Path(path).name.startswith(address)
        ]
    if len(found) == 1:
        return found[0]
    if found:
        raise ServerUnavailable(
            f"several sessions are alive: {', '.join(map(_describe, found))}; "
            "choose one with --session, or address="
        )
    if address not in (None, "auto"):
        alive = ", ".join(map(_describe, sessions())) or "none"
        raise ServerUnavailable(f"no session {address!r} is alive; alive: {alive}")
    raise ServerUnavailable("no session is alive: a program that calls weft.init() starts one")


def _describe(session_dir: str) -> str:
    path = Path(session_dir)
    try:
        pid = msgspec.json.decode((path / NODE_FILE).read_bytes(), type=NodeFile).parent_pid
    except (OSError, msgspec.MsgspecError):
        return path.name
    return f"{path.name} (of process {pid})"


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
        with Tool(find_session(address), timeout) as tool:
            return tool.ask(what, body)
    except SessionError as error:
        raise ServerUnavailable(str(error)) from None
    except ValueError as error:
        raise StateApiException(str(error)) from None


def report_silent(snapshot: SessionSnapshot, what: str, *, needs_all: bool) -> None:
    """Say who has not answered: in a warning, or in a DataSourceUnavailable if all are needed."""
    silent = [f"{one.role} {one.pid}" for one in snapshot.told if one.body is None]
    if silent:
        words = (
            f"{', '.join(silent)} did not answer, as one that runs C code for long: "
            f"what only it knows of {what} is missing"
        )
        if needs_all:
            raise DataSourceUnavailable(words)
        logger().warning(words)
