"""Tune against Ray Tune: `./dev bench tune` runs the same programs on both, and on plain optuna.

The rows and their targets are in _tune_rows.py, the programs in _tune_programs.py and
_tune_quality.py, the floors in _floors_tune.py.
"""

from __future__ import annotations

from _suite import Suite
from _tune_rows import COMPARISONS, FLOORS, ROWS

PACKAGES = ("weft-core", "weft-tune", "ray", "optuna", "joblib", "scikit-learn", "numpy")

if __name__ == "__main__":
    Suite("tune", ROWS, FLOORS, 3, comparisons=COMPARISONS, packages=PACKAGES).run()
