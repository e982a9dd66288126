"""The options of tasks, actors, methods and sessions: checked once, merged in one place, frozen.

`@remote(...)` and `.options(...)` give keywords. `task_options`, `actor_options` and
`method_options` check them and lay them over what was there before, so a value that an engine reads
is always a good one. Each option has one rule, in `_RULES`: it returns the value to keep, or says
what the value has to be.

What is always true
1. A record that these functions return holds only checked values: strategies as text or records,
   exceptions as a tuple, environments as canonical JSON.
2. None as a value means "not given", so that a program may pass its own defaults through; but
   `placement_group=None` means "in none".

It is one file, since a reader looks for the rule of an option in one place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import PurePath
from types import ModuleType
from typing import (
    Any,
    Final,
    Literal,
    Protocol,
    TypeAlias,
    TypedDict,
    TypeGuard,
    TypeVar,
    runtime_checkable,
)

import msgspec

from weft._ids import PlacementGroupId
from weft._lazy import lazy
from weft._resources import ACCELERATORS, UNITS, JobLimits, Resources
from weft.exceptions import OptionError

difflib = lazy("difflib")

UNSAID: Final = ""
"""The strategy of options that name none: in a placement group that captures, that group."""
DEFAULT: Final = "DEFAULT"
SPREAD: Final = "SPREAD"

ANY_BUNDLE: Final = -1

RuleT = TypeVar("RuleT")

NumReturns: TypeAlias = int | Literal["streaming", "dynamic"]
RetryExceptions: TypeAlias = bool | tuple[type[BaseException], ...]


class LabelConditions(msgspec.Struct, frozen=True):
    """Conditions on a node's labels, by label, each written as in Shape.labels."""

    hard: dict[str, str]
    """They hold, besides the label selector."""
    soft: dict[str, str]
    """They hold where they can."""


class GroupPlace(msgspec.Struct, frozen=True):
    """A place in a placement group."""

    group: str
    """The group's id, in hexadecimal; empty: in none, also where one captures."""
    bundle: int
    """-1: any that has room."""
    captures: bool
    """What is started there goes into the group too, if it does not say otherwise."""
    bundles: tuple[dict[str, float], ...]
    """What each bundle has."""


NO_GROUP: Final = GroupPlace("", ANY_BUNDLE, captures=False, bundles=())


class TaskOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a task runs."""

    num_cpus: float = 1
    num_gpus: float = 0
    memory: int | None = None
    """Bytes."""
    object_store_memory: int | None = None
    """Bytes."""
    resources: dict[str, float] = {}
    accelerator_type: str | None = None
    num_returns: int | str = 1
    """A number, "streaming" or "dynamic"."""
    max_retries: int = 3
    """After a lost worker; -1: for ever."""
    retry_exceptions: RetryExceptions = False
    """Which of the task's own exceptions are retried too."""
    max_calls: int = 0
    """A worker ends after this many calls of the function; 0: never."""
    scheduling_strategy: str | LabelConditions | GroupPlace = UNSAID
    """Text as in Shape.strategy."""
    label_selector: dict[str, str] = {}
    fallback_strategy: tuple[dict[str, str], ...] = ()
    """Label selectors to try in turn where no node can ever meet `label_selector`."""
    runtime_env: str = ""
    """Canonical JSON; empty for none."""
    name: str = ""
    timeout: float | None = None
    """Seconds."""
    backpressure: int = 0
    """A stream stops while this many items are not taken; 0: no limit."""


class ActorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How an actor lives."""

    num_cpus: float = 0
    num_gpus: float = 0
    memory: int | None = None
    object_store_memory: int | None = None
    resources: dict[str, float] = {}
    accelerator_type: str | None = None
    name: str = ""
    namespace: str = ""
    lifetime: str | None = None
    """"detached", or None: ends with its last handle."""
    get_if_exists: bool = False
    max_restarts: int = 0
    max_task_retries: int = 0
    max_concurrency: int | None = None
    """None: 1, or 1000 for a class with async methods."""
    concurrency_groups: dict[str, int] = {}
    max_pending_calls: int = -1
    scheduling_strategy: str | LabelConditions | GroupPlace = UNSAID
    label_selector: dict[str, str] = {}
    fallback_strategy: tuple[dict[str, str], ...] = ()
    runtime_env: str = ""


class MethodOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How calls of an actor's method run; None and empty: as the class says."""

    num_returns: int | str | None = None
    concurrency_group: str = ""
    max_task_retries: int | None = None
    retry_exceptions: RetryExceptions | None = None
    name: str = ""
    timeout: float | None = None
    backpressure: int = 0


class InitOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a session is started."""

    address: str | None = None
    num_cpus: int | None = None
    num_gpus: int | None = None
    resources: dict[str, float] = {}
    labels: dict[str, str] = {}
    object_store_memory: int | None = None
    namespace: str = ""
    """Empty: one of its own, which no other session sees."""
    runtime_env: str = ""
    """Canonical JSON; empty for none."""
    log_to_driver: bool = True
    preload: tuple[str, ...] = ()
    """Modules that workers have imported when they start."""
    engine: str = "local"
    temp_dir: str | None = None
    metadata: dict[str, str] = {}
    """Of the job."""
    limits: JobLimits = JobLimits()
    """Of the job."""
    logging: str = ""
    """A LoggingConfig for workers, as JSON; empty for none."""


@runtime_checkable
class NodeAffinity(Protocol):
    """A scheduling strategy that names a node (`NodeAffinitySchedulingStrategy`)."""

    node_id: str
    soft: bool


@runtime_checkable
class LabelCondition(Protocol):
    """What a node's label has to be: In, NotIn, Exists or DoesNotExist."""

    def condition(self) -> str:
        """Return it as a label selector writes it."""
        ...


@runtime_checkable
class NodeLabels(Protocol):
    """A scheduling strategy that names labels (`NodeLabelSchedulingStrategy`)."""

    hard: Mapping[str, LabelCondition]
    soft: Mapping[str, LabelCondition]


class GroupHandle(Protocol):
    """A handle of a placement group (`PlacementGroup`); see `_is_group`."""

    id: PlacementGroupId

    @property
    def is_empty(self) -> bool:
        """Whether it stands for no group."""
        ...

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """What each bundle has."""
        ...


@runtime_checkable
class GroupBundle(Protocol):
    """A strategy that names a placement group (`PlacementGroupSchedulingStrategy`)."""

    placement_group: Any
    placement_group_bundle_index: int
    placement_group_capture_child_tasks: bool | None


# ------------------------------------------------------------------ what users may write, for type
# checkers


class _PlaceKeywords(TypedDict, total=False):
    num_cpus: float | None
    num_gpus: float | None
    memory: float | None
    object_store_memory: float | None
    resources: Mapping[str, float] | None
    accelerator_type: str | None
    scheduling_strategy: Any
    label_selector: Mapping[str, str] | None
    fallback_strategy: Sequence[Mapping[str, Any]] | None
    runtime_env: Mapping[str, Any] | None
    name: str | None
    enable_task_events: bool
    placement_group: Any
    placement_group_bundle_index: int
    placement_group_capture_child_tasks: bool | None


class TaskKeywords(_PlaceKeywords, total=False):
    """Options of `@remote` on a function, and of its `.options`, apart from `num_returns`."""

    max_calls: int
    max_retries: int
    retry_exceptions: bool | Sequence[type[BaseException]]
    timeout: float | None
    backpressure: int


class ActorKeywords(_PlaceKeywords, total=False):
    """Options of `@remote` on a class, and of `ActorClass.options`."""

    namespace: str | None
    lifetime: Literal["detached", "non_detached"] | None
    get_if_exists: bool
    max_restarts: int
    max_task_retries: int
    max_concurrency: int | None
    concurrency_groups: Mapping[str, int] | None
    max_pending_calls: int
    enable_tensor_transport: bool | None
    allow_out_of_order_execution: bool | None


class MethodKeywords(TypedDict, total=False):
    """Options of `@method` and of `ActorMethod.options`, apart from `num_returns`."""

    concurrency_group: str | None
    max_task_retries: int | None
    retry_exceptions: bool | Sequence[type[BaseException]] | None
    timeout: float | None
    backpressure: int
    enable_task_events: bool
    tensor_transport: str | None


# ------------------------------------------------------------------ rules: the value to keep, or an
# error


class _WrongValueError(Exception):
    """What the value has to be."""


