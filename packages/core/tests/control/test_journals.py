from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from weft._control.base import (
    CommandJournal,
    JournalError,
    JournalFullError,
    JournalLostError,
    JournalTakenError,
    pack,
    seal,
    unpack,
    unseal,
)
from weft._control.etcd import EtcdJournal
from weft._control.etcd_gateway import EtcdGateway, put
from weft._control.memory import Memory, MemoryJournal
from weft._control.sqlite import SqliteJournal
from weft._override import override
from weft.testing.journal_suite import JournalSuite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Etcd

# As long as outside of tests: etcd is asked for as long, and a busy disk takes a second.
LEASE_S = 3


class TestMemory(JournalSuite):
    @pytest.fixture(autouse=True)
    def remembering(self) -> None:
        self.memory = Memory()

    @override
    def make(self) -> MemoryJournal:
        return MemoryJournal(self.memory)

    @override
    def cut(self, journal: CommandJournal) -> None:
        self.memory.holder = None

    @override
    def fill(self) -> None:
        self.memory.room_bytes = 100

    @override
    def make_room(self) -> None:
        self.memory.room_bytes = float("inf")


@pytest.mark.slow
class TestSqlite(JournalSuite):
    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "journal.db"

    @override
    def make(self) -> SqliteJournal:
        return SqliteJournal(self.path)

    @override
    def cut(self, journal: CommandJournal) -> None:
        # As far as another process sees it: the locks are gone, and the log is as it was.
        assert isinstance(journal, SqliteJournal)
        copies = {path: path.read_bytes() for path in self.path.parent.iterdir()}
        assert journal._database is not None
        journal._database.close()
        for path, contents in copies.items():
            path.write_bytes(contents)

    @override
    def fill(self) -> None:
        (journal,) = self.opened
        assert isinstance(journal, SqliteJournal)
        assert journal._database is not None
        (pages,) = journal._database.execute("PRAGMA page_count").fetchone()
        journal._database.execute(f"PRAGMA max_page_count = {pages}")

    @override
    def make_room(self) -> None:
        (journal,) = self.opened
        assert isinstance(journal, SqliteJournal)
        assert journal._database is not None
        journal._database.execute("PRAGMA max_page_count = 1000000")

    def test_file_is_its_users_alone(self) -> None:
        self.read()
        assert self.path.stat().st_mode & 0o777 == 0o600

    def test_torn_end_of_the_log_is_no_batch_and_no_half(self) -> None:
        log = self.path.with_name("journal.db-wal")
        journal, _ = self.open()
        journal.append([b"first"])
        synced = log.stat().st_size
        journal.append([b"second" * 2000, b"third" * 2000])
        contents, whole = self.path.read_bytes(), log.read_bytes()
        journal.close()
        for size in [*range(synced, len(whole), 997), len(whole) - 1]:
            self.path.write_bytes(contents)
            log.write_bytes(whole[:size])
            assert self.read().lines == [b"first"], size
        self.path.write_bytes(contents)
        log.write_bytes(whole)
        assert self.read().lines == [b"first", b"second" * 2000, b"third" * 2000]

    def test_bit_that_turned_is_told(self) -> None:
        journal, _ = self.open()
        journal.append([b"line" * 50])
        journal.close()
        contents = self.path.read_bytes()
        at = contents.index(b"lineline")
        self.path.write_bytes(contents[:at] + b"L" + contents[at + 1 :])
        with pytest.raises(JournalError, match=r"record 1 of .* is damaged"):
            self.open()

    def test_file_that_is_no_journal_is_told(self) -> None:
        self.path.write_bytes(b"something else" * 100)
        with pytest.raises(JournalError, match="not a database"):
            self.open()

    def test_journal_of_a_later_release_is_refused(self) -> None:
        self.read()
        with contextlib.closing(sqlite3.connect(self.path)) as database:
            database.execute("PRAGMA user_version = 2")
        with pytest.raises(JournalError, match="has format 2, and this release reads 1"):
            self.open()

    def test_full_disk_adds_nothing_and_what_was_there_stays(self, small_disk: Path) -> None:
        self.path = small_disk / "journal.db"
        others = small_disk / "others"
        others.write_bytes(bytes(600_000))  # As much as SQLite needs to move its log
        journal, _ = self.open()
        kept: list[bytes] = []

        def append_for_ever() -> None:
            for number in itertools.count():
                line = b"%06d" % number * 200
                journal.append([line])
                kept.append(line)

        with pytest.raises(JournalFullError, match="make room"):
            append_for_ever()
        assert kept
        journal.close()
        others.unlink()
        other, opened = self.open()
        assert opened.lines == kept
        other.replace(b"all")
        other.append([b"there is room"])
        other.close()
        opened = self.read()
        assert (opened.snapshot, opened.lines) == (b"all", [b"there is room"])

    def test_process_that_is_killed_while_it_appends_keeps_what_it_has_told(self) -> None:
        program = (
            "import sys, itertools\n"
            "from pathlib import Path\n"
            "from weft._control.sqlite import SqliteJournal\n"
            "journal = SqliteJournal(Path(sys.argv[1]))\n"
            "journal.open()\n"
            "for n in itertools.count():\n"
            "    journal.append([b'%d' % n, b'x' * 5000])\n"
            "    print(n, flush=True)\n"
            "    if n % 20 == 19: journal.replace(b'%d' % n)\n"
        )
        for told_at_the_kill in (0, 7, 20, 33):
            self.path.unlink(missing_ok=True)
            with subprocess.Popen(
                [sys.executable, "-c", program, str(self.path)], stdout=subprocess.PIPE
            ) as process:
                assert process.stdout is not None
                told = -1
                while told < told_at_the_kill:
                    told = int(process.stdout.readline())
                process.send_signal(signal.SIGKILL)
                told = int((b"%d\n" % told + process.stdout.read()).split()[-1])
            opened = self.read(0.0)
            begun = int(opened.snapshot) + 1 if opened.snapshot else 0
            numbers = [int(line) for line in opened.lines[::2]]
            assert opened.lines[1::2] == [b"x" * 5000] * len(numbers)
            assert numbers == list(range(begun, begun + len(numbers)))
            assert told <= begun + len(numbers) - 1 <= told + 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    folder = tmp_path / "disk"
    folder.mkdir()
    if mount is None or umount is None or os.getuid():
        pytest.skip("only root can mount a small disk")
    command = [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("the kernel does not let us mount a small disk")
    yield folder
    subprocess.run([umount, "-l", str(folder)], check=True)


@pytest.mark.slow
class TestEtcd(JournalSuite):
    @pytest.fixture(autouse=True)
    def prefix(self, etcd: Etcd, request: pytest.FixtureRequest) -> None:
        self.etcd = etcd
        self.name = f"tests/{request.node.name}"

    @override
    def make(self) -> EtcdJournal:
        return EtcdJournal([self.etcd.url], self.name, lease_s=LEASE_S)

    @override
    def cut(self, journal: CommandJournal) -> None:
        assert isinstance(journal, EtcdJournal)
        assert journal._keeper is not None
        journal._over.set()
        journal._keeper.join()

    def gateway(self) -> contextlib.closing[EtcdGateway]:
        return contextlib.closing(EtcdGateway([self.etcd.url], timeout_s=10))

    @override
    def fill(self) -> None:
        with self.gateway() as gateway, contextlib.suppress(JournalFullError):
            for number in itertools.count():
                value = put(b"filling/%d" % number, os.urandom(1_000_000))
                gateway.call("kv/put", value["request_put"])

    @override
    def make_room(self) -> None:
        with self.gateway() as gateway:
            gone = {"key": "ZmlsbGluZy8=", "range_end": "ZmlsbGluZzA="}  # filling/, filling0
            revision = gateway.call("kv/deleterange", gone)["header"]["revision"]
            gateway.call("kv/compaction", {"revision": revision, "physical": True})
            gateway.call("maintenance/defragment", {})
            for alarm in gateway.call("maintenance/alarm", {"action": "GET"})["alarms"]:
                gateway.call("maintenance/alarm", {"action": "DEACTIVATE", **alarm})

    def test_late_writer_is_refused_by_etcd_itself(self) -> None:
        journal, _ = self.open()
        self.cut(journal)
        other, _ = self.open(10.0)
        # As if its process had stood still between the look at the clock and the write.
        assert isinstance(journal, EtcdJournal)
        journal._held_until = float("inf")
        with pytest.raises(JournalLostError):
            journal.append([b"late"])
        other.close()
        assert self.read().lines == []

    def test_holder_that_is_cut_off_knows_before_another_gets_it(self) -> None:
        journal, _ = self.open()
        self.cut(journal)
        until = journal.held_until()
        self.open(10.0)
        assert time.monotonic() >= until

    def test_lease_is_kept_while_nothing_is_written(self) -> None:
        journal, _ = self.open()
        first = journal.held_until()
        threading.Event().wait(2 * LEASE_S)
        assert journal.held_until() > first
        journal.append([b"line"])

    def test_lease_that_etcd_has_forgotten_is_over(self) -> None:
        journal, _ = self.open()
        assert isinstance(journal, EtcdJournal)
        with self.gateway() as gateway:
            gateway.call("lease/revoke", {"ID": journal._lease})
        assert journal._keeper is not None
        journal._keeper.join(5.0)
        assert journal.held_until() < time.monotonic()
        with pytest.raises(JournalLostError):
            journal.append([b"late"])

    def test_who_waits_is_told_at_once(self) -> None:
        journal, _ = self.open()
        waited: list[float] = []

        def wait() -> None:
            other, _ = self.open(10.0)
            waited.append(time.monotonic())
            other.close()

        thread = threading.Thread(target=wait)
        thread.start()
        threading.Event().wait(0.3)
        assert not waited
        closed_at = time.monotonic()
        journal.close()
        thread.join()
        assert waited[0] - closed_at < 0.5

    def test_append_goes_on_when_etcd_was_away_for_a_moment(self, own_etcd: Etcd) -> None:
        self.etcd = own_etcd
        journal = EtcdJournal([own_etcd.url], self.name, lease_s=10)
        self.opened.append(journal)
        journal.open()
        journal.append([b"before"])
        own_etcd.kill()
        back = threading.Timer(0.5, own_etcd.start)
        back.start()
        journal.append([b"meanwhile"])
        back.join()
        journal.close()
        assert self.read().lines == [b"before", b"meanwhile"]

    def test_members_that_are_down_are_passed_over(self) -> None:
        down = "http://127.0.0.1:1"
        journal = EtcdJournal([down, self.etcd.url], self.name, lease_s=LEASE_S)
        self.opened.append(journal)
        journal.open()
        journal.append([b"line"])
        journal.close()
        assert self.read().lines == [b"line"]

    def test_etcd_that_is_not_there_is_told(self) -> None:
        journal = EtcdJournal(["http://127.0.0.1:1"], self.name, lease_s=LEASE_S)
        with pytest.raises(JournalError, match=r"127\.0\.0\.1:1 does not answer"):
            journal.open()

    def two_lines(self) -> None:
        journal, _ = self.open()
        for line in (b"first", b"second"):
            journal.append([line])
        journal.close()

    def test_record_that_somebody_has_changed_is_told(self) -> None:
        self.two_lines()
        changed = put(f"{self.name}/log/0000000000000002".encode(), b"junk!")
        with self.gateway() as gateway:
            gateway.call("kv/put", changed["request_put"])
        with pytest.raises(JournalError, match="0000000000000002 in etcd is damaged"):
            self.open()

    def test_record_that_somebody_has_deleted_is_told(self) -> None:
        self.two_lines()
        deleted = put(f"{self.name}/log/0000000000000001".encode(), b"")
        with self.gateway() as gateway:
            gateway.call("kv/deleterange", {"key": deleted["request_put"]["key"]})
        with pytest.raises(JournalError, match="follows a gap"):
            self.open()

    def test_journal_can_be_opened_again_after_it_could_not_be_read(self) -> None:
        journal, _ = self.open()
        with pytest.raises(JournalTakenError):
            self.open()
        journal.close()
        assert self.read().lines == []


@pytest.mark.parametrize("lines", [[], [b""], [b"a", b"\0" * 1000]])
def test_record_tells_when_it_is_damaged(lines: list[bytes]) -> None:
    record = pack(lines)
    assert unpack(record, "it") == lines
    for at in range(0, len(record), 7):
        damaged = record[:at] + bytes([record[at] ^ 1]) + record[at + 1 :]
        with pytest.raises(JournalError, match="it is damaged"):
            unpack(damaged, "it")
    with pytest.raises(JournalError, match="it is damaged"):
        unseal(seal(b"body")[:-1], "it")
