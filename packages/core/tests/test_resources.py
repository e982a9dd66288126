from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft._resources import UNITS, Resources

NAMES = st.sampled_from(["CPU", "GPU", "memory", "special"])
UNIT_AMOUNTS = st.dictionaries(NAMES, st.integers(-(10**9), 10**9))
POSITIVE = st.dictionaries(NAMES, st.integers(0, 10**12))
units = Resources.of_units


def test_amounts_are_whole_numbers_of_a_ten_thousandth() -> None:
    resources = Resources({"CPU": 1, "GPU": 0.25, "memory": 1024})
    assert dict(resources) == {"CPU": 10_000, "GPU": 2_500, "memory": 10_240_000}
    assert resources["GPU"] == 2_500
    assert len(resources) == 3


def test_tenths_add_up_exactly() -> None:
    total = Resources()
    for _ in range(10):
        total += Resources({"CPU": 0.1})
    assert total == Resources({"CPU": 1})


@pytest.mark.parametrize("nothing", [None, {}, {"CPU": 0}, {"CPU": 0.0, "GPU": False}])
def test_amounts_of_zero_are_not_kept(nothing: dict[str, float] | None) -> None:
    assert len(Resources(nothing)) == 0
    assert units({"CPU": 0}) == Resources()


@pytest.mark.parametrize("wrong", [-1, -0.0001, math.inf, -math.inf, math.nan])
def test_amount_that_is_negative_or_no_number_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"CPU=.*finite number from 0 up"):
        Resources({"CPU": wrong})


@pytest.mark.parametrize("wrong", [0.00001, 1.00005, 0.33333, Fraction(1, 3)])
def test_amount_that_is_too_fine_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"CPU=.*steps of 0\.0001"):
        Resources({"CPU": wrong})


@given(st.integers(0, 10**13))
def test_amount_with_four_digits_is_taken_however_large(amount: int) -> None:
    assert Resources({"special": amount / UNITS}) == units({"special": amount})


@given(st.integers(0, 10**30))
def test_whole_amount_is_exact_however_large(amount: int) -> None:
    assert Resources({"memory": amount}) == units({"memory": amount * UNITS})


def test_sum_of_fractions_is_taken_for_what_it_means() -> None:
    assert Resources({"CPU": 0.1 + 0.2}) == Resources({"CPU": 0.3})


@given(UNIT_AMOUNTS, UNIT_AMOUNTS)
def test_what_is_added_can_be_subtracted(left: dict[str, int], right: dict[str, int]) -> None:
    assert units(left) + units(right) - units(right) == units(left)


@given(UNIT_AMOUNTS, UNIT_AMOUNTS)
def test_sum_and_difference_are_those_of_each_amount(
    left: dict[str, int], right: dict[str, int]
) -> None:
    names = {*left, *right}
    total, rest = units(left) + units(right), units(left) - units(right)
    assert {n: total.get(n, 0) for n in names} == {
        n: left.get(n, 0) + right.get(n, 0) for n in names
    }
    assert {n: rest.get(n, 0) for n in names} == {
        n: left.get(n, 0) - right.get(n, 0) for n in names
    }
    assert 0 not in total.values()
    assert 0 not in rest.values()


@given(POSITIVE, UNIT_AMOUNTS)
def test_demand_fits_where_nothing_is_short(demand: dict[str, int], free: dict[str, int]) -> None:
    fits = units(demand).fits(units(free))
    assert fits == (len(units(demand).shortfall(units(free))) == 0)
    assert fits == all(free.get(name, 0) >= amount for name, amount in demand.items() if amount)


@given(POSITIVE, POSITIVE)
def test_demand_fits_once_what_is_short_is_added(
    demand: dict[str, int], free: dict[str, int]
) -> None:
    missing = units(demand).shortfall(units(free))
    assert units(demand).fits(units(free) + missing)


def test_shortfall_counts_a_debt_as_nothing_free() -> None:
    assert Resources({"CPU": 1}).shortfall(units({"CPU": -5_000})) == Resources({"CPU": 1})


def test_difference_can_be_negative() -> None:
    rest = Resources() - Resources({"CPU": 0.5})
    assert rest["CPU"] == -5_000
    assert not Resources({"CPU": 0.1}).fits(rest)


@given(UNIT_AMOUNTS)
def test_equal_amounts_are_one_key(amounts: dict[str, int]) -> None:
    backwards = dict(reversed(amounts.items()))
    assert units(amounts) == units(backwards)
    assert hash(units(amounts)) == hash(units(backwards))
    assert {units(amounts): 1}[units(backwards)] == 1


def test_amounts_are_no_other_mapping() -> None:
    assert Resources({"CPU": 1}) != {"CPU": 10_000}


def test_argument_is_not_kept() -> None:
    amounts = {"CPU": 10_000}
    resources = units(amounts)
    amounts["CPU"] = 5
    assert resources["CPU"] == 10_000


def test_operands_are_left_as_they_are() -> None:
    left, right = Resources({"CPU": 1}), Resources({"CPU": 2})
    assert left + right == Resources({"CPU": 3})
    assert left - right == units({"CPU": -10_000})
    assert (left, right) == (Resources({"CPU": 1}), Resources({"CPU": 2}))


def test_amounts_read_as_users_write_them() -> None:
    resources = Resources({"GPU": 0.5, "CPU": 2})
    assert resources.to_floats() == {"CPU": 2.0, "GPU": 0.5}
    assert repr(resources) == "{CPU: 2, GPU: 0.5}"
    assert repr(Resources()) == "{}"
