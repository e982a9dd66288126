"""The daemon's process: `python -S -P <this file> SESSION_DIR`, as _launch.py starts it.

It finds modules where its parent did, imports what daemon and template share, forks the template, and becomes the
daemon. It must stay small until the fork: what is imported here is imported before anything else happens.
"""

import sys

with open(f"{sys.argv[1]}/sys.path", encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
    sys.path[:] = file.read().split("\0")

from weft._node.boot import run  # noqa: E402 - found on the path that was just set

if __name__ == "__main__":
    run(sys.argv[1])
