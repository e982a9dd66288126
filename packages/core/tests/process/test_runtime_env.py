"""Runtime environments of real sessions: what tasks and actors find in them, and what it costs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft.exceptions import EnvSetupError, OptionError
from weft.runtime_env import RuntimeEnv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOME = os.environ["HOME"]
OFFLINE = ["--no-index", "--no-build-isolation"]

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def temp_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Sessions and the cache of a test are its own."""
    place = tmp_path / "t"
    place.mkdir()
    monkeypatch.setenv("WEFT_TEMP_DIR", str(place))
    yield place
    weft.shutdown()


@pytest.fixture
def session(temp_dir: Path) -> None:
    weft.init(num_cpus=2, log_to_driver=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    (root / "helper.py").write_text("VALUE = 1\n")
    (root / "data.txt").write_text("some text")
    return root


@pytest.fixture
def wheels(tmp_path: Path) -> Callable[..., list[str]]:
    """Make wheels; return the options by which pip finds them, and nothing else."""
    folder = tmp_path / "wheels"
    folder.mkdir()

    def make(name: str, version: str, source: str, **files: str) -> list[str]:
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}.py", source)
            wheel.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            )
            wheel.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{info}/RECORD", "")
            for file, text in files.items():
                wheel.writestr(file.replace("__", "."), text)
        return ["--no-index", "--find-links", str(folder)]

    return make


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@weft.remote
def variable(name: str) -> str | None:
    return os.environ.get(name)


@weft.remote
def look() -> tuple[int, str, str]:
    import helper  # noqa: PLC0415 - it is there in the worker only

    return helper.VALUE, Path("data.txt").read_text(), str(Path.cwd())


@weft.remote
def run(source: str) -> Any:
    names: dict[str, Any] = {}
    exec(textwrap.dedent(source), names)
    return names["answer"]


def attempt(env: Any, source: str = "answer = None") -> Any:
    return weft.get(run.options(runtime_env=env).remote(source))


def failure(env: Any) -> EnvSetupError:
    with pytest.raises(EnvSetupError) as caught:
        attempt(env)
    return caught.value


@pytest.mark.usefixtures("session")
class TestVariables:
    def test_task_sees_its_variables_and_others_do_not(self) -> None:
        env = {"env_vars": {"COLOUR": "red", "LIST": "${COLOUR}:${HOME}:x"}}
        assert weft.get(variable.options(runtime_env=env).remote("COLOUR")) == "red"
        assert weft.get(variable.options(runtime_env=env).remote("LIST")) == f":{HOME}:x"
        assert weft.get(variable.remote("COLOUR")) is None
        assert (
            attempt(env, "import os; answer = [n for n in os.environ if 'RUNTIME_ENV' in n]") == []
        )

    def test_actor_sees_its_variables(self) -> None:
        @weft.remote(runtime_env=RuntimeEnv(env_vars={"COLOUR": "red"}))
        class Reader:
            def read(self) -> str | None:
                return os.environ.get("COLOUR")

        blue_env = {"env_vars": {"COLOUR": "blue"}}
        red, blue = Reader.remote(), Reader.options(runtime_env=blue_env).remote()
        assert weft.get([red.read.remote(), blue.read.remote()]) == ["red", "blue"]

    def test_nested_tasks_and_actors_inherit(self) -> None:
        @weft.remote(runtime_env={"env_vars": {"B": "2"}})
        def inner() -> tuple[str | None, str | None, dict[str, Any]]:
            env = weft.get_runtime_context().runtime_env
            return os.environ.get("A"), os.environ.get("B"), env["env_vars"]

        @weft.remote
        class Reader:
            def read(self) -> str | None:
                return os.environ.get("A")

        @weft.remote(runtime_env={"env_vars": {"A": "1", "B": "1"}})
        def outer() -> Any:
            return weft.get([inner.remote(), Reader.remote().read.remote(), variable.remote("B")])

        assert weft.get(outer.remote()) == [("1", "2", {"A": "1", "B": "2"}), "1", "1"]

    def test_many_variables_are_no_problem(self) -> None:
        env = {"env_vars": {f"NAME_{number}": "x" * 1000 for number in range(100)}}
        assert weft.get(variable.options(runtime_env=env).remote("NAME_99")) == "x" * 1000

    def test_wrong_environment_is_refused_before_anything_is_sent(self) -> None:
        with pytest.raises(OptionError, match="did you mean env_vars"):
            variable.options(runtime_env={"env_var": {"A": "1"}})
        with pytest.raises(OptionError, match="conda"):
            weft.remote(runtime_env={"conda": "base"})(len)


