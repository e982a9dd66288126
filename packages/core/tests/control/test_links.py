"""Links of daemons to real control services: over TLS and the head's port."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from weft._ids import JobId, PlacementGroupId
from weft._machines.bundles import HeldBundles
from weft._machines.members import RELINK_S, SILENCE_S
from weft._machines.orders import DropOrder, WantOrder
from weft._machines.reservations import (
    CommitAsked,
    ControlUnlinked,
    ReleaseAsked,
    ReserveAsked,
    TellCommitted,
    TellRefused,
    TellReserved,
)
from weft._node.group_line import GroupLine
from weft._resources import Resources
from weft._specs import GroupSpec, Shape
from weft._transport.control import messages
from weft._wire.codec import pack
from weft.exceptions import RpcError

if TYPE_CHECKING:
    from conftest import Etcd, LinkedNode, SmallCluster

pytestmark = pytest.mark.slow

ONE_CPU = {"CPU": 10_000}


def new_id() -> bytes:
    return os.urandom(16)


def linked(cluster: SmallCluster, nodes: int, **facts: Any) -> list[LinkedNode]:
    """Return so many nodes that are members and see each other."""
    made = [cluster.add(**facts) for _ in range(nodes)]
    cluster.until(lambda: all(len(node.views) == nodes - 1 for node in made))
    return made


def ask(cluster: SmallCluster, node: LinkedNode, *what: Any, **facts: Any) -> Any:
    """Ask through a node's link, and wait for the answer."""
    answers: list[Any] = []
    node.link.call(*what, answers.append, **facts)
    cluster.until(lambda: answers)
    return answers[0]


# ------------------------------------------------------------------ who is there


def test_nodes_register_and_see_what_the_others_have(cluster: SmallCluster) -> None:
    cluster.start()
    head, other = cluster.add(is_local=True), cluster.add(CPU=4)
    cluster.until(lambda: head.views and other.views)
    assert head.views == {other.node_id: other.view(other.total)}
    assert other.views == {head.node_id: head.view(head.total)}
    assert other.of("joined") == [head.node_id]
    assert head.link.address_of(other.node_id) == "there:2/node"
    other.link.publish(other.view(Resources({"CPU": 1})))
    took_s = cluster.until(lambda: head.views[other.node_id].free == Resources({"CPU": 1}))
    assert took_s < 0.5


def test_many_changes_come_together_and_the_last_one_counts(cluster: SmallCluster) -> None:
    cluster.start()
    head, other = linked(cluster, 2)
    heard = len(head.of("views"))
    for amount in range(500):
        other.link.publish(other.view(Resources.of_units({"CPU": amount})))
    cluster.until(lambda: head.views[other.node_id].free == Resources.of_units({"CPU": 499}))
    assert len(head.of("views")) - heard <= 5


def test_node_that_was_killed_is_dead_for_the_others_soon(cluster: SmallCluster) -> None:
    cluster.start()
    first, second, third = linked(cluster, 3)
    cluster.lose(third)
    took_s = cluster.until(lambda: first.of("died") and second.of("died"))
    assert took_s < RELINK_S + 2.0
    ((node_id, incarnation, cause),) = first.of("died")
    assert (node_id, incarnation > 0, "it was silent" in cause) == (third.node_id, True, True)
    assert third.node_id not in first.views
    assert first.link.address_of(third.node_id) is None


def test_killed_control_service_is_found_again_and_nobody_has_died(cluster: SmallCluster) -> None:
    cluster.start()
    nodes = linked(cluster, 3)
    for turn in range(3):
        cluster.kill()
        cluster.start()
        amount = Resources.of_units({"CPU": turn + 1})
        nodes[0].link.publish(nodes[0].view(amount))
        took_s = cluster.until(
            lambda amount=amount: all(  # type: ignore[misc]
                node.views[nodes[0].node_id].free == amount for node in nodes[1:]
            )
        )
        assert took_s < 5.0
    for node in nodes:
        assert (len(node.of("registered")), node.of("died"), node.of("fenced")) == (1, [], [])
        assert len(node.views) == 2


