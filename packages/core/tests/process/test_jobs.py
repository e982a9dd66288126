"""A node that lives on by itself, and the drivers that come and go."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft._launch import NodeOptions
from weft._starting import HeadOptions, StartedHead, start_head, wait_for_node
from weft.exceptions import OptionError, SessionError
from weft.util import state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow
WAIT_S = 20.0


@pytest.fixture
def node(roots: tuple[Path, Path]) -> Iterator[StartedHead]:
    """A node of three CPUs that was started by itself; it must end with nothing left."""
    head = start_head(
        HeadOptions(node=NodeOptions(num_cpus=3), host="127.0.0.1", lifeline_pid=os.getpid())
    )
    wait_for_node(head.started)
    yield head
    weft.shutdown()
    process = head.started.process
    assert process.poll() is None, head.started.last_words()
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(WAIT_S) == 0, head.started.last_words()
    assert not Path(head.started.session_dir).exists()


class Program:
    """A driver in a process of its own: it waits for a line where it calls `pause()`."""

    def __init__(self, code: str, **variables: str) -> None:
        # A line at a time: what workers print is shown between two writes.
        before = "import weft\ndef say(*words): print(' '.join(map(str, words)) + '\\n', end='', "
        before += "flush=True)\ndef pause(word):\n    say(word)\n    input()\n"
        self.process = subprocess.Popen(
            [sys.executable, "-c", before + textwrap.dedent(code)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables},
        )

    def until(self, word: str) -> list[str]:
        """Read up to a line; return those before."""
        assert self.process.stdout is not None
        lines: list[str] = []
        for line in self.process.stdout:
            if line.rstrip() == word:
                return lines
            lines.append(line.rstrip())
        raise AssertionError(f"{lines} {self.end()}")

    def end(self) -> tuple[str, str, int]:
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write("\n")
            process.stdin.close()
        # Not communicate: what was read ahead would be lost.
        out, err = process.stdout.read(), process.stderr.read()
        return out, err, process.wait(WAIT_S)


@pytest.fixture
def program() -> Iterator[Callable[..., Program]]:
    """Start drivers."""
    found: list[Program] = []

    def begin(code: str, **variables: str) -> Program:
        found.append(Program(code, **variables))
        return found[-1]

    yield begin
    for one in found:
        with one.process:
            one.process.kill()


def wait_until(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@weft.remote
def process() -> int:
    return os.getpid()


@weft.remote
class Counter:
    def __init__(self) -> None:
        self.count = 0

    def up(self) -> int:
        self.count += 1
        return self.count

    def pid(self) -> int:
        return os.getpid()


def test_node_lives_on_when_its_drivers_have_left(
    node: StartedHead, gone: Callable[[list[int], float], list[int]]
) -> None:
    jobs, pids = set(), set()
    for _ in range(2):
        with weft.init(address="auto"):
            jobs.add(weft.get_runtime_context().get_job_id())
            pids.add(weft.get(process.remote()))
            (job,) = state.list_jobs()
            assert job.driver_pid == os.getpid()
            assert "pytest" in job.entrypoint
    assert len(jobs) == len(pids) == 2, "each has a job and workers of its own"
    assert gone(list(pids), WAIT_S) == []
    assert state.list_jobs(address=node.started.session) == []


def test_what_workers_print_goes_to_the_driver_of_their_job(
    node: StartedHead, program: Callable[..., Program]
) -> None:
    code = """
    @weft.remote
    def speak(): say("NAME speaks")
    weft.init(address="auto")
    pause("ready")
    weft.get(speak.remote())
    pause("spoken")
    """
    drivers = {name: program(code.replace("NAME", name)) for name in ("one", "two")}
    for driver in drivers.values():
        driver.until("ready")
    for driver in drivers.values():
        assert driver.process.stdin is not None
        driver.process.stdin.write("\n")
        driver.process.stdin.flush()
    for name, driver in drivers.items():
        lines = driver.until("spoken")
        out, err, code_ = driver.end()
        assert ([*lines, *out.splitlines()], err, code_) == ([f"{name} speaks"], "", 0)


def test_what_a_killed_driver_began_ends_and_what_is_detached_stays(
    node: StartedHead,
    program: Callable[..., Program],
    gone: Callable[[list[int], float], list[int]],
) -> None:
    other = program(
        """
        import os, time
        weft.init(address="auto", namespace="shared")
        @weft.remote
        class Actor:
            def pid(self): return os.getpid()
        @weft.remote
        def inner():
            say("inner", os.getpid())
            time.sleep(1000)
        @weft.remote
        def outer():
            ref = inner.options(num_cpus=0).remote()
            say("outer", os.getpid())
            weft.get(ref)
        kept = Actor.options(name="kept", lifetime="detached", num_cpus=0).remote()
        own = Actor.options(name="own", num_cpus=0).remote()
        ref = outer.remote()
        say("kept", weft.get(kept.pid.remote()))
        say("own", weft.get(own.pid.remote()))
        pause("ready")
        """
    )
    pid_of: dict[str, int] = {}
    assert other.process.stdout is not None
    while len(pid_of) < 5:
        name, _, pid = other.process.stdout.readline().strip().partition(" ")
        pid_of[name] = int(pid or 0)
    with weft.init(address=node.started.session, namespace="shared"):
        mine = Counter.remote()
        assert weft.get(mine.up.remote()) == 1
        kept = weft.get_actor("kept")
        assert weft.get(kept.pid.remote()) == pid_of["kept"]
        os.kill(other.process.pid, signal.SIGKILL)
        ended = [pid_of[name] for name in ("own", "inner", "outer")]
        assert gone(ended, WAIT_S) == []
        assert weft.get(mine.up.remote()) == 2, "other jobs go on"
        assert weft.get(kept.pid.remote()) == pid_of["kept"]
        with pytest.raises(ValueError, match="own"):
            weft.get_actor("own")
        weft.kill(kept)
        assert gone([pid_of["kept"]], WAIT_S) == []
        # All that the other job took is free again.
        weft.kill(mine)
        wait_until(lambda: weft.available_resources()["CPU"] == 3)


def test_each_job_has_a_namespace_of_its_own(
    node: StartedHead, program: Callable[..., Program]
) -> None:
    code = """
    weft.init(address="auto")
    @weft.remote
    class Actor:
        def space(self): return weft.get_runtime_context().namespace
    actor = Actor.options(name="same", num_cpus=0).remote()
    assert weft.get(actor.space.remote()) == weft.get_runtime_context().namespace
    pause("ready")
    """
    first, second = program(code), program(code)
    first.until("ready")
    second.until("ready")
    assert first.end() == second.end() == ("", "", 0)


def test_workers_find_modules_where_their_driver_does(
    node: StartedHead, program: Callable[..., Program], tmp_path: Path
) -> None:
    drivers = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "only_here.py").write_text(f"NAME = {name!r}\n")
        drivers.append(
            program(
                f"""
                import sys
                sys.path.insert(0, {str(tmp_path / name)!r})
                weft.init(address="auto")
                @weft.remote
                def look():
                    import only_here
                    return only_here.NAME
                assert weft.get(look.remote()) == {name!r}
                pause("ready")
                """
            )
        )
    for driver in drivers:
        driver.until("ready")
    for driver in drivers:
        assert driver.end() == ("", "", 0)


def test_environment_of_a_job_reaches_its_workers_and_users_see_what_they_wrote(
    node: StartedHead,
) -> None:
    @weft.remote
    def look() -> tuple[str, str]:
        return os.environ["OF_JOB"], weft.get_runtime_context().get_runtime_env_string()

    @weft.remote
    def look_below() -> tuple[str, str]:
        return weft.get(look.remote())

    with weft.init(address="auto", runtime_env={"env_vars": {"OF_JOB": "yes"}}):
        wrote = '{"env_vars":{"OF_JOB":"yes"}}'
        assert weft.get(look.remote()) == ("yes", wrote)
        assert weft.get(look_below.remote()) == ("yes", wrote)
        both = look.options(runtime_env={"env_vars": {"MORE": "1"}}).remote()
        assert weft.get(both) == ("yes", '{"env_vars":{"MORE":"1","OF_JOB":"yes"}}')
        assert weft.get_runtime_context().get_runtime_env_string() == wrote
        assert {one.runtime_env for one in state.list_runtime_envs()} <= {
            wrote, '{"env_vars":{"MORE":"1","OF_JOB":"yes"}}',
        }  # fmt: skip


def test_exit_hooks_of_workers_run_when_their_driver_leaves(
    node: StartedHead, program: Callable[..., Program]
) -> None:
    driver = program(
        """
        import atexit
        weft.init(address="auto")
        @weft.remote
        class Actor:
            def __init__(self): atexit.register(print, "the actor says goodbye")
            def ready(self): return True
        actor = Actor.remote()
        weft.get(actor.ready.remote())
        """
    )
    assert driver.end() == ("the actor says goodbye\n", "", 0)


def test_objects_of_a_driver_that_has_left_take_no_room(node: StartedHead) -> None:
    @weft.remote
    def make() -> bytes:
        return bytes(1_000_000)

    with weft.init(address="auto"):
        refs = [make.remote(), weft.put(bytes(1_000_000))]
        assert [len(value) for value in weft.get(refs)] == [1_000_000, 1_000_000]
        assert _segments(node)
    wait_until(lambda: not _segments(node))


def _segments(node: StartedHead) -> list[str]:
    return [
        path.name
        for path in Path(node.started.store_dir).iterdir()
        if path.stat().st_size >= 1_000_000
    ]


def test_driver_joins_by_the_join_string_and_by_the_environment(
    node: StartedHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    with weft.init(address=node.join.format()) as context:
        assert context["session_name"] == node.started.session
    with monkeypatch.context() as patched:
        patched.setattr(sys, "orig_argv", ["program", node.join.format(), "-v"])
        with weft.init(address="auto"):
            (job,) = state.list_jobs()
            address = node.join.address
            assert job.entrypoint == f"program weft://{address}#... -v"  # The token is not shown.
    monkeypatch.setenv("WEFT_ADDRESS", node.started.session_dir)
    assert weft.get(weft.put(1)) == 1
    assert weft.get_runtime_context()._place().session == node.started.session
    weft.shutdown()
    with weft.init(address="local", num_cpus=1) as context:
        assert context["session_name"] != node.started.session


def test_what_a_node_has_is_not_said_by_who_joins_it(node: StartedHead) -> None:
    with pytest.raises(OptionError, match=r"num_cpus, labels of init: the program joins a node"):
        weft.init(address="auto", num_cpus=2, labels={"a": "b"})
    assert not weft.is_initialized()


def test_address_that_nobody_has_is_refused_in_a_line(roots: tuple[Path, Path]) -> None:
    with pytest.raises(SessionError, match="no session is alive"):
        weft.init(address="auto")
    with pytest.raises(SessionError, match="no session 'abc' is alive; alive: none"):
        weft.init(address="abc")
    join = "weft://127.0.0.1:1#AAAAAAAAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    with pytest.raises(SessionError, match=r"no head answers at 127\.0\.0\.1:1: "):
        weft.init(address=join)
    with pytest.raises(OptionError, match="ends before its '#'"):
        weft.init(address="weft://127.0.0.1:1")
    with pytest.raises(OptionError, match="'ray://head:10001' does not say how to be let in"):
        weft.init(address="ray://head:10001")


def test_driver_that_forks_and_dies_ends_its_job_though_its_child_lives(
    node: StartedHead,
    program: Callable[..., Program],
    gone: Callable[[list[int], float], list[int]],
) -> None:
    driver = program(
        """
        import os, time
        weft.init(address="auto")
        @weft.remote
        class Actor:
            def pid(self): return os.getpid()
        actor = Actor.remote()
        pid = weft.get(actor.pid.remote())
        child = os.fork()
        if child == 0: time.sleep(1000)
        pause(f"{pid} {child}")
        """
    )
    assert driver.process.stdout is not None
    worker, child = map(int, driver.process.stdout.readline().split())
    try:
        os.kill(driver.process.pid, signal.SIGKILL)
        assert gone([worker], WAIT_S) == []
    finally:
        os.kill(child, signal.SIGKILL)


def test_driver_joins_the_session_of_another_program_and_that_goes_on(
    roots: tuple[Path, Path], program: Callable[..., Program]
) -> None:
    with weft.init(num_cpus=2) as context:
        here = weft.get(process.remote())
        guest = program(
            """
            import os, sys
            weft.init(address="auto")
            @weft.remote
            def process():
                print("of the guest")
                return os.getpid()
            pid = weft.get(process.remote())
            pause(f"{weft.get_runtime_context().get_session_name()} {pid}")
            """
        )
        assert guest.process.stdout is not None
        lines = [guest.process.stdout.readline().rstrip() for _ in range(2)]
        assert "of the guest" in lines
        lines.remove("of the guest")
        session, pid = lines[0].split()
        assert session == context["session_name"]
        assert int(pid) != here
        assert len(state.list_jobs()) == 2
        assert guest.end() == ("", "", 0)
        wait_until(lambda: len(state.list_jobs()) == 1)
        assert weft.get(process.remote()) == here


def test_driver_of_a_session_that_ends_is_told_so(
    roots: tuple[Path, Path], program: Callable[..., Program]
) -> None:
    with weft.init(num_cpus=1):
        guest = program(
            """
            weft.init(address="auto")
            pause("ready")
            try:
                weft.get(weft.remote(int).remote())
            except weft.exceptions.DaemonDiedError as error:
                print(str(error))
            """
        )
        guest.until("ready")
    out, err, code = guest.end()
    assert (err, code) == ("", 0)
    assert out.startswith("the node daemon is gone")
    assert len(out.splitlines()) == 1
