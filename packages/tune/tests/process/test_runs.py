from __future__ import annotations

import errno
import functools
import gc
import math
import os
import re
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import psutil
import pytest
from fsspec.implementations.local import LocalFileSystem

import weft
from weft import tune
from weft.exceptions import OptionError, PicklingError
from weft.tune import _journal
from weft.tune._journal import FileJournal
from weft.tune._storage import storage_at
from weft.tune.error import StorageError
from weft.tune.experiment import Experiment
from weft.tune.schedulers import TrialScheduler
from weft.tune.search.sample import choice, uniform
from weft.tune.search.variant_generator import grid_search
from weft.util.placement_group import placement_group_table, remove_placement_group

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("session")]


class Runs:
    """Makes experiments in a directory of the test's own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def tuner(
        self, trainable: Any, space: dict[str, Any] | None = None, **options: Any
    ) -> tune.Tuner:
        run_options = {
            name: options.pop(name)
            for name in list(options)
            if name in tune.RunConfig.__dataclass_fields__
        }
        config = {"metric": "loss", "mode": "min", "num_samples": 1, **options}
        return tune.Tuner(
            trainable,
            param_space=space or {},
            tune_config=tune.TuneConfig(**config),
            run_config=tune.RunConfig(storage_path=str(self.path), **run_options),
        )

    def fit(
        self, trainable: Any, space: dict[str, Any] | None = None, **options: Any
    ) -> tune.ResultGrid:
        return self.tuner(trainable, space, **options).fit()


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


class Counter(tune.Trainable):
    """Counts its steps from `start`."""

    def setup(self, config: dict[str, Any]) -> None:
        self.count = config.get("start", 0)
        self.log("setup")

    def log(self, line: str) -> None:
        if "log" in self.config:
            with Path(self.config["log"]).open("a") as file:
                file.write(line + "\n")

    def step(self) -> dict[str, Any]:
        self.count += 1
        if self.count == self.config.get("dies_at") and not Path(self.config["mark"]).exists():
            Path(self.config["mark"]).touch()
            os._exit(3)
        return {"loss": self.count, "done": self.count >= self.config.get("steps", 4)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        Path(checkpoint_dir, "count").write_text(str(self.count))

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.count = int(Path(checkpoint, "count").read_text())
        self.log(f"load {self.count}")

    def log_result(self, result: dict[str, Any]) -> None:
        assert result["training_iteration"] == self.iteration

    def cleanup(self) -> None:
        self.log("cleanup")


# ------------------------------------------------------------------ trainables


def test_function_reports_and_the_best_is_found(runs: Runs) -> None:
    def objective(config: dict[str, Any]) -> None:
        for step in range(3):
            tune.report({"loss": config["x"] + step})

    results = runs.fit(objective, {"x": grid_search([3, 1, 2])})
    assert [result.metrics["loss"] for result in results] == [5, 3, 4]
    best = results.get_best_result()
    assert best.config == {"x": 1}
    assert best.metrics["training_iteration"] == 3
    assert list(best.metrics_dataframe["loss"]) == [1, 2, 3]
    assert (len(results), results.num_terminated, results.errors) == (3, 3, [])


@pytest.mark.parametrize("kind", ["returns", "number", "yields", "callable", "partial"])
def test_function_may_return_or_yield_its_results(runs: Runs, kind: str) -> None:
    def returns(config: dict[str, Any]) -> dict[str, float]:
        return {"loss": config["x"]}

    def number(config: dict[str, Any]) -> float:
        return config["x"]

    def yields(config: dict[str, Any]) -> Any:
        yield {"loss": config["x"] + 1}
        yield {"loss": config["x"]}

    class Callable:
        def __call__(self, config: dict[str, Any]) -> float:
            return config["x"]

    def two(factor: int, config: dict[str, Any]) -> float:
        return config["x"] * factor

    trainable = {
        "returns": returns, "number": number, "yields": yields, "callable": Callable(),
        "partial": functools.partial(two, 1),
    }[kind]  # fmt: skip
    (result,) = runs.fit(trainable, {"x": 7})
    assert result.metrics["loss"] == 7


def test_class_is_set_up_stepped_saved_and_cleaned_up(runs: Runs, tmp_path: Path) -> None:
    log = tmp_path / "log"
    (result,) = runs.fit(
        Counter, {"log": str(log)},
        checkpoint_config=tune.CheckpointConfig(num_to_keep=1, checkpoint_frequency=2),
    )  # fmt: skip
    assert log.read_text().split() == ["setup", "cleanup"]
    assert Path(result.checkpoint.path, "count").read_text() == "4"
    assert [Path(c.path).name for c, _ in result.best_checkpoints] == [
        Path(result.checkpoint.path).name
    ]
    assert len([d for d in Path(result.path).iterdir() if d.name.startswith("checkpoint")]) == 1


def test_class_that_can_be_reset_is_used_again(runs: Runs, tmp_path: Path) -> None:
    class Resettable(Counter):
        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.count = new_config["start"]
            self.log("reset")
            return True

    log = tmp_path / "log"
    runs.fit(
        Resettable, {"log": str(log), "start": grid_search([0, 1, 2])}, max_concurrent_trials=1
    )
    assert log.read_text().split() == ["setup", "reset", "reset", "cleanup"]


def test_processes_are_reused_unless_the_user_does_not_want_it(runs: Runs) -> None:
    def objective(config: dict[str, Any]) -> dict[str, int]:
        return {"loss": 0}

    def pids(**options: Any) -> int:
        results = runs.fit(objective, num_samples=4, max_concurrent_trials=1, **options)
        return len({result.metrics["pid"] for result in results})

    assert pids() == 1
    assert pids(reuse_actors=False) == 4


def test_parameters_are_given_to_functions_and_classes(runs: Runs) -> None:
    data = np.arange(100_000)

    def objective(config: dict[str, Any], data: Any) -> float:
        return float(data[config["x"]])

    class Summing(tune.Trainable):
        def setup(self, config: dict[str, Any], data: Any) -> None:
            self.total = int(data.sum())

        def step(self) -> dict[str, Any]:
            return {"loss": self.total, "done": True}

    (result,) = runs.fit(tune.with_parameters(objective, data=data), {"x": 99_999})
    assert result.metrics["loss"] == 99_999
    (result,) = runs.fit(tune.with_parameters(Summing, data=data))
    assert result.metrics["loss"] == int(data.sum())


def test_trial_knows_itself(runs: Runs) -> None:
    def objective(config: dict[str, Any]) -> dict[str, Any]:
        context = tune.get_context()
        assert tune.get_checkpoint() is None
        return {
            "loss": 0, "id": context.get_trial_id(), "name": context.get_trial_name(),
            "dir": context.get_trial_dir(), "experiment": context.get_experiment_name(),
            "resources": context.get_trial_resources().bundles,
        }  # fmt: skip

    (result,) = runs.fit(
        tune.with_resources(objective, {"cpu": 2}), name="known",
        trial_name_creator=lambda trial: f"mine-{trial.trial_id}",
    )  # fmt: skip
    found = result.metrics
    assert found["id"] == found["trial_id"]
    assert found["name"] == f"mine-{found['trial_id']}"
    assert found["dir"] == result.path == str(runs.path / "known" / found["name"])
    assert (found["experiment"], found["resources"]) == ("known", [{"CPU": 2.0}])


@pytest.mark.parametrize("ask", [tune.get_context, tune.get_checkpoint, lambda: tune.report({})])
def test_asking_for_the_trial_outside_of_one_is_an_error(ask: Any) -> None:
    with pytest.raises(tune.TuneError, match="no trial runs here"):
        ask()


def test_report_from_another_thread_of_the_trial_counts(runs: Runs) -> None:
    def objective(config: dict[str, Any]) -> None:
        thread = threading.Thread(target=lambda: tune.report({"loss": 3}))
        thread.start()
        thread.join()
        tune.report({"loss": 2})

    (result,) = runs.fit(objective)
    assert list(result.metrics_dataframe["loss"]) == [3, 2]


def test_checkpoints_are_stored_with_their_results(runs: Runs) -> None:
    def objective(config: dict[str, Any]) -> None:
        for step in range(4):
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, "step").write_text(str(step))
                tune.report(
                    {"loss": abs(step - 1)}, checkpoint=tune.Checkpoint.from_directory(folder)
                )

    (result,) = runs.fit(
        objective,
        checkpoint_config=tune.CheckpointConfig(
            num_to_keep=1, checkpoint_score_attribute="loss", checkpoint_score_order="min"
        ),
    )
    # The best, and the last.
    assert [metrics["loss"] for _, metrics in result.best_checkpoints] == [0, 2]
    with result.get_best_checkpoint("loss", "min").as_directory() as folder:
        assert Path(folder, "step").read_text() == "1"


def test_output_of_a_trial_goes_into_its_files(runs: Runs) -> None:
    def objective(config: dict[str, Any]) -> float:
        print("hello", config["x"])
        sys.stderr.write("oh\n")
        return 0.0

    results = runs.fit(objective, {"x": grid_search([1, 2])}, log_to_file=True)
    assert [Path(r.path, "stdout").read_text() for r in results] == ["hello 1\n", "hello 2\n"]
    assert Path(results[0].path, "stderr").read_text() == "oh\n"


# ------------------------------------------------------------------ who runs, and how long


def test_trials_run_at_once_as_resources_allow(runs: Runs) -> None:
    def objective(config: dict[str, Any]) -> dict[str, Any]:
        began = time.time()
        time.sleep(0.3)
        return {"loss": 0, "began": began, "ended": time.time()}

    def most_at_once(trainable: Any, **options: Any) -> int:
        spans = [(r.metrics["began"], r.metrics["ended"]) for r in
                 runs.fit(trainable, num_samples=4, **options)]  # fmt: skip
        return max(sum(a <= at < b for a, b in spans) for at, _ in spans)

    assert most_at_once(objective) == 4
    assert most_at_once(tune.with_resources(objective, {"CPU": 2})) == 2
    assert most_at_once(objective, max_concurrent_trials=1) == 1


def test_request_that_can_never_be_met_is_an_error_at_once(runs: Runs) -> None:
    def objective(config: dict[str, Any]) -> float:
        return 0.0

    with pytest.raises(tune.TuneError, match=r"CPU: 96.* more is needed"):
        runs.fit(tune.with_resources(objective, {"CPU": 100}))
    with pytest.raises(tune.TuneError, match="GPU=1 more is needed"):
        runs.fit(tune.with_resources(objective, lambda config: {"GPU": config["g"]}), {"g": 1})


def test_first_bundle_is_the_trials_own_and_the_rest_is_for_what_it_starts(runs: Runs) -> None:
    def objective(config: dict[str, Any]) -> dict[str, Any]:
        return {"loss": weft.get(weft.remote(lambda: 5).remote())}

    bundles = tune.PlacementGroupFactory([{"CPU": 1}, {"CPU": 1}])
    results = runs.fit(tune.with_resources(objective, bundles), num_samples=4)
    assert [result.metrics["loss"] for result in results] == [5] * 4


@pytest.mark.parametrize("first", [{"CPU": 0.5}, {}])
def test_trial_with_several_bundles_runs_in_a_placement_group(
    runs: Runs, first: dict[str, float]
) -> None:
    def group_here() -> str | None:
        return weft.get_runtime_context().get_placement_group_id()

    def objective(config: dict[str, Any]) -> dict[str, Any]:
        inside, outside = weft.remote(group_here), weft.remote(group_here)
        outside = outside.options(scheduling_strategy="DEFAULT", num_cpus=0)
        return {
            "loss": 1,
            "own": group_here(),
            "inside": weft.get(inside.remote()),
            "outside": weft.get(outside.remote()),
        }

    bundles = tune.PlacementGroupFactory([first, {"CPU": 1}], strategy="STRICT_PACK")
    results = runs.fit(tune.with_resources(objective, bundles), num_samples=3)
    for result in results:
        assert result.metrics["own"] is not None
        assert result.metrics["inside"] == result.metrics["own"]
        assert result.metrics["outside"] is None
    table = placement_group_table()
    own = {result.metrics["own"] for result in results}
    assert {table[group]["strategy"] for group in own} == {"STRICT_PACK"}
    until = time.monotonic() + 30
    while any(row["state"] != "REMOVED" for row in placement_group_table().values()):
        assert time.monotonic() < until


def test_factory_makes_the_group_that_it_describes(runs: Runs) -> None:
    group = tune.PlacementGroupFactory([{}, {"CPU": 1}, {"CPU": 0.5}], "SPREAD")(name="mine")
    assert group.wait(30)
    assert group.bundle_specs == [{"CPU": 1}, {"CPU": 0.5}]
    assert placement_group_table(group)["strategy"] == "SPREAD"
    remove_placement_group(group)


def endless(config: dict[str, Any]) -> None:
    step = 0
    while True:
        step += 1
        time.sleep(0.01)
        tune.report({"loss": step})


def test_stop_ends_trials_by_values_and_by_functions(runs: Runs) -> None:
    (result,) = runs.fit(endless, stop={"training_iteration": 3})
    assert result.metrics["loss"] == 3
    (result,) = runs.fit(endless, stop=lambda trial_id, result: result["loss"] >= 2)
    assert result.metrics["loss"] == 2


def test_time_budget_ends_the_experiment(runs: Runs) -> None:
    began = time.monotonic()
    results = runs.fit(endless, num_samples=-1, time_budget_s=1.0)
    assert time.monotonic() - began < 5
    assert len(results) == results.num_terminated == 4
    assert not results.errors


def test_trial_ends_with_its_finally_blocks_when_it_is_stopped(runs: Runs, tmp_path: Path) -> None:
    def objective(config: dict[str, Any]) -> None:
        try:
            while True:
                tune.report({"loss": 1})
        finally:
            Path(config["mark"]).touch()

    runs.fit(objective, {"mark": str(tmp_path / "mark")}, stop={"training_iteration": 2})
    assert (tmp_path / "mark").exists()


class Pausing(TrialScheduler):
    """Pauses each trial after its second result; resumes when nothing runs."""

    def set_search_properties(self, metric: Any, mode: Any, **spec: Any) -> bool:
        return True

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Any) -> Any:
        return "PAUSE" if result["training_iteration"] == 2 else "CONTINUE"


def test_paused_trial_goes_on_from_where_it_was(runs: Runs, tmp_path: Path) -> None:
    log = tmp_path / "log"
    results = runs.fit(
        Counter, {"log": str(log), "start": grid_search([0, 0])}, scheduler=Pausing(),
        max_concurrent_trials=1,
    )  # fmt: skip
    assert [list(result.metrics_dataframe["loss"]) for result in results] == [[1, 2, 3, 4]] * 2
    assert log.read_text().count("load 2") == 2


def test_experiment_leaves_no_process_thread_or_descriptor(runs: Runs) -> None:
    def objective(config: dict[str, Any]) -> float:
        return 0.0

    runs.fit(objective, num_samples=8)
    runs.fit(endless, num_samples=4, stop={"training_iteration": 2})
    gc.collect()
    assert not any(str(runs.path) in file.path for file in psutil.Process().open_files())
    assert not any(thread.name.startswith("weft-trial") for thread in threading.enumerate())
    free = weft.available_resources()
    while free.get("CPU") != 4.0:  # a killed process is gone a moment later
        free = weft.available_resources()


def test_trials_directories_are_called_as_the_user_says(runs: Runs) -> None:
    def objective(config: dict[str, Any]) -> float:
        return 0.0

    (result,) = runs.fit(
        objective, {"x": 3}, trial_dirname_creator=lambda trial: f"x{trial.config['x']}"
    )
    assert Path(result.path).name == "x3"
    with pytest.raises(tune.TuneError, match="a directory's name has no slash"):
        runs.fit(objective, trial_dirname_creator=lambda trial: "a/b")


# ------------------------------------------------------------------ failures


def test_trial_that_raises_has_failed_and_the_others_go_on(runs: Runs) -> None:
    def objective(config: dict[str, Any]) -> float:
        if config["x"] == 1:
            raise KeyError("why")
        return config["x"]

    results = runs.fit(objective, {"x": grid_search([0, 1, 2])})
    (error,) = results.errors
    assert isinstance(error, KeyError)
    assert 'raise KeyError("why")' in error.__notes__[0]
    assert "weft/tune" not in error.__notes__[0]
    assert results[1].error is not None
    assert results.num_terminated == 2


def test_best_of_none_is_an_error_that_says_why_trials_failed(runs: Runs) -> None:
    def objective(config: dict[str, Any]) -> None:
        if config["x"] == 0:
            tune.report({"lss": 1})
        raise [KeyError("why"), ValueError("two\nlines")][config["x"] % 2]

    results = runs.fit(
        objective, {"x": grid_search([1, 2, 3])}, log_to_file=("out", "err"), metric=None, mode=None
    )
    with pytest.raises(tune.TuneError) as raised:
        results.get_best_result("loss", "min")
    message = str(raised.value)
    first, second = (Path(result.path) for result in list(results)[:2])
    assert "no trial has a finite value of 'loss'; 3 of 3 trials failed: " in message
    assert f"ValueError: two (trial {first.name}, log {first / 'err'}); KeyError" in message
    assert f"(trial {second.name}, log {second / 'err'})" in message
    assert message.endswith("; none has reported anything")
    assert "\n" not in message
    assert (first / "err").exists()
    results = runs.fit(objective, {"x": grid_search([0])}, metric=None, mode=None)
    with pytest.raises(tune.TuneError, match=r"1 of 1 trials failed: KeyError.*reported .*lss"):
        results.get_best_result("loss", "min")
    read = tune.ExperimentAnalysis(
        results.experiment_path, default_metric="loss", default_mode="min"
    )
    with pytest.raises(tune.TuneError, match="1 of 1 trials failed: KeyError"):
        _ = read.best_config


def test_error_that_does_not_travel_is_told_in_words(runs: Runs) -> None:
    def objective(config: dict[str, Any]) -> None:
        error = ValueError("held")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error

    (error,) = runs.fit(objective).errors
    assert str(error) == "ValueError: held"


@pytest.mark.parametrize(
    ("leave", "message"),
    [
        (lambda: sys.exit(4), r"sys\.exit\(4\)"),
        (lambda: os._exit(5), "exited with code 5"),
        (lambda: os.kill(os.getpid(), 9), "SIGKILL"),
    ],
)
def test_trial_that_leaves_its_process_has_failed(runs: Runs, leave: Any, message: str) -> None:
    def objective(config: dict[str, Any]) -> float:
        if config["x"]:
            leave()
        return 0.0

    results = runs.fit(objective, {"x": grid_search([0, 1, 0])})
    (error,) = results.errors
    assert re.search(message, str(error))
    assert results.num_terminated == 2


def test_trial_whose_process_dies_is_tried_again_from_its_checkpoint(
    runs: Runs, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    (result,) = runs.fit(
        Counter, {"log": str(log), "dies_at": 4, "mark": str(tmp_path / "died"), "steps": 5},
        checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=2),
        failure_config=tune.FailureConfig(max_failures=1),
    )  # fmt: skip
    assert list(result.metrics_dataframe["loss"]) == [1, 2, 3, 3, 4, 5]
    assert list(result.metrics_dataframe["training_iteration"]) == [1, 2, 3, 3, 4, 5]
    assert "load 2" in log.read_text()


def test_trial_that_hangs_is_killed_and_has_failed(runs: Runs) -> None:
    def objective(config: dict[str, Any]) -> float:
        if config["hangs"]:
            time.sleep(600)
        return 0.0

    results = runs.fit(
        objective, {"hangs": grid_search([True, False])},
        failure_config=tune.FailureConfig(trial_timeout_s=1.0),
    )  # fmt: skip
    assert "no result within 1 s" in str(results.errors[0])
    assert isinstance(results.errors[0], TimeoutError)
    assert results.num_terminated == 1


def test_fail_fast_ends_the_experiment_which_can_be_continued(runs: Runs, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    def objective(config: dict[str, Any]) -> float:
        if config["x"] == 0 and not mark.exists():
            raise ValueError("first")
        while not mark.exists():
            time.sleep(0.01)
        return 0.0

    options: dict[str, Any] = {
        "name": "fast", "failure_config": tune.FailureConfig(fail_fast=True),
        "max_concurrent_trials": 2,
    }  # fmt: skip
    results = runs.fit(objective, {"x": grid_search([0, 1, 2])}, **options)
    assert (results.num_errors, results.num_terminated) == (1, 0)
    mark.touch()
    results = tune.Tuner.restore(str(runs.path / "fast"), objective, restart_errored=True).fit()
    assert (results.num_errors, results.num_terminated) == (0, 3)


def test_fail_fast_may_raise_the_trials_error(runs: Runs) -> None:
    def objective(config: dict[str, Any]) -> float:
        raise ZeroDivisionError("first")

    with pytest.raises(ZeroDivisionError, match="first"):
        runs.fit(objective, failure_config=tune.FailureConfig(fail_fast="raise"))


# ------------------------------------------------------------------ metrics


def test_metric_that_is_missing_is_an_error_that_names_those_reported(runs: Runs) -> None:
    def objective(config: dict[str, Any]) -> dict[str, int]:
        return {"los": 1, "accuracy": 2}

    with pytest.raises(tune.TuneError, match=r"'loss' is not in the first result.*los, accuracy"):
        runs.fit(objective)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_value_that_is_not_finite_is_kept_and_is_never_best(runs: Runs, value: float) -> None:
    def objective(config: dict[str, Any]) -> float:
        return config["x"]

    results = runs.fit(objective, {"x": grid_search([value, 5.0])})
    found = results[0].metrics["loss"]
    assert found == value or (math.isnan(found) and math.isnan(value))
    assert results.get_best_result().metrics["loss"] == 5.0


def test_objective_that_is_no_number_fails_its_trial(runs: Runs) -> None:
    def objective(config: dict[str, Any]) -> dict[str, Any]:
        return {"loss": "low"}

    (error,) = runs.fit(objective).errors
    assert isinstance(error, TypeError)
    assert "metric 'loss' is 'low' (str)" in str(error)


def test_numbers_of_numpy_are_numbers_and_nested_metrics_have_paths(runs: Runs) -> None:
    def objective(config: dict[str, Any]) -> dict[str, Any]:
        return {"eval": {"loss": np.float32(0.5), "n": np.int64(3)}}

    (result,) = results = runs.fit(objective, metric="eval/loss")
    assert result.metrics["eval"] == {"loss": 0.5, "n": 3}
    assert type(result.metrics["eval"]["n"]) is int
    assert results.get_best_result().metrics["eval"]["loss"] == 0.5


# ------------------------------------------------------------------ bad input


def test_trainable_that_cannot_be_sent_is_refused_with_the_path_to_the_object(runs: Runs) -> None:
    lock = threading.Lock()

    def objective(config: dict[str, Any]) -> None:
        lock.acquire()

    with pytest.raises(PicklingError, match=r"objective.*lock"):
        runs.fit(objective)
    assert not any(runs.path.iterdir())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tune.TuneConfig(metric="loss", mode="mni"), "give 'min' or 'max'"),
        (lambda: tune.TuneConfig(mode="min"), "mode='min' without a metric"),
        (lambda: tune.TuneConfig(metric=["a", "b"], mode=["min"]), "a mode for each metric"),
        (lambda: tune.TuneConfig(num_samples=0), "num_samples=0"),
        (lambda: tune.TuneConfig(max_concurrent_trials=-1), "max_concurrent_trials=-1"),
        (lambda: tune.TuneConfig(time_budget_s=0), "time_budget_s=0"),
        (lambda: tune.FailureConfig(max_failures=-2), "max_failures=-2"),
        (lambda: tune.FailureConfig(fail_fast="yes"), "fail_fast='yes'"),
        (lambda: tune.FailureConfig(max_failures=1, fail_fast=True), "give one"),
        (lambda: tune.FailureConfig(trial_timeout_s=0), "trial_timeout_s=0"),
        (lambda: tune.CheckpointConfig(num_to_keep=0), "num_to_keep=0"),
        (lambda: tune.CheckpointConfig(checkpoint_score_order="up"), "give 'max' or 'min'"),
        (lambda: tune.CheckpointConfig(checkpoint_score_order="min"), "give both"),
        (lambda: tune.CheckpointConfig(checkpoint_frequency=-1), "checkpoint_frequency=-1"),
        (lambda: tune.RunConfig(local_dir="a"), "RunConfig takes no local_dir: give storage_path"),
        (lambda: Experiment("a", endless, local_dir="a"), "Experiment takes no local_dir"),
        (lambda: Experiment("a", endless, export_formats=["onnx"]), "call export_model"),
        (lambda: tune.run(endless, local_dir="a"), "tune.run takes no local_dir: give storage_pa"),
        (lambda: tune.run(endless, checkpoint_freq=3), "CheckpointConfig(checkpoint_frequency="),
        (lambda: tune.run(endless, keep_checkpoints_num=3), "CheckpointConfig(num_to_keep=...)"),
        (lambda: tune.run(endless, checkpoint_at_end=True), "checkpoint_at_end: give checkpoint_c"),
        (lambda: tune.run(endless, checkpoint_score_attr="min-x"), "checkpoint_score_order=...)"),
        (
            lambda: tune.run(Experiment("a", endless), config={"x": 1}),
            "tune.run got an Experiment, and config={'x': 1} beside it",
        ),
        (lambda: tune.run(Experiment("a", endless), name="b"), "and name='b' beside it"),
        (lambda: tune.RunConfig(name=""), "name=''"),
        (lambda: tune.RunConfig(resume="maybe"), "resume='maybe'"),
        (lambda: tune.RunConfig(checkpoint_config=3), "give a CheckpointConfig"),
        (lambda: tune.RunConfig(log_to_file=3), "log_to_file=3"),
        (lambda: tune.ResumeConfig(errored="again"), "errored='again'"),
        (lambda: tune.ResumeConfig(finished="resume"), "finished trials are not run again"),
        (lambda: tune.SyncConfig(sync_period=0), "sync_period=0"),
        (tune.Tuner, "needs a trainable"),
        (lambda: tune.Tuner(print, param_space=[1]), "give a dictionary"),
        (lambda: tune.Tuner(print, tune_config=3), "give a TuneConfig"),
    ],
)
def test_option_that_is_wrong_is_refused_in_one_line(make: Any, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", [{"checkpoint_frequency": 2}, {"checkpoint_at_end": True}])
def test_function_that_is_to_be_saved_by_itself_is_refused(
    runs: Runs, option: dict[str, Any]
) -> None:
    (name,) = option
    with pytest.raises(OptionError, match=rf"{name}=.*saving is a function: call tune.report"):
        runs.fit(saving, checkpoint_config=tune.CheckpointConfig(**option))


def test_option_without_an_effect_is_told(caplog: pytest.LogCaptureFixture) -> None:
    tune.SyncConfig()
    assert caplog.messages == []
    tune.SyncConfig(sync_period=10, sync_timeout=20)
    tune.run_experiments([], concurrent=True)
    assert [message.partition(" has")[0] for message in caplog.messages] == [
        "SyncConfig(sync_period=10)", "SyncConfig(sync_timeout=20)",
    ]  # fmt: skip


def test_what_is_no_trainable_is_refused(runs: Runs) -> None:
    with pytest.raises(tune.TuneError, match="is no trainable"):
        runs.fit(5)
    with pytest.raises(tune.TuneError, match=r"derive it from weft\.tune\.Trainable"):
        runs.fit(dict)
    with pytest.raises(tune.TuneError, match="no trainable is registered as 'nobody'"):
        runs.fit("nobody")


def test_trainable_may_be_given_by_name_or_by_what_has_as_trainable(runs: Runs) -> None:
    def objective(config: dict[str, Any]) -> float:
        return 4.0

    class Trainer:
        def as_trainable(self) -> Any:
            return objective

    tune.register_trainable("four", objective)
    for trainable in ("four", Trainer()):
        (result,) = runs.fit(trainable)
        assert result.metrics["loss"] == 4.0


def test_storage_that_cannot_be_written_is_said(runs: Runs) -> None:
    runs.path = Path("/proc/nowhere")
    with pytest.raises(StorageError, match=r"/proc/nowhere.*cannot be written"):
        runs.fit(lambda config: 0.0)


# ------------------------------------------------------------------ continuing


def test_named_experiment_goes_on_and_repeats_nothing(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    def objective(config: dict[str, Any]) -> float:
        return config["x"]

    space = {"x": uniform(0, 1)}
    first = runs.fit(objective, space, num_samples=3, name="again")
    second = runs.fit(objective, space, num_samples=5, name="again")
    assert "'again' goes on: 3 of its 3 trials have ended" in capsys.readouterr().err
    assert [r.config for r in second][:3] == [r.config for r in first]
    assert len(second) == 5


def test_trials_of_a_seeded_experiment_are_the_same_continued_or_not(runs: Runs) -> None:
    def objective(config: dict[str, Any]) -> float:
        return config["x"]

    space = {"x": uniform(0, 1), "y": choice([1, 2, 3])}
    runs.fit(objective, space, num_samples=3, name="parts", seed=1)
    parts = runs.fit(objective, space, num_samples=6, name="parts", seed=1)
    whole = runs.fit(objective, space, num_samples=6, name="whole", seed=1)
    assert [r.config for r in parts] == [r.config for r in whole]


def test_experiment_that_is_another_one_is_refused_under_its_name(runs: Runs) -> None:
    def objective(config: dict[str, Any]) -> dict[str, float]:
        return {"loss": 0.0, "accuracy": 1.0}

    runs.fit(objective, {"x": uniform(0, 1)}, name="one")
    with pytest.raises(tune.TuneError, match="with metric 'loss' instead of 'accuracy'"):
        runs.fit(objective, {"x": uniform(0, 1)}, name="one", metric="accuracy")
    with pytest.raises(tune.TuneError, match="with parameters"):
        runs.fit(objective, {"y": uniform(0, 1)}, name="one")


def test_experiment_begins_anew_if_the_user_says_so(runs: Runs) -> None:
    def objective(config: dict[str, Any]) -> float:
        return 0.0

    runs.fit(objective, num_samples=2, name="one")
    assert len(runs.fit(objective, num_samples=1, name="one", resume=False)) == 1
    assert (runs.path / "one" / "before-1.jsonl").exists()
    assert len(runs.tuner(objective, name="one").get_results()) == 1


def test_failed_trials_are_resumed_or_restarted_on_demand(runs: Runs, tmp_path: Path) -> None:
    (failed,) = runs.fit(
        Counter, {"dies_at": 3, "mark": str(tmp_path / "died"), "log": str(tmp_path / "log")},
        name="dies", checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=2),
    )  # fmt: skip
    assert failed.error is not None
    path = str(runs.path / "dies")
    assert tune.Tuner.can_restore(path)
    (same,) = tune.Tuner.restore(path, Counter).fit()
    assert same.error is not None
    (resumed,) = tune.Tuner.restore(path, Counter, resume_errored=True).fit()
    assert resumed.error is None
    assert list(resumed.metrics_dataframe["loss"]) == [1, 2, 3, 4]
    with pytest.raises(OptionError, match="give one"):
        tune.Tuner.restore(path, Counter, resume_errored=True, restart_errored=True)
    with pytest.raises(tune.TuneError, match="no experiment"):
        tune.Tuner.restore(str(runs.path / "nothing"), Counter)


def test_experiment_in_use_is_refused(runs: Runs, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    def objective(config: dict[str, Any]) -> float:
        Path(f"{mark}.begun").touch()
        while not mark.exists():
            time.sleep(0.01)
        return 0.0

    thread = threading.Thread(target=lambda: runs.fit(objective, name="busy"))
    thread.start()
    while not Path(f"{mark}.begun").exists():
        time.sleep(0.01)
    with pytest.raises(tune.TuneError, match="another process runs the experiment"):
        runs.fit(objective, name="busy")
    mark.touch()
    thread.join()


# ------------------------------------------------------------------ storage


def saving(config: dict[str, Any]) -> None:
    if config.get("limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (config["limit"], resource.RLIM_INFINITY))
    begin = 0
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            begin = int(Path(folder, "step").read_bytes())
    Path(tune.get_context().get_trial_dir(), "note").write_text("made")
    for step in range(begin + 1, 5):
        with tempfile.TemporaryDirectory() as folder:
            size = 100_000 if step == config.get("large_at") else 10
            with Path(folder, "step").open("wb") as file:
                file.write(str(step).encode().rjust(10))
            link = Path(folder, "data")
            if size > 10:
                link.symlink_to(config["large"])
            else:
                link.write_bytes(b"x")
            tune.report({"loss": step}, checkpoint=tune.Checkpoint.from_directory(folder))


def test_checkpoint_that_does_not_fit_on_the_disk_fails_its_trial_alone(
    runs: Runs, tmp_path: Path
) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(200_000))
    space = {"large": str(large), "limit": 50_000, "large_at": grid_search([3, 9])}
    results = runs.fit(saving, space, reuse_actors=False)
    (error,) = results.errors
    assert isinstance(error, OSError)
    assert results.num_terminated == 1
    # The checkpoint before is there, and nothing of the one that did not fit.
    kept = [Path(checkpoint.path) for checkpoint, _ in results[0].best_checkpoints]
    assert [(path / "step").read_bytes().strip() for path in kept] == [b"1", b"2"]
    found = [entry for entry in Path(results[0].path).iterdir() if entry.name != "note"]
    assert sorted(found) == sorted(kept)


def dying(config: dict[str, Any]) -> None:
    Path(tune.get_context().get_trial_dir(), "note").write_text("made")
    with tempfile.TemporaryDirectory() as folder:
        tune.report({"loss": 1}, checkpoint=tune.Checkpoint(folder))
    os._exit(1)


def test_experiment_is_kept_on_a_file_system_that_is_not_local(runs: Runs, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "name": "far", "storage_filesystem": fsspec.filesystem("file"),
        "sync_config": tune.SyncConfig(sync_artifacts=True),
        "checkpoint_config": tune.CheckpointConfig(num_to_keep=2),
    }  # fmt: skip
    results = runs.fit(saving, {"x": grid_search([1, 2])}, **options)
    result = results[0]
    assert len(result.best_checkpoints) == 2
    with result.checkpoint.as_directory() as folder:
        assert Path(folder, "step").read_bytes().strip() == b"4"
    assert Path(result.path, "artifacts", "note").read_text() == "made"
    options["name"] = "upload"
    (dead,) = runs.fit(dying, **options)
    assert Path(dead.path, "artifacts", "note").read_text() == "made"
    options["name"] = "far"
    assert [r.metrics["loss"] for r in runs.fit(saving, {"x": grid_search([1, 2])}, **options)] == [
        4, 4
    ]  # fmt: skip
    assert tune.Tuner.can_restore(results.experiment_path, fsspec.filesystem("file"))
    again = tune.Tuner.restore(
        results.experiment_path, saving, storage_filesystem=fsspec.filesystem("file")
    )
    assert len(again.get_results()) == 2
    assert len(again.fit()) == 2


class FullAtTheEnd(LocalFileSystem):
    """Has no room for what one trial leaves in its directory."""

    def _open(self, path: str, mode: str = "rb", *args: Any, **kwargs: Any) -> Any:
        if mode == "wb" and path.endswith("artifacts/note"):
            raise OSError(errno.ENOSPC, "no space left", path)
        return super()._open(path, mode, *args, **kwargs)


def leaving_a_note(config: dict[str, Any]) -> None:
    if config["x"] == 1:
        Path(tune.get_context().get_trial_dir(), "note").write_text("too much")
    while True:
        tune.report({"loss": 1})


def test_stopped_trial_whose_artifacts_cannot_be_uploaded_keeps_its_results_and_says_so(
    runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    results = runs.fit(
        leaving_a_note,
        {"x": grid_search([1, 2])},
        name="far",
        stop={"training_iteration": 2},
        storage_filesystem=FullAtTheEnd(),
        sync_config=tune.SyncConfig(sync_artifacts=True),
    )
    assert results.num_terminated == 2
    assert [result.metrics["training_iteration"] for result in results] == [2, 2]
    assert "could not be saved: OSError: [Errno 28] no space left" in caplog.text


class Reading(tune.Callback):
    """Reads the journal at the end of each trial."""

    def __init__(self) -> None:
        self.found: list[int] = []

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        storage = storage_at(trial.remote_experiment_path, trial.storage.filesystem)
        self.found.append(len(_journal.read(storage)))


def test_journal_that_is_not_local_is_written_while_results_come(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_journal, "FLUSH_S", 0.0)
    reading = Reading()
    far = fsspec.filesystem("file")
    runs.fit(endless, num_samples=4, stop={"training_iteration": 5}, callbacks=[reading],
             storage_filesystem=far, max_concurrent_trials=1)  # fmt: skip
    assert reading.found[0] >= 5
    assert sorted(reading.found) == reading.found


def test_result_is_read_from_its_directory(runs: Runs) -> None:
    (result,) = runs.fit(saving, name="kept")
    found = tune.Result.from_path(result.path)
    assert found.metrics == result.metrics
    assert found.checkpoint == result.checkpoint
    with pytest.raises(tune.TuneError, match="has no trial in nobody"):
        tune.Result.from_path(str(runs.path / "kept" / "nobody"))


def test_storage_that_fails_in_the_middle_ends_the_run_and_can_be_continued(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, count = FileJournal.append, 0

    def failing(self: FileJournal, entry: Any) -> None:
        nonlocal count
        count += 1
        if count == 5:
            raise StorageError("no space left")
        append(self, entry)

    monkeypatch.setattr(FileJournal, "append", failing)
    with pytest.raises(StorageError, match="no space left"):
        runs.fit(saving, name="full")
    monkeypatch.undo()
    (result,) = runs.fit(saving, name="full")
    assert sorted(set(result.metrics_dataframe["loss"])) == [1, 2, 3, 4]


# ------------------------------------------------------------------ who looks on


class Noting(tune.Callback):
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.state = 0

    def __getattribute__(self, name: str) -> Any:
        if name.startswith(("on_trial", "on_checkpoint", "on_experiment", "setup")):
            self.calls.append(name)
        return super().__getattribute__(name)

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any
    ) -> None:
        assert trial in list(trials)
        assert result["config"] == trial.config
        assert trial.last_result["loss"] == result["loss"]

    def get_state(self) -> dict[str, Any]:
        return {"state": self.state + 1}

    def set_state(self, state: dict[str, Any]) -> None:
        self.state = state["state"]


def test_callbacks_are_told_in_order_and_keep_their_state(runs: Runs) -> None:
    noting = Noting()
    checkpoint_config = tune.CheckpointConfig(checkpoint_frequency=4)
    options: dict[str, Any] = {"name": "seen", "checkpoint_config": checkpoint_config}
    runs.fit(Counter, callbacks=[noting], **options)
    assert noting.calls == [
        "setup", "on_trial_start", "on_trial_result", "on_trial_result", "on_trial_result",
        "on_trial_save", "on_checkpoint", "on_trial_result", "on_trial_complete",
        "on_experiment_end",
    ]  # fmt: skip
    again = Noting()
    runs.fit(Counter, callbacks=[again], **options)
    assert again.state == 1
