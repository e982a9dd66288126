"""The engine of worker processes: one process's part of a session.

Drivers and workers run the same Runtime; a worker has an Executor beside it (executor.py), which
runs what others send. The parts share one loop, whose guard is held by whoever touches a machine or
a connection:

    leasing.py   tasks and the workers leased for them        calling.py    actors and their calls
    submissions.py   what those two have in common
    streams.py   what generator tasks yield                   values.py     put, get, wait
    groups.py    placement groups
    objects.py   the table of objects, borrowers, segments    questions.py  of others, and why
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft._engine import current
from weft._ids import JobId, NodeId, ObjectId, TaskId, WorkerId
from weft._launch import home_of
from weft._lazy import lazy
from weft._machines.attempts import CancelAsked
from weft._machines.ownership import PeerLost, Sealed
from weft._refs import ObjectRef, ObjectRefGenerator
from weft._runtime import bundles, measures
from weft._runtime.calling import Calling
from weft._runtime.groups import GroupRequests
from weft._runtime.inspection import Inspection
from weft._runtime.leasing import Leasing
from weft._runtime.links import Links
from weft._runtime.loop import Loop, Waiter
from weft._runtime.objects import Objects
from weft._runtime.orphans import Orphans
from weft._runtime.peers import Peer, Peers, hello
from weft._runtime.questions import Questions
from weft._runtime.reasons import Reasons
from weft._runtime.recorder import TaskRecorder
from weft._runtime.room import Room
from weft._runtime.running import running
from weft._runtime.streams import Streams
from weft._runtime.values import Values
from weft._serialize.failures import pack_error
from weft._serialize.refs import hooks
from weft._settings import CAPSULES
from weft._specs import Place
from weft._store.opens import opens_counter
from weft._transport.addresses import DOORS, split
from weft._transport.outside import Outside
from weft._transport.sockets import SocketListener
from weft._transport.timers import Timers
from weft._wire import codec
from weft._wire.messages import (
    ActorNews,
    Answer,
    Because,
    Borrow,
    Borrowed,
    CancelObject,
    Certificate,
    Done,
    Evict,
    Failure,
    Fetch,
    Fetched,
    Free,
    GiveBack,
    Gone,
    Granted,
    Inspect,
    Learned,
    Loan,
    Measure,
    Message,
    NodeDrains,
    NodeLost,
    NodeTold,
    Orphaned,
    Output,
    Preload,
    Recall,
    Reclaim,
    Recycle,
    Refused,
    Restored,
    Return,
    SentOn,
    Settled,
    Transfer,
    Welcome,
    Why,
    WorkerLives,
    WorkerPaused,
    Yielded,
)
from weft.exceptions import InternalError, SessionError

if TYPE_CHECKING:
    import traceback
    from collections.abc import Callable, Sequence

    from weft._launch import ClusterFile
    from weft._machines.ownership import Entry
    from weft._runtime import capsules, copies, partings
    from weft._runtime.capsules import Capsules
    from weft._specs import ActorMeta
    from weft.exceptions import WeftError
else:
    capsules = lazy("weft._runtime.capsules")
    copies = lazy("weft._runtime.copies")
    partings = lazy("weft._runtime.partings")
    traceback = lazy("traceback")


class Runtime:
    """An Engine; the methods of that protocol are documented there."""

    name = "local"

    def __init__(
        self, *, worker_id: WorkerId, session_dir: str, role: str, cluster: ClusterFile | None
    ) -> None:
        """`cluster`: what the node is a part of; None: a machine alone."""
        self.worker_id = worker_id
        home = home_of(session_dir, cluster)
        address = home.address_of(worker_id)
        self.loop = Loop(self._before_wait, self._on_quiet, self._broken)
        self.guard = self.loop.guard
        self.objects = Objects(self.loop, worker_id, address, self)
        self.timers = Timers()
        self.outside = (
            None if cluster is None else Outside(self.loop.poller, self.timers, cluster.credentials)
        )
        self.peers = Peers(
            self.loop,
            hello(worker_id, address, role),
            self._received,
            self._lost,
            home=home,
            outside=self.outside,
        )
        self.objects.peers = self.peers
        self.links = Links(
            self.loop, self.objects, self.peers, home=home, address=address, role=role
        )
        self.room = self.objects.room = Room(self.links, self.objects.store)
        if cluster is not None:
            self.objects.copies = self.room.copies = copies.Copies(
                self.links, self.objects, self.room, home
            )
            self.objects.partings = partings.Partings(self.links, self.timers)
        self.orphans = Orphans(self.links, self.objects)
        self.streams = Streams(self.links)
        self.questions = Questions(self.links)
        self.room.why = lambda: f"This process {self.questions.why_room(worker_id)}"
        self.recorder = TaskRecorder(self.links, worker_id, self.job)
        self.leasing = Leasing(self.links, self.streams, self.recorder)
        self.calling = Calling(self.links, self.streams, self.recorder, self.questions, self.timers)
        self._submissions = (self.leasing.tasks, self.calling.calls)
        self.ticks: list[Callable[[float], float | None]] = [
            *(submissions.tick for submissions in self._submissions),
            self.objects.tick,
            self.objects.store.resting.tick,
            self.timers.tick,
        ]
        """Each does what is due at a time, and returns when to be called again."""
        self.values = Values(self.links, self.leasing, self.questions)
        self.capsules: Capsules | None = None
        if CAPSULES.value():
            self.capsules = capsules.Capsules(self.links, lambda: self.welcome)
        self.leasing.capsules = self.calling.capsules = self.capsules
        self.objects.on_freed = self.calling.on_freed
        self.objects.run_again = self.leasing.run_again
        self.objects.wait = self.values.wait_for_object
        self.objects.bring = self.values.bring_arguments
        self.streams.peer_of = self._peer_of
        self.streams.cancel = self.cancel_task
        self.streams.wait = self.values.wait_for
        self.groups = GroupRequests(self.links, self.questions, self.leasing)
        self.questions.explain_object = Reasons(
            self.links, self.leasing, self.calling, self.groups
        ).explain_object
        path = Path(home.socket_of(worker_id.hex()))
        self.listener = SocketListener(self.loop.poller, path, self.peers.accept)
        self.inspection = Inspection(self)
        self.welcome: Welcome | None = None
        self.welcomed = Waiter()
        self.left = Waiter()
        """The daemon has closed its connection."""
        self.closing = False
        self.on_quiet: Callable[[], None] = lambda: None
        self.on_peer_lost: Callable[[Peer], None] = lambda _peer: None
        self.on_output: Callable[[Output], None] = lambda _output: None
        self.on_broken: Callable[[InternalError], None] = self.fail_everything
        self.on_daemon_lost: Callable[[str], None] = lambda _reason: None
        self.handlers: dict[type, Callable[[Peer, Any], None]] = {
            Done: self._on_done,
            Yielded: self.streams.on_yielded,
            GiveBack: self.leasing.on_give_back,
            Fetch: self.objects.on_fetch,
            Fetched: self.objects.on_fetched,
            Borrow: self.objects.on_borrow,
            Borrowed: self.objects.on_borrowed,
            Return: self.objects.on_return,
            Gone: self.objects.on_gone,
            Free: self.objects.on_free,
            Recycle: self.objects.on_recycle,
            Loan: self.room.on_loan,
            Recall: self.room.on_recall,
            Evict: self.room.on_evict,
            Restored: self.room.on_restored,
            Orphaned: self.orphans.on_orphaned,
            CancelObject: self._on_cancel_object,
            Granted: self.leasing.on_granted,
            Refused: self.leasing.on_refused,
            NodeLost: self._on_node_lost,
            Reclaim: self.leasing.on_reclaim,
            SentOn: self.leasing.on_sent_on,
            Certificate: self._on_certificate,
            Learned: self.leasing.on_learned,
            WorkerPaused: self.leasing.on_paused,
            WorkerLives: self.calling.checking.on_worker_lives,
            ActorNews: self.calling.on_actor_state,
            Answer: self.questions.on_answer,
            NodeTold: self.questions.on_told,
            Because: self.questions.on_answer,
            Why: self.questions.on_why,
            Welcome: self._on_welcome,
            Output: self._on_output,
            Measure: self._on_measure,
            Inspect: self.inspection.on_inspect,
        }
        if self.objects.copies is not None:
            self.handlers[Transfer] = self.objects.copies.on_transfer
            self.handlers[NodeDrains] = self.objects.copies.on_node_drains
        self._after_round: deque[Callable[[], object]] = deque()
        """What is done when all messages of one read are."""
        self.submit = self.leasing.submit
        self.call = self.calling.call
        self.create_actor = self.calling.create_actor
        self.kill = self.calling.kill
        self.put = self.values.put
        self.get = self.values.get
        self.wait = self.values.wait
        self.free = self.values.free
        self.when_ready = self.values.when_ready
        self.future = self.values.future
        self.next_item = self.streams.next_item
        self.when_next = self.streams.when_next
        self.find_actor = self.questions.find_actor
        self.named_actors = self.questions.named_actors
        self.nodes = self.questions.nodes
        self.inspect = self.questions.inspect
        self.inspect_nodes = self.questions.inspect_nodes
        self.metrics = self.questions.metrics
        self.why = self.questions.why
        self.create_group = self.groups.create
        self.remove_group = self.groups.remove
        self.group_ready = self.groups.when_ready
        hooks.rebuild_ref = self.objects.rebuild_ref
        _alive.add(self)

    def start(self, daemon_address: str) -> None:
        """Connect to the daemon. OSError if it is not there."""
        with self.guard:
            if self.outside is not None:
                # Before the daemon knows of this process, and others by it.
                doors = str(Path(daemon_address).with_name(DOORS))
                name = self.worker_id.hex()
                self.outside.listen(doors, name, self.peers.accept_remote)
            daemon = self.peers.connect(daemon_address)
            if daemon is None:
                raise ConnectionRefusedError(f"no daemon listens at {daemon_address}")
            self.links.daemon = self.objects.daemon = daemon
        self.loop.start()

    def abandon(self) -> None:
        """Let go of everything in a forked child: the connections are its parent's."""
        self.closing = True
        self.peers.abandon()
        self.listener.abandon()
        if self.outside is not None:
            self.outside.abandon()
        self.loop.abandon()
        if current.engine is self:
            current.engine = None

    # -------------------------------------------------------------- the loop's hooks; inside the
    # guard

    def _before_wait(self, now: float) -> float | None:
        self.objects.drain()
        self.streams.drop_released()
        deadlines = [tick(now) for tick in self.ticks]
        self.peers.flush()
        return min((at for at in deadlines if at is not None), default=None)

    def _on_quiet(self) -> None:
        self.on_quiet()

    def _broken(self, error: Exception) -> None:
        """A message could not be handled: a bug.

        Everything that waits is told, and nothing is begun any more.
        """
        story = "".join(traceback.format_exception(error))
        self.on_broken(InternalError(error, story))

    def _received(self, peer: Peer, messages: Sequence[Message]) -> None:
        handlers = self.handlers
        for message in messages:
            handlers[type(message)](peer, message)
        while self._after_round:
            self._after_round.popleft()()

    def _lost(self, peer: Peer, reason: str) -> None:
        if peer is getattr(self.links, "daemon", None):
            self.left.ready()
            if not self.closing:
                self.on_daemon_lost(reason)
                self.welcomed.ready()
            return
        if self.closing:
            return
        if self.objects.partings is None or not self.objects.partings.part(peer):
            self.objects.handle(PeerLost(peer))
            if peer.address:
                self.objects.owner_lost(peer.address)
        self.on_peer_lost(peer)
        self.leasing.lost(peer, reason)
        self.calling.lost(peer)
        self.orphans.answer()

    # -------------------------------------------------------------- messages; inside the guard

    def _on_done(self, peer: Peer, message: Done) -> None:
        if message.settles:
            # The worker keeps the references in its answer until their owners count this process.
            settled = Settled(message.task_id)
            self._after_round.append(
                lambda: self.objects.when_registered(
                    list(self.objects.machine.asked), lambda: self.peers.send(peer, settled)
                )
            )
        task_id = TaskId(message.task_id)
        values = bundles.unpack_all(self.objects, message.values)
        if (call := self.calling.calls.open.get(task_id)) is not None:
            self.calling.calls.on_answer(call, values, message.started_at, message.duration_s)
        elif (task := self.leasing.tasks.open.get(task_id)) is not None:
            self.leasing.tasks.on_answer(task, values, message.started_at, message.duration_s)
        else:
            # It was ended here meanwhile: its segments are nobody's.
            for index, value in enumerate(values):
                self.objects.handle(Sealed(task_id.object_id(index + 1), value))

    def _on_certificate(self, peer: Peer, message: Certificate) -> None:
        self.leasing.on_certificate(message)
        self.calling.on_certificate(message)
        if self.objects.partings is not None:
            self.objects.partings.ended(message.worker_id)

    def _on_cancel_object(self, peer: Peer, message: CancelObject) -> None:
        self.cancel_task(ObjectId(message.object_id).task_id(), force=message.force)

    def _on_welcome(self, peer: Peer, message: Welcome) -> None:
        self.welcome = message
        self.objects.store.directory = Path(message.store_dir)
        self.objects.store.opens = opens_counter(Path(message.session_dir), message.opens_slot)
        self.welcomed.ready()

    def _on_output(self, peer: Peer, message: Output) -> None:
        self.loop.later(lambda: self.on_output(message))

    def _on_node_lost(self, peer: Peer, message: NodeLost) -> None:
        lose = partial(self.peers.lose_node, message.address, message.cause)
        if self.objects.partings is None:
            lose()
        else:
            how = partings.died_in_words(message)
            self.objects.partings.bury(split(message.address).node, how, lose)
        if self.objects.copies is not None:
            self.objects.copies.node_lost(message)

    def _on_measure(self, peer: Peer, message: Measure) -> None:
        self.peers.send(peer, measures.measure(self, message.request))

    # -------------------------------------------------------------- references

    def is_ready(self, ref: ObjectRef[Any]) -> bool:
        """Tell whether `get` would return at once; see Engine."""
        return ref._entry.value is not None

    def preload(self, modules: Sequence[str]) -> None:
        """Have modules imported for later workers; see Engine."""
        with self.guard:
            self.links.refuse_if_ended()
            self.links.tell_daemon(Preload(list(modules)))

    def release(self, object_id: ObjectId | TaskId) -> None:
        """A reference or a stream is gone; see Engine."""
        if self.closing:
            # Also at the interpreter's end, when modules are emptied already.
            return
        if isinstance(object_id, TaskId):
            self.streams.release(object_id)
        else:
            self.objects.release(object_id)

    def adopt(self, object_id: ObjectId, owner: str) -> None:
        """A reference made elsewhere appeared; see Engine."""
        self.objects.rebuild_ref(object_id, owner)

    # -------------------------------------------------------------- ending things

    def cancel(
        self, ref: ObjectRef[Any] | ObjectRefGenerator[Any], *, force: bool, recursive: bool
    ) -> None:
        """Ask a task to end; see Engine."""
        with self.guard:
            if isinstance(ref, ObjectRefGenerator):
                task_id = ref._task_id
            else:
                entry: Entry = ref._entry
                if entry.owner:
                    peer = self.peers.connect(entry.owner)
                    if peer is not None:
                        self.peers.send(peer, CancelObject(entry.id, force, recursive))
                        self.peers.flush()
                    return
                task_id = entry.id.task_id()
            if force and task_id in self.calling.calls.open:
                raise ValueError(
                    "a call of an actor cannot be cancelled with force: weft.kill ends the actor"
                )
            self.cancel_task(task_id, force=force)

    def cancel_task(self, task_id: TaskId, *, force: bool = False) -> None:
        """Ask one of this process's tasks or calls to end. Inside the guard."""
        for submissions in self._submissions:
            submissions.handle(CancelAsked(task_id, force))

    def fail_everything(self, error: WeftError) -> None:
        """End every task, call and question of this process with `error`, and refuse new ones.

        Inside the guard.
        """
        self.links.ended = error
        failure = Failure(pack_error(error))
        for submissions in self._submissions:
            submissions.fail_all(failure)
        self.questions.fail_all()
        self.room.fail_all()
        self.objects.fail_pending(failure)

    def _peer_of(self, task_id: TaskId) -> Peer | None:
        return self.leasing.tasks.peer_of(task_id) or self.calling.calls.peer_of(task_id)

    # -------------------------------------------------------------- context and end

    def resources(self, *, available: bool) -> dict[str, float]:
        """Return amounts; see Engine."""
        if available:
            with self.guard:
                self.leasing.give_up_idle()
        both = codec.unpack(self.questions.ask("resources"), dict[str, dict[str, float]])
        return both["available" if available else "total"]

    def job(self) -> bytes:
        """Return the job that this process works for; empty: the daemon has not said yet."""
        return self.welcome.job_id if self.welcome is not None else b""

    def context(self) -> Place:
        """Say where the calling code runs; see Engine."""
        welcome = self.welcome
        assert welcome is not None
        now = running.get()
        return Place(
            job_id=JobId(welcome.job_id),
            node_id=NodeId(welcome.node_id),
            worker_id=self.worker_id,
            task_id=None if now is None else now.task_id,
            task_name="" if now is None else now.name,
            function_name="" if now is None else now.function,
            namespace=welcome.namespace,
            runtime_env=welcome.runtime_env or "{}",
            session=welcome.session,
            temp_dir=welcome.session_dir,
            address=self.links.daemon.address,
            labels=welcome.labels,
            is_cancelled=now is not None and now.cancelled,
            in_worker=self.links.role == "worker",
        )

    def current_actor(self) -> tuple[ActorMeta, ObjectRef[Any] | None] | None:
        """Return None: a driver is no actor; see Engine."""
        return None

    def exit_actor(self) -> None:
        """Refuse: a driver is no actor."""
        raise TypeError("exit_actor works inside an actor's method only")

    def shutdown(self) -> None:
        """Refuse: a worker does not end the session that it serves."""
        raise SessionError(
            "shutdown works in the driver only: a task or an actor cannot end its session"
        )

    def drain(self) -> None:
        """Send all that is queued, waiting for peers that are slow to take it."""
        with self.guard:
            self.objects.send_news()
            self.peers.drain()

    def close(self) -> None:
        """End the loop and all connections. Waiting threads get WeftError."""
        self.closing = True
        with self.guard:
            if self.links.ended is None:
                self.fail_everything(SessionError("the session has ended: call weft.init() again"))
        self.loop.close()
        self.peers.close()
        self.listener.close()
        if self.outside is not None:
            self.outside.close()
        self.objects.store.close()


_alive: weakref.WeakSet[Runtime] = weakref.WeakSet()


def _abandon_all() -> None:
    for runtime in list(_alive):
        if not runtime.closing:
            runtime.abandon()


os.register_at_fork(after_in_child=_abandon_all)
