"""What is submitted: tasks, actors and calls, as the API hands them to an engine.

`TaskSpec`, `ActorSpec` and `CallSpec` stay in the process that made them and hold live Python
values. `Shape` and `ActorMeta` also travel, so they hold only what msgspec can carry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from weft._ids import ActorId, FunctionId, JobId, NodeId, PlacementGroupId, TaskId, WorkerId
from weft._options import (
    ANY_BUNDLE,
    DEFAULT,
    UNSAID,
    ActorOptions,
    GroupPlace,
    LabelConditions,
    TaskOptions,
    amounts_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LabelSelector: TypeAlias = tuple[tuple[str, str], ...]
"""(label, condition), sorted. A condition is `value`, `in(a,b)` or `exists()`, or `!` and one."""


class Shape(msgspec.Struct, frozen=True, array_like=True):
    """What a worker must be for a task to run on it: tasks of one shape share leased workers."""

    amounts: tuple[tuple[str, int], ...] = ()
    """Resources in 1/10,000, sorted by name."""
    strategy: str = "DEFAULT"
    """DEFAULT, SPREAD, `node:<hex id>:hard|soft|spill`, or `group:<hex id>:<bundle>|any`."""
    labels: LabelSelector = ()
    env: str = ""
    """The runtime environment as canonical JSON; empty for none."""
    fallbacks: tuple[LabelSelector, ...] = ()
    """To try in turn where no node can ever meet `labels`."""
    preferred: LabelSelector = ()
    """Of the nodes that will do, those that meet most of these come first."""
    is_learned: bool = False
    """`memory` is what such tasks were seen to take; the user has asked for less."""
    captures: bool = False
    """What it starts goes into its placement group too, if it does not say otherwise."""


def shape_of(options: TaskOptions | ActorOptions) -> Shape:
    """Return what a worker must be for a task or an actor with these options."""
    strategy = options.scheduling_strategy
    conditions = strategy if isinstance(strategy, LabelConditions) else LabelConditions({}, {})
    return Shape(
        amounts=tuple(sorted(amounts_of(options).items())),
        strategy=_text_of(strategy),
        labels=_selector(options.label_selector, conditions.hard),
        env=options.runtime_env,
        fallbacks=tuple(
            _selector(selector, conditions.hard) for selector in options.fallback_strategy
        ),
        preferred=_selector(conditions.soft),
        captures=isinstance(strategy, GroupPlace) and strategy.captures,
    )


def _text_of(strategy: str | LabelConditions | GroupPlace) -> str:
    match strategy:
        case GroupPlace(group, bundle) if group:
            return f"group:{group}:{'any' if bundle == ANY_BUNDLE else bundle}"
        case str() if strategy != UNSAID:
            return strategy
        case _:
            return DEFAULT


def group_strategy(shape: Shape) -> str:
    """Return the strategy of a shape if it names a placement group; else nothing."""
    return shape.strategy if shape.strategy.startswith("group:") else ""


def captured(shape: Shape, strategy: object, parent: Shape | None) -> Shape:
    """Return the shape of what is started in a task, or an actor, of the shape `parent`.

    It goes into that one's placement group, if that captures and the options do not say otherwise.
    """
    if parent is None or not parent.captures or strategy != UNSAID:
        return shape
    group = parent.strategy.rpartition(":")[0]
    return msgspec.structs.replace(shape, strategy=f"{group}:any", captures=True)


def _selector(*conditions: Mapping[str, str]) -> LabelSelector:
    return tuple(sorted({pair for each in conditions for pair in each.items()}))


class GroupSpec(msgspec.Struct, frozen=True, array_like=True):
    """The creation of a placement group."""

    group_id: PlacementGroupId
    bundles: tuple[Shape, ...]
    """What each is to have: amounts, and labels of its node."""
    strategy: str
    """PACK, SPREAD, STRICT_PACK or STRICT_SPREAD."""
    job_id: JobId
    """Which job has created it."""
    name: str = ""
    namespace: str = ""
    is_detached: bool = False
    topology: str = ""
    """The label of which all its nodes have one value; empty: none."""


class Code:
    """A function or class that travels: pickled once, when an engine first needs its bytes."""

    __slots__ = ("_packed", "name", "target")

    def __init__(self, target: Callable[..., Any], name: str) -> None:
        self.target = target
        self.name = name
        self._packed: tuple[FunctionId, bytes] | None = None

    def pack(self, dumps: Callable[[Any], tuple[FunctionId, bytes]]) -> tuple[FunctionId, bytes]:
        """Return (id, pickle), made by `dumps` at the first call."""
        if self._packed is None:
            self._packed = dumps(self.target)
        return self._packed


class TaskSpec(msgspec.Struct, frozen=True):
    """One call of a remote function."""

    code: Code
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: TaskOptions
    shape: Shape
    site: str = ""
    """File and line of the call."""
    task_id: TaskId | None = None
    """None: it gets one."""


class ParameterSpec(msgspec.Struct, frozen=True, array_like=True):
    """One parameter of a method: enough to check a call, without its default's value."""

    name: str
    kind: int
    """As in inspect.Parameter.kind."""
    has_default: bool


