"""Metrics, as type checkers see them. Never run."""

from typing import Any, assert_type

import weft
from weft.util.metrics import Counter, Gauge, Histogram, Metric, export

served = Counter("served", "Requests served.", tag_keys=("route",))
depth = Gauge("depth")
seconds = Histogram("seconds", "How long.", boundaries=[0.1, 1], tag_keys=["route"])


@weft.remote
def serve(metrics: list[Metric], route: str) -> None:
    for metric in metrics:
        metric.set_default_tags({"route": route})
        assert_type(metric.info, dict[str, Any])
    served.inc()
    served.inc(2, tags={"route": route})
    depth.set(3)
    seconds.observe(0.2, {"route": route})


def use() -> None:
    weft.get(serve.remote([served, depth], "/"))
    assert_type(export(openmetrics=True), str)
