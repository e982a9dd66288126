"""Core against Ray: `./dev bench core` runs the same programs on both, and on the floor beneath.

The rows and their targets are in _core_rows.py, the programs in _core_startup.py, _core_memory.py
and _core_programs.py, the floors in _floors_*.py.
"""

from __future__ import annotations

from _core_rows import FLOORS, ROWS
from _suite import Suite

if __name__ == "__main__":
    Suite("core", ROWS, FLOORS, least_rounds=5, is_in_readme=True).run()
