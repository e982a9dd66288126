"""How soon a connection is ended whose other end says nothing, since its host or the way is gone.

Nodes that are dead are found by their heartbeats, and their connections ended. This is for a
connection that is dead alone: a router has forgotten it, or its other end was closed unheard.

    nothing is sent                     the kernel asks after `PROBE_S`, and again: ended after
                                        `LIMIT_S` without any answer
    what is sent is not acknowledged    ended after `LIMIT_S`, if a daemon is at one of its ends

Facts about Linux: TCP_USER_TIMEOUT also ends a connection whose other end acknowledges and does not
read, when the window was shut for so long. A driver or worker may be stopped for longer than that,
or run C code, and its peers wait; daemons read always, and are told little. So between two
processes that are no daemons the kernel's own limit stands, which is a quarter of an hour.
"""

from __future__ import annotations

import socket

PROBE_S = 5
PROBES = 2
LIMIT_S = PROBE_S * (1 + PROBES)


def end_when_silent(sock: socket.socket, *, is_daemons: bool) -> None:
    """Have a socket end by itself. `is_daemons`: a daemon is at one of its ends."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
    if is_daemons:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LIMIT_S * 1000)
