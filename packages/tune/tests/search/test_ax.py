from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from weft.lowlevel import override
from weft.tune.search.sample import choice, qrandn, quniform, randint, uniform
from weft.tune.testing.searcher_suite import Conversation, SearcherSuite, seen

pytest.importorskip("ax")

from weft.tune.search.ax import AxSearch

if TYPE_CHECKING:
    from weft.tune.search import Searcher

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Those of botorch, linear_operator, torch.
    pytest.mark.timeout(600),
]


class TestAxSearch(SearcherSuite):
    trials = 6
    learning_trials = 14
    most_ms = 20_000.0

    @override
    def make(self, **arguments: Any) -> Searcher:
        return AxSearch(seed=1, initialization_budget=5, **arguments)


def test_constraints_are_kept_and_outcomes_told() -> None:
    searcher = AxSearch(
        {
            "a": uniform(0, 1),
            "m": {"b": uniform(0, 1)},
            "n": qrandn(0, 1, 0.5),
            "q": quniform(0, 1, 0.25),
        },
        "loss",
        "max",
        parameter_constraints=["a + m.b <= 1"],
        outcome_constraints=["size <= 2"],
        seed=1,
    )
    session = Conversation(searcher)
    for number in range(5):
        trial_id = session.ask()
        assert trial_id is not None
        config = session.configs[trial_id]
        assert config["a"] + config["m"]["b"] <= 1 + 1e-9
        assert config["n"] * 2 == round(config["n"] * 2)
        assert config["q"] * 4 == round(config["q"] * 4)
        result = {"loss": config["a"], "size": number} if number else {"loss": 1}
        session.end(trial_id, result, "failed" if number == 4 else "completed")
    status = searcher.client.summarize()["trial_status"].tolist()
    assert status == ["ABANDONED", "COMPLETED", "COMPLETED", "COMPLETED", "FAILED"]


def test_types_are_kept() -> None:
    searcher = AxSearch({"n": randint(1, 4), "c": choice([None, "x"])}, "loss", "min", seed=1)
    config = searcher.ask("a")
    assert isinstance(config, dict)
    assert type(config["n"]) is int
    assert config["c"] in {None, "x"}
    searcher.tell(seen("a", config, {"loss": 1}), "completed")
