"""Who may talk to whom: the version of the messages.

A release speaks with the one before it and the one after it; any other is refused with one line, on
both sides. What that takes of whoever changes a message:

1. A message gains fields at its end only, with defaults: who does not know them leaves them alone,
   and who misses them has the default.
2. A message that the release before does not know is sent only to who speaks the newer version:
   `Hello.wire` of a peer says what both speak.
3. Hello is read before anything is agreed on. Its first field is the version for ever.
4. Bytes of every message are recorded for each version (tests/wire/golden), and those of the
   version before are read by the tests of this one.

The release of Python is no part of it: data, and functions and classes that are named, mean the
same in any. Only code that travels by value does not; pickling.py refuses it by name.
"""

from __future__ import annotations

from msgspec import structs

from weft._wire.messages import Hello
from weft.exceptions import ProtocolError

WIRE = 1
"""The version of the messages. It grows by one with a release that changes what is sent."""


def agreed(ours: int, theirs: int) -> int | None:
    """Return the version that two releases speak: the older one's, if they are neighbours."""
    return min(ours, theirs) if abs(ours - theirs) <= 1 else None


def refusal(who: str, theirs: int, ours: int = WIRE) -> str:
    """Return what is said of a peer with which there is no version to speak."""
    return (
        f"{who} speaks wire version {theirs}, this process {ours}: install neighbouring releases "
        "of weft-core"
    )


def check_hello(hello: object, ours: int = WIRE) -> Hello:
    """Return the peer's Hello, with the version that both speak.

    ProtocolError: it is another message, or there is no such version.
    """
    if not isinstance(hello, Hello):
        raise ProtocolError(f"the peer began with {type(hello).__name__} instead of Hello")
    version = agreed(ours, hello.wire)
    if version is None:
        raise ProtocolError(refusal(f"the peer (process {hello.pid})", hello.wire, ours))
    return hello if version == hello.wire else structs.replace(hello, wire=version)
