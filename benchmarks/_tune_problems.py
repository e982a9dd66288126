"""Problems with a known answer, for the quality of searchers.

Each is a space, a function to be made small, and its least value. Source: Surjanovic and Bingham,
"Virtual Library of Simulation Experiments: Test Functions", sfu.ca/~ssurjano, where the minima are
published: branin.html, hart6.html.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from weft.tune.search.sample import uniform

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Problem(NamedTuple):
    """Something to be made small."""

    name: str
    space: dict[str, Any]
    loss: Callable[[Mapping[str, Any]], float]
    minimum: float
    minima: list[dict[str, float]]
    """Where it is taken."""


def branin(config: Mapping[str, Any]) -> float:
    """Return the Branin-Hoo function of x in [-5, 10] and y in [0, 15]."""
    x, y = config["x"], config["y"]
    a, b, c, r, s, t = 1, 5.1 / (4 * math.pi**2), 5 / math.pi, 6, 10, 1 / (8 * math.pi)
    return float(a * (y - b * x**2 + c * x - r) ** 2 + s * (1 - t) * math.cos(x) + s)


ALPHA = (1.0, 1.2, 3.0, 3.2)
A = (
    (10, 3, 17, 3.5, 1.7, 8),
    (0.05, 10, 17, 0.1, 8, 14),
    (3, 3.5, 1.7, 10, 17, 8),
    (17, 8, 0.05, 10, 0.1, 14),
)
P = (
    (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886),
    (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
    (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650),
    (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
)


def hartmann6(config: Mapping[str, Any]) -> float:
    """Return the six-dimensional Hartmann function of x0 ... x5 in [0, 1]."""
    x = [config[f"x{number}"] for number in range(6)]
    total = 0.0
    for alpha, a_row, p_row in zip(ALPHA, A, P, strict=True):
        inner = sum(a * (x_j - p) ** 2 for a, x_j, p in zip(a_row, x, p_row, strict=True))
        total -= alpha * math.exp(-inner)
    return total


BRANIN = Problem(
    "Branin",
    {"x": uniform(-5, 10), "y": uniform(0, 15)},
    branin,
    0.397887,
    [
        {"x": -math.pi, "y": 12.275},
        {"x": math.pi, "y": 2.275},
        {"x": 9.42478, "y": 2.475},
    ],
)
HARTMANN6 = Problem(
    "Hartmann6",
    {f"x{number}": uniform(0, 1) for number in range(6)},
    hartmann6,
    -3.32237,
    [
        dict(
            zip(
                [f"x{number}" for number in range(6)],
                (0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573),
                strict=True,
            )
        )
    ],
)
PROBLEMS = [BRANIN, HARTMANN6]
