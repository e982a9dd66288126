"""The program of core's benchmark that asks what tasks there were."""

from __future__ import annotations

import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _timing import Rate

TASKS = 1_000_000
AT_ONCE = 10_000


def query_s(ray: Any, _: Rate) -> float:
    """Seconds to find 100 tasks among 1,000,000, by the slowest of some filters."""
    if ray.__name__ == "ray":
        raise RuntimeError("so many tasks take Ray longer than a row may, and it keeps 100,000")
    list_tasks = import_module(f"{ray.__name__}.util.state").list_tasks

    @ray.remote
    def small() -> bytes:
        return b"ok"

    @ray.remote(max_retries=0)
    def odd() -> None:
        raise ValueError("as it should")

    for _ in range(TASKS // AT_ONCE):
        ray.get([small.remote() for _ in range(AT_ONCE - 1)])
        ray.wait([odd.remote()])
        last_ms = time.time() * 1000
    filters = [
        ("name", "=", "odd"),
        ("state", "=", "FAILED"),
        ("error_type", "=", "ValueError"),
        ("error_message", "!=", None),
        ("end_time_ms", "<=", last_ms),
    ]
    slowest_s = 0.0
    for wanted in filters:
        begin = time.perf_counter()
        found = list_tasks(filters=[wanted], limit=TASKS // AT_ONCE)
        slowest_s = max(slowest_s, time.perf_counter() - begin)
        assert len(found) == TASKS // AT_ONCE
    return slowest_s
