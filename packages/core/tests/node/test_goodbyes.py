"""Drivers that leave, and nodes that work for them: nothing of a job runs unheard of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from weft._env.jobs import JobEnvironment, with_job
from weft._ids import NodeId
from weft._machines.leases import Grant, JobWithheld
from weft._node.clients import GUEST, NEIGHBOUR, Client
from weft._node.drivers import Drivers
from weft._node.grants import Grants
from weft._node.jobs import OVER_KEPT, NodeJobs
from weft._specs import Shape
from weft._wire.messages import BeginsJob, Granted, Hello, JobHeard, JobHere, JobLeaves, JobLeft
from weft._wire.version import WIRE

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._transport.sockets import SocketConnection

HERE, THERE = "10.0.0.1:4000/node", "10.0.0.2:4000/node"
JOB, DRIVER, NODE, WORKER = b"j" * 4, b"driver", b"other", b"worker"


def env_of(job: bytes, daemon: str) -> str:
    return with_job("", JobEnvironment(job.hex(), daemon=daemon))


class FakeNode:
    """A daemon's jobs, drivers and grants; notes what is sent, and who is forgotten."""

    def __init__(self) -> None:
        mine: Any = self
        self.sent: list[tuple[bytes, Any]] = []
        self.forgotten: list[bytes] = []
        self.told: list[Any] = []
        """What the queue of leases was told."""
        self.client_of: dict[bytes, Any] = {}
        self.later: list[Callable[[], None]] = []
        options = SimpleNamespace(namespace="", logging="", runtime_env="", log_to_driver=True)
        home = SimpleNamespace(daemon_address=lambda: HERE)
        file: Any = SimpleNamespace(parent_pid=0, home=home, options=options)
        ignore: Any = lambda *anything: None  # noqa: E731
        self.jobs = NodeJobs(mine, file, mine, session_over=ignore, driver_gone=ignore)
        rules: Any = SimpleNamespace(
            pool=SimpleNamespace(workers=list, lease_of=lambda worker: 1),
            leases=SimpleNamespace(is_unbound=lambda lease: True),
            tell_pool=ignore,
            tell_leases=self.told.append,
        )
        self.drivers = Drivers(
            self.jobs,
            rules,
            mine,
            mine,
            mine,
            welcome=ignore,
            forget=self.forgotten.append,
            ended=ignore,
        )
        facts: Any = SimpleNamespace(
            node_id=NodeId(b"n" * 16), accelerators=SimpleNamespace(shown=lambda devices: {})
        )
        scheduling: Any = SimpleNamespace(granted=ignore, bound=ignore)
        self.grants = Grants(facts, rules, mine, mine, scheduling, ignore)
        self.process_of: dict[bytes, Any] = {}

    def client(self, name: bytes) -> Client:
        connection = SimpleNamespace(closed=False, close=lambda: None)
        hello = Hello(WIRE, name, "", 0, NEIGHBOUR if name == NODE else GUEST)
        self.client_of[name] = Client(cast("SocketConnection", connection), hello)
        return self.client_of[name]

    # As clients.

    def get(self, worker_id: bytes) -> Any:
        return self.process_of.get(worker_id) or self.client_of.get(worker_id)

    def reach(self, address: str) -> Any:
        return SimpleNamespace(worker_id=address.encode())

    def send(self, client: Any, message: Any) -> None:
        self.sent.append((client.worker_id, message))

    def send_to(self, worker_id: bytes, message: Any) -> bool:
        self.sent.append((worker_id, message))
        return True

    # As timers.

    def call_later(self, delay_s: float, function: Callable[[], None]) -> None:
        self.later.append(function)

    def taken(self) -> list[tuple[bytes, Any]]:
        """Return what was sent since the last time."""
        taken, self.sent = self.sent, []
        return taken


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


def begin(node: FakeNode) -> Client:
    client = node.client(DRIVER)
    node.jobs.begin(client, BeginsJob(env_of(JOB, HERE), "program"))
    return client


def test_node_that_works_for_a_driver_is_heard(node: FakeNode) -> None:
    begin(node)
    node.drivers.works_elsewhere(node.client(NODE), JOB)
    assert node.taken() == [(NODE, JobHeard(JOB))]


