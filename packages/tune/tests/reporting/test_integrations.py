"""Callbacks of training libraries: the real ones, on a few numbers."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from weft import tune
from weft.exceptions import OptionError
from weft.tune.integration import xgboost
from weft.tune.integration._reports import chosen

# The packages warn of what they do themselves.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("session"),
    pytest.mark.filterwarnings("default"),
]


def result_of(path: Path, trainable: Any) -> tune.Result:
    """Run one trial and return what it came to."""
    run_config = tune.RunConfig(storage_path=str(path), verbose=0)
    grid = tune.Tuner(trainable, run_config=run_config).fit()
    if grid.errors:
        raise grid.errors[0]
    return grid[0]


def reported(result: tune.Result, name: str) -> list[float]:
    return list(result.metrics_dataframe[name])


def test_metrics_are_chosen_and_named() -> None:
    found = {"loss": 1, "acc": 2}
    assert chosen(found, None) == found
    assert chosen(found, "acc") == {"acc": 2}
    assert chosen(found, ["acc"]) == {"acc": 2}
    assert chosen(found, {"mine": "loss"}) == {"mine": 1}
    with pytest.raises(KeyError, match="there is no metric 'f1': there is loss, acc"):
        chosen(found, "f1")


def test_lightgbm_reports_every_iteration_and_its_model(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    np = pytest.importorskip("numpy")
    integration = pytest.importorskip("weft.tune.integration.lightgbm")

    def train(config: dict[str, Any]) -> None:
        import lightgbm  # noqa: PLC0415 - in the trial's process

        x = np.arange(200.0).reshape(100, 2)
        data = lightgbm.Dataset(x, x[:, 0] > 100)
        lightgbm.train(
            {"objective": "binary", "verbose": -1, "num_threads": 1},
            data,
            num_boost_round=5,
            valid_sets=[data],
            valid_names=["valid"],
            callbacks=[
                integration.TuneReportCheckpointCallback(
                    metrics={"loss": "valid-binary_logloss"}, frequency=2
                )
            ],
        )

    result = result_of(tmp_path, train)
    losses = reported(result, "loss")
    assert len(losses) == 5
    assert losses == sorted(losses, reverse=True)
    assert len(result.best_checkpoints) == 3
    model = integration.TuneReportCheckpointCallback.get_model(result.checkpoint)
    assert model.num_trees() == 5


def test_xgboost_reports_every_iteration_and_its_model_at_the_end(tmp_path: Path) -> None:
    pytest.importorskip("xgboost")
    np = pytest.importorskip("numpy")
    integration = pytest.importorskip("weft.tune.integration.xgboost")

    def train(config: dict[str, Any]) -> None:
        import xgboost  # noqa: PLC0415 - in the trial's process

        x = np.arange(200.0).reshape(100, 2)
        data = xgboost.DMatrix(x, x[:, 0] > 100)
        xgboost.train(
            {"objective": "binary:logistic", "nthread": 1},
            data,
            num_boost_round=3,
            evals=[(data, "valid")],
            verbose_eval=False,
            callbacks=[integration.TuneReportCheckpointCallback()],
        )

    result = result_of(tmp_path, train)
    losses = reported(result, "valid-logloss")
    assert losses[:3] == sorted(losses[:3], reverse=True)
    assert losses[3:] == losses[2:3]
    assert len(result.best_checkpoints) == 1
    model = integration.TuneReportCheckpointCallback.get_model(result.checkpoint)
    assert model.num_boosted_rounds() == 3


@pytest.fixture
def keras_on_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """The environment in which Keras runs on torch: what it needs is here for other tests."""
    variables = {"KERAS_BACKEND": "torch", "KERAS_HOME": str(tmp_path)}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    pytest.importorskip("torch")
    pytest.importorskip("keras")
    return variables


def test_keras_reports_epochs_and_its_model(keras_on_torch: dict[str, str], tmp_path: Path) -> None:
    integration = pytest.importorskip("weft.tune.integration.keras")
    np = pytest.importorskip("numpy")

    def train(config: dict[str, Any]) -> None:
        os.environ.update(keras_on_torch)
        import keras  # noqa: PLC0415 - in the trial's process

        model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
        model.compile(optimizer="sgd", loss="mse")
        x = np.ones((8, 2))
        model.fit(
            x, x[:, :1], epochs=2, verbose=0,
            callbacks=[integration.TuneReportCheckpointCallback(metrics=["loss"])],
        )  # fmt: skip

    result = result_of(tmp_path, train)
    assert len(reported(result, "loss")) == 2
    assert len(result.best_checkpoints) == 2
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as directory:
        assert zipfile.is_zipfile(Path(directory, "model.keras"))


@pytest.mark.usefixtures("keras_on_torch")
def test_keras_refuses_events_that_are_none() -> None:
    integration = pytest.importorskip("weft.tune.integration.keras")
    with pytest.raises(OptionError, match="Keras has no event 'lunch'"):
        integration.ReportCheckpointCallback(report_metrics_on=["lunch"])
    with pytest.raises(OptionError, match="a checkpoint is reported with metrics"):
        integration.ReportCheckpointCallback(checkpoint_on="train_end")


def test_lightning_reports_validations_and_its_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    integration = pytest.importorskip("weft.tune.integration.pytorch_lightning")

    def train(config: dict[str, Any]) -> None:
        import lightning  # noqa: PLC0415 - in the trial's process
        import torch  # noqa: PLC0415

        class Line(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.layer = torch.nn.Linear(2, 1)

            def training_step(self, batch: Any, index: int) -> Any:
                return self.layer(batch).square().mean()

            def validation_step(self, batch: Any, index: int) -> None:
                self.log("loss", self.training_step(batch, index))

            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.parameters(), lr=0.1)

        data = torch.utils.data.DataLoader(torch.ones(8, 2), batch_size=4)
        trainer = lightning.Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
            callbacks=[integration.TuneReportCheckpointCallback({"val": "loss"}, filename="line")],
        )  # fmt: skip
        trainer.fit(Line(), data, data)

    result = result_of(tmp_path, train)
    first, last = reported(result, "val")
    assert last < first
    assert len(result.best_checkpoints) == 2
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as directory:
        assert zipfile.is_zipfile(Path(directory, "line"))


def test_lightning_refuses_hooks_that_are_none() -> None:
    pytest.importorskip("lightning")
    integration = pytest.importorskip("weft.tune.integration.pytorch_lightning")
    with pytest.raises(OptionError, match="on='lunch': give one of train_start"):
        integration.TuneReportCheckpointCallback(on="lunch")


def test_package_that_is_missing_is_named_when_its_callback_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "weft.tune.integration._xgboost", raising=False)
    monkeypatch.setitem(sys.modules, "xgboost", None)
    monkeypatch.delitem(sys.modules, "xgboost.callback", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'weft-tune\[xgboost\]'"):
        _ = xgboost.TuneReportCheckpointCallback
    with pytest.raises(AttributeError, match="there is no 'nothing' here"):
        _ = xgboost.nothing
