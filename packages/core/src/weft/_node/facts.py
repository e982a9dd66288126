"""What this node is and has: its ids, its labels, its resources and devices."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from weft import _settings
from weft._ids import NodeId
from weft._launch import room_bytes
from weft._machines.placement import NodeView
from weft._node import host
from weft._node.accelerators.found import Accelerators
from weft._node.accelerators.kinds import HostFiles
from weft._resources import Resources
from weft._wire.messages import Welcome

if TYPE_CHECKING:
    from weft._launch import NodeFile, NodeOptions
    from weft._node.jobs import NodeJob

# What is left is for the system, the page cache and what workers have in common.
MEMORY_SHARE = 0.7
STORE_SHARE = 0.3
# Of the room that the store's root has; others want some of it, too.
ROOM_SHARE = 0.9


class NodeFacts:
    """Does not change while the session goes on."""

    def __init__(self, node: NodeFile) -> None:
        options = node.options
        self._node = node
        self.node_id = NodeId.from_random()
        self.accelerators = Accelerators(_asked(options), HostFiles(Path("/"), os.environ))
        self.labels = {
            "weft.io/node-id": self.node_id.hex(),
            **self.accelerators.labels,
            **options.labels,
        }
        self.cpus = host.cpus() if options.num_cpus is None else options.num_cpus
        memory = host.memory_bytes()
        if options.object_store_memory is None:
            room = room_bytes(node.store_dir)
            self.store_bytes = int(min(memory * STORE_SHARE, room * ROOM_SHARE))
        else:
            self.store_bytes = options.object_store_memory
        self.total = Resources(
            {
                "CPU": self.cpus,
                **self.accelerators.amounts,
                "memory": int(memory * MEMORY_SHARE),
                "object_store_memory": self.store_bytes,
                **options.resources,
            }
        )

    def view(self) -> NodeView:
        """Return the node as placement sees it, all of it free."""
        return NodeView(
            node_id=self.node_id,
            total=self.total,
            free=self.total,
            labels=self.labels,
            is_local=True,
        )

    def welcome(self, job: NodeJob, opens_slot: int) -> Welcome:
        """Return what a process that connects is told of the node and of its job."""
        return Welcome(
            job_id=job.id,
            node_id=self.node_id,
            session=self._node.session,
            session_dir=self._node.session_dir,
            store_dir=self._node.store_dir,
            namespace=job.namespace,
            resources=self.total.to_floats(),
            labels=self.labels,
            runtime_env=job.runtime_env,
            logging=job.logging,
            are_threads_set=_settings.are_threads_set(),
            opens_slot=opens_slot,
            driver_pid=job.driver.pid if job.driver is not None else 0,
        )


def _asked(options: NodeOptions) -> dict[str, float]:
    """Return how many of each amount the user wants handed out, where they have said it."""
    gpus = {} if options.num_gpus is None else {"GPU": options.num_gpus}
    return {**options.resources, **gpus}