def test_node_that_is_heard_of_after_the_goodbye_is_told_of_it_and_waited_for(
    node: FakeNode,
) -> None:
    driver = begin(node)
    node.drivers.leave(driver)
    node.drivers.works_elsewhere(node.client(NODE), JOB)
    assert node.taken() == [(NODE, JobHeard(JOB)), (NODE, JobLeaves(JOB, DRIVER))]
    node.drivers.see_off()
    assert node.jobs.driven_by(driver) is not None
    node.jobs.has_left(NODE, JOB)
    (job,) = node.jobs.driven()
    assert not job.elsewhere


def test_node_that_works_for_a_driver_that_is_gone_is_answered(node: FakeNode) -> None:
    begin(node)
    kept = node.jobs.find(JOB)
    node.jobs.end(DRIVER)
    assert kept is not None
    assert kept.is_over
    for job in (JOB, b"never known"):
        node.drivers.works_elsewhere(node.client(NODE), job)
        assert node.taken() == [(NODE, JobHeard(job))]


def test_what_a_driver_of_another_node_has_here_ends_though_it_has_called_nobody_here(
    node: FakeNode,
) -> None:
    job = node.jobs.of(env_of(JOB, THERE))
    job.ending.add(WORKER)
    node.drivers.leave_from_afar(node.client(NODE), JobLeaves(JOB, DRIVER))
    assert node.forgotten == [DRIVER]
    node.drivers.see_off()
    assert node.taken() == []
    job.ending.clear()
    node.drivers.see_off()
    assert node.taken() == [(NODE, JobLeft(JOB))]


def test_worker_is_lent_when_its_driver_has_heard_that_there_is_one(node: FakeNode) -> None:
    job = node.jobs.of(env := env_of(JOB, THERE))
    node.process_of[WORKER] = SimpleNamespace(job=job, address="a")
    node.grants.add(Grant(1, b"asks", 5, Shape(env=env), {}, False))
    node.grants.bind(1, WORKER)
    there = THERE.encode()
    assert node.taken() == [(there, JobHere(JOB))]
    assert node.grants.leases() == (0, 1)
    node.grants.bind(1, WORKER)
    (withheld,) = node.told
    assert withheld.job == JOB
    assert "the node of its driver, 10.0.0.2:4000, has not answered" in withheld.why
    node.jobs.heard_of(JOB)
    assert node.told.pop() == JobWithheld(JOB, "")
    node.grants.bind(1, WORKER)
    ((client, granted),) = node.taken()
    assert (client, type(granted)) == (b"asks", Granted)
    assert node.grants.leases() == (1, 0)


@pytest.mark.parametrize("how", ["unreachable", "over"])
def test_worker_is_lent_when_its_driver_cannot_hear(node: FakeNode, how: str) -> None:
    job = node.jobs.of(env := env_of(JOB, THERE))
    node.process_of[WORKER] = SimpleNamespace(job=job, address="a")
    node.grants.add(Grant(1, b"asks", 5, Shape(env=env), {}, False))
    node.grants.bind(1, WORKER)
    node.taken()
    node.jobs.unreachable(NODE, THERE) if how == "unreachable" else node.jobs.over(JOB)
    assert node.told.pop() == JobWithheld(JOB, "")
    node.grants.bind(1, WORKER)
    assert [client for client, _ in node.taken()][-1] == b"asks"
    assert node.grants.leases() == (1, 0)
    assert job.is_over is (how == "over")


def test_job_that_is_over_is_known_as_such_when_it_comes_here_later(node: FakeNode) -> None:
    assert node.jobs.over(JOB) is None
    job = node.jobs.of(env_of(JOB, THERE))
    assert job.is_over
    job.works_here()
    assert node.taken() == []
    assert not node.jobs.of(env_of(b"o" * 4, THERE)).is_over
    for number in range(OVER_KEPT):
        node.jobs.over(number.to_bytes(4, "big"))
    del job
    assert not node.jobs.of(env_of(JOB, THERE)).is_over
