"""Trials in trackers of experiments: the real packages, with stores on this disk."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from weft import tune
from weft.tune import _session
from weft.tune.callback import Callback

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from weft.tune.experiment import Trial

# The packages warn of what they do themselves.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("session"),
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """The packages tell their makers nothing of these tests, and leave nothing at home."""
    settings = {
        "COMET_DISABLE_AUTO_LOGGING": "1",
        "COMET_INTERNAL_SENTRY_DSN": "",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "WANDB_CACHE_DIR": str(tmp_path / "cache"),
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return settings


def train(config: dict[str, Any]) -> None:
    for step in range(3):
        tune.report({"loss": config["x"] / (step + 1), "deep": {"seen": step}, "word": "w"})
    if config["x"] < 0:
        raise ValueError("x is negative")


def tuner(
    path: Path, trainable: Any, *callbacks: Callback, most: int | None = None, **space: Any
) -> tune.Tuner:
    """At most so many trials run at a time."""
    return tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(max_concurrent_trials=most),
        run_config=tune.RunConfig(
            storage_path=str(path), name="tracked", verbose=0, callbacks=list(callbacks)
        ),
    )


class Halting(Callback):
    """Ends the run at the second result, as if the driver died."""

    def __init__(self) -> None:
        self.results = 0

    def on_trial_result(
        self,
        iteration: int,
        trials: Sequence[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        self.results += 1
        if self.results == 2:
            raise RuntimeError("halted")


class TestMLflow:
    @pytest.fixture
    def store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        pytest.importorskip("mlflow")
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        return f"file://{tmp_path}/mlflow"

    def runs(self, store: str) -> dict[str, Any]:
        import mlflow  # noqa: PLC0415 - optional

        client = mlflow.MlflowClient(store)
        experiment = client.get_experiment_by_name("tracked")
        found = client.search_runs([experiment.experiment_id])
        return {run.data.params.get("x", ""): run for run in found}

    def test_each_trial_has_a_run(self, store: str, tmp_path: Path) -> None:
        mlflow = pytest.importorskip("weft.air.integrations.mlflow")
        callback = mlflow.MLflowLoggerCallback(store, tags={"who": "me"}, save_artifact=True)
        grid = tuner(tmp_path, train, callback, x=tune.grid_search([6, -6]), inside={"y": 1}).fit()
        runs = self.runs(store)
        assert sorted(runs) == ["-6", "6"]
        assert runs["6"].info.status == "FINISHED"
        assert runs["-6"].info.status == "FAILED"
        assert runs["6"].data.params == {"x": "6", "inside/y": "1"}
        assert runs["6"].data.metrics["loss"] == 2
        assert runs["6"].data.metrics["deep/seen"] == 2
        assert runs["6"].data.tags["who"] == "me"
        assert runs["6"].info.run_name == Path(grid[0].path).name
        history = (
            mlflow.required("mlflow", extra="mlflow")
            .MlflowClient(store)
            .get_metric_history(runs["6"].info.run_id, "loss")
        )
        assert [(metric.step, metric.value) for metric in history] == [(1, 6), (2, 3), (3, 2)]

    def test_experiment_that_goes_on_goes_on_in_the_same_runs(
        self, store: str, tmp_path: Path
    ) -> None:
        mlflow = pytest.importorskip("weft.air.integrations.mlflow")
        with pytest.raises(RuntimeError, match="halted"):
            tuner(tmp_path, train, mlflow.MLflowLoggerCallback(store), Halting(), x=6).fit()
        (before,) = self.runs(store).values()
        assert before.info.status == "RUNNING"
        tuner(tmp_path, train, mlflow.MLflowLoggerCallback(store), x=6).fit()
        (after,) = self.runs(store).values()
        assert after.info.run_id == before.info.run_id
        assert after.info.status == "FINISHED"
        assert after.data.metrics["loss"] == 2

    def test_trial_begins_a_run_of_its_own(self, store: str, tmp_path: Path) -> None:
        def own(config: dict[str, Any]) -> None:
            os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
            mlflow = setup_mlflow(
                config, tracking_uri=store, create_experiment_if_not_exists=True, tags={"by": "it"}
            )
            mlflow.log_metric("inner", config["x"])
            tune.report({"loss": 1})

        setup_mlflow = pytest.importorskip("weft.air.integrations.mlflow").setup_mlflow
        grid = tuner(tmp_path, own, x=tune.grid_search([1, 2]), most=1).fit()
        assert not grid.errors
        runs = self.runs(store)
        assert sorted(runs) == ["1", "2"]
        assert {run.info.status for run in runs.values()} == {"FINISHED"}
        assert runs["2"].data.metrics == {"inner": 2}
        assert runs["2"].data.tags["by"] == "it"

    def test_experiment_that_may_not_be_created_is_named(self, store: str, tmp_path: Path) -> None:
        def own(config: dict[str, Any]) -> None:
            os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
            setup_mlflow(tracking_uri=store)

        setup_mlflow = pytest.importorskip("weft.air.integrations.mlflow").setup_mlflow
        (error,) = tuner(tmp_path, own).fit().errors
        assert "MLflow has no experiment 'tracked'" in str(error)

    def test_outside_of_a_trial_is_an_error(self, store: str) -> None:
        integration = pytest.importorskip("weft.air.integrations.mlflow")
        with pytest.raises(tune.TuneError, match="setup_mlflow is for the code of a trial"):
            integration.setup_mlflow(tracking_uri=store)


def tracked(tracker: str, path: Path) -> tune.ResultGrid:
    """Run the experiment in a process of its own; return its results."""
    program = Path(__file__).with_name("tracked_experiment.py")
    done = subprocess.run(
        [sys.executable, program, tracker, path], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return tune.Tuner.restore(str(path / "tracked"), train).get_results()


def test_wandb_keeps_each_trial_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    for result, exit_code in zip(tracked("wandb", tmp_path), (0, 1), strict=True):
        records = wandb_records(Path(result.path))
        assert [record["loss"] for record in records["history"]] == [
            result.config["x"] / step for step in (1, 2, 3)
        ]
        assert records["history"][0]["config/x"] == result.config["x"]
        assert "word" not in records["history"][0]
        assert records["run"] == [("tracked", "tracked", Path(result.path).name)]
        assert records["exit"] == [exit_code]


def wandb_records(directory: Path) -> dict[str, list[Any]]:
    """Read what a run of Weights & Biases left for `wandb sync`."""
    protocol = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    (path,) = directory.glob("wandb/offline-run-*/run-*.wandb")
    found: dict[str, list[Any]] = {"history": [], "run": [], "exit": []}
    for data in log_records(path.read_bytes()):
        record = protocol.Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            found["history"].append(
                {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
            )
        elif kind == "run":
            run = record.run
            found["run"].append((run.project, run.run_group, run.display_name))
        elif kind == "exit":
            found["exit"].append(record.exit.exit_code)
    return found


def log_records(content: bytes) -> Iterator[bytes]:
    """Read a log of LevelDB's: blocks of 32 KiB; in them sum, length, kind and part of a record."""
    assert content.startswith(b":W&B")
    at, parts = 7, b""
    while at < len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in {1, 4}:
            yield parts
            parts = b""


