"""A cluster for tests: several nodes as processes on one machine.

    cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 2})
    node = cluster.add_node(num_cpus=4, resources={"special": 1})
    ...
    cluster.remove_node(node, allow_graceful=False)     # as if the machine had lost its power
    cluster.shutdown()

Each node is a real one, with a daemon, workers, a port and a share of the memory of its own; they
speak to each other as nodes on different machines do, over TLS. All end with the process that has
made them, however that ends.
"""

from __future__ import annotations

import atexit
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import msgspec

from weft._api.session import ClientContext, init, is_initialized, shutdown
from weft._clock import monotonic
from weft._launch import NodeOptions, caller_path
from weft._node.sessions import remove_session, remove_tree
from weft._options import init_options
from weft._override import override
from weft._runtime.tools import Tool
from weft._starting import HeadOptions, start_head, start_neighbour, wait_for_node
from weft.exceptions import GetTimeoutError, OptionError, SessionError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from weft._launch import ClusterFile, Started

_LOOPBACK = "127.0.0.1"
WAIT_S = 30.0
# A node that is told to end has so long; then it is killed.
END_S = 10.0
_LOOK_AGAIN_S = 0.01
_QUESTION_S = 10.0


class ClusterNode:
    """One node of a `Cluster`.

    Attributes:
        node_id: In hexadecimal digits, as `weft.nodes()` has it.
        address: HOST:PORT by which other nodes reach it.
        session_dir: Its session's directory, with the daemon's log.
        pid: Its daemon's process.
        is_head: Whether the control service is there.
    """

    def __init__(self, started: Started, cluster: ClusterFile) -> None:
        """Hold a node that serves already."""
        self._process = started.process
        self._store_dir = started.store_dir
        self.session_dir = started.session_dir
        self.address = cluster.node
        self.is_head = cluster.is_head
        self.pid = started.process.pid
        self.node_id = str(self._ask("session")["node_id"])

    def is_alive(self) -> bool:
        """Tell whether its daemon lives. Does not block."""
        return self._process.poll() is None

    @property
    def control_pid(self) -> int:
        """The process of the control service; 0: the head has it, or it is not up just now.

        Blocks while the daemon is asked. SessionError: the node has ended.
        """
        return int(self._ask("session")["control_pid"])

    def _ask(self, what: str) -> Any:
        with Tool(self.session_dir, _QUESTION_S) as tool:
            return msgspec.msgpack.decode(tool.ask(what))

    def _others(self) -> set[str]:
        """Return the nodes that it knows, itself among them."""
        return {node["node_id"] for node in self._ask("status")["nodes"]}

    def _end(self, number: signal.Signals) -> None:
        """Send the daemon a signal."""
        if self.is_alive():
            os.kill(self.pid, number)

    def _wait_gone(self) -> None:
        """Wait for its end, and remove what one that was killed has left."""
        if self._process.wait(END_S) is None:
            self._process.kill()
            self._process.wait(END_S)
        remove_tree(self._store_dir)
        remove_session(self.session_dir)

    @override
    def __repr__(self) -> str:
        what = "head" if self.is_head else "node"
        return f"ClusterNode({what} {self.node_id[:12]} at {self.address}, process {self.pid})"


