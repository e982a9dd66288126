from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from weft.exceptions import OptionError
from weft.lowlevel import override
from weft.tune.search import ConcurrencyLimiter, Repeater, Searcher
from weft.tune.search.repeater import TRIAL_INDEX
from weft.tune.testing.searcher_suite import seen

if TYPE_CHECKING:
    from weft.tune.views import Outcome, TrialView


class Recorder(Searcher):
    """Suggests numbers, and remembers what it was told."""

    def __init__(self, most: int = 100) -> None:
        super().__init__("loss", "min")
        self.most = most
        self.asked = 0
        self.told: list[tuple[str, Outcome | None, Any]] = []
        self.recalled: list[tuple[str, dict[str, Any]]] = []

    @override
    def set_search_properties(self, *_: Any, **spec: Any) -> bool:
        return True

    @override
    def expected_trials(self, num_samples: int) -> float:
        return 17

    @override
    def ask(self, trial_id: str) -> Any:
        self.asked += 1
        return {"n": self.asked} if self.asked <= self.most else self.FINISHED

    @override
    def recall(self, trial_id: str, config: dict[str, Any]) -> None:
        self.recalled.append((trial_id, config))

    @override
    def tell(self, trial: TrialView, outcome: Outcome | None) -> None:
        self.told.append((trial.trial_id, outcome, trial.result.get("loss")))


def end(searcher: Searcher, trial_id: str, loss: Any = 1.0, outcome: Outcome = "completed") -> None:
    searcher.tell(seen(trial_id, {}, {"loss": loss}), outcome)


# ----------------------------------------------------------------------------------------- limiter


def test_another_trial_is_out_when_one_has_ended() -> None:
    inner = Recorder()
    limiter = ConcurrencyLimiter(inner, max_concurrent=2)
    assert [limiter.ask(name) for name in "abc"] == [{"n": 1}, {"n": 2}, None]
    assert inner.asked == 2
    limiter.tell(seen("a", {}, {"loss": 5}), None)
    assert limiter.ask("c") is None
    end(limiter, "a")
    assert limiter.ask("c") == {"n": 3}
    assert inner.told == [("a", None, 5), ("a", "completed", 1.0)]


def test_batch_is_told_when_all_of_it_has_ended() -> None:
    inner = Recorder()
    limiter = ConcurrencyLimiter(inner, max_concurrent=2, batch=True)
    assert [limiter.ask(name) for name in "ab"] == [{"n": 1}, {"n": 2}]
    end(limiter, "b", 2.0)
    assert limiter.ask("c") is None
    assert inner.told == []
    end(limiter, "a", 1.0, "failed")
    assert inner.told == [("b", "completed", 2.0), ("a", "failed", 1.0)]
    assert limiter.ask("c") == {"n": 3}


def test_paused_trials_do_not_count() -> None:
    limiter = ConcurrencyLimiter(Recorder(), max_concurrent=1)
    assert limiter.ask("a")
    limiter.on_pause("a")
    limiter.on_pause("unknown")
    assert limiter.ask("b")
    assert limiter.ask("c") is None
    limiter.on_unpause("a")
    limiter.on_unpause("unknown")
    end(limiter, "b")
    assert limiter.ask("c") is None
    limiter.on_pause("a")
    end(limiter, "a")
    assert limiter.ask("c")


def test_batch_waits_for_its_paused_trials() -> None:
    inner = Recorder()
    limiter = ConcurrencyLimiter(inner, max_concurrent=2, batch=True)
    assert limiter.ask("a")
    assert limiter.ask("b")
    limiter.on_pause("a")
    end(limiter, "b")
    assert inner.told == []
    end(limiter, "a")
    assert len(inner.told) == 2


def test_limiter_passes_on_the_rest() -> None:
    inner = Recorder(most=1)
    limiter = ConcurrencyLimiter(inner, max_concurrent=5)
    assert limiter.set_search_properties("loss", "min", {})
    assert (limiter.metric, limiter.mode) == ("loss", "min")
    assert limiter.expected_trials(3) == 17
    limiter.recall("old", {"n": 0})
    assert inner.recalled == [("old", {"n": 0})]
    assert limiter.ask("a") == {"n": 1}
    assert limiter.ask("b") == Searcher.FINISHED


