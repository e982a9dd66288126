"""Schedulers, stoppers and the other faces of the loop, on real actors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import weft
from weft import tune
from weft.exceptions import OptionError
from weft.tune.experiment import Experiment
from weft.tune.schedulers import ASHAScheduler, HyperBandScheduler, TrialScheduler
from weft.tune.schedulers.orders import Restart, Save, Stop
from weft.tune.schedulers.resource_changing_scheduler import (
    DistributeResources,
    ResourceChangingScheduler,
)
from weft.tune.search import BasicVariantGenerator, ConcurrencyLimiter
from weft.tune.search.optuna import OptunaSearch
from weft.tune.search.sample import uniform
from weft.tune.search.variant_generator import grid_search
from weft.tune.stopper import Stopper
from weft.tune.trainable import wrap_function

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow


class Sum(tune.Trainable):
    """Adds its rate in each step."""

    def setup(self, config: dict[str, Any]) -> None:
        self.total = 0.0
        self.rate = config["rate"]

    def step(self) -> dict[str, Any]:
        self.total += self.rate
        return {"total": self.total, "cpus": self.trial_resources.required_resources["CPU"]}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"total": self.total}

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.total = checkpoint["total"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True


def adding(config: dict[str, Any]) -> None:
    total, checkpoint = 0.0, tune.get_checkpoint()
    if checkpoint is not None:
        total = checkpoint.get_metadata()["total"]
    folder = Path(tune.get_context().get_trial_dir(), "mine")
    folder.mkdir(exist_ok=True)
    while True:
        total += config["rate"]
        mine = tune.Checkpoint(folder)
        mine.set_metadata({"total": total})
        tune.report({"total": total}, checkpoint=mine)


class Scripted(TrialScheduler):
    """Decides by a function of (trial's number, iteration)."""

    def __init__(self, decide: Any) -> None:
        self.decide = decide
        self.ids: list[str] = []

    def set_search_properties(self, metric: Any, mode: Any, **spec: Any) -> bool:
        return True

    def on_trial_add(self, tune_controller: Any, trial: Any) -> Any:
        self.ids.append(trial.trial_id)
        return ()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Any) -> Any:
        number = self.ids.index(trial.trial_id)
        return self.decide(self.ids, number, result["training_iteration"])


@pytest.fixture(scope="module", params=["workers", "inline"])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    with weft.init(num_cpus=4, local_mode=request.param == "inline"):
        yield request.param


def fit(trainable: Any, path: Path, space: dict[str, Any], **options: Any) -> tune.ResultGrid:
    stop = options.pop("stop", {"training_iteration": 4})
    return tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(metric="total", mode="max", **options),
        run_config=tune.RunConfig(storage_path=str(path), stop=stop),
    ).fit()


@pytest.mark.parametrize("trainable", [Sum, adding])
def test_trial_goes_on_from_anothers_checkpoint_with_another_configuration(
    engine: str, tmp_path: Path, trainable: Any
) -> None:
    def exploit(ids: list[str], number: int, iteration: int) -> Any:
        if number == 0 and iteration == 2:
            return [Save(ids[0])]
        if number == 1 and iteration == 1:
            return [Restart(ids[1], ids[0], {"rate": 100.0})]
        return "CONTINUE"

    first, second = fit(
        trainable, tmp_path, {"rate": grid_search([1.0, 5.0])}, scheduler=Scripted(exploit),
        max_concurrent_trials=1, stop={"training_iteration": 3},
    )  # fmt: skip
    assert list(first.metrics_dataframe["total"]) == [1, 2, 3]
    came = {Sum: [5, 102], adding: [5, 103]}[trainable]
    assert list(second.metrics_dataframe["total"])[:2] == came
    assert second.config == {"rate": 100.0}


def test_trial_goes_on_with_other_resources_from_where_it_is(engine: str, tmp_path: Path) -> None:
    def grow(ids: list[str], number: int, iteration: int) -> Any:
        return (
            [Restart(ids[0], ids[0], {"rate": 1.0}, {"CPU": 3.0})] if iteration == 2 else "CONTINUE"
        )

    (result,) = fit(Sum, tmp_path, {"rate": 1.0}, scheduler=Scripted(grow))
    assert list(result.metrics_dataframe["total"]) == [1, 2, 3, 4]
    assert list(result.metrics_dataframe["cpus"]) == [1, 1, 3, 3]


class Reserving(Sum):
    """Says what its own process holds."""

    def step(self) -> dict[str, Any]:
        own = weft.get_runtime_context().get_assigned_resources()
        return {**super().step(), "own": own.get("CPU", 0)}