class Cluster:
    """Several nodes on this machine. As a context manager it shuts down at the end of the block.

    Attributes:
        head_node: The first node, where the control service is; None: there is none yet.
        worker_nodes: The others.
    """

    def __init__(
        self,
        initialize_head: bool = False,
        connect: bool = False,
        head_node_args: Mapping[str, Any] | None = None,
        shutdown_at_exit: bool = True,
    ) -> None:
        """Make a cluster.

        Args:
            initialize_head: Start the head. Blocks until it serves.
            connect: Join it with this process as a driver.
            head_node_args: What the head is to have; see `add_node`.
            shutdown_at_exit: Shut down when this process ends in the usual way. If it is killed the
                nodes end in any case.

        Raises:
            OptionError: An option is wrong, or there is one of what needs a head, and no head.
            DaemonDiedError: The head did not start.
        """
        if (connect or head_node_args) and not initialize_head:
            raise OptionError("connect and head_node_args of Cluster need initialize_head=True")
        self.head_node: ClusterNode | None = None
        self.worker_nodes: set[ClusterNode] = set()
        self._head_file: ClusterFile | None = None
        self._join = ""
        self._is_connected = False
        if shutdown_at_exit:
            atexit.register(self.shutdown)
        if initialize_head:
            self.add_node(**dict(head_node_args or {}))
        if connect:
            self.connect()

    @property
    def address(self) -> str:
        """The join string, for `weft.init(address=...)` and `weft start --address`.

        Whoever has it can run programs on the cluster. SessionError: there is no head.
        """
        if not self._join:
            raise SessionError("the cluster has no head yet: call add_node() first")
        return self._join

    @property
    def gcs_address(self) -> str:
        """The same, under the name that programs from Ray ask for."""
        return self.address

    def connect(self, namespace: str | None = None) -> ClientContext:
        """Join the head with this process as a driver. Blocks.

        Args:
            namespace: Where names of actors are looked up; None: one of the job's own.

        Raises:
            SessionError: There is no head, or this process has a session.
        """
        head = self._head()
        context = init(address=head.session_dir, namespace=namespace)
        self._is_connected = True
        return context

    def _head(self) -> ClusterNode:
        if self.head_node is None:
            raise SessionError("the cluster has no head yet: call add_node() first")
        return self.head_node

    def add_node(self, wait: bool = True, **node_args: Any) -> ClusterNode:
        """Start a node; the first is the head. Blocks until it serves.

        Args:
            wait: Wait until all nodes know it, too.
            **node_args: num_cpus, num_gpus, resources, labels, object_store_memory, as for
                `weft.init`; host and port for where it listens.

        Returns:
            The node.

        Raises:
            OptionError: An option is unknown or wrong. Nothing was started.
            DaemonDiedError: It did not start.
            GetTimeoutError: The others did not hear of it; it runs nevertheless.
        """
        host, port = node_args.pop("host", _LOOPBACK), node_args.pop("port", 0)
        options = _node_options(node_args)
        if self._head_file is None:
            begun = start_head(
                HeadOptions(node=options, host=host, port=port, lifeline_pid=os.getpid())
            )
            started, cluster = begun.started, begun.cluster
        else:
            started, cluster = start_neighbour(
                options, self._head_file, host=host, port=port, lifeline_pid=os.getpid()
            )
        wait_for_node(started)
        node = ClusterNode(started, cluster)
        if cluster.is_head:
            self.head_node, self._head_file, self._join = node, cluster, begun.join.format()
        else:
            self.worker_nodes.add(node)
        if wait:
            self.wait_for_nodes()
        return node

    def remove_node(self, node: ClusterNode, allow_graceful: bool = True) -> None:
        """End a node. Blocks until its processes are gone.

        Args:
            node: One of this cluster.
            allow_graceful: Tell it to end; False: kill it, as if its machine had lost its power.

        Raises:
            ValueError: The node is not of this cluster, or was removed.
        """
        if node is not self.head_node and node not in self.worker_nodes:
            raise ValueError(f"{node!r} is no node of this cluster, or was removed")
        node._end(signal.SIGTERM if allow_graceful else signal.SIGKILL)
        node._wait_gone()
        if node is self.head_node:
            self.head_node, self._head_file, self._join = None, None, ""
        self.worker_nodes.discard(node)

    def list_all_nodes(self) -> list[ClusterNode]:
        """Return the nodes that were added and not removed, the head first. Does not block."""
        head = [self.head_node] if self.head_node is not None else []
        return head + sorted(self.worker_nodes, key=lambda node: node.pid)

    def wait_for_nodes(self, timeout: float = WAIT_S) -> None:
        """Wait until every node knows all that live, and no others. Blocks.

        Args:
            timeout: Seconds.

        Raises:
            GetTimeoutError: Time is up; says who does not know whom.
            SessionError: A node has ended.
        """
        nodes = self.list_all_nodes()
        expected = {node.node_id for node in nodes}
        until = monotonic() + timeout
        while True:
            wrong = {str(node): node._others() ^ expected for node in nodes}
            wrong = {node: others for node, others in wrong.items() if others}
            if not wrong:
                return
            if monotonic() >= until:
                node, others = next(iter(wrong.items()))
                names = ", ".join(other[:12] for other in sorted(others))
                raise GetTimeoutError(
                    f"within {timeout:g} s {len(wrong)} of {len(nodes)} nodes did not see the "
                    f"others rightly: {node} is wrong about {names}; see its log in its session"
                )
            # Nodes tell each other, and nobody else, of what they learn.
            time.sleep(_LOOK_AGAIN_S)

    def remaining_processes_alive(self) -> bool:
        """Tell whether the daemons of all nodes live. Does not block."""
        return all(node.is_alive() for node in self.list_all_nodes())

    def shutdown(self) -> None:
        """End this process's session, if it is this cluster's, and all nodes. Idempotent. Blocks.

        Nothing of the cluster is left afterwards: no process and no file.
        """
        atexit.unregister(self.shutdown)
        if self._is_connected:
            self._is_connected = False
            if is_initialized():
                shutdown()
        # The head last: the others take leave of it.
        nodes = self.list_all_nodes()
        for group in ([node for node in nodes if not node.is_head], [self.head_node]):
            for node in filter(None, group):
                node._end(signal.SIGTERM)
            for node in filter(None, group):
                node._wait_gone()
        self.worker_nodes.clear()
        self.head_node, self._head_file, self._join = None, None, ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()


_ARGS = ("num_cpus", "num_gpus", "resources", "labels", "object_store_memory")


def _node_options(given: Mapping[str, Any]) -> NodeOptions:
    for name in given:
        if name not in _ARGS:
            raise OptionError(
                f"{name} of Cluster.add_node is no option of a node: there are "
                f"{', '.join(_ARGS)}, host and port"
            )
    checked = init_options(given, "Cluster.add_node")
    return NodeOptions(
        num_cpus=checked.num_cpus,
        num_gpus=checked.num_gpus,
        resources=checked.resources,
        labels=checked.labels,
        object_store_memory=checked.object_store_memory,
        sys_path=caller_path(),
    )
