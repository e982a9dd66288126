"""The control service's commands in their order, and the state that they make.

    command -> journal -> apply -> answer, events
                             |
              tables: machines that are made again by the same commands (tables.py)

What a command makes a table tell is heard by the others within the same step, table by table in the
order in which they were given; then it goes to the shell.

What is always true
1. The same entries make the same state, the same answers and the same events: nothing else comes
   in, and time is part of an entry.
2. A request is done once. Repeated, it gets the answer that it got (rulings.py says for how long).
3. What a node says under a smaller number than was seen of that node is refused, and changes
   nothing. A node that is gone is refused under every number up to its last.
4. A table that raises has changed nothing, as machines do: the request is refused, and so it is
   when the journal is read again. No command can keep the service from starting.
5. The numbers of at most `FENCES_KEPT` nodes are remembered; the node that was heard of longest
   ago is forgotten.

What is not journaled goes to `note` and `due`: nothing of it may change what rule 1 speaks of.

What it does not do: it makes nothing durable. The shell appends an entry before it applies it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from weft._machines import lines
from weft._machines.rulings import ClientImage, Request, Ruling, Rulings
from weft._machines.tables import Consequence, ControlTable, MemberAdded, MemberRemoved, Noted

FENCES_KEPT = 100_000


class Sender(msgspec.Struct, frozen=True, array_like=True):
    """Which node says something, and under which of its incarnations."""

    node: bytes
    incarnation: int


class LedgerEntry(msgspec.Struct, frozen=True):
    """One command as it goes to the journal."""

    at: float
    """Seconds of the service's life, over restarts."""
    command: Any
    request: Request | None = None
    """None: it is done as often as it comes."""
    sender: Sender | None = None
    """None: it is not a node's."""


class _Line(msgspec.Struct, frozen=True, array_like=True):
    """An entry in the journal."""

    at: float
    command: str
    body: msgspec.Raw
    request: Request | None
    sender: Sender | None


class TableBroke(msgspec.Struct, frozen=True):
    """A table found something impossible. The shell logs it: a bug is near."""

    table: str
    what: str
    error: str


class Applied(msgspec.Struct, frozen=True):
    """What came of an entry. The answer is given before anything is done about the events."""

    answer: Ruling
    events: tuple[Any, ...] = ()


class _LedgerImage(msgspec.Struct, frozen=True):
    now: float
    answers: list[ClientImage]
    incarnation_of: list[tuple[bytes, int]]
    tables: dict[str, msgspec.Raw]


class Ledger:
    """All tables of a control service. `tables`: in the order in which they hear of events."""

    def __init__(self, tables: list[ControlTable]) -> None:
        self._tables = tables
        self._table_of: dict[type, ControlTable] = {}
        self._name_of: dict[type, str] = {}
        self._decoder_of: dict[str, msgspec.msgpack.Decoder[Any]] = {}
        self._hearers_of: dict[type, list[ControlTable]] = {}
        self._noters_of: dict[type, list[ControlTable]] = {}
        for table in tables:
            self._add(table)
        self._answers = Rulings()
        self._incarnation_of: dict[bytes, int] = {}
        """The smallest that is listened to; the node heard of longest ago comes first."""
        self.now = 0.0
        """Of the newest entry."""

    def _add(self, table: ControlTable) -> None:
        for name, command in table.commands.items():
            full_name = f"{table.name}.{name}"
            self._table_of[command] = table
            self._name_of[command] = full_name
            self._decoder_of[full_name] = lines.decoder(command)
        for kind in table.hears:
            self._hearers_of.setdefault(kind, []).append(table)
        for kind in table.notes:
            self._noters_of.setdefault(kind, []).append(table)

    # -------------------------------------------------------------- entries

    def encode(self, entry: LedgerEntry) -> bytes:
        """Return an entry as the journal keeps it. KeyError: no table takes the command."""
        name = self._name_of[type(entry.command)]
        body = msgspec.Raw(lines.encode(entry.command))
        line = _Line(entry.at, name, body, entry.request, entry.sender)
        return msgspec.msgpack.encode(line)

    def decode(self, line: bytes) -> LedgerEntry:
        """Read an entry. ValueError: it is damaged, or no table takes such a command."""
        read = msgspec.msgpack.decode(line, type=_Line)
        decoder = self._decoder_of.get(read.command)
        if decoder is None:
            raise ValueError(f"no table takes the command {read.command!r} of the journal")
        return LedgerEntry(read.at, decoder.decode(read.body), read.request, read.sender)

    def takes(self, command: type) -> bool:
        """Tell whether a table takes commands of this type."""
        return command in self._table_of

    def answer_of(self, request: Request) -> Ruling | None:
        """Return what a request was answered; None: it is not known yet."""
        return self._answers.find(request)

    def apply(self, entry: LedgerEntry) -> Applied:
        """Do a command; it must be durable."""
        self.now = max(self.now, entry.at)
        if entry.request is not None:
            known = self._answers.find(entry.request)
            if known is not None:
                return Applied(known)
        refused = self._fence(entry.sender)
        if refused:
            applied = Applied(Ruling(code="fenced", reason=refused))
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

    def _ask(self, table: ControlTable, happened: Any, broken: list[TableBroke]) -> Consequence:
        try:
            return table.apply(happened, self.now)
        except Exception as error:  # noqa: BLE001 - rule 4: else each start would fail at it
            what = type(happened).__name__
            broken.append(TableBroke(table.name, what, f"{type(error).__name__}: {error}"))
            return Consequence(Ruling(code="internal", reason=f"{table.name} cannot take {what}"))

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
            case MemberAdded(node, incarnation):
                self._raise_fence(node, incarnation)
            case MemberRemoved(node, incarnation):
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

    def due(self, now: float) -> Noted:
        """Return what time alone brings."""
        return self._noted([table.due(now) for table in self._tables], now)

    def note(self, happened: Any, now: float) -> Noted:
        """Take what is not journaled; return what there is to tell and to journal."""
        noters = self._noters_of.get(type(happened), ())
        return self._noted([table.note(happened, now) for table in noters], now)

    def _noted(self, found: list[Noted], now: float) -> Noted:
        """Let tables note what other tables say."""
        told: list[Any] = []
        commands: list[Any] = []
        while found:
            noted = found.pop(0)
            commands += noted.commands
            for event in noted.events:
                told.append(event)
                found += [table.note(event, now) for table in self._noters_of.get(type(event), ())]
        return Noted(tuple(told), tuple(commands))

    # -------------------------------------------------------------- snapshots

    def image(self) -> bytes:
        """Return the whole state."""
        return msgspec.msgpack.encode(
            _LedgerImage(
                self.now,
                self._answers.image(),
                list(self._incarnation_of.items()),
                {table.name: msgspec.Raw(lines.encode(table.image())) for table in self._tables},
            )
        )

    def restore(self, image: bytes) -> None:
        """Take the state of an image. msgspec.DecodeError: it is none; nothing has changed.

        A table that the image does not know stays empty.
        """
        read = msgspec.msgpack.decode(image, type=_LedgerImage)
        images = [
            (table, lines.decoder(table.image_type).decode(read.tables[table.name]))
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