def test_recalled_trials_count_until_they_end() -> None:
    limiter = ConcurrencyLimiter(Recorder(), max_concurrent=1)
    limiter.recall("old", {})
    assert limiter.ask("a") is None
    end(limiter, "old")
    assert limiter.ask("a")


def test_limit_below_one_is_refused() -> None:
    with pytest.raises(OptionError, match="max_concurrent"):
        ConcurrencyLimiter(Recorder(), max_concurrent=0)


def test_limiter_may_be_called_by_hand() -> None:
    inner = Recorder()
    limiter = ConcurrencyLimiter(inner, max_concurrent=1)
    assert limiter.suggest("a") == {"n": 1}
    assert limiter.suggest("b") is None
    limiter.on_trial_result("a", {"loss": 5.0})
    limiter.on_trial_complete("a", {"loss": 4.0})
    assert limiter.suggest("b") == {"n": 2}
    limiter.on_trial_complete("b", None, True)
    assert inner.told == [("a", None, 5.0), ("a", "completed", 4.0), ("b", "failed", None)]


# ---------------------------------------------------------------------------------------- repeater


def test_every_configuration_is_tried_as_often_as_said() -> None:
    inner = Recorder()
    repeater = Repeater(inner, repeat=2)
    assert [repeater.ask(name) for name in "abc"] == [
        {"n": 1, TRIAL_INDEX: 0},
        {"n": 1, TRIAL_INDEX: 1},
        {"n": 2, TRIAL_INDEX: 0},
    ]
    assert Repeater(Recorder(), set_index=False).ask("a") == {"n": 1}


def test_mean_is_told_of_the_first_when_all_have_ended() -> None:
    inner = Recorder()
    repeater = Repeater(inner, repeat=3)
    for name in "abc":
        repeater.ask(name)
    repeater.tell(seen("a", {}, {"loss": 9.0}), None)
    end(repeater, "c", 3.0)
    end(repeater, "b", 6.0)
    assert inner.told == []
    end(repeater, "a", 9.0)
    assert inner.told == [("a", "completed", 6.0)]


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ([(1.0, "completed"), (5.0, "failed")], ("a", "completed", 1.0)),
        ([(1.0, "completed"), (math.nan, "completed")], ("a", "completed", 1.0)),
        ([(1.0, "stopped"), (2.0, "completed")], ("a", "completed", 1.5)),
        ([(1.0, "stopped"), (2.0, "stopped")], ("a", "stopped", 1.5)),
        ([(None, "completed"), ("x", "completed")], ("a", "completed", None)),
        ([(1.0, "failed"), (1.0, "failed")], ("a", "failed", None)),
    ],
)
def test_bad_ends_are_left_out_of_the_mean(ends: list[Any], told: Any) -> None:
    inner = Recorder()
    repeater = Repeater(inner, repeat=2)
    for name, (loss, outcome) in zip("ab", ends, strict=True):
        repeater.ask(name)
        end(repeater, name, loss, outcome)
    assert inner.told == [told]


def test_recalled_repetitions_are_recalled_once() -> None:
    inner = Recorder()
    repeater = Repeater(inner, repeat=3)
    repeater.recall("a", {"n": 1, TRIAL_INDEX: 0})
    repeater.recall("b", {"n": 1, TRIAL_INDEX: 1})
    assert inner.recalled == [("a", {"n": 1})]
    assert repeater.ask("c") == {"n": 1, TRIAL_INDEX: 2}
    for name in "abc":
        end(repeater, name)
    assert inner.told == [("a", "completed", 1.0)]


def test_repeater_passes_on_the_rest() -> None:
    inner = Recorder(most=0)
    repeater = Repeater(inner, repeat=3)
    assert repeater.set_search_properties("loss", "min", {})
    assert repeater.ask("a") == Searcher.FINISHED
    assert repeater.expected_trials(6) == 6
    with pytest.raises(OptionError, match="repeat"):
        Repeater(inner, repeat=0)


# ----------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize("name", ["on_trial_result", "on_trial_complete"])
def test_override_that_no_experiment_would_call_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=rf"Mine overrides {name}.*override tell"):
        type("Mine", (Repeater,), {name: lambda self, *_: None})
