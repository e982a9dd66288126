from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from weft.lowlevel import override
from weft.tune.search.sample import uniform
from weft.tune.testing.searcher_suite import Conversation, SearcherSuite, seen

pytest.importorskip("nevergrad")

import nevergrad

from weft.tune.search.nevergrad import NevergradSearch

if TYPE_CHECKING:
    from weft.tune.search import Searcher


class TestNevergradSearch(SearcherSuite):
    @override
    def make(self, **arguments: Any) -> Searcher:
        return NevergradSearch(seed=1, **arguments)


@pytest.mark.parametrize("name", ["OnePlusOne", "DE", "CMA"])
def test_any_optimizer_searches(name: str) -> None:
    searcher = NevergradSearch(
        getattr(nevergrad.optimizers, name),
        {"budget": 60},
        {"x": uniform(-1, 1), "y": uniform(0, 1)},
        "loss",
        "min",
        seed=1,
    )
    session = Conversation(searcher)
    losses = []
    for _ in range(60):
        trial_id = session.ask()
        assert trial_id is not None
        config = session.configs[trial_id]
        losses.append((config["x"] - 0.5) ** 2 + config["y"] ** 2)
        session.end(trial_id, {"loss": losses[-1]})
    assert sum(losses[-20:]) < sum(losses[:20])


def test_trial_that_failed_is_as_bad_as_the_worst() -> None:
    searcher = NevergradSearch(None, None, {"x": uniform(-1, 1)}, "loss", "min", seed=1)
    for name, result, outcome in (
        ("a", {}, "failed"),
        ("b", {"loss": 3}, "completed"),
        ("c", {"loss": 1}, "completed"),
        ("d", {}, "failed"),
    ):
        searcher.ask(name)
        searcher.tell(seen(name, {}, dict(result)), outcome)  # type: ignore[arg-type]
    assert searcher._optimizer.num_tell == 3
    assert searcher._worst == 3
