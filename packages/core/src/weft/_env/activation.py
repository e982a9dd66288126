"""Enter a runtime environment: the first thing that a worker does.

A worker is forked from the template, which has imported Weft and what the session preloads. Most
environments are entered right there: variables are set, the directory is changed, what is built is
put in front of the search path. That is done when nothing that the environment brings has been
imported by the template. If something has (another msgspec, a numpy that the session preloads), or
if a command for Python is given, the worker becomes a fresh interpreter instead: the same process,
with the same number and pipes, executes it and goes on in `_node/template.py`.

Why not always a fresh interpreter: it and the import of Weft cost some 150 ms for each worker, a
fork costs 5. Why not drop the modules and import them again: other modules keep the old ones, and
many extension modules cannot be loaded twice in a process.

What is always true
1. Modules of the standard library and Weft itself are never taken from an environment.
2. The search path is: working_dir, py_modules, installed packages, then what the driver has, then
   what the node had that started the worker, if that is not the driver's own.
3. Weft's own variables are gone from os.environ before user code runs.
4. What fails of the user's (a module, a hook, an interpreter) is an EntryError, which names it.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import re
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from weft._env.inheritance import inherited
from weft._env.jobs import JobEnvironment, job_in
from weft._env.spec import BUILT, DRIVER_FILE, PLAIN, decode
from weft._error_parts import safe_str, type_name
from weft._lazy import lazy

if TYPE_CHECKING:
    import pickle
    import shlex
    import site
    from collections.abc import Callable

    from weft._env import cache
else:
    cache = lazy("weft._env.cache")
    pickle = lazy("pickle")
    shlex = lazy("shlex")
    site = lazy("site")

T = TypeVar("T")


class EntryError(Exception):
    """A part of the environment failed: which and why in a line, then the traceback."""


class WorkerSetup(msgspec.Struct, frozen=True, kw_only=True):
    """What a builder tells the workers of an environment."""

    env: str
    """The environment, as canonical JSON."""
    cache_root: str
    env_vars: dict[str, str] = {}
    working_dir: str = ""
    module_dirs: tuple[str, ...] = ()
    venv: str = ""
    """The directory of a virtual environment."""
    packages_dir: str = ""
    """Its site-packages."""
    brings: tuple[str, ...] = ()
    """Top-level modules that come with it, but for those of the standard library and Weft."""
    preload: tuple[str, ...] = ()
    hook: str = ""
    """The name of a function, or the path of its pickle."""
    py_executable: str = ""


def enter(variables: dict[str, str], *, is_fresh: bool = False) -> tuple[list[str], str]:
    """Put this process into its environment: return ([], "").

    If it needs another interpreter, only variables and the directory are changed: return the
    command that starts it, and the path of the setup. `is_fresh`: this is that interpreter.
    EntryError if a module or the hook fails.
    """
    path = variables.get(BUILT, "")
    if path:
        setup = msgspec.json.decode(Path(path).read_bytes(), type=WorkerSetup)
    else:
        env = variables.get(PLAIN, "")
        setup = WorkerSetup(
            env=env,
            cache_root=cache.default_root() if env else "",
            env_vars=decode(env).get("env_vars", {}),
        )
    inherited.enter(setup.env, setup.cache_root)
    job = job_in(setup.env)
    if job is not None:
        _follow_driver(job)
    if not is_fresh:
        _set_variables(variables, setup)
    if setup.working_dir:
        os.chdir(setup.working_dir)
    if (
        path
        and not is_fresh
        and (setup.py_executable or not sys.modules.keys().isdisjoint(setup.brings))
    ):
        return _interpreter(setup), path
    if path:
        _set_search_path(setup)
        for name in setup.preload:
            attempt(f"preload={name!r}", partial(importlib.import_module, name))
        if setup.hook:
            hook = attempt("worker_process_setup_hook", partial(_function, setup.hook))
            name = getattr(hook, "__qualname__", repr(hook)).rpartition("<locals>.")[2]
            attempt(f"worker_process_setup_hook {name}", hook)
    return [], ""


def _follow_driver(job: JobEnvironment) -> None:
    """Be where the job's driver is, and find modules there, as far as this machine has the places.

    A worker of who has started the node is there from the start.
    """
    with contextlib.suppress(OSError):
        os.chdir(job.cwd)
    sys.path[:] = dict.fromkeys([*job.sys_path, *sys.path])
    importlib.invalidate_caches()


def attempt(part: str, run: Callable[[], T]) -> T:
    """Run what the user has given as a part of the environment. EntryError if it fails."""
    try:
        return run()
    except (Exception, SystemExit) as error:
        # Without the frame of this function.
        trace = error.__traceback__ and error.__traceback__.tb_next
        story = "".join(traceback.format_exception(type(error), error, trace))
        why = f"{type_name(error)}: {safe_str(error)}".partition("\n")[0]
        raise EntryError(f"{part} failed: {why}\n{story}") from error


def _set_variables(variables: dict[str, str], setup: WorkerSetup) -> None:
    given = {name: text for name, text in variables.items() if name not in (PLAIN, BUILT)}
    if setup.venv:
        os.environ["VIRTUAL_ENV"] = setup.venv
        os.environ["PATH"] = f"{setup.venv}/bin{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    before = dict(os.environ)
    for name, text in {**given, **setup.env_vars}.items():
        os.environ[name] = _expanded(text, before)


def _expanded(text: str, variables: dict[str, str]) -> str:
    """Put what was set before in place of `${NAME}`."""
    if "${" not in text:
        return text
    return re.sub(r"\$\{(\w+)\}", lambda match: variables.get(match[1], ""), text)


def _interpreter(setup: WorkerSetup) -> list[str]:
    if not setup.py_executable:
        return [f"{setup.venv}/bin/python" if setup.venv else sys.executable]
    words = shlex.split(setup.py_executable)
    # It may come with the working directory; the search of PATH is left to execvp.
    if (
        "/" not in words[0]
        and setup.working_dir
        and os.access(words[0], os.X_OK)
        and Path(words[0]).is_file()
    ):
        words[0] = f"./{words[0]}"
    return words


def _set_search_path(setup: WorkerSetup) -> None:
    own = [place for place in (setup.working_dir, *setup.module_dirs) if place]
    packages = _use_packages(setup) if setup.venv else []
    sys.path[:] = list(dict.fromkeys([*own, *packages, *sys.path]))
    importlib.invalidate_caches()
    if own:
        # Python that user code starts finds them too; packages it finds by PATH and sys.executable.
        above = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([*own, above] if above else own)


def _use_packages(setup: WorkerSetup) -> list[str]:
    """Take note of installed packages; return where they are, with what their .pth files name."""
    # Held until the process ends, so that nobody removes them meanwhile.
    fcntl.flock(
        os.open(f"{setup.venv}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), fcntl.LOCK_SH
    )
    if sys.prefix == setup.venv:
        return [setup.packages_dir]
    before, known = len(sys.path), set(sys.path)
    for name in sorted(os.listdir(setup.packages_dir)):  # noqa: PTH208 - names are enough
        # What the driver's own packages do at the start, the template has done.
        if name.endswith(".pth") and name != DRIVER_FILE:
            site.addpackage(setup.packages_dir, name, known)
    sys.executable = f"{setup.venv}/bin/python"
    sys.prefix = sys.exec_prefix = setup.venv
    return [setup.packages_dir, *sys.path[before:]]


def _function(hook: str) -> Callable[[], object]:
    if hook.startswith("/"):
        function: Callable[[], object] = pickle.loads(Path(hook).read_bytes())
        return function
    module, _, name = hook.rpartition(".")
    found: Callable[[], object] = getattr(importlib.import_module(module), name)
    return found


def top_level_modules(directory: str) -> set[str]:
    """Return the modules in a directory, without those named like the standard library's."""
    names = set()
    for entry in os.scandir(directory):
        name, dot, suffix = entry.name.partition(".")
        if name.isidentifier() and (
            entry.is_dir() and not dot if not suffix else suffix.endswith(("py", "so"))
        ):
            names.add(name)
    return names - sys.stdlib_module_names - {"weft", "__pycache__"}
