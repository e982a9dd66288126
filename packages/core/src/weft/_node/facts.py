"""What this node is and has: its ids, its labels, its resources and devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft import _settings
from weft._ids import NodeId
from weft._launch import room_bytes
from weft._machines.placement import NodeView
from weft._node import host
from weft._resources import Resources
from weft._wire.messages import Welcome

if TYPE_CHECKING:
    from weft._launch import NodeFile
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
        self.labels = {"weft.io/node-id": self.node_id.hex(), **options.labels}
        self.cpus = host.cpus() if options.num_cpus is None else options.num_cpus
        self.devices = _devices(options.num_gpus)
        memory = host.memory_bytes()
        if options.object_store_memory is None:
            room = room_bytes(node.store_dir)
            self.store_bytes = int(min(memory * STORE_SHARE, room * ROOM_SHARE))
        else:
            self.store_bytes = options.object_store_memory
        self.total = Resources(
            {
                "CPU": self.cpus,
                "GPU": len(self.devices),
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


def _devices(num_gpus: int | None) -> list[str]:
    found = host.gpus()
    if num_gpus is None:
        return found
    return found[:num_gpus] if num_gpus <= len(found) else [str(index) for index in range(num_gpus)]