def test_wandb_takes_a_run_of_the_trials_own(tmp_path: Path, offline: dict[str, str]) -> None:
    pytest.importorskip("wandb")
    setup_wandb = pytest.importorskip("weft.air.integrations.wandb").setup_wandb

    def own(config: dict[str, Any]) -> None:
        import wandb  # noqa: PLC0415 - in the trial's process

        os.environ.update(offline)
        # The last is called first: when the run is finished, what is on its way is waited for.
        _session.sessions.current("the test").at_end(wandb.teardown)
        run = setup_wandb(config, mode="offline")
        run.log({"inner": config["x"]})
        tune.report({"loss": 1})

    grid = tuner(tmp_path, own, x=7).fit()
    assert not grid.errors
    records = wandb_records(Path(grid[0].path))
    assert [record["inner"] for record in records["history"]] == [7]
    assert records["exit"] == [0]


@pytest.mark.parametrize("stop", [None, {"loss": 1}], ids=["ends", "is-stopped"])
def test_trial_is_not_failed_by_a_tracker_that_fails_at_its_end(
    stop: dict[str, float] | None, tmp_path: Path
) -> None:
    def own(config: dict[str, Any]) -> None:
        session = _session.sessions.current("the test")
        session.at_end((tmp_path / "called").touch)
        session.at_end(lambda: 1 / 0)
        tune.report({"loss": 1})

    run_config = tune.RunConfig(storage_path=str(tmp_path), verbose=0, stop=stop)
    grid = tune.Tuner(own, run_config=run_config).fit()
    assert not grid.errors
    assert grid[0].metrics["loss"] == 1
    assert (tmp_path / "called").exists()


