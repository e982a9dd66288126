"""The control service as a process: `python -m weft._control SESSION_DIR --credentials FOLDER ...`.

    SESSION_DIR/control           the socket; there is one once the service answers
    SESSION_DIR/groups            the same, for placement groups
    SESSION_DIR/doors             of the daemon: through its port come callers of other hosts
    SESSION_DIR/journal.db  0600  the journal, if no URL names another

It ends with 0 when it is told to (SIGTERM, SIGINT, or the end of its lifeline); with 1 and a line
on standard error when its journal fails or is another's by now: then it may be started again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from weft import _clock
from weft._control.base import JournalError
from weft._control.bells import Bells
from weft._control.calls.desk import Desk
from weft._control.calls.members import Admission
from weft._control.concerns import Concern, concerns
from weft._control.lines import NodeLines
from weft._control.places import check_folder, open_journal
from weft._control.server import ControlServer
from weft._control.service import Service
from weft._launch import is_journal_shared
from weft._machines.ledger import Ledger
from weft._transport.addresses import CONTROL_SOCKET, DOORS
from weft._transport.credentials import open_credentials
from weft._transport.relay import relay
from weft.exceptions import OptionError, UsageError

if TYPE_CHECKING:
    from typing import Any

    from weft._control.base import CommandJournal
    from weft._transport.credentials import MemberCredentials


class Control:
    """A control service about some concerns."""

    def __init__(self, journal: CommandJournal, about: list[Concern]) -> None:
        self._concerns = about
        self._bells = Bells()
        ledger = Ledger([table for concern in about for table in concern.tables])
        self.service = Service(journal, ledger, _clock, self._tell)

    def _tell(self, event: Any) -> None:
        for concern in self._concerns:
            concern.tell(event, self._bells)

    def answers(self) -> dict[str, list[object]]:
        """Return who answers for each service of control.proto; the service has started."""
        desk = Desk(self.service, self._bells)
        answers: dict[str, list[object]] = {}
        for concern in self._concerns:
            for service, who in concern.calls(desk).items():
                answers.setdefault(service, []).append(who)
        return answers


async def serve(
    session_dir: Path,
    credentials: MemberCredentials,
    journal_url: str,
    *,
    wait_s: float = 0.0,
    lifeline: int = -1,
) -> None:
    """Serve until told to end.

    Args:
        session_dir: Where the socket is.
        credentials: What callers must show, and what those of other hosts see.
        journal_url: Where the journal is; empty: in the session's folder.
        wait_s: How long to wait for another service that has it.
        lifeline: Descriptor of a pipe: when it ends, so does this; -1: none.

    Raises:
        JournalError: The journal cannot be had, cannot be read, or failed.
        OptionError: The session's folder or the journal's URL will not do.
    """
    check_folder(session_dir)
    journal = open_journal(journal_url, session_dir)
    shared = journal_url if is_journal_shared(journal_url) else ""
    lines = NodeLines()
    control = Control(journal, concerns(Admission(credentials, shared), lines))
    service = control.service
    told = _told_to_end(lifeline)
    starting = asyncio.ensure_future(service.start(wait_s))
    try:
        await asyncio.wait({told, starting}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            socket = session_dir / CONTROL_SOCKET
            answers = control.answers()
            lines.answer_calls(answers)
            server = ControlServer(f"unix:{socket}", credentials.token, service.number, answers)
            doors = str(session_dir / DOORS)
            # First, so that who hears an answer of the server's finds them, too.
            line = asyncio.create_task(lines.listen(session_dir, credentials, doors))
            await server.start()
            port = asyncio.create_task(relay(credentials, doors=doors, server=str(socket)))
            over = {told, service.ended, port, line}
            await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
            port.cancel()
            line.cancel()
            await asyncio.wait({line})
            await server.stop()
            if not line.cancelled():
                line.result()
    finally:
        await service.stop()
        await asyncio.wait({starting})
        starting.exception()  # It was told above, or there was nobody to wait for it any more.
    if service.ended.done():
        service.ended.result()


def _told_to_end(lifeline: int) -> asyncio.Future[None]:
    """Return what is done once somebody wants this process to end."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not told.done():
            told.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, tell)
    if lifeline >= 0:

        def read() -> None:
            if not os.read(lifeline, 1):
                loop.remove_reader(lifeline)
                tell()

        loop.add_reader(lifeline, read)
    return told


@click.command()
@click.argument("session_dir", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--credentials", type=click.Path(path_type=Path), required=True, help="Their folder.")
@click.option("--journal", default="", help="Where the journal is; default: SQLite in the folder.")
@click.option("--standby", is_flag=True, help="Wait for the journal while another has it.")
@click.option("--lifeline", default=-1, help="Descriptor of a pipe: when it ends, so does this.")
def main(
    session_dir: Path, credentials: Path, journal: str, lifeline: int, *, standby: bool
) -> None:
    """Run the control service of a cluster."""
    try:
        found = open_credentials(credentials)
        wait_s = float("inf") if standby else 0.0
        asyncio.run(serve(session_dir, found, journal, wait_s=wait_s, lifeline=lifeline))
    except (JournalError, OptionError, UsageError) as error:
        click.echo(f"weft control: {error}", err=True)
        sys.exit(1)


def run(session_dir: str, *arguments: str) -> None:
    """Be the control service of a node; its daemon has started this process."""
    main([session_dir, *arguments], prog_name="weft control")
