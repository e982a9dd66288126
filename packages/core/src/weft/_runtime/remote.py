"""The engine of a program on a machine that has no node of its cluster.

A driver on the head, its deputy, does the work (`deputy.py`); this engine hands on what it is
asked, and knows of objects what the program has looked at. Ids of tasks and objects are drawn here,
so to submit is to send one letter: nothing waits for an answer but who wants a value, or a name.

    remote_talk.py      orders and answers       letters.py   what is said, over any connection
    remote_objects.py   references               road.py      the connection
    remote_values.py    put, get, wait           deputy.py    the other side
    remote_streams.py   streams
    remote_contents.py  files of environments

What is always true
1. Orders arrive in the order in which they are given, and each once, however often the connection
   breaks.
2. Large values and arguments, and the files of an environment, are with the deputy before `submit`,
   `put` or `call` returns, as on a node they are stored before that.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import TYPE_CHECKING, Any

from msgspec import structs

from weft._clock import monotonic
from weft._engine import current
from weft._env.sharing import named_by
from weft._ids import ActorId, IdSource, ObjectId, PlacementGroupId, TaskId
from weft._refs import ObjectRef, ObjectRefGenerator
from weft._runtime.arguments import pickle_arguments
from weft._runtime.bundles import INLINE_BYTES
from weft._runtime.interrupts import Interrupts
from weft._runtime.jobs import begins_job
from weft._runtime.loop import Loop
from weft._runtime.remote_objects import RemoteStream
from weft._runtime.remote_streams import RemoteStreams
from weft._runtime.remote_talk import ENDED, RemoteTalk
from weft._runtime.remote_values import RemoteValues
from weft._runtime.road import PATIENCE_S, Head, Road
from weft._serialize.pickling import dump_code, dumps, unpack
from weft._serialize.refs import hooks
from weft._transport.join import JoinString
from weft._transport.timers import Timers
from weft._wire import remote
from weft.exceptions import GetTimeoutError, OptionError, SessionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weft._metrics import Readings
    from weft._options import InitOptions
    from weft._specs import (
        ActorMeta,
        ActorSpec,
        CallSpec,
        Code,
        GroupSpec,
        NodeReply,
        Place,
        TaskSpec,
    )
    from weft._wire.messages import BeginsJob

DEPUTY = "deputy"
END_S = 15.0


class RemoteEngine:
    """An Engine; the methods of that protocol are documented there."""

    name = "remote"

    def __init__(self, head: Head, patience_s: float) -> None:
        """Have a deputy started. Blocks. SessionError, AuthenticationError: it cannot be."""
        self._head = head
        found = head.ask(DEPUTY, {"patience_s": patience_s}, dict[str, Any])
        self._deputy: bytes = found["id"]
        self.daemon: str = found["daemon"]
        self._timers = Timers()
        self._loop = Loop(self._before_wait, lambda: None, self._broken)
        self._guard = self._loop.guard
        self._interrupts = Interrupts(self._guard)
        self._ids = IdSource()
        self._talk = RemoteTalk(self, self._loop)
        self._objects = self._talk.objects
        self._exported: set[bytes] = set()
        self._brought: set[str] = set()
        """Environments of which all files are on the deputy's machine."""
        self._place: Place
        self._road = Road(
            self._loop,
            self._timers,
            head,
            self._deputy,
            deliver=self._talk.heard,
            failed=self._talk.fail,
            lives=lambda: head.ask(DEPUTY, {"id": self._deputy}, bool),
            patience_s=patience_s,
        )
        self._talk.letters = self._road.letters
        values = RemoteValues(self._loop, self._talk, self._ids)
        self.put = values.put
        self.get = values.get
        self.wait = values.wait
        self.free = values.free
        self.is_ready = values.is_ready
        self.when_ready = values.when_ready
        self.future = values.future
        streams = RemoteStreams(self._loop, self._talk)
        self.next_item = streams.next_item
        self.when_next = streams.when_next
        hooks.rebuild_ref = self._objects.rebuild_ref
        _alive.add(self)

    def begin(self, job: BeginsJob, preload: list[str]) -> None:
        """Connect, and tell the deputy what the job is. SessionError."""
        with self._guard:
            self._road.begin()
        self._loop.start()
        self._bring(job.env)
        facts, _ = self._talk.ask(lambda request: remote.Begins(request, job, preload))
        self._place, self._objects.address = unpack(facts)
        self._interrupts.begin()

    # -------------------------------------------------------------- the loop's hooks; in the guard

    def _before_wait(self, now: float) -> float | None:
        if not self._talk.closing:
            self._objects.drain()
        return self._timers.tick(now)

    def _broken(self, error: Exception) -> None:
        self._talk.fail(SessionError(f"the session broke, which is a bug of Weft: {error!r}"))

    # -------------------------------------------------------------- tasks and actors

    def submit(self, spec: TaskSpec) -> list[ObjectRef[Any]] | ObjectRefGenerator[Any]:
        """Start a task; see Engine. Blocks where it is the first of an environment with files."""
        self._bring(spec.shape.env)
        arguments = _given(spec.args, spec.kwargs)
        function_id, code = spec.code.pack(dump_code)
        options = dumps((spec.options, spec.shape)).pack()
        task_id = self._ids.task_id()
        number = spec.options.num_returns
        returns = number if isinstance(number, int) else 1

        def make(request: int) -> remote.Order:
            return remote.Submits(
                request, task_id, function_id, options, spec.site, returns, arguments
            )

        return self._start(make, task_id, number, arguments, (function_id, spec.code, code))

    def call(self, spec: CallSpec) -> list[ObjectRef[Any]] | ObjectRefGenerator[Any]:
        """Call an actor's method; see Engine."""
        arguments = _given(spec.args, spec.kwargs)
        packed = dumps(structs.replace(spec, args=(), kwargs={})).pack()
        task_id = self._ids.task_id()
        number = spec.num_returns
        returns = number if isinstance(number, int) else 1

        def make(request: int) -> remote.Order:
            return remote.Invokes(request, task_id, packed, returns, arguments)

        # A bound on what is pending is told to who goes over it.
        is_bound = spec.actor.max_pending_calls >= 0
        return self._start(make, task_id, number, arguments, None, is_asked=is_bound)

    def _start(
        self,
        make: Callable[[int], remote.Order],
        task_id: TaskId,
        number: int | str,
        arguments: remote.SentArguments,
        code: tuple[bytes, Code, bytes] | None,
        *,
        is_asked: bool = False,
    ) -> list[ObjectRef[Any]] | ObjectRefGenerator[Any]:
        """Order what makes objects; return references to them."""
        returns = number if isinstance(number, int) else 1
        is_asked = is_asked or len(arguments.data) > INLINE_BYTES
        with self._guard:
            if code is not None:
                self._export(*code)
            self._talk.refuse_if_ended()
            refs = [self._objects.make(task_id.object_id(index + 1)) for index in range(returns)]
            if not is_asked:
                self._talk.order(make(0))
        if is_asked:
            self._talk.ask(make, kept=refs)
        if number != "streaming":
            return refs
        return ObjectRefGenerator(task_id, self, refs[0], RemoteStream(task_id))

    def _bring(self, env: str) -> None:
        """Have the files of an environment on the deputy's machine. Blocks. EnvSetupError."""
        if env in self._brought:
            return
        if named_by(env):
            self._talk.ask(lambda request: remote.Brings(request, env))
        self._brought.add(env)

    def _export(self, function_id: bytes, code: Code, packed: bytes) -> None:
        if function_id not in self._exported:
            self._talk.order(remote.Exports(function_id, code.name, packed))
            self._exported.add(function_id)

    def create_actor(self, spec: ActorSpec) -> ObjectRef[Any] | None:
        """Start an actor; see Engine."""
        self._bring(spec.shape.env)
        meta = spec.meta
        arguments = _given(spec.args, spec.kwargs)
        function_id, code = spec.code.pack(dump_code)
        packed = dumps((meta, spec.options, spec.shape)).pack()

        def make(request: int) -> remote.Order:
            return remote.Creates(request, function_id, packed, arguments)

        token: ObjectRef[Any] | None = None
        with self._guard:
            self._talk.refuse_if_ended()
            self._export(function_id, spec.code, code)
            if spec.options.lifetime != "detached":
                token = self._objects.make(ObjectId(meta.actor_id))
            is_asked = bool(meta.name) or len(arguments.data) > INLINE_BYTES
            if not is_asked:
                self._talk.order(make(0))
        if is_asked:
            self._talk.ask(make, kept=token)
        return token

    def find_actor(self, name: str, namespace: str) -> tuple[ActorMeta, ObjectRef[Any] | None]:
        """Look a named actor up; see Engine."""
        found: tuple[ActorMeta, ObjectRef[Any] | None]
        found = self._talk.question("find_actor", name, namespace)
        return found

    def named_actors(self, namespace: str | None) -> list[tuple[str, str]]:
        """Return names; see Engine."""
        found: list[tuple[str, str]] = self._talk.question("named_actors", namespace)
        return found

    def kill(self, actor_id: ActorId, *, no_restart: bool) -> None:
        """End an actor; see Engine."""
        with self._guard:
            self._talk.order(remote.Kills(0, actor_id, no_restart))

    def cancel(
        self, ref: ObjectRef[Any] | ObjectRefGenerator[Any], *, force: bool, recursive: bool
    ) -> None:
        """Ask a task to end; see Engine."""
        is_stream = isinstance(ref, ObjectRefGenerator)
        subject = bytes(ref._task_id if isinstance(ref, ObjectRefGenerator) else ref._id)

        def make(request: int) -> remote.Order:
            return remote.Cancels(request, subject, is_stream, force, recursive)

        if force:
            self._talk.ask(make)  # It may be refused.
            return
        with self._guard:
            self._talk.order(make(0))

    # -------------------------------------------------------------- references

    def release(self, object_id: ObjectId | TaskId) -> None:
        """A reference or a stream is gone; see Engine."""
        if not self._talk.closing:
            self._objects.release(object_id)

    def adopt(self, object_id: ObjectId, owner: str) -> None:
        """A reference made elsewhere appeared; see Engine."""
        self._objects.rebuild_ref(object_id, owner)

    # -------------------------------------------------------------- facts

    def context(self) -> Place:
        """Say where the program is: with its deputy; see Engine."""
        return self._place

    def current_actor(self) -> tuple[ActorMeta, ObjectRef[Any] | None] | None:
        """Return None: a program is no actor; see Engine."""
        return None

    def exit_actor(self) -> None:
        """Refuse: a program is no actor."""
        raise TypeError("exit_actor works inside an actor's method only")

    def nodes(self) -> list[dict[str, Any]]:
        """Return one record a node; see Engine."""
        found: list[dict[str, Any]] = self._talk.question("nodes")
        return found

    def resources(self, *, available: bool) -> dict[str, float]:
        """Return amounts; see Engine."""
        found: dict[str, float] = self._talk.question("resources", available=available)
        return found

    def inspect(self, what: str, body: object = None) -> bytes:
        """Answer a question about the session; see Engine."""
        answer: bytes = self._talk.question("inspect", what, body)
        return answer

    def inspect_nodes(
        self, whats: Sequence[str], body: object = None, *, node_id: str = ""
    ) -> list[NodeReply]:
        """Ask all nodes; see Engine."""
        replies: list[NodeReply]
        replies = self._talk.question("inspect_nodes", list(whats), body, node_id=node_id)
        return replies

    def metrics(self) -> list[Readings]:
        """Return what processes have measured; see Engine."""
        readings: list[Readings] = self._talk.question("metrics")
        return readings

    def why(self, subject: ObjectRef[Any] | ActorId | PlacementGroupId) -> str:
        """Say what something waits for; see Engine."""
        kind = "object" if isinstance(subject, ObjectRef) else type(subject).__name__
        key = bytes(subject._id if isinstance(subject, ObjectRef) else subject)
        text, _ = self._talk.ask(lambda request: remote.Explains(request, key, kind))
        return text.decode()

    def create_group(self, spec: GroupSpec) -> None:
        """Create a placement group; see Engine."""
        self._talk.question("create_group", spec)

    def remove_group(self, group: PlacementGroupId, reason: str) -> None:
        """Remove a placement group; see Engine. Blocks until that is begun."""
        self._talk.question("remove_group", group, reason)

    def group_ready(self, group: PlacementGroupId, value: Any) -> ObjectRef[Any]:
        """Return what is there when a group is; see Engine. Blocks until that is asked for."""
        ref: ObjectRef[Any] = self._talk.question("group_ready", group, value)
        return ref

    def preload(self, modules: Sequence[str]) -> None:
        """Have modules imported for later workers; see Engine."""
        self._talk.question("preload", list(modules))

    # -------------------------------------------------------------- the end

    def shutdown(self) -> None:
        """Say goodbye to the deputy; see Engine."""
        if self._talk.closing:
            return
        if self._talk.ended is None:
            self._road.hurry()
            # Who does not hear it is gone, or ends when nothing was heard of this program for long.
            with contextlib.suppress(SessionError, GetTimeoutError):
                self._talk.ask(remote.Leaves, monotonic() + END_S)
        self._talk.closing = True
        with self._guard:
            self._talk.fail(SessionError(ENDED))
            self._road.close()
        self._loop.close()
        self._interrupts.end()
        hooks.reset()

    def abandon(self) -> None:
        """Let go of everything in a forked child: the connection is its parent's."""
        self._talk.closing = True
        self._road.letters.abandon()
        self._loop.abandon()
        if current.engine is self:
            current.engine = None


