"""An experiment that a tracker follows: run by test_trackers.py as a program.

tracked_experiment.py TRACKER DIRECTORY: two trials, of which one fails. Trackers leave hooks and
threads in the process in which they are used, so that is not the one of the tests.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import weft
from weft import tune


def train(config: dict[str, Any]) -> None:
    for step in range(3):
        tune.report({"loss": config["x"] / (step + 1), "word": "w"})
    if config["x"] < 0:
        raise ValueError("x is negative")


def callback_of(tracker: str, directory: Path) -> tune.Callback:
    if tracker == "aim":
        aim = importlib.import_module("weft.tune.logger.aim")
        return aim.AimLoggerCallback(metrics=["loss"])
    integration = importlib.import_module(f"weft.air.integrations.{tracker}")
    if tracker == "comet":
        return integration.CometLoggerCallback(
            online=False, tags=["t"], offline_directory=str(directory / "comet"), api_key="none"
        )
    return integration.WandbLoggerCallback(
        mode="offline", excludes=["word"], log_config=True, upload_checkpoints=True
    )


def main(tracker: str, directory: Path) -> None:
    weft.init(num_cpus=2)
    tune.Tuner(
        train,
        param_space={"x": tune.grid_search([6, -6])},
        run_config=tune.RunConfig(
            storage_path=directory, name="tracked", verbose=0,
            callbacks=[callback_of(tracker, directory)],
        ),
    ).fit()  # fmt: skip
    if tracker == "wandb":
        # A run that is finished offline may still be on its way to the disk.
        importlib.import_module("wandb").teardown()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
