from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Self

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, rule

from weft import _clock
from weft._control import service as shell
from weft._control.base import JournalError, JournalFullError, JournalLostError
from weft._control.memory import Memory, MemoryJournal
from weft._control.service import Service, ServiceEndedError
from weft._machines.actors import SHORT_LIFE_S
from weft._machines.directory import ActorDirectory
from weft._machines.enrolments import EnrolActor, FinishActor, LoseActor, PlaceActor
from weft._machines.keyvalues import VALUE_BYTES, KeyValues, PutValue
from weft._machines.ledger import Ledger, Sender
from weft._machines.orders import OrderQueued, Orders
from weft._machines.rulings import Request, Ruling
from weft._machines.tables import MemberAdded
from weft._override import override

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CLIENT, NODE, ACTOR = b"client", b"node", b"actor"


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


class DyingJournal(MemoryJournal):
    """A journal whose process dies in the midst of an append, or whose lease ends.

    Attributes:
        dies_in: After so many calls; None: it does not.
        kept: How many lines of that call are there nevertheless.
    """

    def __init__(self, memory: Memory) -> None:
        super().__init__(memory)
        self.memory = memory
        self.dies_in: int | None = None
        self.kept = 0
        self.batches: list[int] = []
        self.until = float("inf")

    @override
    def append(self, lines: list[bytes]) -> None:
        self.batches.append(len(lines))
        if self._is_dying():
            super().append(lines[: self.kept])
            raise JournalError("killed")
        super().append(lines)

    @override
    def replace(self, snapshot: bytes) -> None:
        if self._is_dying():
            if self.kept:
                super().replace(snapshot)
            raise JournalError("killed")
        super().replace(snapshot)

    def _is_dying(self) -> bool:
        if self.dies_in is None:
            return False
        self.dies_in -= 1
        return self.dies_in < 0

    @override
    def held_until(self) -> float:
        return self.until


class Life:
    """One life of a control service over a journal in memory."""

    def __init__(self, memory: Memory, clock: Any = _clock) -> None:
        memory.holder = None  # Whoever had it is dead.
        self.journal = DyingJournal(memory)
        self.values, self.orders, self.actors = KeyValues(), Orders(), ActorDirectory()
        self.queued = asyncio.Event()
        """An order was given."""
        tables = [self.orders, self.actors, self.values]
        self.service = Service(self.journal, Ledger([*tables]), clock, self.tell)

    def tell(self, event: Any) -> None:
        if isinstance(event, OrderQueued):
            self.queued.set()

    async def put(self, key: bytes, value: bytes, number: int = 0) -> Ruling:
        request = Request(CLIENT, number) if number else None
        return await self.service.do(PutValue(b"", key, value, overwrite=False), request)

    async def __aenter__(self) -> Self:
        await self.service.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.service.stop()


def in_lives(*parts: Callable[[Life], Awaitable[None]], clock: Any = _clock) -> None:
    """Run each part in another life over one journal."""

    async def run() -> None:
        memory = Memory()
        for number, part in enumerate(parts, 1):
            async with Life(memory, clock) as life:
                assert life.service.number == number
                await part(life)

    asyncio.run(run())


def test_what_was_answered_is_there_in_the_next_life() -> None:
    async def first(life: Life) -> None:
        assert await life.put(b"k", b"1") == Ruling(0)

    async def second(life: Life) -> None:
        assert life.values.get(b"", b"k") == b"1"
        assert await life.put(b"k", b"2") == Ruling(1)

    in_lives(first, second)


def test_commands_that_come_together_are_one_batch() -> None:
    async def burst(life: Life) -> None:
        await asyncio.gather(*(life.put(b"%d" % n, b"") for n in range(500)))
        assert life.journal.batches[:2] in ([500], [1, 499])
        assert len(life.values.keys(b"", b"")) == 500

    in_lives(burst)


