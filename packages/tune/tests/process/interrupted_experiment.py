"""An experiment that is interrupted: run by test_interrupts.py as a program.

interrupted_experiment.py DIRECTORY KIND
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import weft
from weft import tune


class Steps(tune.Trainable):
    def setup(self, config: dict[str, Any]) -> None:
        self.count = 0

    def step(self) -> dict[str, Any]:
        self.count += 1
        if self.count == 3 and self.config["by"] == "driver":
            # The driver's signal comes while this step runs, and waits for its end.
            os.kill(int(os.environ["DRIVER"]), signal.SIGINT)
            self.config["by"] = "nobody"
            time.sleep(self.config["s"])
        return {"loss": self.count, "done": self.count == 6}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        Path(checkpoint_dir, "count").write_text(str(self.count))

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.count = int(Path(checkpoint, "count").read_text())


def main() -> None:
    directory, kind = sys.argv[1:]
    os.environ["DRIVER"] = str(os.getpid())
    with weft.init(num_cpus=2):
        tune.Tuner(
            Steps,
            param_space={"by": "driver", "s": 600.0 if kind == "twice" else 0.2},
            tune_config=tune.TuneConfig(metric="loss", mode="min"),
            run_config=tune.RunConfig(name="interrupted", storage_path=directory),
        ).fit()


if __name__ == "__main__":
    main()
