"""Runtime environments as users write them: what is taken, what is refused, how two are merged."""

from __future__ import annotations

import json
import pickle
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from weft._env.spec import CODE, checked, decode, encode, merged, with_environment
from weft.exceptions import OptionError


def check(**fields: Any) -> dict[str, Any]:
    return checked(fields, "f")


def refused(value: Any) -> str:
    with pytest.raises(OptionError) as caught:
        checked(value, "f")
    return str(caught.value)


def test_normal_form_is_plain_and_stays_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("")
    normal = check(
        env_vars={"A": "1"},
        working_dir=tmp_path,
        py_modules=[tmp_path / "module.py", json],
        pip=["b", " a "],
        preload=("json",),
        excludes=["*.csv"],
        config={"setup_timeout_seconds": 5, "eager_install": False},
        py_executable="python -X dev",
        worker_process_setup_hook="package.module.start",
    )
    assert json.loads(encode(normal)) == normal
    assert checked(normal, "f") == normal
    assert decode(encode(normal)) == normal
    assert normal["working_dir"] == str(tmp_path)
    assert normal["py_modules"] == [str(tmp_path / "module.py"), str(Path(json.__file__).parent)]
    assert normal["pip"] == {"packages": ["b", "a"], "pip_check": False}


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert check(working_dir=".") == {"working_dir": str(tmp_path)}


def test_nothing_given_is_no_environment() -> None:
    assert encode(check(env_vars={}, pip=None, config={"setup_timeout_seconds": 600})) == ""
    assert decode("") == {}


def test_function_travels_as_its_pickle() -> None:
    hook = check(worker_process_setup_hook=lambda: 7)["worker_process_setup_hook"]
    assert hook.startswith(CODE)
    assert checked({"worker_process_setup_hook": hook}, "f")["worker_process_setup_hook"] == hook


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (5, "has to be a dict or a RuntimeEnv"),
        ({"env_var": {}}, "did you mean env_vars?"),
        ({"nonsense": 1}, "there are config, env_vars, excludes"),
        ({"conda": "base"}, "conda in the runtime_env of f is not supported"),
        ({"container": {}}, "not supported"),
        ({"image_uri": "x"}, "not supported"),
        ({"java_jars": []}, "not supported"),
        ({"pip": ["a"], "uv": ["b"]}, "pip and uv"),
        ({"env_vars": ["A"]}, "has to be a dict of strings"),
        ({"env_vars": {"A": 1}}, "has 1 for 'A', which has to be a string, like '1'"),
        ({"env_vars": {"A": None}}, "has None for 'A', which has to be a string"),
        ({"env_vars": {"A=B": "1"}}, "cannot be the name of a variable"),
        ({"env_vars": {"A": "\0"}}, "has to be a string"),
        ({"working_dir": "/no/such/place"}, "does not exist"),
        ({"working_dir": "s3://bucket/x.zip"}, "download it first"),
        ({"working_dir": 3}, "has to be a path"),
        ({"working_dir": __file__}, "no directory or .zip file"),
        ({"py_modules": "/tmp"}, "has to be a list of paths or modules"),
        ({"py_modules": ["/no/such/place"]}, "does not exist"),
        ({"py_modules": ["/dev/null"]}, "no directory, .zip, .whl or .py file"),
        ({"py_modules": [pickle, sys]}, "which is no Python source"),
        ({"excludes": "*.csv"}, "has to be a list of patterns"),
        ({"preload": "numpy"}, "has to be a list of names"),
        ({"preload": ["not a name"]}, "cannot be the name of a module"),
        ({"pip": 3}, "has to be a list of requirements"),
        ({"pip": "/no/such/requirements.txt"}, "cannot be read"),
        ({"pip": {"packages": ["a"], "pip_chek": True}}, "has 'pip_chek'; there are packages"),
        ({"pip": {"packages": ["a"], "pip_check": 1}}, "True or False"),
        ({"pip": {"packages": ["a"], "pip_version": 24}}, "has to be a string"),
        ({"pip": {"packages": ["a"], "pip_install_options": "-v"}}, "has to be a list of strings"),
        ({"worker_process_setup_hook": "name"}, "a function or its name"),
        ({"worker_process_setup_hook": 3}, "a function or its name"),
        ({"worker_process_setup_hook": threading.Lock().acquire}, "pickled"),
        ({"py_executable": " "}, "has to be a command"),
        ({"config": 3}, "has to be a dict or a RuntimeEnvConfig"),
        ({"config": {"setup_timeout_seconds": 0}}, "from 1 up"),
        ({"config": {"eager_install": 1}}, "True or False"),
        ({"config": {"log_files": "x"}}, "list of paths"),
        ({"config": {"retries": 1}}, "has 'retries'"),
    ],
)
def test_wrong_environments_are_refused_by_name(value: Any, words: str) -> None:
    assert words in refused(value)


def test_uv_needs_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "needs the program uv" in refused({"uv": ["a"]})
    program = tmp_path / "uv"
    program.write_text("")
    program.chmod(0o700)
    assert check(uv={"packages": ["a"], "uv_check": True}) == {
        "uv": {"packages": ["a"], "uv_check": True}
    }
    assert "uses the uv that is on PATH" in refused({"uv": {"packages": ["a"], "uv_version": "1"}})


def test_child_inherits_and_overrides_its_parents_environment() -> None:
    parent = {
        "env_vars": {"A": "1", "B": "1"},
        "pip": {"packages": ["a"]},
        "working_dir": "weft://x",
    }
    child = {"env_vars": {"B": "2"}, "working_dir": "weft://y"}
    assert merged(parent, child) == {
        "env_vars": {"A": "1", "B": "2"},
        "pip": {"packages": ["a"]},
        "working_dir": "weft://y",
    }
    assert merged(parent, {"uv": {"packages": []}}).keys() == {"env_vars", "working_dir", "uv"}
    assert merged({}, child) == child


def test_keywords_get_the_normal_form() -> None:
    assert with_environment({"num_cpus": 2}, "f") == {"num_cpus": 2}
    assert with_environment({"runtime_env": {"pip": ["a"]}, "name": "n"}, "f") == {
        "runtime_env": {"pip": {"packages": ["a"], "pip_check": False}},
        "name": "n",
    }


def test_two_modules_in_one_namespace_have_to_be_given_by_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = type(json)("several")
    monkeypatch.setattr(package, "__path__", ["/a", "/b"], raising=False)
    assert "lies in several directories" in refused({"py_modules": [package]})
