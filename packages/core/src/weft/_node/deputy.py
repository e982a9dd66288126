"""The process of a deputy: the interpreter's start; what it does is `_runtime/deputy.py`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from weft._launch import NODE_FILE, NodeFile
from weft._node.template import resolve, run_package, run_site

ENTRY = "weft._runtime.deputy:main"


def run(session_dir: str, worker_id: str, patience_s: str) -> None:
    """Be the deputy of a program, until that has left."""
    node = msgspec.json.decode(Path(session_dir, NODE_FILE).read_bytes(), type=NodeFile)
    if node.with_site:
        run_site()
    run_package()
    resolve(ENTRY)(session_dir, worker_id, patience_s)
