from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from weft.exceptions import OptionError
from weft.lowlevel import override
from weft.tune.search.optuna import OptunaSearch, from_distribution, to_distribution
from weft.tune.search.optuna._window import BEST, KEPT, MOST, NEWEST, SeededTPE, kept, rank_of
from weft.tune.search.optuna.distributions import param_of, value_of
from weft.tune.search.sample import (
    Categorical,
    Domain,
    Integer,
    Sampler,
    choice,
    lograndint,
    loguniform,
    qlograndint,
    qloguniform,
    qrandint,
    qrandn,
    quniform,
    randint,
    randn,
    sample_from,
    uniform,
)
from weft.tune.testing.searcher_suite import SPACE, Conversation, SearcherSuite, bowl, seen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from weft.tune.search import Searcher

CHOICES: list[Any] = [
    ["relu", 1, None, 0.5],
    [1, True],  # Equal to optuna, but not to a user.
    [[1, 2], {"a": 1}],
]
DOMAINS: list[Domain] = [
    uniform(-2, 3),
    quniform(-1, 1, 0.1),
    loguniform(1e-6, 10),
    qloguniform(0.01, 1, 0.01),
    randn(10, 2),
    qrandn(0, 1, 0.25),
    randint(-7, 3),
    qrandint(1, 10, 3),
    lograndint(1, 1000),
    qlograndint(4, 64, 4),
    *map(choice, CHOICES),
]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


class TestCmaEs(SearcherSuite):
    @override
    def make(self, **arguments: Any) -> Searcher:
        sampler = optuna.samplers.CmaEsSampler(seed=1, warn_independent_sampling=False)
        return OptunaSearch(sampler=sampler, **arguments)


class TestRandomSampler(SearcherSuite):
    learns = False

    @override
    def make(self, **arguments: Any) -> Searcher:
        return OptunaSearch(sampler=optuna.samplers.RandomSampler(seed=1), **arguments)


def opened(searcher: OptunaSearch, space: Any = SPACE, **spec: Any) -> Conversation:
    assert searcher.set_search_properties("loss", "min", space, **spec)
    return Conversation(searcher)


# ----------------------------------------------------------------------------------- distributions


@pytest.mark.parametrize("domain", DOMAINS, ids=repr)
def test_domain_goes_to_a_distribution_and_back(domain: Domain) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    distribution = to_distribution(domain)
    for _ in range(50):
        value = value_of(domain, study.ask({"x": distribution}).params["x"])
        assert domain.is_valid(value)
        assert type(value) in {type(domain.sample()) for _ in range(50)}
        again = value_of(domain, param_of(domain, value))
        assert (
            again == pytest.approx(value)
            if isinstance(value, float)
            else again is value or again == value
        )


@pytest.mark.parametrize(
    ("domain", "distribution"),
    [
        (uniform(-2, 3), FloatDistribution(-2, 3)),
        (loguniform(0.1, 3), FloatDistribution(0.1, 3, log=True)),
        (quniform(0, 1, 0.25), FloatDistribution(0, 1, step=0.25)),
        (quniform(0.1, 0.9, 0.25), FloatDistribution(0.25, 0.75, step=0.25)),
        (randint(-2, 3), IntDistribution(-2, 2)),
        (lograndint(2, 9), IntDistribution(2, 8, log=True)),
        (qrandint(2, 9, 3), IntDistribution(3, 9, step=3)),
        (choice([1, "a"]), CategoricalDistribution([1, "a"])),
        (choice([[1], [2]]), CategoricalDistribution([0, 1])),
    ],
)
def test_distribution_draws_the_same(domain: Domain, distribution: Any) -> None:
    assert to_distribution(domain) == distribution


