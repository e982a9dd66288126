"""The port of a head, as its daemon has it: `_scale_port.py SESSION_DIR` prints its number."""

from __future__ import annotations

import sys
from pathlib import Path

from weft._transport.arrivals import Arrivals
from weft._transport.doors import Doors
from weft._transport.gate import Gate, listen
from weft._transport.sockets import Poller
from weft._transport.timers import Timers


def main() -> None:
    poller, timers = Poller(), Timers()
    gate = Gate(poller, listen("127.0.0.1"), Arrivals(timers.call_later))
    doors = Doors(poller, Path(sys.argv[1]) / "doors", gate.takers)
    print(gate.port, flush=True)
    while doors:
        poller.poll(timers.sleep_s())
        timers.ring()


if __name__ == "__main__":
    main()
