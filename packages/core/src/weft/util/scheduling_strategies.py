"""Where a task or an actor is to run: values of the option `scheduling_strategy`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from weft._options import LabelCondition
from weft._override import override
from weft.exceptions import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from weft._api.groups import PlacementGroup

DEFAULT_SCHEDULING_STRATEGY: Final = "DEFAULT"
SPREAD_SCHEDULING_STRATEGY: Final = "SPREAD"


class PlacementGroupSchedulingStrategy:
    """Run in a placement group.

    Attributes:
        placement_group: A handle of it; None: in none, even where the group of the task that starts
            this one captures what it starts.
        placement_group_bundle_index: In which bundle; -1: in any that has room.
        placement_group_capture_child_tasks: Whether what is started from there goes into the group
            too, if its options do not name a strategy.
    """

    def __init__(
        self,
        placement_group: PlacementGroup | None,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ) -> None:
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks

    @override
    def __repr__(self) -> str:
        return (
            f"PlacementGroupSchedulingStrategy({self.placement_group!r}, "
            f"{self.placement_group_bundle_index}, {self.placement_group_capture_child_tasks})"
        )


class NodeAffinitySchedulingStrategy:
    """Run on one node.

    Attributes:
        node_id: The node's id in hexadecimal, as `weft.nodes()` and `get_node_id()` give it.
        soft: Whether another node will do when that one is gone or cannot hold it.
    """

    def __init__(
        self,
        node_id: str,
        soft: bool,
        _spill_on_unavailable: bool = False,
        _fail_on_unavailable: bool = False,
    ) -> None:
        if not isinstance(node_id, str):
            raise OptionError(f"node_id={node_id!r} of a node affinity has to be a hexadecimal id")
        self.node_id = node_id
        self.soft = soft
        self._spill_on_unavailable = _spill_on_unavailable
        self._fail_on_unavailable = _fail_on_unavailable

    @override
    def __repr__(self) -> str:
        return f"NodeAffinitySchedulingStrategy({self.node_id!r}, soft={self.soft})"


class In:
    """The label has one of these values.

    Attributes:
        values: The values.
    """

    def __init__(self, *values: str) -> None:
        self.values = _checked(values)

    def condition(self) -> str:
        """Return it as a label selector writes it: `in(a,b)`."""
        return f"in({','.join(self.values)})"


class NotIn:
    """The label has none of these values, or the node has no such label.

    Attributes:
        values: The values.
    """

    def __init__(self, *values: str) -> None:
        self.values = _checked(values)

    def condition(self) -> str:
        """Return it as a label selector writes it: `!in(a,b)`."""
        return f"!in({','.join(self.values)})"


class Exists:
    """The node has the label, whatever its value."""

    def condition(self) -> str:
        """Return it as a label selector writes it: `exists()`."""
        return "exists()"


class DoesNotExist:
    """The node does not have the label."""

    def condition(self) -> str:
        """Return it as a label selector writes it: `!exists()`."""
        return "!exists()"


class NodeLabelSchedulingStrategy:
    """Run on a node whose labels fit.

        NodeLabelSchedulingStrategy(hard={"disk": In("ssd", "nvme")}, soft={"zone": NotIn("b")})

    The option `label_selector`, if it is given too, has to hold as well.

    Attributes:
        hard: What has to hold, by label. Where no node can ever meet it, the task or actor fails
            within a second; the error has the condition and the labels that the nodes have.
        soft: What should hold besides: of the nodes that have room, one that meets most of it is
            taken.
    """

    def __init__(
        self,
        hard: Mapping[str, LabelCondition] | None = None,
        *,
        soft: Mapping[str, LabelCondition] | None = None,
    ) -> None:
        self.hard = _conditions(hard, "hard")
        self.soft = _conditions(soft, "soft")
        if not self.hard and not self.soft:
            raise OptionError("a node label strategy needs a condition, hard or soft")

    @override
    def __repr__(self) -> str:
        hard, soft = (
            {label: condition.condition() for label, condition in conditions.items()}
            for conditions in (self.hard, self.soft)
        )
        return f"NodeLabelSchedulingStrategy({hard}, soft={soft})"


def _checked(values: tuple[Any, ...]) -> list[str]:
    for value in values:
        if not isinstance(value, str) or not value or not set(value).isdisjoint("(),!"):
            raise OptionError(
                f"{value!r} cannot be the value of a label: it has to be a plain word"
            )
    if not values:
        raise OptionError("In and NotIn need at least one value")
    return list(values)


def _conditions(given: Any, name: str) -> dict[str, LabelCondition]:
    conditions = dict(given or {})
    for label, condition in conditions.items():
        if not isinstance(label, str) or not isinstance(condition, LabelCondition):
            raise OptionError(
                f"{name} has {condition!r} for {label!r}: "
                "it has to hold In, NotIn, Exists or DoesNotExist by label"
            )
    return conditions