def _given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> remote.SentArguments:
    """Return a call's arguments as they are sent."""
    if not args and not kwargs:
        return _NOTHING_GIVEN
    serialized, deps = pickle_arguments(args, kwargs)
    return remote.SentArguments(
        serialized.pack(),
        [bytes(ref._id) for ref in deps],
        [bytes(ref._id) for ref in serialized.refs],
    )


_NOTHING_GIVEN = remote.SentArguments(b"", [], [])


_alive: weakref.WeakSet[RemoteEngine] = weakref.WeakSet()


def _abandon_all() -> None:
    for engine in list(_alive):
        if not engine._talk.closing:
            engine.abandon()


os.register_at_fork(after_in_child=_abandon_all)


def join_remotely(options: InitOptions, *, patience_s: float = PATIENCE_S) -> RemoteEngine:
    """Be a program of a cluster of which this machine has no node.

    Blocks. SessionError, AuthenticationError: there is no way in. OptionError: no join string.
    """
    if options.address is None:
        raise OptionError(
            "engine='remote' of init needs address=, the join string that `weft start --head` "
            "printed, or WEFT_ADDRESS"
        )
    head = Head(JoinString.parse(options.address))
    engine = RemoteEngine(head, patience_s)
    try:
        engine.begin(begins_job(options, engine.daemon), list(options.preload))
    except BaseException:
        engine.shutdown()
        raise
    return engine
