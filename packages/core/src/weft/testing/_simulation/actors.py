"""Who calls actors in a world, and what a worker does that is one.

Real are the machine of calls and who checks after actors that cannot be reached (`Calls`,
`Checking`). Modelled here is what joins them to connections (`_runtime/calling.py`), and in a
worker the actor itself (`_runtime/actors.py`).
"""

from __future__ import annotations

from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec

from weft._ids import ActorId, TaskId, WorkerId
from weft._machines import calls as call_rules
from weft._machines.attempts import Answered, AskCancel, Complete, Fail, Kill, Ticked
from weft._machines.calls import ActorCall, Calls
from weft._node.acting import ActorQuery
from weft._runtime.checking import Checking
from weft._specs import ActorMeta
from weft._wire.codec import pack, unpack
from weft._wire.messages import (
    ActorExit,
    ActorNews,
    ActorReady,
    Answer,
    Ask,
    BecomeActor,
    CreateActor,
    EndActor,
    WatchActor,
    WorkerLives,
)
from weft.testing._simulation.letters import CallDone, RunCall
from weft.testing._simulation.plans import ActorPlan, CallPlan

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft.testing._simulation.runtimes import VirtualDriver, VirtualWorker
    from weft.testing._simulation.world import VirtualEnd

NAMESPACE = "world"
JOB = "job:"
"""With a driver's id, the environment of its actors: whose they are."""


class _Home:
    """This node (`Home`): which addresses are here."""

    def __init__(self, node: str) -> None:
        self._node = node

    def path_of(self, address: str) -> str | None:
        return address if address.startswith(f"{self._node}/") else None


class _FarDaemon(msgspec.Struct):
    """Another node's daemon, as whom it is asked."""

    address: str
    end: Any


class VirtualCalling:
    """The actors that a driver makes and calls (`Calling`)."""

    def __init__(self, driver: VirtualDriver) -> None:
        self.machine = Calls()
        self._driver = driver
        self._steps = 0
        self._requests: dict[int, Callable[[Answer], None]] = {}
        self._numbers = count(1)
        self._end_of: dict[ActorId, VirtualEnd] = {}
        self._waiting = 0
        self.home = _Home(driver.daemon_address.partition("/")[0])
        self.peers = self
        shell: Any = self
        self.checking = Checking(shell, shell, self.machine, self.tell)

    @property
    def waits(self) -> bool:
        """Whether something of the plan is still to come, or to end."""
        return bool(self._waiting or self.machine.attempts.open)

    # -------------------------------------------------------------- as `Peers` and `Timers`

    def connect(self, address: str) -> _FarDaemon | None:
        """Connect to another node's daemon."""
        end = self._driver.connect(address)
        return None if end is None else _FarDaemon(address, end)

    def send(self, daemon: _FarDaemon, message: Any) -> None:
        """Ask it something."""
        daemon.end.send(message)

    def call_later(self, delay_s: float, do: Callable[[], None]) -> None:
        """Do something later."""
        self._driver.later(delay_s, do)

    # -------------------------------------------------------------- making

    def make(self, plan: ActorPlan, number: int) -> None:
        """Make an actor, or find the one that has its name; and call it."""
        driver = self._driver
        actor = ActorId(b"actor" + driver.worker_id[4:8] + number.to_bytes(7, "big"))
        driver.story.call(actor, f"{plan.name} of {driver.name}")
        name = plan.name if plan.is_named else ""
        meta = ActorMeta(actor, "Actor", {}, name, NAMESPACE if name else "")
        options: dict[str, Any] = {"max_restarts": plan.max_restarts}
        if name:
            options["lifetime"] = "detached"
        driver.tally.made(driver, actor, plan)
        self._waiting += 1
        self.tell(call_rules.ActorMade(actor, in_any_order=False))
        creation = CreateActor(
            meta,
            plan.shape(JOB + driver.worker_id.hex()),
            b"",
            b"",
            msgspec.msgpack.encode(plan),
            [],
            driver.address,
            options,
            self.expect(lambda answer: self._made(plan, actor, answer)),
        )
        driver.daemon.send(creation)

    def expect(self, then: Callable[[Answer], None]) -> int:
        """Have something done with the answer to the next question; return its number."""
        number = next(self._numbers)
        self._requests[number] = then
        return number

    def _made(self, plan: ActorPlan, actor: ActorId, answer: Answer) -> None:
        self._waiting -= 1
        if not answer.error:
            self._known(plan, actor)
            return
        self._told(ActorNews(actor, "dead", "", 0, answer.error))
        if plan.is_named:
            self._waiting += 1
            question = pack(ActorQuery(plan.name, NAMESPACE))
            number = self.expect(lambda found: self._found(plan, found))
            self._driver.daemon.send(Ask(number, "find_actor", question))

    def _found(self, plan: ActorPlan, answer: Answer) -> None:
        self._waiting -= 1
        if not answer.error:
            meta, _ = unpack(answer.body, tuple[ActorMeta, str])
            self._known(plan, meta.actor_id)

    def _known(self, plan: ActorPlan, actor: ActorId) -> None:
        """Call an actor as planned."""
        for call in plan.calls:
            self._waiting += 1
            self._driver.later(call.at_s, lambda c=call: self._call(actor, c))  # type: ignore[misc]  # bound as it is
        if plan.killed_at_s:
            self._driver.later(plan.killed_at_s, lambda: self._kill(plan, actor))

    def _kill(self, plan: ActorPlan, actor: ActorId) -> None:
        end = EndActor(actor, graceful=False, no_restart=not plan.may_restart, reason="killed")
        self._driver.daemon.send(end)
        if actor in self.machine.callees:
            self.tell(call_rules.Killed(actor))

    # -------------------------------------------------------------- calling

    def _call(self, actor: ActorId, plan: CallPlan) -> None:
        self._waiting -= 1
        driver = self._driver
        task_id = TaskId(b"call" + driver.worker_id[4:8] + next(self._numbers).to_bytes(8, "big"))
        driver.story.call(task_id, f"{plan.name} of {driver.name}")
        call = ActorCall(
            task_id, actor, name=plan.name, retries=plan.retries, timeout_s=0.0, note=plan
        )
        driver.tally.called(driver, call)
        call.state = "ready"
        self.tell(call_rules.CallMade(call, in_any_order=False))

    def tell(self, event: Any) -> None:
        """Tell the machine of calls, and do what it says."""
        for effect in self.machine.handle(event, self._driver.world.now):
            self._perform(effect)
        self._steps += 1
        if not self._steps % 16:
            self.machine.check()

    def _perform(self, effect: call_rules.Effect) -> None:
        driver = self._driver
        match effect:
            case call_rules.Watch(actor):
                driver.daemon.send(WatchActor(actor))
            case call_rules.Connect(actor, address):
                end = driver.connect(address)
                if end is None:
                    self.checking.begin(actor, address)
                else:
                    self._end_of[actor] = end
                    self.tell(call_rules.Connected(actor, address))
            case call_rules.SendCall(_, call):
                message = RunCall(call.id, call.actor, call.attempt, call.note)
                self._end_of[call.actor].send(message)
            case Complete(call):
                driver.tally.call_ended(driver, call, "")
            case Fail(call, kind, detail):
                driver.tally.call_ended(driver, call, kind, detail)
            case AskCancel() | Kill():
                raise AssertionError("no call is cancelled")

    def tick(self) -> None:
        """Do what is due."""
        at = self.machine.next_deadline
        if at is not None and at <= self._driver.world.now:
            self.tell(Ticked())

    # -------------------------------------------------------------- what is heard

    def heard(self, end: VirtualEnd, message: Any) -> bool:
        """Take a message; False: it is not about actors."""
        match message:
            case ActorNews():
                self._told(message)
            case Answer(request):
                self._requests.pop(request)(message)
            case CallDone(task_id, life, number):
                call = self.machine.attempts.open.get(task_id)
                if call is not None:
                    self._driver.tally.answered(call, life, number)
                    self.tell(Answered(task_id, 0.0, False))
            case WorkerLives():
                peer: Any = end
                self.checking.on_worker_lives(peer, message)
            case _:
                return False
        return True

    def _told(self, news: ActorNews) -> None:
        actor = ActorId(news.actor_id)
        end = self._end_of.get(actor)
        if news.state != "alive" and end is not None:
            end.read_arrived()
        if news.state == "dead":
            self._end_of.pop(actor, None)
        if actor in self.machine.callees:
            self.tell(call_rules.Told(news))

    def ended(self, worker: bytes) -> None:
        """A worker has ended."""
        self.checking.ended(WorkerId(worker))

    def lost(self, end: VirtualEnd) -> None:
        """A connection broke."""
        for actor in [each for each, its in self._end_of.items() if its is end]:
            del self._end_of[actor]
            self.tell(call_rules.ConnectionLost(actor))
            self.checking.begin(actor, end.peer)
        if end.peer.endswith("/node"):
            peer: Any = _FarDaemon(end.peer, end)
            self.checking.daemon_lost(peer)


