from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from weft import _launch
from weft._launch import LOCK, NodeOptions, caller_path, start_daemon
from weft._resources import Resources
from weft._specs import Shape
from weft._transport.sockets import connect
from weft._wire.codec import encode
from weft._wire.messages import (
    ActorNews,
    Answer,
    Ask,
    AskLoan,
    Bye,
    Call,
    Demand,
    Discard,
    EndActor,
    Evicted,
    Granted,
    Hello,
    Inspect,
    Inspected,
    KillWorker,
    MadeSegment,
    Output,
    Quit,
    Reclaim,
    Recorded,
    Refused,
    ReturnLease,
    Run,
    SegmentsMade,
)
from weft._wire.records import SessionSnapshot

if TYPE_CHECKING:
    from conftest import Session

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
Gone = Callable[[list[int], float], list[int]]


def shape(env: str = "", **amounts: float) -> Shape:
    return Shape(amounts=tuple(sorted(Resources(amounts).items())), env=env)


CPU = shape(CPU=1)


def state_of(session: Session, granted: Granted) -> str:
    found = [w["state"] for w in session.workers() if w["worker_id"] == granted.worker_id.hex()]
    return found[0] if found else "gone"


# ------------------------------------------------------------------ start and end


def test_session_starts_answers_and_leaves_nothing(
    session: Session, roots: tuple[Path, Path], gone: Gone
) -> None:
    welcome = session.welcome
    assert welcome.resources["CPU"] == 2
    assert welcome.resources["memory"] > 0
    assert Path(welcome.session_dir).stat().st_mode & 0o777 == 0o700
    assert Path(welcome.store_dir).stat().st_mode & 0o777 == 0o700
    session.lease(CPU)
    pids = [worker["pid"] for worker in session.workers()]
    assert len(pids) == 2, "one worker a CPU is started ahead of demand"
    assert session.bye() == 0
    assert not Path(welcome.session_dir).exists()
    assert not Path(welcome.store_dir).exists()
    assert gone([*pids, session.started.process.pid], 1) == []


