"""A world in one thread: virtual time, processes, connections between them, and what breaks them.

    world.later(0.1, do)             do() runs when the virtual time is 0.1 s further
    caller.call(address, hello)      a connection; the other side hears of it by its first message

Everything that happens is drawn from the world's random numbers, so a seed is a story that can be
told again.

What is always true
1. Messages of a connection arrive in the order in which they were sent, once, or the connection
   ends: then a first part of what was on its way has arrived, and each side hears of the end after
   that.
2. A process that was killed does nothing any more; one that is stopped does what it has to do
   later.
3. What a host sends while it is cut off arrives when it is not, or never.
"""

from __future__ import annotations

import random
from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from weft.testing._simulation.promises import Broken
from weft.testing._simulation.story import Story

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft.testing._simulation.promises import SimulationTally

# On one host, and between hosts of one room; a slow message now and then changes more orders than
# all being slow.
NEAR_S = (0.00002, 0.0003)
FAR_S = (0.0001, 0.002)
SLOW_S = 0.2
SLOW_SHARE = 0.02
MOST_STEPS = 50_000
"""A hundred times what a schedule takes."""


class World:
    """Time, chance and who can be reached."""

    def __init__(
        self, seed: object, *, most_steps: int = MOST_STEPS, keeps_story: bool = True
    ) -> None:
        """`most_steps`: there is something wrong if it takes more."""
        self.random = random.Random(repr(seed))
        self._most_steps = most_steps
        self.now = 0.0
        self.story = Story(self, is_kept=keeps_story)
        self.tally: SimulationTally
        self.steps = 0
        self._queue: list[tuple[float, float, int, Callable[[], None]]] = []
        self._put = 0
        self._serial = 0
        self._process_at: dict[str, VirtualProcess] = {}
        self._cuts: dict[tuple[str, str], float] = {}
        """By two hosts: until when nothing passes between them."""

    def clock(self) -> float:
        """Return the time, in seconds."""
        return self.now

    def serial(self) -> int:
        """Return a number that was not returned before."""
        self._serial += 1
        return self._serial

    def later(self, delay_s: float, do: Callable[[], None]) -> None:
        """Do something so much later; what falls on one moment is done in any order."""
        self._put += 1
        heappush(self._queue, (self.now + delay_s, self.random.random(), self._put, do))

    def run(self, until_s: float, is_over: Callable[[], bool]) -> None:
        """Go on until that time, or until it is over."""
        queue = self._queue
        while queue and not is_over():
            at = queue[0][0]
            if at > until_s:
                break
            self.now = at
            self.steps += 1
            if self.steps > self._most_steps:
                raise Broken(f"it does not come to rest: {self.steps} steps")
            heappop(queue)[3]()
        else:
            return
        self.now = until_s

    # -------------------------------------------------------------- who is where

    def enter(self, process: VirtualProcess, address: str) -> None:
        """Have a process called under an address."""
        self._process_at[address] = process

    def at(self, address: str) -> VirtualProcess | None:
        """Return the process that listens there."""
        process = self._process_at.get(address)
        return process if process is not None and process.is_alive else None

    # -------------------------------------------------------------- the wire

    def cut(self, some: set[str], others: set[str], lasts_s: float) -> None:
        """Let nothing pass between two groups of hosts for so long."""
        for one in sorted(some):
            for other in sorted(others - some):
                until = max(self._cuts.get(_pair(one, other), 0.0), self.now + lasts_s)
                self._cuts[_pair(one, other)] = until

    def cut_until(self, one: str, other: str) -> float:
        """Return until when nothing passes between two hosts."""
        return self._cuts.get(_pair(one, other), 0.0)

    def delay_s(self, one: str, other: str) -> float:
        """Draw how long a message is on its way."""
        low, high = NEAR_S if one == other else FAR_S
        draw = self.random.random()
        if draw < SLOW_SHARE:
            return draw / SLOW_SHARE * SLOW_S
        return low + (high - low) * draw


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)


class VirtualEnd:
    """A process's end of a connection."""

    __slots__ = ("_inbox", "closed", "lost", "other", "peer", "process", "receive", "told")

    def __init__(self, process: VirtualProcess) -> None:
        self.process = process
        self.other: VirtualEnd
        self.closed = False
        self.told = False
        """The other side has closed it, and what it said before is still to come."""
        self.peer: Any = None
        """What the process makes of the other side."""
        self.receive: Callable[[VirtualEnd, Any], None]
        self.lost: Callable[[VirtualEnd, str], None]
        self._inbox: deque[Any] = deque()

    def send(self, message: Any) -> None:
        """Send a message; nothing happens if there is nobody any more."""
        if not self.closed:
            self.other.arrive(message)

    def arrive(self, message: Any) -> None:
        """Have something on its way to here."""
        if not self.closed and not self.told:
            self._inbox.append(message)
            world = self.process.world
            delay_s = world.delay_s(self.other.process.host, self.process.host)
            world.later(delay_s, self._deliver)

    def close(self, why: str = "the other side has closed it") -> None:
        """End the connection; the other side hears of it after what was sent."""
        if not self.closed:
            self.closed = True
            self._inbox.clear()
            self.other.arrive(_Closing(why))
            self.other.told = True

    def read_rest(self) -> None:
        """Hear what is on its way to here from a process of this host that has ended; no more."""
        while self._inbox and not self.closed:
            message = self._inbox.popleft()
            if not isinstance(message, _Closing):
                self.receive(self, message)
        self.close()

    def read_arrived(self) -> None:
        """Hear a first part of what is on its way to here, which has just arrived."""
        for _ in range(self.process.world.random.randint(0, len(self._inbox))):
            if self.closed or isinstance(self._inbox[0], _Closing):
                break
            self.receive(self, self._inbox.popleft())

    def tear(self, why: str) -> None:
        """End both ends; of what is on its way to here, some may still arrive."""
        if self.closed:
            return
        if not self.told:
            kept = self.process.world.random.randint(0, len(self._inbox))
            while len(self._inbox) > kept:
                self._inbox.pop()
            self.arrive(_Closing(why))
            self.told = True

    def _deliver(self) -> None:
        """Take the next message, if nothing stands in its way."""
        process = self.process
        if self.closed or not self._inbox or not process.is_alive:
            return
        world = process.world
        cut_until = world.cut_until(process.host, self.other.process.host)
        if cut_until > world.now and self.other.process.is_lost:
            return  # Nobody sends it again.
        until = max(cut_until, process.stopped_until)
        if until > world.now:
            world.later(until - world.now + world.delay_s("", "."), self._deliver)
            return
        message = self._inbox.popleft()
        if isinstance(message, _Closing):
            self.closed = True
            process.story.add(process, "loses", self.other.process, message.why)
            process.step(lambda: self.lost(self, message.why))
        else:
            process.story.add(process, "hears", self.other.process, message)
            process.step(lambda: self.receive(self, message))


