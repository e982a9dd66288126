"""What loggers write, read by the packages that it is written for."""

from __future__ import annotations

import csv
import json
import math
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pytest

from weft import tune
from weft.tune.callback import Callback
from weft.tune.logger import (
    CSVLoggerCallback,
    JsonLoggerCallback,
    LoggerCallback,
    TBXLoggerCallback,
    pretty_print,
)
from weft.tune.logger._files import as_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weft.tune.experiment import Trial

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("session")]


def train(config: dict[str, Any]) -> None:
    for step in range(3):
        metrics = {"loss": config["x"] / (step + 1), "deep": {"name": "a, b"}}
        if step == 1:
            metrics["late"] = math.nan
        tune.report(metrics)
    if config["x"] < 0:
        raise ValueError("x is negative")


def fit(path: Path, *callbacks: Callback, space: Any = None, **options: Any) -> tune.ResultGrid:
    options = {"storage_path": str(path), "name": "logged", "verbose": 0, **options}
    return tune.Tuner(
        train,
        param_space=space or {"x": tune.grid_search([6, 12])},
        tune_config=tune.TuneConfig(metric="loss", mode="min"),
        run_config=tune.RunConfig(callbacks=list(callbacks), **options),
    ).fit()


def rows(content: str) -> list[dict[str, str]]:
    return list(csv.DictReader(content.splitlines()))


def test_csv_has_a_row_for_each_result_and_a_column_for_each_metric(tmp_path: Path) -> None:
    grid = fit(tmp_path, CSVLoggerCallback())
    for result, x in zip(grid, (6, 12), strict=True):
        found = rows(Path(result.path, "progress.csv").read_text())
        assert [row["loss"] for row in found] == [str(x / step) for step in (1, 2, 3)]
        assert [row["late"] for row in found] == ["", "nan", ""]
        assert {row["config/x"] for row in found} == {str(x)}
        assert {row["deep/name"] for row in found} == {"a, b"}
        assert [row["training_iteration"] for row in found] == ["1", "2", "3"]


def test_json_has_a_line_for_each_result_and_the_configuration(tmp_path: Path) -> None:
    grid = fit(tmp_path, JsonLoggerCallback())
    for result, x in zip(grid, (6, 12), strict=True):
        directory = Path(result.path)
        found = [json.loads(line) for line in (directory / "result.json").read_text().splitlines()]
        assert [line["loss"] for line in found] == [x, x / 2, x / 3]
        assert found[1]["late"] is None
        assert found[0]["config"] == {"x": x}
        assert json.loads((directory / "params.json").read_text()) == {"x": x}
        assert pickle.loads((directory / "params.pkl").read_bytes()) == {"x": x}


def test_files_are_uploaded_to_a_storage_that_is_not_local(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    grid = fit(
        tmp_path, CSVLoggerCallback(), JsonLoggerCallback(), TBXLoggerCallback(),
        storage_path="/loggers", storage_filesystem=memory,
    )  # fmt: skip
    for result in grid:
        assert len(rows(memory.cat(f"{result.path}/progress.csv").decode())) == 3
        assert len(memory.cat(f"{result.path}/result.json").splitlines()) == 3
        assert any("tfevents" in name for name in memory.ls(result.path, detail=False))


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


def test_experiment_that_goes_on_goes_on_in_the_same_files(tmp_path: Path) -> None:
    space = {"x": 6}
    with pytest.raises(RuntimeError, match="halted"):
        fit(tmp_path, CSVLoggerCallback(), JsonLoggerCallback(), Halting(), space=space)
    (directory,) = (path for path in (tmp_path / "logged").iterdir() if path.is_dir())
    assert len(rows((directory / "progress.csv").read_text())) == 2
    with (directory / "progress.csv").open("a") as file:
        file.write("torn,")
    with (directory / "result.json").open("a") as file:
        file.write('{"torn": ')
    fit(tmp_path, CSVLoggerCallback(), JsonLoggerCallback(), space=space)
    # It had no checkpoint, so it began anew.
    lines = rows((directory / "progress.csv").read_text())
    assert [row["training_iteration"] for row in lines] == ["1", "2", "1", "2", "3"]
    results = [json.loads(line) for line in (directory / "result.json").read_text().splitlines()]
    assert [line["loss"] for line in results] == [6, 3, 6, 3, 2]


def test_tensorboard_has_scalars_and_hyperparameters(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboardX.proto.event_pb2")
    grid = fit(tmp_path, TBXLoggerCallback(), space={"x": 6})
    (path,) = (tmp_path / "logged").glob("*/events.out.tfevents.*")
    assert str(path).startswith(grid[0].path)
    losses = {}
    tags = set()
    for record in records(path.read_bytes()):
        event = events.Event.FromString(record)
        for value in event.summary.value:
            tags.add(value.tag)
            if value.tag == "loss":
                losses[event.step] = value.simple_value
    assert losses == {1: 6, 2: 3, 3: 2}
    assert "_hparams_/experiment" in tags
    assert "config/x" not in tags


def records(content: bytes) -> list[bytes]:
    """Return the records of a file of TensorFlow's: length, its sum, content, its sum."""
    found = []
    while content:
        length = int.from_bytes(content[:8], "little")
        found.append(content[12 : 12 + length])
        content = content[16 + length :]
    return found


class Noting(LoggerCallback):
    """Notes its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def log_trial_start(self, trial: Trial) -> None:
        self.calls.append("start")

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        self.calls.append(f"result {result['loss']:g}")

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        self.calls.append(f"end {failed}")


@pytest.mark.parametrize(("x", "failed"), [(6, False), (-6, True)])
def test_logger_is_called_at_each_turn(tmp_path: Path, x: int, failed: bool) -> None:
    logger = Noting()
    fit(tmp_path, logger, space={"x": x})
    results = [f"result {x / step:g}" for step in (1, 2, 3)]
    assert logger.calls == ["start", *results, f"end {failed}"]


def test_json_takes_any_value() -> None:
    numpy = pytest.importorskip("numpy")
    value = {
        1: numpy.float32(0.5), "array": numpy.arange(3), "nan": math.nan, "set": {1},
        "class": complex(1, 2), "yes": True, "inside": [{"inf": math.inf}], "large": 2**70,
    }  # fmt: skip
    assert json.loads(as_json(value)) == {
        "1": 0.5, "array": [0, 1, 2], "nan": None, "set": [1],
        "class": "(1+2j)", "yes": True, "inside": [{"inf": None}], "large": 2**70,
    }  # fmt: skip


def test_result_is_printed_without_what_is_excluded() -> None:
    assert pretty_print({"loss": 1, "config": {}}, exclude=["config"]) == '{\n  "loss": 1\n}'
