"""What every searcher has to do: one suite of tests, run on each implementation.

    import pytest

    pytest.register_assert_rewrite("weft.tune.testing")
    from weft.tune.testing.searcher_suite import SearcherSuite

    class TestMySearcher(SearcherSuite):
        def make(self, **arguments):
            return MySearcher(seed=1, **arguments)

The attributes of the class say what the searcher can. The tests call it as the loop does. They need
pytest.
"""

# ruff: noqa: D102, S101
# The methods are tests: their names say what they check.

from __future__ import annotations

import copy
import math
import time
from typing import TYPE_CHECKING, Any

import pytest

from weft.exceptions import OptionError
from weft.tune.search.concurrency_limiter import ConcurrencyLimiter
from weft.tune.search.sample import choice, lograndint, loguniform, quniform, randint, uniform
from weft.tune.search.searcher import Searcher
from weft.tune.search.variant_generator import grid_search, parse_spec_vars
from weft.tune.views import TrialView

if TYPE_CHECKING:
    from pathlib import Path

    from weft.tune.search.searcher import Config
    from weft.tune.views import Outcome

SPACE: Config = {
    "x": uniform(-1, 1),
    "model": {
        "lr": loguniform(1e-5, 1e-1),
        "layers": randint(1, 5),
        "act": choice(["relu", "tanh"]),
    },
    "sizes": [lograndint(4, 512), 16],
    "momentum": quniform(0.5, 0.9, 0.1),
    "name": "constant",
}
BAD_RESULTS: list[dict[str, Any]] = [
    {},
    {"other": 1.0},
    {"loss": math.nan},
    {"loss": math.inf},
    {"loss": -math.inf},
    {"loss": None},
    {"loss": "high"},
    {"loss": [1, 2]},
]


def seen(trial_id: str, config: Config, result: dict[str, Any], iterations: int = 1) -> TrialView:
    """Return a trial as a searcher is told of it."""
    result = result and {**result, "training_iteration": iterations}
    return TrialView(
        trial_id,
        config,
        "TERMINATED",
        result,
        iterations,
        has_checkpoint=False,
        resources={"CPU": 1},
    )


def bowl(config: Config) -> float:
    """Return a loss whose least value, 0, is at x = 0.5 and lr = 0.001."""
    return float((config["x"] - 0.5) ** 2 + (math.log10(config["model"]["lr"]) + 3) ** 2 / 8)


class Conversation:
    """Talks to a searcher, as the loop does.

    Attributes:
        searcher: The searcher.
        configs: What it gave, by the trials' ids.
    """

    def __init__(self, searcher: Searcher) -> None:
        self.searcher = searcher
        self.configs: dict[str, Config] = {}

    def ask(self) -> str | None:
        """Have a trial begin; return its id, or None: there is no configuration now."""
        trial_id = f"trial_{len(self.configs):05d}"
        config = self.searcher.ask(trial_id)
        assert config is None or config == Searcher.FINISHED or isinstance(config, dict)
        if not isinstance(config, dict):
            return None
        self.configs[trial_id] = config
        return trial_id

    def end(
        self, trial_id: str, result: dict[str, Any] | None = None, outcome: Outcome = "completed"
    ) -> None:
        """Have a trial report and end; without a result: its loss."""
        config = self.configs[trial_id]
        if result is None:
            result = {"loss": bowl(config)}
        if result:
            self.searcher.tell(seen(trial_id, config, result), None)
        self.searcher.tell(seen(trial_id, config, result), outcome)

    def run(self, trials: int) -> list[Config]:
        """Run trials one after the other; return their configurations."""
        before = len(self.configs)
        for _ in range(trials):
            trial_id = self.ask()
            if trial_id is None:
                break
            self.end(trial_id)
        return list(self.configs.values())[before:]


def assert_of(space: Any, config: Any) -> None:
    """Assert that a configuration is of a space."""
    _, domains, _ = parse_spec_vars(space)
    for path, domain in domains:
        value = config
        for step in path:
            value = value[step]
        assert domain.is_valid(value), f"{path}: {value!r} is not of {domain!r}"
    assert config["name"] == "constant"
    assert config["sizes"][1] == 16
    assert set(config) == set(space)


