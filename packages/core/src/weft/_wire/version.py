"""The handshake's rules: who may talk to whom."""

from __future__ import annotations

from weft._wire.messages import Hello
from weft.exceptions import ProtocolError

WIRE = 1
"""The version of the messages. It grows by one when an older process could misread a newer one."""


def check_hello(hello: object) -> Hello:
    """Return the peer's Hello. ProtocolError if it is another message or another version."""
    if not isinstance(hello, Hello):
        raise ProtocolError(f"the peer began with {type(hello).__name__} instead of Hello")
    if hello.wire != WIRE:
        raise ProtocolError(
            f"the peer (process {hello.pid}) speaks wire version {hello.wire}, this one {WIRE}: "
            "install the same release of weft-core on both sides"
        )
    return hello
