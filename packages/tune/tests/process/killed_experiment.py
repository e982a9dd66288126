"""An experiment whose driver may be killed: run by test_killed_driver.py as a program.

killed_experiment.py DIRECTORY SECONDS: after so many seconds of `fit` it kills itself; 0: never.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import weft
from weft import tune
from weft.tune.schedulers import ASHAScheduler
from weft.tune.search.sample import uniform

TRIALS = 24
STEPS = 4


def objective(config: dict[str, Any]) -> None:
    begin = 0
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            begin = int(Path(folder, "step").read_text())
    with Path(config["log"]).open("a") as log:
        log.write(f"{tune.get_context().get_trial_id()}\n")
    for step in range(begin + 1, STEPS + 1):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "step").write_text(str(step))
            tune.report(
                {"loss": config["x"] + 1 / step}, checkpoint=tune.Checkpoint.from_directory(folder)
            )


def main() -> None:
    directory, after_s = sys.argv[1], float(sys.argv[2])
    with weft.init(num_cpus=2):
        if after_s:
            kill = threading.Timer(after_s, lambda: os.kill(os.getpid(), signal.SIGKILL))
            kill.daemon = True
            kill.start()
        tune.Tuner(
            objective,
            param_space={"x": uniform(0, 1), "log": f"{directory}/log"},
            tune_config=tune.TuneConfig(
                metric="loss", mode="min", num_samples=TRIALS, seed=7,
                scheduler=ASHAScheduler(max_t=STEPS, grace_period=4),
            ),
            run_config=tune.RunConfig(
                name="killed", storage_path=directory,
                checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            ),
        ).fit()  # fmt: skip


if __name__ == "__main__":
    main()