@pytest.mark.parametrize(
    ("add_bundles", "bundles", "own"),
    [(False, [1], 4), (True, [1], 1), (False, [0, 1], 0), (True, [1, 1], 1)],
)
def test_trial_that_grows_holds_its_first_bundle_and_leaves_the_rest_to_what_it_starts(
    engine: str, tmp_path: Path, add_bundles: bool, bundles: list[float], own: float
) -> None:
    factory = tune.PlacementGroupFactory([{"CPU": cpus} for cpus in bundles])
    scheduler = ResourceChangingScheduler(None, DistributeResources(add_bundles))
    (result,) = fit(
        tune.with_resources(Reserving, factory), tmp_path, {"rate": 1.0}, scheduler=scheduler
    )
    assert list(result.metrics_dataframe["cpus"]) == [sum(bundles), 4, 4, 4]
    if engine == "workers":  # Without processes nothing holds anything.
        assert list(result.metrics_dataframe["own"]) == [bundles[0], own, own, own]


def test_bundles_that_one_machine_cannot_spread_are_refused(engine: str, tmp_path: Path) -> None:
    spread = tune.PlacementGroupFactory([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    with pytest.raises(tune.TuneError, match=r"2 bundles on as many nodes.*there are 1"):
        fit(tune.with_resources(Sum, spread), tmp_path, {"rate": 1.0})
    varying = tune.with_resources(Sum, lambda config: spread)
    with pytest.raises(tune.TuneError, match="2 bundles on as many nodes"):
        fit(varying, tmp_path, {"rate": 1.0})


def test_trial_in_the_middle_of_a_step_is_stopped_by_another(engine: str, tmp_path: Path) -> None:
    def stop_others(ids: list[str], number: int, iteration: int) -> Any:
        return [Stop(other) for other in ids if other != ids[number]] if iteration == 3 else ()

    results = fit(
        Sum, tmp_path, {"rate": grid_search([1.0, 2.0, 3.0])}, scheduler=Scripted(stop_others)
    )
    assert results.num_terminated == 3
    assert max(r.metrics["training_iteration"] for r in results if r.metrics) == 4


def test_hyperband_pauses_and_resumes_until_all_have_ended(engine: str, tmp_path: Path) -> None:
    results = fit(
        Sum, tmp_path, {"rate": uniform(0, 1)}, num_samples=9,
        scheduler=HyperBandScheduler(max_t=9), stop={"training_iteration": 9},
    )  # fmt: skip
    assert results.num_terminated == 9
    assert max(result.metrics["training_iteration"] for result in results) == 9
    for result in results:
        iterations = list(result.metrics_dataframe["training_iteration"])
        assert iterations == list(range(1, len(iterations) + 1)), "a resumed trial repeats nothing"


class AfterFive(Stopper):
    """Ends everything after five results."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, trial_id: str, result: Any) -> bool:
        self.count += 1
        return False

    def stop_all(self) -> bool:
        return self.count >= 5


def test_stopper_ends_the_experiment(engine: str, tmp_path: Path) -> None:
    results = fit(Sum, tmp_path, {"rate": 1.0}, num_samples=-1, stop=AfterFive())
    assert results.num_terminated == len(results)
    assert sum(len(result.metrics_dataframe) for result in results if result.metrics) == 5


def test_run_returns_an_analysis(engine: str, tmp_path: Path) -> None:
    analysis = tune.run(
        Sum, config={"rate": grid_search([1.0, 3.0, 2.0])}, metric="total", mode="max",
        stop={"training_iteration": 2}, storage_path=str(tmp_path), resources_per_trial={"cpu": 2},
        checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1), max_concurrent_trials=1,
    )  # fmt: skip
    assert analysis.best_config == {"rate": 3.0}
    assert analysis.best_result["total"] == 6.0
    best = analysis.best_trial
    assert best.metric_analysis["total"] == {"last": 6.0, "max": 6.0, "min": 3.0, "avg": 4.5}
    assert analysis.best_checkpoint == analysis.get_last_checkpoint() == best.checkpoint
    assert sorted(analysis.dataframe()["total"]) == [2.0, 4.0, 6.0]
    assert list(analysis.best_dataframe["total"]) == [3.0, 6.0]
    assert set(analysis.results_df["config/rate"]) == {1.0, 2.0, 3.0}
    assert len(analysis.trial_dataframes) == len(analysis.get_all_configs()) == 3
    assert analysis.get_best_config("total", "min") == {"rate": 1.0}
    read = tune.ExperimentAnalysis(analysis.experiment_path)
    assert read.best_config == analysis.best_config
    assert read.results == analysis.results
    (restored,) = tune.run(
        Sum, config={"rate": 1.0}, restore=best.checkpoint.path, stop={"training_iteration": 3},
        storage_path=str(tmp_path),
    ).trials  # fmt: skip
    assert restored.last_result["total"] == 7.0


def test_run_raises_for_a_trial_that_failed(engine: str, tmp_path: Path) -> None:
    def failing(config: dict[str, Any]) -> None:
        raise KeyError("why")

    with pytest.raises(tune.TuneError, match="1 of 1 trials failed") as caught:
        tune.run(failing, storage_path=str(tmp_path))
    assert isinstance(caught.value.__cause__, KeyError)
    analysis = tune.run(failing, storage_path=str(tmp_path), raise_on_failed_trial=False)
    assert analysis.trials[0].status == "ERROR"
    assert isinstance(analysis.trials[0].get_error(), KeyError)


def test_run_goes_on_with_a_named_experiment(engine: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "name": "one", "storage_path": str(tmp_path), "stop": {"training_iteration": 1},
        "config": {"rate": 1.0},
    }  # fmt: skip
    with pytest.raises(tune.TuneError, match="no experiment 'one' to continue"):
        tune.run(Sum, resume=True, **options)
    tune.run(Sum, **options)
    assert len(tune.run(Sum, resume="AUTO+ERRORED", num_samples=2, **options).trials) == 2
    assert len(tune.run(Sum, resume=False, **options).trials) == 1
    with pytest.raises(OptionError, match="resume='SOMEHOW'"):
        tune.run(Sum, resume="SOMEHOW", **options)


def test_several_experiments_run_one_after_the_other(
    engine: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trials = tune.run_experiments(
        {
            name: {"run": Sum, "config": {"rate": rate}, "stop": {"training_iteration": 1},
                   "storage_path": str(tmp_path)}
            for name, rate in (("a", 1.0), ("b", 2.0))
        },
        concurrent=True,
    )  # fmt: skip
    assert [trial.last_result["total"] for trial in trials] == [1.0, 2.0]
    assert "experiments run one after the other" in caplog.text
    experiment = Experiment("c", Sum, storage_path=str(tmp_path), config={"rate": 1.0})
    assert experiment.path == experiment.local_path == str(tmp_path / "c")
    assert experiment.public_spec["run"] == experiment.run_identifier == "Sum"


def test_function_is_a_class_where_one_is_wanted(tmp_path: Path) -> None:
    def objective(config: dict[str, Any]) -> None:
        for step in range(2):
            tune.report({"total": config["x"] + step})

    trainable = wrap_function(objective)({"x": 1})
    assert trainable.train()["total"] == 1
    assert trainable.train()["total"] == 2
    assert trainable.train()["done"]
    trainable.stop()


def test_class_works_outside_of_an_experiment(tmp_path: Path) -> None:
    class Free(Sum):
        @property
        def trial_resources(self) -> tune.PlacementGroupFactory:
            return tune.PlacementGroupFactory([{"CPU": 1.0}])

    free = Free({"rate": 2.0})
    assert [result["total"] for result in free.train_buffered(10.0, 3)] == [2, 4, 6]
    checkpoint = free.save(str(tmp_path / "saved"))
    again = Free({"rate": 1.0})
    again.restore(checkpoint)
    assert again.iteration == again.training_iteration == 3
    assert again.train()["total"] == 7
    assert again.get_state()["iteration"] == 4
    assert not again.is_actor()


# ------------------------------------------------------------------ what the user gave


def test_each_experiment_begins_from_what_the_user_gave(engine: str, tmp_path: Path) -> None:
    searcher = ConcurrencyLimiter(
        OptunaSearch(seed=3, points_to_evaluate=[{"rate": 0.25}]), max_concurrent=1
    )
    scheduler = HyperBandScheduler(max_t=3)
    stopper = AfterFive()

    def configs(**options: Any) -> list[Any]:
        results = fit(
            Sum, tmp_path, {"rate": uniform(0, 1)}, num_samples=6, max_concurrent_trials=1,
            **options,
        )  # fmt: skip
        return [(r.config, r.metrics["training_iteration"]) for r in results if r.metrics]

    first = configs(search_alg=searcher, scheduler=scheduler)
    assert len(first) == 6
    assert first[0][0] == {"rate": 0.25}
    assert configs(search_alg=searcher, scheduler=scheduler) == first
    assert len(configs(stop=stopper)) == len(configs(stop=stopper)) > 0
    assert stopper.count == 0


def test_what_cannot_be_copied_is_refused(engine: str, tmp_path: Path) -> None:
    scheduler = Scripted(None)
    scheduler.__dict__["module"] = weft
    with pytest.raises(OptionError, match=r"Scripted cannot be copied .*module"):
        fit(Sum, tmp_path, {"rate": 1.0}, scheduler=scheduler)


def test_searcher_tells_after_an_experiment_what_it_learned_there(
    engine: str, tmp_path: Path
) -> None:
    searcher = OptunaSearch(seed=3)
    fit(
        Sum, tmp_path, {"rate": uniform(0, 1)}, num_samples=12, max_concurrent_trials=1,
        search_alg=ConcurrencyLimiter(searcher, max_concurrent=4),
    )  # fmt: skip
    assert len(searcher.study.trials) == 12
    searcher.save(str(tmp_path / "state"))
    other = OptunaSearch(seed=4)
    other.restore(str(tmp_path / "state"))
    assert len(other.study.trials) == 12
    assert other.study.best_value == searcher.study.best_value
    searcher.restore(str(tmp_path / "state"))
    assert searcher.suggest("next") == other.suggest("next")


def test_tuner_may_be_fitted_again_and_goes_on(engine: str, tmp_path: Path) -> None:
    fails = tmp_path / "fails"
    fails.touch()

    class Failing(Sum):
        def step(self) -> dict[str, Any]:
            if self.config["rate"] == 3.0 and fails.exists():
                raise ValueError("once")
            return super().step()

    tuner = tune.Tuner(
        Failing,
        param_space={"rate": grid_search([1.0, 2.0, 3.0, 4.0, 5.0])},
        tune_config=tune.TuneConfig(
            metric="total", mode="max", max_concurrent_trials=2,
            scheduler=ASHAScheduler(max_t=4, reduction_factor=2),
        ),
        run_config=tune.RunConfig(
            name="again", storage_path=str(tmp_path),
            failure_config=tune.FailureConfig(fail_fast=True),
        ),
    )  # fmt: skip
    halted = tuner.fit()
    assert halted.num_errors == 1
    with pytest.raises(tune.TuneError, match="no trial runs here"):
        tune.get_context()
    assert len(halted) < 5
    fails.unlink()
    results = tuner.fit()
    assert [result.config["rate"] for result in results] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert (results.num_errors, results.num_terminated) == (1, 4)


def test_searcher_does_not_count_paused_trials(engine: str, tmp_path: Path) -> None:
    # A bracket of nine: of those that are as far as it takes one in three, and of these one.
    results = fit(
        Sum, tmp_path, {"rate": uniform(0, 1)}, num_samples=9,
        search_alg=ConcurrencyLimiter(BasicVariantGenerator(random_state=1), max_concurrent=2),
        scheduler=HyperBandScheduler(max_t=9), stop={"training_iteration": 9},
    )  # fmt: skip
    came_to = sorted(result.metrics["training_iteration"] for result in results if result.metrics)
    assert came_to == [1] * 6 + [3] * 2 + [9]


def test_trial_of_an_earlier_run_that_never_fits_is_an_error(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> tune.ResultGrid:
        return tune.Tuner(
            tune.with_resources(Dying, lambda config: {"CPU": config["cpus"]}),
            param_space={"cpus": grid_search([3, 1])},
            run_config=tune.RunConfig(
                name="large", storage_path=str(tmp_path),
                failure_config=tune.FailureConfig(fail_fast=True),
            ),
        ).fit()  # fmt: skip

    assert run().num_errors == 1
    monkeypatch.setattr(weft, "cluster_resources", lambda: {"CPU": 2.0})
    with pytest.raises(tune.TuneError, match="needs CPU=3, and there is CPU=2: CPU=1 more"):
        run()


class Dying(tune.Trainable):
    """Fails where it has one CPU."""

    def step(self) -> dict[str, Any]:
        if self.config["cpus"] == 1:
            raise ValueError
        return {"total": 0}


def test_time_budget_is_what_earlier_runs_have_left(engine: str, tmp_path: Path) -> None:
    def run(trainable: Any) -> tune.ResultGrid:
        return tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(num_samples=3, time_budget_s=1000),
            run_config=tune.RunConfig(
                name="budget", storage_path=str(tmp_path),
                failure_config=tune.FailureConfig(fail_fast=True),
            ),
        ).fit()  # fmt: skip

    def failing(config: dict[str, Any]) -> None:
        raise ValueError

    assert run(failing).num_errors == 1
    journal = tmp_path / "budget" / "journal.jsonl"
    *_, last = map(msgspec.json.decode, journal.read_text().splitlines())
    assert last["event"]["type"] == "spent"
    assert 0 < last["event"]["seconds"] < 500
    last["event"]["seconds"] += 1000
    with journal.open("ab") as file:
        file.write(msgspec.json.encode(last) + b"\n")
    results = run(lambda config: {"loss": 1})
    assert sum(result.metrics is not None for result in results) == 0
