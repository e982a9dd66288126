"""RuntimeEnv is a dict that checks itself and answers what programs from Ray ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from weft._env import inheritance
from weft._env.activation import top_level_modules
from weft._env.spec import decode
from weft.exceptions import OptionError
from weft.runtime_env import RuntimeEnv, RuntimeEnvConfig

if TYPE_CHECKING:
    from pathlib import Path

    from weft._env.inheritance import Inheritance


def test_it_is_a_dict_of_what_was_given(tmp_path: Path) -> None:
    env = RuntimeEnv(env_vars={"A": "1"}, pip=["a"], working_dir=tmp_path, preload=["json"])
    assert env == {
        "env_vars": {"A": "1"},
        "pip": {"packages": ["a"], "pip_check": False},
        "working_dir": str(tmp_path),
        "preload": ["json"],
    }
    assert env.to_dict() == dict(env)
    assert type(env.to_dict()) is dict
    assert RuntimeEnv.deserialize(env.serialize()) == env


def test_questions_are_answered(tmp_path: Path) -> None:
    env = RuntimeEnv(env_vars={"A": "1"}, pip=["a"], working_dir=tmp_path, py_modules=[tmp_path],
                     py_executable="python")  # fmt: skip
    assert env.env_vars() == {"A": "1"}
    assert env.has_pip()
    assert env.pip_config() == {"packages": ["a"], "pip_check": False}
    assert str(env.pip_uri()).startswith("pip://")
    assert env.pip_uri() == RuntimeEnv(pip=["a"]).pip_uri()
    assert env.pip_uri() != RuntimeEnv(pip=["b"]).pip_uri()
    assert env.has_working_dir()
    assert env.working_dir() == str(tmp_path)
    assert env.working_dir_uri() is None
    assert env.py_modules() == [str(tmp_path)]
    assert env.py_modules_uris() == []
    assert env.py_executable() == "python"


def test_an_empty_one_has_nothing() -> None:
    env = RuntimeEnv()
    assert env == {}
    assert env.serialize() == "{}"
    answers = [
        env.working_dir(), env.working_dir_uri(), env.pip_uri(), env.uv_uri(),
        env.virtualenv_name(), env.py_executable(),
        env.conda_config(), env.conda_env_name(), env.conda_uri(), env.py_container_image(),
        env.py_container_worker_path(), env.image_uri(), env.nsight(), env.rocprof_sys(),
    ]  # fmt: skip
    assert answers == [None] * len(answers)
    assert not any(
        (
            env.has_pip(),
            env.has_uv(),
            env.has_conda(),
            env.has_py_container(),
            env.has_working_dir(),
        )
    )
    assert [
        env.py_modules(),
        env.py_modules_uris(),
        env.java_jars(),
        env.plugins(),
        env.plugin_uris(),
    ] == [[]] * 5
    assert env.py_container_run_options() == []
    assert (env.env_vars(), env.pip_config(), env.uv_config()) == ({}, {}, {})
    with pytest.raises(ValueError, match="no extension"):
        env.get_extension("x")


@pytest.mark.parametrize(
    "fields",
    [
        {"conda": "base"},
        {"container": {}},
        {"working_dirr": "."},
        {"env_vars": {"A": 1}},
        {"image_uri": "x"},
    ],
)
def test_wrong_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        RuntimeEnv(**fields)


def test_items_are_checked_when_they_are_set() -> None:
    env = RuntimeEnv(env_vars={"A": "1"})
    env.set("pip", ["a"])
    env["preload"] = ["json"]
    assert env.get("pip") == {"packages": ["a"], "pip_check": False}
    with pytest.raises(OptionError):
        env["pip"] = 3
    env["preload"] = None
    assert "preload" not in env
    assert env.get("preload", 7) == 7


def test_function_stays_callable_until_it_travels() -> None:
    env = RuntimeEnv(worker_process_setup_hook=dict)
    assert env["worker_process_setup_hook"] is dict
    assert decode(env.serialize())["worker_process_setup_hook"].startswith("pickle:")


def test_config_is_a_dict_too() -> None:
    config = RuntimeEnvConfig(setup_timeout_seconds=5)
    assert config == {"setup_timeout_seconds": 5, "eager_install": True, "log_files": []}
    assert RuntimeEnvConfig.default_config().to_dict()["setup_timeout_seconds"] == 600
    env = RuntimeEnv(config=config)
    assert env.get("config") == {"setup_timeout_seconds": 5}
    assert env.get("config", data_class=RuntimeEnvConfig) == config
    with pytest.raises(OptionError):
        RuntimeEnvConfig(setup_timeout_seconds=-2)


@pytest.fixture
def inherited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inheritance:
    monkeypatch.setenv("WEFT_TEMP_DIR", str(tmp_path / "temp"))
    return inheritance.Inheritance()


def test_task_inherits_the_environment_of_its_process(
    inherited: Inheritance, tmp_path: Path
) -> None:
    assert inherited.environment_of("") == ""
    before = inherited.session
    job = inherited.begin('{"env_vars":{"A":"1","B":"1"}}')
    assert inherited.session is not before
    assert inherited.environment_of("") == job
    (tmp_path / "project").mkdir()
    own = f'{{"env_vars":{{"B":"2"}},"working_dir":"{tmp_path}/project"}}'
    fields = decode(inherited.environment_of(own))
    assert fields["env_vars"] == {"A": "1", "B": "2"}
    assert fields["working_dir"].startswith("weft://")
    inherited.end()
    assert inherited.environment_of("") == ""


def test_modules_that_a_directory_brings_are_found(tmp_path: Path) -> None:
    for name in ("one.py", "two.cpython-311-x86_64-linux-gnu.so", "four.txt", "random.py",
                 "six-1.dist-info/x", "weft/x.py", "seven/data.txt", "__pycache__/x.pyc",
                 "not-a-name.py"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert top_level_modules(str(tmp_path)) == {"one", "two", "seven"}