def test_node_that_control_does_not_know_is_fenced_and_registers_anew(
    cluster: SmallCluster,
) -> None:
    cluster.start("--journal", "memory:")
    first, second = linked(cluster, 2)
    cluster.kill()
    cluster.start("--journal", "memory:")
    cluster.until(lambda: len(first.of("registered")) == len(second.of("registered")) == 2)
    assert "it is no member" in first.of("fenced")[0]
    cluster.until(lambda: first.link.members[second.node_id].view)
    assert first.link.incarnation == first.of("registered")[1]


def test_node_with_a_wrong_token_is_no_member_and_its_link_can_be_closed(
    cluster: SmallCluster,
) -> None:
    cluster.start()
    linked(cluster, 1)
    good = cluster.credentials
    cluster.credentials = type(good)(bytes(16), good.certificate, good.folder)
    stranger = cluster.add()
    cluster.credentials = good
    answers: list[Any] = []
    stranger.link.call("Members", "list", messages.ListMembersRequest(), answers.append)
    cluster.until(lambda: answers)
    assert "the token is wrong" in str(answers[0])
    assert stranger.told == []


def test_link_is_closed_while_nobody_answers(cluster: SmallCluster) -> None:
    node = cluster.add()
    node.link.call("Members", "list", messages.ListMembersRequest())
    cluster.lose(node)


def test_standby_head_is_found_within_five_seconds_and_nobody_has_died(
    cluster: SmallCluster, etcd: Etcd
) -> None:
    url = f"etcd://{etcd.host}/links"
    first, second = cluster.head, cluster.add_head()
    first.start("--journal", url)
    addresses = first.port.address, second.port.address
    heads = [
        cluster.add_linked(addresses, each.port.address, is_head=True) for each in cluster.heads
    ]
    node = cluster.add()
    cluster.until(lambda: all(len(each.views) == 2 for each in cluster.nodes))
    second.start("--journal", url, "--standby")
    lease = second.folder / "lease"
    cluster.until(lambda: lease.exists() and lease.read_bytes())
    first.kill()
    first.port.close()
    amount = Resources({"CPU": 1})
    node.link.publish(node.view(amount))
    took_s = cluster.until(lambda: heads[1].views[node.node_id].free == amount)
    assert took_s < 5.0
    for each in cluster.nodes:
        assert (each.of("fenced"), each.of("died")) == ([], [])


def test_node_behind_a_slow_wire_is_a_member_and_stays_one(cluster: SmallCluster) -> None:
    cluster.start()
    wire = cluster.wire(delay_s=0.25)
    near, far = cluster.add(), cluster.add_linked(wire.address, "far:1")
    cluster.until(lambda: near.views and far.views)
    far.link.publish(far.view(Resources({"CPU": 1})))
    took_s = cluster.until(lambda: near.views[far.node_id].free == Resources({"CPU": 1}))
    assert took_s < 1.0
    assert len(far.of("registered")) == 1


def test_node_whose_cable_was_cut_is_dead_is_fenced_and_comes_back(cluster: SmallCluster) -> None:
    cluster.start()
    wire = cluster.wire()
    near, far = cluster.add(), cluster.add_linked(wire.address, "far:1")
    cluster.until(lambda: near.views and far.views)
    wire.cut()
    took_s = cluster.until(lambda: near.of("died"))
    assert SILENCE_S - 1.0 < took_s < SILENCE_S + 1.5
    # So long that the node does not believe in its connection any more.
    cluster.until(lambda: far.of("bundles"))
    wire.mend()
    took_s = cluster.until(lambda: len(far.of("registered")) == 2)
    assert took_s < 6.0
    assert "it was silent for" in far.of("fenced")[0]
    cluster.until(lambda: near.views)


# ------------------------------------------------------------------ drains


def drain(cluster: SmallCluster, node: LinkedNode, **facts: Any) -> Any:
    request = messages.DrainRequest(node_id=node.node_id, **facts)
    return ask(cluster, cluster.nodes[0], "Members", "drain", request)


def test_node_that_is_not_idle_is_not_drained(cluster: SmallCluster) -> None:
    cluster.start()
    _, other = linked(cluster, 2)
    refused = drain(cluster, other, message="too many")
    assert isinstance(refused, RpcError)
    assert "is not idle" in str(refused)
    assert other.of("drain asked") == ["too many"]
    assert other.of("drain told") == []