class MethodSpec(msgspec.Struct, frozen=True, array_like=True):
    """What callers must know of an actor's method."""

    parameters: tuple[ParameterSpec, ...]
    """Without `self`."""
    num_returns: int | str = 1
    concurrency_group: str = ""
    max_task_retries: int | None = None
    """None: as the actor's."""
    is_generator: bool = False
    retry_exceptions: bool | bytes = False
    """Bytes: a pickled tuple of exception classes."""
    timeout_s: float | None = None
    backpressure: int = 0


class ActorMeta(msgspec.Struct, frozen=True):
    """What a handle needs; travels with it."""

    actor_id: ActorId
    class_name: str
    methods: dict[str, MethodSpec]
    name: str = ""
    namespace: str = ""
    max_task_retries: int = 0
    max_pending_calls: int = -1
    is_async: bool = False
    in_any_order: bool = False
    """Calls whose arguments are late do not hold back later ones."""


class ActorSpec(msgspec.Struct, frozen=True):
    """The creation of an actor."""

    meta: ActorMeta
    code: Code
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: ActorOptions
    shape: Shape


class CallSpec(msgspec.Struct, frozen=True):
    """One call of an actor's method."""

    actor: ActorMeta
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    num_returns: int | str = 1
    """A number, "streaming" or "dynamic"."""
    concurrency_group: str = ""
    max_task_retries: int = 0
    retry_exceptions: bool | tuple[type[BaseException], ...] = False
    timeout_s: float | None = None
    name: str = ""
    backpressure: int = 0
    site: str = ""
    """As of TaskSpec."""
    task_id: TaskId | None = None
    """As of TaskSpec."""


class NodeReply(msgspec.Struct, frozen=True):
    """What one node has answered."""

    node_id: str
    """In hexadecimal digits."""
    address: str
    """HOST:PORT; empty: a machine alone."""
    bodies: list[bytes]
    """One each question; none if it is silent."""
    silent: str = ""
    """Why it has not answered."""


class Place(msgspec.Struct, frozen=True):
    """Where code runs: what `get_runtime_context` tells."""

    job_id: JobId
    node_id: NodeId
    worker_id: WorkerId
    task_id: TaskId | None = None
    task_name: str = ""
    function_name: str = ""
    actor_id: ActorId | None = None
    actor_name: str = ""
    namespace: str = ""
    placement_group_id: PlacementGroupId | None = None
    captures: bool = False
    """Tasks that are started here go into the same placement group."""
    resources: dict[str, float] = {}
    """Assigned to the running task or actor, as users write them."""
    accelerators: dict[str, list[str]] = {}
    """Ids of the assigned devices by resource name: {"GPU": ["0"]}."""
    runtime_env: str = "{}"
    """As JSON."""
    session: str = ""
    temp_dir: str = ""
    address: str = ""
    """Of the control service."""
    labels: dict[str, str] = {}
    was_restarted: bool = False
    is_cancelled: bool = False
    in_worker: bool = False
