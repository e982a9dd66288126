"""What tasks and actors' calls have in common, on either side of the machine that decides.

Before it: the objects that they return, the arguments that they wait for. After it: how they are
sent, cancelled and ended. What is particular to one of them is its Carrier's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from weft._clock import monotonic, wall
from weft._machines.attempts import (
    Answered,
    ArgumentFailed,
    ArgumentsReady,
    AskCancel,
    Attempted,
    Attempts,
    Complete,
    Fail,
    T,
    Ticked,
)
from weft._machines.lineage import Lineage, can_go
from weft._machines.ownership import ObjectMade, Sealed, TaskEnded
from weft._refs import ObjectRef, ObjectRefGenerator
from weft._runtime.arguments import NO_ARGUMENTS, Arguments
from weft._runtime.gathering import gather, let_go, try_gather
from weft._runtime.recovery import in_words
from weft._runtime.running import Running, running
from weft._serialize.failures import pack_error, unpack_failure
from weft._specs import Shape
from weft._wire.messages import Cancel, Failure, Held, Shared
from weft.exceptions import TaskCancelledError, TaskTimeoutError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weft._ids import ObjectId, TaskId
    from weft._runtime.links import Links
    from weft._runtime.peers import Peer
    from weft._runtime.recorder import TaskRecorder
    from weft._runtime.recovery import Sources
    from weft._runtime.streams import Stream, Streams
    from weft._specs import ActorMeta
    from weft._wire.messages import Message, Packed, Value
    from weft.exceptions import WeftError

# A stream's consumer that is slower than its task holds so many items at most.
STREAM_ITEMS = 1000
# A worker with so many tasks on their way is busy for a while: more are sent in batches, when
# somebody next reads.
EAGER_TASKS = 8
BATCH_TASKS = 64


NO_SHAPE = Shape()


class Submission:
    """What the shell knows of one task or call. It becomes one Run or Call for each attempt."""

    __slots__ = (
        "actor",
        "arguments",
        "backpressure",
        "began_at",
        "code",
        "deps",
        "depth",
        "ended_at",
        "group",
        "is_dynamic",
        "lineage",
        "made_at",
        "max_calls",
        "method",
        "name",
        "num_returns",
        "owners",
        "parent",
        "peer",
        "retry_on",
        "returns",
        "shape",
        "site",
        "sources",
        "stream",
        "task_id",
        "token",
        "values",
    )

    def __init__(
        self, task_id: TaskId, name: str, arguments: Arguments, num_returns: int | str
    ) -> None:
        self.task_id = task_id
        self.name = name
        self.arguments = arguments
        """Holds the references that the task needs, until it ends."""
        self.deps: Sequence[Packed] = ()
        """The values of the references among its arguments, when they are there."""
        self.owners: Sequence[Held] = ()
        """Whose those are, and its own large arguments."""
        self.is_dynamic = num_returns == "dynamic"
        self.num_returns = (
            num_returns if isinstance(num_returns, int) else 1 if self.is_dynamic else -1
        )
        """-1: a stream."""
        self.returns: list[ObjectId] = []
        self.values: Sequence[Value] = ()
        """The answer, when it is there."""
        self.stream: Stream | None = None
        self.lineage: Lineage | None = None
        """How it can be run again, where a result may be lost."""
        self.sources: Sources | None = None
        """When it has ended: its references, for that."""
        self.shape = NO_SHAPE
        """Of a task, or an actor's creation."""
        self.code: tuple[bytes, str, bytes] = (b"", "", b"")
        """Of a task, or an actor's creation: the function's id, name and pickle."""
        self.actor: ActorMeta | None = None
        """Of a call, or an actor's creation."""
        self.method = ""
        """As above."""
        self.group = ""
        self.site = ""
        """File and line of the call."""
        self.token: ObjectRef[Any] | None = None
        """The called actor's: it lives while calls are on their way."""
        self.retry_on: bool | tuple[type[BaseException], ...] = False
        self.backpressure = 0
        self.max_calls = 0
        self.depth = 0
        """How many tasks are above it."""
        self.parent: Running | None = None
        """The task that submitted it."""
        self.peer: Peer | None = None
        """Who was sent it last."""
        self.made_at = wall()
        self.began_at = 0.0
        """Of the attempt that was answered last; 0: none was."""
        self.ended_at = 0.0


T_contra = TypeVar("T_contra", bound=Attempted, contravariant=True)


class Machine(Protocol[T]):
    """Decides where tasks, or calls, go; see _machines/tasks.py and calls.py."""

    attempts: Attempts[T]

    @property
    def next_deadline(self) -> float | None:
        """When it is to be told that time has passed."""

    def handle(self, event: Any, now: float) -> Sequence[Any]:
        """Take an event; return what to do."""


