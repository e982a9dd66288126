"""The semantics of actors, where they run on another node than who calls them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from msgspec.structs import replace

from weft._engine import current
from weft.cluster_utils import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from weft._specs import ActorSpec

pytest.register_assert_rewrite("weft.testing.semantics")
pytestmark = pytest.mark.slow
suites = import_module("weft.testing.semantics")


class FarActors:
    """A cluster of two nodes: what the driver creates without saying where is on the other one."""

    options: ClassVar[Mapping[str, Any]] = {}

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def weft_session(cls) -> Iterator[None]:
        """Start the cluster, and end it after the class's tests."""
        with Cluster(initialize_head=True, head_node_args={"num_cpus": 4}) as cluster:
            far = cluster.add_node(num_cpus=4)
            cluster.connect()
            engine: Any = current.engine
            create = engine.create_actor

            def create_there(spec: ActorSpec) -> Any:
                shape = spec.shape
                if shape.strategy == "DEFAULT":
                    shape = replace(shape, strategy=f"node:{far.node_id}:soft")
                return create(replace(spec, shape=shape))

            engine.create_actor = create_there
            yield


class TestActors(FarActors, suites.ActorSemantics): ...


class TestActorLife(FarActors, suites.ActorLifeSemantics): ...


class TestAsyncActors(FarActors, suites.AsyncActorSemantics): ...


class TestThreadedActors(FarActors, suites.ThreadedActorSemantics): ...
