"""From one new interpreter to two processes: the template and the daemon.

The template is forked as soon as the modules are there that both need. Each then imports its own:
the two do it at the same time, and the pages from before are shared.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import NoReturn

import msgspec

from weft._launch import NODE_FILE, NodeFile
from weft._node.forks import fork_template


def run(session_dir: str) -> NoReturn:
    """Be the daemon of a session; the template is forked on the way."""
    node = msgspec.json.decode(Path(session_dir, NODE_FILE).read_bytes(), type=NodeFile)
    if node.parent_pid and os.getppid() != node.parent_pid:
        sys.exit("weft: the process that started this daemon is gone")
    _close_all_but({node.listen_fd, *node.lock_fds, *node.metrics_fds, *node.gate_fds})
    sock, pid = fork_template(node)
    daemon = importlib.import_module("weft._node.daemon")
    sys.exit(daemon.serve(node, sock, pid))


def _close_all_but(keep: set[int]) -> None:
    """Close what the parent left open by accident; what is kept is for this process alone."""
    after = 3
    for fd in sorted(keep):
        os.set_inheritable(fd, False)
        os.closerange(after, fd)
        after = fd + 1
    os.closerange(after, os.sysconf("SC_OPEN_MAX"))
