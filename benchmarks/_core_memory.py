"""The programs of core's benchmark that measure memory: of all processes, this one included.

Each takes the name of the module, weft or ray, and returns MB.
"""

from __future__ import annotations

from importlib import import_module

from _core_startup import CPUS, start_actors
from _memory import adopt_orphans, tree_megabytes


def idle_megabytes(system: str) -> float:
    adopt_orphans()
    import_module(system).init(num_cpus=CPUS)
    return tree_megabytes()


def actors_megabytes(system: str) -> float:
    adopt_orphans()
    ray = import_module(system)
    ray.init(num_cpus=CPUS)
    actors = start_actors(ray)
    used = tree_megabytes()
    del actors
    return used
