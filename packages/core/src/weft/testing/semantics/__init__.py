"""What every engine has to do: one suite of tests, run on each of them.

    import pytest

    pytest.register_assert_rewrite("weft.testing.semantics")
    from weft.testing.semantics import TaskSemantics

    class TestTasks(TaskSemantics):
        engine = "inline"
        lacks = {"processes": "everything runs in this process"}

Each class starts one session for all its tests. A test that needs what an engine lacks is skipped,
with the engine's reason. The tests use the public API alone, do not sleep, and wait for events
through an async actor (Signal). It needs pytest.
"""

from weft.testing.semantics.actors import ActorLifeSemantics, ActorSemantics
from weft.testing.semantics.cancelling import CancelSemantics
from weft.testing.semantics.concurrent_actors import AsyncActorSemantics, ThreadedActorSemantics
from weft.testing.semantics.context import ContextSemantics
from weft.testing.semantics.engines import CAPABILITIES, EngineSemantics, Signal, needs
from weft.testing.semantics.errors import ErrorSemantics
from weft.testing.semantics.graphs import CompiledGraphSemantics, GraphSemantics
from weft.testing.semantics.objects import ObjectSemantics, ReferenceSemantics
from weft.testing.semantics.placement import PlacementSemantics
from weft.testing.semantics.placement_groups import PlacementGroupSemantics
from weft.testing.semantics.streams import StreamSemantics
from weft.testing.semantics.tasks import TaskSemantics

ALL = (
    TaskSemantics,
    StreamSemantics,
    ErrorSemantics,
    ObjectSemantics,
    ReferenceSemantics,
    ActorSemantics,
    ActorLifeSemantics,
    AsyncActorSemantics,
    ThreadedActorSemantics,
    CancelSemantics,
    ContextSemantics,
    PlacementSemantics,
    PlacementGroupSemantics,
    GraphSemantics,
    CompiledGraphSemantics,
)

__all__ = [
    "ALL",
    "CAPABILITIES",
    "ActorLifeSemantics",
    "ActorSemantics",
    "AsyncActorSemantics",
    "CancelSemantics",
    "CompiledGraphSemantics",
    "ContextSemantics",
    "EngineSemantics",
    "ErrorSemantics",
    "GraphSemantics",
    "ObjectSemantics",
    "PlacementGroupSemantics",
    "PlacementSemantics",
    "ReferenceSemantics",
    "Signal",
    "StreamSemantics",
    "TaskSemantics",
    "ThreadedActorSemantics",
    "needs",
]
