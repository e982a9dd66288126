"""Which session or node of this machine is meant: each user's are in a folder of his own.

    (nothing), auto       a node that was started by itself, else the session of a program
    weft://HOST:PORT#...  the node of that cluster on this machine
    NAME                  the session whose name begins so
    /DIRECTORY            the session there

Several nodes of one cluster on a machine are as good as one: the head is taken, or the oldest.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec

from weft._launch import NODE_FILE, PID_FILE, NodeFile, session_root
from weft._node.sessions import living
from weft._override import override
from weft._transport.join import JoinString
from weft.exceptions import OptionError, SessionError

AUTO = "auto"
JOIN_SCHEME = "weft://"


class SessionPlace(NamedTuple):
    """A session that is alive."""

    directory: str
    node: NodeFile

    @property
    def name(self) -> str:
        """The session's."""
        return self.node.session

    @property
    def is_lasting(self) -> bool:
        """Whether it was started by itself, and not by a program."""
        return not self.node.parent_pid

    @property
    def cluster(self) -> str:
        """HOST:PORT of the head; its own name if it is of no cluster."""
        return self.node.cluster.control if self.node.cluster is not None else self.name

    def daemon_pid(self) -> int:
        """Return the daemon's process, if it is lasting; 0: it is about to appear, or gone."""
        try:
            return int(Path(self.directory, PID_FILE).read_text("ascii"))
        except (OSError, ValueError):
            return 0

    @override
    def __str__(self) -> str:
        """Say which it is, for people."""
        cluster = self.node.cluster
        if cluster is None:
            return f"{self.name} (of process {self.node.parent_pid})"
        what = "head of a cluster" if cluster.is_head else f"node of the cluster {cluster.control}"
        return f"{self.name} ({what}, {cluster.node})"


def sessions() -> list[SessionPlace]:
    """Return this user's living sessions, the oldest first."""
    found = (read_session(directory) for directory in living(session_root()))
    return [place for place in found if place is not None]


def read_session(directory: str) -> SessionPlace | None:
    """Return the session of a directory; None: there is none."""
    try:
        node = msgspec.json.decode(Path(directory, NODE_FILE).read_bytes(), type=NodeFile)
    except (OSError, msgspec.MsgspecError):
        return None  # It appears or goes at this moment, or is of another version.
    return SessionPlace(node.session_dir, node)


def find_session(address: str | None) -> SessionPlace:
    """Return the session that is meant. SessionError: there is not one; OptionError: no address."""
    if address and "/" in address and "://" not in address:
        place = read_session(address)
        found = [place] if place is not None else []
    else:
        found = _matching(address)
    if len({place.cluster for place in found}) == 1:
        heads = [place for place in found if place.node.cluster and place.node.cluster.is_head]
        return (heads or found)[0]
    if found:
        names = ", ".join(map(str, found))
        raise SessionError(
            f"several sessions are alive: {names}; choose one with --session, or address="
        )
    if address in (None, "", AUTO):
        raise SessionError(
            "no session is alive: a program that calls weft.init() starts one, and `weft start "
            "--head` one that stays"
        )
    if address.startswith(JOIN_SCHEME):
        where = JoinString.parse(address).address
        raise SessionError(
            f"this machine has no node of the cluster at {where}: start one with "
            "`weft start --address`, and the join string"
        )
    alive = ", ".join(map(str, sessions())) or "none"
    raise SessionError(f"no session {address!r} is alive; alive: {alive}")


def is_foreign(address: str) -> bool:
    """Tell whether an address is that of a cluster of which this machine has no node.

    OptionError: it looks like a join string and is none.
    """
    return address.startswith(JOIN_SCHEME) and not _matching(address)


def _matching(address: str | None) -> list[SessionPlace]:
    places = sessions()
    if address in (None, "", AUTO):
        return [place for place in places if place.is_lasting] or places
    assert address is not None
    if ":" in address and not address.startswith(JOIN_SCHEME):
        raise OptionError(
            f"address={address!r} does not say how to be let in: give the join string, which "
            f"`weft start --head` prints and which begins with {JOIN_SCHEME}"
        )
    if address.startswith(JOIN_SCHEME):
        where = JoinString.parse(address).address
        return [place for place in places if place.cluster == where]
    return [place for place in places if place.name.startswith(address)]
