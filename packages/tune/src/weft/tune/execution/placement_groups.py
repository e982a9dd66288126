"""What a trial reserves, as bundles of resources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.lowlevel import Resources, override
from weft.util.placement_group import placement_group

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from weft.util.placement_group import PlacementGroup


_STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")


class PlacementGroupFactory:
    """What a trial reserves: one bundle for itself, and others for the tasks and actors it starts.

    Several bundles are a placement group while the trial is on a process: that runs in the first
    one, and what it starts goes into any, if its options do not name another strategy.
    """

    def __init__(
        self,
        bundles: Sequence[Mapping[str, float]],
        strategy: str = "PACK",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Take the bundles: `[{"CPU": 1}, {"CPU": 2, "GPU": 1}]`.

        Args:
            bundles: An empty first one: the trial's own process takes nothing.
            strategy: PACK, SPREAD, STRICT_PACK or STRICT_SPREAD: how bundles lie on nodes; see
                `weft.util.placement_group`. An experiment refuses STRICT_SPREAD where there are
                fewer nodes than bundles.
            args: What else `placement_group` takes (a name, a lifetime, labels) is refused: an
                experiment reserves bundles as long as a trial runs, and by their amounts alone.
            kwargs: Likewise.

        Raises:
            ValueError: There is no bundle, an amount is wrong, or there is no such strategy.
        """
        if not bundles:
            raise ValueError("a PlacementGroupFactory needs one bundle at least: [{'CPU': 1}]")
        if strategy not in _STRATEGIES:
            raise ValueError(f"strategy={strategy!r}: give one of {', '.join(_STRATEGIES)}")
        if args or kwargs:
            given = ", ".join([*map(repr, args), *(f"{key}={kwargs[key]!r}" for key in kwargs)])
            raise ValueError(
                f"PlacementGroupFactory takes bundles and a strategy, and not {given}: "
                "trials reserve bundles by their amounts alone, as long as they run"
            )
        self.bundles = [Resources(bundle).to_floats() for bundle in bundles]
        self.strategy = strategy

    @property
    def head_cpus(self) -> float:
        """CPUs of the first bundle."""
        return self.bundles[0].get("CPU", 0.0)

    @property
    def head_bundle_is_empty(self) -> bool:
        """Whether the trial's own process takes nothing."""
        return not self.bundles[0]

    @property
    def required_resources(self) -> dict[str, float]:
        """All bundles together."""
        total = Resources()
        for bundle in self.bundles:
            total += Resources(bundle)
        return total.to_floats()

    def __call__(self, *args: Any, **kwargs: Any) -> PlacementGroup:
        """Create a placement group of these bundles, but for an empty first one.

        Args:
            args: As `weft.util.placement_group` takes them after the strategy.
            kwargs: Likewise.
        """
        bundles = [bundle for bundle in self.bundles if bundle]
        return placement_group(bundles, self.strategy, *args, **kwargs)

    @override
    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, PlacementGroupFactory)
            and self.bundles == other.bundles
            and self.strategy == other.strategy
        )

    @override
    def __hash__(self) -> int:
        return hash((self.strategy, *(tuple(sorted(bundle.items())) for bundle in self.bundles)))

    @override
    def __repr__(self) -> str:
        return f"PlacementGroupFactory({self.bundles}, strategy={self.strategy!r})"


_RAY_NAMES = {"cpu": "CPU", "gpu": "GPU"}


def resource_dict_to_pg_factory(
    spec: Mapping[str, float] | PlacementGroupFactory | None,
) -> PlacementGroupFactory:
    """Return one bundle of amounts that are written `{"cpu": 2, "gpu": 0.5}` or `{"CPU": 2}`."""
    if isinstance(spec, PlacementGroupFactory):
        return spec
    bundle = {_RAY_NAMES.get(name, name): amount for name, amount in (spec or {}).items()}
    return PlacementGroupFactory([bundle if spec is not None else {"CPU": 1.0}])
