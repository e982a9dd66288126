"""The rows of the cluster's benchmark: what is measured, by which program, against which target."""

from __future__ import annotations

from _rows import Floor, Row

FLOORS = {
    "sendfile": Floor("a plain sendfile", "_floors_network", "sendfile"),
    "frames": Floor("frames in flight", "_floors_frames", "frames_in_flight"),
    "python": Floor("python -c pass", "_floors_processes", "python_start"),
}

PROGRAMS = "_cluster_programs"
FAULTS = "_cluster_faults"

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
    Row("node_killed_s", "kill -9 of a node, until the retried result", "s", 6, (), FAULTS, 0),
    Row("node_silent_s", "a node stands still, until the retried result", "s", 6, (), FAULTS, 0,
        note="All its processes are stopped (SIGSTOP), so no connection ends. Weft waits for 5 s "
        "before a silent node is dead. Ray has 90 s, and no figure: with its own defaults it finds "
        "the node dead after some 65 s, and the result does not come."),
    Row("control_killed_s", "kill -9 of the control service, until an actor is named", "s", 2, (),
        FAULTS, 0, is_ours=True,
        note="Ray's nodes end with theirs, if it keeps nothing in Redis, which is not here."),
    Row("head_taken_over_s", "kill -9 of a head, until an actor is named at one that stood by", "s",
        5, (), FAULTS, 0, is_ours=True,
        note="Both share an etcd, and the lease of who has it is over after 3 s. In Ray no head "
        "stands by."),
    Row("calls_failed_without_head", "calls that fail while the head is killed and started again",
        "calls", 0, (), FAULTS, 0, is_ours=True,
        note="Two drivers on two nodes call an actor and run a task on each other's, one after the "
        "other. What is lost or done twice counts, too. In Ray the nodes end with the head."),
    Row("longest_call_without_head_s", "the longest of these calls", "s", 0.5, (), FAULTS, 0,
        is_ours=True, note="As before; on an idle machine a call takes a millisecond."),
)  # fmt: skip
