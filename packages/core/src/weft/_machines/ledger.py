"""The control service's commands in their order, and the state that they make.

    command -> journal -> apply -> answer, events
                             |
              tables: machines that are made again by the same commands

A table is a machine whose state comes from the journal alone. It names the commands that it takes,
each its own, and the events of other tables that it hears. What a command makes a table tell is
heard by the others within the same step, table by table in the order they were given; then it goes
to the shell.

What is always true
1. The same entries make the same state, the same answers and the same events: nothing else comes
   in, and time is part of an entry.
2. A request is done once. Repeated, it gets the answer that it got (answers.py says for how long).
3. What a node says under a smaller number than was seen of that node is refused, and changes
   nothing. A node that is gone is refused under every number up to its last.
4. A table that raises has changed nothing, as machines do: the request is refused, and so it is
   when the journal is read again. No command can keep the service from starting.
5. The numbers of at most `FENCES_KEPT` nodes are remembered; the node that was heard of longest
   ago is forgotten.

What it does not do: it makes nothing durable. The shell appends an entry before it applies it.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar, Union

import msgspec

from weft._machines.answers import Answer, Answers, ClientImage, Request

FENCES_KEPT = 100_000

C = TypeVar("C")


class Sender(msgspec.Struct, frozen=True, array_like=True):
    """Which node says something, and under which of its incarnations."""

    node: bytes
    incarnation: int


class Entry(msgspec.Struct, Generic[C], frozen=True, array_like=True):
    """What the journal keeps of one command. `at`: seconds of the service's life, over restarts."""

    at: float
    command: C
    request: Request | None = None
    """None: it is done as often as it comes."""
    sender: Sender | None = None
    """None: it is not a node's."""


# ------------------------------------------------------------------ what tables tell each other


class NodeJoined(msgspec.Struct, frozen=True):
    """A node is a member under a number that no node had before."""

    node: bytes
    incarnation: int


class NodeLeft(msgspec.Struct, frozen=True):
    """A node is no member any more: it is dead, or was told to go."""

    node: bytes
    incarnation: int
    reason: str


class TableBroke(msgspec.Struct, frozen=True):
    """A table found something impossible. The shell logs it: a bug is near."""

    table: str
    what: str
    error: str


class Outcome(msgspec.Struct, frozen=True):
    """What a table makes of a command or an event."""

    answer: Answer = Answer()
    events: tuple[Any, ...] = ()


class Applied(msgspec.Struct, frozen=True):
    """What came of an entry. The answer is given before anything is done about the events."""

    answer: Answer
    events: tuple[Any, ...] = ()


class Table(Protocol):
    """A machine that is made again by its commands."""

    name: str
    """Its place in a snapshot."""
    commands: tuple[type[msgspec.Struct], ...]
    """What it takes from the journal: each with a tag that no other command has."""
    hears: tuple[type[msgspec.Struct], ...]
    """Events of other tables, and of the ledger's own, that it wants to be given."""
    image_type: Any
    """What `image` returns, for msgspec to decode."""

    def apply(self, happened: Any, now: float) -> Outcome:
        """Take a command or an event. Deterministic; one that raises has changed nothing.

        Of an event the answer counts for nothing. `now` never goes back, and stands still while
        there is no control service.
        """
        ...

    def wake_at(self) -> float | None:
        """Return when `due` may have something; None: not before the next command."""
        ...

    def due(self, now: float) -> list[Any]:
        """Return the commands that time alone brings. It changes nothing: applying them does."""
        ...

    def image(self) -> Any:
        """Return the whole state, for msgspec to encode."""
        ...

    def restore(self, image: Any) -> None:
        """Take the state of an image in the place of the table's own."""
        ...

    def check(self) -> None:
        """Assert what is always true."""
        ...


class _LedgerImage(msgspec.Struct, frozen=True):
    now: float
    answers: list[ClientImage]
    incarnation_of: list[tuple[bytes, int]]
    tables: dict[str, msgspec.Raw]


