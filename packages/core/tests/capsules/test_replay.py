"""Failures of many kinds, staged in a program; each capsule is replayed in a process of its own."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("staged.py")
SECRET = "correct-horse-battery"
STAGES = [
    "argument_that_fails", "async_generator_method", "async_method", "async_time_limit",
    "attributes", "blocked_time_limit", "captured_reference", "chain", "closure", "constructor",
    "crash_too_large", "directory", "driver_variable", "dynamic_generator", "exit_code",
    "generator", "generator_method", "keywords", "killed", "lambda_function", "main_function",
    "many_references", "many_references_method", "method", "method_crash", "module_assertion",
    "nested", "numpy_argument", "numpy_random_numbers", "random_numbers", "recursion", "references",
    "retried", "segfault", "system_exit", "task_variable", "threaded_method", "time_limit",
    "too_large", "too_large_reference", "unpicklable_exception", "unpicklable_result",
    "wrong_number_of_returns",
]  # fmt: skip
# What is not the stage's own name.
NAMES = {"constructor": "Account.__init__"}
TOO_LARGE = {"crash_too_large", "too_large", "too_large_reference"}
"""Their argument `values` has to be supplied."""


class Staged:
    """What the program has left."""

    def __init__(self, folder: Path, said: str) -> None:
        self.folder = folder
        self.said = said

    def capsules(self, stage: str) -> list[Path]:
        name = NAMES.get(stage, stage)
        return sorted((self.folder / "capsules").glob(f"{name}-*.capsule.zip"))


def run(
    command: list[str | Path], folder: Path, *, variables: dict[str, str] | None = None, **more: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**os.environ, **(variables or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        **more,
    )


def start(folder: Path, *stages: str, **variables: str) -> Staged:
    """Run the program in a folder of its own."""
    variables = {"WEFT_CAPSULES": "capsules", **variables}
    ended = run([sys.executable, PROGRAM, *stages], folder, variables=variables)
    assert ended.returncode == 0, ended.stderr
    assert "did not fail" not in ended.stdout, ended.stdout
    return Staged(folder, ended.stdout + ended.stderr)


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Staged:
    return start(tmp_path_factory.mktemp("staged"), STAGED_TOKEN=SECRET)


def replay(
    capsule: Path, *options: str | Path, debugger: bool = False, said: str | None = None
) -> subprocess.CompletedProcess[str]:
    quiet = [] if debugger else ["--no-debugger"]
    command: list[str | Path] = [sys.executable, "-m", "weft", "replay", capsule, "--yes"]
    # Elsewhere: the capsule knows where the task was.
    return run([*command, *quiet, *options], Path("/"), input=said)


def last_line(ended: subprocess.CompletedProcess[str]) -> str:
    return ended.stdout.splitlines()[-1]


def manifest_of(capsule: Path) -> dict[str, Any]:
    with zipfile.ZipFile(capsule) as archive:
        found: dict[str, Any] = json.loads(archive.read("manifest.json"))
    return found


def text_of(capsule: Path, name: str) -> str:
    with zipfile.ZipFile(capsule) as archive:
        return archive.read(name).decode()


# ------------------------------------------------------------------ all of them


@pytest.mark.parametrize("stage", STAGES)
def test_failure_is_reproduced(staged: Staged, stage: str) -> None:
    capsules = staged.capsules(stage)
    assert capsules, staged.said
    options = ["--arg", f"values={staged.folder / 'large.npy'}"] if stage in TOO_LARGE else []
    ended = replay(capsules[-1], *options)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert last_line(ended).startswith("reproduced: ")


def test_every_stage_is_replayed(staged: Staged) -> None:
    failed = [line.partition(":")[0] for line in staged.said.splitlines()]
    assert set(failed) == set(STAGES)


def test_capsules_are_small(staged: Staged) -> None:
    sizes = [path.stat().st_size for path in (staged.folder / "capsules").iterdir()]
    assert len(sizes) > len(STAGES)
    assert max(sizes) < 1_000_000


def test_capsules_are_readable_by_their_owner_only(staged: Staged) -> None:
    (capsule,) = staged.capsules("closure")
    assert capsule.stat().st_mode & 0o777 == 0o600
    assert capsule.parent.stat().st_mode & 0o777 == 0o700


def test_random_numbers_are_those_of_the_failure(staged: Staged) -> None:
    for stage in ("random_numbers", "numpy_random_numbers"):
        (capsule,) = staged.capsules(stage)
        message = manifest_of(capsule)["raised"]["message"]
        assert message in replay(capsule).stdout.rpartition("reproduced: ")[2]


def test_retried_task_leaves_a_capsule_for_each_attempt(staged: Staged) -> None:
    first, second = staged.capsules("retried")
    assert [manifest_of(each)["attempt"] for each in (first, second)] == [1, 2]
    assert (first.name[-14:], second.name[-14:]) == ("-1.capsule.zip", "-2.capsule.zip")


def test_secret_is_in_no_text(staged: Staged) -> None:
    (capsule,) = staged.capsules("closure")
    assert manifest_of(capsule)["variables"]["same"]["STAGED_TOKEN"] == ""
    for path in (staged.folder / "capsules").iterdir():
        with zipfile.ZipFile(path) as archive:
            texts = [name for name in archive.namelist() if not name.endswith(".pkl")]
            assert {"manifest.json", "traceback.txt"} <= set(texts)
            assert not any(SECRET.encode() in archive.read(name) for name in texts)


def test_person_can_read_what_failed(staged: Staged) -> None:
    (capsule,) = staged.capsules("attributes")
    assert "BadRowError: row 3 of orders is bad" in text_of(capsule, "traceback.txt")
    assert 'raise BadRowError(row, table="orders")' in text_of(capsule, "source.py")
    with zipfile.ZipFile(capsule) as archive:
        assert pickle.loads(archive.read("args.pkl")) == ((3,), {})
    manifest = manifest_of(capsule)
    assert manifest["driver"][1] == str(PROGRAM)
    (capsule,) = staged.capsules("numpy_argument")
    assert manifest_of(capsule)["versions"]["numpy"] == np.__version__
    assert manifest["cwd"] == str(staged.folder)


def test_what_a_crash_wrote_is_in_the_log(staged: Staged) -> None:
    (capsule,) = staged.capsules("segfault")
    assert "Fatal Python error: Segmentation fault" in text_of(capsule, "log.txt")


# ------------------------------------------------------------------ arguments that were left out


def test_argument_that_was_left_out_is_asked_for(staged: Staged) -> None:
    (capsule,) = staged.capsules("too_large")
    ended = replay(capsule)
    assert ended.returncode == 2
    assert ended.stderr == (
        "Error: not in the capsule: values (numpy.ndarray (1000000,) float64, 7.6 MiB); "
        "give --arg NAME=FILE for each\n"
    )
    assert "left out    numpy.ndarray (1000000,) float64, 7.6 MiB" in ended.stdout


def test_argument_may_come_from_a_pickle(staged: Staged, tmp_path: Path) -> None:
    (capsule,) = staged.capsules("too_large")
    path = tmp_path / "values.pkl"
    path.write_bytes(pickle.dumps(np.arange(1_000_000.0)))
    assert replay(capsule, "--arg", f"values={path}").returncode == 0


def test_argument_that_is_another_one_is_told(staged: Staged, tmp_path: Path) -> None:
    (capsule,) = staged.capsules("too_large")
    other = tmp_path / "other.npy"
    np.save(other, np.arange(100.0))
    ended = replay(capsule, "--arg", f"values={other}")
    assert "values is not what it was, byte for byte" in ended.stdout
    same = replay(capsule, "--arg", f"values={staged.folder / 'large.npy'}")
    assert "byte for byte" not in same.stdout


def test_argument_that_is_there_may_be_another(staged: Staged, tmp_path: Path) -> None:
    (capsule,) = staged.capsules("main_function")
    path = tmp_path / "seven.pkl"
    path.write_bytes(pickle.dumps(7))
    ended = replay(capsule, "--arg", f"number={path}")
    assert (ended.returncode, last_line(ended)) == (1, "not reproduced: it ended well")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("number", "'number': give NAME=FILE"),
        ("nimber={file}", "main_function was called with no argument of this name"),
        ("number={nowhere}", "FileNotFoundError"),
        ("number={file}", "ValueError: this is no packed value"),
    ],
)
def test_bad_argument_is_told_in_a_line(
    staged: Staged, tmp_path: Path, option: str, words: str
) -> None:
    (capsule,) = staged.capsules("main_function")
    file = tmp_path / "text.pkl"
    file.write_text("not a pickle")
    ended = replay(capsule, "--arg", option.format(file=file, nowhere=tmp_path / "nowhere"))
    assert ended.returncode == 2
    assert words in ended.stderr.splitlines()[-1]


# ------------------------------------------------------------------ the debugger


def test_debugger_opens_where_the_exception_was_raised(staged: Staged) -> None:
    (capsule,) = staged.capsules("attributes")
    ended = replay(capsule, debugger=True, said="p row * 100\nq\n")
    assert "(Pdb) 300" in ended.stdout
    assert ended.returncode == 0


def test_debugger_steps_from_the_first_line(staged: Staged) -> None:
    (capsule,) = staged.capsules("keywords")
    ended = replay(capsule, "--step", debugger=True, said="p value, by, others\nc\nq\n")
    assert "(Pdb) (1, 2, {'less': 2})" in ended.stdout
    assert "return value / (by - others" in ended.stdout.partition("(Pdb)")[0]


@pytest.mark.parametrize(
    "stage", ["generator", "method", "async_method", "constructor", "module_assertion"]
)
def test_debugger_steps_into_what_failed_first(staged: Staged, stage: str) -> None:
    (capsule,) = staged.capsules(stage)
    raised = manifest_of(capsule)["raised"]
    ended = replay(capsule, "--step", debugger=True, said="where\nq\n")
    place = ended.stdout.partition("(Pdb)")[0].splitlines()[-2]
    assert Path(raised["file"]).name in place
    assert raised["function"].rpartition(".")[2] in place
    assert ended.returncode == 1
    assert last_line(ended).endswith("not reproduced: left before the end")


def test_time_limit_interrupts_where_the_debugger_opens(staged: Staged) -> None:
    (capsule,) = staged.capsules("time_limit")
    ended = replay(capsule, debugger=True, said="where\nq\n")
    assert "time.sleep(3600)" in ended.stdout
    assert "reproduced: it ran over its time limit of 0.3 s again" in ended.stdout


def test_task_that_ended_its_process_ends_that_of_a_debugger(staged: Staged) -> None:
    (capsule,) = staged.capsules("segfault")
    ended = replay(capsule, debugger=True, said="q\n")
    assert ended.returncode == -signal.SIGSEGV
    assert "this process will end with it too" in ended.stdout


def test_step_without_a_debugger_is_refused(staged: Staged) -> None:
    (capsule,) = staged.capsules("closure")
    assert replay(capsule, "--step").returncode == 2


def test_code_of_a_capsule_is_run_only_if_wanted(staged: Staged) -> None:
    (capsule,) = staged.capsules("closure")
    command: list[str | Path] = [sys.executable, "-m", "weft", "replay", capsule, "--no-debugger"]
    refused = run(command, Path("/"), input="n\n")
    assert refused.returncode == 1
    assert "KeyError: 'b'" in refused.stdout, "what can be told without running anything is told"
    assert "reproduced" not in refused.stdout
    wanted = run(command, Path("/"), input="y\n")
    assert wanted.returncode == 0
    assert "reproduced" in wanted.stdout


# ------------------------------------------------------------------ other programs


def write(folder: Path, text: str) -> Path:
    path = folder / "program.py"
    path.write_text(textwrap.dedent(text))
    return path


def left_by(folder: Path, text: str, **variables: str) -> tuple[list[Path], str]:
    """Run a program; return the capsules that it leaves, and what it says."""
    variables = {"WEFT_CAPSULES": str(folder / "capsules"), **variables}
    ended = run([sys.executable, write(folder, text)], folder, variables=variables)
    assert ended.returncode == 0, ended.stderr
    return sorted((folder / "capsules").glob("*")), ended.stdout + ended.stderr


FAIL = """
    import weft

    @weft.remote(max_retries=0)
    def fail(number):
        print("about to divide")
        return 1 / number

    def attempt(*refs):
        for ref in refs:
            try:
                weft.get(ref)
            except Exception as error:
                print(type(error).__name__)