@pytest.mark.parametrize(
    "distribution",
    [
        FloatDistribution(-2, 3),
        FloatDistribution(0.1, 3, log=True),
        FloatDistribution(0, 1, step=0.25),
        IntDistribution(-2, 2),
        IntDistribution(2, 8, log=True),
        IntDistribution(3, 9, step=3),
        CategoricalDistribution([1, "a"]),
    ],
)
def test_distribution_goes_to_a_domain_and_back(distribution: Any) -> None:
    assert to_distribution(from_distribution(distribution)) == distribution


def test_distribution_off_the_grid_becomes_a_choice() -> None:
    domain = from_distribution(IntDistribution(1, 7, step=3))
    assert isinstance(domain, Categorical)
    assert domain.categories == [1, 4, 7]
    single = from_distribution(FloatDistribution(2, 2))
    assert isinstance(single, Categorical)
    assert single.categories == [2.0]


def test_what_optuna_cannot_draw_is_said() -> None:
    class Odd(Sampler):
        @override
        def value_at(self, domain: Any, share: float) -> Any:
            return 1

    odd = Integer(0, 9)
    odd.set_sampler(Odd())
    for domain in (odd, sample_from(lambda: 1), Categorical([1]).grid()):
        with pytest.raises(OptionError, match="optuna has no distribution for"):
            to_distribution(domain)


def test_space_is_converted_by_names() -> None:
    assert OptunaSearch.convert_search_space({"a": {"b": [uniform(0, 1)]}, "c": 3}) == {
        "a/b/0": FloatDistribution(0, 1)
    }


# ------------------------------------------------------------------------------------------ spaces


def test_space_of_distributions_makes_nested_configurations() -> None:
    space = {"model/lr": FloatDistribution(0, 1), "n": IntDistribution(1, 3)}
    searcher = OptunaSearch(
        space, "loss", "min", points_to_evaluate=[{"model": {"lr": 0.5}}], seed=1
    )
    assert searcher.set_search_properties(None, None, {"constant": 1, "model": {"depth": 3}})
    config = searcher.ask("a")
    assert isinstance(config, dict)
    assert config["model"] == {"lr": 0.5, "depth": 3}
    assert config["n"] in {1, 2, 3}
    assert config["constant"] == 1


def test_space_of_distributions_is_recalled_from_configurations() -> None:
    def made() -> Conversation:
        space = {"x": FloatDistribution(0, 1), "model/lr": FloatDistribution(1e-5, 1, log=True)}
        return Conversation(OptunaSearch(space, "loss", "min", seed=1))

    before, after = made(), made()
    before.run(15)
    for trial_id, config in before.configs.items():
        after.searcher.recall(trial_id, config)
        after.configs[trial_id] = config
        after.end(trial_id)
    assert before.run(2) == after.run(2)


def test_space_may_be_a_function() -> None:
    def define(trial: optuna.Trial) -> dict[str, Any]:
        if trial.suggest_categorical("kind", ["sgd", "adam"]) == "sgd":
            trial.suggest_float("momentum", 0, 1)
        return {"constant": 5}

    searcher = OptunaSearch(
        define, "loss", "min", [{"kind": "sgd", "momentum": 0.25}, {"kind": "adam"}], seed=1
    )
    configs = []
    for number in range(20):
        config = searcher.ask(str(number))
        assert isinstance(config, dict)
        searcher.tell(seen(str(number), config, {"loss": config.get("momentum", 2)}), "completed")
        assert ("momentum" in config) == (config["kind"] == "sgd")
        configs.append(config)
    assert configs[:2] == [
        {"kind": "sgd", "momentum": 0.25, "constant": 5},
        {"kind": "adam", "constant": 5},
    ]


