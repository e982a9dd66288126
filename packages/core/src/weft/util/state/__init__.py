"""What a session is doing: its tasks, actors, objects and workers, as lists and in numbers.

Inside a session the functions ask it. Elsewhere they look for this user's only living session on
this machine, or for the one that `address` names: a session's name, the beginning of one, or its
directory. They block until the session's processes have answered; one that runs C code for long
does not: after a second it is left out, and named in a warning or a DataSourceUnavailable.

In a cluster they tell of all nodes; a node that does not answer in time is treated likewise.
"""

from weft.util.state import common, exception
from weft.util.state._client import StateApiClient
from weft.util.state._lists import (
    get_actor,
    get_job,
    get_node,
    get_objects,
    get_placement_group,
    get_task,
    get_worker,
    list_actors,
    list_cluster_events,
    list_jobs,
    list_nodes,
    list_objects,
    list_placement_groups,
    list_runtime_envs,
    list_tasks,
    list_workers,
    summarize_actors,
    summarize_objects,
    summarize_tasks,
)
from weft.util.state._logs import get_log, list_logs

__all__ = [
    "StateApiClient",
    "common",
    "exception",
    "get_actor",
    "get_job",
    "get_log",
    "get_node",
    "get_objects",
    "get_placement_group",
    "get_task",
    "get_worker",
    "list_actors",
    "list_cluster_events",
    "list_jobs",
    "list_logs",
    "list_nodes",
    "list_objects",
    "list_placement_groups",
    "list_runtime_envs",
    "list_tasks",
    "list_workers",
    "summarize_actors",
    "summarize_objects",
    "summarize_tasks",
]
