"""The shell round this process's actors: it has them made, finds them, and sends them calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft._clock import monotonic
from weft._ids import ActorId, ObjectId, TaskId
from weft._machines import calls as calls_machine
from weft._machines.calls import ActorCall, Calls
from weft._machines.ownership import Entry, ObjectMade, Sealed
from weft._runtime.arguments import pack_arguments
from weft._runtime.leasing import BATCH_TASKS, EAGER_TASKS
from weft._runtime.loop import Waiter
from weft._runtime.submissions import Submission
from weft._serialize.failures import pack_error, unpack_failure
from weft._serialize.pickling import dump_code
from weft._wire.messages import (
    ActorState,
    Call,
    Cancel,
    CreateActor,
    Done,
    EndActor,
    Failure,
    Held,
    Inline,
    WatchActor,
)
from weft.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ActorUnschedulableError,
    EnvSetupError,
    PendingCallsLimitExceeded,
    TaskCancelledError,
    TaskTimeoutError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weft._refs import ObjectRef, ObjectRefGenerator
    from weft._runtime.links import Links
    from weft._runtime.peers import Peer
    from weft._runtime.questions import Questions
    from weft._runtime.submissions import Submissions
    from weft._specs import ActorSpec, CallSpec
    from weft._wire.messages import Value
    from weft.exceptions import WeftError

_TOKEN = Inline(b"")


class Calling:
    """The actors that this process made or calls.

    Inside the guard, where a docstring does not say otherwise.
    """

    def __init__(self, links: Links, submissions: Submissions, questions: Questions) -> None:
        self.machine = Calls()
        self._links = links
        self._guard = links.guard
        self._objects = links.objects
        self._peers = links.peers
        self._submissions = submissions
        self._questions = questions
        self._actors: dict[ActorId, Peer] = {}
        self._actor_of: dict[Peer, set[ActorId]] = {}
        self._actor_holds: dict[ActorId, Submission] = {}
        """Constructor arguments: a restart needs them again."""
        self._mortal: set[ActorId] = set()
        """Actors made here that end with their last handle."""

    def tick(self, now: float) -> float | None:
        """Do what is due; return when to call again."""
        deadline = self.machine.next_deadline
        if deadline is not None and deadline <= now:
            self._do(self.machine.handle(calls_machine.CallsTicked(), now))
            deadline = self.machine.next_deadline
        return deadline

    def lost(self, peer: Peer) -> None:
        """The connection to a process broke.

        The directory will say what became of the actor that it was.
        """
        for actor in self._actor_of.pop(peer, ()):
            if self._actors.get(actor) is peer:
                del self._actors[actor]
                self._do(self.machine.handle(calls_machine.ConnectionLost(actor), monotonic()))

    def cancel(self, task_id: TaskId, *, force: bool) -> bool:
        """Ask a call to end; False if it is none of these.

        ValueError: an actor's call cannot be forced.
        """
        known = task_id in self.machine.calls
        if known and force:
            raise ValueError(
                "a call of an actor cannot be cancelled with force: weft.kill ends the actor"
            )
        if known:
            self._do(self.machine.handle(calls_machine.CallCancelAsked(task_id), monotonic()))
        return known

    def fail_all(self, failure: Failure) -> None:
        """End every call with a failure."""
        machine, self.machine = self.machine, Calls()
        for call in machine.calls.values():
            self._submissions.fail(call.note, failure)

    def peer_of(self, task_id: TaskId) -> Peer | None:
        """Return the actor's process that a call is for, if it is known."""
        call = self.machine.calls.get(task_id)
        return None if call is None else self._actors.get(call.actor)

    def on_done(self, message: Done) -> bool:
        """An actor has answered; False if the call is none of these any more."""
        call = self.machine.calls.get(TaskId(message.task_id))
        if call is None:
            return False
        note: Submission = call.note
        note.values = message.values
        answered = calls_machine.Answered(call.actor, call.id, self._submissions.is_retriable(note))
        self._do(self.machine.handle(answered, monotonic()))
        return True

    def create_actor(self, spec: ActorSpec) -> ObjectRef[Any] | None:
        """Start an actor; see Engine."""
        function_id, code = spec.code.pack(dump_code)
        arguments = pack_arguments(self._objects, spec.args, spec.kwargs)
        options = spec.options
        meta = spec.meta
        token_id = ObjectId(meta.actor_id)
        note = Submission(TaskId(meta.actor_id), f"{meta.class_name}.__init__", arguments, 1)
        waits = 0
        answer = Waiter()
        with self._guard:
            self._links.refuse_if_ended()
            self._objects.drain()
            self._objects.handle(ObjectMade(token_id))
            self._objects.handle(Sealed(token_id, _TOKEN))
            token = self._objects.ref(self._objects.machine.entries[token_id])
            if arguments.large is not None:
                self._submissions.own_large_arguments(note)
            self._actor_holds[meta.actor_id] = note
            if options.lifetime != "detached":
                self._mortal.add(meta.actor_id)
            request = self._questions.expect(answer)

            def create() -> None:
                nonlocal waits
                waits -= 1
                if waits > 0:
                    return
                found = self._submissions.dependencies(note)
                if isinstance(found, Failure):
                    told = ActorState(
                        meta.actor_id, "dead", "", 0, "a constructor argument failed", found.error
                    )
                    self._told_of_actor(told)
                    return
                deps, owners = found
                self._peers.send(
                    self._links.daemon,
                    CreateActor(
                        meta,
                        spec.shape,
                        function_id,
                        code,
                        note.arguments.data,
                        deps,
                        self._links.address,
                        actor_options(options),
                        request,
                        owners,
                        note.arguments.large,
                    ),
                )
                self._peers.flush()

            callee = calls_machine.Callee(in_any_order=meta.is_async or meta.in_any_order)
            self.machine.callees[meta.actor_id] = callee
            self._peers.send(self._links.daemon, WatchActor(meta.actor_id))
            waits = self._submissions.await_arguments(arguments.deps, create)
            if not waits:
                create()
        if meta.name:
            reply = self._questions.wait(request, answer)
            if reply.error:
                raise ValueError(reply.error)
        else:
            with self._guard:
                self._questions.forget(request)
        return None if options.lifetime == "detached" else token

    def call(self, spec: CallSpec) -> list[ObjectRef[Any]] | ObjectRefGenerator[Any]:
        """Call an actor's method; see Engine."""
        meta = spec.actor
        actor = meta.actor_id
        if 0 <= meta.max_pending_calls <= self.machine.pending(actor):
            raise PendingCallsLimitExceeded(
                f"{meta.class_name} has {meta.max_pending_calls} "
                "unfinished calls from here, its max_pending_calls: "
                "wait for some before calling again"
            )
        arguments = pack_arguments(self._objects, spec.args, spec.kwargs)
        task_id = self._links.ids.task_id()
        name = spec.name or f"{meta.class_name}.{spec.method}"
        note = Submission(task_id, name, arguments, spec.num_returns)
        note.method = spec.method
        note.group = spec.concurrency_group
        note.retry_on = spec.retry_exceptions
        note.backpressure = spec.backpressure
        call = ActorCall(
            task_id,
            actor,
            name=name,
            retries=spec.max_task_retries,
            timeout_s=spec.timeout_s or 0.0,
            note=note,
        )
        with self._guard:
            self._links.refuse_if_ended()
            returned = self._submissions.prepare(note)
            token = self._objects.machine.entries.get(ObjectId(actor))
            if token is not None:
                note.token = self._objects.new_ref(token)
            if arguments.deps:
                call.waits = self._submissions.await_arguments(
                    arguments.deps,
                    lambda: self._do(
                        self.machine.handle(calls_machine.CallArgumentReady(task_id), monotonic())
                    ),
                )
                if call.waits:
                    call.state = "waiting"
            self._do(
                self.machine.handle(
                    calls_machine.CallMade(call, meta.is_async or meta.in_any_order), monotonic()
                )
            )
        return returned

    def _do(self, effects: Sequence[calls_machine.Effect]) -> None:
        for effect in effects:
            match effect:
                case calls_machine.SendCall():
                    self._send_call(effect.call)
                case calls_machine.Completed():
                    self._submissions.end(effect.call.note)
                case calls_machine.Failed():
                    self._submissions.fail(effect.call.note, self._call_error(effect))
                case calls_machine.Watch():
                    self._peers.send(self._links.daemon, WatchActor(effect.actor))
                    self._peers.flush()
                case calls_machine.Connect():
                    self._connect_actor(effect.actor, effect.address)
                case calls_machine.AskCallCancel():
                    peer = self._actors.get(effect.call.actor)
                    if peer is not None:
                        self._peers.send(peer, Cancel(effect.call.id, recursive=True))
                        self._peers.flush()
                case calls_machine.KillCallee():
                    self._peers.send(
                        self._links.daemon,
                        EndActor(
                            effect.actor, graceful=False, no_restart=False, reason=effect.reason
                        ),
                    )
                    self._peers.flush()

    def _connect_actor(self, actor: ActorId, address: str) -> None:
        peer = self._peers.connect(address)
        if peer is None:
            # It died already: the directory will say so.
            return
        self._actors[actor] = peer
        self._actor_of.setdefault(peer, set()).add(actor)
        self._do(self.machine.handle(calls_machine.Connected(actor, address), monotonic()))

    def _send_call(self, call: ActorCall) -> None:
        note: Submission = call.note
        peer = self._actors[call.actor]
        deps: list[Value] = []
        owners: list[Held] = []
        if note.arguments.deps or note.arguments.large is not None:
            found = self._submissions.dependencies(note)
            if isinstance(found, Failure):
                note.values = [found] * len(note.returns)
                note.retry_on = False
                self._do(
                    self.machine.handle(
                        calls_machine.Answered(call.actor, call.id, retriable=False), monotonic()
                    )
                )
                return
            deps, owners = found
        self._peers.send(
            peer,
            Call(
                call.id,
                call.actor,
                note.method,
                note.arguments.data,
                deps,
                note.num_returns,
                note.group,
                note.name,
                note.depth,
                call.timeout_s,
                note.stream.limit if note.stream is not None else 0,
                call.attempt,
                note.is_dynamic,
                owners,
                note.arguments.large,
            ),
        )
        in_flight = len(self.machine.callees[call.actor].sent)
        if in_flight <= EAGER_TASKS or peer.connection.queued >= BATCH_TASKS:
            peer.connection.flush()

    def _call_error(self, effect: calls_machine.Failed) -> Failure:
        call = effect.call
        told: ActorState | None = effect.detail if isinstance(effect.detail, ActorState) else None
        cause = (
            told.cause
            if told is not None
            else effect.detail
            if isinstance(effect.detail, str)
            else ""
        )
        error: WeftError
        match effect.kind:
            case "cancelled":
                error = TaskCancelledError(call.id, task=call.name)
            case "timeout":
                error = TaskTimeoutError(task=call.name, timeout_s=call.timeout_s)
            case "unavailable":
                error = ActorUnavailableError(
                    error_message=(
                        f"{call.name} may or may not have run: {cause or 'its actor is restarting'}"
                    ),
                    actor_id=call.actor,
                )
            case "died":
                if told is not None and told.error:
                    return self._constructor_failed(call, told.error)
                error = self._why_dead(call, cause, "" if told is None else told.refused)
            case "argument":
                assert isinstance(effect.detail, Failure)
                return effect.detail
        return Failure(pack_error(error))

    def _why_dead(self, call: ActorCall, cause: str, refused: str) -> WeftError:
        name = call.name.rpartition(".")[0]
        if refused == "environment":
            return EnvSetupError(cause)
        if refused == "unschedulable":
            return ActorUnschedulableError(f"actor {name} can never run: {cause}")
        return ActorDiedError(cause, actor_id=call.actor, class_name=name)

    def _constructor_failed(self, call: ActorCall, packed: bytes) -> Failure:
        cause = unpack_failure(packed)
        name = call.name.rpartition(".")[0]
        return Failure(
            pack_error(
                ActorDiedError(cause, actor_id=call.actor, class_name=name, actor_init_failed=True)
            )
        )

    def on_actor_state(self, peer: Peer, message: ActorState) -> None:
        self._told_of_actor(message)

    def _told_of_actor(self, message: ActorState) -> None:
        actor = ActorId(message.actor_id)
        peer = self._actors.get(actor)
        if message.state != "alive" and peer is not None:
            # What it answered before it ended is on its own connection, perhaps not read yet.
            peer.connection.read_rest()
        if message.state == "dead":
            self._actor_holds.pop(actor, None)
        if actor in self.machine.callees:
            self._do(self.machine.handle(calls_machine.Told(message), monotonic()))

    def on_freed(self, entry: Entry) -> None:
        """An owned object has left the table: if it was an actor's token, the actor ends."""
        actor = ActorId(entry.id)
        if actor in self._mortal:
            self._mortal.discard(actor)
            ended = EndActor(
                actor, graceful=True, no_restart=True, reason="its last handle is gone"
            )
            self._peers.send(self._links.daemon, ended)
            self._peers.flush()

    def kill(self, actor_id: ActorId, *, no_restart: bool) -> None:
        """End an actor; see Engine."""
        reason = "weft.kill ended it"
        with self._guard:
            self._links.refuse_if_ended()
            self._peers.send(
                self._links.daemon,
                EndActor(actor_id, graceful=False, no_restart=no_restart, reason=reason),
            )
            self._peers.flush()
            if actor_id in self.machine.callees:
                # What is called after this is for the next life, not for the process that is being
                # killed.
                self._do(self.machine.handle(calls_machine.Killed(actor_id), monotonic()))


def actor_options(options: Any) -> dict[str, Any]:
    """Return what the directory and the actor's process need of an actor's options."""
    return {
        "max_restarts": options.max_restarts,
        "lifetime": options.lifetime,
        "max_concurrency": options.max_concurrency,
        "concurrency_groups": options.concurrency_groups,
    }
