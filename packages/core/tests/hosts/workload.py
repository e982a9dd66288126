"""A driver that works as it is told, a line at a time, and says what became of it.

work       2,000 tasks, 10 calls of each of 20 actors, 200 objects of 1 MiB that tasks make and
           tasks read; says `part` when some tasks are done, and at the end what was wrong
nodes      how many nodes live
end        leave
"""

from __future__ import annotations

import collections
import json
import os
import sys
import time
import zlib

import weft

TASKS, ACTORS, CALLS, OBJECTS = 2000, 20, 10, 200
PART = 200
BYTES = 1024 * 1024
# A get that takes longer hangs: what is documented together takes less.
HANGS_S = 100.0


def bytes_of(number: int) -> bytes:
    return number.to_bytes(4, "big") * (BYTES // 4)


@weft.remote(num_cpus=1, scheduling_strategy="SPREAD")
def task(number: int) -> tuple[int, str]:
    return zlib.crc32(bytes_of(number)), weft.get_runtime_context().get_node_id()


@weft.remote(num_cpus=1, scheduling_strategy="SPREAD")
def make(number: int) -> bytes:
    return bytes_of(number)


@weft.remote(num_cpus=1, scheduling_strategy="SPREAD")
def read(content: bytes) -> tuple[int, str]:
    return zlib.crc32(content), weft.get_runtime_context().get_node_id()


@weft.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy="SPREAD")
class Actor:
    def call(self, number: int) -> tuple[int, str]:
        return zlib.crc32(bytes_of(number)), weft.get_runtime_context().get_node_id()


def say(what: object) -> None:
    print(json.dumps(what), flush=True)


def work(actors: list[weft.ActorHandle[Actor]]) -> None:
    begun = time.monotonic()
    tasks = [(number, task.remote(number)) for number in range(TASKS)]
    made = [make.remote(number) for number in range(OBJECTS)]
    objects = [(number, read.remote(ref)) for number, ref in enumerate(made)]
    calls = [(number, actor.call.remote(number)) for actor in actors for number in range(CALLS)]
    weft.wait([ref for _, ref in tasks], num_returns=PART, timeout=HANGS_S)
    say("part")
    wrong, ran, failed = [], collections.Counter(), {}
    for kind, refs in (("task", tasks), ("object", objects), ("call", calls)):
        for number, ref in refs:
            try:
                found, node = weft.get(ref, timeout=HANGS_S)
            except weft.exceptions.WeftError as error:
                failed.setdefault(f"{kind}: {type(error).__name__}", []).append(str(error))
            else:
                ran[node] += 1
                if found != zlib.crc32(bytes_of(number)):
                    wrong.append((kind, number))
    seconds = time.monotonic() - begun
    say({"wrong": wrong, "failed": failed, "ran": ran, "seconds": seconds})


weft.init(address="auto", log_to_driver=False)
actors = [Actor.remote() for _ in range(ACTORS)]
say({"pid": os.getpid()})
for line in sys.stdin:
    if line.strip() == "work":
        work(actors)
    elif line.strip() == "nodes":
        say(sum(node["Alive"] for node in weft.nodes()))
    elif line.strip() == "end":
        weft.shutdown()
        say("ended")