def test_batches_are_no_larger_than_the_journal_takes() -> None:
    async def burst(life: Life) -> None:
        large = bytes(VALUE_BYTES // 3)
        await asyncio.gather(*(life.put(b"%d" % n, large) for n in range(10)))
        assert max(life.journal.batches) == 2
        assert len(life.values.keys(b"", b"")) == 10

    in_lives(burst)


def test_repeated_request_is_done_once_while_it_waits_and_after_and_in_the_next_life() -> None:
    async def first(life: Life) -> None:
        assert await asyncio.gather(life.put(b"k", b"1", 1), life.put(b"k", b"1", 1)) == [
            Ruling(0), Ruling(0),
        ]  # fmt: skip
        assert await life.put(b"k", b"1", 1) == Ruling(0)
        assert sum(life.journal.batches) == 1

    async def second(life: Life) -> None:
        assert await life.put(b"k", b"1", 1) == Ruling(0)
        assert life.journal.batches == []

    in_lives(first, second)


def test_caller_that_goes_away_does_not_undo_its_command() -> None:
    async def go(life: Life) -> None:
        task = asyncio.create_task(life.put(b"k", b"1", 1))
        await asyncio.sleep(0)
        task.cancel()
        assert await life.put(b"k", b"1", 1) == Ruling(0)
        assert life.values.get(b"", b"k") == b"1"

    in_lives(go)


def test_what_waits_when_the_service_is_stopped_is_done() -> None:
    async def first(life: Life) -> None:
        tasks = [asyncio.create_task(life.put(b"%d" % n, b"")) for n in range(3)]
        await asyncio.sleep(0)
        await life.service.stop()
        assert await asyncio.gather(*tasks) == [Ruling(0)] * 3
        with pytest.raises(ServiceEndedError):
            await life.put(b"late", b"")

    async def second(life: Life) -> None:
        assert life.values.keys(b"", b"") == [b"0", b"1", b"2"]

    in_lives(first, second)


def test_full_journal_refuses_commands_and_reads_go_on() -> None:
    async def go(life: Life) -> None:
        await life.put(b"k", b"1")
        life.journal.memory.room_bytes = 0
        answer = await life.put(b"other", b"1", 1)
        assert (answer.code, "no room" in answer.reason) == ("full", True)
        life.service.check_alive()
        assert life.values.keys(b"", b"") == [b"k"]
        life.journal.memory.room_bytes = float("inf")
        assert await life.put(b"other", b"1", 1) == Ruling(0)

    in_lives(go)


def test_journal_that_fails_ends_the_service() -> None:
    async def go(life: Life) -> None:
        life.journal.dies_in = 0
        waiting = [asyncio.create_task(life.put(b"%d" % n, b"")) for n in range(3)]
        for task in waiting:
            with pytest.raises(ServiceEndedError, match="killed"):
                await task
        with pytest.raises(ServiceEndedError, match="killed"):
            life.service.check_alive()
        with pytest.raises(ServiceEndedError, match="killed"):
            await life.put(b"late", b"")
        assert life.values.keys(b"", b"") == []
        with pytest.raises(JournalError, match="killed"):
            life.service.ended.result()

    in_lives(go)


def test_service_that_may_have_lost_its_journal_answers_nothing() -> None:
    clock = Clock()

    async def go(life: Life) -> None:
        life.journal.until = clock.now + 3.0
        assert await life.put(b"k", b"1") == Ruling(0)
        clock.now += 3.0
        with pytest.raises(ServiceEndedError, match="may be another's"):
            life.service.check_alive()
        assert isinstance(life.service.ended.exception(), JournalLostError)

    in_lives(go, clock=clock)


def test_too_many_commands_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "WAITING", 3)

    async def go(life: Life) -> None:
        answers = await asyncio.gather(*(life.put(b"%d" % n, b"") for n in range(9)))
        refused = [answer for answer in answers if answer.code]
        assert {answer.code for answer in refused} == {"full"}
        assert len(life.values.keys(b"", b"")) == 9 - len(refused) >= 3

    in_lives(go)