def test_idle_node_is_drained_leaves_and_is_gone(cluster: SmallCluster) -> None:
    cluster.start()
    first, other = linked(cluster, 2)
    other.is_idle = True
    assert drain(cluster, other, message="too many") == messages.Done()
    cluster.until(lambda: other.of("drain told"))
    assert other.of("drain told") == [("idle", "too many", 0.0)]
    cluster.until(lambda: first.views[other.node_id].draining == "too many")
    assert drain(cluster, other, message="again") == messages.Done()
    other.link.leave("drained: too many")
    cluster.until(lambda: other.of("left"))
    cluster.until(lambda: first.of("died"))
    assert first.of("died")[0][2] == "drained: too many"
    assert "is no living member" in str(drain(cluster, other))


def test_preempted_node_is_told_again_after_a_restart_and_is_gone_at_its_time(
    cluster: SmallCluster,
) -> None:
    cluster.start()
    first, other = linked(cluster, 2)
    drain(cluster, other, message="spot", is_preemption=True, deadline_s=3.0)
    cluster.until(lambda: other.of("drain told"))
    cluster.kill()
    cluster.start()
    cluster.until(lambda: len(other.of("drain told")) == 2)
    reason, message, deadline_s = other.of("drain told")[1]
    assert (reason, message, 0 < deadline_s <= 3.0) == ("preemption", "spot", True)
    cluster.until(lambda: first.of("died"))
    assert "its time was over" in first.of("died")[0][2]
    cluster.until(lambda: other.of("fenced"))


# ------------------------------------------------------------------ bundles


def create(cluster: SmallCluster, bundles: int = 1, **facts: Any) -> PlacementGroupId:
    group = PlacementGroupId(new_id())
    request = messages.CreateGroupRequest(
        group_id=group,
        bundles=[messages.Bundle(amounts=ONE_CPU) for _ in range(bundles)],
        **{"strategy": "STRICT_SPREAD", **facts},
    )
    cluster.client.call("PlacementGroups", "create", request)
    return group


def of_group(cluster: SmallCluster, group: PlacementGroupId) -> Any:
    return cluster.client.call("PlacementGroups", "get", messages.GetGroupRequest(group_id=group))


def test_group_tells_its_topology(cluster: SmallCluster) -> None:
    cluster.start()
    assert of_group(cluster, create(cluster, topology="rack")).topology == "rack"


def asked(node: LinkedNode, kind: type) -> list[Any]:
    return [each for each in node.of("bundles") if isinstance(each, kind)]


def test_group_is_reserved_committed_and_found_again_after_a_restart(
    cluster: SmallCluster,
) -> None:
    cluster.start()
    nodes = linked(cluster, 2)
    group = create(cluster, 2, name="mine", namespace="here")
    cluster.until(lambda: all(asked(node, ReserveAsked) for node in nodes))
    for node in nodes:
        (reserve,) = asked(node, ReserveAsked)
        assert (reserve.control, reserve.group, reserve.size) == (1, group, 2)
        assert list(reserve.bundles.values()) == [Resources({"CPU": 1})]
        node.link.report(TellReserved(group, reserve.attempt))
    cluster.until(lambda: all(asked(node, CommitAsked) for node in nodes))
    assert of_group(cluster, group).state == messages.GROUP_READY
    for node in nodes:
        (reserve,) = asked(node, ReserveAsked)
        node.bundles = [HeldBundles(group, reserve.attempt, tuple(reserve.bundles), True)]
    cluster.kill()
    cluster.start()
    assert len(of_group(cluster, group).bundles) == 2
    cluster.until(lambda: of_group(cluster, group).state == messages.GROUP_READY)
    places = {bundle.node_id for bundle in of_group(cluster, group).bundles}
    assert places == {node.node_id for node in nodes}
    assert all(asked(node, ControlUnlinked) for node in nodes)
    assert [len(asked(node, ReserveAsked)) for node in nodes] == [1, 1]
    remove = messages.RemoveGroupRequest(group_id=group)
    cluster.client.call("PlacementGroups", "remove", remove)
    cluster.until(lambda: all(asked(node, ReleaseAsked) for node in nodes))
    assert asked(nodes[0], ReleaseAsked)[0].control == 2


