"""How much an experiment says."""

from __future__ import annotations

import enum


class Verbosity(enum.IntEnum):
    """Levels of `RunConfig(verbose=)`."""

    V0_MINIMAL = 0
    V1_EXPERIMENT = 1
    V2_TRIAL_NORM = 2
    V3_TRIAL_DETAILS = 3
