"""Waiting until actors are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft._clock import monotonic
from weft.exceptions import ActorError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from weft._engine import Engine


def wait_until_gone(engine: Engine, actors: Iterable[Any], timeout_s: float) -> bool:
    """Wait until actors that were told to end have ended; return whether they have in time.

    Nobody tells of an actor's end but its calls, which fail from then on: so they are called until
    they do. That takes as many round trips as fit into the milliseconds in which a process ends.
    """
    deadline = monotonic() + timeout_s
    living = list(actors)
    while living:
        refs = [actor.__weft_ready__.remote() for actor in living]
        ready, _ = engine.wait(refs, len(refs), max(0.0, deadline - monotonic()), fetch_local=False)
        if len(ready) < len(refs):
            return False
        living = [
            actor
            for actor, ref in zip(living, refs, strict=True)
            if not isinstance(ref.exception(), ActorError)
        ]
    return True