class Carrier(Protocol[T_contra]):
    """What is particular to tasks, or to calls. The loop's guard is held in every method."""

    def perform(self, effect: Any) -> None:
        """Do one of the machine's own effects."""

    def peer_of(self, task: T_contra) -> Peer | None:
        """Return the process that has a task, or will get it, if that is known."""

    def error_of(self, failed: Fail[Any]) -> WeftError:
        """Return the error of a task that fails for a reason of its own kind."""

    def remember(self, task: T_contra, lineage: Lineage) -> None:
        """Write down how a task that has ended can be run again, or why not."""


class Submissions(Generic[T]):
    """This process's tasks, or its calls, that one machine decides about.

    The loop's guard is held in every method.
    """

    def __init__(
        self,
        links: Links,
        streams: Streams,
        recorder: TaskRecorder,
        machine: Machine[T],
        carrier: Carrier[T],
    ) -> None:
        self._links = links
        self._recorder = recorder
        self._objects = links.objects
        self._peers = links.peers
        self._streams = streams
        self.open = machine.attempts.open
        """The tasks that have not ended."""
        self._machine = machine
        self._carrier = carrier
        self._is_over = False
        """All were failed: nothing is decided any more."""
        self.ended = {"ok": 0, "failed": 0}
        """How many have ended, and how."""

    # -------------------------------------------------------------- the machine

    def handle(self, event: Any) -> None:
        """Tell the machine, and do what it says."""
        if self._is_over:
            return
        ends: list[Any] = []
        for effect in self._machine.handle(event, monotonic()):
            # For every task: `match` takes five times as long to say no.
            kind = type(effect)
            if kind is Complete or kind is Fail:
                # Last: what an end leads to is told to the machine at once, and done before this
                # method goes on. It knows of what stands here already.
                ends.append(effect)
            elif kind is AskCancel:
                task = effect.task
                cancel = Cancel(task.id, recursive=True, is_late=task.timed_out)
                self.tell(task, cancel)
            else:
                self._carrier.perform(effect)
        for effect in ends:
            if type(effect) is Complete:
                self._end(effect.task)
            elif effect.kind == "exhausted":
                name = effect.task.name
                self._end(effect.task, loss=f"its task {name} has used up its max_retries")
            else:
                self._fail(effect.task, self._failure_of(effect))

    def tick(self, now: float) -> float | None:
        """Do what is due; return when to call again."""
        deadline = self._machine.next_deadline
        if deadline is not None and deadline <= now:
            self.handle(Ticked())
            deadline = self._machine.next_deadline
        return deadline

    def peer_of(self, task_id: TaskId) -> Peer | None:
        """Return the process that has a task, if one has."""
        task = self.open.get(task_id)
        return None if task is None else self._carrier.peer_of(task)

    def fail_all(self, failure: Failure) -> None:
        """End every task with a failure. Nothing is started or sent any more."""
        self._is_over = True
        while self.open:
            self._fail(self.open.popitem()[1], failure)

    # -------------------------------------------------------------- the beginning

    def start(self, task: T, submitted: object) -> list[ObjectRef[Any]] | ObjectRefGenerator[Any]:
        """Give a task to the machine, as the event `submitted`; return what it will return."""
        note: Submission = task.note
        returned = self._prepare(note)
        arguments = note.arguments
        has_objects = arguments.deps or arguments.large is not None
        is_ready = not has_objects or try_gather(self._links, note)
        if not is_ready:
            task.state = "waiting"
        self.handle(submitted)
        if not is_ready:
            gather(self._links, note, lambda failure: self._gathered(task.id, failure))
        return returned

    def start_again(self, task: T, resubmitted: object) -> None:
        """Give the machine a task that had ended, as the event `resubmitted`."""
        self.handle(resubmitted)
        if task.id in self.open:
            gather(self._links, task.note, lambda failure: self._gathered(task.id, failure))

    def _gathered(self, task_id: TaskId, failure: Failure | None) -> None:
        if failure is None:
            self.handle(ArgumentsReady(task_id))
        else:
            self.handle(ArgumentFailed(task_id, failure))

    def _prepare(self, note: Submission) -> list[ObjectRef[Any]] | ObjectRefGenerator[Any]:
        """Make the objects that a submission will return, and the references to them."""
        task_id = note.task_id
        objects = self._objects
        objects.drain()
        parent = running.get()
        if parent is not None:
            note.parent = parent
            note.depth = parent.depth + 1
            if parent.children is None:
                parent.children = set()
            parent.children.add(task_id)
        entries = objects.machine.entries
        refs: list[ObjectRef[Any]] = []
        # A stream has one object of its own: its end.
        for index in range(1, abs(note.num_returns) + 1):
            object_id = task_id.object_id(index)
            objects.handle(ObjectMade(object_id))
            note.returns.append(object_id)
            refs.append(objects.ref(entries[object_id]))
        if note.num_returns >= 0:
            return refs
        stream = note.stream = self._streams.open(task_id, note.backpressure or STREAM_ITEMS)
        return ObjectRefGenerator(task_id, objects.engine, refs[0], stream)

    # -------------------------------------------------------------- on the way

    def send(self, peer: Peer, message: Message, in_flight: int) -> None:
        """Send one attempt to a process that now has `in_flight` of them."""
        self._peers.send(peer, message)
        if in_flight <= EAGER_TASKS or peer.connection.queued >= BATCH_TASKS:
            peer.connection.flush()

    def tell(self, task: T, message: Message) -> None:
        """Send the process that has a task a message, if there is one."""
        peer = self._carrier.peer_of(task)
        if peer is not None:
            self._peers.send(peer, message)
            self._peers.flush()

    # -------------------------------------------------------------- the end

    def on_answer(
        self, task: T, values: Sequence[Value], began_at: float, duration_s: float
    ) -> None:
        """A task was answered."""
        note: Submission = task.note
        note.values = values
        note.began_at = began_at
        note.ended_at = began_at + duration_s
        retriable = note.retry_on is not False and self._is_retriable(note)
        self.handle(Answered(task.id, duration_s, retriable))

    def _is_retriable(self, note: Submission) -> bool:
        """Tell whether the answer is an exception that the user wants retried."""
        values = note.values
        if not values or not isinstance(values[0], Failure):
            return False
        if isinstance(note.retry_on, bool):
            return True
        with self._objects.reading_inside():
            return isinstance(unpack_failure(values[0].error), note.retry_on)

    def _failure_of(self, failed: Fail[T]) -> Failure:
        task = failed.task
        match failed.kind:
            case "argument":
                assert isinstance(failed.detail, Failure)
                return failed.detail
            case "cancelled":
                return Failure(pack_error(TaskCancelledError(task.id, task=task.name)))
            case "timeout":
                error = TaskTimeoutError(task=task.name, timeout_s=task.timeout_s)
                return Failure(pack_error(error))
            case _:
                # A constructor's error may hold references.
                met: list[ObjectRef[Any]] = []
                with self._objects.reading_inside():
                    packed = pack_error(self._carrier.error_of(failed), met=met)
                    return Failure(packed, self._objects.held(met))

    def _fail(self, task: T, failure: Failure) -> None:
        """End a submission without an answer, or with one that came too late."""
        note: Submission = task.note
        for value in note.values:
            if isinstance(value, Shared):
                self._objects.recycle(value)
        note.ended_at = wall()
        if note.lineage is not None and note.lineage.ended:
            note.values = ()
            why = in_words(failure, self._objects)
            self._end(task, failure, f"its task {task.name} was to be run again: {why}")
        else:
            note.values = [failure] * len(note.returns)
            self._end(task, failure)

    def _end(self, task: T, failure: Value | None = None, loss: str = "") -> None:
        """A submission has its answer: seal what it returns.

        `failure`: of one that may return nothing. `loss`: why what was lost has not been made
        again.
        """
        objects = self._objects
        note: Submission = task.note
        stream = note.stream
        values, note.values = note.values, ()
        if failure is None and values:
            failure = values[0]
        has_failed = type(failure) is Failure
        self.ended["failed" if has_failed else "ok"] += 1
        self._recorder.add(task.id, task.attempt, note, failure if has_failed else None)
        may_be_lost = False
        if stream is not None:
            self._streams.end(stream, note.returns[0], values)
            note.lineage = stream.lineage
        else:
            # A task that returns nothing has one failure all the same, for nobody.
            for object_id, value in zip(note.returns, values, strict=False):
                objects.handle(Sealed(object_id, value))
                may_be_lost = may_be_lost or can_go(value)
        note.token = None
        parent, note.parent = note.parent, None
        if parent is not None and parent.children is not None:
            parent.children.discard(note.task_id)
        arguments = note.arguments
        if may_be_lost or note.lineage is not None:
            self._remember(task)
        note.arguments = NO_ARGUMENTS
        if note.deps:
            let_go(self._links, note)
        lineage = note.lineage
        if lineage is not None:
            # Here, for the task may be run again at once.
            objects.handle(TaskEnded(lineage, note.returns, loss))
            if lineage.task_id not in objects.machine.lineages.kept:
                note.lineage = lineage.note = None
        # What the lineage mentions was in the table until it did.
        del arguments

    def _remember(self, task: T) -> None:
        """Write down what can make the task's results again."""
        note: Submission = task.note
        if note.lineage is None:
            note.lineage = Lineage(task.id)
        if not note.lineage.ended:
            note.lineage.note = task
            self._carrier.remember(task, note.lineage)
            note.stream = None
