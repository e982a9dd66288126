from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.exceptions import OptionError
from weft.tune.search.points import put_point
from weft.tune.search.sample import choice, randint, sample_from, uniform
from weft.tune.search.variant_generator import (
    RecursiveDependencyError,
    assign_value,
    fix_grids,
    format_vars,
    generate_variants,
    grid_search,
    grid_size,
    parse_spec_vars,
)

if TYPE_CHECKING:
    from weft.tune.search.sample import Domain


def configs(space: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    return [config for _, config in generate_variants(space, random_state=0, **options)]


def only(space: dict[str, Any]) -> dict[str, Any]:
    [config] = configs(space)
    return config


def test_grids_are_written_out_the_last_one_first() -> None:
    space = {"a": grid_search([1, 2]), "b": {"c": [0, grid_search("xy")]}, "d": "as it is"}
    assert configs(space) == [
        {"a": a, "b": {"c": [0, c]}, "d": "as it is"} for a in (1, 2) for c in "xy"
    ]


def test_grids_within_grids_are_written_out_where_they_are() -> None:
    space = {
        "a": grid_search([{"kind": "x", "depth": grid_search([1, 2, 3])}, "y"]),
        "b": grid_search([True, False]),
    }
    assert grid_size(space) == 8
    assert [(config["a"], config["b"]) for config in configs(space)] == [
        *(({"kind": "x", "depth": depth}, flag) for depth in (1, 2, 3) for flag in (True, False)),
        ("y", True),
        ("y", False),
    ]


@given(
    st.recursive(
        st.integers(0, 3),
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map(grid_search),
            st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
            st.lists(inner, max_size=3),
        ),
        max_leaves=8,
    )
)
def test_every_variant_is_without_grids_and_there_are_as_many_as_said(space: Any) -> None:
    size = grid_size(space)
    variants = [fix_grids(space, number) for number in range(size)]
    assert all(
        grid_size(fixed) == 1 and not parse_spec_vars({"": fixed})[2] for fixed, _ in variants
    )
    for fixed, taken in variants:
        for path, value in taken.items():
            place = fixed
            for step in path:
                place = place[step]
            assert place == value


def test_space_is_not_changed() -> None:
    space: dict[str, Any] = {"a": [uniform(0, 1)], "b": grid_search([{"c": 1}])}
    [config] = configs(space)
    config["b"]["c"] = 2
    config["a"].append(3)
    assert space["b"] == {"grid_search": [{"c": 1}]}
    assert len(space["a"]) == 1


def test_functions_see_what_was_drawn_in_whatever_way_they_ask() -> None:
    config = only(
        {
            "later": sample_from(lambda spec: spec.config.twice + 1),
            "twice": sample_from(lambda spec: spec["first"] * 2),
            "first": randint(1, 9),
            "inner": {
                "lr": uniform(0, 1),
                "decay": sample_from(lambda config: config.inner.lr / 2),
            },
            "all": sample_from(sorted),
            "or": sample_from(lambda config: config.get("missing", "else")),
            "listed": [sample_from(lambda config: config.first), sample_from(lambda: 5)],
            "from_list": sample_from(lambda config: config.listed[0] + 1),
        }
    )
    assert config["twice"] == 2 * config["first"]
    assert config["later"] == config["twice"] + 1
    assert config["inner"]["decay"] == config["inner"]["lr"] / 2
    assert config["all"][0] == "all"
    assert config["or"] == "else"
    assert config["listed"] == [config["first"], 5]
    assert config["from_list"] == config["first"] + 1


def test_users_own_key_config_goes_before_the_word() -> None:
    config = only({"config": {"lr": 3}, "lr": 4, "seen": sample_from(lambda spec: spec.config.lr)})
    assert config["seen"] == 3


def test_what_functions_return_is_plain() -> None:
    config = only({"a": {"b": 1}, "copy": sample_from(lambda spec: spec.a)})
    assert type(config["copy"]) is dict
    assert config["copy"] == {"b": 1}


def test_domains_may_depend_on_others() -> None:
    space = {
        "low": randint(5, 9),
        "high": sample_from(lambda spec: randint(spec.low, spec.low + 3)),
    }
    for _ in range(20):
        [(drawn, config)] = generate_variants(space)
        assert config["low"] <= config["high"] < config["low"] + 3
        assert drawn[("high",)] == config["high"]


