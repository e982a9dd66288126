"""Real control services, spoken to over gRPC."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from weft._control.sqlite import SqliteJournal
from weft._machines.directory import ActorDirectory
from weft._machines.enrolments import EnrolActor
from weft._machines.keyvalues import KeyValues, PutValue
from weft._machines.ledger import Ledger, LedgerEntry
from weft._transport.control import messages
from weft._transport.control.client import ControlClient, ControlStream, Names
from weft._transport.control.methods import bearer
from weft._transport.credentials import Credentials, make_credentials
from weft.exceptions import AuthenticationError, GetTimeoutError, RpcError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Etcd

pytestmark = pytest.mark.slow

WAIT_S = 20.0
NUMBERS = itertools.count(1)


def new_id() -> bytes:
    return next(NUMBERS).to_bytes(16, "big")


class Place:
    """A session's folder, the control services in it, and a client."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700)
        self.credentials = make_credentials(folder / "credentials")
        self.running: list[subprocess.Popen[bytes]] = []
        self.clients: list[ControlClient] = []
        self.client = self.new_client()

    def new_client(self, token: bytes | None = None) -> ControlClient:
        known = self.credentials
        shown = Credentials(known.token if token is None else token, known.certificate)
        self.clients.append(ControlClient(str(self.folder / "control"), shown))
        return self.clients[-1]

    def command(self, *options: str) -> list[str]:
        folder = str(self.folder / "credentials")
        return [
            sys.executable, "-m", "weft._control", str(self.folder), "--credentials", folder,
            *options,
        ]  # fmt: skip

    def start(self, *options: str) -> Any:
        command = self.command(*options)
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        self.running.append(process)
        return process

    def kill(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()
        self.running.clear()

    def is_back(self) -> None:
        """Wait until the client has found the newest service."""
        self.put(b"back")

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.kill()

    # ------------------------------------------------------------ what is asked

    def put(self, key: bytes, value: bytes = b"", **facts: Any) -> bool:
        client = facts.pop("client", self.client)
        request = messages.PutRequest(
            namespace=b"n", key=key, value=value, overwrite=facts.pop("overwrite", True)
        )
        return bool(client.call("KeyValue", "put", request, **facts).existed)

    def get(self, *keys: bytes) -> dict[bytes, bytes]:
        request = messages.GetRequest(namespace=b"n", keys=keys)
        return {each.key: each.value for each in self.client.call("KeyValue", "get", request).found}

    def create(self, actor: bytes, node: bytes = b"", **facts: Any) -> bytes:
        request = messages.CreateActorRequest(
            actor_id=actor, owner_id=b"o" * 16, node_id=node, creation=b"how", **facts
        )
        return bytes(self.client.call("Actors", "create", request).actor_id)

    def register(self, node: bytes) -> int:
        request = messages.RegisterRequest(node=messages.Node(node_id=node))
        return int(self.client.call("Members", "register", request).incarnation)

    def report(self, sender: messages.Sender, actor: bytes, worker: bytes, **what: Any) -> None:
        header = messages.Header(sender=sender)
        request = messages.ReportActorRequest(
            header=header, actor_id=actor, worker_id=worker, **what
        )
        self.client.call("Actors", "report", request)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    before = pollers()
    place = Place(tmp_path / "s")
    yield place
    place.close()
    # gRPC closes its last channel's after a moment, in a thread of its own.
    wait_until(lambda: pollers() <= before)


def pollers() -> int:
    """Return how many of gRPC's pollers this process has."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # A thread has closed it meanwhile.
            found += "anon_inode:" in os.readlink(link)  # noqa: PTH115 - it is no path
    return found


@contextlib.contextmanager
def reading(stream: ControlStream) -> Iterator[ControlStream]:
    try:
        yield stream
    finally:
        stream.cancel()


# ------------------------------------------------------------------ asking


def test_keys_and_values_go_over_the_socket(place: Place) -> None:
    place.start()
    assert place.put(b"a", b"1") is False
    assert place.put(b"a", b"2", overwrite=False) is True
    assert place.get(b"a", b"nothing") == {b"a": b"1"}
    for key in (b"b1", b"b2", b"b3"):
        place.put(key)

    def keys(**facts: Any) -> tuple[list[bytes], bool]:
        request = messages.KeysRequest(namespace=b"n", prefix=b"b", **facts)
        answer = place.client.call("KeyValue", "keys", request)
        return list(answer.keys), answer.is_last

    assert keys() == ([b"b1", b"b2", b"b3"], True)
    assert keys(most=2) == ([b"b1", b"b2"], False)
    assert keys(after=b"b2", most=2) == ([b"b3"], True)
    exists = messages.ExistsRequest(namespace=b"n", key=b"a")
    assert place.client.call("KeyValue", "exists", exists).exists
    delete = messages.DeleteRequest(namespace=b"n", key=b"b", by_prefix=True)
    assert place.client.call("KeyValue", "delete", delete).deleted == 3


def test_page_of_long_keys_ends_before_it_is_too_large(place: Place) -> None:
    place.start()
    written = [b"%04d" % number + b"x" * 4000 for number in range(300)]
    for key in written:
        place.put(key)
    read: list[bytes] = []
    pages = []
    while not (pages and pages[-1].is_last):
        request = messages.KeysRequest(namespace=b"n", after=read[-1] if read else None)
        pages.append(place.client.call("KeyValue", "keys", request))
        read += pages[-1].keys
    assert (read, len(pages)) == (written, 2)


def test_jobs_begin_change_and_end_and_are_watched(place: Place) -> None:
    place.start()
    old, job = new_id(), new_id()

    def begin(job: bytes) -> None:
        request = messages.BeginJobRequest(
            job_id=job, driver_id=new_id(), namespace="here", metadata={"user": "me"}
        )
        place.client.call("Jobs", "begin", request)

    def end(job: bytes) -> None:
        request = messages.EndJobRequest(job_id=job, reason="done")
        place.client.call("Jobs", "end", request)

    begin(old)
    with reading(place.client.stream("Jobs", "watch", messages.WatchJobsRequest())) as watch:
        assert next(watch).job_id == old
        end(old)
        ended = next(watch)
        assert (ended.job_id, ended.reason, ended.HasField("ended_at")) == (old, "done", True)
        begin(job)
        assert next(watch).limits == messages.Limits(weight=1)
        limits = messages.Limits(quota={"CPU": 20_000}, weight=3, priority=-2)
        place.client.call("Jobs", "limit", messages.LimitJobRequest(job_id=job, limits=limits))
        assert next(watch).limits == limits
    listed = place.client.call("Jobs", "list", messages.ListJobsRequest()).jobs
    assert [each.job_id for each in listed] == [job, old]
    assert (listed[0].namespace, dict(listed[0].metadata)) == ("here", {"user": "me"})


def test_messages_reach_subscribers_and_gaps_are_told(place: Place) -> None:
    place.start()

    def publish(message: bytes) -> None:
        request = messages.PublishRequest(topic=b"t", message=message)
        place.client.call("Topics", "publish", request)

    publish(b"before")
    with reading(
        place.client.stream("Topics", "subscribe", messages.SubscribeRequest(topic=b"t"))
    ) as stream:
        begun = next(stream)
        assert (list(begun.messages), begun.missed) == ([], 0)
        publish(b"1")
        assert list(next(stream).messages) == [b"1"]
    publish(b"2")
    request = messages.SubscribeRequest(topic=b"t", cursor=begun.cursor)
    with reading(place.client.stream("Topics", "subscribe", request)) as stream:
        assert list(next(stream).messages) == [b"1", b"2"]
    place.kill()
    place.start()
    place.is_back()
    with reading(place.client.stream("Topics", "subscribe", request)) as stream:
        again = next(stream)
        assert (list(again.messages), again.missed, again.cursor.epoch) == ([], -1, 2)
    with pytest.raises(RpcError, match="put it into an object"):
        publish(bytes(300_000))


def test_actor_lives_by_the_orders_and_reports_of_nodes(place: Place) -> None:
    place.start()
    node, actor, worker = new_id(), new_id(), new_id()
    sender = messages.Sender(node_id=node, incarnation=place.register(node))
    taken: queue.SimpleQueue[Any] = queue.SimpleQueue()
    taken.put(messages.FollowOrdersRequest(sender=sender))
    watched = iter([messages.WatchActorsRequest(actor_ids=[actor])])
    with (
        reading(place.client.stream("Members", "follow", iter(taken.get, None))) as orders,
        reading(place.client.stream("Actors", "watch", watched)) as watch,
    ):
        facts = {"name": "counter", "class_name": "Counter", "amounts": {"CPU": 1}}
        assert place.create(actor, node, handle=b"methods", max_restarts=1, **facts) == actor
        by_id = messages.ResolveActorRequest(actor_id=actor)
        waits = place.client.call("Actors", "resolve", by_id)
        assert (waits.asked_id, waits.why) == (node, "")
        assert next(watch).state == messages.ActorState.Value("PENDING")
        want = next(orders)
        assert (want.first, want.orders[0].want.actor_id) == (1, actor)
        place.report(
            sender, actor, worker,
            placed=messages.ReportActorRequest.Placed(asked=node, node_id=node, address="there"),
        )  # fmt: skip
        become = next(orders)
        assert (become.first, become.orders[0].become.creation) == (2, b"how")
        place.report(sender, actor, worker, started=messages.Done())
        alive = next(watch)
        assert (alive.state, alive.address) == (messages.ActorState.Value("ALIVE"), "there")
        name = messages.ActorName(name="counter")
        found = place.client.call("Actors", "resolve", messages.ResolveActorRequest(name=name))
        assert (found.actor_id, found.worker_id, found.node_id) == (actor, worker, node)
        assert (found.handle, found.why) == (b"methods", "alive; restarted 0 times of 1")
        again = messages.CreateActorRequest(
            actor_id=new_id(), owner_id=node, creation=b"how", name="counter", get_if_exists=True
        )
        there = place.client.call("Actors", "create", again)
        assert (there.actor_id, there.handle) == (actor, b"methods")
        names = place.client.call("Actors", "names", messages.ActorNamesRequest(namespace=""))
        assert list(names.names) == [name]
        place.report(sender, actor, worker, lost="killed")
        assert next(watch).state == messages.ActorState.Value("RESTARTING")
        end = messages.EndActorRequest(actor_id=actor, no_restart=True, reason="asked")
        place.client.call("Actors", "end", end)
        dead = next(watch)
        assert (dead.state, dead.cause) == (messages.ActorState.Value("DEAD"), "asked")
        assert [each.WhichOneof("what") for each in next(orders).orders] == ["want"]
        assert [each.WhichOneof("what") for each in next(orders).orders] == ["drop"]
        taken.put(messages.FollowOrdersRequest(after=1))
        taken.put(messages.FollowOrdersRequest(after=5))
        with pytest.raises(RpcError, match="has no order 5 yet"):
            next(orders)
        taken.put(None)
    # After a restart the orders are the same, but for those that were taken.
    place.kill()
    place.start()
    place.is_back()
    assert orders_of(place, sender, 0) == (2, ["become", "want", "drop"])
    assert orders_of(place, sender, 3) == (4, ["drop"])
    assert orders_of(place, sender, 0) == (4, ["drop"])
    listed = place.client.call("Actors", "list", messages.ListActorsRequest())
    assert listed.is_last
    (row,) = listed.actors
    assert (row.name, row.class_name, dict(row.amounts)) == ("counter", "Counter", {"CPU": 1})
    assert row.handle == b""


def orders_of(place: Place, sender: messages.Sender, after: int) -> tuple[int, list[str]]:
    follow = iter([messages.FollowOrdersRequest(sender=sender, after=after)])
    with reading(place.client.stream("Members", "follow", follow)) as orders:
        found = next(orders)
        return found.first, [order.WhichOneof("what") for order in found.orders]


def test_node_that_was_declared_dead_is_fenced(place: Place) -> None:
    place.start()
    node, actor = new_id(), new_id()
    sender = messages.Sender(node_id=node, incarnation=place.register(node))
    place.create(actor, node)
    with reading(
        place.client.stream(
            "Members", "follow", iter([messages.FollowOrdersRequest(sender=sender)])
        )
    ) as orders:
        next(orders)
        drain = messages.DrainRequest(node_id=node, is_preemption=True, deadline_s=0.01)
        place.client.call("Members", "drain", drain)
        with pytest.raises(RpcError, match="is no member as incarnation 1") as caught:
            next(orders)
        assert caught.value.rpc_code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    with pytest.raises(RpcError, match="must register again"):
        place.report(sender, actor, new_id(), started=messages.Done())


@pytest.mark.parametrize(
    ("service", "method", "request_", "told"),
    [
        ("Actors", "resolve", messages.ResolveActorRequest(actor_id=b"a" * 16), "no actor 6161"),
        ("Actors", "resolve", messages.ResolveActorRequest(), "the actor's id has 16 bytes"),
        ("Actors", "create", messages.CreateActorRequest(actor_id=b"short"), "has 16 bytes, not 5"),
        (
            "Actors", "report",
            messages.ReportActorRequest(actor_id=b"a" * 16, worker_id=b"w" * 16),
            "does not say what has happened",
        ),
        (
            "Actors", "report",
            messages.ReportActorRequest(
                actor_id=b"a" * 16, worker_id=b"w" * 16, failed=bytes(600_000)
            ),
            "an error of 600000 bytes",
        ),
        ("Jobs", "end", messages.EndJobRequest(job_id=b"j" * 16), "no job 6a6a"),
        ("KeyValue", "put", messages.PutRequest(key=bytes(5000)), "a key has at most 4096 bytes"),
        ("Members", "register", messages.RegisterRequest(), "the node's id has 16 bytes"),
        ("Members", "drain", messages.DrainRequest(node_id=b"n" * 16), "is no living member"),
        (
            "PlacementGroups", "create",
            messages.CreateGroupRequest(group_id=b"g" * 16, strategy="LOOSE"),
            "it is one of PACK, SPREAD",
        ),
        (
            "PlacementGroups", "create",
            messages.CreateGroupRequest(group_id=b"g" * 16, strategy="PACK"),
            "needs at least one bundle",
        ),
        (
            "PlacementGroups", "get", messages.GetGroupRequest(group_id=b"g" * 16),
            "no placement group 6767",
        ),
        ("KeyValue", "put", messages.PutRequest(value=bytes(5_000_000)), "larger than max"),
    ],
)  # fmt: skip
def test_request_that_makes_no_sense_is_refused_in_one_line(
    place: Place, service: str, method: str, request_: Any, told: str
) -> None:
    place.start()
    with pytest.raises(RpcError, match=told) as caught:
        place.client.call(service, method, request_)
    assert "\n" not in str(caught.value)
    assert place.put(b"a") is False


def test_stream_of_orders_without_a_node_is_refused(place: Place) -> None:
    place.start()
    for requests in ([], [messages.FollowOrdersRequest()]):
        with (
            reading(place.client.stream("Members", "follow", iter(requests))) as orders,
            pytest.raises(RpcError, match=r"which node|has 16 bytes"),
        ):
            next(orders)


def test_watch_of_what_is_no_actor_is_refused(place: Place) -> None:
    place.start()
    wrong = iter([messages.WatchActorsRequest(actor_ids=[b"short"])])
    with (
        reading(place.client.stream("Actors", "watch", wrong)) as watch,
        pytest.raises(RpcError, match="has 16 bytes"),
    ):
        next(watch)


# ------------------------------------------------------------------ who may ask


@pytest.mark.parametrize(
    "spoil", [lambda t: b"", lambda t: t[:-1], lambda t: t + b"x", lambda t: t[::-1]]
)
def test_wrong_token_is_told_in_one_line_and_gets_nothing(
    place: Place, spoil: Callable[[bytes], bytes]
) -> None:
    place.start()
    stranger = place.new_client(spoil(place.credentials.token))
    calls: list[Callable[[], Any]] = [
        lambda: stranger.call("Jobs", "list", messages.ListJobsRequest()),
        lambda: next(stranger.stream("Jobs", "watch", messages.WatchJobsRequest())),
        lambda: next(stranger.stream("Actors", "watch", iter([messages.WatchActorsRequest()]))),
        lambda: stranger.call("Members", "list", messages.ListMembersRequest()),
    ]
    for call in calls:
        with pytest.raises(AuthenticationError, match="the token is wrong"):
            call()


def test_call_without_or_with_two_tokens_gets_nothing(place: Place) -> None:
    place.start()
    place.put(b"a")
    with grpc.insecure_channel(f"unix:{place.folder / 'control'}") as channel:
        stub = channel.unary_unary("/weft.control.v1.Jobs/List")
        good = bearer(place.credentials.token)
        for metadata in ((), (good, good), ((good[0], good[1].removeprefix("Bearer ")),)):
            with pytest.raises(grpc.RpcError) as caught:
                stub(b"", metadata=metadata, timeout=WAIT_S)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert stub(b"", metadata=(good,), timeout=WAIT_S) == b""
        with pytest.raises(grpc.RpcError):
            stub(b"\xff\xff\xff", metadata=(good,), timeout=WAIT_S)


def test_bytes_that_are_no_grpc_bring_nothing_down(place: Place) -> None:
    process = place.start()
    place.put(b"a")
    randomness = random.Random(1)
    for size in (0, 1, 24, 1000, 100_000):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(place.folder / "control"))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                stranger.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + randomness.randbytes(size))
    assert place.get(b"a") == {b"a": b""}
    assert process.poll() is None


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: folder.chmod(0o750), "is open to others"),
        (lambda folder: (folder / "credentials/token").chmod(0o644), "is open to others"),
        (lambda folder: (folder / "credentials/token").write_text(""), "has not 16 bytes"),
        (lambda folder: (folder / "credentials/token").unlink(), "cannot be read"),
    ],
)
def test_place_that_is_not_private_is_refused(
    place: Place, spoil: Callable[[Path], Any], told: str
) -> None:
    spoil(place.folder)
    assert told in ended(place.start())


def test_folder_with_too_long_a_path_for_a_socket_is_refused(tmp_path: Path) -> None:
    place = Place(tmp_path / ("s" * 120))
    try:
        assert "the path of a socket has at most 107" in ended(place.start())
    finally:
        place.close()


@pytest.mark.parametrize("url", ["sqlite:", "etcd://host", "etcd:///prefix", "oracle://x", "file"])
def test_journal_that_is_none_is_refused(place: Place, url: str) -> None:
    text = ended(place.start("--journal", url))
    assert "give sqlite:PATH, etcd://HOST:PORT,.../PREFIX or memory:" in text


def test_journal_that_cannot_be_opened_is_told(place: Place, tmp_path: Path) -> None:
    text = ended(place.start("--journal", f"sqlite:{tmp_path / 'nowhere' / 'journal'}"))
    assert "cannot be opened: No such file or directory" in text


def wait_until(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def hears(process: subprocess.Popen[bytes], number: int) -> bool:
    """Tell whether a process has said what it does at a signal."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) & 1 << number - 1)


def ended(process: subprocess.Popen[bytes]) -> str:
    """Return the one line with which a service gave up."""
    assert process.wait(WAIT_S) == 1
    assert process.stderr is not None
    text = process.stderr.read().decode()
    assert text.startswith("weft control: ")
    assert text.count("\n") == 1
    return text


# ------------------------------------------------------------------ ends and restarts


def test_service_ends_when_it_is_told_and_what_it_knew_stays(place: Place) -> None:
    for number in (1, 2):
        process = place.start()
        place.put(b"%d" % number)
        assert place.client.number == number
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0
    place.start()
    assert place.get(b"1", b"2") == {b"1": b"", b"2": b""}


def test_service_ends_with_its_lifeline(place: Place) -> None:
    ours, theirs = os.pipe()
    command = place.command("--lifeline", str(ours))
    with subprocess.Popen(command, pass_fds=[ours]) as process:
        os.close(ours)
        place.put(b"a")
        assert process.poll() is None
        os.close(theirs)
        assert process.wait(WAIT_S) == 0


def test_second_service_on_one_journal_is_refused(place: Place) -> None:
    place.start()
    place.put(b"a")
    assert "another control service has the journal" in ended(place.start())
    assert place.get(b"a") == {b"a": b""}


def test_standby_takes_over_and_ends_when_it_is_told(place: Place) -> None:
    first = place.start()
    place.put(b"a")
    second, third = place.start("--standby"), place.start("--standby")
    for process in (second, third):
        wait_until(lambda process=process: hears(process, signal.SIGTERM))  # type: ignore[misc]
    first.kill()
    first.wait()
    place.put(b"b")
    assert place.client.number == 2
    assert place.get(b"a", b"b") == {b"a": b"", b"b": b""}
    for process in (second, third):
        process.terminate()
        assert process.wait(WAIT_S) == 0


def test_killed_service_is_back_with_ten_thousand_of_each(place: Place) -> None:
    things = 10_000
    ledger = Ledger([ActorDirectory(), KeyValues()])
    journal = SqliteJournal(place.folder / "journal.db")
    journal.open()
    for first in range(0, things, 100):
        commands: list[Any] = []
        for number in range(first, first + 100):
            actor, name = number.to_bytes(16, "big"), f"actor {number}"
            commands.append(EnrolActor(actor, b"o" * 16, b"", b"", b"how", name, max_restarts=-1))
            commands.append(PutValue(b"n", b"%d" % number, b"value"))
        journal.append([ledger.encode(LedgerEntry(1.0, command)) for command in commands])
    journal.close()
    place.start()
    place.put(b"more")
    place.kill()
    place.start()
    assert place.get(b"9999", b"more") == {b"9999": b"value", b"more": b""}
    keys = place.client.call("KeyValue", "keys", messages.KeysRequest(namespace=b"n", most=5))
    names = place.client.call("Actors", "names", messages.ActorNamesRequest())
    assert (list(keys.keys)[:2], len(names.names)) == ([b"0", b"1"], things)


@pytest.mark.parametrize("seed", range(3))
def test_what_was_answered_outlives_kills_at_any_moment(place: Place, seed: int) -> None:
    randomness = random.Random(seed)
    place.start()
    place.put(b"begun")
    answered: list[tuple[bytes, bytes, bool]] = []
    is_over = threading.Event()

    def work(name: bytes) -> None:
        client = place.new_client()
        for number in itertools.count():
            if is_over.is_set():
                return
            key, value = b"%d" % (number // 2), name + b"/%d" % number
            existed = place.put(key, value, overwrite=False, client=client)
            answered.append((key, value, existed))

    threads = [threading.Thread(target=work, args=(b"%d" % n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        enough = len(answered) + randomness.randrange(1, 60)
        wait_until(lambda enough=enough: len(answered) >= enough)  # type: ignore[misc]
        place.kill()
        place.start()
    is_over.set()
    for thread in threads:
        thread.join()
    won = {key: value for key, value, existed in answered if not existed}
    keys = {key for key, _, _ in answered}
    # Each key was put first by somebody, who was told so, however often it had to ask.
    assert won.keys() == keys
    assert len([None for _, _, existed in answered if not existed]) == len(keys)
    assert place.get(*keys) == won


def test_command_is_done_once_if_the_service_dies_before_it_answers(place: Place) -> None:
    place.start()
    place.put(b"begun")
    job = new_id()
    request = messages.BeginJobRequest(job_id=job, driver_id=new_id())
    name = messages.RequestId(client=new_id(), number=1)
    request.header.id.CopyFrom(name)
    with grpc.insecure_channel(f"unix:{place.folder / 'control'}") as channel:
        stub = channel.unary_unary("/weft.control.v1.Jobs/Begin")
        good = (bearer(place.credentials.token),)
        stub(request.SerializeToString(), metadata=good, timeout=WAIT_S)
        end = messages.EndJobRequest(job_id=job, reason="done")
        place.client.call("Jobs", "end", end)
        place.kill()
        place.start()
        place.is_back()
        # The answer is that of the first time, though a job of this id cannot begin again.
        stub(request.SerializeToString(), metadata=good, timeout=WAIT_S, wait_for_ready=True)


def test_caller_waits_while_there_is_no_service_and_is_told_when_time_is_up(place: Place) -> None:
    with pytest.raises(GetTimeoutError, match=r"not answered within 0\.3 s \(KeyValue\.put: "):
        place.put(b"a", timeout_s=0.3)
    threading.Timer(0.2, place.start).start()
    assert place.put(b"a") is False


def test_full_disk_refuses_commands_and_reads_go_on(place: Place, tmp_path: Path) -> None:
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None or os.getuid():
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("the kernel does not let us mount a small disk")
    try:
        place.start("--journal", f"sqlite:{disk / 'journal.db'}")
        place.put(b"a", b"1")
        with pytest.raises(RpcError, match="make room") as caught:
            place.put(b"large", bytes(1024 * 1024))
        assert caught.value.rpc_code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert place.get(b"a", b"large") == {b"a": b"1"}
        assert place.put(b"small") is False
    finally:
        place.kill()
        subprocess.run([umount, "-l", str(disk)], check=True)


def test_service_that_was_replaced_is_not_believed(place: Place) -> None:
    place.start()
    place.put(b"a")
    place.client._number = 99  # As if a later one had answered.
    with pytest.raises(GetTimeoutError, match="answered that was replaced"):
        place.put(b"b", timeout_s=1.0)
    with (
        reading(place.client.stream("Jobs", "watch", messages.WatchJobsRequest())) as watch,
        pytest.raises(RpcError, match="answered that was replaced"),
    ):
        next(watch)


def test_names_of_requests_tell_which_answers_their_client_has() -> None:
    names = Names()
    first, second, third = names.begin(), names.begin(), names.begin()
    assert [name.number for name in (first, second, third)] == [1, 2, 3]
    assert third.done_below == 1
    names.end(second)
    assert names.begin().done_below == 1
    names.end(first)
    assert names.begin().done_below == 3
    assert first.client == third.client != Names().begin().client


# ------------------------------------------------------------------ etcd


@pytest.fixture
def other_place(place: Place, tmp_path: Path) -> Iterator[Place]:
    """The place of another head: it stands by the same etcd."""
    other = Place(tmp_path / "t")
    yield other
    other.close()


def test_standby_takes_over_from_a_killed_head(
    place: Place, other_place: Place, etcd: Etcd
) -> None:
    url = f"etcd://{etcd.host}/takeover"
    first = place.start("--journal", url)
    place.put(b"a", b"1")
    standby = other_place.start("--journal", url, "--standby")
    lease = other_place.folder / "lease"
    wait_until(lambda: lease.exists() and lease.read_bytes())
    assert standby.poll() is None
    first.kill()
    # The lease runs out after 3 s; the rest is what the machine has to do besides.
    assert other_place.put(b"a", b"2", overwrite=False) is True
    assert other_place.client.number == 2
    assert other_place.get(b"a") == {b"a": b"1"}


def test_killed_head_is_back_with_what_its_journal_has(place: Place, etcd: Etcd) -> None:
    url = f"etcd://{etcd.host}/restart"
    place.start("--journal", url)
    place.put(b"a", b"1")
    place.kill()
    place.start("--journal", url)
    assert place.get(b"a") == {b"a": b"1"}


def test_second_head_in_one_place_does_not_end_the_lease_of_the_first(
    place: Place, etcd: Etcd
) -> None:
    url = f"etcd://{etcd.host}/second"
    place.start("--journal", url)
    place.put(b"a", b"1")
    assert "another control service has the journal second in etcd" in ended(
        place.start("--journal", url)
    )
    assert place.put(b"a", b"2", overwrite=False) is True
    assert place.client.number == 1


def test_head_that_cannot_reach_etcd_ends_and_says_so(place: Place, own_etcd: Etcd) -> None:
    url = f"etcd://{own_etcd.host}/cluster"
    process = place.start("--journal", url)
    place.put(b"a")
    own_etcd.kill()
    assert "may be another's: it could not be held" in ended(process)
    own_etcd.start()
    place.start("--journal", url)
    assert place.get(b"a") == {b"a": b""}
