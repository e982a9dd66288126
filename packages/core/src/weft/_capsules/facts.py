"""What of this process may have to do with a failure.

All of it is gathered after the failure, but for the states of random generators, which are gone by
then.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import sys
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from weft._capsules.records import Variables
from weft._capsules.secrets import is_secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from weft._capsules.secrets import Redaction

# What a shell keeps for itself.
_OF_THE_SHELL = frozenset({"_", "OLDPWD", "PWD", "SHLVL"})
_OURS = "WEFT_"
# What is longer is data.
VALUE_CHARACTERS = 8000

# ------------------------------------------------------------------ random numbers

_GENERATORS = {
    "random": ("getstate", "setstate"),
    "numpy.random": ("get_state", "set_state"),
    "torch": ("get_rng_state", "set_rng_state"),
}

RandomStates = dict[str, Any]
"""By module."""


def random_states() -> RandomStates:
    """Return the states of the global generators of the packages that are loaded. Never raises."""
    states = {"random": random.getstate()}
    for name, (get, _) in _GENERATORS.items():
        if name.partition(".")[0] in sys.modules and name not in states:
            # numpy loads its part when it is first used, and seeds its generator then.
            with contextlib.suppress(Exception):
                states[name] = getattr(import_module(name), get)()
    return states


def set_random_states(states: RandomStates) -> None:
    """Put the generators back into these states; their modules are imported."""
    for name, state in states.items():
        getattr(import_module(name), _GENERATORS[name][1])(state)


# ------------------------------------------------------------------ versions


class _Installed:
    """Where the distributions' versions were found last: listing the directories costs."""

    places: tuple[str, ...] = ()
    versions: Mapping[str, str] = MappingProxyType({})


def versions() -> dict[str, str]:
    """Return the versions of the imported packages that come from distributions, by module.

    A distribution is found by the name of its directory if that is the module's name too; else the
    module's own `__version__` counts.
    """
    places = tuple(sys.path)
    if places != _Installed.places:
        _Installed.versions = _installed(places)
        _Installed.places = places
    found = {}
    for name, module in list(sys.modules.items()):
        if "." in name or name in sys.stdlib_module_names or name.startswith("_"):
            continue
        version = _Installed.versions.get(name.lower()) or vars(module).get("__version__")
        if isinstance(version, str):
            found[name] = version
    return dict(sorted(found.items()))


def _installed(places: tuple[str, ...]) -> dict[str, str]:
    versions: dict[str, str] = {}
    for place in places:
        try:
            names = os.listdir(place)  # noqa: PTH208 - names are enough
        except OSError:
            continue
        for name in names:
            if name.endswith(".dist-info"):
                package, _, version = name.removesuffix(".dist-info").partition("-")
                versions.setdefault(package.lower().replace("-", "_"), version)
    return versions


# ------------------------------------------------------------------ variables


def variables(driver_pid: int, here: Mapping[str, str], redaction: Redaction) -> Variables:
    """Compare an environment with that in which the driver was started."""
    compared_with = "the driver's start"
    before = started_with(driver_pid)
    if before is None:
        compared_with = "this process's start"
        before = started_with(os.getpid()) or {}
    changed: dict[str, str] = {}
    redacted: list[str] = []
    same: dict[str, str] = {}
    for name, value in sorted(here.items()):
        if name in _OF_THE_SHELL or name.startswith(_OURS):
            continue
        if before.get(name) == value:
            same[name] = digest_of(name, value)
        elif is_secret(name) or len(value) > VALUE_CHARACTERS:
            redacted.append(name)
        else:
            changed[name] = redaction.text(value)
    return Variables(
        compared_with=compared_with,
        set=changed,
        unset=sorted(before.keys() - here.keys() - _OF_THE_SHELL),
        redacted=redacted,
        same=same,
    )


def digest_of(name: str, value: str) -> str:
    """Return what tells a variable's value from another; nothing for a secret."""
    if is_secret(name):
        return ""
    return hashlib.sha256(value.encode(errors="surrogateescape")).hexdigest()[:8]


def started_with(pid: int) -> dict[str, str] | None:
    """Return the variables with which a process was started; None if the system does not tell."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    pairs = (os.fsdecode(word).partition("=") for word in words if b"=" in word)
    return {name: value for name, _, value in pairs}


def command_of(pid: int) -> list[str]:
    """Return a process's command line; nothing if the system does not tell."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
    return [os.fsdecode(word) for word in words[:-1]]