def test_group_that_is_refused_waits_and_says_why(cluster: SmallCluster) -> None:
    cluster.start()
    (node,) = linked(cluster, 1)
    group = create(cluster, name="mine")
    cluster.until(lambda: asked(node, ReserveAsked))
    (reserve,) = asked(node, ReserveAsked)
    node.link.report(TellRefused(group, reserve.attempt, "it is kept for others"))
    name = messages.GetGroupRequest.GroupName(name="mine")
    found = messages.GetGroupRequest(name=name)
    cluster.until(
        lambda: cluster.client.call("PlacementGroups", "get", found).state == messages.GROUP_PENDING
    )
    assert "has refused it: it is kept for others" in of_group(cluster, group).reason
    listed = cluster.client.call("PlacementGroups", "list", messages.ListGroupsRequest()).groups
    assert [each.group_id for each in listed] == [group]


def test_group_is_watched_until_it_is_removed(cluster: SmallCluster) -> None:
    cluster.start()
    group = create(cluster)
    stream = cluster.client.stream(
        "PlacementGroups", "watch", messages.GetGroupRequest(group_id=group)
    )
    assert next(stream).state == messages.GROUP_PENDING
    request = messages.RemoveGroupRequest(group_id=group)
    cluster.client.call("PlacementGroups", "remove", request)
    assert [each.state for each in stream] == [messages.GROUP_REMOVED]


class Line:
    """A daemon's line for placement groups, and what came of it."""

    def __init__(self, node: LinkedNode) -> None:
        self.told: list[tuple[str, bytes, Any]] = []
        self.line = GroupLine(
            node.link, lambda each: self.told.append(("is", each.group, each.state))
        )

    def create(self, **facts: Any) -> PlacementGroupId:
        group = PlacementGroupId(new_id())
        given = {"strategy": "PACK", "bundles": (Shape((("CPU", 10_000),)),), **facts}
        spec = pack(GroupSpec(group, job_id=JobId(new_id()), **given))
        self.line.create(group, spec, lambda why: self.told.append(("made", group, why)))
        return group

    def remove(self, group: PlacementGroupId) -> None:
        self.line.remove(group)


def test_node_that_is_fenced_asks_for_no_group_of_before(cluster: SmallCluster) -> None:
    cluster.start()
    (node,) = linked(cluster, 1)
    mine = Line(node)
    node.link.line.end()
    group = mine.create()
    mine.line.after(lambda: mine.told.append(("after", b"", None)))
    mine.line.fenced()
    assert mine.told == [("after", b"", None)]
    other = mine.create()
    node.link.line.begin(node.link.incarnation)
    cluster.until(lambda: ("made", other, "") in mine.told)
    assert not [each for each in mine.told if each[1] == group]


def test_what_is_asked_of_groups_on_a_line_is_done_in_order_and_told(cluster: SmallCluster) -> None:
    cluster.start()
    (node,) = linked(cluster, 1)
    mine = Line(node)
    first = mine.create(name="mine")
    mine.remove(first)
    second = mine.create(name="mine")
    mine.line.after(lambda: mine.told.append(("after", b"", None)))
    third, fourth = mine.create(strategy="LOOSE"), mine.create(name="mine")
    cluster.until(lambda: len([each for each in mine.told if each[0] == "made"]) == 4)
    made = {group: refusal for what, group, refusal in mine.told if what == "made"}
    assert (made[first], made[second]) == ("", "")
    assert "it is one of PACK" in made[third]
    assert "the name 'mine' is taken" in made[fourth]
    assert mine.told.index(("made", second, "")) < mine.told.index(("after", b"", None))
    cluster.until(lambda: any(each.group == second for each in asked(node, ReserveAsked)))
    reserve = asked(node, ReserveAsked)[-1]
    assert reserve.commits
    node.link.report(TellCommitted(second, reserve.attempt))
    cluster.until(lambda: mine.told[-1] == ("is", second, "ready"))
    mine.remove(second)
    cluster.until(lambda: mine.told[-1] == ("is", second, "removed"))
    done: list[bool] = []
    mine.line.after(lambda: done.append(True))
    cluster.until(lambda: done)


