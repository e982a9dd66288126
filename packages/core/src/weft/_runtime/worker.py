"""The worker process: what the template's fork, or a fresh interpreter, runs."""

from __future__ import annotations

import atexit
import mmap
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from weft import _settings
from weft._engine import current
from weft._env.inheritance import inherited
from weft._env.spec import decode
from weft._ids import PlacementGroupId, WorkerId
from weft._launch import read_cluster
from weft._override import override
from weft._resources import UNITS
from weft._runtime import measures
from weft._runtime.executor import Executor
from weft._runtime.invocation import ActorLeaves
from weft._runtime.loggers import LoggingConfig
from weft._runtime.runtime import Runtime

if TYPE_CHECKING:
    from weft._refs import ObjectRef
    from weft._specs import ActorMeta, Place
    from weft.exceptions import InternalError


class Worker(Runtime):
    """The engine inside a worker: tasks and actors that it runs use it."""

    executor: Executor

    @override
    def context(self) -> Place:
        """Say where the calling code runs; see Engine."""
        place = super().context()
        actor, assigned = self.executor.actor, self.executor.assigned
        if actor is not None:
            return msgspec.structs.replace(
                place,
                actor_id=actor.actor_id,
                actor_name=actor.meta.name,
                namespace=actor.meta.namespace or place.namespace,
                was_restarted=actor.restarts > 0,
                resources=to_floats(actor.resources),
                accelerators=actor.accelerators,
                placement_group_id=group_in(actor.group),
                captures=actor.captures,
            )
        if assigned is not None:
            return msgspec.structs.replace(
                place,
                resources=to_floats(assigned.resources),
                accelerators=assigned.accelerators,
                placement_group_id=group_in(assigned.group),
                captures=assigned.captures,
            )
        return place

    @override
    def current_actor(self) -> tuple[ActorMeta, ObjectRef[Any] | None] | None:
        """Return (meta, token) of the actor that this process is; see Engine."""
        actor = self.executor.actor
        if actor is None:
            return None
        if actor.is_detached:
            return actor.meta, None
        return actor.meta, self.objects.rebuild_ref(actor.actor_id, actor.owner)

    @override
    def exit_actor(self) -> None:
        """Leave the running method and end the actor; see Engine."""
        actor = self.executor.actor
        if actor is None:
            super().exit_actor()
            return
        actor.exit("it called exit_actor()")
        raise ActorLeaves


def group_in(strategy: str) -> PlacementGroupId | None:
    """Return the placement group that a strategy names."""
    return PlacementGroupId.from_hex(strategy.split(":")[1]) if strategy else None


def to_floats(units: dict[str, int]) -> dict[str, float]:
    """Return amounts as users write them."""
    return {name: amount / UNITS for name, amount in units.items()}


def main(worker_id: bytes, daemon_address: str, address: str) -> None:
    """Serve until told to quit, then end the process.

    Args:
        worker_id: Its 16 bytes.
        daemon_address: Where the node's daemon listens.
        address: The path of the socket on which this worker is to listen.
    """
    for stream in (sys.stdout, sys.stderr):
        # Whole lines as they come: what a killed worker had printed is not lost.
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # text streams over pipes here
    session_dir = str(Path(address).parent)
    worker = Worker(
        worker_id=WorkerId(worker_id),
        session_dir=session_dir,
        role="worker",
        cluster=read_cluster(session_dir),
    )
    # The daemon reads there what a worker ran last, when it has died.
    fd = os.open(Path(address).with_suffix(".page"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.ftruncate(fd, mmap.PAGESIZE)
    page = mmap.mmap(fd, mmap.PAGESIZE)
    os.close(fd)
    executor = worker.executor = Executor(worker, page)
    if executor.capsules is not None:
        executor.capsules.tail.follow(sys.stdout)
        executor.capsules.tail.follow(sys.stderr)
    # Nothing can be told to a daemon that is gone, and nobody is left to run for.
    worker.on_daemon_lost = lambda _reason: os._exit(1)
    worker.on_broken = end_broken
    current.engine = worker
    worker.start(daemon_address)
    worker.loop.wait(worker.welcomed)
    welcome = worker.welcome
    if welcome is not None:
        executor.own_variables = decode(inherited.env).get("env_vars", {}).keys()
        is_set = _settings.OMP_THREADS in executor.own_variables
        executor.sets_threads = not (welcome.are_threads_set or is_set)
        if welcome.logging:
            LoggingConfig.from_json(welcome.logging).apply()
    executor.serve()
    end(executor)


def end_broken(error: InternalError) -> None:
    """End a process that cannot be trusted any more; the story is the last that it writes."""
    sys.stderr.write(f"{error}\n{error.traceback_str}\n")
    sys.stderr.flush()
    os._exit(70)


def end(executor: Executor) -> None:
    """Run exit hooks, send what is left, end the process."""
    code = 0
    try:
        actor = executor.actor
        if actor is not None:
            actor.terminate()
        # The interpreter's own end would also run what the template had registered for itself: it
        # did nothing.
        atexit._run_exitfuncs()
    except BaseException:  # noqa: BLE001 - a hook's error is shown, and the process ends all the same
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        with executor.guard:
            # What was counted and recorded to the end; nobody else has it.
            executor.runtime.recorder.send()
            executor.runtime.links.tell_daemon(measures.measure(executor.runtime, 0))
        if (
            executor.actor is not None
            and executor.actor.instance is not None
            and executor.actor.exiting
        ):
            executor.tell_daemon(executor.actor.end_message())
        executor.runtime.drain()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
