from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from weft.exceptions import OptionError
from weft.tune.search import BasicVariantGenerator, Searcher, grid_search
from weft.tune.search.sample import randint, uniform
from weft.tune.views import TrialView

if TYPE_CHECKING:
    from pathlib import Path

SPACE = {"a": grid_search([1, 2]), "x": uniform(0, 1), "n": randint(0, 100)}


def searcher(space: dict[str, Any] = SPACE, num_samples: int = 3, **options: Any) -> Searcher:
    made = BasicVariantGenerator(**{"random_state": 7, **options})
    assert made.set_search_properties("loss", "min", space, num_samples=num_samples)
    return made


def suggested(searcher: Searcher, most: int = 1000) -> list[Any]:
    found = []
    for number in range(most):
        config = searcher.ask(str(number))
        if config == Searcher.FINISHED:
            break
        found.append(config)
    return found


def ended(trial_id: str) -> TrialView:
    return TrialView(trial_id, {}, "TERMINATED", {}, 0, has_checkpoint=False, resources={})


def test_every_variant_is_tried_num_samples_times() -> None:
    configs = suggested(searcher())
    assert [config["a"] for config in configs] == [1, 2] * 3
    assert len({config["x"] for config in configs}) == 6
    assert searcher().expected_trials(3) == 6


def test_after_the_last_it_is_finished_for_ever() -> None:
    made = searcher({"x": uniform(0, 1)}, 1)
    assert isinstance(made.ask("a"), dict)
    assert [made.ask("b"), made.ask("b")] == [Searcher.FINISHED] * 2


def test_minus_one_sample_is_endless() -> None:
    made = searcher(num_samples=-1)
    assert len(suggested(made, 500)) == 500
    assert made.expected_trials(-1) == float("inf")


def test_configuration_of_a_trial_depends_on_seed_and_number_alone() -> None:
    configs = suggested(searcher())
    assert suggested(searcher()) == configs
    assert suggested(searcher(random_state=8)) != configs
    assert suggested(searcher(num_samples=5))[:6] == configs
    assert suggested(searcher({**SPACE, "z": 1}))[0]["x"] == configs[0]["x"]
    random.seed(1)
    other = searcher()
    for number, config in enumerate(configs):
        random.random()  # Others draw too.
        other.tell(ended(str(number - 1)), "failed")
        assert other.ask(str(number)) == config


def test_seed_of_the_experiment_is_taken_unless_there_is_one() -> None:
    def configs(random_state: int | None, seed: int) -> list[Any]:
        made = BasicVariantGenerator(random_state=random_state)
        made.set_search_properties("loss", "min", SPACE, num_samples=2, seed=seed)
        return suggested(made)

    assert configs(None, 1) == configs(None, 1) != configs(None, 2)
    assert configs(3, 1) == configs(3, 2)


def test_recalled_trials_are_counted_but_not_drawn() -> None:
    configs = suggested(searcher())
    for cut in range(7):
        made = searcher()
        for number, config in enumerate(configs[:cut]):
            made.recall(str(number), config)
        assert suggested(made) == configs[cut:]


def test_points_are_tried_first_with_the_rest_drawn() -> None:
    points = [{"a": 5, "x": 0.5}, {"x": 0.25}]
    made = searcher(points_to_evaluate=points)
    assert made.expected_trials(3) == 1 + 2 + 2
    assert made.expected_trials(1) == 1
    configs = suggested(made)
    assert [(config["a"], config["x"]) for config in configs[:3]] == [
        (5, 0.5),
        (1, 0.25),
        (2, 0.25),
    ]
    assert len(configs) == 5


def test_point_that_does_not_fit_is_said_before_anything_runs() -> None:
    with pytest.raises(OptionError, match="no 'y'"):
        searcher(points_to_evaluate=[{"y": 1}])


def test_constant_grid_search_draws_once_for_each_sample() -> None:
    configs = suggested(searcher(constant_grid_search=True))
    xs = [config["x"] for config in configs]
    assert xs[0::2] == xs[1::2]
    assert len(set(xs)) == 3


def test_paused_trials_are_not_out() -> None:
    made = searcher(max_concurrent=1)
    assert isinstance(made.ask("a"), dict)
    made.on_pause("a")
    assert isinstance(made.ask("b"), dict)
    made.tell(ended("b"), "completed")
    made.on_unpause("a")
    assert made.ask("c") is None
    made.on_pause("a")
    made.tell(ended("a"), "stopped")
    assert isinstance(made.ask("c"), dict)


def test_no_more_than_max_concurrent_are_out() -> None:
    made = searcher(max_concurrent=2)
    assert all(isinstance(made.ask(name), dict) for name in "ab")
    assert made.ask("c") is None
    made.tell(ended("a"), None)
    assert made.ask("c") is None
    made.tell(ended("a"), "completed")
    assert isinstance(made.ask("c"), dict)
    with pytest.raises(OptionError, match="max_concurrent"):
        BasicVariantGenerator(max_concurrent=-1)


def test_without_a_space_it_says_so() -> None:
    with pytest.raises(OptionError, match="no search space"):
        BasicVariantGenerator().expected_trials(1)


def test_saved_searcher_goes_on_in_another(tmp_path: Path) -> None:
    made = searcher()
    first = [made.ask("1"), made.ask("2")]
    made.save_to_dir(str(tmp_path), "one")
    rest = suggested(made)
    other = BasicVariantGenerator()
    other.restore_from_dir(str(tmp_path))
    assert suggested(other) == rest
    assert first + rest == suggested(searcher())
    with pytest.raises(FileNotFoundError, match="no state of a searcher"):
        other.restore_from_dir(str(tmp_path / "nothing"))
