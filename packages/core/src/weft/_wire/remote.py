"""What a program on a machine without a node and its deputy on a node say to each other.

They speak in Letters (messages.py), each a piece of one of these records. Orders go to the deputy,
in the order in which they were given; a `request` that is not 0 has one Replied.

A reference that the program has is held for it by the deputy: counted once when its maker is
ordered, once for each time that it is handed over inside an answer, and once for each Adopts. The
program gives back as many as it has got. So one that is on its way is never let go.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any

import msgspec

from weft._wire.messages import BeginsJob, Held, MessagePart


class Order(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the program says."""


class News(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the deputy says."""


class SentArguments(MessagePart, frozen=True):
    """Arguments of a call as the program has pickled them."""

    data: bytes
    """The packed form of (args, kwargs); empty for none."""
    deps: list[bytes]
    """Objects whose values are arguments."""
    inner: list[bytes]
    """Objects whose references lie inside."""


# ------------------------------------------------------------------ program -> deputy


class Begins(Order, frozen=True, tag=1):
    """The first order: what the job is. Answer: a pickled Place."""

    request: int
    job: BeginsJob
    preload: list[str]


class Exports(Order, frozen=True, tag=2):
    """The code of a function or class, before the first order that needs it."""

    function_id: bytes
    name: str
    code: bytes


class Submits(Order, frozen=True, tag=3):
    """Start a task. No answer if `request` is 0: what fails then, its results do."""

    request: int
    task_id: bytes
    function_id: bytes
    spec: bytes
    """Pickled (options, shape)."""
    site: str
    returns: int
    """Of how many objects the program knows already."""
    arguments: SentArguments


class Creates(Order, frozen=True, tag=4):
    """Start an actor."""

    request: int
    function_id: bytes
    spec: bytes
    """Pickled (meta, options, shape)."""
    arguments: SentArguments


class Invokes(Order, frozen=True, tag=5):
    """Call an actor's method."""

    request: int
    task_id: bytes
    spec: bytes
    """A pickled CallSpec, without arguments."""
    returns: int
    arguments: SentArguments


class Puts(Order, frozen=True, tag=6):
    """Store a value."""

    request: int
    object_id: bytes
    data: bytes
    inner: list[bytes]
    site: str


class Follows(Order, frozen=True, tag=7):
    """Tell of each of these objects when its value is there. The answer says which there are."""

    request: int
    object_ids: list[bytes]


class Loads(Order, frozen=True, tag=8):
    """Wait for a value. Answer: its packed form."""

    request: int
    object_id: bytes


class Nexts(Order, frozen=True, tag=9):
    """Wait for the next item of a stream.

    Answer: nothing but its reference, and those of what has come behind it; none at the end.
    """

    request: int
    task_id: bytes


class Cancels(Order, frozen=True, tag=10):
    """End the task that makes an object, or a stream."""

    request: int
    object_id: bytes
    is_stream: bool
    force: bool
    recursive: bool


class Kills(Order, frozen=True, tag=11):
    """End an actor."""

    request: int
    actor_id: bytes
    no_restart: bool


class Frees(Order, frozen=True, tag=12):
    """Let values go by hand."""

    request: int
    object_ids: list[bytes]


class Adopts(Order, frozen=True, tag=13):
    """The program has met a reference inside a value."""

    object_id: bytes
    owner: str
    inside: bytes
    """The object whose value it was; empty: none's."""


class Releases(Order, frozen=True, tag=14):
    """The program has no references to these any more, and gives back as many counts."""

    counts: list[tuple[bytes, int]]
    streams: list[bytes]
    """Likewise."""


class Inquires(Order, frozen=True, tag=15):
    """A question that Engine answers, by the name of its method. Answer: pickled."""

    request: int
    what: str
    arguments: bytes
    """Pickled (args, kwargs)."""


class Explains(Order, frozen=True, tag=16):
    """What does it wait for? Answer: text."""

    request: int
    subject: bytes
    kind: str
    """"object", or the name of the class of the id that it is."""


class Leaves(Order, frozen=True, tag=17):
    """The program says goodbye. Replied when what it had has ended."""

    request: int


class Brings(Order, frozen=True, tag=18):
    """Have the files that an environment names on the deputy's machine."""

    request: int
    env: str


class Gives(Order, frozen=True, tag=19):
    """The answer to a Needs."""

    number: int
    body: bytes
    """Packed parts, as of _env/sharing.py."""
    error: str = ""


# ------------------------------------------------------------------ deputy -> program


class Replied(News, frozen=True, tag=1):
    """The answer to a request."""

    request: int
    body: bytes = b""
    error: bytes = b""
    """A packed error instead."""
    refs: list[Held] = []
    """References in it, each of which the program has one count more of."""


class IsThere(News, frozen=True, tag=2):
    """The value of an object is there."""

    object_id: bytes
    data: bytes
    """The packed value or error; empty: it is large."""
    is_error: bool = False


class Shows(News, frozen=True, tag=3):
    """A worker has written this. See Output."""

    worker_id: bytes
    pid: int
    label: str
    is_stderr: bool
    data: bytes
    node: str


class Needs(News, frozen=True, tag=4):
    """The deputy's machine has not what an environment names. Answer: Gives."""

    number: int
    body: bytes
    """Packed wishes, as of _env/sharing.py."""


ANY_ORDER: Any = reduce(or_, Order.__subclasses__())
ANY_NEWS: Any = reduce(or_, News.__subclasses__())
