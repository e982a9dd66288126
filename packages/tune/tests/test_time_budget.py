from __future__ import annotations

import pytest

from weft.tune._time_budget import TimeBudget


def test_budget_is_over_once_and_not_before() -> None:
    budget = TimeBudget(10)
    budget.begin(100)
    assert budget.ends_at == 110
    assert not budget.is_over(109.9)
    assert budget.is_over(110)
    assert not budget.is_over(111)
    assert budget.ends_at is None


def test_run_has_what_those_before_it_left() -> None:
    budget = TimeBudget(10)
    for spent_s in (2.0, 7.5):
        budget.recall(spent_s)
    budget.begin(100)
    assert budget.ends_at == 102.5
    assert budget.spent(101) == 8.5


def test_budget_may_be_spent_before_a_run_begins() -> None:
    budget = TimeBudget(10)
    budget.recall(11)
    budget.begin(100)
    assert budget.is_over(100)


@pytest.mark.parametrize(("budget_s", "every_s"), [(10, 1), (1000, 10)])
def test_what_is_spent_is_written_now_and_then(budget_s: float, every_s: float) -> None:
    budget = TimeBudget(budget_s)
    budget.begin(100)
    for number in (1, 2):
        assert not budget.is_due(100 + number * every_s - 0.1)
        assert budget.is_due(100 + number * every_s)
        budget.spent(100 + number * every_s)
