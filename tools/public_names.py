"""Fail when the public names of an installed package differ from the list in its tests.

    python tools/public_names.py [--write] [PACKAGE ...]        default: every packages/*

A package's list is packages/PACKAGE/tests/public_names.txt, one dotted name a line, sorted. A name
is public if no part of its path begins with an underscore; a module's names are those in its
`__all__`, else what it defines itself. Of a class, the members that Weft defines are listed too,
under the shortest path by which the class is public. `--write` writes the lists; a change of one is
reviewed.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from typing import TYPE_CHECKING

from cycles import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet
    from pathlib import Path
    from types import ModuleType

PROJECT = "weft"


def modules(root: ModuleType, libraries: AbstractSet[str]) -> Iterator[ModuleType]:
    """Yield a package and its public modules; of Weft itself, not those of the `libraries`."""
    yield root
    for found in pkgutil.iter_modules(root.__path__, f"{root.__name__}."):
        name = found.name.rpartition(".")[2]
        if name.startswith("_") or (root.__name__ == PROJECT and name in libraries):
            continue
        module = importlib.import_module(found.name)
        if found.ispkg:
            yield from modules(module, libraries)
        else:
            yield module


def module_names(module: ModuleType) -> list[str]:
    """Return the public names of one module."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return sorted(listed)
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and getattr(value, "__module__", None) == module.__name__
    )


def members(cls: type) -> set[str]:
    """Return the public attributes that a class has from Weft's own classes, fields included."""
    return {
        name
        for base in cls.__mro__
        if base.__module__.split(".")[0] == cls.__module__.split(".")[0]
        for name in {*vars(base), *vars(base).get("__annotations__", ())}
        if not name.startswith("_")
    }


def public_names(root: ModuleType, libraries: AbstractSet[str] = frozenset()) -> list[str]:
    """Return every public name of an imported package, sorted."""
    paths: dict[str, object] = {}
    for module in modules(root, libraries):
        if module is not root:
            paths[module.__name__] = module
        for name in module_names(module):
            paths[f"{module.__name__}.{name}"] = getattr(module, name)
    names = set(paths)
    seen: set[int] = set()
    for path in sorted(paths, key=lambda path: (path.count("."), path)):
        value = paths[path]
        if not inspect.isclass(value) or id(value) in seen:
            continue
        seen.add(id(value))
        if value.__module__.split(".")[0] == root.__name__.split(".")[0]:
            names |= {f"{path}.{member}" for member in members(value)}
    return sorted(names)


def packages() -> list[str]:
    """Return the names of the packages of this repository."""
    return sorted(path.parent.name for path in REPOSITORY.glob("packages/*/pyproject.toml"))


def roots(package: str) -> list[str]:
    """Return the names that a package adds to Weft: weft-tune adds `tune` and `air`."""
    source = REPOSITORY / "packages" / package / "src" / PROJECT
    return sorted(path.parent.name for path in source.glob("*/__init__.py"))


def list_of(package: str) -> Path:
    """Return the file that lists a package's names."""
    return REPOSITORY / "packages" / package / "tests" / "public_names.txt"


def compare(expected: list[str], found: list[str]) -> list[str]:
    """Return the differences: `-` and a name that is gone, `+` and one that is not listed."""
    gone = [f"- {name}" for name in expected if name not in set(found)]
    return gone + [f"+ {name}" for name in found if name not in set(expected)]


def main(arguments: list[str]) -> int:
    """Compare or write the lists; return 1 if one differs."""
    write = "--write" in arguments
    status = 0
    for package in [name for name in arguments if name != "--write"] or packages():
        libraries = {name for other in packages() if other != "core" for name in roots(other)}
        names = [PROJECT]
        if package != "core":
            names = [f"{PROJECT}.{name}" for name in roots(package)]
        found = sorted(
            {
                name
                for root in names
                for name in public_names(importlib.import_module(root), libraries)
            }
        )
        path = list_of(package)
        if write:
            path.write_text("".join(f"{name}\n" for name in found), encoding="utf-8")
        expected = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        differences = compare(expected, found)
        for difference in differences:
            print(difference)
        if differences:
            status = 1
            print(f"{path.relative_to(REPOSITORY)} differs: ./dev names --write, then review it")
        print(f"public names of weft-{package}: {len(found)}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
