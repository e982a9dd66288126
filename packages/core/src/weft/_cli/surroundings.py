"""What was round a failed task, against what is here; and how to be where it was."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import TYPE_CHECKING

from weft._capsules.facts import digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weft._capsules.records import Manifest


# Of a variable's value.
SHOWN_CHARACTERS = 60


def differences(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield what is other here than it was there: (a heading, what)."""
    others = [
        f"{name} {there} there, {here or 'missing'} here"
        for name, there in [("Python", manifest.python), *manifest.versions.items()]
        if (here := _version_here(name)) != there
    ]
    if others:
        yield "versions", "; ".join(others)
    if manifest.optimize != sys.flags.optimize:
        yield "options", f"-O {manifest.optimize} there, {sys.flags.optimize} here"
    if manifest.runtime_env:
        yield "runtime_env", f"not built here: {manifest.runtime_env}"
    variables = manifest.variables
    if variables.set:
        yield "set here", ", ".join(f"{name}={_cut(text)}" for name, text in variables.set.items())
    if variables.unset:
        yield "unset here", ", ".join(variables.unset)
    missing = [name for name in variables.redacted if name not in os.environ]
    if missing:
        yield "secrets", f"not in the capsule, and not set here: {', '.join(missing)}"
    changed = [
        name
        for name, digest in variables.same.items()
        if name not in os.environ or (digest and digest_of(name, os.environ[name]) != digest)
    ]
    if changed:
        yield "variables", f"of another value here, or none: {', '.join(changed)}"


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."


def _version_here(module: str) -> str | None:
    if module == "Python":
        return platform.python_version()
    known = sys.modules.get(module)
    try:
        return metadata.version(module)
    except metadata.PackageNotFoundError:
        if known is not None and hasattr(known, "__version__"):
            return str(known.__version__)
    names = metadata.packages_distributions().get(module)
    return metadata.version(names[0]) if names else None


def is_other_python(manifest: Manifest) -> bool:
    """Tell whether code that travelled as bytecode cannot be read here."""
    return manifest.python.split(".")[:2] != platform.python_version().split(".")[:2]


def enter(manifest: Manifest) -> str:
    """Put this process where the task was; return what could not be done, or nothing."""
    os.environ.update(manifest.variables.set)
    for name in manifest.variables.unset:
        os.environ.pop(name, None)
    if is_other_python(manifest):
        # Its standard library and packages are for another interpreter.
        places = [*sys.path, *(place for place in manifest.sys_path if "python" not in place)]
    else:
        places = [*manifest.sys_path, *sys.path]
    sys.path[:] = dict.fromkeys(place for place in places if os.path.exists(place))  # noqa: PTH110
    try:
        os.chdir(manifest.cwd)
    except OSError as error:
        return f"its directory {manifest.cwd} cannot be entered: {error.strerror}"
    return ""
