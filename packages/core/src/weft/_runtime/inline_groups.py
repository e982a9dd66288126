"""Placement groups of the inline engine: all that fits this machine is ready at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from weft._machines.bundle_plans import BundleSpec, GroupWish, why_never
from weft._machines.nodes import Nodes
from weft._machines.placement import BundleView, group_of
from weft._machines.stock import NOTHING
from weft._resources import Resources
from weft.exceptions import UnschedulableError

if TYPE_CHECKING:
    from weft._ids import PlacementGroupId
    from weft._machines.placement import NodeView
    from weft._specs import GroupSpec, Shape


class InlineGroups:
    """The groups of one session. As nothing waits for resources here, none counts what it holds."""

    def __init__(self, view: NodeView) -> None:
        self._view = view
        self._specs: dict[PlacementGroupId, GroupSpec] = {}
        self._removed: dict[PlacementGroupId, tuple[GroupSpec, str]] = {}

    def create(self, spec: GroupSpec) -> None:
        """Create a group; see Engine."""
        if spec.name and any(
            (spec.name, spec.namespace) == (other.name, other.namespace)
            for other in self._specs.values()
        ):
            raise ValueError(
                f"the name {spec.name!r} is taken in namespace {spec.namespace!r}: choose another, "
                "or remove that group"
            )
        bundles = {
            index: BundleSpec(Resources.of_units(dict(bundle.amounts)), bundle.labels)
            for index, bundle in enumerate(spec.bundles)
        }
        wish = GroupWish(spec.strategy, bundles, topology=spec.topology)  # type: ignore[arg-type]  # the API lets no others through
        never = why_never(wish, Nodes([self._view]))
        if never:
            raise UnschedulableError(f"this placement group can never be placed: {never}")
        self._specs[spec.group_id] = spec

    def remove(self, group: PlacementGroupId, reason: str) -> None:
        """Forget a group, but for its name."""
        spec = self._specs.pop(group, None)
        if spec is not None:
            self._removed[group] = (spec, reason)

    def gone(self, group: PlacementGroupId) -> str:
        """Say why a group is not there; empty if it is."""
        if group in self._specs:
            return ""
        if group in self._removed:
            return f"placement group {group.hex()} was removed: {self._removed[group][1]}"
        return f"no placement group {group.hex()} is known here"

    def seen_by(self, shape: Shape) -> NodeView:
        """Return the node with the bundles of the group that a shape names."""
        group = group_of(shape)
        spec = self._specs.get(group) if group is not None else None
        if group is None or spec is None:
            return self._view
        bundles = {}
        for index, bundle in enumerate(spec.bundles):
            amounts = Resources.of_units(dict(bundle.amounts))
            bundles[index] = BundleView(amounts, amounts, len(spec.bundles))
        return msgspec.structs.replace(self._view, bundles={group: bundles})

    def taken(self) -> Resources:
        """Return what all groups have together."""
        bundles = (bundle for spec in self._specs.values() for bundle in spec.bundles)
        return sum((Resources.of_units(dict(bundle.amounts)) for bundle in bundles), NOTHING)

    def describe(self) -> list[dict[str, Any]]:
        """Return what is known of each group, as the daemon's question `groups` does."""
        living = [(spec, "ready", "") for spec in self._specs.values()]
        removed = [(spec, "removed", reason) for spec, reason in self._removed.values()]
        return [
            {
                "group_id": spec.group_id.hex(),
                "name": spec.name,
                "namespace": spec.namespace,
                "strategy": spec.strategy,
                "topology": spec.topology,
                "state": state,
                "reason": reason,
                "is_detached": spec.is_detached,
                "job_id": "" if spec.is_detached else spec.job_id.hex(),
                "bundles": [
                    {
                        "amounts": dict(bundle.amounts),
                        "labels": bundle.labels,
                        "node_id": self._view.node_id.hex() if state == "ready" else "",
                    }
                    for bundle in spec.bundles
                ],
            }
            for spec, state, reason in [*living, *removed]
        ]
