"""Where processes are: addresses that say it to any process of a cluster.

    /tmp/weft-1000/.../ab12.s     a unix socket: on one machine
    10.0.0.7:41234/ab12...        in a cluster: the port of a node, and whom its greeting is for
    10.0.0.7:41234/node           that node's daemon
    10.0.0.7:41234/objects        the same, for what objects consist of
    10.0.0.7:41234/groups         the control service, for placement groups

In a cluster, processes of one node find each other's unix sockets by the same addresses.
"""

from __future__ import annotations

from typing import NamedTuple

DAEMON = "node"
"""Whom a greeting is for that is for a node's daemon."""
OBJECTS = "objects"
"""Likewise, to take or give objects: their bytes would hold up all else."""
GROUPS = "groups"
"""Whom a greeting is for that is for the control service, about placement groups."""
DAEMON_SOCKET = "d"
CONTROL_SOCKET = "control"
"""Of the control service, on the head."""
GROUPS_SOCKET = "groups"
"""Likewise, for placement groups."""
DOORS = "doors"
SUFFIX = ".weft"
"""Behind the name of who is asked for, in a greeting."""


class Address(NamedTuple):
    """An address in a cluster, taken apart."""

    node: str
    """HOST:PORT, an IPv6 address in brackets."""
    name: str
    """Of the process."""

    @property
    def host(self) -> str:
        """Without brackets."""
        return self.node.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """Of the node."""
        return int(self.node.rpartition(":")[2])

    @property
    def greeting(self) -> str:
        """The name by which the process is asked for."""
        return self.name + SUFFIX


def split(address: str) -> Address:
    """Take apart an address that is not a path."""
    node, _, name = address.partition("/")
    return Address(node, name)


def is_path(address: str) -> bool:
    """Tell whether an address is that of a unix socket."""
    return address.startswith("/")


def daemon_of(address: str) -> str:
    """Return the address of the daemon of a process's node, in a cluster."""
    return f"{split(address).node}/{DAEMON}"


def program_name(deputy: bytes) -> str:
    """Return by which name a program calls the driver that does its work on a node."""
    return f"{deputy.hex()}-program"


def process_of(address: str) -> bytes:
    """Return the id of a driver or worker by its address, in a cluster."""
    return bytes.fromhex(split(address).name)


def is_daemon(address: str) -> bool:
    """Tell whether an address is that of a daemon in a cluster."""
    return address.endswith(f"/{DAEMON}") and not is_path(address)


class Home(NamedTuple):
    """The node of a process."""

    session_dir: str
    node: str = ""
    """HOST:PORT by which others reach it; empty: nobody else does."""

    def address_of(self, process: bytes) -> str:
        """Return where others find a process of this node."""
        name = process.hex()
        return f"{self.node}/{name}" if self.node else self.socket_of(name)

    def daemon_address(self) -> str:
        """Return where others find this node's daemon."""
        return f"{self.node}/{DAEMON}" if self.node else f"{self.session_dir}/{DAEMON_SOCKET}"

    def socket_of(self, name: str) -> str:
        """Return the path of the socket of a process of this node, by its id in hexadecimal."""
        return f"{self.session_dir}/{name}.s"

    def path_of(self, address: str) -> str | None:
        """Return the path of the socket of an address; None: it is on another node."""
        if is_path(address):
            return address
        node, name = split(address)
        if node != self.node:
            return None
        return f"{self.session_dir}/{DAEMON_SOCKET}" if name == DAEMON else self.socket_of(name)
