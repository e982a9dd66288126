"""`weft start`, `weft stop` and `weft status`, as users run them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft._node.finding import sessions
from weft._transport.join import JoinString

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow
WAIT_S = 30.0
HOST = ("--host", "127.0.0.1")


def weft_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "weft", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_S,
    )


def good(*arguments: str) -> str:
    ended = weft_command(*arguments)
    assert (ended.stderr, ended.returncode) == ("", 0)
    return ended.stdout


def refused(*arguments: str) -> str:
    ended = weft_command(*arguments)
    assert ended.stdout == ""
    assert ended.returncode != 0
    assert len(ended.stderr.splitlines()) == 1
    return ended.stderr


@pytest.fixture(autouse=True)
def folder(roots: tuple[Path, Path], tmp_path: Path) -> Iterator[Path]:
    """A folder; after the test no node is left."""
    yield tmp_path
    weft_command("stop")


def start_head(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        good("start", "--head", *HOST, "--format", "json", *arguments)
    )
    return found


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_head_says_how_to_join_and_lives_until_it_is_stopped(
    gone: Callable[[list[int], float], list[int]],
) -> None:
    said = good("start", "--head", *HOST, "--num-cpus", "3", "--resources", "disk=0.5,x=2")
    assert said.startswith("The head of a new cluster runs: 3 CPU, 0.5 disk, 2 x, ")
    (line,) = [line for line in said.splitlines() if "weft start --address" in line]
    join = JoinString.parse(line.split()[-1].strip("'"))
    assert f"it is at {join.address}," in said
    with weft.init(address="auto") as context:
        pid = weft.get(weft.remote(os.getpid).remote())
        session = Path(context["session_dir"])
        assert weft.cluster_resources() | {"disk": 0.5, "x": 2.0} == weft.cluster_resources()
    assert session.exists()
    stopped = good("stop")
    assert stopped == f"stopped {session.name} (head of a cluster, {join.address})\n"
    assert not session.exists()
    assert gone([pid], WAIT_S) == []
    assert weft_command("stop").stderr == "no node runs here\n"


def test_join_string_is_written_to_a_file_for_its_user_alone(folder: Path) -> None:
    place = folder / "join"
    found = start_head("--join-file", str(place))
    assert place.stat().st_mode & 0o777 == 0o600
    assert place.read_text() == f"{found['join']}\n"
    assert list(folder.iterdir()) == [place]
    with weft.init(address=place.read_text()) as context:
        assert context["session_name"] == found["session"]


def test_node_in_a_folder_of_its_own_is_found_like_any_other(roots: tuple[Path, Path]) -> None:
    folder = roots[0].parent / "o"  # A short name, for sockets.
    found = start_head("--temp-dir", str(folder))
    session = Path(found["session_dir"])
    assert session.is_relative_to(folder)
    with weft.init(address="auto") as context:
        assert context["session_dir"] == str(session)
    assert found["address"] in good("status")
    assert good("stop").startswith(f"stopped {session.name} ")
    assert not session.exists()
    assert list(roots[0].glob("*/*")) == []
    killed = start_head("--temp-dir", str(folder))
    os.kill(killed["pid"], signal.SIGKILL)
    until(lambda: not sessions())
    # What it has left goes with the next one that is there.
    second = start_head("--temp-dir", str(folder))
    with weft.init(address="auto") as context:
        assert context["session_name"] == second["session"]
    good("stop")
    assert list(roots[0].glob("*/*")) == []
    assert list(folder.glob("*/*")) == []


def test_credentials_that_are_kept_are_those_of_the_next_head(folder: Path) -> None:
    kept = ("--credentials", str(folder / "kept"))
    first = start_head(*kept)
    good("stop")
    port = first["address"].rpartition(":")[2]
    second = start_head(*kept, "--port", port)
    assert second["join"] == first["join"]
    assert second["session"] != first["session"]


def test_status_tells_of_nodes_jobs_and_what_waits() -> None:
    found = start_head("--num-cpus", "1")

    @weft.remote
    class Actor:
        def ready(self) -> None: ...

    with weft.init(address="auto"):
        actors = [Actor.options(num_cpus=1).remote() for _ in range(3)]
        # Whichever comes first to the control service has the CPU.
        weft.wait([actor.ready.remote() for actor in actors], num_returns=1)
        told = json.loads(good("status", "--format", "json"))
        (node,) = told["nodes"]
        assert (node["address"], node["is_head"], node["state"]) == (found["head"], True, "alive")
        assert (node["total"]["CPU"], node["free"]["CPU"]) == (1, 0)
        (job,) = told["jobs"]
        assert job["driver_pid"] == os.getpid()
        (waiting,) = told["waiting"]
        assert (waiting["workers"], waiting["are_actors"]) == (2, True)
        assert waiting["needs"] == {"CPU": 1}
        text = good("status")
        assert "wanted: 2 workers for actors with CPU 1\n    " in text
        assert "needs CPU 1, this node has 0 free" in text
        assert found["address"] in text
        del actors


def test_status_of_a_programs_own_session() -> None:
    with weft.init(num_cpus=1):
        assert "this machine alone" in good("status")
        assert "nothing waits for a worker" in good("status")
        assert weft_command("stop").stderr == "no node runs here\n"
        session = weft.get_runtime_context().get_session_name()
        assert "was started by a program, and ends with it" in refused("stop", "--session", session)
    assert "no session is alive" in refused("status")


def test_several_nodes_of_one_user_are_told_apart() -> None:
    first, second = start_head(), start_head()
    assert "several sessions are alive" in refused("status")
    assert "choose one with --session" in refused("status")
    for found in (first, second):
        assert found["address"] in good("status", "--session", found["session"])
        assert found["address"] in good("status", "--session", found["join"])
    assert first["session"] in good("stop", "--session", first["session"])
    assert second["address"] in good("status")


def test_node_that_stays_in_the_foreground_ends_when_it_is_told_to() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "weft", "start", "--head", *HOST, "--block"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        while "weft stop" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0
    assert weft_command("stop").stderr == "no node runs here\n"


def test_node_in_the_foreground_ends_with_its_command_though_that_is_killed(
    gone: Callable[[list[int], float], list[int]],
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "weft", "start", "--head", *HOST, "--block", "--format", "json"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "}\n")
        found = json.loads("".join(lines) + "}")
        process.kill()
    assert gone([found["pid"]], WAIT_S) == []


def test_node_whose_head_is_gone_for_good_ends_and_says_why(
    gone: Callable[[list[int], float], list[int]],
    roots: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = start_head()
    monkeypatch.setenv("WEFT_HEAD_PATIENCE_S", "1.5")
    words = (*HOST, "--block", "--format", "json", "--num-cpus", "1")
    with subprocess.Popen(
        [sys.executable, "-m", "weft", "start", "--address", head["join"], *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        found = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
        with weft.init(address=found["session_dir"], log_to_driver=False):
            worker = weft.remote(os.getpid).options(num_cpus=1)
            pid = weft.get(worker.remote(), timeout=WAIT_S)
            os.kill(head["pid"], signal.SIGKILL)
            assert process.wait(WAIT_S) == 1
        (line,) = process.stderr.read().splitlines()
        assert line == (
            "weft: this node ends: no head has answered it for 1.5 s (WEFT_HEAD_PATIENCE_S)"
        )
    assert gone([pid, found["pid"]], WAIT_S) == []
    for root in roots:  # The next node on this machine would remove what is left.
        shutil.rmtree(root)
        root.mkdir()


def test_node_that_hangs_is_killed() -> None:
    found = start_head()
    os.kill(found["pid"], signal.SIGSTOP)
    assert good("stop", "--timeout", "0.2").startswith(f"killed {found['session']}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--head starts a cluster, --address JOIN"),
        (("--head", "--address", "x"), "give one of them"),
        (("--address", "x", "--join-file", "y"), "give one of them"),
        (("--address", "10.0.0.1:1"), "not a join string"),
        (("--address", "weft://10.0.0.1:1"), "ends before its '#'"),
        (("--address", "-"), "not a join string"),
        (
            ("--address", JoinString("127.0.0.1", 1, bytes(16), bytes(32)).format()),
            "no head answers at 127.0.0.1:1: Connection refused",
        ),
        (("--address", "x", "--journal", "sqlite:y"), "--journal is for --head"),
        (("--head", "--host", "192.0.2.1"), "nobody can listen at 192.0.2.1:0"),
        (("--head", "--resources", "x"), "write it like a=1,b=0.5"),
        (("--head", "--resources", '{"CPU": 1}'), "resources={'CPU': 1.0} of weft start"),
        (("--head", "--object-store-memory", "many"), "is no size: write it like 4GiB"),
        (("--head", "--port", "70000"), "70000 is not in the range"),
    ],
)
def test_what_cannot_be_started_is_refused_in_a_line(
    arguments: tuple[str, ...], words: str, roots: tuple[Path, Path]
) -> None:
    assert words in refused("start", *arguments)
    assert not list(roots[0].rglob("node.json"))


def test_file_with_a_join_string_that_others_could_read_is_not_believed(folder: Path) -> None:
    place = folder / "join"
    place.write_text("weft://127.0.0.1:1#x.y\n")
    place.chmod(0o644)
    assert "is open to others" in refused("start", "--join-file", str(place))


def test_who_waits_for_a_file_says_so(folder: Path) -> None:
    place = folder / "join"
    words = ("start", "--join-file", str(place), *HOST)
    with subprocess.Popen(
        [sys.executable, "-m", "weft", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == f"weft: waits for {place}, for 120 s at most\n"
        found = start_head("--join-file", str(place))
        said, _ = waiting.communicate(timeout=WAIT_S)
    assert f"the head is at {found['address']}" in said
