from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from weft.exceptions import OptionError
from weft.lowlevel import override
from weft.tune.search.sample import choice, sample_from, uniform
from weft.tune.testing.searcher_suite import Conversation, SearcherSuite, seen

pytest.importorskip("hyperopt")

import hyperopt

from weft.tune.search.hyperopt import HyperOptSearch

if TYPE_CHECKING:
    from weft.tune.search import Searcher


class TestHyperOptSearch(SearcherSuite):
    @override
    def make(self, **arguments: Any) -> Searcher:
        return HyperOptSearch(n_initial_points=8, random_state_seed=1, **arguments)


def configs(searcher: HyperOptSearch, trials: int = 30) -> list[Any]:
    session = Conversation(searcher)
    for number in range(trials):
        trial_id = session.ask()
        assert trial_id is not None
        session.end(trial_id, {"loss": number % 7})
    return list(session.configs.values())


def test_choices_may_hold_domains() -> None:
    space = {
        "optimizer": choice([
            {"kind": "sgd", "rate": uniform(0, 1)},
            {"kind": "adam", "rate": uniform(5, 6), "twice": sample_from(lambda spec: spec.x * 2)},
            "none",
        ]),
        "x": uniform(0, 1),
    }  # fmt: skip
    found = configs(HyperOptSearch(space, "loss", "min", random_state_seed=1))
    assert {str(config["optimizer"])[:14] for config in found} == {
        "{'kind': 'sgd'",
        "{'kind': 'adam",
        "none",
    }
    for config in found:
        if config["optimizer"] != "none" and config["optimizer"]["kind"] == "adam":
            assert 5 <= config["optimizer"]["rate"] < 6
            assert config["optimizer"]["twice"] == 2 * config["x"]


def test_space_may_be_hyperopts() -> None:
    space = {
        "x": hyperopt.hp.uniform("x", 0, 1),
        "model": hyperopt.hp.choice("kind", [{"lr": hyperopt.hp.loguniform("lr", -5, 0)}, "tree"]),
    }
    searcher = HyperOptSearch(space, "loss", "min", [{"x": 0.5}], random_state_seed=1)
    found = configs(searcher)
    assert found[0]["x"] == 0.5
    assert {type(config["model"]) for config in found} == {dict, str}
    with pytest.raises(OptionError, match="no 'y', it has"):
        HyperOptSearch(space, "loss", "min", [{"y": 0.5}]).ask("a")


def test_failed_trials_are_left_out_and_those_without_a_number_count_as_bad() -> None:
    searcher = HyperOptSearch({"x": uniform(0, 1)}, "loss", "max", random_state_seed=1)
    for name, result, outcome in (
        ("a", {"loss": 1}, "failed"),
        ("b", {}, "completed"),
        ("c", {"loss": 3}, "stopped"),
    ):
        searcher.ask(name)
        searcher.tell(seen(name, {}, dict(result)), outcome)  # type: ignore[arg-type]
    assert searcher._trials.statuses() == ["fail", "ok"]
    assert searcher._trials.losses() == [None, -3]


@pytest.mark.parametrize(
    ("space", "metric", "says"),
    [
        ({"x": 1}, "loss", "no domain"),
        ({"x": uniform(0, 1)}, ["a", "b"], "one objective"),
    ],
)
def test_impossible_search_is_an_error(space: Any, metric: Any, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        HyperOptSearch(space, metric, "min" if isinstance(metric, str) else ["min", "max"]).ask("a")  # type: ignore[arg-type]


def test_what_a_function_returns_is_not_searched() -> None:
    space = {"x": uniform(0, 1), "y": sample_from(lambda: uniform(0, 1))}
    with pytest.raises(
        OptionError, match="y: HyperOptSearch cannot search what a function returns"
    ):
        HyperOptSearch(space, "loss", "min").ask("a")
