"""What a driver that joins a cluster says first: what its job is."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from weft._env.inheritance import inherited
from weft._env.jobs import JobEnvironment
from weft._ids import JobId
from weft._launch import caller_path
from weft._wire.messages import BeginsJob

if TYPE_CHECKING:
    from weft._options import InitOptions


# What lets others into a cluster is for no table that they can read.
_SECRETS = re.compile(r"(weft://[^\s#]*)#\S+")


def begins_job(options: InitOptions, daemon: str) -> BeginsJob:
    """Return the first message of a job that is made for this program.

    `daemon`: the address of its driver's node; empty where there is no cluster.
    """
    job = JobId.from_random()
    env = inherited.join(
        JobEnvironment(
            id=job.hex(),
            namespace=options.namespace or job.hex(),
            logging=options.logging,
            sys_path=caller_path(),
            cwd=str(Path.cwd()),
            daemon=daemon,
            log_to_driver=options.log_to_driver,
        )
    )
    return BeginsJob(
        env,
        entrypoint=_SECRETS.sub(r"\1#...", " ".join(sys.orig_argv)),
        metadata=options.metadata,
        quota=options.limits.quota,
        weight=options.limits.weight,
        priority=options.limits.priority,
    )
