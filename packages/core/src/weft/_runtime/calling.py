"""The shell round this process's actors: it has them made, finds them, and sends them calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from weft._clock import wall
from weft._error_parts import safe_str, type_name
from weft._ids import ActorId, ObjectId, TaskId, WorkerId
from weft._machines import calls as call_rules
from weft._machines.attempts import Fail, Kill
from weft._machines.calls import ActorCall, Calls
from weft._runtime import bundles
from weft._runtime.arguments import NO_ARGUMENTS, pack_arguments
from weft._runtime.checking import Checking
from weft._runtime.gathering import gather, let_go
from weft._runtime.loop import Waiter
from weft._runtime.running import running
from weft._runtime.submissions import Submission, Submissions
from weft._serialize.failures import calling_site, pack_error, unpack_failure
from weft._serialize.pickling import dump_code
from weft._specs import captured
from weft._wire.messages import (
    ActorNews,
    Call,
    CheckWorker,
    CreateActor,
    EndActor,
    Explain,
    Failure,
    Inline,
    WatchActor,
)
from weft.exceptions import (
    ActorDiedError,
    ActorPlacementGroupRemoved,
    ActorUnavailableError,
    ActorUnschedulableError,
    EnvSetupError,
    PendingCallsLimitExceeded,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from weft._machines.lineage import Lineage
    from weft._machines.ownership import Entry
    from weft._refs import ObjectRef, ObjectRefGenerator
    from weft._runtime.arguments import Arguments
    from weft._runtime.capsules import Capsules
    from weft._runtime.links import Links
    from weft._runtime.peers import Peer
    from weft._runtime.questions import Questions
    from weft._runtime.recorder import TaskRecorder
    from weft._runtime.streams import Streams
    from weft._specs import ActorMeta, ActorSpec, CallSpec
    from weft._transport.timers import Timers
    from weft._wire.messages import Certificate
    from weft.exceptions import WeftError

_TOKEN = Inline(b"")
# The directory answers at once, also that an actor was ended; it says nothing of one that it does
# not know.
UNHEARD_S = 1.0


class LostCall(NamedTuple):
    """A call that an actor's process had when it was lost."""

    call: ActorCall
    number: int
    """Of the attempt, counted from one."""
    arguments: Arguments
    creation: Submission | None
    """Of the actor, if this process made it."""
    constructor: Arguments
    """Of that: it lets go of them when the actor is dead."""