def test_line_for_groups_goes_on_with_a_control_service_that_was_started_again(
    cluster: SmallCluster,
) -> None:
    cluster.start()
    node, other = linked(cluster, 2)
    mine, others = Line(node), Line(other)
    nowhere = (Shape((("none", 1),)),)
    kept = mine.create(bundles=nowhere)
    cluster.until(lambda: ("made", kept, "") in mine.told)
    nobody = PlacementGroupId(new_id())
    for group in (kept, nobody):
        others.line.follow(group)
    cluster.until(lambda: len(others.told) == 2)
    assert sorted(others.told) == sorted([("is", kept, "waits"), ("is", nobody, "missing")])
    cluster.kill()
    late = mine.create(bundles=nowhere)
    mine.remove(kept)
    cluster.start()
    cluster.until(lambda: ("made", late, "") in mine.told)
    cluster.until(lambda: others.told[-1] == ("is", kept, "removed"))
    listed = cluster.client.call("PlacementGroups", "list", messages.ListGroupsRequest()).groups
    states = {each.group_id: each.state for each in listed}
    assert states == {late: messages.GROUP_PENDING, kept: messages.GROUP_REMOVED}


# ------------------------------------------------------------------ orders, jobs, calls


def actor(cluster: SmallCluster, node: LinkedNode, made: bytes = b"") -> bytes:
    made = made or new_id()
    request = messages.CreateActorRequest(
        actor_id=made, owner_id=new_id(), node_id=node.node_id, creation=b"how"
    )
    cluster.client.call("Actors", "create", request)
    return made


def test_orders_come_once_and_in_order_over_kills(cluster: SmallCluster) -> None:
    cluster.start()
    (node,) = linked(cluster, 1)
    made: list[bytes] = []
    for _ in range(3):
        made.extend(actor(cluster, node) for _ in range(5))
        cluster.kill()
        cluster.start()
        # Its loop stood still: for long it would be taken for dead.
        cluster.until(lambda: len(node.of("order")) == len(made))
    end = messages.EndActorRequest(actor_id=made[0], no_restart=True, reason="asked")
    cluster.client.call("Actors", "end", end)
    cluster.until(lambda: len(node.of("order")) == len(made) + 1)
    wanted = [WantOrder(each, b"how") for each in made]
    assert node.of("order") == [*wanted, DropOrder(made[0])]


def test_actors_are_watched_over_kills_until_they_are_dead_or_left(cluster: SmallCluster) -> None:
    cluster.start()
    (node,) = linked(cluster, 1)
    early = new_id()
    node.link.watch_actor(early)
    watched, left = actor(cluster, node), actor(cluster, node)
    node.link.watch_actor(watched)
    node.link.watch_actor(left)
    cluster.until(lambda: {(watched, "PENDING"), (left, "PENDING")} <= set(node.of("actor")))
    node.link.leave_actor(left)
    node.link.leave_actor(left)
    cluster.kill()
    cluster.start()
    heard = len(node.of("actor"))
    actor(cluster, node, early)
    for each in (watched, left, early):
        end = messages.EndActorRequest(actor_id=each, no_restart=True, reason="asked")
        cluster.client.call("Actors", "end", end)
    cluster.until(lambda: {(watched, "DEAD"), (early, "DEAD")} <= set(node.of("actor")))
    # Changes may come as one, and what is watched still is told again.
    assert set(node.of("actor")[heard:]) - {(watched, "PENDING"), (early, "PENDING")} == {
        (watched, "DEAD"),
        (early, "DEAD"),
    }
    assert node.link._watched == {}


def test_jobs_are_followed_also_those_that_ended_while_nobody_listened(
    cluster: SmallCluster,
) -> None:
    cluster.start()
    (node,) = linked(cluster, 1)
    jobs = [new_id() for _ in range(3)]
    for job in jobs:
        begin = messages.BeginJobRequest(job_id=job, driver_id=new_id(), namespace="here")
        cluster.client.call("Jobs", "begin", begin)
    cluster.until(lambda: len(node.of("job")) == 3)
    cluster.kill()
    cluster.start()
    for job in jobs[:2]:
        end = messages.EndJobRequest(job_id=job, reason="done")
        cluster.client.call("Jobs", "end", end)
    cluster.until(lambda: len([j for j in node.of("job") if j.ended_at >= 0]) == 2)
    assert [facts.begun.job for facts in node.of("job")] == [*jobs, *jobs[:2]]
    assert {facts.reason for facts in node.of("job")} == {"", "done"}


