"""Objects against Ray: `./dev bench objects` puts, gets, shares, spills and restores on both.

The rows and their targets are in _objects_rows.py, the programs in _core_programs.py,
_objects_programs.py and _objects_spilling.py, the floors in _floors_*.py.
"""

from __future__ import annotations

from _objects_rows import FLOORS, ROWS
from _suite import Suite

if __name__ == "__main__":
    Suite("objects", ROWS, FLOORS, least_rounds=3).run()
