"""What a node's daemon does as one of a cluster: it keeps the link to the control service.

On the head the control service's process belongs to it as well.
"""

from __future__ import annotations

import socket
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from weft import _settings
from weft._env.jobs import job_in
from weft._launch import is_journal_shared
from weft._machines.elsewhere import Elsewhere
from weft._machines.views import INTERVAL_S
from weft._node.actor_questions import words_of
from weft._node.cluster_acting import ClusterActing
from weft._node.cluster_groups import ClusterGroups
from weft._node.control_link import ControlLink, ControlNews
from weft._node.control_process import ControlProcess
from weft._node.draining import Draining
from weft._node.everywhere import NodePlace
from weft._node.patience import Patience
from weft._override import override
from weft._resources import JobLimits
from weft._transport.addresses import CONTROL_SOCKET, split
from weft._transport.control import messages
from weft._transport.credentials import open_credentials
from weft.exceptions import WeftError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weft._ids import NodeId
    from weft._launch import NodeFile
    from weft._machines.bundles import HeldBundles
    from weft._machines.jobs import JobFacts
    from weft._machines.members import MemberFacts
    from weft._machines.orders import Order
    from weft._machines.spillover import ViewsChanged
    from weft._node.cluster_scheduling import ClusterScheduling
    from weft._node.control_link import BundlesAsked
    from weft._node.daemon import Daemon
    from weft._transport.sockets import Poller
    from weft._transport.timers import Timers
    from weft._wire.messages import BeginsJob


class DrainBody(msgspec.Struct):
    """Body of the question `drain`."""

    node_id: str
    message: str = ""
    deadline_s: float = 0.0
    """0: none."""
    only_if_idle: bool = False


