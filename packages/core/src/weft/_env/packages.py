"""Python packages from pip or uv, in virtual environments that are built once and kept.

An environment's key is made of its requirements, in any order, the interpreter and the places of
the driver's own packages. Those can be seen from it: what they satisfy is not installed again. One
builder at a time builds a key, for all sessions of the user; `complete` is written last, so a build
that was interrupted begins again.

Facts about virtual environments: scripts in `bin` name their interpreter by its path, so a finished
environment cannot be renamed; it is built where it stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import sys
import sysconfig
import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from weft._clock import monotonic
from weft._env.requirements import with_places
from weft._env.spec import DRIVER_FILE
from weft._lazy import lazy

if TYPE_CHECKING:
    import importlib.util as import_util
    import select
    import subprocess
    import venv
    from collections.abc import Callable, Iterator

    from weft._env.cache import EnvCache
else:
    import_util = lazy("importlib.util")
    select = lazy("select")
    subprocess = lazy("subprocess")
    venv = lazy("venv")

TAIL_LINES = 20
SHORT_CHARS = 100
_QUIET = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PYTHONUNBUFFERED": "1"}


class InstallError(Exception):
    """Why packages could not be installed: a line, then the end of the installer's output."""


class Installer:
    """Runs programs on behalf of a daemon: within a time, and not longer than that lives."""

    def __init__(self, limit_s: float | None, env_vars: dict[str, str]) -> None:
        """`limit_s`: for everything together; None: no limit."""
        self._limit_s = limit_s
        self._until = None if limit_s is None else monotonic() + limit_s
        self._daemon = os.pidfd_open(os.getppid())
        self._tail: deque[bytes] = deque(maxlen=TAIL_LINES)
        self._partial = b""
        inherited = {
            name: text
            for name, text in os.environ.items()
            if name not in ("PYTHONPATH", "PYTHONHOME")
        }
        self._env = {**inherited, **_QUIET, **env_vars}

    def run(self, what: str, command: list[str], cwd: str) -> None:
        """Run a program to its end. InstallError, which says that `what` failed."""
        self._tail.clear()
        self._partial = b""
        with subprocess.Popen(
            command, cwd=cwd, env=self._env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            assert process.stdout is not None  # noqa: S101 - for type checkers
            output = process.stdout.fileno()
            os.set_blocking(output, False)
            ended = os.pidfd_open(process.pid)
            watched = {output, ended}
            while ended not in (ready := self.wait(watched)):
                if output in ready and not self._read(output):
                    watched.discard(output)
            self._read(output)
            os.close(ended)
        if process.returncode:
            raise InstallError(self._reason(f"{what} failed with code {process.returncode}"))

    def _read(self, output: int) -> bool:
        """Take what there is; False: that was all."""
        while True:
            try:
                data = os.read(output, 65536)
            except BlockingIOError:
                return True
            if not data:
                return False
            *lines, self._partial = (self._partial + data).split(b"\n")
            self._tail.extend(lines)

    def _reason(self, words: str) -> str:
        text = b"\n".join([*self._tail, self._partial]).decode(errors="replace")
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        told = [line for line in lines if line.lower().startswith(("error", "fatal"))] or lines
        return "\n".join([f"{words}: {told[-1]}" if told else words, *lines])

    def wait(self, fds: set[int], limit_s: float = 60.0) -> set[int]:
        """Wait for descriptors; return the ready ones.

        Ends this process and all that it has started if time is up or the daemon is gone.
        """
        poller = select.poll()
        for fd in (self._daemon, *fds):
            poller.register(fd, select.POLLIN)
        if self._until is not None:
            limit_s = min(limit_s, max(0.0, self._until - monotonic()))
        ready = {fd for fd, _ in poller.poll(limit_s * 1000)}
        if self._daemon in ready:
            _end_all()
        if not ready and self._until is not None and monotonic() >= self._until:
            say(self._reason(f"it took longer than setup_timeout_seconds={self._limit_s:g} allows"))
            _end_all()
        return ready


def _end_all() -> NoReturn:
    """Kill this builder and all that it has started: they are one process group."""
    os.killpg(0, signal.SIGKILL)
    os._exit(1)


def say(text: str) -> None:
    """Write to the reason of a failure."""
    os.write(2, f"{text}\n".encode(errors="replace"))


def site_dirs() -> list[str]:
    """Return where this interpreter's packages are installed."""
    return [place for place in sys.path if Path(place).name in ("site-packages", "dist-packages")]


def key_of(tool: str, field: dict[str, Any]) -> str:
    """Return the name of the virtual environment that these requirements make."""
    facts = [
        tool,
        {**field, "packages": sorted(field["packages"])},
        sys.version,
        os.path.realpath(sys.executable),
        sys.executable,
        site_dirs(),
    ]
    return hashlib.sha256(msgspec.json.encode(facts, order="sorted")).hexdigest()[:32]


def packages_dir(place: str) -> str:
    """Return the site-packages of a virtual environment."""
    return sysconfig.get_path("purelib", "venv", {"base": place, "platbase": place})


def ensure_packages(
    cache: EnvCache,
    tool: str,
    field: dict[str, Any],
    installer: Installer,
    find_missing: Callable[[dict[str, str]], dict[str, str]],
) -> str:
    """Return a virtual environment with these packages; build it if need be. InstallError.

    `find_missing` returns places for local files, by path and digest, that are not on this machine.
    """
    place = f"{cache.root}/venvs/{key_of(tool, field)}"
    complete = Path(place, "complete")
    while not complete.exists():
        with _locked(f"{place}.lock", installer):
            if not complete.exists():
                cache.prune()
                places = find_missing(field.get("local", {}))
                lines = with_places(field["packages"], places)
                _build(place, tool, {**field, "packages": lines}, installer)
                complete.touch()
    os.utime(complete)
    return place


@contextlib.contextmanager
def _locked(path: str, installer: Installer) -> Iterator[None]:
    """Hold a lock between processes; wait for it as the installer does for what it has started."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _await_lock(fd, installer)
        yield
    finally:
        os.close(fd)


def _await_lock(fd: int, installer: Installer) -> None:
    # No descriptor tells when a lock is free: a thread waits for it.
    taken = os.eventfd(0)

    def take() -> None:
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.eventfd_write(taken, 1)

    taker = threading.Thread(target=take, daemon=True)
    taker.start()
    while taken not in installer.wait({taken}):
        pass
    taker.join()
    os.close(taken)


def _build(place: str, tool: str, field: dict[str, Any], installer: Installer) -> None:
    shutil.rmtree(place, ignore_errors=True)
    try:
        venv.EnvBuilder(symlinks=True, with_pip=False).create(place)
        _show_driver_packages(place)
        python = f"{place}/bin/python"
        requirements = Path(place, "requirements.txt")
        requirements.write_text("\n".join([*field["packages"], ""]), "utf-8")
        if tool == "uv":
            _install_with_uv(python, requirements, field, installer)
        else:
            _install_with_pip(python, requirements, field, installer)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _show_driver_packages(place: str) -> None:
    lines = [f"import site; site.addsitedir({directory!r})\n" for directory in site_dirs()]
    Path(packages_dir(place), DRIVER_FILE).write_text("".join(lines), "utf-8")


def _install_with_pip(
    python: str, requirements: Path, field: dict[str, Any], installer: Installer
) -> None:
    here = str(requirements.parent)
    version = field.get("pip_version")
    if version or import_util.find_spec("pip") is None:
        installer.run("ensurepip", [python, "-m", "ensurepip"], here)
    pip = [python, "-m", "pip"]
    if version:
        wanted = f"pip{version if version[:1] in '=<>~!' else f'=={version}'}"
        installer.run(f"pip install {wanted}", [*pip, "install", wanted], here)
    options = [*field.get("pip_install_options", []), "-r", str(requirements)]
    installer.run(f"pip install {_short(field)}", [*pip, "install", *options], here)
    if field["pip_check"]:
        installer.run("pip check", [*pip, "check"], here)


def _install_with_uv(
    python: str, requirements: Path, field: dict[str, Any], installer: Installer
) -> None:
    here = str(requirements.parent)
    options = [*field.get("uv_pip_install_options", []), "-r", str(requirements)]
    uv = ["uv", "pip"]
    installer.run(
        f"uv pip install {_short(field)}", [*uv, "install", "--python", python, *options], here
    )
    if field["uv_check"]:
        installer.run("uv pip check", [*uv, "check", "--python", python], here)


def _short(field: dict[str, Any]) -> str:
    words = " ".join(field["packages"])
    return words if len(words) <= SHORT_CHARS else f"{words[:SHORT_CHARS]}..."
