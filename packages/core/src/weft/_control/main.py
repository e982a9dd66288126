"""The control service as a process: `python -m weft._control SESSION_DIR [--journal URL] ...`.

    SESSION_DIR/token       0600  what callers must show
    SESSION_DIR/control           the socket; there is one once the service answers
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
from weft._control.concerns import Concern, concerns
from weft._control.places import SOCKET, TOKEN, check_folder, open_journal, read_token
from weft._control.server import ControlServer
from weft._control.service import Service
from weft._machines.ledger import Ledger
from weft.exceptions import OptionError

if TYPE_CHECKING:
    from typing import Any

    from weft._control.base import CommandJournal


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

    def server(self, address: str, token: str) -> ControlServer:
        """Return the server of the service, which has started."""
        desk = Desk(self.service, self._bells)
        answers: dict[str, list[object]] = {}
        for concern in self._concerns:
            for service, who in concern.calls(desk).items():
                answers.setdefault(service, []).append(who)
        return ControlServer(address, token, self.service.number, answers)


async def serve(
    session_dir: Path, journal_url: str, about: list[Concern], wait_s: float, lifeline: int
) -> None:
    """Serve until told to end.

    Raises:
        JournalError: The journal cannot be had, cannot be read, or failed.
        OptionError: The session's folder or its token will not do.
    """
    check_folder(session_dir)
    token = read_token(session_dir / TOKEN)
    control = Control(open_journal(journal_url, session_dir), about)
    service = control.service
    told = _told_to_end(lifeline)
    starting = asyncio.ensure_future(service.start(wait_s))
    try:
        await asyncio.wait({told, starting}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            server = control.server(f"unix:{session_dir / SOCKET}", token)
            await server.start()
            await asyncio.wait({told, service.ended}, return_when=asyncio.FIRST_COMPLETED)
            await server.stop()
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
@click.option("--journal", default="", help="Where the journal is; default: SQLite in the folder.")
@click.option("--standby", is_flag=True, help="Wait for the journal while another has it.")
@click.option("--lifeline", default=-1, help="Descriptor of a pipe: when it ends, so does this.")
def main(session_dir: Path, journal: str, lifeline: int, *, standby: bool) -> None:
    """Run the control service of a cluster."""
    try:
        wait_s = float("inf") if standby else 0.0
        asyncio.run(serve(session_dir, journal, concerns(), wait_s, lifeline))
    except (JournalError, OptionError) as error:
        click.echo(f"weft control: {error}", err=True)
        sys.exit(1)