class _Closing:
    __slots__ = ("why",)

    def __init__(self, why: str) -> None:
        self.why = why


class VirtualProcess:
    """Something that runs on a host, has connections and can be killed or stopped."""

    def __init__(self, world: World, host: str, name: str, address: str) -> None:
        self.world = world
        self.story = world.story
        self.host = host
        self.name = name
        self.address = address
        self.is_alive = True
        self.is_lost = False
        """Its host has failed with it."""
        self.stopped_until = 0.0
        self.ends: dict[VirtualEnd, None] = {}
        self._armed_at = float("inf")
        world.enter(self, address)

    # -------------------------------------------------------------- connections

    def call(
        self,
        address: str,
        hello: Any,
        receive: Callable[[VirtualEnd, Any], None],
        lost: Callable[[VirtualEnd, str], None],
    ) -> VirtualEnd | None:
        """Open a connection, of which the first message is `hello`, if there is one.

        None: nobody is there, and that is known at once, for it is on this host. On another one the
        connection is lost later.
        """
        end = VirtualEnd(self)
        end.receive, end.lost = receive, lost
        other = self.world.at(address)
        if other is None:
            if address.startswith(f"{self.host}:"):
                return None
            end.other = VirtualEnd(Nobody(self.world, address.partition(":")[0]))
            end.other.other = end
            self.ends[end] = None
            end.other.close("nobody is there")
            return end
        end.other = VirtualEnd(other)
        end.other.other = end
        end.other.receive, end.other.lost = other.takers(address)
        self.ends[end] = other.ends[end.other] = None
        if hello is not None:
            end.send(hello)
        return end

    def takers(
        self, address: str
    ) -> tuple[Callable[[VirtualEnd, Any], None], Callable[[VirtualEnd, str], None]]:
        """Return who hears messages of those that call an address of this process, and ends."""
        return self.called, self.hung_up

    def called(self, end: VirtualEnd, message: Any) -> None:
        """Hear a message of who has called."""
        raise NotImplementedError

    def hung_up(self, end: VirtualEnd, why: str) -> None:
        """Hear that who has called is gone."""
        raise NotImplementedError

    # -------------------------------------------------------------- time

    def later(self, delay_s: float, do: Callable[[], None]) -> None:
        """Do something later, if this process lives then; at once when it goes on if it stands."""

        def ripe() -> None:
            if not self.is_alive:
                return
            if self.stopped_until > self.world.now:
                self.world.later(self.stopped_until - self.world.now, ripe)
            else:
                self.step(do)

        self.world.later(delay_s, ripe)

    def step(self, do: Callable[[], None]) -> None:
        """Do something as this process, and what is due after it."""
        do()
        self._arm()

    def wake_at(self) -> float | None:
        """Return when `wake` is due, in seconds; None: never, as things are."""
        return None

    def wake(self) -> None:
        """Do what is due."""

    def _arm(self) -> None:
        at = self.wake_at()
        if at is None or at >= self._armed_at or not self.is_alive:
            return
        self._armed_at = at

        def ring() -> None:
            if self._armed_at == at:
                self._armed_at = float("inf")
                self.wake()

        # A clock that rings a little early is asked again at once, for ever.
        self.later(max(0.0, at - self.world.now) + 1e-6, ring)

    # -------------------------------------------------------------- the end

    def die(self, why: str, *, with_host: bool = False) -> None:
        """End at once, as with SIGKILL. `with_host`: nobody is told by the system either."""
        if not self.is_alive:
            return
        self.story.add(self, "dies", None, why)
        self.is_alive, self.is_lost = False, with_host
        for end in list(self.ends):
            if not with_host:
                end.close(why)
            elif end.other.process.host == self.host:
                end.closed = True


class Nobody(VirtualProcess):
    """Stands for a process that is not there."""

    def __init__(self, world: World, host: str) -> None:
        self.world, self.host, self.name, self.address = world, host, "nobody", ""
        self.story = world.story
        self.is_alive = self.is_lost = False
        self.stopped_until = 0.0
        self.ends = {}
