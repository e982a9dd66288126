"""PB2 follows a moving optimum better than chance, and its process is a Gaussian process."""

from __future__ import annotations

import math
import random
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from weft.exceptions import OptionError
from weft.tune.schedulers import PopulationBasedTraining
from weft.tune.schedulers.pb2 import PB2, TimeVaryingProcess
from weft.tune.testing.simulation import Simulation
from weft.tune.views import ExperimentView, TrialView

STEPS = 120
INTERVAL = 6


class Uniform:
    def sample(self, *, random_state: random.Random) -> float:
        return random_state.random()


def moving(config: Any, state: Any) -> Any:
    """Gain the more per step, the nearer x, y, z are to an optimum whose x moves."""
    t, total = state or (0, 0.0)
    if t == STEPS:
        return None
    optimum = {"x": 0.1 + 0.8 * t / STEPS, "y": 0.3, "z": 0.7}
    square = sum((config[key] - optimum[key]) ** 2 for key in optimum)
    total += math.exp(-square / (2 * 0.25**2))
    return (t + 1, total), {"total": total}


def best_total(scheduler: PopulationBasedTraining, seed: int) -> float:
    rng = random.Random(seed)
    configs = [{key: rng.random() for key in "xyz"} for _ in range(4)]
    done = Simulation(scheduler, configs, moving, seed=seed).run()
    return max(trial.result["total"] for trial in done.trials.values())


def pb2_of(**arguments: Any) -> PB2:
    return PB2(
        **{
            "time_attr": "training_iteration",
            "metric": "total",
            "mode": "max",
            "perturbation_interval": INTERVAL,
            "hyperparam_bounds": {key: [0.0, 1.0] for key in "xyz"},
            **arguments,
        }
    )


@pytest.mark.slow
def test_moving_optimum_is_followed_better_than_by_chance() -> None:
    def by_chance(seed: int) -> PopulationBasedTraining:
        return PopulationBasedTraining(
            "training_iteration",
            "total",
            "max",
            INTERVAL,
            hyperparam_mutations={key: Uniform() for key in "xyz"},
            resample_probability=1.0,
            quantile_fraction=0.5,
            synch=True,
            seed=seed,
        )

    seeds = range(10)
    pb2s = [pb2_of(quantile_fraction=0.5, synch=True, seed=seed) for seed in seeds]
    chosen = [best_total(pb2, seed) for seed, pb2 in enumerate(pb2s)]
    drawn = [best_total(by_chance(seed), seed) for seed in seeds]
    assert fmean(chosen) > fmean(drawn) + 10
    assert sum(a > b for a, b in zip(chosen, drawn, strict=True)) >= 8


def rows(n: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    x, t = rng.random((n, 2)), np.arange(n) / 4
    return x, t, np.sin(5 * x[:, 0]) + 0.01 * rng.normal(size=n)


def test_process_predicts_what_it_was_fitted_to() -> None:
    x, t, y = rows(40)
    process = TimeVaryingProcess(x, t, y)
    predicted = process.mean(x, t) * y.std() + y.mean()
    assert np.abs(predicted - y).max() < 0.1
    assert process.noise == 0.01


def test_process_is_that_of_the_textbook() -> None:
    x, t, y = rows(12)
    process = TimeVaryingProcess(x, t, y)

    def k(a: int, b: int) -> float:
        square = sum((x[a] - x[b]) ** 2)
        forgetting = (1 - process.epsilon) ** (abs(t[a] - t[b]) / 2)
        return float(np.exp(-square / (2 * process.length**2)) * forgetting)

    known = np.array([[k(a, b) for b in range(11)] for a in range(11)])
    process._x, process._t, process._y = x[:11], t[:11], process._y[:11]
    inverse = np.linalg.inv(known + process.noise * np.eye(11))
    across = np.array([k(11, b) for b in range(11)])
    none = np.empty((0, 2)), np.empty(0)
    assert process.deviation(x[11:], t[11:], *none)[0] == pytest.approx(
        np.sqrt(1 - across @ inverse @ across)
    )
    process._weights = inverse @ process._y
    assert process.mean(x[11:], t[11:])[0] == pytest.approx(across @ inverse @ process._y)


def test_where_others_train_at_the_moment_there_is_less_to_learn() -> None:
    x, t, y = rows(20)
    process = TimeVaryingProcess(x, t, y)
    point, now = np.array([[0.5, 0.5]]), np.array([6.0])
    alone = process.deviation(point, now, np.empty((0, 2)), np.empty(0))
    assert process.deviation(point, now, point, now) < alone


def test_equal_changes_tell_nothing_and_break_nothing() -> None:
    x, t, _ = rows(5)
    process = TimeVaryingProcess(x, t, np.ones(5))
    assert np.abs(process.mean(x, t)).max() == 0


def test_chosen_values_keep_their_bounds_and_integers_are_integers() -> None:
    def step(config: Any, t: int | None) -> Any:
        t = (t or 0) + 1
        return (t, {"total": t * config["n"] * config["x"]}) if t <= 60 else None

    scheduler = pb2_of(hyperparam_bounds={"x": [0.5, 2.0], "n": [1, 6]}, seed=1)
    configs = [{"x": 0.6, "n": n, "other": "kept"} for n in (1, 2, 3, 4)]
    done = Simulation(scheduler, configs, step).run()
    changed = [config for t in done.trials.values() for _, config in t.configs[1:]]
    assert len(changed) > 5
    for config in changed:
        assert 0.5 <= config["x"] <= 2.0
        assert config["n"] in range(1, 7)
        assert isinstance(config["n"], int)
        assert config["other"] == "kept"


def test_first_choices_are_drawn_as_there_is_nothing_to_learn_from() -> None:
    trial = TrialView("a", {"y": 0.5}, "PENDING", {}, 0, False, {"CPU": 1.0})
    (order,) = pb2_of(seed=1).on_trial_add(ExperimentView({}, {}), trial)
    assert order.config == {"x": order.config["x"], "y": 0.5, "z": order.config["z"]}
    assert 0 <= order.config["x"] <= 1


@pytest.mark.parametrize(
    "bounds", [[1, 0], [1], 3, ["a", "b"], [0, float("inf")], [0, None], (1.0, 1.0)]
)
def test_bounds_that_are_no_interval_are_refused(bounds: Any) -> None:
    with pytest.raises(OptionError, match=r"hyperparam_bounds of PB2 are \[lower, upper\], 'x'"):
        pb2_of(hyperparam_bounds={"x": bounds})


def test_bounds_are_needed() -> None:
    with pytest.raises(OptionError, match="PB2 needs hyperparam_bounds"):
        PB2(metric="total", mode="max")


def test_missing_numpy_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        def __getattr__(self, name: str) -> Any:
            raise ModuleNotFoundError("No module named 'numpy'")

    monkeypatch.setattr("weft.tune.schedulers.pb2.np", Missing())
    with pytest.raises(ImportError, match=r"pip install weft-tune\[pb2\]"):
        pb2_of()