class SearcherSuite:
    """The promises of a searcher. A subclass says how to make one."""

    trials = 16
    """How many a test runs: enough for the model to take over from random draws."""
    most_ms = 50.0
    """The mean time that `ask` and `tell` may take for a trial."""
    has_points = True
    """Whether it takes `points_to_evaluate`."""
    has_grids = False
    """Whether it tries every value of a grid_search."""
    learns = True
    """Whether its later suggestions are better than its first."""
    learning_trials = 40
    """How many trials show that."""

    def make(self, **arguments: Any) -> Searcher:
        """Return a searcher that is seeded, whose results come under "loss" and are to be small.

        Args:
            arguments: `points_to_evaluate`, if it `has_points`.
        """
        raise NotImplementedError

    def open(self, space: Config = SPACE, *, mode: str = "min", **arguments: Any) -> Conversation:
        """Return a session with a new searcher that knows the space."""
        searcher = self.make(**arguments)
        assert searcher.set_search_properties("loss", mode, copy.deepcopy(space), num_samples=1000)
        return Conversation(searcher)

    def test_suggestions_are_of_the_space(self) -> None:
        for config in self.open().run(self.trials):
            assert_of(SPACE, config)

    def test_same_calls_bring_the_same_suggestions(self) -> None:
        first, second = self.open(), self.open()
        assert first.run(self.trials) == second.run(self.trials)
        running = [(first.ask(), second.ask()) for _ in range(3)]
        for one, other in reversed([pair for pair in running if pair != (None, None)]):
            assert one is not None
            assert other is not None
            first.end(one)
            second.end(other)
        first.run(2)
        second.run(2)
        assert first.configs == second.configs

    def test_suggestions_differ(self) -> None:
        configs = self.open().run(self.trials)
        assert len({repr(config) for config in configs}) > len(configs) // 2

    @pytest.mark.parametrize("ended", [0, 1, 5, 14])
    def test_recalled_trials_are_as_good_as_asked_ones(self, ended: int) -> None:
        before, after = self.open(), self.open()
        before.run(ended)
        running = [trial_id for _ in range(2) if (trial_id := before.ask())]
        for trial_id, config in before.configs.items():
            after.searcher.recall(trial_id, copy.deepcopy(config))
            after.configs[trial_id] = config
            if trial_id not in running:
                after.end(trial_id)
        for trial_id in running:
            before.end(trial_id)
            after.end(trial_id)
        assert before.run(3) == after.run(3)

    def test_called_by_hand_it_learns_the_same(self) -> None:
        told, by_hand = self.open(), self.open()
        if type(by_hand.searcher).suggest is Searcher.suggest:
            pytest.skip("only an experiment can call it: it is no TellingSearcher")
        for number in range(self.trials):
            trial_id = told.ask()
            assert trial_id is not None
            config = by_hand.searcher.suggest(trial_id)
            assert config == told.configs[trial_id]
            if number == 2:
                told.end(trial_id, {}, "failed")
                by_hand.searcher.on_trial_complete(trial_id, None, error=True)
                continue
            result = {"loss": bowl(told.configs[trial_id]), "training_iteration": 1}
            told.end(trial_id)
            by_hand.searcher.on_trial_result(trial_id, result)
            by_hand.searcher.on_trial_complete(trial_id, result)
        after = told.ask()
        assert after is not None
        assert by_hand.searcher.suggest(after) == told.configs[after]

    def test_configuration_belongs_to_its_trial(self) -> None:
        changed, left_alone = self.open(), self.open()
        for _ in range(self.trials):
            for session in (changed, left_alone):
                trial_id = session.ask()
                assert trial_id is not None
                config = copy.deepcopy(session.configs[trial_id])
                session.end(trial_id)
                if session is changed:
                    session.configs[trial_id]["model"]["lr"] = "spoilt"
                    session.configs[trial_id]["sizes"].clear()
                    session.configs[trial_id] = config
        assert changed.configs == left_alone.configs

    @pytest.mark.parametrize("result", BAD_RESULTS, ids=repr)
    @pytest.mark.parametrize("outcome", ["completed", "stopped", "failed"])
    def test_goes_on_whatever_trials_report(self, result: dict[str, Any], outcome: Outcome) -> None:
        session = self.open()
        session.run(3)
        for _ in range(2):
            trial_id = session.ask()
            assert trial_id is not None
            session.end(trial_id, dict(result), outcome)
        for config in session.run(self.trials):
            assert_of(SPACE, config)

    @pytest.mark.parametrize("outcome", ["completed", "stopped", "failed"])
    def test_goes_on_if_all_trials_end_badly(self, outcome: Outcome) -> None:
        session = self.open()
        for _ in range(self.trials):
            trial_id = session.ask()
            assert trial_id is not None
            session.end(trial_id, {}, outcome)

    def test_goes_on_if_trials_are_stopped(self) -> None:
        session = self.open()
        for number in range(self.trials):
            trial_id = session.ask()
            assert trial_id is not None
            config = session.configs[trial_id]
            for iteration in range(1, 3 + number % 3):
                loss = bowl(config) + 1 / iteration
                session.searcher.tell(seen(trial_id, config, {"loss": loss}, iteration), None)
            view = seen(trial_id, config, {"loss": loss}, iteration)
            session.searcher.tell(view, "stopped" if number % 2 else "completed")

    def test_many_trials_may_be_out(self) -> None:
        session = self.open()
        session.run(3)
        running = [trial_id for _ in range(20) if (trial_id := session.ask())]
        assert running
        for trial_id in reversed(running):
            assert_of(SPACE, session.configs[trial_id])
            session.end(trial_id)
        assert session.run(2)

    def test_learns(self) -> None:
        if not self.learns:
            pytest.skip("it does not look at results")
        for mode, sign in (("min", 1), ("max", -1)):
            session = self.open(mode=mode)
            losses = []
            for _ in range(self.learning_trials):
                trial_id = session.ask()
                assert trial_id is not None
                losses.append(bowl(session.configs[trial_id]))
                session.end(trial_id, {"loss": sign * losses[-1]})
            quarter = self.learning_trials // 4
            assert sum(losses[-quarter:]) < sum(losses[:quarter])

    def test_points_come_first(self) -> None:
        if not self.has_points:
            pytest.skip("it takes no points")
        full = {
            "x": 0.25,
            "model": {"lr": 1e-3, "layers": 2, "act": "tanh"},
            "sizes": [8, 16],
            "momentum": 0.6,
        }
        first, second, third = self.open(points_to_evaluate=[full, {"x": -0.5}]).run(3)
        assert first == {**full, "name": "constant"}
        assert second["x"] == -0.5
        assert_of(SPACE, second)
        assert_of(SPACE, third)

    @pytest.mark.parametrize("point", [{"typo": 1}, {"x": 7}, {"model": {"act": "none"}}])
    def test_point_that_is_not_of_the_space_is_refused(self, point: Config) -> None:
        if not self.has_points:
            pytest.skip("it takes no points")
        with pytest.raises(OptionError) as raised:
            self.open(points_to_evaluate=[point])
        assert "\n" not in str(raised.value)

    def test_every_value_of_a_grid_is_tried_or_the_grid_refused(self) -> None:
        space = {**SPACE, "grid": grid_search([1, 2, 3])}
        if self.has_grids:
            assert [config["grid"] for config in self.open(space).run(6)] == [1, 2, 3] * 2
        else:
            with pytest.raises(OptionError, match="grid"):
                self.open(space)

    def test_finished_is_for_ever(self) -> None:
        session = self.open()
        answers = [session.searcher.ask(f"trial_{number:05d}") for number in range(self.trials)]
        if Searcher.FINISHED in answers:
            first = answers.index(Searcher.FINISHED)
            assert set(map(str, answers[first:])) == {Searcher.FINISHED}

    def test_limited_it_has_as_many_trials_out_as_is_said(self) -> None:
        limited = ConcurrencyLimiter(self.make(), max_concurrent=2)
        assert limited.set_search_properties("loss", "min", SPACE, num_samples=1000)
        session = Conversation(limited)
        for _ in range(self.trials):
            running = [trial_id for _ in range(3) if (trial_id := session.ask())]
            assert len(running) == 2
            for trial_id in running:
                session.end(trial_id)

    def test_saved_it_goes_on_in_another(self, tmp_path: Path) -> None:
        session = self.open()
        session.run(self.trials)
        session.searcher.save(str(tmp_path / "state"))
        other = Conversation(self.make())
        other.searcher.restore(str(tmp_path / "state"))
        other.configs = dict(session.configs)
        assert session.run(3) == other.run(3)

    def test_ask_and_tell_are_quick(self) -> None:
        session = self.open()
        session.run(self.trials)  # What is loaded is loaded.
        before = time.thread_time()
        session.run(self.trials)
        assert (time.thread_time() - before) / self.trials * 1000 < self.most_ms

    def test_mode_that_there_is_not_is_refused(self) -> None:
        if not self.learns:
            pytest.skip("it does not look at results")
        with pytest.raises(OptionError, match="minimise"):
            self.open(mode="minimise")
