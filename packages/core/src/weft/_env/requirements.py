"""Requirements for pip and uv: what users may write, as lines.

A requirements file is read when it is given, with the files that it includes, so a change of it is
another environment. Lines that name local files or directories get absolute paths.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from weft._lazy import lazy

if TYPE_CHECKING:
    import shutil
else:
    shutil = lazy("shutil")

_INCLUDE: Final = re.compile(r"(?:-r|--requirement)(?:\s+|=)?(.+)")
_CONSTRAINT: Final = re.compile(r"(?:-c|--constraint)(?:\s+|=)?(.+)")
_EDITABLE: Final = re.compile(r"(?:-e|--editable)(?:\s+|=)?(.+)")
_DIRECT: Final = re.compile(r"[\w.-]+(?:\[[^\]]*\])?\s*@\s*file://(/.+)")
_SOURCES: Final = (".whl", ".zip", ".tar.gz", ".tar.bz2", ".tgz")


class RequirementsError(Exception):
    """What is wrong with requirements, as the end of a sentence."""


def pip_field(value: Any) -> dict[str, Any] | None:
    """Return what pip is to install: packages, pip_check, pip_version, pip_install_options."""
    return _field(value, "pip_check", "pip_version", "pip_install_options")


def uv_field(value: Any) -> dict[str, Any] | None:
    """Return what uv is to install: packages, uv_check, uv_pip_install_options."""
    field = _field(value, "uv_check", "uv_version", "uv_pip_install_options")
    if field is None:
        return None
    if "uv_version" in field:
        raise RequirementsError(
            "has uv_version, and this version of Weft uses the uv that is on PATH: leave it out"
        )
    if shutil.which("uv") is None:
        raise RequirementsError("needs the program uv on PATH: install it, or use pip")
    return field


def _field(value: Any, check: str, version: str, options: str) -> dict[str, Any] | None:
    given = dict(value) if isinstance(value, Mapping) else {"packages": value}
    field: dict[str, Any] = {"packages": _packages(given.pop("packages", None))}
    is_checked = given.pop(check, None) or False
    if not isinstance(is_checked, bool):
        raise RequirementsError(f"has {check}={is_checked!r}, which has to be True or False")
    field[check] = is_checked
    wanted = given.pop(version, None)
    if wanted is not None:
        if not isinstance(wanted, str):
            raise RequirementsError(
                f"has {version}={wanted!r}, which has to be a string like '==24.0'"
            )
        field[version] = wanted
    extra = given.pop(options, None)
    if extra is not None:
        if (
            isinstance(extra, str)
            or not isinstance(extra, Sequence)
            or not all(isinstance(item, str) for item in extra)
        ):
            raise RequirementsError(f"has {options}={extra!r}, which has to be a list of strings")
        field[options] = list(extra)
    given.pop("local", None)
    if given:
        raise RequirementsError(
            f"has {', '.join(map(repr, given))}; there are packages, {check}, {version}, {options}"
        )
    return field if field["packages"] else None


def _packages(value: Any) -> list[str]:
    if isinstance(value, str | PathLike):
        return list(_read(Path(fspath(value)).expanduser().absolute(), ()))
    if not isinstance(value, Sequence) or not all(isinstance(item, str) for item in value):
        raise RequirementsError(
            f"has to be a list of requirements or the path of a requirements file, not {value!r}"
        )
    here = Path.cwd()
    return [found for line in value for found in _lines(line.strip(), here, ())]


def _read(path: Path, above: tuple[Path, ...]) -> Iterator[str]:
    if path in above:
        raise RequirementsError(f"names {str(path)!r}, which includes itself")
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise RequirementsError(
            f"names the file {str(path)!r}, which cannot be read: {error.strerror}"
        ) from None
    for line in re.sub(r"\\\r?\n", "", text).splitlines():
        yield from _lines(re.sub(r"(^|\s+)#.*", "", line).strip(), path.parent, (*above, path))


def _lines(line: str, here: Path, above: tuple[Path, ...]) -> Iterator[str]:
    """Yield a line with what it includes, and with absolute paths."""
    if not line:
        return
    if match := _INCLUDE.fullmatch(line):
        yield from _read(here / match[1].strip(), above)
    elif match := _CONSTRAINT.fullmatch(line):
        yield f"-c {_absolute(match[1].strip(), here)}"
    elif match := _EDITABLE.fullmatch(line):
        # The directory may change while workers run: they get what it held when it was given.
        yield _absolute(match[1].strip(), here)
    elif line.startswith((".", "/", "~")) or (
        line.endswith(_SOURCES) and "/" in line and "://" not in line
    ):
        yield _absolute(line, here)
    else:
        yield line


def _absolute(path: str, here: Path) -> str:
    if "://" in path:
        return path
    bare, bracket, extras = path.partition("[")
    return os.path.normpath(here / Path(bare).expanduser()) + bracket + extras


def local_paths(lines: Sequence[str]) -> list[str]:
    """Return the local files and directories that requirements name."""
    found = []
    for line in lines:
        if line.startswith("-c "):
            path = line[3:]
        elif match := _DIRECT.fullmatch(line):
            path = match[1]
        else:
            path = line
        path = re.sub(r"\[[^\]/]*\]$", "", path)
        if path.startswith("/"):
            found.append(path)
    return found


def with_places(lines: Sequence[str], places: Mapping[str, str]) -> list[str]:
    """Return requirements with other places of local files, by path."""
    moved = []
    for line in lines:
        for path in local_paths([line]):
            line = line.replace(path, places.get(path, path))  # noqa: PLW2901 - one at most
        moved.append(line)
    return moved