class Calling:
    """The actors that this process made or calls.

    Inside the guard, where a docstring does not say otherwise.
    """

    def __init__(
        self,
        links: Links,
        streams: Streams,
        recorder: TaskRecorder,
        questions: Questions,
        timers: Timers,
    ) -> None:
        self.machine = Calls()
        self.calls: Submissions[ActorCall] = Submissions(
            links, streams, recorder, self.machine, self
        )
        self.capsules: Capsules | None = None
        self._recorder = recorder
        self._timers = timers
        self._links = links
        self._guard = links.guard
        self._objects = links.objects
        self._peers = links.peers
        self._questions = questions
        self.checking = Checking(links, timers, self.machine, self.calls.handle)
        self._actors: dict[ActorId, Peer] = {}
        """Those that live, and that this process calls."""
        self._made: dict[ActorId, Submission] = {}
        """What this process made, with the constructor's arguments: a restart needs them again."""
        self._begun: dict[ActorId, Submission] = {}
        """Of those, the ones of which it is not known yet how their creation ended."""
        self._mortal: set[ActorId] = set()
        """Actors made here that end with their last handle."""
        self._lost_with: dict[WorkerId, tuple[Peer, list[LostCall]]] = {}
        """By worker: who knows how it ended, and the calls that it had when it was lost.

        While capsules are left.
        """

    # -------------------------------------------------------------- making

    def create_actor(self, spec: ActorSpec) -> ObjectRef[Any] | None:
        """Start an actor; see Engine."""
        function_id, code = spec.code.pack(dump_code)
        arguments = pack_arguments(self._links, spec.args, spec.kwargs)
        options = spec.options
        meta = spec.meta
        actor = meta.actor_id
        note = Submission(TaskId(actor), f"{meta.class_name}.__init__", arguments, 1)
        note.code = (function_id, meta.class_name, code)
        note.actor, note.method, note.shape = meta, "__init__", spec.shape
        if self._links.parent is not None:
            note.shape = captured(spec.shape, options.scheduling_strategy, self._links.parent)
        note.site = calling_site()
        answer = Waiter()
        with self._guard:
            self._links.refuse_if_ended()
            token = self._objects.own(ObjectId(actor), _TOKEN)
            note.parent = running.get()
            self._made[actor] = self._begun[actor] = note
            if options.lifetime != "detached":
                self._mortal.add(actor)
            # Of one without a name its owner hears as all others do.
            request = self._questions.expect(answer) if meta.name else 0
            self.calls.handle(
                call_rules.ActorMade(actor, in_any_order=meta.is_async or meta.in_any_order)
            )

            def create(failure: Failure | None) -> None:
                if failure is not None:
                    self._give_up(actor, failure)
                self._links.tell_daemon(
                    CreateActor(
                        meta,
                        note.shape,
                        function_id,
                        code,
                        note.arguments.data,
                        # Which node it will be on nobody knows.
                        note.deps
                        if self._objects.copies is None
                        else bundles.loosen(self._objects, note.deps),
                        self._links.address,
                        actor_options(options),
                        request,
                        note.owners,
                        note.arguments.large,
                    )
                )

            gather(self._links, note, create)
        if meta.name:
            reply = self._questions.wait(request, answer)
            if reply.error:
                with self._guard:
                    self._told(ActorNews(actor, "dead", "", 0, reply.error))
                raise ValueError(reply.error)
        return None if options.lifetime == "detached" else token

    def stillborn(self, meta: ActorMeta, error: BaseException) -> ObjectRef[Any]:
        """Return the token of an actor that cannot be created, and is dead for whoever calls it."""
        actor = meta.actor_id
        with self._guard:
            self._links.refuse_if_ended()
            token = self._objects.own(ObjectId(actor), _TOKEN)
            self.calls.handle(
                call_rules.ActorMade(actor, in_any_order=meta.is_async or meta.in_any_order)
            )
            self._give_up(actor, Failure(pack_error(error)))
        return token

    def creations(self) -> Iterable[Submission]:
        """Return the actors' creations that have not ended."""
        return self._begun.values()

    def makings(self) -> Iterable[Submission]:
        """Return what living actors were made of."""
        return self._made.values()

    def _give_up(self, actor: ActorId, failure: Failure) -> None:
        """An argument of the constructor failed: the actor is dead before it is created.

        The directory is told both, so that it answers everybody who has a handle.
        """
        error = unpack_failure(failure.error)
        error = getattr(error, "cause", None) or error
        said = safe_str(error).partition("\n")[0]
        why = f"a constructor argument failed: {type_name(error)}: {said}"
        self._told(ActorNews(actor, "dead", "", 0, why, failure.error))
        self._links.tell_daemon(EndActor(actor, graceful=False, no_restart=True, reason=why))

    # -------------------------------------------------------------- calling

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
        arguments = pack_arguments(self._links, spec.args, spec.kwargs)
        task_id = spec.task_id or self._links.ids.task_id()
        name = spec.name or f"{meta.class_name}.{spec.method}"
        note = Submission(task_id, name, arguments, spec.num_returns)
        note.actor, note.method = meta, spec.method
        note.group = spec.concurrency_group
        note.retry_on = spec.retry_exceptions
        note.backpressure = spec.backpressure
        note.site = spec.site
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
            token = self._objects.machine.entries.get(ObjectId(actor))
            if token is not None:
                note.token = self._objects.new_ref(token)
            made = call_rules.CallMade(call, meta.is_async or meta.in_any_order)
            return self.calls.start(call, made)

    def kill(self, actor_id: ActorId, *, no_restart: bool) -> None:
        """End an actor; see Engine."""
        with self._guard:
            self._links.refuse_if_ended()
            self._end(actor_id, "weft.kill ended it", no_restart=no_restart)
            if actor_id in self.machine.callees:
                # What is called after this is for the next life, not for the process that is being
                # killed.
                self.calls.handle(call_rules.Killed(actor_id))

    def _end(
        self, actor: ActorId, reason: str, *, no_restart: bool, graceful: bool = False
    ) -> None:
        self._links.tell_daemon(
            EndActor(actor, graceful=graceful, no_restart=no_restart, reason=reason)
        )

    # -------------------------------------------------------------- what the machine says

    def perform(self, effect: call_rules.OwnEffect) -> None:
        """Do what is particular to calls."""
        match effect:
            case call_rules.SendCall():
                self._send(effect.call)
            case call_rules.Watch():
                self._links.tell_daemon(WatchActor(effect.actor))
                self._watch_owner(effect.actor)
            case call_rules.Connect():
                self._connect(effect.actor, effect.address)
            case Kill():
                self._end(effect.task.actor, effect.reason, no_restart=False)

    def _watch_owner(self, actor: ActorId) -> None:
        """The directory may know nothing of an actor: if its owner is gone, it never will."""
        token = self._objects.machine.entries.get(ObjectId(actor))
        if token is None or not token.owner:
            return
        owner = token.owner

        def look() -> None:
            token = self._objects.machine.entries.get(ObjectId(actor))
            if token is not None and self._is_unheard(actor):
                self._objects.when_lost(token, bereft)

        def bereft(_: Entry) -> None:
            if self._is_unheard(actor):
                why = f"the process that was to create it, at {owner}, has ended"
                self._told(ActorNews(actor, "dead", "", 0, why))

        self._timers.call_later(UNHEARD_S, look)
        self._links.loop.nudge()

    def _is_unheard(self, actor: ActorId) -> bool:
        """Tell whether an actor is called, and the directory has said nothing of it."""
        callee = self.machine.callees.get(actor)
        return callee is not None and callee.told is None

    def _connect(self, actor: ActorId, address: str) -> None:
        peer = self._peers.connect(address)
        if peer is None:
            # It died already, and the directory will say so; or there is no way there.
            self.checking.begin(actor, address)
            return
        peer.actor_id = actor
        self._actors[actor] = peer
        self.calls.handle(call_rules.Connected(actor, address))

    def _send(self, call: ActorCall) -> None:
        note: Submission = call.note
        peer = note.peer = self._actors[call.actor]
        message = Call(
            call.id,
            call.actor,
            note.method,
            note.arguments.data,
            bundles.loosen(self._objects, note.deps) if peer.is_far else note.deps,
            note.num_returns,
            note.group,
            note.name,
            note.depth,
            call.timeout_s,
            note.stream.limit if note.stream is not None else 0,
            call.attempt,
            note.is_dynamic,
            note.owners,
            note.arguments.large,
            note.site,
        )
        sent = len(self.machine.callees[call.actor].sent)
        self.calls.send(peer, message, sent)

    def peer_of(self, task: ActorCall) -> Peer | None:
        """Return the process of the actor that a call is for, if it is known."""
        return self._actors.get(task.actor)

    def error_of(self, failed: Fail[ActorCall]) -> WeftError:
        """Return the error of a call whose actor is dead, or has died meanwhile."""
        call = failed.task
        if failed.kind == "unavailable":
            why = failed.detail or "its actor is restarting"
            return ActorUnavailableError(
                error_message=f"{call.name} may or may not have run: {why}", actor_id=call.actor
            )
        told: ActorNews = failed.detail
        name = call.name.rpartition(".")[0]
        if told.error:
            cause = unpack_failure(told.error)
            return ActorDiedError(
                cause, actor_id=call.actor, class_name=name, actor_init_failed=True
            )
        match told.refused:
            case "environment":
                return EnvSetupError(told.cause)
            case "placement_group":
                return ActorPlacementGroupRemoved(f"actor {name} has ended: {told.cause}")
            case "unschedulable":
                return ActorUnschedulableError(f"actor {name} can never run: {told.cause}")
            case _:
                return ActorDiedError(told.cause, actor_id=call.actor, class_name=name)

    def remember(self, task: ActorCall, lineage: Lineage) -> None:
        """Say why an actor's calls are not made again: its state is another by then."""
        lineage.why_not = f"{task.name} made it, and an actor's calls are not made again"

    # -------------------------------------------------------------- news

    def on_actor_state(self, peer: Peer, message: ActorNews) -> None:
        self._told(message)

    def _told(self, message: ActorNews) -> None:
        actor = ActorId(message.actor_id)
        peer = self._actors.get(actor)
        if message.state != "alive" and peer is not None:
            # What it answered before it ended is on its own connection, perhaps not read yet.
            peer.connection.read_rest()
            self._ask_how(peer)
        if message.state == "dead":
            self._actors.pop(actor, None)
            note = self._made.pop(actor, None)
            if note is not None:
                let_go(self._links, note)
        if actor in self.machine.callees:
            self.calls.handle(call_rules.Told(message))
        if actor in self._begun and message.state in ("alive", "dead"):
            self._created(self._begun.pop(actor), message)

    def _created(self, note: Submission, told: ActorNews) -> None:
        """An actor's creation has ended."""
        note.ended_at = wall()
        failure = None
        if told.state == "alive":
            note.peer = self._actors.get(ActorId(told.actor_id))
        else:
            failure = Failure(told.error or pack_error(ActorDiedError(told.cause)))
        self._recorder.add(note.task_id, 0, note, failure)

    def lost(self, peer: Peer) -> None:
        """The connection to a process broke.

        The directory will say what became of the actor that it was.
        """
        if self._actors.get(peer.actor_id) is peer:
            del self._actors[peer.actor_id]
            self.calls.handle(call_rules.ConnectionLost(peer.actor_id))
            self._ask_how(peer)
            self.checking.begin(peer.actor_id, peer.address)
        elif peer.connects_to_daemon:
            self.checking.daemon_lost(peer)
            for worker in [each for each, (who, _) in self._lost_with.items() if who is peer]:
                del self._lost_with[worker]

    def _ask_how(self, peer: Peer) -> None:
        """An actor's process is lost: ask how it ended, for a capsule of the call that it ran."""
        sent = self.machine.callees[peer.actor_id].sent
        daemon = self._links.daemon_of(peer)
        if self.capsules is not None and sent and daemon is not None:
            creation = self._made.get(peer.actor_id)
            constructor = NO_ARGUMENTS if creation is None else creation.arguments
            lost = [
                LostCall(call, call.attempt + 1, call.note.arguments, creation, constructor)
                for call in sent.values()
            ]
            self._lost_with[peer.worker_id] = (daemon, lost)
            # One of another node may live on.
            is_here = daemon is self._links.daemon
            self._peers.send(daemon, (Explain if is_here else CheckWorker)(peer.worker_id))

    def on_certificate(self, message: Certificate) -> None:
        """Leave a capsule of the call that an actor's process ran last, if it is from here."""
        worker = WorkerId(message.worker_id)
        self.checking.ended(worker)
        last = (message.task_id, message.attempt + 1)
        _, calls = self._lost_with.pop(worker, (None, ()))
        for lost in calls:
            if (lost.call.id, lost.number) == last and self.capsules is not None:
                self.capsules.of_call(lost, message)

    def on_freed(self, entry: Entry) -> None:
        """An owned object has left the table: if it was an actor's token, the actor ends."""
        actor = ActorId(entry.id)
        if actor not in self.machine.callees:
            return
        if actor in self._mortal:
            self._mortal.discard(actor)
            self._end(actor, "its last handle is gone", no_restart=True, graceful=True)
        self.calls.handle(call_rules.HandlesGone(actor))


def actor_options(options: Any) -> dict[str, Any]:
    """Return what the directory and the actor's process need of an actor's options."""
    return {
        "max_restarts": options.max_restarts,
        "lifetime": options.lifetime,
        "max_concurrency": options.max_concurrency,
        "concurrency_groups": options.concurrency_groups,
    }
