"""Where this machine is found on its network."""

from __future__ import annotations

import socket

_LOOPBACK = "127.0.0.1"


def get_node_ip_address(address: str = "8.8.8.8:53") -> str:
    """Return the address under which this machine reaches others; 127.0.0.1 if it has no network.

    Nothing is sent: the system is asked for the route only.

    Args:
        address: An IPv4 address and port that lie in the direction of interest.

    Raises:
        ValueError: The address is not of the form host:port.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        raise ValueError(f"address={address!r} has to be like '10.0.0.1:53'")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, int(port)))
        except OSError:
            return _LOOPBACK
        name: str = probe.getsockname()[0]
        return name
