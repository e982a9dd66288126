"""Placement groups: amounts of resources that are reserved together, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from weft._api.session import started
from weft._engine import current
from weft._ids import PlacementGroupId
from weft._options import bundle_amounts, bundle_labels, wrong_bundle
from weft._override import override
from weft._resources import UNITS
from weft._specs import GroupSpec, Shape
from weft.exceptions import GetTimeoutError, OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weft._refs import ObjectRef

STRATEGIES: Final = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
# In Ray's words.
STATES: Final = {
    "pending": "PENDING",
    "preparing": "PENDING",
    "ready": "CREATED",
    "rescheduling": "RESCHEDULING",
    "removed": "REMOVED",
}


class PlacementGroup:
    """A handle of a placement group. Travels; the group lives on when its last handle is gone.

    Attributes:
        id: Which group it is.
    """

    def __init__(
        self, id: PlacementGroupId, bundle_cache: list[dict[str, float]] | None = None
    ) -> None:
        """Hold the id; use `placement_group` instead."""
        self.id = id
        self.bundle_cache = bundle_cache

    @staticmethod
    def empty() -> PlacementGroup:
        """Return a handle that stands for no group."""
        return PlacementGroup(PlacementGroupId.nil(), [])

    @property
    def is_empty(self) -> bool:
        """Whether it stands for no group."""
        return self.id.is_nil()

    def ready(self) -> ObjectRef[PlacementGroup]:
        """Return a reference to this handle that is there when the group is. Does not block.

        If the group is removed before, `get` raises TaskPlacementGroupRemoved.
        """
        return started().group_ready(self.id, self)

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Wait until the group is ready. Blocks.

        Args:
            timeout_seconds: How long at most.

        Returns:
            Whether it is ready.

        Raises:
            TaskPlacementGroupRemoved: It was removed.
        """
        ref = self.ready()
        engine = started()
        try:
            engine.get([ref], timeout_seconds)
        except GetTimeoutError:
            return False
        return True

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """What each bundle has. Blocks for one message where the handle does not know it yet."""
        if self.bundle_cache is None:
            self.bundle_cache = [_floats(bundle) for bundle in _facts(self.id)["bundles"]]
        return self.bundle_cache

    @property
    def bundle_count(self) -> int:
        """How many bundles it has."""
        return len(self.bundle_specs)

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroup) and self.id == other.id

    @override
    def __hash__(self) -> int:
        return hash(self.id)

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return PlacementGroup, (self.id, self.bundle_cache)

    @override
    def __repr__(self) -> str:
        return f"PlacementGroup({self.id.hex()})"


def placement_group(
    bundles: Sequence[Mapping[str, float]],
    strategy: str = "PACK",
    name: str = "",
    lifetime: str | None = None,
    bundle_label_selector: Sequence[Mapping[str, str]] | None = None,
    topology_strategy: Mapping[str, str] | None = None,
) -> PlacementGroup:
    """Create a placement group. Blocks until it is known, not until it is ready.

    Args:
        bundles: What each is to have, as `[{"CPU": 2, "GPU": 1}, {"CPU": 4}]`; memory in bytes.
        strategy: PACK: on as few nodes as can be; SPREAD: on different ones, as far as there are
            any; STRICT_PACK: on one node; STRICT_SPREAD: each on a node of its own.
        name: By which `get_placement_group` finds it; empty: none.
        lifetime: "detached": it lives until it is removed; None: it ends with the job that created
            it.
        bundle_label_selector: For each bundle, what labels its node has to have.
        topology_strategy: `{"rack": "STRICT_PACK"}`: all its nodes have one value of this label,
            and `strategy` holds among those that have it. Of several values with room, the one that
            takes the fewest nodes is chosen (for SPREAD: the most), then the first in order. What
            is placed again when a node has died stays with that value.

    Returns:
        A handle. Tasks and actors go into the group by
        `scheduling_strategy=PlacementGroupSchedulingStrategy(group, ...)`, and wait until it is
        ready.

    Raises:
        OptionError: Something is wrong with an argument, or the name is taken. There is no group.
        UnschedulableError: It can never be placed, and the message says why in numbers.
    """
    selectors = [{}] * len(bundles) if bundle_label_selector is None else bundle_label_selector
    if len(selectors) != len(bundles):
        raise OptionError(
            f"bundle_label_selector has {len(selectors)} entries for {len(bundles)} bundles: it "
            "needs one for each"
        )
    shapes = tuple(
        Shape(
            tuple(sorted(bundle_amounts(bundle, f"bundle {index}").items())),
            labels=tuple(sorted(bundle_labels(selector, f"selector {index}").items())),
        )
        for index, (bundle, selector) in enumerate(zip(bundles, selectors, strict=True))
    )
    if not shapes:
        raise OptionError(f"bundles={bundles!r}: a placement group needs one bundle at least")
    if strategy not in STRATEGIES:
        raise OptionError(f"strategy={strategy!r}: give one of {', '.join(STRATEGIES)}")
    topology = _topology(topology_strategy)
    if lifetime not in (None, "detached"):
        raise OptionError(f"lifetime={lifetime!r}: give 'detached' or None")
    given: object = name
    if not isinstance(given, str):
        raise OptionError(f"name={name!r}: a name is a string")
    engine = started()
    here = engine.context()
    group_id = PlacementGroupId.from_random()
    is_detached = lifetime == "detached"
    spec = GroupSpec(
        group_id,
        shapes,
        strategy,
        here.job_id,
        name,
        here.namespace if name else "",
        is_detached,
        topology,
    )
    try:
        engine.create_group(spec)
    except ValueError as error:
        raise OptionError(f"this placement group was not created: {error}") from None
    return PlacementGroup(group_id, [dict(bundle) for bundle in bundles])


