"""The builder of a node of a cluster: a process that makes an environment ready there.

What the environment names and this machine has not, it asks other nodes for, as a tool that asks
its daemon. The working directory of a driver comes so from the driver's node, or from any node that
has fetched it before.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec

from weft._env import build
from weft._env.sharing import ContentPart, FetchError, PartWanted
from weft._lazy import lazy
from weft.exceptions import SessionError

if TYPE_CHECKING:
    from weft._runtime import tools
else:
    tools = lazy("weft._runtime.tools")

HAS = "has_content"
GIVE = "give_contents"
"""What daemons are asked."""


class NodeGivers:
    """The nodes of the cluster, asked by way of this one's daemon."""

    def __init__(self, session_dir: str) -> None:
        self._session_dir = session_dir
        self._tool: tools.Tool | None = None

    def _ask(self, what: str, body: object, node: str = "") -> list[tuple[str, bytes]]:
        """Return what nodes have answered, without those that are silent."""
        try:
            if self._tool is None:
                self._tool = tools.Tool(self._session_dir, None)
            told = self._tool.ask_nodes([what], body, node_id=node, is_patient=True)
        except (SessionError, ValueError) as error:
            raise FetchError(str(error)) from None
        return [(one.node_id, one.bodies[0]) for one in told if not one.silent]

    def holders(self, wanted: PartWanted) -> list[str]:
        """Return the nodes that have it, in any order: so they share the work. Blocks."""
        found = [node for node, has in self._ask(HAS, wanted) if msgspec.msgpack.decode(has)]
        random.shuffle(found)
        return found

    def give(self, node: str, wanted: list[PartWanted]) -> list[ContentPart]:
        """Return the first of what is wanted. Blocks. FetchError: it cannot."""
        for _, body in self._ask(GIVE, wanted, node):
            return msgspec.msgpack.decode(body, type=list[ContentPart])
        raise FetchError("it does not answer")


def run(session_dir: str, name: str, out_fd: str, err_fd: str) -> NoReturn:
    """Build the environment that a file of the session says, as a process of its own."""
    for fd, target in ((int(out_fd), 1), (int(err_fd), 2)):
        os.dup2(fd, target)
        os.close(fd)
    path = Path(session_dir, name)
    env = path.read_text("utf-8")
    path.unlink()
    sys.exit(build.main(env, session_dir, NodeGivers(session_dir)))