def test_key_is_given_once(tmp_path: Path) -> None:
    runs = pytest.importorskip("weft.tune.logger._runs")
    (tmp_path / "key").write_text("from a file\n")
    assert runs.key_from(None, str(tmp_path / "key"), "KEY", {}) == "from a file"
    assert runs.key_from(None, None, "KEY", {"KEY": "set"}) == "set"
    assert runs.key_from("given", None, "KEY", {"KEY": "set"}) == "given"
    with pytest.raises(ValueError, match="give a key, or a file"):
        runs.key_from("given", "file", "KEY", {})


def test_comet_keeps_each_trial_offline(tmp_path: Path) -> None:
    if importlib.util.find_spec("comet_ml") is None:
        pytest.skip("comet_ml is not installed")
    tracked("comet", tmp_path)
    found = list((tmp_path / "comet").glob("*.zip"))
    assert len(found) == 2
    losses = []
    for path in found:
        with zipfile.ZipFile(path) as archive:
            lines = archive.read("messages.json").decode().splitlines()
        messages = [json.loads(line) for line in lines]
        losses.append(
            [
                message["payload"]["metric"]["metricValue"]
                for message in messages
                if message["type"] == "metric_msg"
                and message["payload"]["metric"]["metricName"] == "loss"
            ]
        )
    assert sorted(losses) == [[-6, -3, -2], [6, 3, 2]]


def aim_runs(directory: Path) -> dict[Any, tuple[bool, list[float]]]:
    aim = pytest.importorskip("aim")
    found = {}
    for name in aim.Repo(str(directory)).list_all_runs():
        run = aim.Run(name, repo=str(directory), read_only=True)
        metrics = {metric.name: metric for metric in run.metrics()}
        assert list(metrics) == ["loss"]
        values = list(metrics["loss"].values.values_list())
        found[run["hparams", "x"]] = (run["failed"], values)
    return found


def test_aim_keeps_each_trial(tmp_path: Path) -> None:
    aim = pytest.importorskip("aim")
    alone = aim.Run(repo=str(tmp_path), system_tracking_interval=None, capture_terminal_logs=False)
    alone.track(1.0, name="loss", step=1)
    alone["hparams"], alone["failed"] = {"x": 0}, False
    alone.close()
    try:
        aim_runs(tmp_path)
    except (KeyError, AssertionError):
        pytest.skip("aim by itself does not read back here what it has written")
    tracked("aim", tmp_path)
    assert aim_runs(tmp_path / "tracked") == {6: (False, [6, 3, 2]), -6: (True, [-6, -3, -2])}


def test_missing_package_is_named() -> None:
    extras = pytest.importorskip("weft.tune.search.extras")
    with warnings.catch_warnings(), pytest.raises(ImportError, match=r"weft-tune\[comet\]"):
        extras.required("comet_ml_that_is_not_there", extra="comet")
