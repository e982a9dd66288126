"""The builder: makes what an environment names ready on this machine, and says so.

The daemon starts it (`_node/environments.py`) and goes on with its work. It writes one file for the
environment's workers into the session's directory and prints the variables that they start with, as
a JSON object, on stdout. If it fails, the last lines of its stderr are the reason, and its exit
code is not 0.

What this machine has not is fetched from other nodes, if there are any (`_runtime/builder.py`).
"""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from weft._env.activation import WorkerSetup, top_level_modules
from weft._env.cache import EnvCache, default_root
from weft._env.packages import Installer, InstallError, ensure_packages, packages_dir, say
from weft._env.sharing import FetchError, fetch_content, fetch_tree
from weft._env.spec import BUILT, CONTENT, SETUP_TIMEOUT_S, decode
from weft._env.trees import claim

if TYPE_CHECKING:
    from weft._env.sharing import ContentPart, Givers, PartWanted


class _Nobody:
    """The other nodes of a machine alone."""

    def holders(self, wanted: PartWanted) -> list[str]:
        """There are none."""
        return []

    def give(self, node: str, wanted: list[PartWanted]) -> list[ContentPart]:
        """Nobody is asked."""
        raise NotImplementedError


def main(env: str, session_dir: str, givers: Givers | None = None) -> int:
    """Build an environment; return the exit code. `givers`: the other nodes, if there are any."""
    try:
        setup = build(env, session_dir, givers or _Nobody())
    except (InstallError, FetchError) as error:
        say(str(error))
        return 1
    except Exception as error:  # noqa: BLE001 - the outermost frame of the process
        say(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
        return 1
    path = Path(session_dir, f"env-{os.getpid():x}.json")
    path.write_bytes(msgspec.json.encode(setup))
    os.write(1, msgspec.json.encode({BUILT: str(path)}))
    return 0


def build(env: str, session_dir: str, givers: Givers) -> WorkerSetup:
    """Make everything that an environment names; return what its workers must know."""
    fields = decode(env)
    cache = EnvCache(default_root())
    made = _Contents(cache, session_dir, givers)
    venv = _packages(cache, fields, made)
    working_dir = made.directory(fields.get("working_dir", ""))
    module_dirs = [made.directory(name) for name in fields.get("py_modules", ())]
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
        hook=made.hook(fields.get("worker_process_setup_hook", "")),
        py_executable=fields.get("py_executable", ""),
    )


class _Contents:
    """What names of contents stand for, made on this machine."""

    def __init__(self, cache: EnvCache, session_dir: str, givers: Givers) -> None:
        self._cache = cache
        self._session_dir = session_dir
        self._givers = givers

    def directory(self, name: str) -> str:
        """Return a directory with this content; empty for none. FetchError."""
        if not name:
            return ""
        digest = name.removeprefix(CONTENT)
        try:
            return claim(self._cache, digest, self._session_dir)
        except FileNotFoundError:
            fetch_tree(self._cache, digest, self._givers)
            return claim(self._cache, digest, self._session_dir)

    def hook(self, hook: str) -> str:
        """Return the file of a function that is a content; another one as it is. FetchError."""
        if not hook.startswith(CONTENT):
            return hook
        digest = hook.removeprefix(CONTENT)
        path = self._cache.file(bytes.fromhex(digest))
        if not Path(path).exists():
            fetch_content(self._cache, digest, self._givers)
        return path

    def local(self, digests: dict[str, str]) -> dict[str, str]:
        """Return where files are that requirements name and this machine has not. FetchError."""
        return {
            path: self._unpacked(path, digest)
            for path, digest in digests.items()
            if not Path(path).exists()
        }

    def _unpacked(self, path: str, digest: str) -> str:
        place = self.directory(digest)
        single = Path(place, Path(path).name)
        return str(single) if single.is_file() and len(os.listdir(place)) == 1 else place  # noqa: PTH208


def _packages(cache: EnvCache, fields: dict[str, Any], made: _Contents) -> str:
    for tool in ("pip", "uv"):
        if tool in fields:
            limit_s = fields.get("config", {}).get("setup_timeout_seconds", SETUP_TIMEOUT_S)
            installer = Installer(None if limit_s == -1 else limit_s, fields.get("env_vars", {}))
            return ensure_packages(cache, tool, fields[tool], installer, made.local)
    return ""
