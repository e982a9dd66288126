"""The manifest of a capsule: plain records that travel as JSON."""

from __future__ import annotations

from typing import Literal

import msgspec

FORMAT = 1
"""Grows by one when an older reader could misread a newer capsule."""
SUFFIX = ".capsule.zip"

Kind = Literal["task", "method", "constructor"]


class Piece(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One value that the call needs."""

    size_bytes: int
    file: str = ""
    """Where in the capsule it is; empty if it was left out. The rest is said of those only."""
    type: str = ""
    shape: tuple[int, ...] | None = None
    dtype: str = ""
    length: int | None = None
    sha256: str = ""
    """Of its arrays, if it has such, else of its pickle."""
    is_sampled: bool = False
    """The hash is of blocks that are spread evenly, as `pieces.digest` says, not of all of it."""


class GivenArguments(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a function was called with."""

    packed: Piece | None = None
    """Packed (args, kwargs). None: there were no arguments."""
    pieces: list[Piece] = []
    """What stands in it as `Dependency(index)`."""


class Raised(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The exception, and the line of the user's that raised it."""

    type: str
    message: str
    file: str = ""
    line: int = 0
    function: str = ""
    source: str = ""


class Died(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the process ended that ran the call."""

    words: str
    exit_code: int | None = None
    """Negative for a signal's number; None: nobody saw it."""
    peak_bytes: int = 0
    limit_bytes: int = 0


class Variables(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The environment of the process, against that in which the driver was started."""

    compared_with: str
    set: dict[str, str] = {}
    """Set since, or to another value."""
    unset: list[str] = []
    redacted: list[str] = []
    """Set since, and secret by their names, or very long."""
    same: dict[str, str] = {}
    """Those that are as they were: the beginning of the value's hash; empty for secrets."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What failed, where, and what it needs to be run again."""

    format: int
    kind: Kind
    name: str
    """Of the task."""
    function: str
    """The function's own name, or the class's."""
    method: str = ""
    task_id: str
    attempt: int
    """Counted from one."""
    actor_id: str = ""
    actor_name: str = ""
    namespace: str = ""
    written_at: str
    """ISO 8601, UTC."""
    duration_s: float | None = None

    raised: Raised | None = None
    died: Died | None = None
    is_late: bool = False
    """It was ended because it ran over `timeout_s`."""
    timeout_s: float = 0
    """0: none."""

    code: Piece
    call: GivenArguments
    constructor: GivenArguments | None = None
    """Of a method's actor. None: whoever left the capsule did not make the actor."""
    references: dict[str, Piece] = {}
    """By id in hexadecimal: references that lie inside arguments or code, if their values were at
    hand.
    """
    num_returns: int | str = 1
    is_async: bool = False
    """The actor's class has async methods."""
    resources: dict[str, int] = {}
    """In 1/10,000."""
    random: list[str] = []
    """The modules whose generators' states are kept."""

    python: str
    platform: str
    optimize: int = 0
    """Level of the interpreter's -O."""
    versions: dict[str, str]
    """Of the imported packages, Weft among them, by the name of the top-level module."""
    pid: int
    host: str
    cwd: str
    sys_path: list[str]
    driver: list[str] = []
    """Its command line."""
    variables: Variables
    runtime_env: str = ""
    """As JSON, without its variables: those are among `variables`."""

    @property
    def subject(self) -> str:
        """What ran, in two words."""
        return f"{self.kind} {self.name}"


def to_json(manifest: Manifest) -> bytes:
    """Return a manifest as a person can read it."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2)