"""


def test_nothing_is_left_by_default(tmp_path: Path) -> None:
    left, said = left_by(
        tmp_path, FAIL + "\n    weft.init(num_cpus=1); attempt(fail.remote(0))", WEFT_CAPSULES=""
    )
    assert left == []
    assert "TaskError" in said
    assert list(tmp_path.iterdir()) == [tmp_path / "program.py"]


def test_nothing_is_left_of_what_ends_well_or_is_cancelled(tmp_path: Path) -> None:
    left, said = left_by(
        tmp_path,
        FAIL
        + """
    import time

    @weft.remote
    def sleep():
        time.sleep(3600)

    @weft.remote
    class Actor:
        def sleep(self):
            time.sleep(3600)

    weft.init(num_cpus=2)
    weft.get(fail.remote(1))
    soft, hard, actor = sleep.remote(), sleep.remote(), Actor.remote()
    weft.wait([soft, hard], timeout=0.5)
    weft.cancel(soft)
    weft.cancel(hard, force=True)
    call = actor.sleep.remote()
    weft.wait([call], timeout=0.3)
    weft.kill(actor)
    attempt(soft, hard, call)
    """,
    )
    assert left == []
    assert said.count("TaskCancelledError") == 2


def test_failure_is_gone_when_the_code_is_mended(tmp_path: Path) -> None:
    module = tmp_path / "shop.py"
    module.write_text("def price(count):\n    return 10 / count\n")
    (capsule,), _ = left_by(
        tmp_path,
        """
        import shop, weft
        weft.init(num_cpus=1)
        try:
            weft.get(weft.remote(shop.price).remote(0))
        except ZeroDivisionError:
            pass
        """,
    )
    # The line has moved, and is the same.
    module.write_text("# Prices.\n\ndef price(count):\n    return 10 / count\n")
    assert replay(capsule).returncode == 0
    module.write_text("def price(count):\n    return 10 / count if count else 0\n")
    ended = replay(capsule)
    assert (ended.returncode, last_line(ended)) == (1, "not reproduced: it ended well")
    module.write_text("def price(count):\n    return [10][count + 1]\n")
    ended = replay(capsule)
    assert ended.returncode == 1
    assert "it raised IndexError" in last_line(ended)
    module.unlink()
    ended = replay(capsule)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "No module named 'shop'" in ended.stderr


def test_log_is_of_this_task(tmp_path: Path) -> None:
    (capsule,), _ = left_by(
        tmp_path,
        FAIL + "\n    weft.init(num_cpus=1); weft.get(fail.remote(2)); attempt(fail.remote(0))",
    )
    assert text_of(capsule, "log.txt") == "about to divide\n"


def test_no_more_than_some_are_kept(tmp_path: Path) -> None:
    left, said = left_by(
        tmp_path,
        FAIL + "\n    weft.init(num_cpus=1); [attempt(fail.remote(0)) for _ in range(5)]",
        WEFT_CAPSULES_KEPT="2",
    )
    assert len(left) == 2
    assert said.count("TaskError") == 5
    assert said.count("weft: capsules: the directory of WEFT_CAPSULES is full") == 1


def test_capsule_that_cannot_be_left_changes_no_error(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("no directory")
    _, said = left_by(
        tmp_path,
        FAIL + "\n    weft.init(num_cpus=1); attempt(fail.remote(0))",
        WEFT_CAPSULES=str(place),
    )
    assert "TaskError" in said
    assert "weft: capsules: there is none of fail: FileExistsError" in said


def test_large_code_is_left_out_and_said_so(tmp_path: Path) -> None:
    (capsule,), _ = left_by(
        tmp_path,
        """
        import weft
        table = bytes(range(256)) * 10_000
        def look_up(): return table[2560000]
        weft.init(num_cpus=1)
        try:
            weft.get(weft.remote(look_up).remote())
        except IndexError:
            pass
        """,
    )
    assert capsule.stat().st_size < 20_000
    ended = replay(capsule)
    assert ended.returncode == 2
    assert "the code of look_up is not in the capsule" in ended.stderr


def test_actor_of_another_process_cannot_be_made_anew(tmp_path: Path) -> None:
    (capsule,), _ = left_by(
        tmp_path,
        """
        import os, weft
        @weft.remote
        class Actor:
            def crash(self): os._exit(3)
        @weft.remote
        def call(actor):
            try:
                weft.get(actor.crash.remote())
            except weft.exceptions.ActorError:
                pass
        weft.init(num_cpus=2)
        weft.get(call.remote(Actor.remote()))
        """,
    )
    assert manifest_of(capsule)["died"]["exit_code"] == 3
    ended = replay(capsule)
    assert ended.returncode == 2
    assert "had not made the actor" in ended.stderr


def test_task_with_a_working_directory_leaves_its_capsule_with_the_others(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "number.txt").write_text("zero")
    left, _ = left_by(
        tmp_path,
        """
        import weft
        weft.init(num_cpus=1, runtime_env={"working_dir": "files"})
        try:
            weft.get(weft.remote(lambda: int(open("number.txt").read())).remote())
        except ValueError:
            pass
        """,
        WEFT_CAPSULES="capsules",
    )
    assert len(left) == 1


def test_reference_that_was_not_asked_for_says_so(tmp_path: Path) -> None:
    (capsule,), _ = left_by(
        tmp_path,
        """
        import time, weft

        def look(flag, refs):
            if flag["wait"]:
                return weft.get(refs)
            raise ValueError("not now")

        weft.init(num_cpus=2)
        late = weft.remote(time.sleep).remote(2)
        try:
            weft.get(weft.remote(look).remote({"wait": False}, [late]))
        except ValueError:
            pass
        """,
    )
    assert replay(capsule).returncode == 0
    flag = tmp_path / "flag.pkl"
    flag.write_bytes(pickle.dumps({"wait": True}))
    ended = replay(capsule, "--arg", f"flag={flag}")
    assert ended.returncode == 1
    assert "is not in the capsule: it had not been asked for" in last_line(ended)


def test_code_of_another_python_is_refused_if_it_travels_as_bytecode(
    staged: Staged, tmp_path: Path
) -> None:
    def elsewhere(stage: str) -> Path:
        (capsule,) = staged.capsules(stage)
        path = tmp_path / f"{stage}.zip"
        with zipfile.ZipFile(capsule) as source, zipfile.ZipFile(path, "w") as target:
            for name in source.namelist():
                content = source.read(name)
                if name == "manifest.json":
                    content = json.dumps({**json.loads(content), "python": "3.99.1"}).encode()
                target.writestr(name, content)
        return path

    refused = replay(elsewhere("closure"))
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "bytecode of Python 3.99.1" in refused.stderr
    assert "versions    Python 3.99.1 there" in refused.stdout
    assert replay(elsewhere("module_assertion")).returncode == 0


def test_what_a_capsule_says_does_not_reach_the_terminal_as_it_is(
    staged: Staged, tmp_path: Path
) -> None:
    (capsule,) = staged.capsules("closure")
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(capsule) as source, zipfile.ZipFile(path, "w") as target:
        manifest = json.loads(source.read("manifest.json"))
        manifest["raised"]["message"] = "\x1b]0;title\x07"
        manifest["variables"] |= {"set": {"A": "\x1b[2J"}}
        target.writestr("manifest.json", json.dumps(manifest))
    ended = replay(path)
    assert "\x1b" not in ended.stdout + ended.stderr
    assert ended.returncode == 2
    assert "code.pkl is missing" in ended.stderr


@pytest.mark.parametrize("content", [b"", b"text", b"PK\3\4 and no more"])
def test_file_that_is_no_capsule_is_told_in_a_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    for each in (path, tmp_path / "nowhere"):
        ended = replay(each)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr.startswith("Error: ")
        assert ended.stderr.count("\n") == 1


def test_each_death_of_an_actor_leaves_the_call_that_it_ran(tmp_path: Path) -> None:
    left, said = left_by(
        tmp_path,
        """
        import os, weft

        @weft.remote(max_restarts=1, max_task_retries=1, runtime_env={"env_vars": {"CODE": "5"}})
        class Actor:
            def __init__(self, code):
                self.code = code
            def fine(self):
                return 1
            def crash(self, more):
                os._exit(self.code + more + int(os.environ["CODE"]))

        weft.init(num_cpus=2)
        actor = Actor.remote(1)
        weft.get(actor.fine.remote())
        refs = [actor.crash.remote(2), actor.fine.remote()]
        for ref in refs:
            try:
                print(weft.get(ref))
            except weft.exceptions.ActorError as error:
                print(type(error).__name__)
        """,
    )
    assert said.split() == ["ActorDiedError", "ActorDiedError"]
    assert [manifest_of(capsule)["attempt"] for capsule in left] == [1, 2]
    assert [manifest_of(capsule)["died"]["exit_code"] for capsule in left] == [8, 8]
    assert "reproduced: its process exited with code 8 again" in replay(left[0]).stdout


def test_nothing_is_held_for_a_capsule_that_was_left(tmp_path: Path) -> None:
    left, said = left_by(
        tmp_path,
        """
        import os, time
        import numpy as np, weft
        from weft._engine import current

        @weft.remote(max_retries=0)
        def fail(values, referred, inside, code):
            weft.get(inside)
            os._exit(code) if code else int("x")

        @weft.remote
        class Actor:
            def __init__(self, values): self.values = values
            def fail(self, values, code): os._exit(code) if code else int("x")

        def attempt(ref):
            try:
                weft.get(ref)
            except Exception as error:
                print(type(error).__name__)

        def calls(code):
            first, second = weft.put(np.ones(50_000)), weft.put(np.ones(60_000))
            attempt(fail.remote(np.zeros(300_000), first, [second], code))
            attempt(Actor.remote(first).fail.remote(np.zeros(40_000), code))

        weft.init(num_cpus=2)
        for code in (0, 1, 0, 1):
            calls(code)
        # Counts are settled in messages that come with others.
        objects, deadline = current.engine.objects, time.monotonic() + 20
        while objects.machine.entries and time.monotonic() < deadline:
            weft.get(weft.remote(lambda: 1).remote())
            with current.engine.guard:
                objects.drain()
        print("left:", objects.machine.entries, objects.store._mine)
        """,
    )
    assert len(left) == 8
    assert said.endswith("left: {} {}\n")
