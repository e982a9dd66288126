"""A node's port in a cluster: calls for the daemon are taken here, the others handed on.

Drivers and workers ask for theirs through a door each (`_transport/doors.py`).
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from weft._transport.addresses import DOORS, SUFFIX
from weft._transport.arrivals import Arrivals
from weft._transport.doors import Doors
from weft._transport.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from weft._launch import NodeFile
    from weft._transport.sockets import Poller
    from weft._transport.timers import Timers


class Port:
    """The port, and the doors behind it."""

    def __init__(
        self,
        node: NodeFile,
        poller: Poller,
        timers: Timers,
        takers: Mapping[str, Callable[[socket.socket], None]],
    ) -> None:
        """`takers` take what is for the daemon, by its names, with TLS still to be done."""
        (gate_fd,) = node.gate_fds
        listening = socket.socket(fileno=gate_fd)
        self._gate = Gate(poller, listening, Arrivals(timers.call_later), _turned_away)
        for name, accepted in takers.items():
            self._gate.takers[name + SUFFIX] = accepted
        self._doors = Doors(poller, Path(node.session_dir, DOORS), self._gate.takers)

    def close(self) -> None:
        """Take no calls any more."""
        self._gate.close()
        self._doors.close()


def _turned_away() -> None:
    print(  # noqa: T201
        "weft: a caller was turned away: the daemon may have no more open files (ulimit -n)",
        file=sys.stderr,
    )
