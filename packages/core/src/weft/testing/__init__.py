"""For tests.

`simulate` runs many nodes on a virtual clock. Beside it are the suites that every implementation of
a part of Weft has to pass; they need pytest.
"""

from weft.testing._simulation import BrokenPromiseError, SimulationReport, simulate

__all__ = ["BrokenPromiseError", "SimulationReport", "simulate"]
