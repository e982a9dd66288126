"""Several nodes against Ray: `./dev bench cluster` starts them on this host, on both.

The rows and their targets are in _cluster_rows.py, the programs in _cluster_programs.py.
"""

from __future__ import annotations

from _cluster_rows import FLOORS, ROWS
from _suite import Suite

if __name__ == "__main__":
    Suite("cluster", ROWS, FLOORS, least_rounds=3).run()
