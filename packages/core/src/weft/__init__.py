"""Weft scales Python from a laptop to a cluster: tasks, actors and objects.

import weft

@weft.remote
def square(x):
    return x * x

print(weft.get([square.remote(number) for number in range(10)]))
"""

import pkgutil as _pkgutil

from weft import _missing, actor, exceptions, remote_function, runtime_context, runtime_env, types
from weft._api.actors import get_actor, kill
from weft._api.cluster import available_resources, cluster_resources, nodes, timeline, why
from weft._api.context import get_gpu_ids, get_runtime_context
from weft._api.decorators import remote
from weft._api.languages import (
    SCRIPT_MODE,
    WORKER_MODE,
    Language,
    cpp_actor_class,
    cpp_function,
    java_actor_class,
    java_function,
)
from weft._api.methods import method
from weft._api.objects import cancel, get, put, wait
from weft._api.session import ClientContext, __version__, init, is_initialized, shutdown
from weft._ids import ActorId as ActorID
from weft._ids import FunctionId as FunctionID
from weft._ids import JobId as JobID
from weft._ids import NodeId as NodeID
from weft._ids import ObjectId as ObjectID
from weft._ids import PlacementGroupId as PlacementGroupID
from weft._ids import TaskId as TaskID
from weft._ids import UniqueId as UniqueID
from weft._ids import WorkerId as WorkerID
from weft._refs import ObjectRef, ObjectRefGenerator
from weft._runtime.invocation import DynamicObjectRefGenerator
from weft._runtime.loggers import LoggingConfig

ActorClassID = FunctionID

# What is installed elsewhere, such as weft-data from its own source tree, is found as weft.data.
__path__ = _pkgutil.extend_path(__path__, __name__)
_missing.install()

__all__ = [
    "SCRIPT_MODE",
    "WORKER_MODE",
    "ActorClassID",
    "ActorID",
    "ClientContext",
    "DynamicObjectRefGenerator",
    "FunctionID",
    "JobID",
    "Language",
    "LoggingConfig",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
    "PlacementGroupID",
    "TaskID",
    "UniqueID",
    "WorkerID",
    "__version__",
    "actor",
    "available_resources",
    "cancel",
    "cluster_resources",
    "cpp_actor_class",
    "cpp_function",
    "exceptions",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "is_initialized",
    "java_actor_class",
    "java_function",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "remote_function",
    "runtime_context",
    "runtime_env",
    "shutdown",
    "timeline",
    "types",
    "wait",
    "why",
]