def test_command_that_no_journal_takes_is_refused() -> None:
    async def go(life: Life) -> None:
        answer = await life.put(b"k", bytes(2 * VALUE_BYTES))
        assert (answer.code, life.journal.batches) == ("invalid", [])

    in_lives(go)


@pytest.mark.parametrize(("limit", "value"), [("SNAPSHOT_LINES", 7), ("SNAPSHOT_BYTES", 500)])
def test_snapshots_take_the_place_of_lines(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(shell, limit, value)

    async def first(life: Life) -> None:
        for number in range(100):
            await life.put(b"%d" % number, b"value")
        memory = life.journal.memory
        assert memory.snapshot is not None
        size_bytes = sum(map(len, memory.lines))
        # No snapshot is made before the lines since the last one have outgrown it.
        assert size_bytes <= max(500, len(memory.snapshot)) + 100
        life.journal.memory.room_bytes = 10_000
        while life.journal.memory.room_bytes > 1000:
            await life.put(os.urandom(8), b"value")
        assert len(life.values.keys(b"", b"")) >= 100

    async def second(life: Life) -> None:
        assert len(life.values.keys(b"", b"")) > 100

    in_lives(first, second)


def test_time_stands_still_between_two_lives_and_actors_start_again_by_it() -> None:
    clock = Clock()

    async def first(life: Life) -> None:
        life.orders.apply(MemberAdded(NODE, 1), 0.0)
        life.actors.apply(MemberAdded(NODE, 1), 0.0)
        clock.now += 5.0
        await life.service.do(EnrolActor(ACTOR, b"owner", NODE, b"", b"how", max_restarts=-1))
        for worker in (b"1", b"2"):
            await life.service.do(PlaceActor(ACTOR, NODE, NODE, worker, ""), None, Sender(NODE, 1))
            await life.service.do(LoseActor(ACTOR, worker, "killed"))
        assert life.actors.wake_at() == pytest.approx(5.0 + 0.1)
        life.journal.memory.snapshot = life.service._ledger.image()
        life.journal.memory.lines.clear()

    async def second(life: Life) -> None:
        assert life.service.now == pytest.approx(5.0)
        assert life.actors.wake_at() == pytest.approx(5.1)
        clock.now += SHORT_LIFE_S
        orders = len(life.orders.after(NODE, 0, 100))
        await asyncio.wait_for(life.queued.wait(), 5.0)
        assert life.actors.wake_at() is None
        assert len(life.orders.after(NODE, 0, 100)) == orders + 1

    in_lives(first, second, clock=clock)


def test_journal_that_makes_no_sense_is_told_and_let_go() -> None:
    async def run() -> None:
        memory = Memory()
        memory.lines = [b"nonsense"]
        life = Life(memory)
        with pytest.raises(JournalError, match="cannot be understood"):
            await life.service.start()
        assert memory.holder is None
        await life.service.stop()

    asyncio.run(run())


def test_table_that_breaks_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEFT_CHECK", raising=False)  # The check would end the life before.

    async def go(life: Life) -> None:
        await life.service.do(EnrolActor(ACTOR, b"owner", NODE, b"", b"how"))
        life.actors._enrolled.clear()  # As a bug of ours would have it.
        answer = await life.service.do(FinishActor(ACTOR, False, True, "asked"))
        assert answer.code == "internal"

    in_lives(go)
    assert "the table actors cannot take FinishActor: KeyError" in caplog.text


def test_snapshot_that_does_not_fit_is_logged_and_the_service_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shell, "SNAPSHOT_LINES", 2)

    class NoSnapshots(DyingJournal):
        @override
        def replace(self, snapshot: bytes) -> None:
            raise JournalFullError("no room")

    async def run() -> None:
        life = Life(Memory())
        life.service._journal = NoSnapshots(life.journal.memory)
        async with life:
            for number in range(5):
                assert await life.put(b"%d" % number, b"") == Ruling(0)

    asyncio.run(run())
    assert "no snapshot of the journal is made: no room" in caplog.text