def test_daemon_of_a_driver_that_is_killed_ends_with_everything(
    roots: tuple[Path, Path], tmp_path: Path, gone: Gone
) -> None:
    pid_file = tmp_path / "child"
    driver = subprocess.Popen(
        [sys.executable, HERE / "killed_driver.py", HERE, pid_file],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert driver.stdout is not None
    holder, *pids = [int(word) for word in driver.stdout.readline().split()]
    children = [tmp_path / "child.0", tmp_path / "child.1"]
    until = time.monotonic() + 10
    while not all(file.exists() and file.read_text() for file in children):
        assert time.monotonic() < until
        time.sleep(0.01)
    pids += [int(file.read_text()) for file in children]
    driver.kill()
    driver.wait()
    driver.stdout.close()
    try:
        assert gone(pids, 3) == []
        _temp, _store = roots
        assert [str(p) for root in roots for p in root.rglob("*") if "weft-" not in p.name] == []
    finally:
        os.kill(holder, signal.SIGKILL)


def test_leftovers_of_dead_sessions_are_removed_and_living_ones_kept(
    start: Callable[..., Session], roots: tuple[Path, Path]
) -> None:
    dead = []
    for root in roots:
        place = root / f"weft-{os.getuid()}" / "dead"
        (place / "deep").mkdir(parents=True)
        (place / "deep" / "file").write_text("left")
        (place / LOCK).touch()
        dead.append(place)
    first = start()
    second = start()
    first.wait(lambda: not any(place.exists() for place in dead))
    for session in (first, second):
        assert Path(session.welcome.store_dir).exists()
        session.lease(CPU)


def test_driver_without_standard_streams_starts_a_session(
    roots: tuple[Path, Path], tmp_path: Path
) -> None:
    """As a program that has made itself a daemon."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.closerange(0, 3)
            started = start_daemon(
                node=NodeOptions(worker_entry="stand_in:main", sys_path=(str(HERE), *caller_path()))
            )
            link = connect(started.address)
            link.sendall(encode([Hello(1, b"d" * 16, "", os.getpid(), "driver")]))
            code = 0 if link.recv(10) else 2
            link.close()
            started.process.wait(10)
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def test_two_daemons_do_not_meet(start: Callable[..., Session]) -> None:
    assert start().welcome.session != start().welcome.session


def test_daemon_whose_worker_code_cannot_be_imported_says_so(roots: tuple[Path, Path]) -> None:
    started = start_daemon(
        node=NodeOptions(worker_entry="no_such_module:main", sys_path=caller_path())
    )
    assert started.process.wait(10) == 1
    assert "No module named 'no_such_module'" in started.last_words()
    # Its log stays for the error message; the next session removes it.
    for path in Path(started.session_dir).iterdir():
        path.unlink()
    assert started.process.poll() == 1


def test_template_that_dies_takes_its_workers_along_and_is_replaced(
    session: Session, gone: Gone
) -> None:
    granted = session.lease(CPU)
    session.say(Demand(2, CPU, 2, 0))
    actor_id, _ = session.create_actor(max_restarts=1)
    alive = actor_state(session, actor_id, "alive")
    pids = [worker["pid"] for worker in session.workers()]
    daemon = session.started.process.pid
    children = Path(f"/proc/{daemon}/task/{daemon}/children")
    (template,) = [int(pid) for pid in children.read_text().split()]
    os.kill(template, signal.SIGKILL)
    certificate = session.explain(granted.worker_id)
    assert (certificate.exit_code, certificate.reason) == (None, "")
    assert gone(pids, 3) == []
    assert (
        "ended with the process that had started it"
        in actor_state(session, actor_id, "restarting").cause
    )
    assert actor_state(session, actor_id, "alive").address != alive.address
    session.run(session.lease(CPU, key=3), "print:again")
    session.wait(lambda: session.output() == b"again\n")
    (other,) = [int(pid) for pid in children.read_text().split()]
    assert other != template


def test_termination_ends_the_session(session: Session, gone: Gone) -> None:
    session.lease(CPU)
    pids = [worker["pid"] for worker in session.workers()]
    os.kill(session.started.process.pid, signal.SIGTERM)
    assert session.started.process.wait(5) == 0
    assert gone(pids, 1) == []
    assert not Path(session.started.session_dir).exists()


def test_session_directory_that_is_too_long_moves_to_a_short_one(
    roots: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)
    monkeypatch.setenv("WEFT_TEMP_DIR", str(deep))
    started = start_daemon(
        node=NodeOptions(worker_entry="stand_in:main", sys_path=(str(HERE), *caller_path()))
    )
    assert len(started.address) < 60
    started.process.kill()
    started.process.wait(5)
    for place in (started.session_dir, started.store_dir):
        for path in Path(place).iterdir():
            path.unlink()
        Path(place).rmdir()
    with pytest.raises(OSError, match="too long for unix sockets"):
        start_daemon(node=NodeOptions(temp_dir=str(deep)))


def test_directory_of_someone_else_is_not_used(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_launch.os, "getuid", lambda: 12345)
    with pytest.raises(PermissionError, match="belongs to another user"):
        start_daemon(node=NodeOptions())


def test_strangers_are_turned_away(session: Session) -> None:
    for hello in (
        Hello(99, b"x" * 16, "", 1, "driver"),
        Hello(1, b"x" * 16, "", 1, "worker"),
        Hello(1, session.me, "", 1, "driver"),
        Bye(),
    ):
        link = session.link(session.started.address)
        session.say(hello, link)
        session.wait(lambda link=link: link.closed)  # type: ignore[misc]
    raw = connect(session.started.address)
    raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert raw.recv(100) == b""
    raw.close()
    assert session.ask("nodes").error == ""


def test_message_that_is_not_for_a_daemon_ends_the_connection(session: Session) -> None:
    link = session.link(session.started.address)
    session.say(Hello(1, b"x" * 16, "", 1, "driver"), link)
    session.say(Quit(graceful=True), link)
    session.wait(lambda: link.closed)


def test_idle_daemon_and_template_sleep(session: Session) -> None:
    session.lease(CPU)
    session.wait(lambda: all(worker["state"] != "starting" for worker in session.workers()))
    session.ask("nodes")  # after it, what the daemon does when its workers are up is done
    pid = session.started.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pids = [pid, *(int(child) for child in children)]

    def switches() -> list[str]:
        return [
            line
            for p in pids
            for line in Path(f"/proc/{p}/status").read_text().splitlines()
            if "ctxt" in line
        ]

    def sleeps(pid: int) -> bool:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "S"

    session.wait(lambda: all(map(sleeps, pids)))
    before = switches()
    time.sleep(1.0)
    assert switches() == before


# ------------------------------------------------------------------ workers and leases


def test_twenty_workers_are_forked_quickly(session: Session) -> None:
    session.lease(CPU)
    began = time.monotonic()
    session.say(Demand(2, shape(), 20, 0))
    granted = [session.expect(Granted) for _ in range(20)]
    assert len({message.worker_id for message in granted}) == 20
    assert time.monotonic() - began < 5, "0.03 s on an idle machine"


def test_returned_worker_serves_the_next_demand(session: Session) -> None:
    granted = session.lease(CPU)
    session.give_back(granted)
    assert session.lease(CPU, key=2).worker_id == granted.worker_id


def test_demand_that_cannot_be_met_is_refused_with_the_numbers(session: Session) -> None:
    session.say(Demand(1, shape(CPU=4, GPU=1), 1, 0))
    refused = session.expect(Refused)
    assert refused.kind == "unschedulable"
    assert refused.reason == "needs CPU 4, this node has 2; needs GPU 1, this node has 0"


def test_waiting_demand_asks_for_leases_and_gets_what_comes_back(session: Session) -> None:
    first = session.lease(shape(CPU=2))
    session.say(Demand(2, CPU, 1, 0))
    session.expect(Reclaim)
    session.give_back(first)
    assert session.expect(Granted).key == 2


def test_blocked_worker_lends_its_cpu(session: Session) -> None:
    first = session.lease(shape(CPU=2))
    session.say(Demand(2, shape(CPU=2), 1, 0))
    session.run(first, "blocked")
    second = session.expect(Granted)
    assert second.key == 2
    session.run(first, "unblocked")
    session.give_back(second)
    session.say(Demand(3, CPU, 1, 0))
    session.give_back(first)
    assert session.expect(Granted).key == 3


def test_retired_worker_ends_and_another_comes(session: Session) -> None:
    granted = session.lease(shape(CPU=2))
    session.say(ReturnLease(granted.worker_id, retire=True))
    other = session.lease(shape(CPU=2), key=2)
    assert other.worker_id != granted.worker_id
    certificate = session.explain(granted.worker_id)
    assert (certificate.exit_code, certificate.reason) == (0, "")


def test_devices_are_assigned_and_their_worker_is_not_used_again(
    start: Callable[..., Session],
) -> None:
    session = start(num_gpus=2)
    first = session.lease(shape(GPU=1))
    second = session.lease(shape(GPU=0.5), key=2)
    assert (first.accelerators, second.accelerators) == ({"GPU": ["0"]}, {"GPU": ["1"]})
    session.give_back(first)
    third = session.lease(shape(GPU=1), key=3)
    assert third.accelerators == {"GPU": ["0"]}
    assert third.worker_id != first.worker_id


def test_workers_have_the_whole_package(session: Session) -> None:
    session.run(session.lease(CPU), "package")
    session.wait(lambda: session.output().endswith(b"\n"))
    assert b"weft " in session.output()
    assert b"__init__.py" in session.output()


def test_environment_of_variables_reaches_the_worker(session: Session) -> None:
    granted = session.lease(shape('{"env_vars": {"COLOUR": "green"}}', CPU=1))
    session.run(granted, "env:COLOUR")
    session.wait(lambda: session.output() == b"green\n")


def test_environment_that_cannot_be_built_is_refused_with_the_builders_words(
    session: Session,
) -> None:
    session.say(Demand(1, shape('{"working_dir": "/no/such/place"}'), 1, 0))
    refused = session.expect(Refused)
    assert refused.kind == "environment"
    assert refused.reason


def test_workers_that_die_as_they_start_are_given_up_with_their_last_words(
    start: Callable[..., Session],
) -> None:
    session = start(worker_entry="stand_in:dies_at_start")
    session.say(Demand(1, CPU, 1, 0))
    refused = session.expect(Refused)
    assert refused.kind == "environment"
    assert "exited with code 7" in refused.reason
    assert "cannot start" in refused.reason


def test_second_driver_gets_workers_and_loses_them_when_it_goes(session: Session) -> None:
    other = session.link(session.started.address)
    session.say(Hello(1, b"x" * 16, "", 0, "driver"), other)
    session.say(Demand(1, shape(CPU=2), 1, 0), other)
    granted = session.expect(Granted)
    other.close()
    again = session.lease(shape(CPU=2), key=2)
    assert again.worker_id != granted.worker_id
    assert "started its task has ended" in session.explain(granted.worker_id).reason


# ------------------------------------------------------------------ ends of workers


@pytest.mark.parametrize(
    ("what", "exit_code"),
    [("signal_loudly:9", -9), ("signal_loudly:6", -6), ("exit:3", 3), ("fault", -11)],
)
def test_certificate_says_how_a_worker_ended(session: Session, what: str, exit_code: int) -> None:
    granted = session.lease(CPU)
    pid = {w["worker_id"]: w["pid"] for w in session.workers()}[granted.worker_id.hex()]
    task_id = session.run(granted, what, wait=False)
    certificate = session.explain(granted.worker_id)
    assert certificate.exit_code == exit_code
    assert certificate.pid == pid
    assert (certificate.task_id, certificate.function) == (task_id, what)
    assert 1e6 < certificate.peak_bytes < certificate.limit_bytes
    assert certificate.reason == ""
    if "loudly" in what:
        assert "last words" in certificate.stderr
    assert session.explain(granted.worker_id) == certificate, "asked later"
    assert session.lease(shape(CPU=2), key=9), "its CPU is free again"


def test_worker_that_is_cancelled_by_force_dies_for_that_reason(session: Session) -> None:
    granted = session.lease(CPU)
    session.run(granted, "hang", wait=False)
    session.say(KillWorker(granted.worker_id, "its task was cancelled"))
    certificate = session.explain(granted.worker_id)
    assert (certificate.exit_code, certificate.reason) == (-9, "its task was cancelled")


def test_only_the_holder_of_a_lease_may_kill(session: Session) -> None:
    granted = session.lease(CPU)
    session.give_back(granted)
    session.say(KillWorker(granted.worker_id, "no"))
    assert session.lease(CPU, key=2).worker_id == granted.worker_id


def test_unknown_worker_gets_an_empty_certificate(session: Session) -> None:
    assert "nothing is known" in session.explain(b"u" * 16).reason


def test_children_of_a_worker_end_with_it(session: Session, tmp_path: Path, gone: Gone) -> None:
    granted = session.lease(CPU)
    file = tmp_path / "pid"
    session.run(granted, f"child:{file}")
    child = int(file.read_text())
    session.run(granted, "exit:0", wait=False)
    session.explain(granted.worker_id)
    assert gone([child], 2) == []


def test_child_that_holds_its_workers_connection_does_not_hide_the_end(
    session: Session, tmp_path: Path
) -> None:
    actor_id, _ = session.create_actor()
    alive = actor_state(session, actor_id, "alive")
    file = tmp_path / "pid"
    call(session, alive.address, f"heir:{file}")
    assert actor_state(session, actor_id, "dead").cause == "it leaves an heir"
    assert session.explain(alive.worker_id).exit_code == 4
    os.kill(int(file.read_text()), signal.SIGKILL)


# ------------------------------------------------------------------ output


def test_output_arrives_unaltered_with_its_source(session: Session) -> None:
    granted = session.lease(CPU)
    session.run(granted, "print:hello")
    session.run(granted, "error:trouble")
    session.wait(
        lambda: session.output() == b"hello\n" and session.output(is_stderr=True) == b"trouble\n"
    )
    message = next(m for m in session.inbox if isinstance(m, Output))
    assert message.worker_id == granted.worker_id
    assert message.pid > 0


def test_no_line_is_lost_at_the_end(session: Session) -> None:
    granted = session.lease(CPU)
    session.run(granted, "lines:20000")
    session.bye()
    expected = b"".join(b"line %d\n" % index for index in range(20000))
    assert session.output() == expected


def test_driver_that_does_not_read_stops_its_workers_and_loses_nothing(session: Session) -> None:
    granted = session.lease(CPU)
    session.run(granted, "lines:200000", wait=False)
    time.sleep(1.0)
    rss_pages = int(Path(f"/proc/{session.started.process.pid}/statm").read_text().split()[1])
    assert rss_pages * 4096 < 60e6
    session.wait(lambda: session.output().endswith(b"line 199999\n"), 30)
    assert session.output().count(b"\n") == 200000


def test_output_of_a_child_that_outlives_its_worker_still_arrives(session: Session) -> None:
    granted = session.lease(CPU)
    session.run(granted, "stray", wait=False)
    assert session.explain(granted.worker_id).exit_code == 0
    session.wait(lambda: session.output() == b"late\n")


def test_output_is_not_sent_to_a_driver_that_does_not_want_it(
    start: Callable[..., Session],
) -> None:
    session = start(log_to_driver=False)
    granted = session.lease(CPU)
    session.run(granted, "print:hello")
    session.bye()
    assert session.output() == b""


# ------------------------------------------------------------------ actors


def actor_state(session: Session, actor_id: bytes, state: str) -> ActorNews:
    return session.expect(ActorNews, lambda m: (m.actor_id, m.state) == (actor_id, state))


def call(session: Session, address: str, what: str) -> None:
    session.say(Call(b"t" * 16, b"a" * 16, "m", b"", name=what), session.link(address))


def test_actor_is_created_found_restarted_and_killed(session: Session) -> None:
    actor_id, answer = session.create_actor("counter", max_restarts=1)
    assert answer.error == ""
    alive = actor_state(session, actor_id, "alive")
    meta, owner = msgspec.msgpack.decode(session.ask("find_actor", ["counter", ""]).body)
    assert (meta["actor_id"], owner) == (actor_id, "the driver")
    assert msgspec.msgpack.decode(session.ask("named_actors").body) == [["", "counter"]]
    call(session, alive.address, "signal:9")
    assert "SIGKILL" in actor_state(session, actor_id, "restarting").cause
    again = actor_state(session, actor_id, "alive")
    assert (again.restarts, again.address != alive.address) == (1, True)
    session.say(EndActor(actor_id, graceful=False, no_restart=True, reason="enough"))
    assert actor_state(session, actor_id, "dead").cause == "enough"
    assert "no actor is named 'counter'" in session.ask("find_actor", ["counter", ""]).error


def test_name_that_is_taken(session: Session) -> None:
    first, _ = session.create_actor("counter")
    assert "is taken" in session.create_actor("counter")[1].error
    _, answer = session.create_actor("counter", get_if_exists=True)
    meta, _ = msgspec.msgpack.decode(answer.body)
    assert meta["actor_id"] == first


def test_constructor_that_fails(session: Session) -> None:
    actor_id, _ = session.create_actor(fails=True)
    assert actor_state(session, actor_id, "dead").error == b"no"
    session.lease(shape(CPU=2))


def test_actor_that_leaves_is_dead_and_not_restarted(session: Session) -> None:
    actor_id, _ = session.create_actor(max_restarts=5)
    alive = actor_state(session, actor_id, "alive")
    call(session, alive.address, "leave:exit_actor was called")
    assert actor_state(session, actor_id, "dead").cause == "exit_actor was called"


def test_actor_that_can_never_be_placed_is_dead_with_the_numbers(session: Session) -> None:
    actor_id, _ = session.create_actor(shape=shape(CPU=9))
    assert actor_state(session, actor_id, "dead").cause == "needs CPU 9, this node has 2"


# ------------------------------------------------------------------ questions and segments


def test_questions_about_the_node(session: Session) -> None:
    (node,) = msgspec.msgpack.decode(session.ask("nodes").body)
    assert node["NodeID"] == session.welcome.node_id.hex()
    session.lease(CPU)
    amounts = msgspec.msgpack.decode(session.ask("resources").body)
    assert (amounts["total"]["CPU"], amounts["available"]["CPU"]) == (2.0, 1.0)
    tasks = msgspec.msgpack.decode(session.ask("tasks").body, type=SessionSnapshot)
    assert all(one.body is None for one in tasks.told), "the stand-ins do not answer"
    assert tasks.batches == []
    assert "does not know the question 'weather'" in session.ask("weather").error
    assert session.ask("find_actor", 7).error


def test_question_to_all_neither_waits_for_nor_misses_a_worker_that_has_ended(
    start: Callable[..., Session],
) -> None:
    session = start(num_cpus=1)
    granted = session.lease(CPU)
    session.say(Ask(77, "tasks"))
    session.say(KillWorker(granted.worker_id, "to see who waits for it"))
    session.explain(granted.worker_id)
    session.say(Inspected(session.expect(Inspect).request, b"mine"))
    answer = session.expect(Answer, lambda message: message.request == 77)
    told = msgspec.msgpack.decode(answer.body, type=SessionSnapshot).told
    assert [(one.role, one.body) for one in told] == [("driver", b"mine")]


def test_records_that_come_after_the_first_answer_are_told_as_late(
    start: Callable[..., Session],
) -> None:
    session = start(num_cpus=1)
    session.lease(CPU)
    pids = [worker["pid"] for worker in session.workers()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    session.say(Recorded(1, b"before"))
    session.say(Ask(77, "tasks"))
    session.say(Inspected(session.expect(Inspect).request, b"mine"))
    session.say(Recorded(1, b"after"))
    session.ask("nodes")
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    answer = session.expect(Answer, lambda message: message.request == 77)
    found = msgspec.msgpack.decode(answer.body, type=SessionSnapshot)
    assert (found.batches, found.late) == ([b"before", b"after"], 1)


def test_why_says_what_falls_short_and_who_has_it(session: Session) -> None:
    session.lease(shape(CPU=2), task_name="train")
    session.say(Demand(2, CPU, 1, 0))
    text = session.ask("why_shape", CPU).body.decode()
    assert "needs CPU 1, this node has 0 free" in text
    assert "CPU 2 in use by tasks of train" in text
    actor_id, _ = session.create_actor(shape=CPU)
    text = session.ask("why_actor", actor_id.hex()).body.decode()
    assert "waits for a worker: needs CPU 1" in text


def test_segments_are_discarded_by_the_names_that_their_makers_gave(session: Session) -> None:
    store = Path(session.welcome.store_dir)
    link = session.link(session.started.address)
    me = b"x" * 16
    session.say(Hello(1, me, "", 1, "driver"), link)
    session.say(AskLoan(1, 4096), link)
    names = [f"{me.hex()}-{number}" for number in (1, 2)]
    for name in names:
        (store / name).touch()
    made = [MadeSegment(name, 1, 1, b"owner", "", "", on_disk=False) for name in names]
    session.say(SegmentsMade(made), link)
    session.say(Evicted(names, []), link)
    session.say(Discard([names[0], "never was"]), link)
    session.wait(lambda: not (store / names[0]).exists())
    assert (store / names[1]).exists()
    for name in ("../lock", "lock", f"{b'y' * 16!r}-1", f"{me.hex()}-1/../../lock"):
        intruder = session.link(session.started.address)
        session.say(Hello(1, os.urandom(16), "", 1, "driver"), intruder)
        session.say(AskLoan(1, 4096), intruder)
        made = [MadeSegment(name, 1, 1, b"owner", "", "", on_disk=False)]
        session.say(SegmentsMade(made), intruder)
        session.wait(lambda link=intruder: link.closed)  # type: ignore[misc]  # bound now
    assert (store / LOCK).exists()


def test_worker_runs_what_it_says(session: Session) -> None:
    granted = session.lease(CPU)
    session.run(granted, "hang", wait=False)

    def running() -> Any:
        return [
            w["function"] for w in session.workers() if w["worker_id"] == granted.worker_id.hex()
        ]

    session.wait(lambda: running() == ["hang"])
    assert state_of(session, granted) == "leased"
    session.say(Run(b"", b"", b""), session.link(granted.address))