class VirtualActor:
    """What a worker is that was made an actor: it runs one call after the other."""

    def __init__(self, worker: VirtualWorker, message: BecomeActor) -> None:
        self.actor_id = message.meta.actor_id
        self.plan = msgspec.msgpack.decode(message.args, type=ActorPlan)
        self.life = worker.worker_id.hex()
        self._worker = worker
        self._queue: deque[tuple[VirtualEnd, RunCall]] = deque()
        self._is_busy = False
        self._is_quitting = False
        self._runs = 0
        worker.tally.life_began(worker, self)
        worker.later(self.plan.builds_s, self._build)

    def _build(self) -> None:
        if self.plan.fails:
            self._worker.daemon.send(ActorReady(self.actor_id, b"it fails"))
            self._worker.later(0.0, lambda: self._worker.die("its constructor failed"))
            return
        self._worker.daemon.send(ActorReady(self.actor_id))

    def quit(self) -> None:
        """End after the calls that there are."""
        self._is_quitting = True
        self._next()

    def forget(self, end: VirtualEnd) -> None:
        """A caller is gone, with what of its has not begun."""
        self._queue = deque(each for each in self._queue if each[0] is not end)

    def run(self, end: VirtualEnd, message: RunCall) -> None:
        """Run a call in its turn."""
        if message.actor != self.actor_id:
            raise AssertionError("a call for another actor")
        if not self._is_quitting:
            self._queue.append((end, message))
            self._next()

    def _next(self) -> None:
        if self._is_busy:
            return
        if not self._queue:
            if self._is_quitting:
                self._worker.daemon.send(ActorExit(self.actor_id, "it was told to"))
                self._worker.die("it was told to end")
            return
        end, message = self._queue.popleft()
        self._is_busy = True
        number = 0
        if not message.plan.retries:
            self._runs += 1
            number = self._runs
        self._worker.tally.call_began(self._worker, self, message, number)
        if message.plan.crashes_at > message.attempt:
            self._worker.later(
                message.plan.lasts_s, lambda: self._worker.die(f"{message.plan.name} crashed it")
            )
            return

        def done() -> None:
            self._is_busy = False
            end.send(CallDone(message.task_id, self.life, number))
            self._next()

        self._worker.later(message.plan.lasts_s, done)