# ------------------------------------------------------------------ deaths at any point

KEYS = [b"a", b"b", b"c"]


class KilledServiceStories(RuleBasedStateMachine):
    """Bursts of commands, deaths in the midst of them, and clients that ask again.

    Of a key, as of a name, the first that gets it has it for good, and is the only one who is told
    so: that is seen to whoever was answered, in all lives.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(shell, "SNAPSHOT_LINES", 5)
        self.patch.setenv("WEFT_CHECK", "1")
        self.loop = asyncio.new_event_loop()
        self.memory = Memory()
        self.life = self.new_life()
        self.number = 0
        self.commands: dict[int, Any] = {}
        self.answers: dict[int, Ruling] = {}

    def new_life(self) -> Life:
        async def begin() -> Life:
            return await Life(self.memory).__aenter__()

        return self.loop.run_until_complete(begin())

    def ask(self, numbers: list[int]) -> None:
        """Ask for some requests together; note the answers."""

        async def all_of_them() -> None:
            asked = [self.life.service.do(self.commands[n], Request(CLIENT, n)) for n in numbers]
            for number, answer in zip(
                numbers, await asyncio.gather(*asked, return_exceptions=True), strict=True
            ):
                if isinstance(answer, Ruling):
                    assert self.answers.setdefault(number, answer) == answer
                else:
                    assert isinstance(answer, ServiceEndedError)

        self.loop.run_until_complete(all_of_them())
        if self.life.service.ended.done():
            self.restarts()

    def command(self, what: str) -> int:
        self.number += 1
        unique = b"%d" % self.number
        if what == "actor":
            facts = EnrolActor(unique, b"owner", NODE, b"", b"how", "name", get_if_exists=True)
            self.commands[self.number] = facts
        else:
            self.commands[self.number] = PutValue(b"", what.encode(), unique, overwrite=False)
        return self.number

    @rule(
        whats=st.lists(st.sampled_from(["a", "b", "c", "actor"]), max_size=6),
        again=st.booleans(),
        dies_in=st.none() | st.integers(0, 3),
        kept=st.integers(0, 3),
    )
    def burst(self, whats: list[str], again: bool, dies_in: int | None, kept: int) -> None:
        self.life.journal.dies_in, self.life.journal.kept = dies_in, kept
        numbers = [self.command(what) for what in whats]
        if again:
            numbers += [number for number in self.commands if number not in self.answers]
        self.ask(numbers)

    @rule()
    def asks_again_what_was_answered(self) -> None:
        self.ask(list(self.answers))

    @rule()
    def restarts(self) -> None:
        self.loop.run_until_complete(self.life.service.stop())
        self.life = self.new_life()
        self.is_as_it_was_told()

    @rule()
    def is_as_it_was_told(self) -> None:
        self.life.service._ledger.check()
        for key in KEYS:
            value = self.life.values.get(b"", key)
            won = [
                self.commands[number].value for number, answer in self.answers.items()
                if isinstance(self.commands[number], PutValue)
                and self.commands[number].key == key and answer.value == 0
            ]  # fmt: skip
            assert won in ([], [value])
        named = self.life.actors.named("name", "")
        for number, answer in self.answers.items():
            if isinstance(self.commands[number], EnrolActor):
                assert answer.value == named

    @override
    def teardown(self) -> None:
        self.life.journal.dies_in = None
        self.ask(list(self.commands))
        self.is_as_it_was_told()
        self.loop.run_until_complete(self.life.service.stop())
        self.loop.close()
        self.patch.undo()


TestKilledServiceStories = KilledServiceStories.TestCase
TestKilledServiceStories.settings = settings(
    max_examples=60, stateful_step_count=20, deadline=None, database=None
)
TestKilledServiceStories.pytestmark = [pytest.mark.slow]
