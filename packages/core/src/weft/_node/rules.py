"""The machines of a node - leases and workers - and their effects that wait to be done.

What is always true
1. An event is handled at once; its effects wait their turn, behind those of earlier events. So an
   effect can be stale (its lease was cancelled meanwhile): then doing it does nothing.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from msgspec import structs

from weft import _settings
from weft._clock import monotonic
from weft._machines import leases as lease_rules
from weft._machines import workers as worker_rules

if TYPE_CHECKING:
    from weft._machines.placement import NodeView
    from weft._node.facts import NodeFacts

# Forking is serial in the template; more in flight would only fill its socket.
MAX_STARTING = 16


class Later(msgspec.Struct, frozen=True):
    """What another machine of the node wants done, in its turn."""

    do: Callable[[], None]


Effect = lease_rules.Effect | worker_rules.Effect | Later


class Rules:
    """Who wants something of the machines tells them here."""

    def __init__(
        self,
        facts: NodeFacts,
        *,
        now: Callable[[], float] = monotonic,
        id_head: bytes | None = None,
    ) -> None:
        """`now` tells the time of the machines; `id_head`: that of its workers' ids."""
        self.now = now
        keep = _settings.IDLE_WORKERS.value()
        self._view = facts.view()
        self._events = 0
        """How many the leases had seen when the view was made."""
        self._view_until = float("-inf")
        """It is as it was made until then, if they see no more."""
        self.leases = lease_rules.Leases(self._view, facts.accelerators.devices)
        self.pool = worker_rules.Workers(
            keep=facts.cpus if keep < 0 else keep,
            max_starting=MAX_STARTING,
            id_head=id_head or os.urandom(8),
        )
        self._checks = _settings.CHECK.value()
        self._effects: deque[Effect] = deque()

    def view(self) -> NodeView:
        """Return the node as placement sees it, with what is free now.

        It is asked for in every round of the loop, and made only when it may be another.
        """
        leases, now = self.leases, self.now()
        if leases.events != self._events or now >= self._view_until:
            self._events, self._view_until = leases.events, leases.same_until(now)
            self._view = structs.replace(
                self._view,
                free=leases.available(now),
                bundles=leases.bundles.views(),
                jobs=leases.shares.used(),
            )
        return self._view

    def tell_leases(self, event: lease_rules.Event) -> None:
        """Tell the machine of leases what has happened."""
        self._effects += self.leases.handle(event, self.now())
        if self._checks:
            self.leases.check()

    def tell_pool(self, event: worker_rules.Event) -> None:
        """Tell the machine of workers what has happened."""
        self._effects += self.pool.handle(event, self.now())
        if self._checks:
            self.pool.check()

    def doom(self, worker: bytes, reason: str) -> None:
        """Have a worker killed, if it is still there."""
        if self.pool.state_of(worker) != "gone":
            self.tell_pool(worker_rules.WorkerDoomed(worker, reason))

    def is_starting(self) -> bool:
        """Tell whether workers are on their way."""
        return any(state == "starting" for _, state, _ in self.pool.workers())

    def add(self, effect: Effect) -> None:
        """Have an effect done after those that wait, as if a machine had returned it."""
        self._effects.append(effect)

    def later(self, do: Callable[[], None]) -> None:
        """Do something after the effects that wait."""
        self._effects.append(Later(do))

    def settle(self, do: Callable[[Effect], None]) -> None:
        """Do all effects, and those that they lead to."""
        while self._effects:
            do(self._effects.popleft())

    def drop_effects(self) -> None:
        """Do none of what waits: the session is over."""
        self._effects.clear()

    def wake_at(self) -> float | None:
        """Return when `tick` is due, in seconds; None: never."""
        times = (self.leases.wake_at(), self.pool.wake_at())
        return min((at for at in times if at is not None), default=None)

    def tick(self) -> None:
        """Tell the machines whose time has come."""
        now = self.now()
        if (at := self.leases.wake_at()) is not None and at <= now:
            self.tell_leases(lease_rules.LeasesTicked())
        if (at := self.pool.wake_at()) is not None and at <= now:
            self.tell_pool(worker_rules.WorkersTicked())
