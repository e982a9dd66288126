"""The semantic suite in a program on a machine without a node: its deputy does the work."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

import weft
from weft.cluster_utils import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pytest.register_assert_rewrite("weft.testing.semantics")
pytestmark = pytest.mark.slow

_OF_A_NODE = {"num_cpus", "num_gpus", "resources", "labels", "object_store_memory"}


class Remote:
    """A head, and this process as a program elsewhere."""

    engine: ClassVar[str] = "remote"
    options: ClassVar[Mapping[str, Any]] = {"num_cpus": 4}
    lacks: ClassVar[Mapping[str, str]] = {
        "one_node": "a node may join a cluster, and groups wait for it",
    }

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def weft_session(cls) -> Iterator[None]:
        """Start the head and join it from afar; end both after the class's tests."""
        of_node = {name: value for name, value in cls.options.items() if name in _OF_A_NODE}
        with Cluster(initialize_head=True, head_node_args=of_node) as cluster:
            of_driver = {name: cls.options[name] for name in cls.options.keys() - _OF_A_NODE}
            with weft.init(address=cluster.address, engine="remote", **of_driver):
                yield


for suite in import_module("weft.testing.semantics").ALL:
    name = f"Test{suite.__name__.removesuffix('Semantics')}"
    options = {"options": suite.options, "engine": "remote"}
    globals()[name] = type(name, (Remote, suite), options)
del suite
