"""The seam between what users call and what runs it.

`_api` turns user calls into specs and hands them to the current Engine. Engines: `inline` (this
process), `local` (a driver of a node of this machine) and `remote` (a program of a cluster that has
none here). The Engine protocol is narrow on purpose: everything that a user sees is built on these
methods, and one semantic suite runs on every engine.

What is always true
1. At most one engine is current in a process.
2. Every method may be called from any thread. Those that block say so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from weft._ids import ActorId, ObjectId, PlacementGroupId, TaskId
    from weft._metrics import Readings
    from weft._refs import ObjectRef, ObjectRefGenerator
    from weft._specs import ActorMeta, ActorSpec, CallSpec, GroupSpec, NodeReply, Place, TaskSpec


class Engine(Protocol):
    """What runs tasks and keeps objects."""

    name: str

    def submit(self, spec: TaskSpec) -> list[ObjectRef[Any]] | ObjectRefGenerator[Any]:
        """Start a task. Does not block. One ref per return, or a generator of refs.

        Raises PicklingError (with the path to the offending object) if arguments cannot travel;
        nothing was sent then.
        """
        ...

    def create_actor(self, spec: ActorSpec) -> ObjectRef[Any] | None:
        """Start an actor.

        Does not block, except for a name (`spec.options.name`): then until the name is taken.

        Returns the owning handle's token: the actor ends when the last token, here or borrowed
        elsewhere, is gone (None for a detached actor). ValueError if the name is taken; nothing was
        started then.
        """
        ...

    def find_actor(self, name: str, namespace: str) -> tuple[ActorMeta, ObjectRef[Any] | None]:
        """Look a named actor up.

        Blocks for one message. ValueError if there is none. (meta, token).
        """
        ...

    def named_actors(self, namespace: str | None) -> list[tuple[str, str]]:
        """(namespace, name) of living named actors; of all namespaces if None."""
        ...

    def call(self, spec: CallSpec) -> list[ObjectRef[Any]] | ObjectRefGenerator[Any]:
        """Call an actor's method. Does not block; calls of one caller start in order."""
        ...

    def put(self, value: Any) -> ObjectRef[Any]:
        """Store a value; the caller owns it."""
        ...

    def get(self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> list[Any]:
        """Wait for values, in order.

        Blocks. Raises the first failure in order, or GetTimeoutError.
        """
        ...

    def wait(
        self,
        refs: Sequence[ObjectRef[Any]],
        ready: int,
        timeout_s: float | None,
        *,
        fetch_local: bool,
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Wait until `ready` of `refs` are done or time is up.

        Blocks. Both lists keep the order of `refs`.
        """
        ...

    def free(self, refs: Sequence[ObjectRef[Any]]) -> None:
        """Let the values go although there are references: `get` raises ObjectFreedError then.

        Does not block.
        """
        ...

    def is_ready(self, ref: ObjectRef[Any]) -> bool:
        """Tell whether `get` would return at once."""
        ...

    def when_ready(self, ref: ObjectRef[Any], callback: Callable[[], None]) -> None:
        """Call back once, from any thread, when the value (or failure) is there.

        At once if it is already.
        """
        ...

    def future(self, ref: ObjectRef[Any]) -> Future[Any]:
        """A concurrent.futures.Future that gets the value or the error."""
        ...

    def release(self, object_id: ObjectId | TaskId) -> None:
        """A local reference is gone, or (a task's id) a stream.

        Called by `__del__`: only appends to a queue, never takes a lock.
        """
        ...

    def adopt(self, object_id: ObjectId, owner: str) -> None:
        """A reference made elsewhere (`owner`: its owner's address) now exists in this process."""
        ...

    def next_item(
        self, generator: ObjectRefGenerator[Any], timeout_s: float | None
    ) -> ObjectRef[Any] | None:
        """Next ref of a streaming generator, or None at its end.

        Blocks. GetTimeoutError when time is up.
        """
        ...

    def when_next(self, generator: ObjectRefGenerator[Any], callback: Callable[[], None]) -> None:
        """Call back once, from any thread, when `next_item` would not block."""
        ...

    def cancel(
        self, ref: ObjectRef[Any] | ObjectRefGenerator[Any], *, force: bool, recursive: bool
    ) -> None:
        """Ask the task that makes `ref` to end. Does not block."""
        ...

    def kill(self, actor_id: ActorId, *, no_restart: bool) -> None:
        """End an actor's process at once; its unfinished calls fail."""
        ...

    def context(self) -> Place:
        """Facts about where the calling code runs: ids, task, actor, node, resources. See Place."""
        ...

    def current_actor(self) -> tuple[ActorMeta, ObjectRef[Any] | None] | None:
        """(meta, token) of the actor whose method runs here, or None."""
        ...

    def exit_actor(self) -> None:
        """Leave the method that runs and end its actor; does not return."""
        ...

    def nodes(self) -> list[dict[str, Any]]:
        """One record a node."""
        ...

    def resources(self, *, available: bool) -> dict[str, float]:
        """Total or free amounts of the cluster."""
        ...

    def inspect(self, what: str, body: object = None) -> bytes:
        """Answer a question about the session, of _node/questions.py or _node/history.py.

        Blocks while processes are asked. ValueError: it cannot be answered.
        """
        ...

    def inspect_nodes(
        self, whats: Sequence[str], body: object = None, *, node_id: str = ""
    ) -> list[NodeReply]:
        """Ask the same of all nodes, or of one. Blocks, at most 2 s for one that does not answer.

        Each question has the body. ValueError: it cannot be answered.
        """
        ...

    def metrics(self) -> list[Readings]:
        """What the session's processes have measured. Blocks while they are asked."""
        ...

    def why(self, subject: ObjectRef[Any] | ActorId | PlacementGroupId) -> str:
        """What a reference, an actor or a placement group waits for, as text of a few lines."""
        ...

    def create_group(self, spec: GroupSpec) -> None:
        """Create a placement group.

        Blocks until it is known, not until it is ready. UnschedulableError: it can never be placed;
        ValueError: its name is taken. There is no such group then.
        """
        ...

    def remove_group(self, group: PlacementGroupId, reason: str) -> None:
        """End what runs in a placement group, and the group. Does not block."""
        ...

    def group_ready(self, group: PlacementGroupId, value: Any) -> ObjectRef[Any]:
        """Return a reference to `value`, which is there once the group is ready. Does not block.

        If the group is removed before, it fails with TaskPlacementGroupRemoved.
        """
        ...

    def preload(self, modules: Sequence[str]) -> None:
        """Have modules imported once for all workers that are started from now on.

        Does not block. A module that cannot be imported is told by the task that imports it.
        """
        ...

    def shutdown(self) -> None:
        """End everything this engine started. Blocks until it is gone. Idempotent."""
        ...


class _Current:
    """The one engine of this process, or None, and who is told when its session ends."""

    __slots__ = ("at_end", "engine")

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self.at_end: set[Callable[[], object]] = set()
        """Called when `shutdown` has taken the engine away, before it ends. They do not block."""


current = _Current()
