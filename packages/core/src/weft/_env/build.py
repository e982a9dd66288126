"""The builder: makes what an environment names ready on this machine, and says so.

The daemon starts it (`_node/environments.py`) and goes on with its work. It writes one file for the
environment's workers into the session's directory and prints the variables that they start with, as
a JSON object, on stdout. If it fails, the last lines of its stderr are the reason, and its exit
code is not 0.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from weft._env.activation import WorkerSetup, top_level_modules
from weft._env.cache import EnvCache, default_root
from weft._env.packages import Installer, InstallError, ensure_packages, packages_dir, say
from weft._env.spec import BUILT, CONTENT, SETUP_TIMEOUT_S, decode
from weft._env.trees import claim


def run(session_dir: str, name: str, out_fd: str, err_fd: str) -> NoReturn:
    """Build the environment that a file of the session says, as a process of its own."""
    for fd, target in ((int(out_fd), 1), (int(err_fd), 2)):
        os.dup2(fd, target)
        os.close(fd)
    path = Path(session_dir, name)
    env = path.read_text("utf-8")
    path.unlink()
    sys.exit(main(env, session_dir))


def main(env: str, session_dir: str) -> int:
    """Build an environment; return the exit code."""
    try:
        setup = build(env, session_dir)
    except InstallError as error:
        say(str(error))
        return 1
    except Exception as error:  # noqa: BLE001 - the outermost frame of the process
        say(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
        return 1
    path = Path(session_dir, f"env-{os.getpid():x}.json")
    path.write_bytes(msgspec.json.encode(setup))
    os.write(1, msgspec.json.encode({BUILT: str(path)}))
    return 0


def build(env: str, session_dir: str) -> WorkerSetup:
    """Make everything that an environment names; return what its workers must know."""
    fields = decode(env)
    cache = EnvCache(default_root())
    venv = _packages(cache, fields)
    working_dir = _directory(cache, fields.get("working_dir", ""), session_dir)
    module_dirs = [_directory(cache, name, session_dir) for name in fields.get("py_modules", ())]
    found = packages_dir(venv) if venv else ""
    places = [place for place in (working_dir, *module_dirs, found) if place]
    return WorkerSetup(
        env=env,
        cache_root=cache.root,
        env_vars=fields.get("env_vars", {}),
        working_dir=working_dir,
        module_dirs=tuple(module_dirs),
        venv=venv,
        packages_dir=found,
        brings=tuple(sorted(set().union(*map(top_level_modules, places)))),
        preload=tuple(fields.get("preload", ())),
        hook=_hook(cache, fields.get("worker_process_setup_hook", "")),
        py_executable=fields.get("py_executable", ""),
    )


def _packages(cache: EnvCache, fields: dict[str, Any]) -> str:
    for tool in ("pip", "uv"):
        if tool in fields:
            limit_s = fields.get("config", {}).get("setup_timeout_seconds", SETUP_TIMEOUT_S)
            installer = Installer(None if limit_s == -1 else limit_s, fields.get("env_vars", {}))
            return ensure_packages(cache, tool, fields[tool], installer)
    return ""


def _directory(cache: EnvCache, name: str, session_dir: str) -> str:
    return claim(cache, name.removeprefix(CONTENT), session_dir) if name else ""


def _hook(cache: EnvCache, hook: str) -> str:
    return (
        cache.file(bytes.fromhex(hook.removeprefix(CONTENT))) if hook.startswith(CONTENT) else hook
    )