class InCluster(ControlNews):
    """One node as a member of its cluster."""

    def __init__(
        self,
        node: NodeFile,
        daemon: Daemon,
        poller: Poller,
        timers: Timers,
        scheduling: ClusterScheduling,
        *,
        say: Callable[[str], None],
        end_worker: Callable[[bytes, str], None],
    ) -> None:
        """`end_worker(worker, reason)` lets a driver that leaves see what its workers print."""
        cluster = node.cluster
        assert cluster is not None
        self._daemon = daemon
        self._scheduling = scheduling
        self._say = say
        self._timers = timers
        self._view = scheduling.view()
        self._look_at = 0.0
        """What this node has is published no earlier."""
        self._elsewhere = Elsewhere(self._view.node_id)
        self._address = node.home.daemon_address()
        self._process: ControlProcess | None = None
        control: tuple[str, ...] = (cluster.control,)
        if cluster.is_head:
            self._process = ControlProcess(poller, timers, node, say=say, failed=daemon.fail)
            if is_journal_shared(cluster.journal):
                control = tuple(dict.fromkeys((cluster.control, cluster.node)))
            else:
                control = (f"{node.session_dir}/{CONTROL_SOCKET}",)
        self.link = ControlLink(
            poller,
            timers,
            self,
            open_credentials(Path(cluster.credentials)),
            control=control,
            address=self._address,
            name=socket.gethostname(),
            view=self._view,
            is_head=cluster.is_head,
        )
        daemon.limits.change = self.limit_job
        self.acting = ClusterActing(
            self.link,
            daemon.rules,
            daemon.clients,
            daemon.roster,
            scheduling,
            daemon.grants,
            node_id=daemon.facts.node_id,
            address=node.home.daemon_address(),
            jobs=daemon.jobs,
            end_worker=end_worker,
        )

        # A head has its own control service, and whoever stands by waits for the journal.
        limit_s = 0.0 if cluster.is_head else _settings.HEAD_PATIENCE.value()
        self._patience = Patience(timers, limit_s, lambda: self._give_up(limit_s))
        self.draining = Draining(
            self.link,
            scheduling,
            timers,
            has=daemon.has,
            has_work=daemon.has_work,
            move=self._move_objects,
            over=daemon.finish,
        )

    @property
    def control_pid(self) -> int:
        """The process of the control service; 0: another node has it, or it is not up just now."""
        return 0 if self._process is None else self._process.pid

    def begin(self) -> None:
        """Join the cluster. The daemon forks no more from here on."""
        if self._process is not None:
            self._process.start()
        self._patience.begin()
        self.link.begin()

    def _give_up(self, waited_s: float) -> None:
        text = (
            f"weft: this node ends: no head has answered it for {waited_s:g} s "
            f"({_settings.HEAD_PATIENCE.name})"
        )
        print(text, file=sys.stderr, flush=True)  # noqa: T201
        self._say(text)
        self._daemon.fail()

    def tick(self) -> None:
        """Say what has changed here."""
        if self._look_at <= self._daemon.rules.now():
            self._look()
        self.draining.look()

    def _look(self) -> None:
        """Publish what this node has, if that has changed."""
        view = self._daemon.groups.reserving.shown(self._scheduling.view())
        if view is not self._view and view != self._view:
            self.link.publish(view)
            # It goes out no oftener, so what is between is not looked at.
            self._look_at = self._daemon.rules.now() + INTERVAL_S
            self._timers.call_later(INTERVAL_S, lambda: None)
        self._view = view

    def names(self) -> dict[NodeId, str]:
        """Return the nodes' hosts by their names."""
        return {node_id: each.facts.name for node_id, each in self.link.members.items()}

    def heads(self) -> set[NodeId]:
        """Return the nodes that have the control service, or stand by to take it over."""
        return {node_id for node_id, each in self.link.members.items() if each.facts.is_head}

    def dead(self) -> list[MemberFacts]:
        """Return the nodes that are dead and remembered, the oldest first."""
        return [each.facts for each in self.link.members.values() if each.is_dead]

    def untold(self) -> list[MemberFacts]:
        """Return the other nodes that live and have not said what they have, the oldest first."""
        return [
            each.facts
            for node_id, each in self.link.members.items()
            if not each.is_dead and each.view is None and node_id != self._view.node_id
        ]

    def drain(self, body: DrainBody, then: Callable[[str], None]) -> None:
        """Have a node drained; `then` gets why not, or nothing."""
        request = messages.DrainRequest(
            node_id=bytes.fromhex(body.node_id),
            is_preemption=not body.only_if_idle,
            message=body.message,
            deadline_s=body.deadline_s,
        )

        self.link.call("Members", "drain", request, partial(_told, then))

    def others(self) -> list[NodePlace]:
        """Return the other nodes that live."""
        return [
            NodePlace(node_id, standing.facts.address)
            for node_id, standing in self.link.members.items()
            if node_id != self._view.node_id and not standing.is_dead
        ]

    def groups(self) -> ClusterGroups:
        """Return the placement groups, as this node sees them."""
        daemon = self._daemon
        ended = self._scheduling.group_ended
        return ClusterGroups(daemon.facts, daemon.rules, daemon.clients, self.link, ended)

    # -------------------------------------------------------------- jobs

    def job_begun(self, job: bytes, driver: bytes, message: BeginsJob) -> None:
        """A driver has joined this node: have its job known, as soon as can be."""
        part = job_in(message.env)
        request = messages.BeginJobRequest(
            job_id=job,
            driver_id=driver,
            node_id=self._view.node_id,
            address=self._address,
            namespace=part.namespace if part is not None else "",
            entrypoint=message.entrypoint,
            metadata=message.metadata,
            limits=messages.Limits(
                quota=message.quota, weight=message.weight, priority=message.priority
            ),
        )
        self._ask("begin", request, job)
        # Before its first demand; other nodes hear of it by the control service.
        self._apply(job, JobLimits(message.quota, message.weight, message.priority))

    def _apply(self, job: bytes, limits: JobLimits) -> None:
        self._daemon.limits.heard(job, limits)
        self._daemon.rules.tell_leases(self._elsewhere.limit(job, limits))

    def limit_job(self, job: bytes, limits: JobLimits, then: Callable[[str], None]) -> None:
        """Have a job limited on all nodes; `then` gets why not, or nothing."""
        told = messages.Limits(quota=limits.quota, weight=limits.weight, priority=limits.priority)
        request = messages.LimitJobRequest(job_id=job, limits=told)
        self.link.call("Jobs", "limit", request, partial(_told, then))

    def job_ended(self, job: bytes, reason: str) -> None:
        """A driver of this node is gone: what its job has on other nodes ends."""
        self._ask("end", messages.EndJobRequest(job_id=job, reason=reason), job)

    def _ask(self, method: str, request: Any, job: bytes) -> None:
        def told(answer: Any) -> None:
            if isinstance(answer, Exception):
                print(f"weft: Jobs.{method}: {answer}", file=sys.stderr, flush=True)  # noqa: T201

        # In order, so that none ends before it has begun.
        self.link.call("Jobs", method, request, told, lane=job, timeout_s=float("inf"))

    def close(self) -> None:
        """Leave the cluster."""
        self.link.close()
        if self._process is not None:
            self._process.close()

    # -------------------------------------------------------------- what is heard

    @override
    def registered(self, incarnation: int) -> None:
        if self._daemon.transfers is not None:
            self._daemon.transfers.registered(incarnation)
        self.acting.registered()

    @override
    def control_heard(self) -> None:
        self._patience.end()

    @override
    def control_lost(self) -> None:
        self._patience.begin()

    def why_silent(self) -> str:
        """Say why what the control service is asked has no answer yet; empty: it is heard."""
        return self._patience.explain()

    @override
    def fenced(self, reason: str) -> None:
        text = f"weft: this node was declared dead, so what it ran ends here: {reason}"
        print(text, file=sys.stderr, flush=True)  # noqa: T201
        self._say(text)
        self.acting.fenced()
        self._daemon.groups.fenced()
        self._daemon.end_all("its node was declared dead")

    @override
    def held(self) -> Sequence[HeldBundles]:
        return self._daemon.groups.reserving.held()

    @override
    def bundles_asked(self, asked: BundlesAsked) -> None:
        self._daemon.groups.reserving.tell(asked)

    @override
    def views_changed(self, changed: ViewsChanged) -> None:
        members = self.link.members
        addresses = {view.node_id: members[view.node_id].facts.address for view in changed.views}
        self._scheduling.seen(changed.views, changed.gone, addresses)
        for limited in self._elsewhere.see(changed.views, changed.gone):
            self._daemon.rules.tell_leases(limited)

    @override
    def drain_asked(self, message: str, deadline_s: float) -> bool:
        return self.draining.agrees(message)

    @override
    def drain_told(self, reason: str, message: str, deadline_s: float) -> None:
        why = f"it is drained: {message}" if message else f"it is drained ({reason})"
        self._say(f"weft: this node takes nothing new and ends when it is empty: {why}")
        self.draining.begin(why, deadline_s)

    def _move_objects(self, then: Callable[[int], None]) -> None:
        """Have objects moved that are needed elsewhere and are only here."""
        far_owners, me = self._daemon.far_owners, self._daemon.facts.node_id
        assert far_owners is not None
        others = [each.facts for each in self.link.members.values()]
        far_owners.drain(
            [
                (facts.node_id, facts.incarnation, split(facts.address).node)
                for facts in others
                if facts.life == "alive" and facts.node_id != me
            ],
            then,
        )

    @override
    def left(self) -> None:
        self.draining.left()

    @override
    def job_changed(self, job: JobFacts) -> None:
        begun = job.begun
        is_over = job.ended_at >= 0
        self._apply(begun.job, JobLimits() if is_over else job.limits)
        if is_over:
            self._daemon.job_ended(begun.job)

    @override
    def node_died(self, node: MemberFacts) -> None:
        self._daemon.node_died(node)

    @override
    def ordered(self, order: Order) -> None:
        self.acting.ordered(order)

    @override
    def actor_changed(self, actor: messages.Actor) -> None:
        self.acting.watchers.changed(actor)


def _told(then: Callable[[str], None], answer: Any) -> None:
    then(words_of(answer) if isinstance(answer, WeftError) else "")
