"""Population based training on the toy of its paper, its exploration, and its replay."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.exceptions import OptionError
from weft.tune.schedulers import PopulationBasedTraining, PopulationBasedTrainingReplay
from weft.tune.schedulers._exploration import Exploration
from weft.tune.schedulers.orders import Restart, Resume, Save
from weft.tune.testing.simulation import Simulation
from weft.tune.views import ExperimentView, TrialView

if TYPE_CHECKING:
    from pathlib import Path

STEPS = 203
INTERVAL = 5


class Interval:
    """A domain."""

    def __init__(self, lower: float, upper: float) -> None:
        self.lower = lower
        self.upper = upper

    def sample(self, *, random_state: random.Random) -> float:
        return random_state.uniform(self.lower, self.upper)

    def is_valid(self, value: float) -> bool:
        return self.lower <= value <= self.upper


def toy(config: Any, state: Any) -> Any:
    """Ascend the surrogate 1.2 - (h0 theta0^2 + h1 theta1^2); report Q = 1.2 - theta0^2 - theta1^2.

    Jaderberg et al. 2017, section 3 and figure 2.
    """
    t, theta = state or (0, (0.9, 0.9))
    if t == STEPS:
        return None
    h = config["h0"], config["h1"]
    theta = tuple(th - 0.02 * 2 * weight * th for th, weight in zip(theta, h, strict=True))
    return (t + 1, theta), {"Q": 1.2 - theta[0] ** 2 - theta[1] ** 2}


TWO = [{"h0": 0.0, "h1": 1.0}, {"h0": 1.0, "h1": 0.0}]
"""Each of the two workers of the figure sees one of the two directions."""


def population_of(**arguments: Any) -> PopulationBasedTraining:
    return PopulationBasedTraining(
        **{
            "time_attr": "training_iteration",
            "metric": "Q",
            "mode": "max",
            "perturbation_interval": INTERVAL,
            "quantile_fraction": 0.5,
            "hyperparam_mutations": {"h0": Interval(0, 1), "h1": Interval(0, 1)},
            "seed": 7,
            **arguments,
        }
    )


def best_of(done: Simulation) -> float:
    return max(trial.result["Q"] for trial in done.trials.values())


# ------------------------------------------------------------------ the toy of the paper


@pytest.mark.parametrize("synch", [False, True])
@pytest.mark.parametrize("clock", ["own", "source"])
@pytest.mark.parametrize("seed", range(5))
def test_exploit_and_explore_come_near_the_maximum(seed: int, synch: bool, clock: Any) -> None:
    done = Simulation(population_of(seed=seed, synch=synch), TWO, toy, seed=seed, clock=clock).run()
    assert best_of(done) > 1.15


def test_grid_search_alone_does_not() -> None:
    still = population_of(perturbation_interval=STEPS + 1)
    done = Simulation(still, TWO, toy).run()
    # One direction each: the other stays at 0.9.
    assert best_of(done) == pytest.approx(1.2 - 0.81, abs=0.01)


def test_exploit_alone_takes_turns_between_the_two_directions() -> None:
    copying = population_of(hyperparam_mutations=None, custom_explore_fn=lambda config: config)
    done = Simulation(copying, TWO, toy, seed=1).run()
    assert best_of(done) < 1.15  # both soon have one and the same h


def test_explore_comes_near_it_with_a_larger_population_and_the_usual_quantile() -> None:
    rng = random.Random(3)
    configs = [{"h0": rng.random(), "h1": rng.random()} for _ in range(8)]
    done = Simulation(population_of(quantile_fraction=0.25), configs, toy, slots=8).run()
    assert best_of(done) > 1.19


# ------------------------------------------------------------------ who copies whom


def view(trial_id: str, *, has_checkpoint: bool = False, **config: Any) -> TrialView:
    return TrialView(trial_id, config, "RUNNING", {}, 0, has_checkpoint, {"CPU": 1.0})


def experiment(*trials: TrialView) -> ExperimentView:
    return ExperimentView({trial.trial_id: trial for trial in trials}, {"CPU": 8.0})


def report(
    scheduler: PopulationBasedTraining, trials: ExperimentView, trial_id: str, t: float, q: float
) -> Any:
    result = {"training_iteration": t, "Q": q}
    return scheduler.on_trial_result(trials, trials.trials[trial_id], result)


def test_lower_quarter_copies_one_of_the_upper_quarter_as_it_was_saved() -> None:
    scheduler = population_of(quantile_fraction=0.25)
    trials = experiment(*(view(name, has_checkpoint=True, h0=0.5, h1=0.5) for name in "abcdefgh"))
    for trial in trials.get_trials():
        assert scheduler.on_trial_add(trials, trial) == ()
    answers = {name: report(scheduler, trials, name, 5, q) for q, name in enumerate("bcdefgha")}
    # Of m that are ready, ceil(m / 4) are the upper ones; each that comes is the best so far.
    assert answers == {"b": "CONTINUE", **{name: [Save(name)] for name in "cdefgha"}}
    restart, write = report(scheduler, trials, "b", 10, -1)
    assert isinstance(restart, Restart)
    assert (restart.trial_id, restart.source in "ha") == ("b", True)
    assert restart.config != {"h0": 0.5, "h1": 0.5}
    assert write.file == "pbt_policy_b.txt"
    assert report(scheduler, trials, "f", 10, 3) == "CONTINUE"
    assert report(scheduler, trials, "a", 9, 3) == "CONTINUE"  # not ready
    assert scheduler.debug_string() == "PopulationBasedTraining: 7 saved, 1 copied another"
    scheduler.reset_stats()
    assert scheduler.debug_string() == "PopulationBasedTraining: 0 saved, 0 copied another"
    assert scheduler.last_scores([trials.trials["a"], trials.trials["f"]]) == [7, 3]


def test_nobody_copies_before_the_burn_in_is_over() -> None:
    scheduler = population_of(burn_in_period=12)
    trials = experiment(view("a", h0=0.5, h1=0.5), view("b", has_checkpoint=True, h0=0.5, h1=0.5))
    for trial in trials.get_trials():
        scheduler.on_trial_add(trials, trial)
    for t in range(1, 12):
        assert report(scheduler, trials, "b", t, 1) == "CONTINUE"
        assert report(scheduler, trials, "a", t, 0) == "CONTINUE"
    report(scheduler, trials, "a", 12, 0)
    assert report(scheduler, trials, "b", 12, 1) == [Save("b")]


def test_trial_that_is_asked_to_save_and_cannot_is_an_error() -> None:
    scheduler = population_of()
    trials = experiment(view("a", h0=0.5, h1=0.5), view("b", h0=0.5, h1=0.5))
    for trial in trials.get_trials():
        scheduler.on_trial_add(trials, trial)
    report(scheduler, trials, "a", 5, 0)
    assert report(scheduler, trials, "b", 5, 1) == [Save("b")]
    assert report(scheduler, trials, "a", 10, 0) == "CONTINUE"  # there is nothing to copy yet
    with pytest.raises(OptionError, match="copies checkpoints, and trial b saved none"):
        report(scheduler, trials, "b", 10, 1)


def test_waiting_population_that_cannot_be_saved_is_an_error() -> None:
    with pytest.raises(OptionError, match="copies checkpoints"):
        Simulation(population_of(synch=True), TWO, toy, saves=False).run()


def test_waiting_trials_are_decided_upon_together() -> None:
    done = Simulation(population_of(synch=True, quantile_fraction=0.25), TWO * 4, toy).run()
    decided = [call.answer for call in done.calls if call.method == "on_idle"]
    assert len(decided) > 5
    for orders in decided:
        assert len({order.trial_id for order in orders if isinstance(order, Restart)}) == 2
        assert len([order for order in orders if isinstance(order, Resume)]) == 6


def test_result_without_the_metric_is_passed_over_where_it_is_not_required() -> None:
    scheduler = population_of(require_attrs=False)
    trials = experiment(view("a", h0=0.5, h1=0.5))
    scheduler.on_trial_add(trials, trials.trials["a"])
    result = {"training_iteration": 5}
    assert scheduler.on_trial_result(trials, trials.trials["a"], result) == "CONTINUE"


def test_user_may_have_the_last_word_about_a_configuration() -> None:
    def halved(config: dict[str, Any]) -> dict[str, Any]:
        return {**config, "h1": config["h0"] / 2}

    done = Simulation(population_of(custom_explore_fn=halved), TWO, toy).run()
    changed = [config for t in done.trials.values() for _, config in t.configs[1:]]
    assert changed
    assert all(config["h1"] == config["h0"] / 2 for config in changed)


def test_function_of_the_user_that_returns_no_configuration_is_an_error() -> None:
    scheduler = population_of(custom_explore_fn=lambda config: None)
    with pytest.raises(OptionError, match="returns a dictionary: None"):
        Simulation(scheduler, TWO, toy).run()


def test_same_seed_draws_the_same_whatever_the_order_of_reports() -> None:
    firsts = []
    for seed in range(3):
        done = Simulation(population_of(synch=True), TWO, toy, seed=seed).run()
        firsts.append([trial.configs[:5] for trial in done.trials.values()])
    assert firsts[0] == firsts[1] == firsts[2]
    other = Simulation(population_of(synch=True, seed=8), TWO, toy).run()
    assert [trial.configs[:5] for trial in other.trials.values()] != firsts[0]


def test_seed_of_the_experiment_is_taken() -> None:
    drawn = []
    for seed in (1, 1, 2):
        scheduler = population_of(seed=None)
        scheduler.set_search_properties(None, None, seed=seed)
        scheduler.on_trial_add(experiment(), view("a"))
        drawn.append(scheduler.on_trial_add(experiment(), view("a")))
    assert drawn[0] == drawn[1] != drawn[2]


# ------------------------------------------------------------------ exploration


def exploration_of(mutations: dict[str, Any], resample: float = 0.0) -> Exploration:
    return Exploration("PBT", mutations, resample, (1.2, 0.8))


@given(st.integers(0, 10_000))
def test_numbers_are_perturbed_by_a_factor_and_integers_stay_integers(seed: int) -> None:
    explore = exploration_of({"lr": lambda: 0.0, "n": lambda: 0}).explore
    config = explore({"lr": 0.1, "n": 10, "other": "kept"}, random.Random(seed))
    assert config["lr"] in (0.1 * 1.2, 0.1 * 0.8)
    assert config["n"] in (8, 12)
    assert isinstance(config["n"], int)
    assert config["other"] == "kept"


@given(st.integers(0, 10_000))
def test_option_moves_to_a_neighbour_and_stays_at_the_end(seed: int) -> None:
    explore = exploration_of({"size": [16, 32, 64]}).explore
    assert explore({"size": 32}, random.Random(seed))["size"] in (16, 64)
    assert explore({"size": 64}, random.Random(seed))["size"] in (32, 64)
    assert explore({"size": 99}, random.Random(seed))["size"] in (16, 32, 64)


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_value_stays_within_its_domain(seed: int, value: float) -> None:
    explore = exploration_of({"p": Interval(0, 1)}, resample=0.25).explore
    assert 0 <= explore({"p": value}, random.Random(seed))["p"] <= 1


def test_value_whose_domain_holds_neither_neighbour_is_drawn_again() -> None:
    explore = exploration_of({"p": Interval(5, 5.1)}).explore
    assert 5 <= explore({"p": 5.05}, random.Random(0))["p"] <= 5.1


def test_resampling_draws_from_the_domain() -> None:
    explore = exploration_of({"p": Interval(0, 1), "of": [1, 2], "made": lambda: 9}, 1.0).explore
    made = explore({"p": 50.0, "of": 7, "made": 1}, random.Random(0))
    assert 0 <= made["p"] <= 1
    assert made["of"] in (1, 2)
    assert made["made"] == 9


def test_what_is_no_number_is_drawn_again() -> None:
    explore = exploration_of({"on": lambda: "drawn"}).explore
    assert explore({"on": True}, random.Random(0)) == {"on": "drawn"}


def test_nested_hyperparameters_are_explored_and_filled() -> None:
    exploration = exploration_of({"net": {"lr": lambda: 0.5}})
    explored = exploration.explore({"net": {"lr": 1.0, "act": "relu"}}, random.Random(0))
    assert explored["net"]["lr"] in (1.2, 0.8)
    assert explored["net"]["act"] == "relu"
    assert exploration.fill({}, random.Random(0)) == {"net": {"lr": 0.5}}


def test_key_that_a_configuration_lacks_is_drawn_before_the_trial_begins() -> None:
    scheduler = population_of(hyperparam_mutations={"h0": [0.25], "h1": Interval(0, 1)})
    (order,) = scheduler.on_trial_add(experiment(), view("a", h1=0.5))
    assert order == Restart("a", "a", {"h0": 0.25, "h1": 0.5})


# ------------------------------------------------------------------ replay


@pytest.mark.parametrize("clock", ["own", "source"])
@pytest.mark.parametrize("synch", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_replay_goes_the_way_of_the_trial_whose_policy_it_reads(
    tmp_path: Path, seed: int, clock: Any, synch: bool
) -> None:
    scheduler = population_of(seed=seed, synch=synch)
    done = Simulation(scheduler, TWO, toy, seed=seed, clock=clock).run()
    for trial_id, trial in done.trials.items():
        policy = tmp_path / trial_id
        policy.write_text(done.files[f"pbt_policy_{trial_id}.txt"])
        again = Simulation(PopulationBasedTrainingReplay(policy), [{}], toy).run()
        (single,) = again.trials.values()
        # The toy draws nothing: the same schedule ends in the same theta.
        assert single.result["Q"] == trial.result["Q"]
        steps = [json.loads(line) for line in policy.read_text().splitlines()]
        assert [(step["time"], step["config"]) for step in steps] == single.configs[1:]


def policy_in(tmp_path: Path, *steps: tuple[float, dict[str, Any]]) -> Path:
    lines = [json.dumps({"time_attr": "t", "time": time, "config": c}) for time, c in steps]
    path = tmp_path / "policy.txt"
    path.write_text("\n".join(lines))
    return path


def test_trial_that_goes_back_in_time_goes_back_in_the_policy(tmp_path: Path) -> None:
    policy = policy_in(tmp_path, (0, {"lr": 1}), (5, {"lr": 2}))
    replay = PopulationBasedTrainingReplay(str(policy))
    assert replay.config == {"lr": 1}
    trial = view("a", x=0)
    trials = experiment(trial)
    begin = Restart("a", "a", {"x": 0, "lr": 1})
    assert replay.on_trial_add(trials, trial) == [begin]
    assert replay.on_trial_result(trials, trial, {"t": 4}) == "CONTINUE"
    assert replay.on_trial_result(trials, trial, {"t": 5}) == [Restart("a", "a", {"x": 0, "lr": 2})]
    assert replay.on_trial_result(trials, trial, {"t": 6}) == "CONTINUE"
    assert replay.debug_string() == "PopulationBasedTrainingReplay: at step 2 of 2"
    assert replay.on_trial_result(trials, trial, {"t": 1}) == [begin]
    assert replay.set_search_properties("anything", "max")


def test_replay_is_of_one_trial(tmp_path: Path) -> None:
    replay = PopulationBasedTrainingReplay(policy_in(tmp_path, (0, {})))
    replay.on_trial_add(experiment(), view("a"))
    with pytest.raises(OptionError, match="one trial: num_samples=1"):
        replay.on_trial_add(experiment(), view("b"))


def test_replay_says_what_it_misses_in_a_result(tmp_path: Path) -> None:
    replay = PopulationBasedTrainingReplay(policy_in(tmp_path, (0, {})))
    replay.on_trial_add(experiment(), view("a"))
    with pytest.raises(OptionError, match=r"looks at 't', which trial a did not report; .*: loss"):
        replay.on_trial_result(experiment(), view("a"), {"loss": 1})


@pytest.mark.parametrize(
    "text", ["", "no JSON", '{"time": 0}', '{"time_attr": "t", "time": 3, "config": {}}']
)
def test_file_that_is_no_policy_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "policy.txt").write_text(text)
    with pytest.raises(OptionError, match=r"policy.txt is no policy of population based training"):
        PopulationBasedTrainingReplay(tmp_path / "policy.txt")


def test_policy_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be read: No such file or directory"):
        PopulationBasedTrainingReplay(tmp_path / "policy.txt")


def test_numbers_of_arrays_are_written_and_what_json_lacks_is_refused_at_once() -> None:
    numpy = pytest.importorskip("numpy")
    scheduler = population_of(hyperparam_mutations={"h0": [1]})
    assert scheduler.on_trial_add(experiment(), view("a", h0=numpy.float32(1))) == ()
    with pytest.raises(OptionError, match=r"cannot write .* trial b .*: give log_config=False"):
        scheduler.on_trial_add(experiment(), view("b", h0=object()))
    silent = population_of(hyperparam_mutations={"h0": [1]}, log_config=False)
    assert silent.on_trial_add(experiment(), view("b", h0=object())) == ()
    assert not Simulation(population_of(log_config=False), TWO, toy).run().files


# ------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"perturbation_interval": 0}, "perturbation_interval of .* is a number above 0: 0"),
        ({"burn_in_period": -1}, "burn_in_period of .*: -1"),
        ({"quantile_fraction": 0.6}, r"quantile_fraction of .* is in \[0, 0.5\].*: 0.6, 0.25"),
        ({"resample_probability": 1.5}, r"resample_probability in \[0, 1\]: 0.5, 1.5"),
        ({"perturbation_factors": (1.2, 0)}, "each of perturbation_factors of .*: 0"),
        ({"hyperparam_mutations": None}, "needs to know what may change"),
        ({"hyperparam_mutations": {"a": {"b": []}}}, r"changes 'a/b' within a domain.*: \[\]"),
        ({"hyperparam_mutations": {"a": 3}}, "changes 'a' within a domain.*: 3"),
        ({"hyperparam_mutations": {"a": {"grid_search": [1]}}}, "changes 'a' within a domain"),
        ({"seed": 1.5}, "seed of .* is an integer"),
    ],
)
def test_bad_argument_is_refused_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        population_of(**arguments)