def test_choices_may_hold_domains() -> None:
    space = {
        "optimizer": choice([
            {"kind": "sgd", "rate": uniform(0, 1), "n": randint(0, 3)},
            {"kind": "adam", "rate": choice([5, 6]), "n": randint(2, 5)},
            {"kind": "none"},
        ]),
        "twice": sample_from(lambda spec: spec.base * 2),
        "near": sample_from(lambda spec: uniform(spec.base, spec.base + 1)),
        "noise": sample_from(lambda _, random: random.random()),
        "base": uniform(0, 1),
    }  # fmt: skip

    def configs() -> list[Any]:
        session = opened(OptunaSearch(seed=3), space)
        for number in range(40):
            trial_id = session.ask()
            assert trial_id is not None
            session.end(trial_id, {"loss": number % 7})
        return list(session.configs.values())

    found = configs()
    assert found == configs()
    assert {config["optimizer"]["kind"] for config in found} == {"sgd", "adam", "none"}
    for config in found:
        assert config["twice"] == 2 * config["base"]
        assert config["base"] <= config["near"] <= config["base"] + 1
        if config["optimizer"]["kind"] == "adam":
            assert config["optimizer"]["rate"] in {5, 6}
    assert len({config["noise"] for config in found}) == 40


def test_conditional_space_is_recalled_by_asking_again() -> None:
    space = {"x": uniform(0, 1), "c": choice([{"lr": uniform(0, 1)}, 3])}

    def loss(config: Any) -> float:
        return float(config["x"])

    before, after = (opened(OptunaSearch(seed=3), space) for _ in range(2))
    for _ in range(15):
        trial_id = before.ask()
        assert trial_id is not None
        config = before.configs[trial_id]
        before.end(trial_id, {"loss": loss(config)})
        after.searcher.recall(trial_id, config)
        after.configs[trial_id] = config
        after.end(trial_id, {"loss": loss(config)})
    assert before.searcher.ask("n") == after.searcher.ask("n")


