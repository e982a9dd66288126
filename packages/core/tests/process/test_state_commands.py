"""The commands that look at sessions, as users run them: in a process of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import weft
import weft.util.state
from weft._launch import session_root

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

PROGRAM = """
import sys, weft
weft.init(num_cpus=1)

@weft.remote
def fail(words):
    raise LookupError(words)

@weft.remote
def add(a, b):
    return a + b

@weft.remote
def wait_for(path):
    return open(path).read()

@weft.remote
class Counter:
    def count(self):
        print("counted")
        return 1

counter = Counter.options(name="counter", num_cpus=0).remote()
weft.get([add.remote(number, 1) for number in range(20)])
weft.get(counter.count.remote())
weft.wait([fail.remote("no such word")])
kept = weft.put(bytes(1_000_000))
running = wait_for.remote(PATH)
print(weft.get_runtime_context().get_session_name(), flush=True)
weft.get(running)
"""


def weft_command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "weft", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **variables},
    )


class Program:
    """A program with a session, which goes on until it is told."""

    def __init__(self, folder: Path, name: str) -> None:
        self.fifo = folder / f"{name}.fifo"
        os.mkfifo(self.fifo)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.replace("PATH", repr(str(self.fifo)))],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        # The worker's own line may come first.
        lines = iter(self.process.stdout.readline, "")
        self.session = next(line.strip() for line in lines if line.strip() != "counted")

    def end(self) -> None:
        self.fifo.write_text("over")
        assert self.process.stdout is not None
        self.process.stdout.close()
        assert self.process.wait(30) == 0


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """The directory of temporary files of all sessions here: nobody else's are in it.

    Pytest's own are too long for sockets.
    """
    with tempfile.TemporaryDirectory(dir="/tmp") as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEFT_TEMP_DIR", name)
        yield Path(name)


@pytest.fixture(scope="module")
def program(folder: Path) -> Iterator[Program]:
    program = Program(folder, "first")
    yield program
    program.end()


def listed(*arguments: str) -> Any:
    ended = weft_command(*arguments, "--format", "json")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_tasks_are_listed_as_a_table(program: Program) -> None:
    ended = weft_command("list", "tasks", "--limit", "3")
    assert ended.returncode == 0, ended.stderr
    header, *rows = ended.stdout.splitlines()
    assert header.split() == ["TASK", "NAME", "STATE", "PID", "RAN", "ERROR"]
    assert len(rows) == 3
    assert rows[0].split()[1:3] == ["wait_for", "RUNNING"]
    assert rows[1].split()[1:3] == ["fail", "FAILED"]
    assert rows[1].endswith("LookupError: no such word")
    assert ended.stderr == "3 of 24 tasks: --limit shows more, --filter the right ones\n"


def test_table_is_as_wide_as_what_is_in_it_where_nobody_looks(program: Program) -> None:
    ended = weft_command("list", "tasks", COLUMNS="20")
    assert "…" not in ended.stdout
    assert "\x1b" not in ended.stdout


def test_tasks_are_filtered_and_detailed(program: Program) -> None:
    (task,) = listed("list", "tasks", "--filter", "state=failed", "--filter", "name!=add")
    assert (task["name"], task["error_message"]) == ("fail", "no such word")
    ended = weft_command("list", "tasks", "--filter", "name=fail", "--detail")
    assert "error_message:      no such word\n" in ended.stdout
    assert listed("list", "tasks", "--filter", "name in fail,wait_for", "--limit", "9")[1] == task
    assert listed("get", "tasks", task["task_id"]) == task
    assert listed("get", "tasks", task["task_id"][:24]) == task
    assert weft_command("list", "tasks", "--filter", "name=nobody").stderr == "no tasks found\n"


@pytest.mark.parametrize(
    ("resource", "has"),
    [
        ("actors", {"class_name": "Counter", "state": "ALIVE", "name": "counter"}),
        ("objects", {"place": "memory", "is_owner": True}),
        ("workers", {"worker_type": "DRIVER", "is_alive": True}),
        ("nodes", {"state": "ALIVE"}),
        ("jobs", {"status": "RUNNING"}),
    ],
)
def test_everything_is_listed(program: Program, resource: str, has: dict[str, Any]) -> None:
    found = listed("list", resource)
    assert any(has.items() <= record.items() for record in found), found
    ended = weft_command("list", resource)
    assert ended.returncode == 0
    assert len(ended.stdout.splitlines()) == len(found) + 1


def test_summaries_count(program: Program) -> None:
    tasks = listed("summary", "tasks")
    assert tasks["summary"]["add"]["state_counts"] == {"FINISHED": 20}
    assert list(listed("summary", "tasks", "--filter", "name=add")["summary"]) == ["add"]
    lines = weft_command("summary", "tasks").stdout.splitlines()
    assert lines[0].split() == ["FUNCTION", "FAILED", "FINISHED", "RUNNING"]
    assert ["add", "0", "20", "0"] in [line.split() for line in lines]
    assert listed("summary", "actors")["summary"]["Counter"]["state_counts"] == {"ALIVE": 1}
    assert listed("summary", "objects")["total_size_mb"] > 1
    assert "976.6 KiB" in weft_command("summary", "objects").stdout


def test_memory_names_what_is_large_and_what_made_it(program: Program) -> None:
    ended = weft_command("memory")
    assert ended.returncode == 0, ended.stderr
    assert "<string>:" in ended.stdout
    found = listed("memory", "--limit", "1")
    assert found["objects"][0]["object_size"] >= 1_000_000
    assert found["store"]["used_bytes"] >= 1_000_000


def test_stack_shows_where_a_task_is(program: Program) -> None:
    ended = weft_command("stack")
    assert ended.returncode == 0, ended.stderr
    assert "runs wait_for\n    wait_for (<string>:15)" in ended.stdout
    assert f"driver {program.process.pid}\n" in ended.stdout
    assert "executor.py" not in ended.stdout
    assert "executor.py" in weft_command("stack", "--all").stdout
    only = weft_command("stack", str(program.process.pid)).stdout
    assert "worker" not in only
    assert "has no process 1" in weft_command("stack", "1").stderr


def test_stack_says_who_does_not_answer(program: Program) -> None:
    (task,) = listed("list", "tasks", "--filter", "name=wait_for")
    os.kill(task["worker_pid"], signal.SIGSTOP)
    try:
        ended = weft_command("stack", str(task["worker_pid"]))
        assert f"worker {task['worker_pid']}\n  does not answer" in ended.stdout
        # Its page tells what it runs all the same.
        (again,) = listed("list", "tasks", "--filter", "name=wait_for")
        assert again["state"] == "RUNNING"
    finally:
        os.kill(task["worker_pid"], signal.SIGCONT)


def test_timeline_is_written(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    ended = weft_command("timeline", "--output", str(path))
    assert ended.returncode == 0, ended.stderr
    events = json.loads(path.read_text())
    assert sum(event["name"] == "add" for event in events) == 20
    refused = weft_command("timeline", "--output", "/nowhere/trace.json")
    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: /nowhere/trace.json cannot be written: No such file")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("list", "weather"), 2, "'weather' is not one of"),
        (("list", "tasks", "--filter", "name"), 2, "'name' is no filter: write key=value"),
        (("list", "tasks", "--filter", "nmae=x"), 1, "TaskState has no 'nmae'; it has"),
        (("list", "tasks", "--limit", "0"), 2, "0 is not in the range"),
        (("get", "tasks", "00"), 1, "no task 00 is known"),
        (("get", "actors", "\x1b[31m"), 1, "no actor \\x1b[31m is known"),
        (("list", "tasks", "--session", "nowhere"), 1, "no session 'nowhere' is alive; alive: "),
        (("list", "tasks", "--session", "/nowhere"), 1, "no session '/nowhere' is alive"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    program: Program, arguments: tuple[str, ...], code: int, words: str
) -> None:
    ended = weft_command(*arguments)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_one_of_several_sessions_is_chosen(program: Program, folder: Path) -> None:
    second = Program(folder, "second")
    try:
        ended = weft_command("list", "jobs")
        assert ended.returncode == 1
        assert ended.stderr.startswith("Error: several sessions are alive: ")
        for one in (program, second):
            assert f"{one.session} (of process {one.process.pid})" in ended.stderr
            places = (one.session, one.session[:-1], f"{session_root()}/{one.session}")
            for place in places:
                (job,) = listed("list", "jobs", "--session", place)
                assert job["driver_pid"] == one.process.pid
    finally:
        second.end()


def test_session_that_is_dead_is_not_asked(folder: Path) -> None:
    variables = {"WEFT_TEMP_DIR": str(folder / "x")}
    none = (
        "Error: no session is alive: a program that calls weft.init() starts one, and "
        "`weft start --head` one that stays\n"
    )
    assert weft_command("list", "tasks", **variables).stderr == none
    root = folder / "x" / f"weft-{os.getuid()}" / "dead"
    root.mkdir(parents=True)
    (root / "lock").touch()
    (root / "node.json").touch()
    assert weft_command("list", "tasks", **variables).stderr == none
    refused = weft_command("list", "tasks", "--session", str(root), **variables)
    assert refused.stderr == f"Error: no session '{root}' is alive; alive: none\n"


def test_tool_that_comes_and_goes_changes_nothing(program: Program) -> None:
    before = listed("list", "workers")
    for _ in range(3):
        listed("list", "tasks")
    assert listed("list", "workers") == before
    assert program.process.poll() is None


def test_state_of_another_session_can_be_asked_inside_one(program: Program) -> None:
    with weft.init(num_cpus=1):
        from_inside = weft.util.state.list_jobs()
        other = weft.util.state.list_jobs(address=program.session)
    assert from_inside[0].driver_pid == os.getpid()
    assert other[0].driver_pid == program.process.pid


# ------------------------------------------------------------------ logs


def test_logs_of_a_worker_are_found_by_pid_actor_and_task(program: Program) -> None:
    (actor,) = listed("list", "actors")
    (call,) = listed("list", "tasks", "--filter", "name=Counter.count")
    for whose in (actor["pid"], actor["actor_id"], "counter", actor["worker_id"], call["task_id"]):
        ended = weft_command("logs", str(whose))
        assert (ended.returncode, ended.stdout) == (0, "counted\n"), ended.stderr
    assert weft_command("logs", "counter", "--tail", "0").stdout == ""
    empty = weft_command("logs", "counter", "--err")
    assert (empty.stdout, empty.stderr) == ("", "nothing was written to stderr\n")
    table = weft_command("logs").stdout.splitlines()
    assert any(line.split()[:3] == [str(actor["pid"]), "leased", "8"] for line in table[1:])
    for nobody in ("nobody", "1", "f" * 32):
        refused = weft_command("logs", nobody)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert len(refused.stderr.splitlines()) == 1


def test_log_is_followed_until_the_session_ends(folder: Path) -> None:
    third = Program(folder, "third")
    follower = subprocess.Popen(
        [sys.executable, "-m", "weft", "logs", "counter", "-f", "--session", third.session],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout is not None
    with follower.stdout as lines:
        assert lines.readline() == "counted\n"
        third.end()
        assert lines.read() == ""
    assert follower.wait(30) == 0


def test_log_is_followed_until_it_is_interrupted(program: Program) -> None:
    follower = subprocess.Popen(
        [sys.executable, "-m", "weft", "logs", "counter", "-f", "--session", program.session],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout is not None
    assert follower.stdout.readline() == "counted\n"
    follower.send_signal(signal.SIGINT)
    assert follower.communicate(timeout=30) == ("", "")
    assert follower.returncode == 130
