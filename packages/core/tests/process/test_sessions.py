"""Whole programs in processes of their own: quiet, interrupted, killed, forked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow


def start(program: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]  # the options are given by name
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def run(program: str) -> tuple[str, str, int]:
    process = start(program)
    out, err = process.communicate(timeout=60)
    return out, err, process.returncode


def test_hello_world_prints_nothing_of_the_framework() -> None:
    out, err, code = run(
        """
        import weft
        @weft.remote
        def hello(): return "hello"
        print(weft.get(hello.remote()))
        """
    )
    assert (out, err, code) == ("hello\n", "", 0)


def test_output_of_workers_arrives_unaltered_and_whole() -> None:
    out, err, code = run(
        """
        import sys, weft
        @weft.remote
        def speak(number):
            print(f"{number} {{\\"json\\": true}}")
            print("e", number, file=sys.stderr)
            sys.stdout.write("partial")
        weft.get([speak.remote(number) for number in range(200)])
        """
    )
    assert code == 0
    assert sorted(err.splitlines()) == sorted(f"e {number}" for number in range(200))
    assert out.count("partial") == 200
    assert all(f'{number} {{"json": true}}\n' in out for number in range(200))


def test_a_users_error_through_three_tasks_prints_user_frames_only() -> None:
    _, err, code = run(
        """
        import weft
        @weft.remote
        def inner(): raise ValueError("wrong")
        @weft.remote
        def middle(): return weft.get(inner.remote())
        @weft.remote
        def outer(): return weft.get(middle.remote())
        weft.get(outer.remote())
        """
    )
    lines = err.rstrip().splitlines()
    assert code == 1
    assert len(lines) <= 15, err
    assert not any("weft/_" in line for line in lines), err
    assert all(name in err for name in ("inner", "middle", "outer", "ValueError", "wrong"))


def test_ctrl_c_in_get_leaves_a_usable_session() -> None:
    process = start(
        """
        import time, weft
        weft.init(num_cpus=2)
        @weft.remote
        def sleep(): time.sleep(60)
        @weft.remote
        def quick(): return 1
        ref = sleep.remote()
        for _ in range(3):
            try:
                print("waiting", flush=True)
                weft.get(ref)
            except KeyboardInterrupt:
                print("interrupted", weft.get(quick.remote()), flush=True)
        """,
        start_new_session=True,
    )
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted 1\n"
    out, err = process.communicate(timeout=60)
    assert (out, err, process.returncode) == ("", "", 0)


@pytest.mark.parametrize(
    ("verb", "caught"),
    [
        ("weft.get(ref)", "main get\n"),
        ("weft.get([ref])", "main get\n"),
        ("weft.wait([ref])", "main wait\n"),
        ("ref.result()", "main result "),
    ],
)
def test_ctrl_c_prints_user_frames_only(verb: str, caught: str) -> None:
    """Who catches it sees the function that was called, too."""
    process = start(
        f"""
        import os, signal, time, traceback, weft
        signal.signal(signal.SIGINT, signal.default_int_handler)
        weft.init(num_cpus=1)
        @weft.remote
        def interrupt(pid): os.kill(pid, signal.SIGINT); time.sleep(60)
        def main():
            ref = interrupt.remote(os.getpid())
            try:
                {verb}
            except KeyboardInterrupt as error:
                print(*(frame.name for frame in traceback.extract_tb(error.__traceback__)))
                raise
        main()
        """,
        start_new_session=True,
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    lines = err.rstrip().splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "KeyboardInterrupt"
    assert [line for line in lines if "in main" in line]
    assert not [line for line in lines if "weft" in line and "<string>" not in line], err
    assert out.startswith(caught)


def test_ctrl_c_in_wait_leaves_nothing_that_waits() -> None:
    out, err, code = run(
        """
        import os, signal, time, weft
        from weft._engine import current
        signal.signal(signal.SIGINT, signal.default_int_handler)
        weft.init(num_cpus=1)
        @weft.remote
        def interrupt(pid): os.kill(pid, signal.SIGINT); time.sleep(0.5)
        refs = [interrupt.remote(os.getpid()), weft.remote(time.sleep).remote(0)]
        try:
            weft.wait(refs)
        except KeyboardInterrupt:
            print("interrupted", current.engine.objects._some)
        print(weft.get(refs))
        """
    )
    assert (out, err, code) == ("interrupted {}\n[None, None]\n", "", 0)


def test_an_exception_of_the_users_signal_handler_leaves_get() -> None:
    out, err, code = run(
        """
        import signal, time, weft
        class TooLong(Exception): pass
        def handler(number, frame): raise TooLong
        signal.signal(signal.SIGALRM, handler)
        @weft.remote
        def sleep(seconds): time.sleep(seconds); return "slept"
        ref = sleep.remote(1)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            weft.get(ref)
        except TooLong:
            print("left", weft.get(ref))
        """
    )
    assert (out, err, code) == ("left slept\n", "", 0)


def test_a_signal_handler_may_get_in_the_middle_of_get() -> None:
    out, err, code = run(
        """
        import signal, time, weft
        weft.init(num_cpus=2)
        @weft.remote
        def sleep(seconds): time.sleep(seconds); return seconds
        def handler(number, frame): print("handled", weft.get(sleep.remote(0.1)))
        signal.signal(signal.SIGALRM, handler)
        ref = sleep.remote(0.5)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        print(weft.get(ref))
        """
    )
    assert (out, err, code) == ("handled 0.1\n0.5\n", "", 0)


def test_signals_reach_the_handlers_of_asyncio_also_during_get() -> None:
    out, err, code = run(
        """
        import asyncio, os, signal, threading, time, weft
        weft.init(num_cpus=1)
        @weft.remote
        def strike(pid): time.sleep(0.2); os.kill(pid, signal.SIGUSR1); time.sleep(0.2)
        async def main():
            handled = asyncio.Event()
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGUSR1, handled.set)
            weft.get(strike.remote(os.getpid()))
            await handled.wait()
            handled.clear()
            os.kill(os.getpid(), signal.SIGUSR1)
            await handled.wait()
            print("handled")
        asyncio.run(main())
        """
    )
    assert (out, err, code) == ("handled\n", "", 0)


def test_nothing_survives_a_killed_driver() -> None:
    process = start(
        """
        import time, weft
        weft.init(num_cpus=2)
        @weft.remote
        def sleep(): time.sleep(60)
        @weft.remote
        def quick(): return 1
        weft.get(quick.remote())
        ref, kept = sleep.remote(), weft.put(bytes(1 << 20))
        print(weft.get_runtime_context().get_session_name(), flush=True)
        weft.get(ref)
        """
    )
    assert process.stdout is not None
    session = process.stdout.readline().strip()
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 3
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(family, timeout=3)
    assert not alive
    for root in ("/dev/shm", os.environ.get("TMPDIR", "/tmp")):
        assert not Path(root, f"weft-{os.getuid()}", session).exists()


def test_a_clean_exit_leaves_no_files_and_no_processes() -> None:
    process = start(
        """
        import weft
        weft.init(num_cpus=2)
        kept = weft.put(bytes(1 << 20))
        print(weft.get_runtime_context().get_session_name(), flush=True)
        input()
        """,
        stdin=subprocess.PIPE,
    )
    assert process.stdout is not None
    session = process.stdout.readline().strip()
    family = psutil.Process(process.pid).children(recursive=True)
    process.communicate("\n", timeout=60)
    assert not any(
        child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in family
    )
    for root in ("/dev/shm", "/tmp"):
        assert not Path(root, f"weft-{os.getuid()}", session).exists()


def test_fork_multiprocessing_and_subprocess_work_inside_tasks() -> None:
    out, err, code = run(
        """
        import multiprocessing, os, subprocess, time, weft
        @weft.remote
        def pool():
            with multiprocessing.get_context("fork").Pool(2) as workers:
                return workers.map(abs, [-1, -2])
        @weft.remote
        def forked():
            pid = os.fork()
            if pid == 0:
                os._exit(7)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        @weft.remote
        def echo():
            return subprocess.check_output(["echo", "hi"], text=True)
        print(weft.get([pool.remote(), forked.remote(), echo.remote()]))
        with multiprocessing.get_context("fork").Pool(2) as workers:
            print(workers.map(abs, [-3]))
        print(weft.get(echo.remote()))
        """
    )
    assert (out, err, code) == ("[[1, 2], 7, 'hi\\n']\n[3]\nhi\n\n", "", 0)


def test_a_child_that_a_dead_worker_left_behind_does_not_hide_its_death() -> None:
    out, _, code = run(
        """
        import os, time, weft
        weft.init(log_to_driver=False)
        @weft.remote(max_retries=0)
        def leave_a_child():
            if os.fork() == 0:
                time.sleep(60)
            os._exit(5)
        try:
            weft.get(leave_a_child.remote(), timeout=10)
        except weft.exceptions.WorkerDiedError as error:
            print(error.exit_code)
        """
    )
    assert (out, code) == ("5\n", 0)


def test_atexit_hooks_of_an_actor_run_at_a_clean_end(tmp_path: Path) -> None:
    out, err, code = run(
        f"""
        import atexit, pathlib, weft
        @weft.remote
        class Careful:
            def __init__(self, path):
                self.path = pathlib.Path(path)
                atexit.register(lambda: self.path.with_suffix(".atexit").touch())
            def ready(self): return 1
            def __weft_terminate__(self):
                self.path.with_suffix(".hook").touch()
        careful = Careful.remote({str(tmp_path / "mark")!r})
        weft.get(careful.ready.remote())
        del careful
        weft.shutdown()
        """
    )
    assert (out, err, code) == ("", "", 0)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".atexit", ".hook"]


def test_two_sessions_of_one_user_do_not_meet() -> None:
    program = """
        import weft
        weft.init(num_cpus=1)
        @weft.remote
        class Named:
            def who(self): return {name!r}
        named = Named.options(name="same").remote()
        print(weft.get(weft.get_actor("same").who.remote()), flush=True)
        input()
        """
    first = start(program.format(name="first"), stdin=subprocess.PIPE)
    second = start(program.format(name="second"), stdin=subprocess.PIPE)
    assert first.stdout is not None
    assert second.stdout is not None
    assert (first.stdout.readline(), second.stdout.readline()) == ("first\n", "second\n")
    for process in (first, second):
        _, err = process.communicate("\n", timeout=60)
        assert (err, process.returncode) == ("", 0)