class TestDirectories:
    def test_task_runs_in_a_copy_and_imports_from_it(self, session: None, project: Path) -> None:
        value, text, place = weft.get(look.options(runtime_env={"working_dir": project}).remote())
        assert (value, text) == (1, "some text")
        assert place != str(project)

    def test_change_of_a_file_is_seen_at_the_next_use(self, session: None, project: Path) -> None:
        task = look.options(runtime_env={"working_dir": str(project)})
        assert weft.get(task.remote())[0] == 1
        (project / "helper.py").write_text("VALUE = 2\n")
        # The same options keep what was read when they were first used.
        assert weft.get(task.remote())[0] == 1
        assert weft.get(task.options(name="again").remote())[0] == 1
        assert weft.get(look.options(runtime_env={"working_dir": str(project)}).remote())[0] == 2
        weft.shutdown()
        weft.init(num_cpus=2)
        assert weft.get(task.remote())[0] == 2

    def test_session_gives_its_directory_to_all_tasks_and_actors(self, project: Path) -> None:
        @weft.remote
        class Looker:
            def look(self) -> tuple[str, int]:
                import helper  # noqa: PLC0415 - it is there in the worker only

                return Path("data.txt").read_text(), helper.VALUE

        @weft.remote
        def nested() -> Any:
            return weft.get(look.remote())

        weft.init(num_cpus=2, runtime_env={"working_dir": project, "env_vars": {"A": "1"}})
        assert weft.get(look.remote())[:2] == (1, "some text")
        assert weft.get(Looker.remote().look.remote()) == ("some text", 1)
        assert weft.get(nested.remote())[:2] == (1, "some text")
        assert weft.get(variable.options(runtime_env={"env_vars": {"B": "2"}}).remote("A")) == "1"
        assert Path.cwd() != Path(weft.get(look.remote())[2])

    def test_what_a_session_writes_is_gone_in_the_next(self, project: Path) -> None:
        write = "import pathlib; pathlib.Path('new.txt').write_text('x'); answer = None"
        find = "import pathlib; answer = pathlib.Path('new.txt').exists()"
        found = []
        for _ in range(2):
            weft.init(num_cpus=2, runtime_env={"working_dir": project})
            found.append(weft.get(run.remote(find)))
            weft.get(run.remote(write))
            found.append(weft.get(run.remote(find)))
            weft.shutdown()
        assert found == [False, True, False, True]
        assert sorted(path.name for path in project.iterdir()) == ["data.txt", "helper.py"]

    def test_modules_come_from_directories_files_archives_and_objects(
        self, session: None, project: Path, tmp_path: Path
    ) -> None:
        package = tmp_path / "some_package"
        package.mkdir()
        (package / "__init__.py").write_text("from some_package.part import NAME\n")
        (package / "part.py").write_text("NAME = 'part'\n")
        with zipfile.ZipFile(tmp_path / "packed.zip", "w") as packed:
            packed.writestr("packed_module.py", "NAME = 'packed'\n")
        env = {"py_modules": [package, project / "helper.py", str(tmp_path / "packed.zip")]}
        source = """
            import subprocess, sys, helper, packed_module, some_package
            child = "import some_package; print(some_package.NAME)"
            said = subprocess.check_output([sys.executable, "-c", child], text=True)
            answer = some_package.NAME, helper.VALUE, packed_module.NAME, said
        """
        assert attempt(env, source) == ("part", 1, "packed", "part\n")

    def test_module_that_the_workers_have_already_is_replaced(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.syspath_prepend(project)
        weft.init(num_cpus=2, preload=["helper"])
        source = "import helper, os; answer = helper.VALUE, os.getppid()"
        old, template = weft.get(run.remote(source))
        (project / "helper.py").write_text("VALUE = 2\n")
        new, parent = attempt({"py_modules": [project / "helper.py"]}, source)
        assert (old, new) == (1, 2)
        assert parent == template

    def test_directory_that_is_gone_is_told_at_the_call(self, session: None, project: Path) -> None:
        task = look.options(runtime_env={"working_dir": project})
        for path in project.iterdir():
            path.unlink()
        project.rmdir()
        with pytest.raises(OptionError, match="does not exist"):
            task.remote()

    def test_second_use_is_quick(self, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for number in range(1000):
            folder = project / f"part_{number // 100}"
            folder.mkdir(exist_ok=True)
            (folder / f"module_{number}.py").write_text(f"NUMBER = {number}\n" * 100)
        times = []
        for _ in range(3):
            weft.init(num_cpus=2)
            weft.get(variable.remote("HOME"))
            env = {"working_dir": project}
            times.append(seconds(lambda: weft.get(look.options(runtime_env=env).remote())))  # noqa: B023
            weft.shutdown()
        with capsys.disabled():
            print(f"\nworking_dir of 1,000 files: first use {times[0]:.3f} s, then {times[1:]} s")
        assert min(times[1:]) < 2


class TestPackages:
    def test_package_is_installed_once(
        self, wheels: Callable[..., list[str]], temp_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        options = wheels("weft_tiny", "1.0", "WORD = 'tiny'\n")
        env = {"pip": {"packages": ["weft_tiny"], "pip_install_options": options}}
        source = """
            import importlib.metadata, os, subprocess, sys, weft_tiny
            child = "import weft_tiny; print(weft_tiny.WORD)"
            said = [subprocess.check_output([python, "-c", child], text=True)
                    for python in ("python", sys.executable)]
            version = importlib.metadata.version("weft_tiny")
            answer = weft_tiny.WORD, version, said, sys.prefix == os.environ["VIRTUAL_ENV"]
        """
        times, answers = [], []
        for _ in range(2):
            weft.init(num_cpus=2)
            weft.get(variable.remote("HOME"))
            times.append(seconds(lambda: answers.append(attempt(env, source))))
            weft.shutdown()
        with capsys.disabled():
            print(f"\npip of one wheel: first use {times[0]:.3f} s, then {times[1]:.3f} s")
        assert answers == [("tiny", "1.0", ["tiny\n", "tiny\n"], True)] * 2
        venvs = list((temp_dir / f"weft-env-{os.getuid()}" / "venvs").glob("*/complete"))
        assert len(venvs) == 1

    def test_sessions_side_by_side_build_once(
        self, wheels: Callable[..., list[str]], temp_dir: Path
    ) -> None:
        options = wheels("weft_tiny", "1.0", "WORD = 'tiny'\n")
        options = [*options, "--log", str(temp_dir / "pip.log")]
        env = {"pip": {"packages": ["weft_tiny"], "pip_install_options": options}}
        program = f"""
            import weft
            weft.init(num_cpus=1)
            @weft.remote(runtime_env={env!r})
            def word():
                import weft_tiny  # noqa: PLC0415 - it is there in the worker only
                return weft_tiny.WORD
            print(weft.get(word.remote()))
        """
        command = [sys.executable, "-c", textwrap.dedent(program)]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        assert [process.communicate(timeout=60)[0] for process in processes] == ["tiny\n"] * 2
        assert (temp_dir / "pip.log").read_text().count("Successfully installed") == 1

    def test_package_that_the_workers_have_already_is_replaced(
        self, wheels: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "old").mkdir()
        (tmp_path / "old" / "weft_tiny.py").write_text("WORD = 'old'\n")
        monkeypatch.syspath_prepend(tmp_path / "old")
        weft.init(num_cpus=2, preload=["weft_tiny"])
        options = wheels("weft_tiny", "2.0", "WORD = 'new'\n")
        env = {"pip": {"packages": ["weft_tiny"], "pip_install_options": options}}
        source = "import os, weft_tiny; answer = weft_tiny.WORD, os.getppid()"
        old, template = weft.get(run.remote(source))
        assert (old, attempt(env, source)) == ("old", ("new", template))

    def test_actor_has_its_packages(self, session: None, wheels: Callable[..., list[str]]) -> None:
        options = wheels("weft_tiny", "1.0", "WORD = 'tiny'\n")

        pip = {"packages": ["weft_tiny"], "pip_install_options": options}

        @weft.remote(runtime_env={"pip": pip})
        class Speaker:
            def word(self) -> str:
                import weft_tiny  # noqa: PLC0415 - it is there in the worker only

                return str(weft_tiny.WORD)

        speakers = [Speaker.remote() for _ in range(2)]
        assert weft.get([speaker.word.remote() for speaker in speakers]) == ["tiny", "tiny"]

    def test_path_files_of_packages_count(
        self, session: None, wheels: Callable[..., list[str]], project: Path
    ) -> None:
        options = wheels("weft_tiny", "1.0", "", weft_tiny__pth=f"{project}\n")
        env = {"pip": {"packages": ["weft_tiny"], "pip_install_options": options}}
        assert attempt(env, "import helper; answer = helper.VALUE") == 1

    def test_change_of_a_local_package_is_another_environment(
        self, session: None, wheels: Callable[..., list[str]], tmp_path: Path
    ) -> None:
        wheels("weft_tiny", "1.0", "WORD = 'one'\n")
        wheel = tmp_path / "wheels" / "weft_tiny-1.0-py3-none-any.whl"
        env = {"pip": {"packages": [str(wheel)], "pip_install_options": ["--no-index"]}}
        source = "import weft_tiny; answer = weft_tiny.WORD"
        assert attempt(env, source) == "one"
        wheels("weft_tiny", "1.0", "WORD = 'two'\n")
        assert attempt(env, source) == "two"

    def test_failing_installation_tells_the_installers_words_and_is_tried_again(
        self, session: None, wheels: Callable[..., list[str]]
    ) -> None:
        options = wheels("weft_other", "1.0", "")
        env = {"pip": {"packages": ["weft_tiny"], "pip_install_options": options}}
        error = failure(env)
        assert "pip install weft_tiny failed" in str(error)
        assert "No matching distribution found for weft_tiny" in str(error)
        assert "Could not find a version" in error.error_message
        assert attempt(None, "answer = 1") == 1
        wheels("weft_tiny", "1.0", "WORD = 'late'\n")
        assert attempt(env, "import weft_tiny; answer = weft_tiny.WORD") == "late"

    def test_session_whose_environment_fails_tells_its_tasks(self) -> None:
        pip = {"packages": ["weft_tiny"], "pip_install_options": ["--no-index"]}
        weft.init(num_cpus=1, runtime_env={"pip": pip})
        with pytest.raises(EnvSetupError, match="weft_tiny"):
            weft.get(variable.remote("HOME"))

    def test_installation_that_takes_too_long_is_ended(self, session: None, tmp_path: Path) -> None:
        source = tmp_path / "slow"
        source.mkdir()
        (source / "setup.py").write_text("import time; time.sleep(60)")
        env = {
            "pip": {"packages": [str(source)], "pip_install_options": OFFLINE},
            "config": {"setup_timeout_seconds": 2},
        }
        began = time.perf_counter()
        error = failure(env)
        took = time.perf_counter() - began
        assert "setup_timeout_seconds=2" in str(error)
        assert took < 10

    def test_nothing_goes_on_when_the_driver_is_killed(
        self, tmp_path: Path, temp_dir: Path
    ) -> None:
        source = tmp_path / "slow"
        source.mkdir()
        note = tmp_path / "pid"
        (source / "setup.py").write_text(
            f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
        )
        env = {"pip": {"packages": [str(source)], "pip_install_options": OFFLINE}}
        program = f"""
            import weft
            weft.init(num_cpus=1, runtime_env={env!r})
            weft.get(weft.remote(len).remote("x"))
        """
        driver = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
        wait(lambda: note.exists() and note.read_text())
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        wait(lambda: is_gone(int(note.read_text())), 5)


@pytest.mark.usefixtures("session")
class TestStart:
    def test_hook_runs_first_and_modules_are_there(self) -> None:
        def hook() -> None:
            os.environ["HOOK"] = f"ran with {os.environ['A']}"

        env = {"worker_process_setup_hook": hook, "preload": ["colorsys"], "env_vars": {"A": "1"}}
        source = "import os, sys; answer = os.environ['HOOK'], 'colorsys' in sys.modules"
        assert attempt(env, source) == ("ran with 1", True)

    def test_hook_is_found_by_its_name(self, project: Path) -> None:
        (project / "helper.py").write_text("import os\ndef start(): os.environ['HOOK'] = 'named'\n")
        env = {"working_dir": project, "worker_process_setup_hook": "helper.start"}
        assert attempt(env, "import os; answer = os.environ['HOOK']") == "named"

    @pytest.mark.parametrize(
        ("env", "words"),
        [
            ({"worker_process_setup_hook": lambda: 1 / 0}, "ZeroDivisionError"),
            ({"preload": ["no_such_module"]}, "No module named 'no_such_module'"),
            ({"py_executable": "/no/such/python"}, "No such file"),
        ],
    )
    def test_start_that_fails_is_told(self, env: dict[str, Any], words: str) -> None:
        assert words in failure(env).error_message

    def test_another_interpreter_can_be_given(self, project: Path) -> None:
        env = {"py_executable": f"{sys.executable} -X importtime=0 -W once", "working_dir": project}
        source = "import helper, sys; answer = helper.VALUE, sys.warnoptions"
        assert attempt(env, source) == (1, ["once"])


class TestSessionsStart:
    def test_hook_of_a_session_can_be_a_function(self) -> None:
        def hook() -> None:
            os.environ["HOOK"] = "ran"

        weft.init(num_cpus=1, runtime_env={"worker_process_setup_hook": hook})
        assert weft.get(variable.remote("HOOK")) == "ran"

    @pytest.mark.parametrize(
        ("env", "named"),
        [
            (
                "{'worker_process_setup_hook': ask_for_licence}",
                "worker_process_setup_hook ask_for_licence failed: ValueError: no licence",
            ),
            (
                "{'preload': ['no_such_module']}",
                "preload='no_such_module' failed: ModuleNotFoundError: No module named",
            ),
            (
                "{'py_executable': '/no/such/python'}",
                "interpreter='/no/such/python' failed: FileNotFoundError",
            ),
        ],
    )
    def test_start_that_fails_is_printed_once_by_the_error_that_names_it(
        self, env: str, named: str
    ) -> None:
        program = f"""
            import weft
            def ask_for_licence():
                raise ValueError("no licence")
            @weft.remote(runtime_env={env})
            def work(): ...
            weft.get(work.remote())
        """
        command = [sys.executable, "-c", textwrap.dedent(program)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        own, _, told = ended.stderr.partition("EnvSetupError: the runtime environment could not")
        assert own.count("Traceback") == 1, "of the driver's own call"
        assert told.count("Traceback") == 1
        assert named in told.partition("\n")[0]


def wait(is_done: Callable[[], Any], limit_s: float = 20) -> None:
    until = time.monotonic() + limit_s
    while not is_done():
        assert time.monotonic() < until
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except OSError:
        return True
