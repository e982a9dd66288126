"""What every journal of a control service has to do: one suite of tests, run on each.

    import pytest

    pytest.register_assert_rewrite("weft.testing.journal_suite")
    from weft.testing.journal_suite import JournalSuite

    class TestMyJournal(JournalSuite):
        def make(self):
            ...  # a hold of the one journal of this test, not opened
            return journal

        def cut(self, journal):
            ...  # let its holder end as with SIGKILL: nothing is said to anybody

        def fill(self):
            ...  # let there be no room any more

        def make_room(self):
            ...  # undo that

They need pytest.
"""

# ruff: noqa: D102, S101
# The methods are tests: their names say what they check.

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from weft._control.base import (
    BATCH_BYTES,
    LINE_BYTES,
    CommandJournal,
    JournalError,
    JournalFullError,
    JournalTakenError,
    Opened,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

FREE_S = 10.0
"""A journal whose holder was cut is free after so long at the most."""
ENOUGH = 200_000
"""Bytes of a line that does not fit once there is no room."""


class JournalSuite:
    """The promises of a journal. A subclass says how to make one."""

    opened: list[CommandJournal]

    def make(self) -> CommandJournal:
        """Return another hold of this test's journal, not opened yet."""
        raise NotImplementedError

    def cut(self, journal: CommandJournal) -> None:
        """Let a holder end as if it was killed."""
        raise NotImplementedError

    def fill(self) -> None:
        """Take the room that the journal has, but for very little."""
        raise NotImplementedError

    def make_room(self) -> None:
        """Give the room back."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def closing(self) -> Iterator[None]:
        """Close what a test has opened."""
        self.opened = []
        yield
        for journal in self.opened:
            journal.close()

    def open(self, wait_s: float = 0.0) -> tuple[CommandJournal, Opened]:
        """Open the journal."""
        journal = self.make()
        self.opened.append(journal)
        return journal, journal.open(wait_s)

    def read(self, wait_s: float = FREE_S) -> Opened:
        """Return what is in it, once it is free."""
        journal, opened = self.open(wait_s)
        journal.close()
        return opened

    # ---------------------------------------------------------------- there and back

    def test_new_journal_is_empty(self) -> None:
        opened = self.read()
        assert (opened.snapshot, opened.lines) == (None, [])
        assert opened.number >= 1

    def test_what_was_appended_is_read_in_order(self) -> None:
        journal, _ = self.open()
        journal.append([b"first", b"", b"\0second\xff"])
        journal.append([b"third"])
        journal.close()
        for _ in range(2):
            assert self.read().lines == [b"first", b"", b"\0second\xff", b"third"]

    def test_many_batches_are_read_in_order(self) -> None:
        journal, _ = self.open()
        lines = [str(number).encode() for number in range(300)]
        for line in lines:
            journal.append([line])
        journal.close()
        assert self.read().lines == lines

    def test_nothing_appended_is_nothing(self) -> None:
        journal, _ = self.open()
        journal.append([])
        journal.append([b"line"])
        journal.close()
        assert self.read().lines == [b"line"]

    def test_longest_line_and_largest_batch_are_kept(self) -> None:
        journal, _ = self.open()
        long = random.Random(1).randbytes(LINE_BYTES)  # noqa: S311 - they are no secret
        journal.append([long])
        journal.append([long[: BATCH_BYTES // 4]] * 4)
        journal.close()
        assert self.read().lines == [long, *[long[: BATCH_BYTES // 4]] * 4]

    def test_each_holder_has_a_greater_number(self) -> None:
        numbers = [self.read().number for _ in range(3)]
        assert numbers == sorted(set(numbers))

    # ---------------------------------------------------------------- snapshots

    def test_snapshot_stands_for_what_was_before(self) -> None:
        journal, _ = self.open()
        journal.append([b"before"])
        journal.replace(b"all")
        journal.append([b"after"])
        journal.close()
        opened = self.read()
        assert (opened.snapshot, opened.lines) == (b"all", [b"after"])

    def test_newest_snapshot_counts(self) -> None:
        journal, _ = self.open()
        for number in range(3):
            journal.append([b"line"])
            journal.replace(f"snapshot {number}".encode())
        journal.close()
        opened = self.read()
        assert (opened.snapshot, opened.lines) == (b"snapshot 2", [])

    def test_snapshot_of_the_next_holder_counts(self) -> None:
        journal, _ = self.open()
        journal.replace(b"first")
        journal.append([b"line"])
        journal.close()
        journal, opened = self.open(FREE_S)
        assert (opened.snapshot, opened.lines) == (b"first", [b"line"])
        journal.replace(b"second")
        journal.append([b"another"])
        journal.close()
        opened = self.read()
        assert (opened.snapshot, opened.lines) == (b"second", [b"another"])

    def test_large_snapshot_is_whole(self) -> None:
        journal, _ = self.open()
        snapshot = random.Random(2).randbytes(5 * BATCH_BYTES + 1)  # noqa: S311 - no secret
        journal.replace(snapshot[: 7 * BATCH_BYTES // 2])
        journal.replace(snapshot)
        journal.close()
        assert self.read().snapshot == snapshot

    # ---------------------------------------------------------------- one holder

    def test_journal_is_one_holders(self) -> None:
        journal, _ = self.open()
        with pytest.raises(JournalTakenError):
            self.open()
        journal.append([b"line"])
        journal.close()
        assert self.read().lines == [b"line"]

    def test_who_waits_gets_it_when_it_is_closed(self) -> None:
        journal, _ = self.open()
        journal.append([b"line"])
        journal.close()
        other, opened = self.open(FREE_S)
        assert opened.lines == [b"line"]
        other.append([b"more"])

    def test_holder_that_was_killed_has_lost_nothing_and_holds_nothing(self) -> None:
        journal, before = self.open()
        journal.append([b"line"])
        self.cut(journal)
        opened = self.read()
        assert opened.lines == [b"line"]
        assert opened.number > before.number

    def test_who_was_replaced_adds_nothing(self) -> None:
        journal, _ = self.open()
        journal.append([b"line"])
        self.cut(journal)
        other, _ = self.open(FREE_S)
        with pytest.raises(JournalError):
            journal.append([b"late"])
        with pytest.raises(JournalError):
            journal.replace(b"late")
        other.append([b"more"])
        other.close()
        opened = self.read()
        assert (opened.snapshot, opened.lines) == (None, [b"line", b"more"])

    def test_journal_that_is_not_open_takes_nothing(self) -> None:
        journal = self.make()
        with pytest.raises(JournalError):
            journal.append([b"line"])
        journal, _ = self.open()
        journal.close()
        journal.close()
        with pytest.raises(JournalError):
            journal.append([b"line"])

    def test_journal_is_held_from_its_opening_to_its_end(self) -> None:
        journal, _ = self.open()
        assert journal.held_until() > 0.0

    # ---------------------------------------------------------------- no room

    def test_full_journal_adds_nothing_and_goes_on(self) -> None:
        journal, _ = self.open()
        journal.append([b"before"])
        self.fill()
        with pytest.raises(JournalFullError):
            journal.append([b"x" * ENOUGH])
        with pytest.raises(JournalFullError):
            journal.replace(b"x" * ENOUGH)
        self.make_room()
        journal.append([b"after"])
        journal.close()
        opened = self.read()
        assert (opened.snapshot, opened.lines) == (None, [b"before", b"after"])
