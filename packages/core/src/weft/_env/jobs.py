"""The part of an environment that a driver adds that has joined a node: whose job its tasks are of.

It travels like any other part of an environment: in the shape of each demand, to whichever node
that goes, and from a task to those that it starts. So workers are not shared by jobs, and no node
has to ask what a job is before it can start a worker for it. Users are not shown it.

The driver that has started its own node adds nothing: all workers there are its.
"""

from __future__ import annotations

import msgspec

from weft._env.spec import decode, encode

KEY = "job"
_MARK = f'"{KEY}":'


class JobEnvironment(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a job's workers have of it."""

    id: str
    """In hexadecimal digits."""
    namespace: str = ""
    logging: str = ""
    """A LoggingConfig, as JSON; empty for none."""
    sys_path: tuple[str, ...] = ()
    """Where its driver finds modules."""
    cwd: str = ""
    """The directory of its driver: workers run there too, on nodes that have it."""
    daemon: str = ""
    """Address of the driver's daemon, if other nodes can call that."""
    log_to_driver: bool = True
    """Whether the driver shows what workers write."""


class _Holder(msgspec.Struct, frozen=True):
    job: JobEnvironment | None = None


def with_job(env: str, job: JobEnvironment) -> str:
    """Return an environment as it is in a job."""
    return encode({**decode(env), KEY: msgspec.to_builtins(job)})


def job_in(env: str) -> JobEnvironment | None:
    """Return the job whose environment this is; None: that of the node's own driver."""
    # A variable may be called so as well; then the decoder finds out.
    return msgspec.json.decode(env, type=_Holder).job if _MARK in env else None


def without_job(env: str) -> str:
    """Return an environment as its user wrote it."""
    if _MARK not in env:
        return env
    fields = decode(env)
    fields.pop(KEY, None)
    return encode(fields)