def test_trial_that_the_space_does_not_have_any_more_is_refused() -> None:
    session = opened(OptunaSearch(seed=1), {"x": uniform(0, 1)})
    with pytest.raises(OptionError, match="x is 7, not of Float"):
        session.searcher.recall("a", {"x": 7})


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: opened(OptunaSearch(), {"x": 1}), "no domain"),
        (lambda: opened(OptunaSearch(), {}), "empty"),
        (lambda: OptunaSearch().ask("a"), "no search space"),
        (lambda: OptunaSearch({"x": uniform(0, 1)}).ask("a"), "needs a metric and a mode"),
        (lambda: OptunaSearch({"x": uniform(0, 1)}, ["a", "b"], ["min"]).ask("a"), "as many"),
        (lambda: OptunaSearch(sampler=optuna.samplers.RandomSampler(), seed=1), "give the seed"),
        (lambda: OptunaSearch(evaluated_rewards=[1]), "1 evaluated_rewards for 0 points"),
        (
            lambda: OptunaSearch(
                {"x": FloatDistribution(0, 1)}, "loss", "min", points_to_evaluate=[{"y": 1}]
            ).ask("a"),
            "no 'y', it has x",
        ),
    ],
)
def test_impossible_search_is_an_error_of_one_line(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(OptionError) as raised:
        make()
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_was_given_twice_is_not_taken() -> None:
    own = OptunaSearch({"x": uniform(0, 1)}, "loss", "min")
    assert not own.set_search_properties("loss", "min", {"y": uniform(0, 1)})
    assert not own.set_search_properties("other", "min", {})
    assert not own.set_search_properties("loss", "max", {})
    assert own.set_search_properties("loss", "min", {"y": 1})


# ------------------------------------------------------------------------------------------- tells


def states(searcher: OptunaSearch) -> list[Any]:
    return [trial.state for trial in searcher.study.trials]


def test_ends_of_trials_are_told_in_words_of_optuna() -> None:
    searcher = OptunaSearch(seed=1)
    session = opened(searcher)
    trials = [session.ask() for _ in range(6)]
    ends: list[tuple[dict[str, Any], Any]] = [
        ({"loss": 3}, "completed"),
        ({"loss": 2}, "stopped"),
        ({"loss": math.nan}, "completed"),
        ({}, "failed"),
        ({"loss": 1}, "failed"),
    ]
    for trial_id, (result, outcome) in zip(trials, ends, strict=False):
        assert trial_id is not None
        session.end(trial_id, result, outcome)
    complete, pruned, fail = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
    assert states(searcher) == [complete, pruned, pruned, fail, fail, TrialState.RUNNING]
    assert [trial.value for trial in searcher.study.trials[:3]] == [3, 2, None]
    assert searcher.study.trials[1].intermediate_values == {1: 2}


def test_several_objectives_are_told_together() -> None:
    searcher = OptunaSearch({"x": uniform(0, 1)}, ["loss", "size"], ["min", "max"], seed=1)
    session = Conversation(searcher)
    for number in range(30):
        trial_id = session.ask()
        assert trial_id is not None
        x = session.configs[trial_id]["x"]
        result = {"loss": x, "size": x} if number else {"loss": x}
        session.end(trial_id, result, "stopped" if number % 2 else "completed")
    assert states(searcher) == [TrialState.FAIL] + 29 * [TrialState.COMPLETE]
    assert [direction.name for direction in searcher.study.directions] == ["MINIMIZE", "MAXIMIZE"]
    assert len(searcher.study.best_trials) == 29


def test_points_with_results_are_not_tried() -> None:
    points = [{"x": 0.5}, {"x": 0.25}]
    searcher = OptunaSearch(seed=1, points_to_evaluate=points, evaluated_rewards=[7])
    session = opened(searcher, {"x": uniform(0, 1)})
    first = session.ask()
    assert first is not None
    assert session.configs[first] == {"x": 0.25}
    assert searcher.study.trials[0].params == {"x": 0.5}
    assert searcher.study.best_value == 7


def test_results_that_are_known_may_be_added() -> None:
    searcher = OptunaSearch({"x": uniform(0, 1)}, "loss", "min", seed=1)
    searcher.add_evaluated_point({"x": 0.5}, 3)
    searcher.add_evaluated_point({"x": 0.6}, None, error=True)
    searcher.add_evaluated_point({"x": 0.7}, None, pruned=True, intermediate_values=[5, 4])
    assert states(searcher) == [TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED]
    assert searcher.study.trials[2].intermediate_values == {0: 5, 1: 4}


@pytest.mark.parametrize(
    ("parameters", "value", "says"),
    [
        ({"x": 0.5}, 1, "has no y"),
        ({"x": 0.5, "y": 2}, 1, "y is 2, not of"),
        ({"x": 0.5, "y": 0.5}, math.nan, "result of an evaluated point is nan"),
        ({"x": 0.5, "y": 0.5}, [1, 2], "a finite number for loss"),
        ({"x": 0.5, "y": 0.5}, None, "is None"),
    ],
)
@pytest.mark.parametrize("domain", [uniform(0, 1), FloatDistribution(0, 1)])
def test_known_result_that_is_none_is_refused(
    domain: Any, parameters: dict[str, Any], value: Any, says: str
) -> None:
    searcher = OptunaSearch({"x": domain, "y": domain}, "loss", "min", seed=1)
    with pytest.raises(OptionError, match=says):
        searcher.add_evaluated_point(parameters, value)
    assert states(searcher) == []


def test_known_results_of_a_space_with_conditions_are_added() -> None:
    def define(trial: optuna.Trial) -> None:
        if trial.suggest_categorical("kind", ["sgd", "adam"]) == "sgd":
            trial.suggest_float("momentum", 0, 1)

    searcher = OptunaSearch(define, "loss", "min", seed=1)
    searcher.add_evaluated_point({"kind": "sgd", "momentum": 0.5}, 3)
    searcher.add_evaluated_point({"kind": "adam"}, None, pruned=True, intermediate_values=[2])
    assert states(searcher) == [TrialState.COMPLETE, TrialState.PRUNED]
    assert [trial.params for trial in searcher.study.trials] == [
        {"kind": "sgd", "momentum": 0.5}, {"kind": "adam"},
    ]  # fmt: skip


def test_seed_of_the_experiment_is_taken_unless_there_is_one() -> None:
    def first(seed: int | None, spec: dict[str, Any]) -> Any:
        return opened(OptunaSearch(seed=seed), **spec).searcher.ask("a")

    assert first(None, {"seed": 1}) == first(None, {"seed": 1}) == first(1, {"seed": 2})
    assert first(None, {"seed": 1}) != first(None, {"seed": 2})
    assert first(None, {}) != first(None, {})


def test_study_in_a_storage_goes_on(tmp_path: Path) -> None:
    def made() -> OptunaSearch:
        url = f"sqlite:///{tmp_path}/study.db"
        return OptunaSearch(seed=1, storage=url, study_name="mine")

    before = opened(made())
    before.run(3)
    running = before.ask()
    assert running is not None
    searcher = made()
    after = opened(searcher)
    for trial_id, config in before.configs.items():
        searcher.recall(trial_id, config)
        after.configs[trial_id] = config
        after.end(trial_id)  # The study has been told of three.
    assert states(searcher) == 4 * [TrialState.COMPLETE]
    assert len(after.run(1)) == 1
    assert len(searcher.study.trials) == 5


def test_study_is_made_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    optuna.logging.set_verbosity(optuna.logging.INFO)
    opened(OptunaSearch(seed=1)).run(2)
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
    assert capfd.readouterr().err == ""


# ------------------------------------------------------------------------------------------ window


def test_suggestion_is_that_of_optunas_own_sampler_with_the_trials_seed() -> None:
    space = {name: FloatDistribution(0, 1) for name in "abc"}
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1))
    for number in range(40):
        suggested = []
        for sampler in (SeededTPE(number, space), optuna.samplers.TPESampler(seed=number)):
            same = optuna.create_study(sampler=sampler)
            same.add_trials(study.get_trials(deepcopy=False))
            suggested.append(same.ask(space).params)
        assert suggested[0] == suggested[1]
        trial = study.ask(space)
        study.tell(trial, sum((trial.params[name] - 0.3) ** 2 for name in "abc"))