def test_choices_may_hold_domains() -> None:
    space = {
        "optimizer": choice(
            [
                {"kind": "sgd", "momentum": uniform(0, 1)},
                {"kind": "adam", "beta": sample_from(lambda spec: spec.lr * 2)},
            ]
        ),
        "lr": uniform(0, 1),
    }
    kinds = set()
    for _ in range(30):
        [(_, config)] = generate_variants(space)
        optimizer = config["optimizer"]
        kinds.add(optimizer["kind"])
        if optimizer["kind"] == "sgd":
            assert 0 <= optimizer["momentum"] < 1
        else:
            assert optimizer["beta"] == config["lr"] * 2
    assert kinds == {"sgd", "adam"}


def test_functions_in_a_circle_are_named() -> None:
    space = {
        "a": sample_from(lambda spec: spec.b),
        "in": {"b": sample_from(lambda spec: spec.a)},
        "b": sample_from(lambda spec: spec["in"]["b"]),
    }
    with pytest.raises(RecursiveDependencyError, match=r"^functions .*: a, in/b, b$"):
        only(space)


def test_function_that_asks_for_what_is_not_in_the_space_fails() -> None:
    with pytest.raises(AttributeError, match="nothing in the search space is called 'typo'"):
        only({"a": sample_from(lambda spec: spec.config.typo)})


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({"a": {"grid_search": []}}, "no values"),
        ({"a": choice([grid_search([1])])}, "a: a grid_search cannot"),
        ({"a": sample_from(lambda: grid_search([1]))}, "a: a grid_search cannot"),
        ({"a": (1, uniform(0, 1))}, "a domain stands in a tuple"),
    ],
)
def test_impossible_space_is_an_error_of_one_line(space: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=f"^.*{says}.*$"):
        only(space)


def test_grid_search_without_values_is_an_error() -> None:
    with pytest.raises(OptionError, match="no values"):
        grid_search(iter(()))


def test_tuples_of_values_stay() -> None:
    assert only({"betas": (0.9, 0.99), "x": choice([(1, 2)])}) == {
        "betas": (0.9, 0.99),
        "x": (1, 2),
    }


def test_constant_grid_search_draws_once_for_all_variants() -> None:
    space = {"a": grid_search([1, 2, 3]), "x": uniform(0, 1)}
    assert len({config["x"] for config in configs(space)}) == 3
    assert len({config["x"] for config in configs(space, constant_grid_search=True)}) == 1


def test_what_was_taken_and_drawn_is_told_with_its_place() -> None:
    space = {"a": grid_search([1]), "b": [uniform(0, 1)], "c": 5}
    [(drawn, config)] = generate_variants(space)
    assert drawn == {("a",): 1, ("b", 0): config["b"][0]}


def test_space_is_sorted_into_values_domains_and_grids() -> None:
    x: Domain = uniform(0, 1)
    values, domains, grids = parse_spec_vars(
        {"a": [1, x], "b": grid_search([1]), "c": {}, "d": {"e": 2}}
    )
    assert values == [(("a", 0), 1), (("c",), {}), (("d", "e"), 2)]
    assert domains == [(("a", 1), x)]
    assert grids == [(("b",), [1])]


def test_values_are_put_in_their_places() -> None:
    spec = {"a": [{"b": 1}]}
    assign_value(spec, ("a", 0, "b"), 2)
    assert spec == {"a": [{"b": 2}]}


def test_what_was_drawn_is_written_in_short() -> None:
    assert format_vars({("lr",): 0.0123456, ("m", "layers"): 3}) == "lr=0.01235,m/layers=3"


# ---------------------------------------------------------------------------------------- points

SPACE = {
    "lr": uniform(0, 1),
    "m": {"n": randint(0, 9), "k": choice("ab")},
    "g": grid_search([1, 2]),
}


def test_point_takes_the_place_of_what_it_names() -> None:
    for point in ({"lr": 0.5, "m": {"n": 3}}, {"lr": 0.5, "m/n": 3}):
        space = put_point(SPACE, point)
        assert (space["lr"], space["m"]["n"], space["m"]["k"]) == (0.5, 3, SPACE["m"]["k"])  # type: ignore[index]
    assert grid_size(put_point(SPACE, {"g": 7})) == 1


@pytest.mark.parametrize(
    ("point", "says"),
    [
        ({"typo": 1}, "no 'typo', it has lr, m, g"),
        ({"m": {"typo": 1}}, "no 'm/typo', it has n, k"),
        ({"lr": 2}, "lr is 2, not of Float"),
        ({"m/k": "c"}, "m/k is 'c', not of Categorical"),
    ],
)
def test_point_that_is_not_in_the_space_is_an_error(point: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        put_point(SPACE, point)
