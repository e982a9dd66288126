"""Tunes a network that reads handwritten digits.

`tune_sklearn.py DIRECTORY` tunes; the same again goes on with what is there. Without a directory it
shows just that: it starts itself, kills itself with a third of the work done, and goes on.
"""

import pickle
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import weft
from weft import tune
from weft.tune.schedulers import ASHAScheduler
from weft.tune.search.optuna import OptunaSearch

TRIALS, EPOCHS = 60, 27
Data = tuple[Any, ...]


def digits() -> tuple[Data, Data]:
    """Return images and labels: those that the trials have, and those for the very end."""
    images, labels = load_digits(return_X_y=True)
    known, unseen, *rest = train_test_split(images / 16, labels, test_size=0.2, random_state=0)
    return (known, rest[0]), (unseen, rest[1])


# One trial: it trains, and after each epoch it says how good it is, and saves what it has.
def train(config: dict[str, Any], data: Data) -> None:
    images, others, labels, other_labels = train_test_split(*data, random_state=0)
    model, done = MLPClassifier(**config, random_state=0), 0
    if checkpoint := tune.get_checkpoint():  # The trial was begun before.
        model, done = load(checkpoint)
    for epoch in range(done + 1, EPOCHS + 1):
        model.partial_fit(images, labels, classes=range(10))
        accuracy = model.score(others, other_labels)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "model.pkl").write_bytes(pickle.dumps((model, epoch)))
            # At a report ASHA may end the trial.
            tune.report({"accuracy": accuracy}, checkpoint=tune.Checkpoint.from_directory(folder))


def load(checkpoint: tune.Checkpoint) -> tuple[MLPClassifier, int]:
    with checkpoint.as_directory() as folder:
        return pickle.loads(Path(folder, "model.pkl").read_bytes())


class Lines(tune.Callback):
    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        result = trial.last_result
        epochs, accuracy = result["training_iteration"], result["accuracy"]
        print(f"trial {trial.trial_id}: {accuracy:6.1%}, {epochs:2} epochs", flush=True)


# What is tried; what chooses (TPE), what ends early (ASHA); where all is kept, and goes on from.
def tune_digits(data: Data, directory: Path) -> tune.ResultGrid:
    return tune.Tuner(
        tune.with_parameters(train, data=data),  # Stored once, shared by all trials.
        param_space={
            "hidden_layer_sizes": tune.choice([(32,), (64,), (128,), (64, 64), (128, 64)]),
            "activation": tune.choice(["relu", "tanh", "logistic"]),
            "batch_size": tune.qlograndint(16, 256, 16),
            "learning_rate_init": tune.loguniform(1e-4, 1e-1),
            "alpha": tune.loguniform(1e-6, 1e-1),
        },
        tune_config=tune.TuneConfig(
            metric="accuracy", mode="max", num_samples=TRIALS, seed=0,
            search_alg=OptunaSearch(), scheduler=ASHAScheduler(max_t=EPOCHS, reduction_factor=3),
        ),
        run_config=tune.RunConfig(
            name="digits", storage_path=directory, callbacks=[Lines()], verbose=0,
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
        ),
    ).fit()  # fmt: skip


def main(directory: Path) -> None:
    weft.init(preload=["sklearn.neural_network"])
    known, unseen = digits()
    results = tune_digits(known, directory)
    epochs = sum(result.metrics["training_iteration"] for result in results)
    print(f"{len(results)} trials, {epochs} of {TRIALS * EPOCHS} epochs")
    best = results.get_best_result()
    print(f"the best, {best.metrics['accuracy']:.1%}: {best.config}")
    print(f"it reads {load(best.checkpoint)[0].score(*unseen):.1%} of digits that it never saw")
    if find_spec("matplotlib"):
        results.plot().savefig(directory / "digits.png")
        print(f"what the trials came to is drawn in {directory / 'digits.png'}")


def demo() -> None:
    command = [sys.executable, __file__, tempfile.mkdtemp(prefix="tune_sklearn_")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        before = [first.stdout.readline() for _ in range(TRIALS // 3)]
        first.kill()
        before += first.stdout
    print("".join(before) + f"killed after {len(before)} trials; the same program again:")
    again = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    twice = {line.split()[1] for line in before} & set(again.split())
    print(f"{again}trials that had ended and were run again: {len(twice)}")


if __name__ == "__main__":
    main(Path(sys.argv[1])) if sys.argv[1:] else demo()
