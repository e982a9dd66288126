from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from weft.exceptions import OptionError
from weft.lowlevel import override
from weft.tune.search.sample import choice, sample_from, uniform
from weft.tune.testing.searcher_suite import Conversation, SearcherSuite

pytest.importorskip("bayes_opt.acquisition")

from weft.tune.search.bayesopt import BayesOptSearch

if TYPE_CHECKING:
    from weft.tune.search import Searcher


@pytest.mark.slow
class TestBayesOptSearch(SearcherSuite):
    trials = 5
    most_ms = 1000.0

    @override
    def make(self, **arguments: Any) -> Searcher:
        return BayesOptSearch(random_state=1, random_search_steps=4, **arguments)


@pytest.mark.parametrize("kind", ["ucb", "ei", "poi"])
def test_every_utility_finds_the_bottom_of_a_bowl(kind: str) -> None:
    searcher = BayesOptSearch(
        {"x": (-2, 2), "y": (0, 1)}, "loss", "min", utility_kwargs={"kind": kind}, random_state=1
    )
    session = Conversation(searcher)
    losses = []
    for _ in range(18):
        trial_id = session.ask()
        assert trial_id is not None
        config = session.configs[trial_id]
        losses.append(config["x"] ** 2 + (config["y"] - 0.5) ** 2)
        session.end(trial_id, {"loss": losses[-1]})
    assert sum(losses[-8:]) < sum(losses[:8])


def test_small_space_is_finished_when_all_of_it_was_tried() -> None:
    searcher = BayesOptSearch({"x": choice([1, 2])}, "loss", "min", random_state=1, patience=50)
    answers = [searcher.ask(str(number)) for number in range(4)]
    assert sorted(map(str, answers)) == ["FINISHED", "FINISHED", "{'x': 1}", "{'x': 2}"]
    again = BayesOptSearch(
        {"x": choice([1, 2])}, "loss", "min", random_state=1, skip_duplicate=False
    )
    assert all(isinstance(again.ask(str(number)), dict) for number in range(4))


def test_other_experiments_are_learned_from() -> None:
    trials = [SimpleNamespace(config={"x": x}, last_result={"loss": x}) for x in (0.25, 0.5)]
    trials.append(SimpleNamespace(config={"x": 0.75}, last_result=None))
    searcher = BayesOptSearch(
        {"x": (0, 1)}, "loss", "min", random_state=1, analysis=SimpleNamespace(trials=trials)
    )
    assert isinstance(searcher.ask("a"), dict)
    assert searcher._seen == [([0.25], -0.25), ([0.5], -0.5)]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: BayesOptSearch(utility_kwargs={"kind": "best"}), "ucb, ei, poi"),
        (
            lambda: BayesOptSearch({"x": uniform(0, 1)}).set_search_properties(
                ["a", "b"], ["min", "max"], {}
            ),
            "one objective",
        ),
        (
            lambda: BayesOptSearch({"x": choice([{"y": uniform(0, 1)}])}, "a", "min").ask("a"),
            "x: BayesOptSearch cannot",
        ),
        (lambda: BayesOptSearch({"x": 1}, "a", "min").ask("a"), "no domain"),
        (
            lambda: BayesOptSearch(
                {"x": uniform(0, 1), "y": sample_from(lambda: uniform(0, 1))}, "a", "min"
            ).ask("a"),
            "y: BayesOptSearch cannot search what a function",
        ),
    ],
)
def test_impossible_search_is_an_error(make: Any, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        make()


def test_functions_are_computed() -> None:
    space = {"x": uniform(0, 1), "twice": sample_from(lambda spec: 2 * spec.x)}
    config = BayesOptSearch(space, "loss", "min", random_state=1).ask("a")
    assert isinstance(config, dict)
    assert config["twice"] == 2 * config["x"]


def test_bounds_are_shares() -> None:
    assert BayesOptSearch.convert_search_space({"a": {"x": uniform(3, 4)}}) == {"a/x": (0, 1)}


def test_recalled_trial_has_its_constants_beside_its_values() -> None:
    space = {"model": {"x": uniform(0, 1)}}
    searcher = BayesOptSearch(space, "loss", "min", random_state=1)
    searcher.set_search_properties(None, None, {"model": {"depth": 3}})
    searcher.recall("a", {"model": {"x": 0.5, "depth": 3}})
    assert searcher._running["a"] == ({"model/x": 0.5}, None)
    with pytest.raises(OptionError, match="another search space: model/x is 7"):
        searcher.recall("b", {"model": {"x": 7}})