def _amount(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _WrongValueError("has to be a number")
    _count_units({"it": value})
    return value


def _gpus(value: Any) -> float:
    amount = _amount(value)
    if amount > 1 and amount != int(amount):
        raise _WrongValueError("has to be a fraction of one GPU or a whole number of them")
    return amount


def _count_units(amounts: Mapping[str, float]) -> None:
    try:
        Resources(amounts)
    except ValueError as error:
        # A single amount needs no name: the option's stands before.
        which, _, why = str(error).partition(": ")
        raise _WrongValueError(
            f"cannot be: {why if len(amounts) == 1 else f'{which}: {why}'}"
        ) from None


def _bytes(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise _WrongValueError("has to be a number of bytes above 0")
    return int(value)


def _resources(value: Any) -> dict[str, float]:
    amounts: dict[str, float] = _mapping(value, "amounts by name, like {'licence': 1}")
    for known, option in (("CPU", "num_cpus"), ("GPU", "num_gpus"), ("memory", "memory")):
        if known in amounts:
            raise _WrongValueError(
                f"cannot hold {known!r}: write {option}={amounts[known]!r} instead"
            )
    return _amounts(amounts)


def _amounts(amounts: dict[str, float]) -> dict[str, float]:
    for name, amount in amounts.items():
        if isinstance(amount, bool) or not isinstance(amount, int | float):
            raise _WrongValueError(f"has to hold numbers, and {name!r} is {amount!r}")
    _count_units(amounts)
    for name in ACCELERATORS:
        amount = amounts.get(name, 0)
        if amount > 1 and amount != int(amount):
            raise _WrongValueError(
                f"has to hold a fraction of one {name} or a whole number of them"
            )
    return amounts


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _WrongValueError(f"has to be a dict of {what}")
    if "" in value:
        raise _WrongValueError("has an empty name")
    return dict(value)


def _whole(least: int, meaning: str = "") -> Callable[[Any], int]:
    def rule(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise _WrongValueError(f"has to be a whole number from {least}{meaning} up")
        return value

    return rule


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _WrongValueError("has to be True or False")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _WrongValueError("has to be a string")
    return value


def _filled_text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _WrongValueError("has to be a string that is not empty")
    return value


def _num_returns(value: Any) -> int | str:
    if value in ("streaming", "dynamic"):
        return str(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _WrongValueError("has to be a whole number from 0 up, 'streaming' or 'dynamic'")
    return value


def _exceptions(value: Any) -> RetryExceptions:
    if isinstance(value, bool):
        return value
    if isinstance(value, list | tuple) and all(
        isinstance(item, type) and issubclass(item, BaseException) for item in value
    ):
        return tuple(value)
    raise _WrongValueError("has to be True, False or a list of exception classes")


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise _WrongValueError("has to be a number of seconds above 0")
    return float(value)


def _lifetime(value: Any) -> str | None:
    if value not in ("detached", "non_detached"):
        raise _WrongValueError("has to be 'detached' or 'non_detached'")
    return value if value == "detached" else None


def _groups(value: Any) -> dict[str, int]:
    groups = _mapping(value, "numbers of calls at a time by group, like {'io': 2}")
    limit = _whole(1)
    return {name: limit(threads) for name, threads in groups.items()}


def _strategy(value: Any) -> str | LabelConditions | GroupPlace:
    if isinstance(value, GroupBundle):
        return _in_group(
            value.placement_group,
            value.placement_group_bundle_index,
            captures=bool(value.placement_group_capture_child_tasks),
        )
    if value in (DEFAULT, SPREAD):
        return str(value)
    if isinstance(value, NodeAffinity):
        node: object = value.node_id
        if not isinstance(node, str) or not re.fullmatch("[0-9a-f]{32}", node):
            raise _WrongValueError(
                f"names the node {node!r}, which is no id of one (see weft.nodes())"
            )
        return f"node:{node}:{'soft' if value.soft else 'hard'}"
    if isinstance(value, NodeLabels):
        return LabelConditions(_conditions(value.hard), _conditions(value.soft))
    raise _WrongValueError(
        "has to be 'DEFAULT', 'SPREAD', NodeAffinitySchedulingStrategy(node_id, soft), "
        "NodeLabelSchedulingStrategy(hard, soft=soft) or "
        "PlacementGroupSchedulingStrategy(placement_group)"
    )


def _in_group(group: Any, bundle: Any, *, captures: bool) -> GroupPlace:
    if group is None or (_is_group(group) and group.is_empty):
        if bundle != ANY_BUNDLE:
            raise _WrongValueError("names a bundle and no placement group")
        return NO_GROUP
    if not _is_group(group):
        raise _WrongValueError("has to name a PlacementGroup, as placement_group() returns it")
    place = GroupPlace(group.id.hex(), ANY_BUNDLE, captures, tuple(group.bundle_specs))
    return msgspec.structs.replace(place, bundle=_bundle(bundle, len(place.bundles)))


def bundle_amounts(bundle: Any, subject: str) -> Resources:
    """Check what a bundle is to have, as {"CPU": 1}. OptionError, which names `subject`."""
    return _checked(_bundle_amounts, bundle, subject)


def bundle_labels(selector: Any, subject: str) -> dict[str, str]:
    """Check what labels a bundle's node is to have. OptionError, which names `subject`."""
    return _checked(_labels, selector, subject)


def _checked(rule: Callable[[Any], RuleT], value: Any, subject: str) -> RuleT:
    try:
        return rule(value)
    except _WrongValueError as error:
        raise OptionError(f"{subject}, {value!r}, {error}") from None


def _bundle_amounts(value: Any) -> Resources:
    amounts = _amounts(_mapping(value, "amounts by name, like {'CPU': 1}"))
    if not any(amounts.values()):
        raise _WrongValueError("has to have an amount of something")
    return Resources(amounts)


def wrong_bundle(index: Any, bundles: int) -> str:
    """Say why this is no index of a bundle, of so many; empty if it is."""
    if not isinstance(index, bool) and isinstance(index, int) and ANY_BUNDLE <= index < bundles:
        return ""
    which = f"bundles 0 to {bundles - 1}" if bundles > 1 else "bundle 0"
    return f"names bundle {index!r}, and the placement group has {which} (-1: any of them)"


def _bundle(index: Any, bundles: int) -> int:
    if wrong := wrong_bundle(index, bundles):
        raise _WrongValueError(wrong)
    return int(index)


def _is_group(value: object) -> TypeGuard[GroupHandle]:
    # What a handle's bundles are may have to be asked for, so they are not looked at here.
    return isinstance(getattr(value, "id", None), PlacementGroupId)


def _group(value: Any) -> Any:
    if value not in ("default", None) and not _is_group(value):
        raise _WrongValueError("has to be a PlacementGroup, None (in none) or 'default'")
    return value


def _conditions(given: Mapping[str, LabelCondition]) -> dict[str, str]:
    return _labels({label: condition.condition() for label, condition in given.items()})


_LABEL = re.compile(r"!?(in\([^()]*\)|exists\(\)|[^!()]*)")


def _labels(value: Any) -> dict[str, str]:
    selector = _mapping(value, "conditions by label, like {'region': 'in(eu,us)'}")
    text: object
    for key, text in selector.items():
        if not isinstance(text, str) or not _LABEL.fullmatch(text):
            raise _WrongValueError(
                f"has {text!r} for {key!r}: write 'value', 'in(a,b)' or 'exists()', "
                "or one of them after '!'"
            )
    return selector


def _fallbacks(value: Any) -> tuple[dict[str, str], ...]:
    if not isinstance(value, list | tuple):
        raise _WrongValueError("has to be a list of {'label_selector': {...}}")
    found = []
    for entry in value:
        if not isinstance(entry, Mapping) or set(entry) != {"label_selector"}:
            raise _WrongValueError("has to be a list of {'label_selector': {...}}")
        found.append(_labels(entry["label_selector"]))
    return tuple(found)


def _plain(value: Any) -> Any:
    """Turn what a runtime environment may hold besides JSON into it."""
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, ModuleType) and value.__file__:
        path = PurePath(value.__file__)
        return str(path.parent if path.name == "__init__.py" else path)
    raise TypeError(f"{value!r} is no JSON")


def _environment(value: Any) -> str:
    fields = _mapping(value, "settings, like {'env_vars': {'A': '1'}}")
    given = {name: setting for name, setting in fields.items() if setting is not None}
    variables = given.get("env_vars", {})
    if not isinstance(variables, Mapping) or not all(
        isinstance(text, str) for pair in variables.items() for text in pair
    ):
        raise _WrongValueError("has env_vars that are not strings by name")
    if not given:
        return ""
    try:
        return msgspec.json.encode(given, enc_hook=_plain, order="sorted").decode()
    except TypeError as error:
        raise _WrongValueError(f"cannot be written as JSON: {error}") from None


def _only(*allowed: Any) -> Callable[[Any], Any]:
    """Take an option of Ray that has no other meaning here than its default."""

    def rule(value: Any) -> Any:
        if value not in allowed:
            raise _WrongValueError(
                f"is not supported: this version of Weft takes only {allowed[0]!r}"
            )
        return value

    return rule


_RULES: Final[dict[str, Callable[[Any], Any]]] = {
    "num_cpus": _amount,
    "num_gpus": _gpus,
    "memory": _bytes,
    "object_store_memory": _bytes,
    "resources": _resources,
    "accelerator_type": _filled_text,
    "num_returns": _num_returns,
    "max_retries": _whole(-1, " (for ever)"),
    "retry_exceptions": _exceptions,
    "max_calls": _whole(0),
    "scheduling_strategy": _strategy,
    "label_selector": _labels,
    "fallback_strategy": _fallbacks,
    "runtime_env": _environment,
    "name": _text,
    "timeout": _seconds,
    "backpressure": _whole(0),
    "namespace": _text,
    "lifetime": _lifetime,
    "get_if_exists": _flag,
    "max_restarts": _whole(-1, " (for ever)"),
    "max_task_retries": _whole(-1, " (for ever)"),
    "max_concurrency": _whole(1),
    "concurrency_groups": _groups,
    "concurrency_group": _text,
    "max_pending_calls": _whole(-1, " (no limit)"),
    "placement_group": _group,
    "placement_group_bundle_index": _whole(ANY_BUNDLE, " (any)"),
    "placement_group_capture_child_tasks": _flag,
    "enable_tensor_transport": _only(False),
    "tensor_transport": _only("object_store", "OBJECT_STORE"),
    "allow_out_of_order_execution": _flag,
    "enable_task_events": _flag,
}

# Ray's other spellings.
_ALIASES: Final = {"_generator_backpressure_num_objects": "backpressure"}
_GROUP: Final = frozenset(
    {
        "placement_group",
        "placement_group_bundle_index",
        "placement_group_capture_child_tasks",
    }
)
_ANYWHERE: Final = _GROUP | {"enable_task_events"}
# Taken for programs that come from Ray; they change nothing here.
_WITHOUT_EFFECT: Final = frozenset(
    {
        "enable_task_events",
        "enable_tensor_transport",
        "tensor_transport",
        "allow_out_of_order_execution",
    }
)
_TASK: Final = _ANYWHERE | frozenset(TaskOptions.__struct_fields__)
_ACTOR: Final = (
    _ANYWHERE
    | frozenset(ActorOptions.__struct_fields__)
    | {"enable_tensor_transport", "allow_out_of_order_execution"}
)
_METHOD: Final = frozenset(MethodOptions.__struct_fields__) | {
    "enable_task_events",
    "tensor_transport",
}
_KINDS: Final = (("a task", _TASK), ("an actor", _ACTOR), ("a method", _METHOD))

DEFAULT_TASK: Final = TaskOptions()
STREAMING_TASK: Final = TaskOptions(num_returns="streaming")
DEFAULT_ACTOR: Final = ActorOptions()
DEFAULT_METHOD: Final = MethodOptions()

_OptionsT = TypeVar("_OptionsT", TaskOptions, ActorOptions, MethodOptions)


def task_options(
    given: Mapping[str, Any], base: TaskOptions = DEFAULT_TASK, *, subject: str
) -> TaskOptions:
    """Lay checked keywords over `base`.

    OptionError, which names `subject`, if one is unknown or wrong.
    """
    return _laid_over(given, base, "a task", _TASK, subject)


def actor_options(
    given: Mapping[str, Any], base: ActorOptions = DEFAULT_ACTOR, *, subject: str
) -> ActorOptions:
    """Lay checked keywords over `base`.

    OptionError, which names `subject`, if one is unknown or wrong.
    """
    options = _laid_over(given, base, "an actor", _ACTOR, subject)
    if given.get("name") == "":
        raise OptionError(f"name='' of {subject} is empty: leave it out for an actor without one")
    if options.get_if_exists and not options.name:
        raise OptionError(f"get_if_exists of {subject} needs a name: add name='...'")
    return options


def method_options(
    given: Mapping[str, Any], base: MethodOptions = DEFAULT_METHOD, *, subject: str
) -> MethodOptions:
    """Lay checked keywords over `base`.

    OptionError, which names `subject`, if one is unknown or wrong.
    """
    return _laid_over(given, base, "a method", _METHOD, subject)


def check_keywords(given: Mapping[str, Any]) -> None:
    """Raise OptionError if a keyword of `@remote(...)` is an option of neither tasks nor actors."""
    for name in given:
        if _ALIASES.get(name, name) not in _TASK | _ACTOR:
            raise OptionError(_unknown(name, "a task or an actor", _TASK | _ACTOR, "@remote"))


def _laid_over(
    given: Mapping[str, Any], base: _OptionsT, kind: str, allowed: frozenset[str], subject: str
) -> _OptionsT:
    changes = {}
    for written, value in given.items():
        name = _ALIASES.get(written, written)
        if name not in allowed:
            raise OptionError(_unknown(written, kind, allowed, subject))
        if value is None and name != "placement_group":
            continue
        try:
            kept = _RULES[name](value)
        except _WrongValueError as error:
            raise OptionError(f"{written}={value!r} of {subject} {error}") from None
        if name not in _WITHOUT_EFFECT:
            changes[name] = kept
    if not changes:
        return base
    if not _GROUP.isdisjoint(changes):
        _join_group(changes, base, subject)
    options = msgspec.structs.replace(base, **changes)
    if not isinstance(options, MethodOptions):
        _check_group(options, subject)
    return options


def _join_group(changes: dict[str, Any], base: Any, subject: str) -> None:
    """Make one strategy of the options that name a placement group one by one."""
    group = changes.pop("placement_group", "default")
    index = changes.pop("placement_group_bundle_index", None)
    captures = changes.pop("placement_group_capture_child_tasks", None)
    if "scheduling_strategy" in changes:
        if group in ("default", None) and index in (None, ANY_BUNDLE):
            return
        raise OptionError(
            f"{subject} has both placement_group and scheduling_strategy: write "
            "scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group, ...) alone"
        )
    before = base.scheduling_strategy
    try:
        if group == "default" and isinstance(before, GroupPlace):
            index = before.bundle if index is None else _bundle(index, len(before.bundles))
            captures = before.captures if captures is None else captures
            place = msgspec.structs.replace(before, bundle=index, captures=captures)
        else:
            given = None if group == "default" else group
            index = ANY_BUNDLE if index is None else index
            place = _in_group(given, index, captures=bool(captures))
    except _WrongValueError as error:
        raise OptionError(f"placement_group of {subject} {error}") from None
    if group != "default" or place is not NO_GROUP:
        changes["scheduling_strategy"] = place


def _check_group(options: TaskOptions | ActorOptions, subject: str) -> None:
    """OptionError: no bundle that it may go to could ever hold it."""
    place = options.scheduling_strategy
    if not isinstance(place, GroupPlace) or not place.group:
        return
    need = amounts_of(options)
    bundles = place.bundles if place.bundle == ANY_BUNDLE else (place.bundles[place.bundle],)
    if not any(need.fits(Resources(bundle)) for bundle in bundles):
        which = "any bundle" if place.bundle == ANY_BUNDLE else f"bundle {place.bundle}"
        has = ", ".join(repr(Resources(bundle)) for bundle in bundles)
        raise OptionError(
            f"{subject} needs {need!r}, and cannot go into {which} of its placement group: {has}"
        )


def amounts_of(options: TaskOptions | ActorOptions) -> Resources:
    """Return what a task or an actor with these options takes."""
    amounts = dict(options.resources)
    amounts["CPU"] = options.num_cpus
    amounts["GPU"] = options.num_gpus
    if options.memory is not None:
        amounts["memory"] = options.memory
    if options.object_store_memory is not None:
        amounts["object_store_memory"] = options.object_store_memory
    if options.accelerator_type is not None:
        # Ray's convention: a sliver of a resource that every device of the type brings along.
        amounts[f"accelerator_type:{options.accelerator_type}"] = 0.001
    return Resources(amounts)


def _unknown(name: str, kind: str, allowed: frozenset[str], subject: str) -> str:
    elsewhere = [other for other, names in _KINDS if name in names]
    if elsewhere:
        return f"{name} of {subject} is an option of {' or '.join(elsewhere)}, not of {kind}"
    near = difflib.get_close_matches(name, sorted(allowed), 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(allowed))}"
    return f"{name} of {subject} is no option of {kind}: {hint}"


# ------------------------------------------------------------------ sessions

ENGINES: Final = ("local", "inline", "remote")


def _modules(value: Any) -> tuple[str, ...]:
    if (
        isinstance(value, str)
        or not isinstance(value, Sequence)
        or not all(isinstance(name, str) for name in value)
    ):
        raise _WrongValueError("has to be a list of names of modules, like ['numpy']")
    return tuple(value)


def _node_labels(value: Any) -> dict[str, str]:
    labels = _mapping(value, "strings by label")
    if not all(isinstance(text, str) for text in labels.values()):
        raise _WrongValueError("has to be a dict of strings by label")
    return labels


def _engine(value: Any) -> str:
    if value not in ENGINES:
        raise _WrongValueError(f"has to be one of {', '.join(map(repr, ENGINES))}")
    return str(value)


_INIT_RULES: Final[dict[str, Callable[[Any], Any]]] = {
    "address": _text,
    "num_cpus": _whole(0),
    "num_gpus": _whole(0),
    "resources": _resources,
    "labels": _node_labels,
    "object_store_memory": _bytes,
    "namespace": _filled_text,
    "runtime_env": _environment,
    "log_to_driver": _flag,
    "temp_dir": lambda value: fspath(value) if isinstance(value, PathLike) else _text(value),
    "limits": lambda value: value,
    "metadata": lambda value: _mapping(value, "strings by name"),
    "logging": _text,
    "preload": _modules,
    "engine": _engine,
}


def init_options(given: Mapping[str, Any], subject: str = "init") -> InitOptions:
    """Check the keywords of `init`, or of what else starts a node. OptionError if one is wrong."""
    checked: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        try:
            checked[name] = _INIT_RULES[name](value)
        except _WrongValueError as error:
            raise OptionError(f"{name}={value!r} of {subject} {error}") from None
    return InitOptions(**checked)


_WEIGHTS: Final = range(1, 1_000_001)
_PRIORITIES: Final = range(-1_000_000, 1_000_001)


def _quota(value: Any) -> dict[str, int]:
    amounts = _mapping(value, "amounts by name, like {'CPU': 4}")
    for name, amount in amounts.items():
        if isinstance(amount, bool) or not isinstance(amount, int | float):
            raise _WrongValueError(f"has to hold numbers, and {name!r} is {amount!r}")
    _count_units(amounts)
    # A quota of nothing keeps everything of the kind from the job.
    return {name: round(amount * UNITS) for name, amount in amounts.items()}


def _in_range(allowed: range) -> Callable[[Any], int]:
    def rule(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value not in allowed:
            raise _WrongValueError(
                f"has to be a whole number from {allowed[0]:,} to {allowed[-1]:,}"
            )
        return value

    return rule


_LIMIT_RULES: Final[dict[str, Callable[[Any], Any]]] = {
    "quota": _quota,
    "weight": _in_range(_WEIGHTS),
    "priority": _in_range(_PRIORITIES),
}


def job_limits(given: Mapping[str, Any], subject: str) -> JobLimits:
    """Check what a job may take: quota, weight and priority; None is the default. OptionError."""
    checked: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        try:
            checked[name] = _LIMIT_RULES[name](value)
        except _WrongValueError as error:
            raise OptionError(f"{name}={value!r} of {subject} {error}") from None
    return JobLimits(**checked)


def unknown_init_option(name: str, allowed: frozenset[str]) -> str:
    """Return what to say of a keyword that `init` does not know."""
    return _unknown(name, "a session", allowed, "init")
