"""A recorded learning problem: what 1,152 networks make of scikit-learn's bundled digits.

Each network is trained for 20 epochs on 60 % of the images; its loss is the mean log loss on the
others. `python benchmarks/_tune_digits.py` trains them all and writes the table, which a searcher's
quality is measured on: looking up a loss takes no time, and is the same for all.
"""

from __future__ import annotations

import itertools
import json
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE = Path(__file__).with_suffix(".json")
GRID: dict[str, list[Any]] = {
    "hidden_layer_sizes": [16, 32, 64, 128],
    "activation": ["relu", "tanh", "logistic"],
    "batch_size": [16, 32, 64, 128],
    "learning_rate_init": [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03],
    "alpha": [1e-6, 1e-4, 1e-2, 1.0],
}
EPOCHS = 20
DIGITS = 4
"""Decimal places of a loss."""


def shuffled() -> tuple[Any, Any]:
    """Return images, float64[1797, 64] in [0, 1], and what digits they show."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - for who records the table
    from sklearn.utils import shuffle  # noqa: PLC0415

    images, labels = load_digits(return_X_y=True)
    images, labels = shuffle(images / 16, labels, random_state=0)
    return images, labels


def trained_loss(images: Any, labels: Any, **parameters: Any) -> float:
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415 - for who records the table
    from sklearn.metrics import log_loss  # noqa: PLC0415
    from sklearn.neural_network import MLPClassifier  # noqa: PLC0415

    part = len(images) * 6 // 10
    model = MLPClassifier(**parameters, max_iter=EPOCHS, n_iter_no_change=EPOCHS, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 20 epochs are what is wanted
        model.fit(images[:part], labels[:part])
    return float(log_loss(labels[part:], model.predict_proba(images[part:])))


def record() -> None:
    """Train every network of the grid, and write their losses."""
    images, labels = shuffled()
    losses = [
        round(trained_loss(images, labels, **dict(zip(GRID, point, strict=True))), DIGITS)
        for point in itertools.product(*GRID.values())
    ]
    lines = [losses[start : start + 12] for start in range(0, len(losses), 12)]
    rows = ",\n".join(json.dumps(line)[1:-1] for line in lines)
    FILE.write_text(f'{{"grid": {json.dumps(GRID)},\n"losses": [\n{rows}\n]}}\n')


@cache
def losses() -> list[float]:
    table = json.loads(FILE.read_text())
    assert table["grid"] == GRID, "the table was recorded for another grid"
    return list(table["losses"])


def loss_of(config: Mapping[str, Any]) -> float:
    """Return the recorded loss of a configuration, which holds each parameter's place in GRID."""
    index = 0
    for name, values in GRID.items():
        index = index * len(values) + config[name]
    return losses()[index]


if __name__ == "__main__":
    record()