def test_study_stays_small_and_keeps_the_best() -> None:
    searcher = OptunaSearch(seed=1)
    session = opened(searcher)
    running = [session.ask() for _ in range(3)]
    losses = []
    for _ in range(MOST + 150):
        trial_id = session.ask()
        assert trial_id is not None
        session.end(trial_id)
        losses.append(bowl(session.configs[trial_id]))
        assert len(searcher.study.get_trials(deepcopy=False)) <= MOST + 3
    assert searcher.study.best_value == min(losses)
    kept = sorted(trial.value for trial in searcher.study.trials if trial.value is not None)
    assert kept[:BEST] == sorted(losses)[:BEST]
    for trial_id in running:  # They were begun in a study that is no more.
        assert trial_id is not None
        session.end(trial_id, {"loss": -1.0}, "stopped")
    assert states(searcher).count(TrialState.PRUNED) == 3
    assert {trial.params["x"] for trial in searcher.study.trials} >= {
        session.configs[str(trial_id)]["x"] for trial_id in running
    }


@pytest.mark.parametrize("begun", [False, True])
def test_study_stays_small_whatever_is_known_beforehand(begun: bool) -> None:
    searcher = OptunaSearch({"x": uniform(0, 1)}, "loss", "min", seed=1)
    if begun:
        assert searcher.ask("a")
    for number in range(2 * MOST + 7):
        searcher.add_evaluated_point({"x": number / MOST / 3}, abs(number - MOST))
    assert len(searcher.study.get_trials(deepcopy=False)) <= MOST + begun
    assert searcher.study.best_value == 0


def test_points_with_results_are_forgotten_as_trials_are() -> None:
    points = [{"x": number / MOST / 2} for number in range(2 * MOST)]
    searcher = OptunaSearch(
        {"x": uniform(0, 1)}, "loss", "min", points, evaluated_rewards=range(2 * MOST), seed=1
    )
    assert len(searcher.study.get_trials(deepcopy=False)) <= MOST
    assert searcher.study.best_value == 0


