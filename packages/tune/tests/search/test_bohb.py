from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from weft.lowlevel import override
from weft.tune.search.sample import uniform
from weft.tune.testing.searcher_suite import Conversation, SearcherSuite, seen

pytest.importorskip("hpbandster.optimizers.config_generators.bohb")

from weft.tune.search.bohb import TuneBOHB

if TYPE_CHECKING:
    from weft.tune.search import Searcher


class TestTuneBOHB(SearcherSuite):
    @override
    def make(self, **arguments: Any) -> Searcher:
        return TuneBOHB(seed=1, **arguments)


def test_results_at_each_iteration_are_results_at_a_budget() -> None:
    searcher = TuneBOHB({"x": uniform(0, 1)}, metric="loss", mode="min", seed=1)
    for number in range(12):
        config = searcher.ask(str(number))
        assert isinstance(config, dict)
        for iteration in range(1, 4 if number % 2 else 2):
            result = {"loss": config["x"] / iteration}
            searcher.tell(seen(str(number), config, result, iteration), None)
        searcher.tell(seen(str(number), config, result, iteration), "stopped")
    # The model leaves a budget alone when there is one of a larger budget.
    assert len(searcher._model.configs[3]) == 6
    assert searcher._model.largest_budget_with_model() == 3


def test_no_more_than_max_concurrent_run_but_for_paused_ones() -> None:
    searcher = TuneBOHB({"x": uniform(0, 1)}, metric="loss", mode="min", max_concurrent=1)
    session = Conversation(searcher)
    first = session.ask()
    assert first is not None
    assert session.ask() is None
    searcher.on_pause(first)
    second = session.ask()
    assert second is not None
    searcher.on_unpause(first)
    session.end(second, {"loss": 1})
    assert session.ask() is None
    session.end(first, {"loss": 1})
    assert session.ask() is not None
    searcher.on_unpause("unknown")