def test_calls_of_one_lane_are_answered_in_order_also_while_control_is_killed(
    cluster: SmallCluster,
) -> None:
    cluster.start()
    (node,) = linked(cluster, 1)
    answers: list[int] = []
    for number in range(300):
        request = messages.PutRequest(namespace=b"n", key=b"k", value=b"%d" % number)
        request.overwrite = True
        then = lambda answer, number=number: answers.append(number)  # noqa: E731
        node.link.call("KeyValue", "put", request, then, lane="k")
        if number == 150:
            cluster.until(lambda: len(answers) > 50)
            cluster.kill()
            cluster.start()
    cluster.until(lambda: len(answers) == 300)
    assert answers == list(range(300))
    get = messages.GetRequest(namespace=b"n", keys=[b"k"])
    (found,) = ask(cluster, node, "KeyValue", "get", get).found
    assert found.value == b"299"


def test_call_that_is_refused_or_too_late_is_told(cluster: SmallCluster) -> None:
    cluster.start()
    (node,) = linked(cluster, 1)
    end = messages.EndJobRequest(job_id=new_id())
    assert "see `weft list jobs`" in str(ask(cluster, node, "Jobs", "end", end))
    cluster.kill()
    late = ask(cluster, node, "Jobs", "end", messages.EndJobRequest(), timeout_s=0.2)
    assert "has not answered within 0.2 s (Jobs.end: " in str(late)


# ------------------------------------------------------------------ what makes no sense


@pytest.mark.parametrize(
    ("heartbeats", "told"),
    [
        ([], "nobody says which node"),
        ([messages.Heartbeat()], "has 16 bytes, not 0"),
        (
            [messages.Heartbeat(sender=messages.Sender(node_id=b"n" * 16, incarnation=9))],
            "is not listened to as incarnation 9: it is no member",
        ),
    ],
)
def test_heartbeat_that_makes_no_sense_ends_its_stream(
    cluster: SmallCluster, heartbeats: list[messages.Heartbeat], told: str
) -> None:
    cluster.start()
    stream = cluster.client.stream("Members", "heartbeats", iter(heartbeats))
    with pytest.raises(RpcError, match=told):
        next(stream)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"view": messages.ViewDelta(source=1, changed=[messages.Node()])}, "16 bytes, not 0"),
        (
            {"view": messages.ViewDelta(source=1, changed=[messages.Node(node_id=b"m" * 16)])},
            "speaks for another",
        ),
        ({"view": messages.ViewDelta(source=7)}, "speaks for another"),
    ],
)
def test_member_that_says_nonsense_is_told_so(
    cluster: SmallCluster, said: dict[str, Any], told: str
) -> None:
    cluster.start()
    node = new_id()
    register = messages.RegisterRequest(node=messages.Node(node_id=node))
    incarnation = cluster.client.call("Members", "register", register).incarnation
    assert incarnation == 1
    sender = messages.Sender(node_id=node, incarnation=1)
    heartbeat = messages.Heartbeat(sender=sender, **said)
    stream = cluster.client.stream("Members", "heartbeats", iter([heartbeat]))
    with pytest.raises(RpcError, match=told):
        list(stream)


def test_view_that_builds_on_what_was_not_heard_is_asked_for_whole(cluster: SmallCluster) -> None:
    cluster.start()
    node = new_id()
    register = messages.RegisterRequest(node=messages.Node(node_id=node))
    cluster.client.call("Members", "register", register)
    late = messages.ViewDelta(source=1, number=5, base=4, changed=[messages.Node(node_id=node)])
    heartbeat = messages.Heartbeat(sender=messages.Sender(node_id=node, incarnation=1), view=late)
    stream = cluster.client.stream("Members", "heartbeats", iter([heartbeat]))
    assert next(stream).ask_whole
    stream.cancel()