class Ledger:
    """All tables of a control service. `tables`: in the order in which they hear of events."""

    def __init__(self, tables: list[Table]) -> None:
        self._tables = tables
        self._table_of: dict[type, Table] = {
            command: table for table in tables for command in table.commands
        }
        self._hearers_of: dict[type, list[Table]] = {}
        for table in tables:
            for kind in table.hears:
                self._hearers_of.setdefault(kind, []).append(table)
        self._answers = Answers()
        self._incarnation_of: dict[bytes, int] = {}
        """The smallest that is listened to; the node heard of longest ago comes first."""
        self.now = 0.0
        """Of the newest entry."""
        commands: Any = Union[tuple(self._table_of) or (None,)]  # noqa: UP007 - it is made here
        self._decode = msgspec.msgpack.Decoder(Entry[commands]).decode

    # -------------------------------------------------------------- entries

    @staticmethod
    def encode(entry: Entry[Any]) -> bytes:
        """Return an entry as the journal keeps it."""
        return msgspec.msgpack.encode(entry)

    def decode(self, line: bytes) -> Entry[Any]:
        """Read an entry. msgspec.DecodeError: no table takes such a command."""
        return self._decode(line)

    def takes(self, command: type) -> bool:
        """Tell whether a table takes commands of this type."""
        return command in self._table_of

    def answer_of(self, request: Request) -> Answer | None:
        """Return what a request was answered; None: it is not known yet."""
        return self._answers.find(request)

    def apply(self, entry: Entry[Any]) -> Applied:
        """Do a command; it must be durable."""
        self.now = max(self.now, entry.at)
        if entry.request is not None:
            known = self._answers.find(entry.request)
            if known is not None:
                return Applied(known)
        refused = self._fence(entry.sender)
        if refused:
            applied = Applied(Answer(code="fenced", reason=refused))
        else:
            applied = self._do(entry.command)
        if entry.request is not None:
            self._answers.keep(entry.request, applied.answer)
        return applied

    def _do(self, command: Any) -> Applied:
        table = self._table_of[type(command)]
        broken: list[TableBroke] = []
        outcome = self._ask(table, command, broken)
        told: list[Any] = []
        waiting = [*outcome.events]
        while waiting:
            event = waiting.pop(0)
            told.append(event)
            self._heard(event)
            for hearer in self._hearers_of.get(type(event), ()):
                waiting += self._ask(hearer, event, broken).events
        return Applied(outcome.answer, (*told, *broken))

    def _ask(self, table: Table, happened: Any, broken: list[TableBroke]) -> Outcome:
        try:
            return table.apply(happened, self.now)
        except Exception as error:  # noqa: BLE001 - rule 4: else each start would fail at it
            what = type(happened).__name__
            broken.append(TableBroke(table.name, what, f"{type(error).__name__}: {error}"))
            return Outcome(Answer(code="internal", reason=f"{table.name} cannot take {what}"))

    # -------------------------------------------------------------- fences

    def _fence(self, sender: Sender | None) -> str:
        """Return why a sender is not listened to; empty if it is."""
        if sender is None:
            return ""
        least = self._incarnation_of.get(sender.node, 0)
        if sender.incarnation < least:
            return (
                f"node {sender.node.hex()} speaks as incarnation {sender.incarnation}, and "
                f"{least} is the first that counts: it must register again"
            )
        self._raise_fence(sender.node, sender.incarnation)
        return ""

    def _heard(self, event: Any) -> None:
        match event:
            case NodeJoined(node, incarnation):
                self._raise_fence(node, incarnation)
            case NodeLeft(node, incarnation):
                self._raise_fence(node, incarnation + 1)
            case _:
                pass

    def _raise_fence(self, node: bytes, incarnation: int) -> None:
        least = max(self._incarnation_of.pop(node, 0), incarnation)
        self._incarnation_of[node] = least
        if len(self._incarnation_of) > FENCES_KEPT:
            del self._incarnation_of[next(iter(self._incarnation_of))]

    # -------------------------------------------------------------- time

    def wake_at(self) -> float | None:
        """Return when `due` may have something; None: not before the next command."""
        times = [at for table in self._tables if (at := table.wake_at()) is not None]
        return min(times, default=None)

    def due(self, now: float) -> list[Any]:
        """Return the commands that time alone brings."""
        return [command for table in self._tables for command in table.due(now)]

    # -------------------------------------------------------------- snapshots

    def image(self) -> bytes:
        """Return the whole state."""
        return msgspec.msgpack.encode(
            _LedgerImage(
                self.now,
                self._answers.image(),
                list(self._incarnation_of.items()),
                {
                    table.name: msgspec.Raw(msgspec.msgpack.encode(table.image()))
                    for table in self._tables
                },
            )
        )

    def restore(self, image: bytes) -> None:
        """Take the state of an image. msgspec.DecodeError: it is none; nothing has changed.

        A table that the image does not know stays empty.
        """
        read = msgspec.msgpack.decode(image, type=_LedgerImage)
        images = [
            (table, msgspec.msgpack.decode(read.tables[table.name], type=table.image_type))
            for table in self._tables
            if table.name in read.tables
        ]
        self.now = read.now
        self._answers.restore(read.answers)
        self._incarnation_of = dict(read.incarnation_of)
        for table, found in images:
            table.restore(found)

    def check(self) -> None:
        """Assert what is always true, of every table too."""
        assert len(self._incarnation_of) <= FENCES_KEPT, 5
        self._answers.check()
        for table in self._tables:
            table.check()
