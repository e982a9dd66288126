from __future__ import annotations

from typing import Any

import pytest

from weft.tune import PlacementGroupFactory
from weft.tune.execution.placement_groups import resource_dict_to_pg_factory


def test_bundles_are_counted_together_and_the_first_is_the_trials_own() -> None:
    factory = PlacementGroupFactory([{"CPU": 0.5, "GPU": 0}, {"CPU": 2, "GPU": 0.5}])
    assert factory.bundles == [{"CPU": 0.5}, {"CPU": 2, "GPU": 0.5}]
    assert factory.required_resources == {"CPU": 2.5, "GPU": 0.5}
    assert (factory.head_cpus, factory.head_bundle_is_empty) == (0.5, False)
    assert PlacementGroupFactory([{}, {"CPU": 1}]).head_bundle_is_empty


def test_equal_factories_are_equal() -> None:
    one, other = (PlacementGroupFactory([{"CPU": 1}], strategy="SPREAD") for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert one != PlacementGroupFactory([{"CPU": 1}])
    assert repr(one) == "PlacementGroupFactory([{'CPU': 1.0}], strategy='SPREAD')"


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        (([],), {}, "needs one bundle at least"),
        (([{"CPU": -1}],), {}, "CPU=-1"),
        (([{"CPU": 1}], "PACKED"), {}, "strategy='PACKED': give one of PACK, SPREAD"),
        (([{"CPU": 1}], "PACK", "mine"), {}, "not 'mine'"),
        (([{"CPU": 1}],), {"lifetime": "detached", "name": "a"}, "not lifetime='detached', name="),
        (([{"CPU": 1}],), {"bundle_label_selector": [{"a": "b"}]}, "not bundle_label_selector="),
    ],
)
def test_what_no_trial_can_reserve_is_refused(
    arguments: Any, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says) as raised:
        PlacementGroupFactory(*arguments, **options)
    assert "\n" not in str(raised.value)


def test_amounts_are_one_bundle() -> None:
    factory = resource_dict_to_pg_factory({"cpu": 2, "gpu": 0.5, "disk": 1})
    assert factory.bundles == [{"CPU": 2, "GPU": 0.5, "disk": 1}]
    assert resource_dict_to_pg_factory(factory) is factory
    assert resource_dict_to_pg_factory(None).bundles == [{"CPU": 1}]
