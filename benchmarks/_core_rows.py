"""The rows of core's benchmark: what is measured, by which program, against which target."""

from __future__ import annotations

from _rows import Floor, Row

FLOORS = {
    "python": Floor("python -c pass", "_floors_processes", "python_start"),
    "end": Floor("end of an interpreter", "_floors_processes", "python_end"),
    "fork": Floor("20 forks", "_floors_processes", "fork_children"),
    "one": Floor("one interpreter", "_floors_processes", "one_python_megabytes"),
    "forked": Floor("interpreter, 20 forks", "_floors_processes", "forked_megabytes"),
    "pool": Floor("ProcessPoolExecutor", "_floors_processes", "process_pool"),
    "frames": Floor("frames one by one", "_floors_frames", "frames_one_by_one"),
    "flight": Floor("frames in flight", "_floors_frames", "frames_in_flight"),
    "thousands": Floor("1,000 frames", "_floors_frames", "frames_thousands"),
    "pairs": Floor("frames, two pairs", "_floors_frames", "frames_two_pairs"),
    "look_up": Floor("dictionary look-up", "_floors_values", "look_up"),
    "pickle": Floor("pickle", "_floors_values", "pickle_small"),
    "unpickle": Floor("unpickle out of band", "_floors_values", "unpickle_large"),
    "ids": Floor("unpickle 10,000 ids", "_floors_values", "unpickle_ids"),
    "scan": Floor("look at a list", "_floors_values", "look_at_names"),
    "memcpy": Floor("memcpy", "_floors_values", "copy_large"),
    "memcpy_1": Floor("memcpy", "_floors_values", "copy_1_mib"),
}

START = "_core_startup"
MEMORY = "_core_memory"

ROWS = (
    Row("import_s", "import", "s", 0.08, ("python",), START, 0),
    Row("init_s", "init()", "s", 0.25, ("python",), START, 0),
    Row("first_task_s", "import, init and first task", "s", 0.5, ("python",), START, 0),
    Row("actors_s", "20 actors created and called", "s", 0.4, ("fork",), START, 0),
    Row("idle_megabytes", "memory, idle after init", "MB", 90, ("one",), MEMORY, 0),
    Row("actors_megabytes", "memory with 20 actors", "MB", 250, ("forked",), MEMORY, 0),
    Row("get_small", "get of a small object", "/s", 400_000, ("look_up",)),
    Row("put_small", "put of a small object", "/s", 60_000, ("pickle",)),
    Row("put_large", "put 100 MiB", "GB/s", 12, ("memcpy",)),
    Row("get_large", "get 100 MiB, zero copy", "/s", 150_000, ("unpickle",)),
    Row("tasks_sync", "tasks, one at a time", "/s", 5_000, ("frames",)),
    Row("tasks_async", "tasks, 10,000 in flight", "/s", 25_000, ("pool", "flight")),
    Row("wait_one_by_one", "wait on 1,000 tasks one by one", "/s", 20, ("thousands",)),
    Row("get_with_references", "get an object with 10,000 references", "/s", 40, ("ids",)),
    Row("actor_sync", "actor calls, one at a time", "/s", 6_000, ("frames",)),
    Row("actor_async", "actor calls, 1,000 in flight", "/s", 30_000, ("flight",)),
    Row("async_actor_sync", "async actor, one at a time", "/s", 5_000, ("frames",)),
    Row("async_actor_async", "async actor, 1,000 in flight", "/s", 20_000, ("flight",)),
    Row("actors_n_n", "n:n actor calls", "/s", 30_000, ("pairs",), cpus=4),
    Row("actors_n_n_with_argument", "n:n actor calls, object argument", "/s", 12_000, ("pairs",),
        cpus=4),
    Row("tasks_from_two_clients", "tasks from 2 clients", "/s", 15_000, ("pairs",)),
    Row("tasks_with_argument", "tasks with an 8 MiB argument", "/s", 12_000, ("pool", "flight")),
    Row("tasks_returning", "tasks returning 1 MiB, fetched", "/s", 4_000, ("memcpy_1",)),
    Row("query_s", "filtered query over 1,000,000 tasks", "s", 1, ("scan",), "_core_state"),
    Row("shutdown_s", "shutdown", "s", 0.3, ("end",), START, 0),
)  # fmt: skip