def _topology(given: Any) -> str:
    """Return the label of a topology; empty: there is none. OptionError: it is no topology."""
    if given is None:
        return ""
    said = f"topology_strategy={given!r}: give {{'LABEL': 'STRICT_PACK'}} with one label, or None"
    if not isinstance(given, Mapping) or len(given) != 1:
        raise OptionError(said)
    ((label, strategy),) = given.items()
    if not isinstance(label, str) or not label or strategy != "STRICT_PACK":
        raise OptionError(said)
    return label


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Remove a placement group. Does not block.

    Tasks that run in it end with their workers, and fail or are tried again in vain; so do its
    actors. What waits for it fails with TaskPlacementGroupRemoved or ActorPlacementGroupRemoved.
    One that is removed already stays so.

    Args:
        placement_group: A handle of it.
    """
    _check_handle(placement_group)
    started().remove_group(placement_group.id, "remove_placement_group was called")


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """Return a handle of the group of this name in this namespace. Blocks for one message.

    Raises:
        ValueError: There is none.
    """
    given: object = placement_group_name
    if not isinstance(given, str) or not given:
        raise OptionError(
            f"the name of a placement group is a string that is not empty, not {given!r}"
        )
    namespace = started().context().namespace
    for facts in _all_facts():
        at = (facts["name"], facts["namespace"])
        if at == (placement_group_name, namespace) and facts["state"] != "removed":
            return PlacementGroup(
                PlacementGroupId.from_hex(facts["group_id"]), [_floats(b) for b in facts["bundles"]]
            )
    raise ValueError(
        f"no placement group is named {placement_group_name!r} in namespace {namespace!r}: it was "
        "never created, or was removed"
    )


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """Return what is known of a placement group, or of all, by id. Blocks for one message.

    Args:
        placement_group: A handle; None: all, also those that were removed not long ago.

    Returns:
        A dict with placement_group_id, name, bundles and bundles_to_node_id (both by index),
        strategy, topology_strategy, state (PENDING, CREATED, RESCHEDULING or REMOVED) and stats.

    Raises:
        ValueError: No such group is known.
    """
    if placement_group is not None:
        _check_handle(placement_group)
        return _row(_facts(placement_group.id))
    return {facts["group_id"]: _row(facts) for facts in _all_facts()}


def _row(facts: dict[str, Any]) -> dict[str, Any]:
    bundles = facts["bundles"]
    return {
        "placement_group_id": facts["group_id"],
        "name": facts["name"],
        "bundles": {index: _floats(bundle) for index, bundle in enumerate(bundles)},
        "bundles_to_node_id": {index: bundle["node_id"] for index, bundle in enumerate(bundles)},
        "strategy": facts["strategy"],
        "topology_strategy": {facts["topology"]: "STRICT_PACK"} if facts["topology"] else {},
        "state": STATES[facts["state"]],
        "stats": {"scheduling_state": facts["state"].upper(), "reason": facts["reason"]},
    }


def get_current_placement_group() -> PlacementGroup | None:
    """Return the placement group that this task or actor runs in; None: in none."""
    engine = current.engine if current.engine is not None else started()
    group_id = engine.context().placement_group_id
    return None if group_id is None else PlacementGroup(group_id)


def check_placement_group_index(placement_group: PlacementGroup, bundle_index: int) -> None:
    """Check that a group has a bundle of this index; -1 stands for any.

    Raises:
        OptionError: It has none (a ValueError).
    """
    _check_handle(placement_group)
    if placement_group.is_empty:
        wrong = "" if bundle_index == -1 else "names a bundle and no placement group"
    else:
        wrong = wrong_bundle(bundle_index, placement_group.bundle_count)
    if wrong:
        raise OptionError(f"placement_group_bundle_index={bundle_index!r} {wrong}")


def _check_handle(placement_group: Any) -> None:
    if not isinstance(placement_group, PlacementGroup):
        raise OptionError(
            f"{placement_group!r} is no placement group: give a handle, as placement_group() "
            "returns it"
        )


def _all_facts() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = msgspec.msgpack.decode(started().inspect("groups"))
    return found


def _facts(group_id: PlacementGroupId) -> dict[str, Any]:
    wanted = group_id.hex()
    for facts in _all_facts():
        if facts["group_id"] == wanted:
            return facts
    raise ValueError(f"no placement group {wanted} is known here")


def _floats(bundle: dict[str, Any]) -> dict[str, float]:
    return {name: units / UNITS for name, units in bundle["amounts"].items()}
