"""A worker's answers: what its jobs return, yield and raise, on the way to who asked.

An answer with references inside is kept until the caller has counted them (Settled).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft._clock import monotonic, wall
from weft._ids import TaskId
from weft._runtime import bundles
from weft._runtime.invocation import ActorLeaves, DynamicObjectRefGenerator, split
from weft._runtime.loop import Waiter
from weft._serialize.failures import pack_error, pack_failure
from weft._serialize.pickling import dumps
from weft._wire.messages import Call, Done, Failure, Run, Settled, Shared, Taken, Yielded
from weft.exceptions import ActorDiedError, TaskCancelledError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weft._capsules.facts import RandomStates
    from weft._refs import ObjectRef
    from weft._runtime.actors import LoopWaiter
    from weft._runtime.peers import Peer
    from weft._runtime.runtime import Runtime
    from weft._wire.messages import Packed, Value

# Answers of quick tasks are sent together, so often at least.
ANSWER_S = 0.001
NOT_NOTED: RandomStates = {}
"""Nobody has asked for the states of random generators."""


class Job:
    """One task or call that was received, until its answer is sent."""

    __slots__ = (
        "brought",
        "function",
        "is_cancelled",
        "is_eager",
        "items",
        "message",
        "peer",
        "random",
        "refs",
        "taken",
        "unsent",
        "waiter",
    )

    def __init__(self, peer: Peer, message: Run | Call) -> None:
        self.peer = peer
        self.message = message
        self.function = ""
        self.is_cancelled = False
        """Somebody cancelled it before it began."""
        self.random = NOT_NOTED
        """The states of random generators when it began."""
        self.is_eager = False
        """It runs on a thread that does not read: its answer is sent at once."""
        self.brought: Sequence[object] = ()
        """Keeps arguments here that come from other nodes."""
        self.refs: list[ObjectRef[Any]] = []
        """Inside what it returns or raises: kept until the caller has counted them."""
        self.unsent: list[Value] = []
        """What was stored for its caller, who does not know of it yet."""
        self.items = 0
        """Yielded so far."""
        self.taken = 0
        """Of those, taken by the consumer."""
        self.waiter: Waiter | LoopWaiter | None = None
        """The generator waits for its consumer."""


class Answers:
    """Packs and sends them. Without the guard, where a docstring does not say otherwise."""

    def __init__(self, runtime: Runtime, on_wait: Callable[[], None]) -> None:
        self.jobs: dict[TaskId, Job] = {}
        """Received and not answered."""
        self.on_wait = on_wait
        """Called, inside the guard, when a generator waits for its consumer."""
        self._guard = runtime.guard
        self._loop = runtime.loop
        self._objects = runtime.objects
        self._peers = runtime.peers
        self._keep = runtime.values.keep
        self._settling: dict[bytes, Job] = {}
        """Answered with references inside, which the caller has not counted yet."""
        self._answered_at = 0.0
        runtime.handlers.update({Taken: self.on_taken, Settled: self.on_settled})

    def send(self, job: Job, values: list[Packed], began_at: float, duration_s: float) -> None:
        """Send a job's answer; with others, if there will be some at once. Inside the guard."""
        task_id = job.message.task_id
        self.jobs.pop(TaskId(task_id), None)
        if values and type(values[0]) is Failure:
            # It was stored before the job failed, or was interrupted.
            for value in job.unsent:
                if type(value) is Shared:
                    self._objects.recycle(value)
        job.unsent.clear()
        peers = self._peers
        if job.peer.connection.closed:
            return
        if job.refs:
            self._settling[task_id] = job
        settles = bool(job.refs)
        peers.send(job.peer, Done(task_id, values, began_at, duration_s, settles, job.items))
        now = monotonic()
        if job.is_eager or now - self._answered_at > ANSWER_S:
            self._answered_at = now
            peers.flush()

    def pack(self, job: Job, value: Any) -> Value:
        """Turn a returned value into what is sent."""
        serialized = dumps(value)
        if serialized.refs:
            job.refs.extend(serialized.refs)
        if job.peer.is_far and serialized.size_bytes > bundles.INLINE_BYTES:
            with self._guard:
                self._objects.watch_owner(job.peer.address)
        return self._objects.store_value(
            serialized,
            label=f"return of {job.function}",
            claim=job.unsent.append,
            site=job.message.site,
            owner=job.peer.worker_id,
        )

    def pack_all(self, job: Job, values: Sequence[Any]) -> list[Packed]:
        """Turn all values that a job returned into what is sent."""
        packed = [self.pack(job, value) for value in values]
        if job.peer.is_far:
            return [*packed]
        with self._guard:
            return bundles.pack_together(self._objects, packed)

    def values(self, job: Job, result: Any) -> list[Packed]:
        """Turn what a job returned into its answer; a generator's items are sent as they come."""
        message = job.message
        count = message.num_returns
        if message.is_dynamic:
            label, site = f"return of {job.function}", message.site
            kept = [self._keep(value, label=label, site=site) for value in result]
            return [self.pack(job, DynamicObjectRefGenerator(kept))]
        if count == 1:
            return [self.pack(job, result)]
        if count >= 0:
            return self.pack_all(job, split(result, count, job.function))
        for value in result:
            self.send_item(job, self.pack(job, value))
            self._await_consumer(job)
        return [self.pack(job, None)]

    def send_item(self, job: Job, value: Value) -> None:
        """Send a stream's next item."""
        with self._guard:
            peers = self._peers
            peers.send(job.peer, Yielded(job.message.task_id, job.items, value))
            job.unsent.clear()
            job.items += 1
            now = monotonic()
            if job.is_eager or now - self._answered_at > ANSWER_S:
                self._answered_at = now
                peers.flush()

    def _await_consumer(self, job: Job) -> None:
        while True:
            waiter = Waiter()
            if not self.wait_for_consumer(job, waiter):
                return
            self._loop.wait(waiter)

    def wait_for_consumer(self, job: Job, waiter: Waiter | LoopWaiter) -> bool:
        """Return whether a generator is too far ahead.

        Then `waiter` is told when its consumer takes something.
        """
        limit = job.message.backpressure
        if not limit or job.items - job.taken < limit:
            return False
        with self._guard:
            if job.items - job.taken < limit:
                return False
            job.waiter = waiter
            self.on_wait()
        return True

    def failures(self, job: Job, error: BaseException, *, cancelled: bool) -> list[Packed]:
        """Turn what a job raised into its answer. `cancelled`: somebody asked for an interrupt."""
        message = job.message
        failure: Failure
        if isinstance(error, ActorLeaves):
            failure = Failure(
                pack_error(
                    ActorDiedError(
                        f"{job.function} called exit_actor()",
                        class_name=job.function.rpartition(".")[0],
                    )
                )
            )
        elif cancelled and not isinstance(error, Exception):
            failure = self.cancelled(message)
        else:
            met: list[ObjectRef[Any]] = []
            attempts = max(0, message.attempt) + 1
            packed = pack_failure(error, task=message.name, attempts=attempts, met=met)
            job.refs.extend(met)
            failure = Failure(packed, self._objects.held(met))
        return [failure] * max(1, message.num_returns)

    def cancelled(self, message: Run | Call) -> Failure:
        """Return the answer of a job that was cancelled."""
        return Failure(pack_error(TaskCancelledError(TaskId(message.task_id), task=message.name)))

    def refuse(self, job: Job, error: Exception) -> None:
        """Answer a job that cannot be started. Inside the guard."""
        self.send(job, self.failures(job, error, cancelled=False), wall(), 0.0)

    def on_taken(self, peer: Peer, message: Taken) -> None:
        job = self.jobs.get(TaskId(message.task_id))
        if job is not None:
            job.taken = message.items
            if job.waiter is not None:
                waiter, job.waiter = job.waiter, None
                waiter.ready()

    def on_settled(self, peer: Peer, message: Settled) -> None:
        self._settling.pop(message.task_id, None)

    def forget(self, peer: Peer) -> None:
        """A caller is gone: nobody will count the references in its answers. Inside the guard."""
        for task_id in [key for key, job in self._settling.items() if job.peer is peer]:
            del self._settling[task_id]
