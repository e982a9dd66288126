"""What a runtime environment may say: its keys, its normal form, and how two are merged.

The normal form is JSON: paths are absolute, requirements are lines, code is a pickle in text. It
still names local directories; working_dir.py replaces them by names of their contents when the
environment is used.

What is always true
1. What `checked` returns is plain and good, and `checked` returns it unchanged if it is given it
   again.
2. A key that cannot be honoured raises, here, before anything is sent. None as a value means "not
   given".
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import msgspec

from weft._env.requirements import RequirementsError, pip_field, uv_field
from weft._lazy import lazy
from weft.exceptions import OptionError

if TYPE_CHECKING:
    import base64
    import difflib

    import cloudpickle
else:
    base64 = lazy("base64")
    difflib = lazy("difflib")
    cloudpickle = lazy("cloudpickle")

CONTENT: Final = "weft://"
"""Begins the name of a content: `weft://<SHA-256>`."""
CODE: Final = "pickle:"
"""Begins code in text: base64 of its pickle."""
SETUP_TIMEOUT_S: Final = 600
DRIVER_FILE: Final = "_weft_driver.pth"
"""In a virtual environment: names the places of the driver's packages."""
PLAIN: Final = "WEFT_RUNTIME_ENV"
"""Variable of a starting worker: an environment that only sets variables, as JSON."""
BUILT: Final = "WEFT_RUNTIME_ENV_FILE"
"""Variable of a starting worker: the file that the builder wrote for its environment."""
FAILED_SUFFIX: Final = ".failed"
"""Of the file, named like the worker's socket, that says why it could not enter its environment."""

_NOT_YET: Final = {
    "conda": "use pip or uv",
    "container": "run Weft inside the container",
    "image_uri": "run Weft inside the container",
    "java_jars": "leave it out",
    "nsight": "use py_executable='nsys profile ... python'",
    "rocprof_sys": "use py_executable='rocprof-sys-python ...'",
}
_ARCHIVES: Final = (".zip", ".whl")


class _WrongFieldError(Exception):
    """What is wrong with a field, as the end of a sentence that begins with its name."""


def checked(value: Any, subject: str) -> dict[str, Any]:
    """Return the normal form of a runtime environment. OptionError, which names `subject`."""
    if not isinstance(value, Mapping):
        raise OptionError(
            f"runtime_env of {subject} has to be a dict or a RuntimeEnv, "
            f"like {{'env_vars': {{'A': '1'}}}}, not {value!r}"
        )
    if value.get("pip") is not None and value.get("uv") is not None:
        raise OptionError(f"the runtime_env of {subject} has pip and uv: give one of them")
    fields: dict[str, Any] = {}
    for name, given in value.items():
        rule = _RULES.get(name)
        if rule is None and name not in _NOT_YET:
            raise OptionError(_unknown(name, subject))
        if given is None:
            continue
        if rule is None:
            raise OptionError(
                f"{name} in the runtime_env of {subject} is not supported by this version of Weft: "
                f"{_NOT_YET[name]}"
            )
        try:
            field = rule(given)
        except (_WrongFieldError, RequirementsError) as error:
            raise OptionError(f"{name} in the runtime_env of {subject} {error}") from None
        if field is not None:
            fields[name] = field
    return fields


def with_environment(given: Mapping[str, Any], subject: str) -> Mapping[str, Any]:
    """Return keywords with their `runtime_env` in its normal form. OptionError if it is wrong."""
    value = given.get("runtime_env")
    return given if value is None else {**given, "runtime_env": checked(value, subject)}


def merged(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a child's environment over its parent's: variables one by one, other keys as a whole."""
    both = {**parent, **child}
    if "env_vars" in parent and "env_vars" in child:
        both["env_vars"] = {**parent["env_vars"], **child["env_vars"]}
    for name, other in (("pip", "uv"), ("uv", "pip")):
        if name in child and other not in child:
            both.pop(other, None)
    return both


def encode(fields: Mapping[str, Any]) -> str:
    """Return the canonical JSON of a normal form; empty for none."""
    return msgspec.json.encode(fields, order="sorted").decode() if fields else ""


def decode(env: str) -> dict[str, Any]:
    """Return what `encode` was given."""
    fields: dict[str, Any] = msgspec.json.decode(env) if env else {}
    return fields


def is_remote(path: str) -> bool:
    """Tell whether a path names something elsewhere."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", path) is not None


def _unknown(name: object, subject: str) -> str:
    known = sorted([*_RULES, *_NOT_YET])
    near = difflib.get_close_matches(str(name), known, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(_RULES))}"
    return f"{name!r} in the runtime_env of {subject} is no key of a runtime environment: {hint}"


# ------------------------------------------------------------------ rules: the field, or an error


def _variables(value: Any) -> dict[str, str] | None:
    if not isinstance(value, Mapping):
        raise _WrongFieldError(f"has to be a dict of strings by name, not {value!r}")
    for name, text in value.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise _WrongFieldError(f"has {name!r}, which cannot be the name of a variable")
        if not isinstance(text, str) or "\0" in text:
            hint = f", like {str(text)!r}" if isinstance(text, int | float) else ""
            raise _WrongFieldError(f"has {text!r} for {name!r}, which has to be a string{hint}")
    return dict(value) or None


