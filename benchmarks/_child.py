"""One measurement in a process of its own: `_child.py MODULE FUNCTION SYSTEM CPUS SECONDS FILE`.

SYSTEM is weft, ray, or floor for what needs neither. With CPUS over 0 the session is started here,
and the program gets the imported module; with 0 it starts its session by itself, and gets the
module's name. The number goes to FILE.
"""

from __future__ import annotations

import sys
from importlib import import_module

from _timing import Rate


def main() -> None:
    module, function, system, cpus, seconds, file = sys.argv[1:]
    program = getattr(import_module(module), function)
    rate = Rate(float(seconds))
    if system == "floor":
        value = program(rate)
    elif cpus == "0":
        value = program(system)
    else:
        ray = import_module(system)
        ray.init(num_cpus=int(cpus))
        value = program(ray, rate)
    # Before the session ends: a shutdown that hangs costs no number.
    with open(file, "w") as out:  # noqa: PTH123 - pathlib would be imported before what is measured
        out.write(repr(value))


if __name__ == "__main__":
    main()