def test_point_with_a_result_costs_no_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    searcher = OptunaSearch({"x": uniform(0, 1)}, "loss", "min", seed=1)
    monkeypatch.setattr(optuna.samplers.TPESampler, "__init__", None)
    for number in range(20):
        searcher.add_evaluated_point({"x": number / 20}, number)
    assert len(searcher.study.trials) == 20


@pytest.mark.parametrize("direction", list(optuna.study.StudyDirection)[1:])
def test_window_keeps_what_tpe_takes_for_good_and_thins_the_rest(
    direction: optuna.study.StudyDirection,
) -> None:
    states = itertools.cycle([TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED])
    sign = 1 if direction.name == "MINIMIZE" else -1
    trials = []
    for number, state in zip(range(3 * MOST), states, strict=False):
        value = sign * float(number * 7919 % 1009)
        reports = {number % 5: value} if state == TrialState.PRUNED and number % 2 else {}
        trials.append(
            optuna.trial.create_trial(state=state, value=value, intermediate_values=reports)
        )
    ranks = [rank_of(trial, direction) for trial in trials]
    numbers = kept(ranks)
    assert len(numbers) == KEPT
    assert numbers == sorted(set(numbers))
    assert numbers[-NEWEST:] == list(range(3 * MOST - NEWEST, 3 * MOST))
    complete = [number for number in range(3 * MOST) if number % 3 == 0]
    best = sorted(complete, key=lambda number: number * 7919 % 1009)[:BEST]
    assert set(best) <= set(numbers)
    gaps = [later - earlier for earlier, later in itertools.pairwise(numbers[: KEPT - NEWEST])]
    assert max(gaps) < 15
    study = optuna.create_study(direction=direction)
    study.add_trials([trials[number] for number in numbers])
    assert study.best_value == sign * min(number * 7919 % 1009 for number in complete)


@pytest.mark.parametrize("ended", [MOST - 20, 2 * MOST + 33])
def test_recalled_trials_are_forgotten_as_others_are(ended: int) -> None:
    before, after = (opened(OptunaSearch(seed=1)) for _ in range(2))
    calls: list[tuple[str, Any, Any]] = []
    running: list[str] = []
    for number in range(ended):
        trial_id = before.ask()
        assert trial_id is not None
        running.append(trial_id)
        calls.append((trial_id, None, None))
        if len(running) > 5:
            trial_id = running.pop(number % 5)
            result = {} if number % 11 == 0 else {"loss": bowl(before.configs[trial_id])}
            outcome: Any = ("completed", "stopped", "failed", "completed")[number % 4]
            before.end(trial_id, dict(result), outcome)
            calls.append((trial_id, result, outcome))
    for trial_id, result, outcome in calls:
        if outcome is None:
            after.searcher.recall(trial_id, before.configs[trial_id])
            after.configs[trial_id] = before.configs[trial_id]
        else:
            after.end(trial_id, dict(result), outcome)
    for trial_id in running[:3]:
        before.end(trial_id)
        after.end(trial_id)
    assert before.run(5) == after.run(5)


def test_own_sampler_and_several_objectives_see_every_trial() -> None:
    for searcher in (
        OptunaSearch({"x": uniform(0, 1)}, "a", "min", sampler=optuna.samplers.RandomSampler(1)),
        OptunaSearch({"x": uniform(0, 1)}, ["a", "b"], ["min", "min"], seed=1),
    ):
        for number in range(MOST + 5):
            searcher.add_evaluated_point({"x": number / MOST / 2}, [0] * len(searcher.objectives))
        for number in range(3):
            config = searcher.ask(str(number))
            assert isinstance(config, dict)
            searcher.tell(seen(str(number), config, {"a": 1, "b": 2}), "completed")
        assert len(searcher.study.trials) == MOST + 8
