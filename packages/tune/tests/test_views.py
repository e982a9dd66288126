from __future__ import annotations

import collections.abc
from typing import Any, get_type_hints

import pytest

from weft.tune import views
from weft.tune.schedulers import TrialScheduler, orders, trial_scheduler
from weft.tune.search import Searcher, searcher
from weft.tune.stopper import Stopper


@pytest.mark.parametrize("interface", [Searcher, TrialScheduler, Stopper])
def test_who_writes_one_can_name_what_it_is_given(interface: type) -> None:
    public: dict[str, Any] = {}
    for module in (collections.abc, views, orders, searcher, trial_scheduler):
        public |= vars(module)
    for name, method in vars(interface).items():
        if callable(method) and not name.startswith("_"):
            assert get_type_hints(method, localns=public) is not None