def _path(value: Any) -> str:
    if not isinstance(value, str | PathLike):
        raise _WrongFieldError(f"has to be a path, not {value!r}")
    path = fspath(value)
    if not isinstance(path, str) or not path:
        raise _WrongFieldError(f"has to be a path in text, not {value!r}")
    if path.startswith(CONTENT):
        return path
    if is_remote(path):
        raise _WrongFieldError(
            f"names {path!r}, and this version of Weft takes local directories and archives only: "
            "download it first"
        )
    # A symbolic link stays: its name may be a package's.
    return os.path.abspath(Path(path).expanduser())  # noqa: PTH100 - links stay


def check_exists(path: str) -> str:
    """Return what is wrong with a local path, as the end of a sentence; empty if nothing is."""
    if path.startswith(CONTENT) or Path(path).is_dir():
        return ""
    if not Path(path).exists():
        return f"names {path!r}, which does not exist"
    if not path.endswith((*_ARCHIVES, ".py")):
        return f"names {path!r}, which is no directory, .zip, .whl or .py file"
    return ""


def _working_dir(value: Any) -> str:
    path = _path(value)
    problem = check_exists(path)
    if not problem and path.endswith((".py", ".whl")) and not Path(path).is_dir():
        problem = f"names {path!r}, which is no directory or .zip file"
    if problem:
        raise _WrongFieldError(problem)
    return path


def _py_modules(value: Any) -> list[str] | None:
    if isinstance(value, str | PathLike) or not isinstance(value, Sequence):
        raise _WrongFieldError(f"has to be a list of paths or modules, not {value!r}")
    paths = []
    for item in value:
        path = _path(_source_of(item) if isinstance(item, ModuleType) else item)
        if problem := check_exists(path):
            raise _WrongFieldError(problem)
        paths.append(path)
    return paths or None


def _source_of(module: ModuleType) -> str:
    places = list(getattr(module, "__path__", ()))
    if len(places) > 1:
        raise _WrongFieldError(
            f"has {module.__name__!r}, which lies in several directories: give their paths"
        )
    if places:
        return str(places[0])
    path = getattr(module, "__file__", None) or ""
    if not path.endswith(".py"):
        raise _WrongFieldError(f"has {module.__name__!r}, which is no Python source")
    return str(path)


def _strings(value: Any, what: str) -> list[str] | None:
    if (
        isinstance(value, str)
        or not isinstance(value, Sequence)
        or not all(isinstance(item, str) for item in value)
    ):
        raise _WrongFieldError(f"has to be a list of {what}, not {value!r}")
    return list(value) or None


def _preload(value: Any) -> list[str] | None:
    names = _strings(value, "names of modules, like ['numpy']")
    for name in names or ():
        if not all(part.isidentifier() for part in name.split(".")):
            raise _WrongFieldError(f"has {name!r}, which cannot be the name of a module")
    return names


def _hook(value: Any) -> str:
    if isinstance(value, str):
        if not value.startswith((CODE, CONTENT)) and not re.fullmatch(
            r"[^\W\d]\w*(\.[^\W\d]\w*)+", value
        ):
            raise _WrongFieldError(
                f"is {value!r}, which has to be a function or its name, like 'module.function'"
            )
        return value
    if not callable(value):
        raise _WrongFieldError(
            f"has to be a function or its name, like 'module.function', not {value!r}"
        )
    try:
        return CODE + base64.b64encode(cloudpickle.dumps(value)).decode()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        raise _WrongFieldError(f"is {value!r}, which cannot be pickled: {error}") from None


def _py_executable(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _WrongFieldError(f"has to be a command that starts Python, not {value!r}")
    return value


def _config(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, Mapping):
        raise _WrongFieldError(f"has to be a dict or a RuntimeEnvConfig, not {value!r}")
    kept: dict[str, Any] = {}
    for name, given in value.items():
        if given is None:
            continue
        match name:
            case "setup_timeout_seconds":
                if (
                    isinstance(given, bool)
                    or not isinstance(given, int)
                    or (given < 1 and given != -1)
                ):
                    raise _WrongFieldError(
                        f"has {name}={given!r}, which has to be seconds from 1 up, or -1: no limit"
                    )
                if given != SETUP_TIMEOUT_S:
                    kept[name] = given
            case "eager_install":
                if not isinstance(given, bool):
                    raise _WrongFieldError(f"has {name}={given!r}, which has to be True or False")
                if not given:
                    kept[name] = given
            case "log_files":
                _strings(
                    given, "paths"
                )  # Taken from programs that come from Ray: there is no dashboard to show them.
            case _:
                raise _WrongFieldError(
                    f"has {name!r}; it takes setup_timeout_seconds, eager_install and log_files"
                )
    return kept or None


_RULES: Final[dict[str, Callable[[Any], Any]]] = {
    "config": _config,
    "env_vars": _variables,
    "excludes": lambda value: _strings(value, "patterns, as in a .gitignore file"),
    "pip": pip_field,
    "preload": _preload,
    "py_executable": _py_executable,
    "py_modules": _py_modules,
    "uv": uv_field,
    "worker_process_setup_hook": _hook,
    "working_dir": _working_dir,
}
KEYS: Final = frozenset(_RULES)
UNSUPPORTED: Final = frozenset(_NOT_YET)
