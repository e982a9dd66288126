"""The rows of the cluster's benchmark: what is measured, by which program, against which target."""

from __future__ import annotations

from _rows import Floor, Row

FLOORS = {
    "sendfile": Floor("a plain sendfile", "_floors_network", "sendfile"),
    "frames": Floor("frames in flight", "_floors_frames", "frames_in_flight"),
    "python": Floor("python -c pass", "_floors_processes", "python_start"),
}

PROGRAMS = "_cluster_programs"

ROWS = (
    Row("node_added_s", "a node added, until it runs a task", "s", 0.5, ("python",), PROGRAMS, 0),
    Row("tasks_two_nodes", "tasks over 2 nodes, 1,000 in flight", "/s", 10_000, ("frames",),
        PROGRAMS, 0),
    Row("tasks_four_nodes", "tasks over 4 nodes, 1,000 in flight", "/s", 10_000, ("frames",),
        PROGRAMS, 0),
    Row("tasks_elsewhere", "tasks on another node, one at a time", "/s", 2_500, ("frames",),
        PROGRAMS, 0),
    Row("groups", "placement groups made and removed", "/s", 300, (), PROGRAMS, 0),
    Row("actors_elsewhere_s", "20 actors created on another node and called", "s", 0.5, (),
        PROGRAMS, 0),
    Row("transfer", "100 MiB from node to node", "GB/s", 0.6, ("sendfile",), PROGRAMS, 0,
        share_of="sendfile"),
    Row("broadcast_s", "100 MiB to 4 nodes", "s", 1, (), PROGRAMS, 0),
    Row("node_killed_s", "kill -9 of a node, until the retried result", "s", 6, (), PROGRAMS, 0),
    Row("control_killed_s", "kill -9 of the control service, until an actor is named", "s", 2, (),
        PROGRAMS, 0),
)  # fmt: skip
