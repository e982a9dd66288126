"""The daemon's process: `python -S -P <this file> SESSION_DIR`, as _launch.py starts it.

It finds modules where its parent did, and imports what daemon and template share. The package's own
`__init__` brings what users call: the daemon needs none of that, so it does without (50 ms and
5 MB less), and the template, whose workers need it, runs it when the two have parted.
"""

import sys
from pathlib import Path

with open(f"{sys.argv[1]}/sys.path", encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
    sys.path[:] = file.read().split("\0")

package = type(sys)("weft")
package.__path__ = [str(Path(__file__).parent.parent)]
sys.modules["weft"] = package

from weft._node.boot import run  # noqa: E402 - found on the path that was just set

if __name__ == "__main__":
    run(sys.argv[1])
